"""A Jinja sandbox with a budget: what a chat template that came with a model may do.

Owns the environment in which templates run. jinja2's sandbox keeps a template away from Python's internals, but lets it
loop and grow strings without end, and a template runs on the machine of whoever pulled the model. So, besides: every loop
turn and macro call is counted and the clock looked at; every operation that makes text or lists longer is checked
before it is done; filters and string methods are those on a list. A template that goes over its budget
raises InvalidArgument, as one that calls raise_exception does. Knows nothing of chats, tokens or models.

Not covered: comparing lists that share parts of each other so often that a full walk would take years.
"""

from __future__ import annotations

import json
import math
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import Template, nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import do_indent
from jinja2.parser import Parser
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from llmos.kernel.errno import BadFormat, InvalidArgument

MAX_SOURCE = 1 << 18
"""Characters of a template."""
MAX_TURNS = 200_000
"""Loop turns and macro calls of one rendering."""
MAX_TEXT = 1 << 24
"""Characters in any text that a rendering makes, besides four times what went in."""
MAX_SECONDS = 5.0
MAX_INTEGER_BITS = 1024

_FILTERS = """abs attr capitalize count d default dictsort e escape first float forceescape indent int items join last length list lower
    map max min reject rejectattr replace reverse round safe select selectattr sort string title tojson trim unique upper wordcount"""
