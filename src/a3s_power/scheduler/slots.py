"""What the scheduler deals in: limits, slots, plans, leases. Values, and the one record that changes: a slot."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import anyio

from a3s_power.devices import ProcessMemory
from a3s_power.errors import AppError
from a3s_power.names import ModelName
from a3s_power.runner.base import LoadSpec, Runner
from a3s_power.units import FOREVER


class Named(Protocol):
    """What the scheduler needs to know of a model: what to call it in the log."""

    @property
    def name(self) -> ModelName:
        """Its name in the store."""


M = TypeVar("M", bound=Named)


@dataclass(frozen=True, slots=True)
class Limits:
    """What the scheduler may take."""

    max_loaded: float = math.inf
    max_queue: int = 512
    keep_alive_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Machine:
    """What the scheduler asks of the machine; tests put their own in its place."""

    available: Callable[[], int]
    """Bytes that new work can have."""
    memory_of: Callable[[int], ProcessMemory]
    """What a process holds."""
    clock: Callable[[], float] = time.monotonic


@dataclass(eq=False)
class Slot(Generic[M]):
    """A place for one runner, from the decision to load it until its process is gone."""

    model: M
    spec: LoadSpec
    size: int
    """Bytes: the estimate while it loads, then what was measured."""
    keep_alive_s: float
    idle_since: float
    resident: int = 0
    """Bytes it holds, as far as it has come with loading."""
    leases: int = 0
    is_leaving: bool = False
    runner: Runner | None = None
    error: AppError | None = None
    loaded: anyio.Event = field(default_factory=anyio.Event)
    """Set when `runner` or `error` is."""
    changed: anyio.Event = field(default_factory=anyio.Event)
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    def grew(self, resident: int) -> None:
        """It loads, and holds so much by now."""
        self.resident = resident

    @property
    def is_pinned(self) -> bool:
        """See `policy.Slot`."""
        return self.keep_alive_s == FOREVER

    @property
    def expires_at(self) -> float:
        """When it goes if nobody comes, on the scheduler's clock."""
        return math.inf if self.leases else self.idle_since + self.keep_alive_s


@dataclass(frozen=True, slots=True)
class Loaded(Generic[M]):
    """One row of what is loaded, or loading, right now."""

    model: M
    spec: LoadSpec
    size: int
    """Bytes: measured, or the estimate while it loads."""
    size_vram: int
    """Bytes of them on GPUs. Not measured yet: 0, which is true of engines that compute on the CPU."""
    is_loading: bool
    remaining_s: float
    """Until it goes if nobody else comes."""


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What a request wants loaded, and the bytes it is estimated to take.

    `fit` has the last word when it is loaded: from the bytes then free to what is really loaded, and its bytes.
    `join` is asked when a runner of the same model has to make way, for a plan that serves its requests too.
    """

    spec: LoadSpec
    need: int
    fit: Callable[[int], tuple[LoadSpec, int]] | None = None
    join: "Callable[[LoadSpec], LoadPlan] | None" = None

    def joined(self, replaced: LoadSpec) -> "LoadPlan":
        """The plan that also does what the runner did that it replaces: else two clients load in turns."""
        return self.join(replaced) if self.join else self

    def fitted(self, free: int) -> tuple[LoadSpec, int]:
        """What to load into `free` bytes."""
        return self.fit(free) if self.fit else (self.spec, self.need)


@dataclass(frozen=True, slots=True)
class Lease:
    """One request's hold on a runner. `spec` is what is loaded: its context may be larger than asked for."""

    runner: Runner
    spec: LoadSpec
