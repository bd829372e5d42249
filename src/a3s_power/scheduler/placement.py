"""On which devices a runner goes, and what it takes of each. Pure; sizes in bytes."""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Capacity:
    """Memory by device. GPUs go by the engine's names (`CUDA0`) and in its order; one that is not there has 0."""

    host: int
    gpus: Mapping[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Of all devices together."""
        return self.host + sum(self.gpus.values())

    def __add__(self, other: "Capacity") -> "Capacity":
        return self._combined(operator.add, other)

    def __sub__(self, other: "Capacity") -> "Capacity":
        return self._combined(operator.sub, other)

    def _combined(self, combine: Callable[[int, int], int], other: "Capacity") -> "Capacity":
        names = dict.fromkeys((*self.gpus, *other.gpus))
        gpus = {name: combine(self.gpus.get(name, 0), other.gpus.get(name, 0)) for name in names}
        return Capacity(combine(self.host, other.host), gpus)


@dataclass(frozen=True, slots=True)
class Need:
    """What a runner takes where GPUs hold its model: of them, and of the host beside them."""

    host: int
    gpu: int


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a runner goes. `devices` hold its model, or as much as they can; with () the host does."""

    devices: tuple[str, ...]
    taken: Capacity


def place(
    need: Need, free: Capacity, *, wants_gpu: bool, main_gpu: int | None = None, spread: bool = False
) -> Placement | None:
    """Where a runner goes; None while it fits nowhere.

    `main_gpu`, a place in `free.gpus`, is the only GPU it goes on; one out of range is as good as none. Else the
    GPU with the most free takes a model that leaves it a fifth of that, unless it is to `spread`. Else all of
    them do, each in proportion to what it has free. What GPUs cannot hold is left to the host: how many layers
    that is, the engine decides. They are all discrete or all integrated: the engine does not mix them.
    """
    devices = _devices(need.gpu, free.gpus, main_gpu, spread=spread) if wants_gpu else ()
    shares = _split(need.gpu, {name: max(0, free.gpus[name]) for name in devices})
    host = need.host + need.gpu - sum(shares.values())
    return Placement(devices, Capacity(host, shares)) if host <= free.host else None


def _devices(size: int, free: Mapping[str, int], main_gpu: int | None, *, spread: bool) -> tuple[str, ...]:
    everywhere = tuple(free)
    if main_gpu is not None and 0 <= main_gpu < len(everywhere):
        return (everywhere[main_gpu],)
    roomiest = max(everywhere, key=lambda name: free[name], default=None)
    if roomiest is not None and not spread and _fits_with_ease(size, free[roomiest]):
        return (roomiest,)
    return everywhere


def _fits_with_ease(size: int, free: int) -> bool:
    """At most 80 % of it: an estimate may be too low, and what else uses a GPU (a desktop) comes and goes."""
    return 5 * size <= 4 * free


def _split(size: int, free: Mapping[str, int]) -> dict[str, int]:
    """As much of `size` as fits, in proportion to what is free: never more than that anywhere, to the byte."""
    total = sum(free.values())
    fitting = min(size, total)
    shares: dict[str, int] = {}
    up_to = 0  # free memory of this device and those before it; differences of rounded sums add up to `fitting`
    for name, room in free.items():
        before, up_to = up_to, up_to + room
        shares[name] = fitting * up_to // total - fitting * before // total if total else 0
    return shares
