"""Fields whose type Go's decoder leaves to Ollama's own code: what may stand in them, and its words when not."""

import base64
import binascii
import re
from collections.abc import Sequence
from typing import TypeVar

from starlette.requests import Request

from a3s_power.api.bodies import InvalidJSON, read_json
from a3s_power.errors import InvalidRequest
from a3s_power.messages import Message, ToolCall
from a3s_power.units import FOREVER, parse_duration
from a3s_power.wire import ollama as wire
from a3s_power.wire.gojson import GoStruct

T = TypeVar("T", bound=GoStruct)

THINK_LEVELS = ("high", "medium", "low", "max")
MAX_TOP_LOGPROBS = 20
_CENTURY_S = 100 * 365 * 24 * 3600

_DATA_URL = re.compile(r"data:[\w.+/-]*;base64,")
_NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/=\r\n]")


async def read(request: Request, shape: type[T]) -> T:
    """The request's body. Raises InvalidRequest in Go's words."""
    try:
        return await read_json(request, shape)
    except InvalidJSON as exc:
        if str(exc) == "EOF":
            raise InvalidRequest("missing request body") from None
        raise


def keep_alive(value: object) -> float | None:
    """Seconds; None when absent. Numbers are seconds, strings Go durations, negative ones forever."""
    match value:
        case None:
            return None
        case bool():
            raise InvalidRequest("Unsupported type: 'bool'")
        case int() | float():
            seconds = float(max(-1, min(value, _CENTURY_S)))
        case str():
            seconds = parse_duration(value)
        case dict():
            raise InvalidRequest("Unsupported type: 'map[string]interface {}'")
        case _:
            raise InvalidRequest("Unsupported type: '[]interface {}'")
    return FOREVER if seconds < 0 else seconds


def think(value: object) -> bool | str | None:
    """On, off, a level, or None for the model's own way."""
    match value:
        case None | bool():
            return value
        case str() if value in THINK_LEVELS:
            return value
        case str():
            levels = ", ".join(f'"{level}"' for level in THINK_LEVELS)
            raise InvalidRequest(f'invalid think value: "{value}" (must be {levels}, true, or false)')
    raise InvalidRequest('think must be a boolean or string ("high", "medium", "low", "max", true, or false)')


def texts(value: object, otherwise: str) -> tuple[str, ...]:
    """One text or several; none for an empty one alone. Raises InvalidRequest, with `otherwise`, for all else."""
    match value:
        case None | "":
            return ()
        case str():
            return (value,)
        case list() if all(isinstance(text, str) for text in value):
            return tuple(value)
    raise InvalidRequest(otherwise)


def top_logprobs(wanted: bool | None, count: int | None) -> int | None:
    """How many alternatives of each token; None for no logprobs at all."""
    if not 0 <= (count or 0) <= MAX_TOP_LOGPROBS:
        raise InvalidRequest(f"top_logprobs must be between 0 and {MAX_TOP_LOGPROBS}")
    return (count or 0) if wanted else None


def images(values: Sequence[str] | None) -> tuple[bytes, ...]:
    """Base64, with or without a data URL's prefix."""
    return tuple(_image(value) for value in values or ())


def _image(value: str) -> bytes:
    prefix = _DATA_URL.match(value)
    start = prefix.end() if prefix else 0
    if wrong := _NOT_BASE64.search(value, start):
        raise InvalidRequest(f"illegal base64 data at input byte {wrong.start()}")
    try:
        return base64.b64decode(value[start:])
    except binascii.Error:
        raise InvalidRequest(f"illegal base64 data at input byte {len(value)}") from None


def message(given: wire.Message) -> Message:
    """A message of the request; the role is read in lower case."""
    return Message(
        role=(given.role or "").lower(),
        content=given.content or "",
        thinking=given.thinking or "",
        images=images(given.images),
        tool_calls=tuple(_tool_call(call) for call in given.tool_calls or ()),
        tool_name=given.tool_name or "",
        tool_call_id=given.tool_call_id or "",
    )


def _tool_call(given: wire.ToolCall) -> ToolCall:
    function = given.function or wire.ToolCallFunction()
    arguments = {} if function.arguments is None else function.arguments
    if not isinstance(arguments, dict):
        raise InvalidRequest("Value looks like object, but can't find closing '}' symbol")
    return ToolCall(function.name or "", arguments, given.id or "", function.index or 0)
