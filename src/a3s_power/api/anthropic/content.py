"""Messages of Anthropic's, made of blocks, as messages of ours."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from a3s_power.api.bodies import InvalidJSON
from a3s_power.api.ollama import fields
from a3s_power.errors import InvalidRequest
from a3s_power.messages import Message, ToolCall
from a3s_power.wire.anthropic import ContentBlock, MessageParam
from a3s_power.wire.gojson import GoJSONError, decode

T = TypeVar("T")

CALLS = ("tool_use", "server_tool_use")
RESULTS = ("tool_result", "web_search_tool_result")
KNOWN = ("text", "image", "thinking", *CALLS, *RESULTS)
"""Types of blocks. All others are skipped, as Ollama does: new clients send what old servers have not heard of."""


def conversation(system: object, turns: Sequence[MessageParam]) -> Iterator[Message]:
    """The system text as the first message, then the turns. Raises InvalidRequest."""
    if text := _text(_blocks(system) if system is not None else ()):
        yield Message("system", text)
    names: dict[str, str] = {}
    for turn in turns:
        yield from _messages(turn, names)


def _messages(turn: MessageParam, names: dict[str, str]) -> Iterator[Message]:
    """Results of tools are messages of their own: a user's before what else was said, an assistant's behind it.

    `names` are of all calls so far, by their ids, which is all that a result tells; those of this turn are added.
    """
    role, blocks = (turn.role or "").lower(), _blocks(turn.content)
    thoughts = [block.thinking or "" for block in blocks if block.type == "thinking"]
    said = Message(
        role,
        _text(blocks),
        thoughts[-1] if thoughts else "",
        tuple(_image(block) for block in blocks if block.type == "image"),
        tuple(_calls(block for block in blocks if block.type in CALLS)),
    )
    names |= {call.id: call.name for call in said.tool_calls}
    results = [_result(block, names) for block in blocks if block.type in RESULTS]
    if role == "user":
        yield from results
    if said != Message(role) or not results:
        yield said
    if role != "user":
        yield from results


def _blocks(content: object) -> list[ContentBlock]:
    """Those that we know. A text is one block."""
    match content:
        case None:
            raise InvalidRequest("unexpected end of JSON input")  # what Go finds in a field that is not there
        case str():
            return [ContentBlock(type="text", text=content)]
        case list():
            content = [block for block in content if not _is_unknown(block)]
    return _bound(content, list[ContentBlock])


def _is_unknown(block: object) -> bool:
    return isinstance(block, dict) and block.get("type") not in KNOWN


def _text(blocks: Iterable[ContentBlock]) -> str:
    return "".join(block.text or "" for block in blocks if block.type == "text")


def _image(block: ContentBlock) -> bytes:
    source = block.source
    if source is None:
        raise InvalidRequest("invalid image source")
    if source.type != "base64":
        raise InvalidRequest(f"invalid image source type: {source.type or ''}. Only base64 images are supported.")
    try:
        (image,) = fields.images([source.data or ""])
    except InvalidRequest as exc:
        raise InvalidRequest(f"invalid base64 image data: {exc}") from None
    return image


def _calls(blocks: Iterable[ContentBlock]) -> Iterator[ToolCall]:
    for index, block in enumerate(blocks):
        if not block.id:
            raise InvalidRequest(f"{block.type} block missing required 'id' field")
        if not block.name:
            raise InvalidRequest(f"{block.type} block missing required 'name' field")
        if not isinstance(block.input, dict | None):
            raise InvalidRequest(f"{block.type} block has an 'input' that is not an object")
        yield ToolCall(block.name, block.input or {}, block.id, index)


def _result(block: ContentBlock, names: Mapping[str, str]) -> Message:
    """`is_error` adds nothing: that a tool failed, its text says."""
    call_id = block.tool_use_id or ""
    text, images = _found(block.content) if block.type == "web_search_tool_result" else _told(block.content)
    return Message("tool", text, images=images, tool_name=names.get(call_id, ""), tool_call_id=call_id)


def _told(content: object) -> tuple[str, tuple[bytes, ...]]:
    """What a tool of the client's said and showed."""
    blocks = _blocks(content) if content is not None else []
    pictures = [block for block in blocks if block.type == "image"]
    if any(block.source is None or block.source.type != "base64" for block in pictures):
        raise InvalidRequest("invalid tool_result image source")
    return _text(blocks), tuple(map(_image, pictures))


def _found(content: object) -> tuple[str, tuple[bytes, ...]]:
    """What Anthropic's servers found in an earlier turn; the pages themselves are for them alone to read."""
    match content:
        case list():
            pages = [page for page in content if isinstance(page, dict)]
            return "\n".join(f"{page.get('title', '')}: {page.get('url', '')}" for page in pages), ()
        case {"error_code": str(code)}:
            return f"error: {code}", ()
    return "", ()


def _bound(value: Any, shape: type[T]) -> T:
    """A value that was read as it stands, as the shape it turns out to have. Raises InvalidJSON in Go's words."""
    try:
        return msgspec.convert(value, shape)
    except msgspec.ValidationError:
        try:
            return decode(msgspec.json.encode(value), shape)
        except GoJSONError as exc:
            raise InvalidJSON(str(exc)) from None
