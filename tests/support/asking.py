"""One question in the words of each API, and what came of it in no API's words."""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2


@dataclass(frozen=True, slots=True)
class Answer:
    """All that was said, by a reply that came to its end."""

    text: str


@dataclass(frozen=True, slots=True)
class Failure:
    """An error. With status 200 it is the last item of a stream that had begun."""

    status: int
    message: str


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one API is asked, and how its replies are read. A whole reply is a stream of one item."""

    path: str
    body: Callable[[str, int], dict[str, Any]]
    """From a prompt and the most tokens that may come of it; without the model."""
    text: Callable[[Any], str]
    """What an item says."""
    is_end: Callable[[Any], bool]
    error: Callable[[Any], str]
    """The message of an item that is an error."""


def _messages(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


def _native_error(item: Any) -> str:
    (message,) = item.values()
    return message


def _openai_text(item: Any) -> str:
    match item:
        case {"choices": [{"message": {"content": str(text)}} | {"delta": {"content": str(text)}}]}:
            return text
    return ""


def _openai_is_end(item: Any) -> bool:
    return item == "[DONE]" or item["object"] == "chat.completion"


def _anthropic_text(item: Any) -> str:
    match item:
        case {"content": [{"text": text}]} | {"delta": {"text": text}}:
            return text
    return ""


def _anthropic_error(item: Any) -> str:
    assert item["type"] == "error"
    return item["error"]["message"]


def vector_text(vector: Sequence[float]) -> str:
    """What an embedding says, as far as it can be compared."""
    return " ".join(f"{number:.4f}" for number in vector)


EMBED = Dialect(
    "/api/embed",
    lambda prompt, _most: {"input": prompt},
    lambda item: vector_text(item["embeddings"][0]),
    lambda item: len(item["embeddings"]) == 1,
    _native_error,
)
"""The one of them that streams nothing."""

DIALECTS = (
    Dialect(
        "/api/generate",
        lambda prompt, most: {"prompt": prompt, "options": {"num_predict": most}},
        lambda item: item["response"],
        lambda item: item["done"],
        _native_error,
    ),
    Dialect(
        "/api/chat",
        lambda prompt, most: {"messages": _messages(prompt), "options": {"num_predict": most}},
        lambda item: item["message"]["content"],
        lambda item: item["done"],
        _native_error,
    ),
    Dialect(
        "/v1/chat/completions",
        lambda prompt, most: {"messages": _messages(prompt), "max_tokens": most},
        _openai_text,
        _openai_is_end,
        lambda item: item["error"]["message"],
    ),
    Dialect(
        "/v1/messages",
        lambda prompt, most: {"messages": _messages(prompt), "max_tokens": most},
        _anthropic_text,
        lambda item: item["type"] in {"message", "message_stop"},
        _anthropic_error,
    ),
    EMBED,
)


async def outcome_of(
    dialect: Dialect, response: httpx2.Response, on_item: Callable[[], None] = lambda: None
) -> Answer | Failure:
    """Read a reply, and see that it ends as its API has it. `on_item` is told of each item that has come."""
    last: Any = None
    said: list[str] = []
    async for item in _items(response):
        assert not _is_error(last), f"{item} after an error"
        last = item
        on_item()
        if not _is_error(item):
            said.append(dialect.text(item))
    if _is_error(last):
        return Failure(response.status_code, dialect.error(last))
    assert last is not None, "no answer at all"
    assert dialect.is_end(last), f"{last} is no end"
    return Answer("".join(said))


def _is_error(item: Any) -> bool:
    return isinstance(item, dict) and "error" in item


async def _items(response: httpx2.Response) -> AsyncIterator[Any]:
    """The values in a body of JSON lines or server-sent events."""
    is_sse = response.headers["content-type"] == "text/event-stream"
    async for line in response.aiter_lines():
        if is_sse:
            field, _, line = line.partition(": ")
            if field != "data":
                continue
        yield line if line == "[DONE]" else json.loads(line)
