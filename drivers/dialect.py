"""The dialect of chat templates: what jinja2's language has for them besides its own, and what it has no longer.

Owns the names that a template may use (filters, attributes by type), the functions and the tag that chat templates expect, and
`Meters`, which puts calls of a sandbox's budget into a parsed template. Renders nothing, keeps no budget.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import LoopContext
from jinja2.utils import Cycler, Namespace
from jinja2.visitor import NodeTransformer

FILTERS = """abs attr capitalize count d default e escape first float forceescape items last length lower map max min reject
    rejectattr safe select selectattr title unique upper"""
"""jinja2's filters as they are. The sandbox has more, of its own."""
_METHODS = """capitalize count endswith find index isalnum isalpha isascii isdigit islower isnumeric isspace isupper join lower lstrip
    partition removeprefix removesuffix replace rfind rindex rpartition rsplit rstrip split splitlines startswith strip swapcase
    title upper"""
_ATTRIBUTES: dict[type, str] = {
    str: _METHODS,
    Mapping: "copy get items keys values",
    list: "copy count index",
    tuple: "count index",
    LoopContext: "changed cycle depth depth0 first index index0 last length nextitem previtem revindex revindex0",
    Cycler: "current next reset",
}
_LISTED = {kind: frozenset(names.split()) for kind, names in _ATTRIBUTES.items()}


def is_listed(obj: object, attribute: str) -> bool:
    """Whether a template may use an attribute of such an object. Numbers, bytes and functions have none."""
    return isinstance(obj, Namespace) or any(attribute in names for kind, names in _LISTED.items() if isinstance(obj, kind))


class Meters(NodeTransformer):
    """Puts calls of the budget's methods into a template. jinja2 has hooks for filters, calls and operators, but not for these."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802  # the name jinja2 calls, here and below
        self._count(node)
        if node.test is not None:  # it runs for entries that the body never sees
            node.test = _call("tick", [node.test])
        return node

    def _count(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_call("tick"), lineno=node.lineno))
        return node  # type: ignore[no-any-return]

    visit_Macro = visit_CallBlock = _count  # noqa: N815

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _call("joined", node.nodes)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _call("look", [node])

    def _literal(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        return node if getattr(node, "ctx", "load") != "load" else _call("made", [node])

    visit_List = visit_Dict = visit_Tuple = _literal  # noqa: N815

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        return _call("sliced", [node.node, *(bound or nodes.Const(None) for bound in (node.arg.start, node.arg.stop, node.arg.step))])


def _call(method: str, arguments: list[Any] | None = None) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(method), arguments or [], [], None, None)


def raise_exception(message: object) -> NoReturn:
    raise TemplateError(str(message))


def strftime(moment: datetime) -> Callable[[str], str]:
    def strftime_now(form: str) -> str:
        if len(form) > 100 or not re.fullmatch(r"(?:%[A-Za-z%]|[^%])*", form):
            raise SecurityError("it asks for a date in an unusual form")
        return moment.strftime(form)

    return strftime_now


class ChatNamespace(Namespace):
    """jinja2's, without names that begin with an underscore: they could reach Python's internals."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, rest = args[0], args[1:]
        values = dict(*rest, **kwargs)
        for name in values:
            ChatNamespace._check(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        ChatNamespace._check(name)
        super().__setitem__(name, value)

    @staticmethod
    def _check(name: object) -> None:
        if not isinstance(name, str) or name.startswith("_"):
            raise SecurityError("it stores under a name that begins with an underscore")


class Generation(Extension):
    """{% generation %} marks the assistant's words for training; here it is only read over."""

    tags = {"generation"}  # noqa: RUF012  # the type jinja2 declares

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))
