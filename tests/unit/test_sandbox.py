"""The sandbox of chat templates: what they use works, and none takes more time, memory or reach than it may."""

from __future__ import annotations

import itertools
import time
from datetime import datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from llmos.drivers import sandbox
from llmos.drivers.sandbox import Sandbox
from llmos.kernel.errno import BadFormat, Fault, InvalidArgument


def fast() -> float:
    """A clock that runs five times as fast, so that what takes too long takes a second here."""
    return time.monotonic() * 5


def render(source: str, clock: Any = fast, **variables: Any) -> str:
    box = Sandbox(clock, lambda: datetime(2024, 5, 6))
    return box.render(box.compile_chat(source), variables, 0)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{% for x in y %}{{ x }}{% if loop.last %}.{% endif %}{% endfor %}", "12."),
        ("{% for x in y %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% break %}{% endfor %}", "2"),
        ("{% generation %}a{{ y|length }}{% endgeneration %}b", "a2b"),
        ("{{ {'a': 'é<b>', 'n': none, 't': true}|tojson }}", '{"a": "é<b>", "n": null, "t": true}'),
        ("{{ [1, 2]|tojson(indent=2) }}", "[\n  1,\n  2\n]"),
        ("{% set ns = namespace(x='') %}{% for i in range(3) %}{% set ns.x = ns.x ~ i %}{% endfor %}{{ ns.x }}", "012"),
        ("{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f(1) ~ f('a') }}", "<1><a>"),
        ("{{ 'a-b'.split('-')|join('+') }}{{ ','.join(['x', 'y']) }}{{ 'aXa'.replace('a', 'bb', 1) }}{{ 'abc'[::-1] }}", "a+bx,ybbXacba"),
        ("{{ strftime_now('%d %b %Y') }}", "06 May 2024"),
        ("{{ none }}{{ missing }}{{ 3 // 2 + 2 ** 3 - 1 }}{{ 'ab' * 2 }}{{ [1] + [2] }}", "None8abab[1, 2]"),
        ("{{ dict(a=1)['a'] }}{{ 'a\nb'|indent(2) }}{{ ' x '|trim|upper }}", "1a\n  bX"),
        ("{%- if y is defined and y is iterable and 'a' is string %}\n  yes\n{%- endif %}", "  yes"),
        ("{% for x in ['a-b', 'cc'] %}{{ x.replace('c', 'd') }}{{ x.split('-')[-1] }}{% endfor %}", "a-bbddcc"),
        ("{% for x in y if x != 1 %}{{ loop.index0 }}{{ loop.last }}{{ x }}{% endfor %}{{ 'abcd'[1:-1] }}{{ y[::-1] }}", "0True2bc[2, 1]"),
        ("{% set d = {'b': 1, 'a': [2]} %}{{ d|dictsort }}{{ d.items()|first }}{{ d.get('c', 3) }}", "[('a', [2]), ('b', 1)]('b', 1)3"),
        ("{{ ['b', 'A']|sort|join }}{{ ['b', 'A']|sort(true, true)|first }}{{ 'ab'|reverse }}{{ y|reverse|list }}", "Abbba[2, 1]"),
        ("{{ '7'|int + 1 }}{{ 2.345|round(2) }}{{ 'xax'|trim('x') }}{{ (' <b> '|e|trim) ~ ('<'|safe) }}", "82.35a&lt;b&gt;<"),
        ("{{ none|map('upper')|list }}{{ nothing|selectattr('x')|list }}{{ ['a', none, 'A']|select|unique|list }}", "[][]['a']"),
        ("{{ y|map('string')|list }}{{ [{'r': 1}]|selectattr('r', 'equalto', 1)|list|length }}", "['1', '2']1"),
    ],
)
def test_what_templates_use_works(source: str, expected: str) -> None:
    assert render(source, y=[1, 2]) == expected


def growing(step: str, after: str = "", start: str = "'aa'") -> str:
    return "{% set ns = namespace(x=" + start + ") %}{% for i in range(60) %}" + step + "{% endfor %}" + after