_METHODS = """capitalize count endswith find index isalnum isalpha isascii isdigit islower isnumeric isspace isupper join lower lstrip
    partition removeprefix removesuffix replace rfind rindex rpartition rsplit rstrip split splitlines startswith strip swapcase
    title upper"""


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment. One rendering at a time: `render` takes a lock, since the budget is its state."""

    intercepted_binops = frozenset(["+", "*", "**", "%", "//", "/", "-"])

    def __init__(self, clock: Callable[[], float] = time.monotonic, now: Callable[[], datetime] = datetime.now) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols], finalize=self.text)
        self._clock = clock
        self._lock = threading.Lock()
        self._methods = frozenset(_METHODS.split())
        self._turns = 0
        self._deadline = math.inf
        self._most = MAX_TEXT
        started = now()  # one moment for all renderings, so that a conversation keeps its beginning
        self.filters = {name: function for name, function in self.filters.items() if name in _FILTERS.split()}
        self.filters |= {"tojson": self._tojson, "join": self._join, "replace": self._replace, "string": self.text, "indent": self._indent}
        self.globals = {key: self.globals[key] for key in ("range", "cycler", "joiner")}
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime(started), "dict": _dict, "namespace": _Namespace}

    def compile_chat(self, source: str) -> Template:
        """Compile a template. Raises BadFormat if it is none, or too large, or uses what is not on the list."""
        if len(source) > MAX_SOURCE:
            raise BadFormat(f"the chat template has {len(source)} characters, more than {MAX_SOURCE}: it is not a chat template")
        try:
            tree = self.parse(source)
            self._count_turns(tree)
            return self.template_class.from_code(self, self.compile(tree), self.make_globals(None))
        except TemplateError as error:
            raise BadFormat(f"the chat template is not one llmos can use: {_first_line(error)}") from None
        except (RecursionError, SyntaxError, MemoryError, OverflowError, ValueError):
            raise BadFormat("the chat template is nested too deeply; pull another form of this model") from None

    def render(self, template: Template, variables: Mapping[str, Any], length: int) -> str:
        """Render within the budget; `length` is how many characters went in. Raises InvalidArgument with the template's own words."""
        with self._lock:
            self._turns, self._deadline, self._most = MAX_TURNS, self._clock() + MAX_SECONDS, MAX_TEXT + 4 * length
            try:
                return template.render(variables)
            except SecurityError as error:
                raise InvalidArgument(
                    f"the chat template does what no chat template may: {_first_line(error)}; pull another form of this model"
                ) from None
            except TemplateError as error:
                raise InvalidArgument(f"the chat template refuses these messages: {_first_line(error)}") from None
            except (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError) as error:
                raise InvalidArgument(f"the chat template fails on these messages: {_first_line(error)}") from None

    # --- the budget

    def tick(self) -> str:
        """One loop turn or macro call."""
        self._turns -= 1
        if self._turns < 0:
            raise SecurityError(f"it loops more than {MAX_TURNS} times")
        if self._clock() > self._deadline:
            raise SecurityError(f"it runs longer than {MAX_SECONDS:g} s")
        return ""

    def _allow(self, length: int) -> None:
        if length > self._most:
            raise SecurityError(f"it makes a text or list of {length} entries, more than {self._most}")

    def _count_turns(self, node: nodes.Node) -> None:
        """Put a tick into every loop and macro, and give `~` a limit."""
        for child in node.iter_child_nodes():
            self._count_turns(child)
        if isinstance(node, nodes.For | nodes.Macro | nodes.CallBlock):
            node.body.insert(0, nodes.ExprStmt(_call("tick"), lineno=node.lineno).set_environment(self))
        for field, value in node.iter_fields():
            if isinstance(value, nodes.Concat):
                setattr(node, field, _call("joined", value.nodes).set_environment(self))
            elif isinstance(value, list):
                value[:] = [_call("joined", item.nodes).set_environment(self) if isinstance(item, nodes.Concat) else item for item in value]

    def joined(self, *parts: Any) -> str:
        return self.concat(self.text(part) for part in parts)

    def concat(self, parts: Iterable[str]) -> str:
        """Join pieces of output; jinja2 calls it for a whole rendering and for every block that is captured."""
        pieces, length = [], 0
        for part in parts:
            length += len(part)
            self._allow(length)
            pieces.append(part)
        return "".join(pieces)

    def text(self, value: Any) -> str:
        """str(value), after measuring what is not text or a number: lists may hold one another many times."""
        if not isinstance(value, str | int | float | Undefined | None):
            self._allow(self._measure(value, 0))
        return str(value)

    def _measure(self, value: Any, depth: int) -> int:
        if depth > 64:
            raise SecurityError("it nests lists too deeply")
        if isinstance(value, Mapping):
            self.tick()
            return sum(self._measure(part, depth + 1) for pair in value.items() for part in pair)
        if isinstance(value, list | tuple | set | frozenset):
            self.tick()
            return sum(self._measure(part, depth + 1) for part in value)
        return len(value) if isinstance(value, str) else 8

    # --- what would grow without end

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "+" and isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
            self._allow(len(left) + len(right))
        elif operator == "*":
            for sized, factor in ((left, right), (right, left)):
                if isinstance(sized, str | list | tuple):
                    self._allow(len(sized) * max(0, factor if isinstance(factor, int) else 0))
        elif operator == "%" and isinstance(left, str):
            raise SecurityError("it formats with %; `~` joins text")
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * max(1, right) if operator == "**" else left.bit_length() + right.bit_length()
            if bits > MAX_INTEGER_BITS:
                raise SecurityError("it computes an enormous number")
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> None:
        """None: str.format is an attribute like any other, and not on the list."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str) and attr not in self._methods:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        text = getattr(obj, "__self__", None)
        if isinstance(text, str):
            name = getattr(obj, "__name__", "")
            if name == "replace":
                return self._replace(text, *args, **kwargs)
            if name == "join":
                return self._join(args[0], text)
        return super().call(context, obj, *args, **kwargs)

    def _replace(self, s: str, old: str, new: str, count: int = -1) -> str:
        s, old, new = self.text(s), self.text(old), self.text(new)
        found = s.count(old)
        self._allow(len(s) + (found if count is None or count < 0 else min(found, count)) * len(new))
        return s.replace(old, new, -1 if count is None else count)

    def _join(self, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
        parts = []
        for item in value:
            self.tick()
            parts += [self.text(d), self.text(item if attribute is None else self.getitem(item, attribute))]
        return self.concat(parts[1:])

    def _indent(self, s: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
        s = self.text(s)
        self._allow(len(s) + (s.count("\n") + 1) * (len(width) if isinstance(width, str) else max(0, width)))
        return do_indent(s, width, first, blank)

    def _tojson(
        self, x: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        """JSON as templates expect it: readable characters, no HTML escapes."""
        if isinstance(indent, int) and indent > 16:
            raise SecurityError("it indents JSON by more than 16")
        self._measure(x, 0)
        encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
        return self.concat(encoder.iterencode(x))


def _call(method: str, arguments: list[nodes.Expr] | None = None) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(method), arguments or [], [], None, None)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _raise_exception(message: object) -> NoReturn:
    raise TemplateError(str(message))


def _strftime(moment: datetime) -> Callable[[str], str]:
    def strftime_now(form: str) -> str:
        if len(form) > 100 or not re.fullmatch(r"(?:%[A-Za-z%]|[^%])*", form):
            raise SecurityError("it asks for a date in an unusual form")
        return moment.strftime(form)

    return strftime_now


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


class _Namespace(Namespace):
    """jinja2's, without names that begin with an underscore: they could reach Python's internals."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, rest = args[0], args[1:]
        values = dict(*rest, **kwargs)
        for name in values:
            _Namespace._check(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _Namespace._check(name)
        super().__setitem__(name, value)

    @staticmethod
    def _check(name: object) -> None:
        if not isinstance(name, str) or name.startswith("_"):
            raise SecurityError("it stores under a name that begins with an underscore")


class _Generation(Extension):
    """{% generation %} marks the assistant's words for training; here it is only read over."""

    tags = {"generation"}  # noqa: RUF012  # the type jinja2 declares

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))
