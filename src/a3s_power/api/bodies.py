"""Bodies of requests: JSON in Go's way, whatever the Content-Type says, compressed or not."""

from typing import TypeVar

import anyio.to_thread
import zstandard
from starlette.requests import Request

from a3s_power.errors import InvalidRequest
from a3s_power.units import MIB
from a3s_power.wire.gojson import GoJSONError, GoStruct, decode

T = TypeVar("T", bound=GoStruct)

BIG_BODY_BYTES = 1 << 16
MAX_ZSTD_WINDOW = 8 * MIB
MAX_ZSTD_BODY = 20 * MIB
"""As Ollama bounds them: a kilobyte of zstd can stand for gigabytes."""


class InvalidJSON(InvalidRequest):
    """A body that is not what it should be, in the words of Go's decoder; `EOF` for an empty one."""


async def read_json(request: Request, shape: type[T]) -> T:
    """The body as a value. Raises InvalidJSON."""
    return await _decoded(await request.body(), shape)


async def read_compressed(request: Request, shape: type[T]) -> T:
    """As `read_json`, of a body that may be in zstd, as coding agents send it. Raises InvalidRequest."""
    body = await request.body()
    if request.headers.get("content-encoding", "").strip().lower() == "zstd":
        body = await anyio.to_thread.run_sync(_unpacked, body)
    return await _decoded(body, shape)


async def _decoded(body: bytes, shape: type[T]) -> T:
    try:
        if len(body) > BIG_BODY_BYTES:
            return await anyio.to_thread.run_sync(decode, body, shape)
        return decode(body, shape)
    except GoJSONError as exc:
        raise InvalidJSON(str(exc)) from None


def _unpacked(body: bytes) -> bytes:
    try:
        unpacker = zstandard.ZstdDecompressor(max_window_size=MAX_ZSTD_WINDOW)
        reader = unpacker.stream_reader(body, read_across_frames=True)
        unpacked: bytes = reader.read(MAX_ZSTD_BODY + 1)
    except zstandard.ZstdError as exc:
        raise InvalidRequest(f"invalid zstd body: {exc}") from exc
    if len(unpacked) > MAX_ZSTD_BODY:
        raise InvalidRequest(f"http: request body too large: more than {MAX_ZSTD_BODY} bytes")
    return unpacked