NESTED = ("{% set ns.x = [ns.x, ns.x] %}", "[1]")
HOSTILE = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "loops without a body": "{% for a in range(1000) %}{% for b in range(99999) if false %}{% endfor %}"
    "{% for b in range(999) %}{% endfor %}{% endfor %}",
    "a huge range": "{% for a in range(10 ** 9) %}{% endfor %}",
    "text * number": "{{ 'a' * 10 ** 10 }}",
    "number * text": "{{ 10 ** 10 * 'a' }}",
    "list * number": "{{ ([1] * 10 ** 10)|length }}",
    "power": "{{ 10 ** (10 ** 5) }}",
    "huge factors": growing("{% set ns.x = ns.x * ns.x %}", "{{ ns.x }}", "7"),
    "doubling by ~": growing("{% set ns.x = ns.x ~ ns.x %}"),
    "doubling by +": growing("{% set ns.x = ns.x + ns.x %}"),
    "doubling lists": growing("{% set ns.x = ns.x + ns.x %}", "", "[1]"),
    "doubling by join": growing("{% set ns.x = [ns.x, ns.x]|join %}"),
    "doubling by str.join": growing("{% set ns.x = 'x'.join([ns.x, ns.x]) %}"),
    "doubling by set": growing("{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}"),
    "doubling by replace": growing("{% set ns.x = ns.x|replace('a', 'aa') %}"),
    "doubling by str.replace": growing("{% set ns.x = ns.x.replace('a', 'aa') %}"),
    "nested lists printed": growing(NESTED[0], "{{ ns.x }}", NESTED[1]),
    "nested lists to JSON": growing(NESTED[0], "{{ ns.x|tojson }}", NESTED[1]),
    "nested lists to text": growing(NESTED[0], "{{ ns.x|string }}", NESTED[1]),
    "much output": "{% for i in range(99999) %}{{ 'aaaaaaaaaaaaaaaa' * 16 }}{% endfor %}",
    "indent": "{{ 'a'|indent(10 ** 10, first=true) }}",
    "indent JSON": "{{ [1]|tojson(indent=10 ** 9) }}",
    "padding": "{{ 'a'.ljust(10 ** 10) }}",
    "zfill": "{{ 'a'.zfill(10 ** 10) }}",
    "tabs": "{{ '\t'.expandtabs(10 ** 10) }}",
    "format method": "{{ '{:>9999999999}'.format(1) }}",
    "format_map": "{{ '{a}'.format_map({'a': 1}) }}",
    "format operator": "{{ '%9999999999d' % 1 }}",
    "dates": "{{ strftime_now('%0999999999d') }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "wide recursion": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "bytes of a number": "{{ (1).to_bytes(1073741824, 'big')|length }}",
    "attributes of numbers": "{{ 1.5.as_integer_ratio() }}{{ (1).real }}",
    "rounding while compiled": "{{ 1|round(8000000, 'ceil') }}",
    "rounding": "{{ messages|length|round(-8000000) }}",
    "long numbers": "{{ ('f' * 1000000)|int(0, 16) }}",
    "title, again and again": "{% set s = 'abcdefgh' * 2000000 %}" + "{% set x = s|title %}" * 40,
    "slices kept": "{% set s = 'a' * 1000000 %}" + "".join(f"{{% set v{n} = s[{n}:] %}}" for n in range(40)),
    "lists of characters kept": "{% set s = 'a' * 1000000 %}" + "".join(f"{{% set v{n} = s|list %}}" for n in range(12)),
    "lists of pieces": "{{ ('a ' * 5000000).split(' ')|length }}",
    "lists of words": "{{ ('a ' * 5000000).split()|length }}",
    "lists of lines": "{{ ('a\n' * 5000000).splitlines()|length }}",
    "escapes kept": "{% set s = '<' * 1000000 %}" + "".join(f"{{% set v{n} = s|e %}}" for n in range(12)),
    "literals kept": "{% set ns = namespace(x=[]) %}{% for a in range(99999) %}{% set ns.x = [ns.x, " + "1," * 9999 + "] %}{% endfor %}",
    "keys to sort by": "{% set s = 'a' * 1000000 %}{{ ([s] * 1000)|sort|length }}",
    "a long attribute": "{{ (['0'] * 100000)|map(attribute='" + "0." * 10000 + "0')|list|length }}",
    "looking backwards for a long text": "{% set s = 'a' * 4000000 %}{{ s.rfind('ab' ~ s[9:]) }}",
    "trimming by a long text": "{% set s = 'a' * 4000000 %}{{ (s ~ 'b').strip('b' * 3000000 ~ 'a') }}",
    "printing a namespace": "{% set ns = namespace(x=1) %}{{ ns }}",
    "printing views of nested lists": growing(NESTED[0], "{{ {'a': ns.x}.values() }}", NESTED[1]),
    "indent JSON by a text": "{{ [[1] * 9]|tojson(indent='a' * 999999) }}",
    "dunder": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "dunder by filter": "{{ ((''|attr('__class__'))|attr('__mro__'))[1] }}",
    "globals of a function": "{{ raise_exception.__globals__['os'].system('true') }}",
    "globals of a class": "{{ cycler.__init__.__globals__.os }}",
    "environment": "{{ self.__init__ }}{{ self._TemplateReference__context.environment.globals.x }}",
    "namespace dunder": "{% set ns = namespace(__class__=1) %}",
    "namespace dunder later": "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    "mutation": "{{ messages.append(1) }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% from '/etc/passwd' import x %}",
    "extends": "{% extends '/etc/passwd' %}",
    "division": "{{ 1 // 0 }}",
    "undefined": "{{ a.b.c }}",
    "types": "{{ 'a' + 1 }}",
    "not callable": "{{ 'a'() }}",
    "unknown filter": "{{ 'a'|center(10) }}",
    "unknown test": "{{ 'a' is nonsense }}",
    "unknown tag": "{% system %}",
    "half a tag": "{% for x in",
    "deep parentheses": "{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}",
    "deep blocks": "{% if 1 %}" * 500 + "{% endif %}" * 500,
    "deep loops": "{% for a in [1] %}" * 60 + "{% endfor %}" * 60,
    "long": "a" * (sandbox.MAX_SOURCE + 1),
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_hostile_templates_end_soon_in_a_fault(attack: str) -> None:
    began = time.process_time()
    try:
        text = render(HOSTILE[attack], messages=[])
    except (InvalidArgument, BadFormat) as fault:
        words = str(fault)
    else:
        pytest.fail(f"{attack} rendered: {text[:100]}")
    assert len(words) < 400
    assert time.process_time() - began < 15


