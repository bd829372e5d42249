"""What many clients get out of one model: `python -m bench.concurrency [streams|fairness|cold]`.

Three parts. *streams*: throughput and time to first token of the default slots, next to one slot per model
(Ollama's default) and to the most that the engine gives on its own socket. *fairness*: a client that asks little,
beside one that keeps many requests waiting. *cold*: from a request to the first token of a model that is not
loaded, next to the engine's own start. Sides are measured in turn: only ratios within the same run mean something.

What two models at once and a busy process cost is measured by `bench.cores`.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter, sleep
from typing import Self

import psutil
import uvloop

from a3s_power.settings import Settings
from bench.overhead import TOKENS, Side, bare, pieces, prompt_of, served, socket_in
from demo import smollm2
from demo.server import running_server
from tests.support.api import API, tiny_gguf, until
from tests.support.engines import FAKE_BINARY

MODEL = "m"
SLOTS = Settings().num_parallel

STREAMS = {1: 8, 4: 4, 16: 3, 64: 1}
"""Streams at once → rounds."""
MOST = {"OLLAMA_NUM_PARALLEL": "64", "OLLAMA_CONTEXT_LENGTH": "256"}
"""For an engine in which no stream waits."""
AIM, AIM_STREAMS = 2.5, 16
"""Times the throughput of one slot, with so many streams; or what the engine gives, if that is less."""

WAITING = 32
"""Requests that the heavy client keeps waiting."""
HEAVY_TOKENS, LIGHT_TOKENS = 64, 4
FAIRNESS_ROUNDS = 2
ALONE_FACTOR = 2.0
"""Times its p99 when it is alone, and one slot's turn on top, by its p99 too: what the light client may wait."""
SETTLE_S = 2.0
"""The engine notices within about a second that clients have left."""

COLD_ROUNDS = 15
COLD_FACTOR = 1.15
COLD_TIMEOUT_S = 60.0
RETRY_S = 0.005


@dataclass(frozen=True, slots=True)
class Answer:
    """One request: when it was sent and its first token came, on the same clock; its tokens, and its last line."""

    asked: float
    first: float
    tokens: int
    end: bytes

    @property
    def ttft_s(self) -> float:
        return self.first - self.asked

    @property
    def turn_s(self) -> float:
        """From the moment it was given a slot; only the server tells."""
        told = json.loads(self.end)
        return (told["total_duration"] - told["load_duration"]) / 1e9


async def ask(side: Side, prompt: str, tokens: int) -> Answer:
    """Raises ConnectionError when there is no answer, or an error for one."""
    asked, first, found, body = perf_counter(), 0.0, 0, b""
    async for piece in pieces(side, prompt, tokens):
        found += side.is_token(piece)
        first = first or (perf_counter() if found else 0.0)
        body += piece
    if not found:
        raise ConnectionError(f"an answer without a token: {body[-200:]!r}")
    return Answer(asked, first, found, body[body.rstrip().rfind(b"\n") + 1 :])


def p50_p99(values: Sequence[float]) -> tuple[float, float]:
    """Of few values the latter is the largest, or near it."""
    cuts = quantiles(values, n=100, method="inclusive")
    return cuts[49], cuts[98]


# ---- servers ----


@dataclass(frozen=True, slots=True)
class Loaded:
    """A server of its own, with one model loaded until it is told otherwise."""

    api: API
    socket: str
    """Where its engine listens."""

    @property
    def side(self) -> Side:
        return served(self.api.server.url, MODEL)

    def engine(self) -> psutil.Process | None:
        return next(iter(psutil.Process(self.api.server.process.pid).children()), None)


@contextmanager
def loaded(gguf: Path, **settings: str) -> Iterator[Loaded]:
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory(dir="/tmp") as runtime:
        settings = {"XDG_RUNTIME_DIR": runtime, "A3S_POWER_DRAIN_TIMEOUT": "1", **settings}
        with running_server(Path(folder), **settings) as server, closing(API(server)) as api:
            api.create(MODEL, gguf)
            assert api.post("/api/generate", {"model": MODEL, "keep_alive": -1}).status_code == 200
            yield Loaded(api, socket_in(runtime))


# ---- streams ----


@dataclass(frozen=True, slots=True)
class Burst:
    """Some streams at once: their tokens per second, and seconds to the first token of each."""

    rate: float
    ttfts_s: tuple[float, ...]


async def burst(side: Side, prompts: Sequence[str]) -> Burst:
    start = perf_counter()
    answers = await asyncio.gather(*(ask(side, prompt, TOKENS) for prompt in prompts))
    took_s = perf_counter() - start
    return Burst(sum(each.tokens for each in answers) / took_s, tuple(each.ttft_s for each in answers))


