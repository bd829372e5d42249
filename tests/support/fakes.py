"""An engine without processes and a machine without hardware: the scheduler's outside, as tests want it."""

from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count

import anyio

from a3s_power.devices import ProcessMemory
from a3s_power.errors import LoadFailed, LoadFailure
from a3s_power.names import ModelName
from a3s_power.runner.base import ChatPrompt, Embeddings, EventStream, LoadSpec, Sampling
from a3s_power.scheduler.placement import Capacity
from a3s_power.scheduler.plans import Fitted
from a3s_power.scheduler.slots import Machine
from a3s_power.units import GB

SIZE = 4 * GB


@dataclass(frozen=True)
class FakeModel:
    """All that the scheduler wants of a model."""

    name: ModelName


@dataclass(frozen=True)
class FakePlan:
    """A model that takes `need` bytes, and `least` of them if it must. `fit` says what is loaded into how many bytes."""

    spec: LoadSpec
    need: int = SIZE
    least: int | None = None
    fit: Callable[[int], tuple[LoadSpec, int]] | None = None
    join: Callable[[LoadSpec], "FakePlan"] | None = None
    shrink: Callable[[LoadSpec], LoadSpec | None] = lambda _loaded: None

    def is_at_ease(self, free: Capacity) -> bool:
        return self.need <= free.host

    def fits(self, free: Capacity) -> bool:
        return (self.need if self.least is None else self.least) <= free.host

    def fitted(self, free: Capacity) -> Fitted:
        spec, size = self.fit(free.host) if self.fit else (self.spec, self.need)
        return Fitted(spec, Capacity(size))

    def smaller(self, loaded: LoadSpec) -> Fitted | None:
        spec = self.shrink(loaded)
        return spec and Fitted(spec, Capacity(self.need // 2))

    def refusal(self, most: Capacity) -> LoadFailed:
        return LoadFailed(f"{self.need} bytes do not fit into {most.host}", LoadFailure.OUT_OF_MEMORY)

    def joined(self, replaced: LoadSpec) -> "FakePlan":
        return self.join(replaced) if self.join else self


class FakeRunner:
    """A runner that only lives and dies."""

    def __init__(self, pid: int, spec: LoadSpec) -> None:
        self.pid = pid
        self.spec = spec
        self.at: Hashable | None = None
        """How far it has come with what it owes."""
        self.verdict = ""
        self._death = anyio.Event()

    def die(self) -> None:
        self._death.set()

    async def settled(self) -> None:
        raise NotImplementedError

    async def progress(self) -> Hashable | None:
        return self.at

    def condemn(self, reason: str) -> None:
        self.verdict = reason

    async def wait_exit(self) -> None:
        await self._death.wait()

    def chat(self, prompt: ChatPrompt, sampling: Sampling) -> EventStream:
        raise NotImplementedError

    def complete(self, prompt: str, sampling: Sampling) -> EventStream:
        raise NotImplementedError

    async def render(self, prompt: ChatPrompt) -> str:
        raise NotImplementedError

    async def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        raise NotImplementedError

    async def detokenize(self, tokens: Sequence[int]) -> str:
        raise NotImplementedError

    async def embed(self, inputs: Sequence[str | Sequence[int]]) -> Embeddings:
        raise NotImplementedError


class FakeEngine:
    """An engine whose loads and ends take as long as a test wants; by default no time."""

    def __init__(self) -> None:
        self.started: list[LoadSpec] = []
        """Every load there was, in order."""
        self.processes: dict[int, LoadSpec] = {}
        """What is loading, loaded or ending."""
        self.runners: dict[int, FakeRunner] = {}
        """What is loaded or ending."""
        self.progress: list[Callable[[int], None]] = []
        """For each load, what to tell how far it has come."""
        self.failures: list[Exception] = []
        """The next loads end with these."""
        self.may_load = _open_gate()
        self.may_end = _open_gate()
        self._pids = count(1000)

    def hold_loads(self) -> None:
        """Loads from now on wait until `may_load` is set."""
        if self.may_load.is_set():
            self.may_load = anyio.Event()

    def hold_ends(self) -> None:
        """Runners from now on take until `may_end` is set to be gone."""
        if self.may_end.is_set():
            self.may_end = anyio.Event()

    @asynccontextmanager
    async def start(
        self, spec: LoadSpec, on_progress: Callable[[int], None] = lambda _resident: None
    ) -> AsyncIterator[FakeRunner]:
        pid = next(self._pids)
        self.started.append(spec)
        self.progress.append(on_progress)
        self.processes[pid] = spec
        try:
            await self.may_load.wait()
            if self.failures:
                raise self.failures.pop(0)
            self.runners[pid] = FakeRunner(pid, spec)
            yield self.runners[pid]
        finally:
            with anyio.CancelScope(shield=True):
                await self.may_end.wait()
            self.runners.pop(pid, None)
            del self.processes[pid]

    @property
    def models(self) -> list[str]:
        """Paths of what has a process, in order of loading."""
        return [spec.model_path for spec in self.processes.values()]


class FakeMachine:
    """Memory and time that stand still until a test moves them. A loaded runner holds SIZE, unless `sizes` says else."""

    def __init__(self, engine: FakeEngine, total: int) -> None:
        self.total = total
        self.now = 0.0
        self.sizes: dict[str, int] = {}
        self._engine = engine
        self.machine = Machine(self._available, self._memory_of, lambda: self.now, self._sleep, self._record)
        self.recorded: list[tuple[LoadSpec, Capacity]] = []
        self.passed = anyio.Event()

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.passed.set()
        self.passed = anyio.Event()

    async def _sleep(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            await self.passed.wait()

    async def _record(self, spec: LoadSpec, held: Capacity) -> None:
        self.recorded.append((spec, held))

    def _available(self) -> Capacity:
        return Capacity(self.total - sum(self._memory_of(pid).resident for pid in self._engine.runners))

    def _memory_of(self, pid: int) -> ProcessMemory:
        runner = self._engine.runners.get(pid)
        return ProcessMemory(self.sizes.get(runner.spec.model_path, SIZE) if runner else 0, 0)


def _open_gate() -> anyio.Event:
    gate = anyio.Event()
    gate.set()
    return gate
