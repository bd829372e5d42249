"""A tool call that must be: the grammar of one call of one of the tools.

Outside its arguments it is spelled in one way, `{"name": "get_weather", "arguments": {…}}`, to be read while it
comes. One call even where several are allowed: a model that is made to call does not know when to stop.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from a3s_power.errors import InvalidRequest
from a3s_power.generation import JSON
from a3s_power.grammar.automaton import one_of
from a3s_power.grammar.gbnf import Grammar, literal, unfit
from a3s_power.grammar.schema import AnswerGrammar, object_rule

log = logging.getLogger(__name__)

_NAME, _ARGUMENTS = '{"name": ', '"arguments": '


def call_grammar(tools: Sequence[JSON]) -> AnswerGrammar:
    """The grammar of one call of one of the tools, which have been checked. Takes up to half a second.

    The arguments satisfy the tool's `parameters`; where there are none they are any JSON object. So they are too
    where the parameters are no schema that a grammar can keep, unless the tool is `strict`: then InvalidRequest
    says why.
    """
    grammar = _Grammar()
    given: list[Any] = [tool["function"] for tool in tools]
    functions = {function["name"]: function for function in given}
    rules = {name: grammar.reserve("arguments") for name in functions}
    for rule in rules.values():
        grammar.fill(rule, "object")
    ways = {f"{json.dumps(name, ensure_ascii=False)}, {_ARGUMENTS}": rule for name, rule in rules.items()}
    call = grammar.define(f'{literal(_NAME)} {one_of(grammar, ways, ways)} "}}"', "call")
    # Last of all, so that what they need is there whatever room is left for schemas.
    for name, function in functions.items():
        _bind(grammar, rules[name], function)
    return AnswerGrammar(grammar, call)


def _bind(grammar: "_Grammar", rule: str, function: Mapping[str, Any]) -> None:
    """Hold the arguments, whose rule has any object as its body, to their schema."""
    try:
        with grammar.attempt():
            grammar.fill(rule, object_rule(grammar, _parameters(function)))
    except InvalidRequest as exc:
        name, reason = function["name"], str(exc).removeprefix(str(unfit("")))
        if function.get("strict") is True:
            raise InvalidRequest(f'tool "{name}" cannot be strict: {reason}') from exc
        log.info("a tool's arguments are not held to their schema", extra={"tool": name, "why": reason})


def _parameters(function: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema. One whose properties are an empty list is meant for a tool that has none."""
    schema = function.get("parameters") or {}
    is_empty = schema.get("properties") == {} and "additionalProperties" not in schema
    return {**schema, "additionalProperties": False} if is_empty else schema


class _Grammar(Grammar):
    """One that can go back to where it was."""

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """If the block raises InvalidRequest, its rules are gone again. Effort that was spent stays spent."""
        before = dict(self._bodies), dict(self._names), self._chars
        try:
            yield
        except InvalidRequest:
            self._bodies, self._names, self._chars = before
            raise
