"""Fields that several of OpenAI's requests have alike."""

import re
from collections.abc import Mapping
from typing import Any, Protocol

from a3s_power.api.openai.errors import InvalidParameter
from a3s_power.generation import JSON
from a3s_power.requester import Priority

MAX_CHOICES = 16
MAX_BIAS = 100.0

_TOKEN = re.compile(r"[0-9]{1,9}")

_GO_TYPES: Mapping[type, str] = {
    type(None): "<nil>",
    bool: "bool",
    int: "float64",
    float: "float64",
    str: "string",
    list: "[]interface {}",
    dict: "map[string]interface {}",
}


def go_type(value: object) -> str:
    """What Go calls the type of a JSON value that it read into an `any`: a number is a `float64`."""
    return _GO_TYPES[type(value)]


def choice_count(wanted: int | None) -> int:
    """How many choices; one unless asked. Raises InvalidParameter."""
    count = 1 if wanted is None else wanted
    if not 1 <= count <= MAX_CHOICES:
        raise InvalidParameter(f"n must be between 1 and {MAX_CHOICES}", "n")
    return count


def logit_bias(wanted: Mapping[str, float] | None) -> dict[int, float]:
    """Token of the model's own (not OpenAI's) → what is added to its logit. Raises InvalidParameter."""
    for token, bias in (wanted or {}).items():
        if not _TOKEN.fullmatch(token):
            raise InvalidParameter(f"logit_bias: {token!r} is not the number of a token", "logit_bias")
        if not -MAX_BIAS <= bias <= MAX_BIAS:
            raise InvalidParameter(f"logit_bias: {bias:g} is not between -100 and 100", "logit_bias")
    return {int(token): bias for token, bias in (wanted or {}).items()}


class Urgent(Protocol):
    """What all requests say alike of how urgent they are."""

    priority: object
    service_tier: object


def priority(body: Urgent) -> object:
    """What the body says, to be checked yet. OpenAI's `flex` is cheaper there, and waits until there is room."""
    return Priority.BATCH if body.priority is None and body.service_tier == "flex" else body.priority


class Sampled(Protocol):
    """What both requests say alike of how to sample."""

    temperature: float | None
    top_p: float | None
    seed: int | None
    frequency_penalty: float | None
    presence_penalty: float | None
    options: dict[str, Any] | None


def options(body: Sampled, limit: int | None, stop: list[str] | None, absent: JSON) -> JSON:
    """OpenAI's fields, then Ollama's options, then what Ollama itself makes of fields that are not there.

    `limit`: most tokens to generate; an empty `stop` leaves the model its own.
    """
    given = {
        "num_predict": limit,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "seed": body.seed,
        "frequency_penalty": body.frequency_penalty,
        "presence_penalty": body.presence_penalty,
        "stop": [text for text in stop or () if text] or None,
    }
    layers = (absent, body.options or {}, given)
    return {name: value for layer in layers for name, value in layer.items() if value is not None}
