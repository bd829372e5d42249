"""What the scheduler deals in: limits, slots, plans, leases. Values, but for slot and lease."""

import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import anyio

from a3s_power.devices import ProcessMemory
from a3s_power.errors import AppError
from a3s_power.names import ModelName
from a3s_power.requester import Requester
from a3s_power.runner.base import LoadSpec, Runner
from a3s_power.scheduler.placement import Capacity
from a3s_power.scheduler.plans import Fitted
from a3s_power.scheduler.tokens import TokenPool
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
    stall_timeout_s: float = math.inf
    """How long a runner may owe something without a sign of progress."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the scheduler asks of the machine; tests put their own in its place."""

    available: Callable[[], Capacity]
    """What new work can have, of what nobody holds."""
    memory_of: Callable[[int], ProcessMemory]
    """What a process holds."""
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep
    record: "Callable[[LoadSpec, Capacity], Awaitable[object]] | None" = None
    """Remember the most that a runner held."""


class LoadPlan(Protocol):
    """What a request wants loaded; see `plans.ModelPlan`."""

    @property
    def spec(self) -> LoadSpec:
        """What serves the request."""

    def is_at_ease(self, free: Capacity) -> bool:
        """See `policy.Plan`."""

    def fits(self, free: Capacity) -> bool:
        """See `policy.Plan`."""

    def fitted(self, free: Capacity) -> Fitted:
        """What to load into so much."""

    def smaller(self, loaded: LoadSpec) -> Fitted | None:
        """What to try when the engine had no memory for that."""

    def refusal(self, most: Capacity) -> AppError:
        """Why there is no loading it, where `most` is all there is."""

    def joined(self, replaced: LoadSpec) -> "LoadPlan":
        """The plan that also does what the runner did that it replaces."""


@dataclass(eq=False)
class Slot(Generic[M]):
    """A place for one runner, from the decision to load it until its process is gone."""

    model: M
    spec: LoadSpec
    plan: LoadPlan
    held: Capacity
    """What it takes: the estimate while it loads, then what was measured."""
    keep_alive_s: float
    idle_since: float
    most: Capacity = Capacity(0)  # noqa: RUF009  which never changes
    """The most that it was seen to hold."""
    resident: int = 0
    """Bytes it holds, as far as it has come with loading."""
    leases: int = 0
    is_leaving: bool = False
    has_shrunk: bool = False
    """Whether the engine had no memory for what was to be loaded first."""
    runner: Runner | None = None
    tokens: TokenPool | None = None
    """Shares out the cells of a runner that has fewer than its requests could fill."""
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
    """Bytes of them on GPUs."""
    is_loading: bool
    remaining_s: float
    """Until it goes if nobody else comes."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Whose request it is, and how many tokens it is expected to take: what the order of the queue is made of."""

    requester: Requester
    cost: int


ANYBODY = Asked(Requester(), 1)


@dataclass(slots=True)
class Lease:
    """One request's hold on a runner. `spec` is what is loaded: its context may be larger than asked for."""

    runner: Runner
    spec: LoadSpec
    tokens: TokenPool | None
    """Where the request has to reserve what it puts into the runner's cells; None where there is room for all."""
    expected: int
    """Tokens that it was taken to need, when it was its turn."""
    cost: int = 0
    """Tokens that its client is charged in the end."""
