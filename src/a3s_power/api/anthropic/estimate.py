"""A guess at a prompt's tokens, for the first event of a stream: the engine tells their number with the last."""

from collections.abc import Iterator

import msgspec

from a3s_power.generation import ChatInput

BYTES_PER_TOKEN = 4


def estimated_tokens(given: ChatInput) -> int:
    """Ollama's guess: bytes of all that is said, and of the JSON of tools and calls, by four; 1 at least."""
    return max(1, sum(map(len, _bytes(given))) // BYTES_PER_TOKEN)


def _bytes(given: ChatInput) -> Iterator[bytes]:
    for message in given.messages:
        yield f"{message.role}{message.content}{message.thinking}".encode()
        for call in message.tool_calls:
            yield msgspec.json.encode(call)
    for tool in given.tools:
        yield msgspec.json.encode(tool)