def streams() -> None:
    gguf = smollm2.model_path()
    with loaded(gguf, OLLAMA_NUM_PARALLEL="1") as one, loaded(gguf) as ours, loaded(gguf, **MOST) as most:
        sides = {"one slot": one.side, f"{SLOTS} slots": ours.side, "engine": bare(most.socket)}
        print(
            f"streams: {TOKENS} tokens each; ratios are to one slot, engine is its own socket and a slot for each"
        )
        print(f"  {'':16} {'tokens/s':>10} {'':6} {'p50 / p99 to first token':>26}")
        fresh = map(prompt_of, count())  # or one side, with more slots, would have more of them in its cache
        for side in sides.values():
            uvloop.run(burst(side, list(islice(fresh, SLOTS))))
        for number, rounds in STREAMS.items():
            bursts = uvloop.run(in_turn(sides, number, rounds, fresh))
            print_bursts(number, bursts)
            if number == AIM_STREAMS:
                print_verdict(bursts)


async def in_turn(
    sides: dict[str, Side], number: int, rounds: int, fresh: Iterator[str]
) -> dict[str, list[Burst]]:
    """What each side came to in each round; all answer the same prompts, and another one begins each time."""
    bursts: dict[str, list[Burst]] = {name: [] for name in sides}
    for n in range(rounds):
        prompts, names = list(islice(fresh, number)), list(sides)
        begin = n % len(names)
        for name in names[begin:] + names[:begin]:
            bursts[name].append(await burst(sides[name], prompts))
    return bursts


def print_bursts(number: int, bursts: dict[str, list[Burst]]) -> None:
    base, *_ = bursts.values()
    base_p50, base_p99 = p50_p99(ttfts_of(base))
    for name, own in bursts.items():
        rate, (p50, p99) = median(each.rate for each in own), p50_p99(ttfts_of(own))
        waits, ratios = f"{p50 * 1e3:.0f} / {p99 * 1e3:.0f} ms", f"{p50 / base_p50:.2f} / {p99 / base_p99:.2f}"
        print(f"  {number:2} x {name:11} {rate:10.0f} {gain(own, base):6.2f} {waits:>26} {ratios:>13}")


def print_verdict(bursts: dict[str, list[Burst]]) -> None:
    one, ours, most = bursts.values()
    target = min(AIM, gain(most, one))
    print(
        f"  with {AIM_STREAMS} streams: {gain(ours, one):.2f} of one slot's throughput, target {target:.2f}",
        end="",
    )
    print(f" ({AIM}, or the engine's {gain(most, one):.2f}); {gain(ours, most):.2f} of the engine's")


def gain(bursts: Sequence[Burst], base: Sequence[Burst]) -> float:
    return median(each.rate / other.rate for each, other in zip(bursts, base, strict=True))


def ttfts_of(bursts: Sequence[Burst]) -> list[float]:
    return [ttft_s for each in bursts for ttft_s in each.ttfts_s]


# ---- fairness ----


@dataclass(frozen=True, slots=True)
class Clients:
    """What the two ask, given a number for which an engine that computes shall answer something new; how often."""

    heavy: Callable[[int], str]
    light: Callable[[int], str]
    alone: int
    fair: int
    unfair: int
    """Requests of the light client in a round; fewer where each waits longer."""


REAL = Clients(prompt_of, prompt_of, alone=20, fair=15, unfair=1)
PLAYED = Clients(lambda _: f"paced:{HEAVY_TOKENS}:256", lambda _: "say:a", alone=50, fair=50, unfair=4)
"""A turn takes a quarter of a second, whatever else goes on."""


def fairness() -> None:
    with loaded(smollm2.model_path()) as server:
        compare_fairness("real engine", server.side, REAL)
    with tempfile.TemporaryDirectory() as folder:
        gguf = tiny_gguf(Path(folder) / "tiny.gguf")
        with loaded(gguf, A3S_POWER_LLAMA_SERVER=FAKE_BINARY) as server:
            compare_fairness("paced engine", server.side, PLAYED)


def compare_fairness(title: str, side: Side, clients: Clients) -> None:
    light, heavy = with_key(side, "light"), with_key(side, "heavy")
    alone_s, fair_s, unfair_s, turns_s = [], [], [], []
    for n in range(FAIRNESS_ROUNDS):
        fresh = count(n * 100_000)
        alone_s += uvloop.run(in_a_row(light, clients, fresh, clients.alone))
        waits_s, turns = uvloop.run(beside(heavy, light, clients, fresh, clients.fair))
        fair_s += waits_s
        turns_s += turns
        sleep(SETTLE_S)
        unfair_s += uvloop.run(beside(heavy, heavy, clients, fresh, clients.unfair))[0]
        sleep(SETTLE_S)
    target = ALONE_FACTOR * p50_p99(alone_s)[1] + p50_p99(turns_s)[1]
    print(f"fairness, {title}: time to first token of a light client, {WAITING} requests of a heavy one waiting")
    print_times("alone", alone_s)
    print_times("a slot's turn", turns_s)
    print_times(
        "with fairness", fair_s, f"; p99 {p50_p99(fair_s)[1] / target:.2f} of {target * 1e3:.0f}, target 1"
    )
    print_times("without", unfair_s, f"; p99 {p50_p99(unfair_s)[1] / target:.2f} of it")


