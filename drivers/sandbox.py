"""A Jinja sandbox with a budget: what a chat template that came with a model may do.

Owns the environment in which templates run. jinja2's sandbox keeps a template away from Python's internals, but lets it
loop and grow strings without end, and a template runs on the machine of whoever pulled the model. So, besides:

    time     every loop turn and macro call is counted; at each of them, and at every filter, test, comparison and
             call, the clock is looked at; no single operation takes longer than about a second
    memory   what a rendering makes, text or lists, is charged to one running total, whether it is kept or not; what
             would be long is refused before it is made
    reach    filters are those on a list, attributes those on a list for each type; numbers and functions have none
    compile  nothing is computed there: constants wait for the rendering, and its budget

A template that goes over its budget raises InvalidArgument, as one that calls raise_exception does. Knows nothing of chats,
tokens or models. Not covered: comparing lists that share parts of each other so often that a full walk would take years.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set as AbstractSet, ValuesView
from datetime import datetime
from itertools import islice
from typing import Any

from jinja2 import Template, pass_context, pass_environment
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import loopcontrols
from jinja2.filters import do_indent, do_int, do_round, do_trim, ignore_case, make_multi_attrgetter
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace, _PassArg

from llmos.kernel.errno import BadFormat, InvalidArgument

from .dialect import FILTERS, ChatNamespace, Generation, Meters, is_listed, raise_exception, strftime

MAX_SOURCE = 1 << 18
"""Characters of a template."""
MAX_TURNS = 200_000
"""Loop turns and macro calls of one rendering."""
MAX_MADE = 1 << 24
"""Characters that one rendering may make in all, output and everything on the way to it."""
MADE_OF_INPUT = 32
"""And as many more for each character that went in: templates trim, split and join what they are given."""
ENTRY = 8
"""Characters that an entry of a list counts for."""
MAX_SECONDS = 5.0
MAX_INTEGER_BITS = 1024
MAX_PRECISION = 64
MAX_ATTRIBUTE = 256
"""Characters of an attribute, such as map and sort take, which may be a path of many."""
MAX_SEARCH = 1 << 30
"""Characters of a text times those looked for in it, where Python's search takes that long."""

