"""gotpl's parser for Go templates, within bounds."""

import re

from gotpl import TemplateError
from gotpl.parse.nodes import ParsedTemplate
from gotpl.parse.parser import ParserLimits, parse_template

from a3s_power.errors import InvalidTemplate
from a3s_power.prompt.gofuncs import NAMES
from a3s_power.prompt.gotree import depth

MAX_TEMPLATE_CHARS = 1 << 20
MAX_TOKENS = 50_000
"""The largest templates of real models have some thousands. A parsed token takes about 200 bytes."""
MAX_DEPTH = 100
"""Branches inside branches; each `else if` is one more."""
MAX_OCTAL_DIGITS = 8

_LIMITS = ParserLimits(max_source_bytes=4 * MAX_TEMPLATE_CHARS, max_tokens=MAX_TOKENS)

_QUOTED = r"""(?:"(?:\\.|[^"\\])*+"|'(?:\\.|[^'\\])*+'|`[^`]*+`)"""
_ACTION = re.compile(rf"(?:{_QUOTED}|(?!\}}\}})[^\"'`])*+", re.DOTALL)
_TRIM = re.compile(r"-[ \t\r\n]")
_STRINGS = re.compile(_QUOTED, re.DOTALL)
_LONG_OCTAL = re.compile(rf"(?<!\w)0[0-7_]{{{MAX_OCTAL_DIGITS + 1}}}")


def parse(text: str) -> ParsedTemplate:
    """Raises InvalidTemplate with the parser's words, or with ours where it would not come back."""
    if len(text) > MAX_TEMPLATE_CHARS:
        raise InvalidTemplate(f"the template is longer than {MAX_TEMPLATE_CHARS} characters")
    _refuse_long_octals(text)
    try:
        parsed = parse_template(text, limits=_LIMITS, functions=NAMES)
        deepest = max(depth(tree) for tree in (parsed.root, *(each.body for each in parsed.definitions)))
    except RecursionError:
        deepest = MAX_DEPTH + 1
    except TemplateError as exc:
        raise InvalidTemplate(str(exc)[:200]) from exc
    except ValueError as exc:
        raise InvalidTemplate("the template holds a number that is too long") from exc
    if deepest > MAX_DEPTH:
        raise InvalidTemplate(f"the template nests more than {MAX_DEPTH} deep")
    return parsed


def _refuse_long_octals(text: str) -> None:
    """The pattern of gotpl 0.1.0 for `0755` takes twice the time for each digit more: 40 would take days."""
    start = text.find("{{")
    while start >= 0:
        start += 2
        if _TRIM.match(text, start):
            start += 2
        if text.startswith("/*", start):
            end = text.find("*/", start + 2)
            if end < 0:
                return  # the parser stops there, too
        else:
            action = _ACTION.match(text, start)
            assert action
            end = action.end()
            if _LONG_OCTAL.search(_STRINGS.sub('""', action[0])):
                raise InvalidTemplate(f"the template holds an octal number of over {MAX_OCTAL_DIGITS} digits")
        start = text.find("{{", end)
