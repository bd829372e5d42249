"""A conversation in OpenAI's words as one in ours, refused in Ollama's words where it is none."""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence

import msgspec

from a3s_power.api.openai.errors import UnsupportedParameter
from a3s_power.api.openai.parameters import go_type
from a3s_power.errors import InvalidRequest
from a3s_power.messages import Message, ToolCall
from a3s_power.wire import openai as wire

_PICTURE = re.compile(r"data:(image/(jpeg|jpg|png|webp))?;base64,")
_NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/=\r\n]")
_NO_PART = "invalid message format"


def conversation(given: Sequence[wire.ChatMessage]) -> tuple[Message, ...]:
    """The messages. Raises InvalidRequest."""
    calls = [call for turn in given for call in turn.tool_calls or ()]
    called = {call.id: call.function.name or "" for call in calls if call.id and call.function}
    return tuple(_message(turn, called) for turn in given)


def _message(given: wire.ChatMessage, called: Mapping[str, str]) -> Message:
    """`called`: id of a call → the function that it called."""
    # One for one. Ollama makes a message of each part of a content, which changes the prompt: a picture and the
    # question about it become two turns, and the result of a tool loses the id of its call. What is lost here is
    # which part stood before which: the texts come first, a line each.
    role = (given.role or "").lower()
    content, images = _content(given)
    return Message(
        role=role,
        content=content,
        thinking=given.reasoning or "",
        images=images,
        tool_calls=tuple(_call(index, call) for index, call in enumerate(given.tool_calls or ())),
        tool_name=(given.name or called.get(given.tool_call_id or "", "")) if role == "tool" else "",
        tool_call_id=given.tool_call_id or "",
    )


def _content(given: wire.ChatMessage) -> tuple[str, tuple[bytes, ...]]:
    match given.content:
        case str(text):
            return text, ()
        case list(parts):
            read = [_part(part) for part in parts]
            texts = [part for part in read if isinstance(part, str)]
            return "\n".join(texts), tuple(part for part in read if isinstance(part, bytes))
        case None if given.tool_calls is not None:
            return "", ()
        case other:
            raise InvalidRequest(f"invalid message content type: {go_type(other)}")


# ---- parts of a content ----


def _part(part: object) -> str | bytes:
    """A text, or a picture."""
    match part:
        case {"type": "text", "text": str(text)}:
            return text
        case {"type": "image_url", "image_url": {"url": str(url)} | str(url)}:
            return _picture(url)
        case {"type": "input_audio"}:
            _check_audio(part)
            raise UnsupportedParameter("messages", "'input_audio'")
    raise InvalidRequest(_NO_PART)


def _picture(url: str) -> bytes:
    if url.startswith(("http://", "https://")):
        raise InvalidRequest("image URLs are not currently supported, please use base64 encoded data instead")
    prefix = _PICTURE.match(url)
    try:
        if prefix and not _NOT_BASE64.search(url, prefix.end()):
            return base64.b64decode(url[prefix.end() :])
    except binascii.Error:
        pass
    raise InvalidRequest("invalid image input")


def _check_audio(part: object) -> None:
    match part:
        case {"input_audio": {"data": str(data)}}:
            if wrong := _NOT_BASE64.search(data):
                raise InvalidRequest(
                    f"invalid input_audio base64 data: illegal base64 data at input byte {wrong.start()}"
                )
        case {"input_audio": dict()}:
            raise InvalidRequest("invalid input_audio format: missing data")
        case _:
            raise InvalidRequest("invalid input_audio format")


# ---- calls ----


def _call(index: int, given: wire.ChatCall) -> ToolCall:
    function = given.function or wire.ChatCallFunction()
    return ToolCall(function.name or "", _arguments(function.arguments), given.id or "", index)


def _arguments(text: object) -> dict[str, object]:
    try:
        arguments = msgspec.json.decode(text) if isinstance(text, str) else None
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise InvalidRequest("invalid tool call arguments")
    return arguments