def print_times(name: str, times_s: Sequence[float], verdict: str = "") -> None:
    p50, p99 = p50_p99(times_s)
    print(f"  {name:14} p50 {p50 * 1e3:6.0f} ms, p99 {p99 * 1e3:6.0f} ms of {len(times_s):3}{verdict}")


def with_key(side: Side, key: str) -> Side:
    """The same, as another client. Who sends another's key is served as that one, first come first served."""

    def request(prompt: str, tokens: int) -> bytes:
        line = f"\r\nAuthorization: Bearer {key}\r\n".encode()
        return side.request(prompt, tokens).replace(b"\r\n", line, 1)

    return replace(side, request=request)


async def in_a_row(light: Side, clients: Clients, fresh: Iterator[int], number: int) -> list[float]:
    """Seconds to the first token of short requests, each sent when the one before has ended."""
    return [(await ask(light, clients.light(n), LIGHT_TOKENS)).ttft_s for n in islice(fresh, number)]


async def beside(
    heavy: Side, light: Side, clients: Clients, fresh: Iterator[int], number: int
) -> tuple[list[float], list[float]]:
    """The same while the heavy client has all slots and keeps more waiting; and the seconds its turns take."""
    turns_s, is_under_way = [], asyncio.Event()

    async def keep_asking() -> None:
        while True:
            turns_s.append((await ask(heavy, clients.heavy(next(fresh)), HEAVY_TOKENS)).turn_s)
            is_under_way.set()

    async with asyncio.TaskGroup() as group:
        asking = [group.create_task(keep_asking()) for _ in range(SLOTS + WAITING)]
        await is_under_way.wait()
        waits_s = await in_a_row(light, clients, fresh, number)
        for task in asking:
            task.cancel()
    return waits_s, turns_s


# ---- cold ----


@dataclass(frozen=True, slots=True)
class BareStart:
    """The very process that the server starts, parameters and environment alike, started without the server."""

    argv: Sequence[str]
    environment: Mapping[str, str]

    @classmethod
    def like(cls, engine: psutil.Process) -> Self:
        return cls(engine.cmdline(), engine.environ())

    def load_s(self) -> float:
        """Seconds until the first token that is asked of its socket. It is gone afterwards."""
        with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder:  # it removes it too
            *argv, request = self.argv
            socket = f"{folder}/s.sock"
            argv.append(json.dumps(json.loads(request) | {"socket": socket}))
            start = perf_counter()
            with subprocess.Popen(  # leaving it closes its stdin, at which it ends
                argv,
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            ):
                return uvloop.run(ask_until_loaded(bare(socket))).first - start


async def ask_until_loaded(side: Side) -> Answer:
    async with asyncio.timeout(COLD_TIMEOUT_S):
        while True:
            try:
                return await ask(side, prompt_of(0), 1)
            except OSError:  # no socket yet, or an error instead of an answer
                await asyncio.sleep(RETRY_S)


def load_s(server: Loaded) -> float:
    """The same through the server."""
    took_s = uvloop.run(ask(server.side, prompt_of(0), 1)).ttft_s
    unload(server)
    return took_s


def unload(server: Loaded) -> None:
    assert server.api.post("/api/generate", {"model": MODEL, "keep_alive": 0}).status_code == 200
    until(lambda: server.engine() is None)


def cold() -> None:
    """The model's file stays in the page cache, and no other engine runs."""
    with loaded(smollm2.model_path()) as server:
        start = BareStart.like(server.engine())
        unload(server)
        engine_s, ours_s = [], []
        sides = [(engine_s, start.load_s), (ours_s, lambda: load_s(server))]
        for n in range(COLD_ROUNDS):
            for took_s, load in sides[:: 1 if n % 2 else -1]:
                took_s.append(load())
    low, ratio, high = quantiles((ours / engine for engine, ours in zip(engine_s, ours_s, strict=True)), n=4)
    print(f"cold load: from the request to the first token, {COLD_ROUNDS} rounds")
    print(f"  {ratio:.2f} of the bare engine's start ({low:.2f} to {high:.2f}), target {COLD_FACTOR}", end="")
    print(f"; {median(ours_s) * 1e3:.0f} and {median(engine_s) * 1e3:.0f} ms")


PARTS = {"streams": streams, "fairness": fairness, "cold": cold}


def main(*names: str) -> None:
    """All parts, or those named."""
    for name in names or PARTS:
        PARTS[name]()


if __name__ == "__main__":
    main(*sys.argv[1:])