_MAKING = frozenset(["capitalize", "e", "escape", "forceescape", "lower", "safe", "title", "upper"])
_WALKING = frozenset(["map", "max", "min", "reject", "rejectattr", "select", "selectattr", "unique"])
_SLOW = frozenset(["lstrip", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "strip"])
_SPLITTING = frozenset(["rsplit", "split", "splitlines"])


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment. One rendering at a time: `render` takes a lock, since the budget is its state."""

    intercepted_binops = frozenset(["+", "*", "**", "%", "//", "/", "-"])

    def __init__(self, clock: Callable[[], float] = time.monotonic, now: Callable[[], datetime] = datetime.now) -> None:
        # A finalizer that wants the context cannot be called while a template is compiled: so output is never computed there.
        finalize = pass_context(lambda context, value: self.text(value))
        extensions = [Generation, loopcontrols]
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=extensions, finalize=finalize, optimized=False)
        self._clock = clock
        self._lock = threading.Lock()
        self._turns = MAX_TURNS
        self._deadline = math.inf
        self._left = MAX_MADE
        started = now()  # one moment for all renderings, so that a conversation keeps its beginning
        ours = {
            "dictsort": self._dictsort, "indent": self._indent, "int": self._int, "join": self._join, "list": self._entries,
            "replace": self._replace, "reverse": self._reverse, "round": self._round, "sort": self._sort, "string": self.text,
            "tojson": self._tojson, "trim": self._trim,
        }  # fmt: skip
        theirs = {name: self.filters[name] for name in FILTERS.split()}
        self.filters = {name: self._filter(name, function) for name, function in (theirs | ours).items()}
        self.tests = {name: self._test(function) for name, function in dict[str, Any](self.tests).items()}
        self.globals = {key: self.globals[key] for key in ("range", "cycler", "joiner")}
        self.globals |= {"raise_exception": raise_exception, "strftime_now": strftime(started)}
        self.globals |= {"dict": self._dict, "namespace": ChatNamespace}

    def compile_chat(self, source: str) -> Template:
        """Compile a template. Raises BadFormat if it is none, or too large, or uses what is not on the list."""
        if len(source) > MAX_SOURCE:
            raise BadFormat(f"the chat template has {len(source)} characters, more than {MAX_SOURCE}: it is not a chat template")
        try:
            tree = Meters().visit(self.parse(source)).set_environment(self)
            return self.template_class.from_code(self, self.compile(tree), self.make_globals(None))
        except TemplateError as error:
            raise BadFormat(f"the chat template is not one llmos can use: {_first_line(error)}") from None
        except (RecursionError, SyntaxError, MemoryError, OverflowError, ValueError):
            raise BadFormat("the chat template is nested too deeply; pull another form of this model") from None

    def render(self, template: Template, variables: Mapping[str, Any], length: int) -> str:
        """Render within the budget; `length` is how many characters went in. Raises InvalidArgument with the template's own words."""
        with self._lock:
            self._turns, self._deadline = MAX_TURNS, self._clock() + MAX_SECONDS
            self._left = MAX_MADE + MADE_OF_INPUT * length
            try:
                return template.render(variables)
            except SecurityError as error:
                raise InvalidArgument(
                    f"the chat template does what no chat template may: {_first_line(error)}; pull another form of this model"
                ) from None
            except TemplateError as error:
                raise InvalidArgument(f"the chat template refuses these messages: {_first_line(error)}") from None
            except (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
                raise InvalidArgument(f"the chat template fails on these messages: {_first_line(error)}") from None

    # --- the budget

    def tick(self, value: Any = "") -> Any:
        """One loop turn or macro call. Gives back what it is given."""
        self._turns -= 1
        if self._turns < 0:
            raise SecurityError(f"it loops more than {MAX_TURNS} times")
        return self.look(value)

    def look(self, value: Any = "") -> Any:
        """Look at the clock. Gives back what it is given."""
        if self._clock() > self._deadline:
            raise SecurityError(f"it runs longer than {MAX_SECONDS:g} s")
        return value

    def _allow(self, length: int) -> None:
        """Refuse what would be longer than what is left."""
        if length > self._left:
            raise SecurityError(f"it makes {length} characters more than are left to it ({self._left})")

    def _spend(self, length: int) -> None:
        self._allow(length)
        self._left -= length

    def made(self, value: Any) -> Any:
        """Charge a new text or list. Gives it back."""
        if isinstance(value, str | Sequence | Mapping | AbstractSet):
            self._spend(len(value) * (1 if isinstance(value, str) else ENTRY))
        return value

    def _filter(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        wanted = _PassArg.from_obj(function)

        @pass_context  # which also keeps it from being called while a template is compiled
        def metered(context: Context, *args: Any, **kwargs: Any) -> Any:
            self.look()
            if name in _WALKING:
                for argument in (*args[1:], *kwargs.values()):
                    _check_attribute(argument)
                args = (self._watched(args[0]) if args[0] else args[0], *args[1:])
            first = {_PassArg.context: (context,), _PassArg.environment: (self,)}.get(wanted, ()) if wanted else ()
            result = function(*first, *args, **kwargs)
            return self.made(result) if name in _MAKING else result

        return metered

    def _test(self, function: Callable[..., Any]) -> Callable[..., Any]:
        wanted = _PassArg.from_obj(function)

        @pass_environment
        def metered(environment: Sandbox, *args: Any) -> Any:
            return environment.look(function(environment, *args) if wanted is _PassArg.environment else function(*args))

        return metered

    def _watched(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            yield self.look(item)

    # --- what would grow without end

    def joined(self, *parts: Any) -> str:
        """The operator `~`."""
        return self.concat(self.text(part) for part in parts)

    def concat(self, parts: Iterable[str]) -> str:
        """Join pieces of output; jinja2 calls it for a whole rendering and for every block that is captured."""
        pieces = []
        for part in parts:
            self._spend(len(part))
            pieces.append(part)
        return "".join(pieces)

    def text(self, value: Any) -> str:
        """str(value), after measuring what is not text or a number: lists may hold one another many times."""
        if isinstance(value, str | int | float | Undefined | None):
            return str(value)
        self._allow(self._measure(value, 0))
        return str(self.made(str(value)))

    def _measure(self, value: Any, depth: int) -> int:
        if depth > 64:
            raise SecurityError("it nests lists too deeply")
        if isinstance(value, Namespace):
            raise SecurityError("it prints a namespace")
        if isinstance(value, Mapping):
            self.tick()
            return sum(self._measure(part, depth + 1) for pair in value.items() for part in pair)
        if isinstance(value, list | tuple | AbstractSet | ValuesView):
            self.tick()
            return sum(self._measure(part, depth + 1) for part in value)
        return len(value) if isinstance(value, str) else 8

    def sliced(self, value: Any, *bounds: int | None) -> Any:
        part = slice(*bounds)
        if isinstance(value, Sequence):
            count = len(range(*part.indices(len(value))))
            self._allow(count if isinstance(value, str) else ENTRY * count)
        return self.made(value[part])

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            for sized, factor in ((left, right), (right, left)):
                if isinstance(sized, str | list | tuple) and isinstance(factor, int):
                    self._allow(len(sized) * max(0, factor) * (1 if isinstance(sized, str) else ENTRY))
        elif operator == "%" and isinstance(left, str):
            raise SecurityError("it formats with %; `~` joins text")
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * max(1, right) if operator == "**" else left.bit_length() + right.bit_length()
            if bits > MAX_INTEGER_BITS:
                raise SecurityError("it computes an enormous number")
        return self.made(super().call_binop(context, operator, left, right))

    def wrap_str_format(self, value: Any) -> None:
        """None: str.format is an attribute like any other, and not on the list."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return is_listed(obj, attr) and super().is_safe_attribute(obj, attr, value)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        for name in ("_loop_vars", "_block_vars"):  # jinja2's way to tell functions where they are called; none here asks
            kwargs.pop(name, None)
        owner, name = getattr(obj, "__self__", None), getattr(obj, "__name__", "")
        if owner is self:  # a meter, or dict
            return obj(*args, **kwargs)
        self.look()
        if isinstance(owner, str):
            if name == "replace":
                return self._replace(owner, *args, **kwargs)
            if name == "join":
                return self._join(args[0], owner)
            self._check_search(owner, name, [part for part in (*args, *kwargs.values()) if isinstance(part, str)])
        result = super().call(context, obj, *args, **kwargs)
        return self.made(result) if isinstance(owner, str | Mapping | list | tuple) and name != "get" else result

    def _check_search(self, text: str, method: str, wanted: Sequence[str]) -> None:
        if method in _SLOW and any(len(text) * len(part) > MAX_SEARCH for part in wanted):
            raise SecurityError("it looks for a very long text")
        if method in _SPLITTING:
            pieces = text.count(wanted[0]) if wanted and wanted[0] else len(text)
            self._allow(len(text) + ENTRY * (pieces + 1))

    # --- filters

    def _entries(self, value: Iterable[Any]) -> list[Any]:
        """The filter `list`."""
        entries = list(islice(value, self._left // ENTRY + 1))
        return list(self.made(entries)) if entries else []

    def _reverse(self, value: Any) -> Any:
        return self.sliced(value, None, None, -1) if isinstance(value, str) else reversed(self._entries(value))

    def _key(self, value: Any, case_sensitive: bool) -> Any:
        """What to sort by: a copy of its own for every entry."""
        self.look()
        return self.made(value if case_sensitive else ignore_case(value)) if isinstance(value, str) else value

    def _sort(self, value: Iterable[Any], reverse: bool = False, case_sensitive: bool = False, attribute: Any = None) -> list[Any]:
        _check_attribute(attribute)
        parts = make_multi_attrgetter(self, attribute)
        return sorted(self._entries(value), key=lambda item: [self._key(part, case_sensitive) for part in parts(item)], reverse=reverse)

    def _dictsort(self, value: Mapping[Any, Any], case_sensitive: bool = False, by: str = "key", reverse: bool = False) -> list[Any]:
        place = ("key", "value").index(by)
        return sorted(self._entries(value.items()), key=lambda pair: self._key(pair[place], case_sensitive), reverse=reverse)

    def _replace(self, s: str, old: str, new: str, count: int | None = -1) -> str:
        s, old, new = self.text(s), self.text(old), self.text(new)
        found = s.count(old)
        self._allow(len(s) + (found if count is None or count < 0 else min(found, count)) * len(new))
        return str(self.made(s.replace(old, new, -1 if count is None else count)))

    def _join(self, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
        parts = []
        for item in value:
            self.tick()
            parts += [self.text(d), self.text(item if attribute is None else self.getitem(item, attribute))]
        return self.concat(parts[1:])

    def _indent(self, s: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
        s = self.text(s)
        self._allow(len(s) + (s.count("\n") + 1) * (len(width) if isinstance(width, str) else max(0, width)))
        return str(self.made(do_indent(s, width, first, blank)))

    def _trim(self, value: Any, chars: str | None = None) -> Any:
        value = value if isinstance(value, str) else self.text(value)
        self._check_search(value, "strip", [chars] if chars else [])
        return self.made(do_trim(value, chars))

    def _round(self, value: float, precision: int = 0, method: Any = "common") -> float:
        if abs(precision) > MAX_PRECISION:
            raise SecurityError(f"it rounds to {precision} digits")
        return do_round(value, precision, method)

    def _int(self, value: Any, default: Any = 0, base: int = 10) -> Any:
        found: Any = do_int(value, default, base)
        if isinstance(found, int) and found.bit_length() > MAX_INTEGER_BITS:
            raise SecurityError("it reads an enormous number")
        return found

    def _tojson(
        self, x: Any, ensure_ascii: bool = False, indent: int | str | None = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        """JSON as templates expect it: readable characters, no HTML escapes."""
        if (len(indent) if isinstance(indent, str) else indent or 0) > 16:
            raise SecurityError("it indents JSON by more than 16")
        self._measure(x, 0)
        encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
        return self.concat(encoder.iterencode(x))

    def _dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.made(dict(*args, **kwargs))


def _check_attribute(name: object) -> None:
    if isinstance(name, str) and len(name) > MAX_ATTRIBUTE:
        raise SecurityError("it names a very long attribute")


def _first_line(error: Exception) -> str:
    """For a person's terminal: a template's words must not speak to it."""
    line = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return "".join(character if character.isprintable() else "\ufffd" for character in line)