def test_a_template_that_takes_too_long() -> None:
    ticks = iter(range(10_000))
    with pytest.raises(InvalidArgument, match="longer than"):
        render("{% for a in range(99) %}{% endfor %}", lambda: next(ticks))


def test_what_does_not_loop_is_timed_too() -> None:
    ticks = iter(range(10_000))
    for step in ("{% set x = 'a'|upper %}", "{% set x = 'a'.upper() %}", "{% set x = 'a' == 'b' %}", "{% set x = 'a' is lower %}"):
        with pytest.raises(InvalidArgument, match="longer than"):
            render(step * 99, lambda: next(ticks))


def test_nothing_is_computed_while_a_template_is_compiled() -> None:
    box = Sandbox(lambda: pytest.fail("a filter was called"))
    box.compile_chat("{{ 1|round(2) }}{{ 'a'|upper }}{% set x = 'a'|upper %}{% autoescape 'a'|upper %}{% endautoescape %}")


def test_what_is_made_is_summed_and_grows_with_what_goes_in() -> None:
    box = Sandbox(fast)
    made = box.compile_chat("{% set x = 'a' * n %}{% set x = 'a' * n %}{{ x|length }}")
    half = sandbox.MAX_MADE // 2 - 20
    assert box.render(made, {"n": half}, 0) == str(half)
    with pytest.raises(InvalidArgument, match="characters more"):
        box.render(made, {"n": half + 40}, 0)
    assert box.render(made, {"n": half + 40}, 10) == str(half + 40)


def test_a_source_at_its_bound() -> None:
    assert len(render("a" * sandbox.MAX_SOURCE)) == sandbox.MAX_SOURCE


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(alphabet="{}%| '\"()[].,:=-+~*abcfiorn_x0123456789\n", max_size=60))
def test_any_template_renders_or_is_refused(source: str) -> None:
    looks = itertools.count()
    try:
        render(source, lambda: next(looks) * 1e-4, a=[1], b="x")  # the budget counts looks: it is the same on every machine
    except Fault:
        pass


def test_a_templates_words_do_not_speak_to_the_terminal() -> None:
    with pytest.raises(InvalidArgument) as raised:
        render("{{ raise_exception('\x1b]0;owned\x07\x1b[2J all is \u202e well') }}")
    assert str(raised.value).isprintable()
    assert "]0;owned" in str(raised.value)
