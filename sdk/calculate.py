"""Arithmetic on text that a model wrote: numbers, + - * / // % ** and parentheses, and nothing else.

    "(17 + 4) * 2"  ->  "42"          "2 ** 0.5"  ->  "1.4142135623730951"

The text is parsed, never run: a name, a call or an attribute is refused. Every number has at most MAX_BITS bits, which is checked before
it is computed, so that 9**9**9 is an error and not a machine that hangs.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from typing import Final

from llmos.syscalls.abi import InvalidArgument

MAX_EXPRESSION: Final = 1_000
"""Characters."""
MAX_DEPTH: Final = 100
"""Of operations within operations."""
MAX_BITS: Final = 4_096
"""Of a whole number."""

Number = int | float

_TWO: Final[dict[type[ast.operator], Callable[[Number, Number], Number]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


def calculate(expression: str) -> str:
    """What an expression comes to. Raises InvalidArgument, which says what may be written."""
    if len(expression) > MAX_EXPRESSION:
        raise InvalidArgument(f"an expression has at most {MAX_EXPRESSION} characters, not {len(expression)}")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise InvalidArgument("this is no arithmetic; write numbers, + - * / // % ** and parentheses") from None
    try:
        value = _value(tree.body, 0)
    except ZeroDivisionError:
        raise InvalidArgument("this divides by zero") from None
    except OverflowError:
        raise InvalidArgument("a number in this is too large") from None
    return str(value)


def _value(node: ast.expr, depth: int) -> Number:
    if depth > MAX_DEPTH:
        raise InvalidArgument(f"operations are nested at most {MAX_DEPTH} deep")
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return _bounded(node.value)  # type: ignore[arg-type]  # as was just seen
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _value(node.operand, depth + 1)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left, depth + 1), _value(node.right, depth + 1)
        if isinstance(node.op, ast.Pow):
            return _bounded(_power(left, right))
        if isinstance(node.op, ast.Div):
            exact = isinstance(left, int) and isinstance(right, int) and right != 0 and left % right == 0
            return _bounded(left // right if exact else left / right)
        if type(node.op) in _TWO:
            return _bounded(_TWO[type(node.op)](left, right))
    raise InvalidArgument("only numbers, + - * / // % ** and parentheses may be written")


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(base, int) and isinstance(exponent, int) and abs(base) > 1 and abs(exponent) * base.bit_length() > MAX_BITS:
        raise OverflowError
    value = base**exponent
    if isinstance(value, complex):
        raise InvalidArgument("the root of a negative number is no real number")
    return value


def _bounded(value: Number) -> Number:
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise OverflowError
    if isinstance(value, float) and not math.isfinite(value):
        raise OverflowError
    return value
