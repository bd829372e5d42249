"""What the server costs over the bare engine: `python -m bench.overhead`.

The server's own engine process is driven twice in turn with the same requests: on its Unix socket, and through
the server in front of it, by the same client. So both sides meet the same engine, the same cache and the same
machine, and what differs is the server. Absolute times mean nothing on a shared machine; differences and ratios
do. A second part uses an engine that only plays one (`tests/support/fake_engine.py`): it streams faster than any
model.
"""

import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httptools
import httpx2
import psutil
import uvloop

from a3s_power.messages import Message
from a3s_power.options import SamplingOptions
from a3s_power.runner.base import ChatPrompt, Sampling
from a3s_power.runner.llamajson import chat_body
from demo import smollm2
from demo.server import OwnServer, running_server
from tests.support.api import API, tiny_gguf
from tests.support.engines import FAKE_BINARY

TOKENS = 32
ROUNDS = {1: 30, 4: 16, 16: 10, 64: 6}
"""Concurrency → how often both sides are measured in turn; machines that others share are noisy."""
PAIRS = 300
PACED = "paced:40000:20000"


@dataclass(frozen=True)
class Side:
    """One of the two ways to the engine. `request` makes the bytes of a request for a prompt."""

    connect: Callable[[], Coroutine[Any, Any, tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
    request: Callable[[str, int], bytes]
    is_token: Callable[[bytes], int]


@dataclass(frozen=True)
class Streamed:
    """One request: seconds to its first token, and its tokens."""

    ttft_s: float
    tokens: int


class Sink:
    """Collects a body for httptools."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.is_complete = False

    def on_body(self, data: bytes) -> None:
        self.data += data

    def on_message_complete(self) -> None:
        self.is_complete = True


async def pieces(side: Side, prompt: str, tokens: int) -> AsyncIterator[bytes]:
    """The body of one answer, as it arrives."""
    reader, writer = await side.connect()
    sink = Sink()
    parser = httptools.HttpResponseParser(sink)
    writer.write(side.request(prompt, tokens))
    while not sink.is_complete:
        data = await reader.read(1 << 16)
        if not data:
            raise ConnectionError("the other side hung up")
        parser.feed_data(data)
        if sink.data:
            yield bytes(sink.data)
            sink.data.clear()
    writer.close()


async def stream(side: Side, prompt: str, tokens: int) -> Streamed:
    start, first, count = time.perf_counter(), 0.0, 0
    async for piece in pieces(side, prompt, tokens):
        found = side.is_token(piece)
        if found and not count:
            first = time.perf_counter() - start
        count += found
    return Streamed(first, count)


async def throughput(side: Side, concurrency: int) -> float:
    """Tokens per second of `concurrency` streams at once."""
    start = time.perf_counter()
    done = await asyncio.gather(*(stream(side, prompt_of(i), TOKENS) for i in range(concurrency)))
    return sum(one.tokens for one in done) / (time.perf_counter() - start)


def prompt_of(i: int) -> str:
    return f"Write a short story about the number {i}."


# ---- the two sides ----


def bare(socket: str) -> Side:
    def request(prompt: str, tokens: int) -> bytes:
        sampling = Sampling(SamplingOptions(temperature=0.0, num_predict=tokens), max_tokens=tokens)
        return post("/v1/chat/completions", chat_body(ChatPrompt((Message("user", prompt),)), sampling))

    def is_token(piece: bytes) -> int:
        return piece.count(b'"delta":{"content":"') + piece.count(b'"delta": {"content": "')

    return Side(lambda: asyncio.open_unix_connection(socket), request, is_token)


def served(url: str, model: str) -> Side:
    def request(prompt: str, tokens: int) -> bytes:
        options = {"temperature": 0.0, "num_predict": tokens}
        messages = [{"role": "user", "content": prompt}]
        return post("/api/chat", json.dumps({"model": model, "messages": messages, "options": options}).encode())

    address = httpx2.URL(url)
    return Side(
        lambda: asyncio.open_connection(address.host, address.port),
        request,
        lambda piece: piece.count(b'"done":false'),
    )


def post(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


# ---- what is measured ----


async def added_ttft(one: Side, other: Side) -> None:
    """The same request on both sides in turn; each pair gives one difference."""
    added = []
    await stream(one, prompt_of(0), 1)  # from here on the whole prompt is in the engine's cache
    for _ in range(PAIRS):
        first, second = await stream(one, prompt_of(0), 1), await stream(other, prompt_of(0), 1)
        added.append((second.ttft_s - first.ttft_s) * 1000)
    p50, p99 = statistics.median(added), statistics.quantiles(added, n=100)[98]
    print(f"  added time to first token, one stream: p50 {p50:.2f} ms, p99 {p99:.2f} ms")


async def throughput_ratios(one: Side, other: Side) -> None:
    """Rounds of both sides in turn, the order changing; the median of the ratios."""
    for concurrency, rounds in ROUNDS.items():
        ratios = []
        await throughput(one, concurrency)  # fills the cache for both
        for round_ in range(rounds):
            sides = (one, other) if round_ % 2 else (other, one)
            rates = {side: await throughput(side, concurrency) for side in sides}
            ratios.append(rates[other] / rates[one])
        low, _, high = statistics.quantiles(ratios, n=4)
        ratio = statistics.median(ratios)
        print(f"  throughput, {concurrency:2} streams: {ratio:.3f} of the bare engine ({low:.3f} to {high:.3f})")


async def cpu_per_chunk(server: OwnServer, side: Side) -> None:
    process = psutil.Process(server.process.pid)
    before = sum(process.cpu_times()[:2])
    done = await stream(side, PACED, -1)
    spent = sum(process.cpu_times()[:2]) - before
    print(f"  server CPU per chunk at 20 000 chunks/s: {spent / done.tokens * 1e6:.1f} us")


async def memory_per_stream(server: OwnServer, side: Side) -> None:
    process = psutil.Process(server.process.pid)
    before = process.memory_info().rss
    tasks = [asyncio.ensure_future(stream(side, "paced:100000:50", -1)) for _ in range(64)]
    await asyncio.sleep(3)
    held = process.memory_info().rss - before
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    each = held / 64 / 1024
    print(f"  server memory: {before / 2**20:.0f} MiB resident with no stream, {each:.0f} KiB for each of 64")


# ---- runs ----


def socket_in(folder: str) -> str:
    (socket,) = Path(folder).glob("*/s.sock")
    return str(socket)


def measure_real(folder: Path, runtime: str) -> None:
    settings = {"OLLAMA_NUM_PARALLEL": "64", "OLLAMA_CONTEXT_LENGTH": "256", "XDG_RUNTIME_DIR": runtime}
    with running_server(folder, **settings) as server:
        api = API(server)
        idle = psutil.Process(server.process.pid).memory_info().rss
        print(f"  idle server: {idle / 2**20:.0f} MiB resident")
        api.create("smollm2", smollm2.model_path())
        api.post("/api/generate", {"model": "smollm2", "keep_alive": -1})
        one, other = bare(socket_in(runtime)), served(server.url, "smollm2")
        uvloop.run(added_ttft(one, other))
        uvloop.run(throughput_ratios(one, other))
        api.close()


def measure_scripted(folder: Path, runtime: str) -> None:
    settings = {"A3S_POWER_LLAMA_SERVER": FAKE_BINARY, "OLLAMA_NUM_PARALLEL": "64", "XDG_RUNTIME_DIR": runtime}
    with running_server(folder, **settings, A3S_POWER_DRAIN_TIMEOUT="1") as server:
        api = API(server)
        api.create("m", tiny_gguf(folder / "tiny.gguf"))
        api.post("/api/generate", {"model": "m", "keep_alive": -1})
        one, other = bare(socket_in(runtime)), served(server.url, "m")
        uvloop.run(added_ttft(one, other))
        uvloop.run(cpu_per_chunk(server, other))
        uvloop.run(memory_per_stream(server, other))
        api.close()


def main() -> None:
    print(f"{os.cpu_count()} cores; SmolLM2-135M Q4_1, {TOKENS} tokens a stream, 64 slots")
    for title, measure in (("real engine", measure_real), ("scripted engine", measure_scripted)):
        print(title)
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory(dir="/tmp") as runtime:
            measure(Path(folder), runtime)


if __name__ == "__main__":
    main()
