"""Ways in which engines use the machine's cores: their figures, and the choice that follows from them."""

from collections.abc import Sequence
from dataclasses import dataclass

from a3s_power.devices import logical_cores, physical_cores

UNLIMITED = 300_000
"""Turns by libgomp's own default: longer than any wait within a model. What others are measured by, and no way to
share: beside a busy process such engines have been seen to come to a stand."""

SPINS = (UNLIMITED, 2000, 1000, 500)
"""Turns to be tried."""

DEFAULT_SPIN = 1000
"""For machines that nobody has calibrated. On two cores it keeps 0.95 of the speed alone; two engines at once take
1.45 times as long as one after the other, where without limit they took 117 s for what takes 2.2 s."""

LEAST_KEPT = 0.95
"""Of the best speed, by a model that is alone."""

MOST_AT_ONCE = 1.5
"""Times as long as one after the other that two models at once may take."""


@dataclass(frozen=True, slots=True, order=True)
class Cores:
    """How one engine uses the machine: compute threads, and turns that a waiting one spins before it sleeps."""

    threads: int
    spin: int

    def __post_init__(self) -> None:
        if self.threads < 1 or self.spin < 0:
            raise ValueError(f"no way to use cores: {self}")

    @classmethod
    def default(cls) -> "Cores":
        """A thread for each physical core: hyper-threads share what computes."""
        return cls(physical_cores(), DEFAULT_SPIN)

    def __str__(self) -> str:
        return f"{self.threads} threads, spin {self.spin}"


@dataclass(frozen=True, slots=True)
class Measured:
    """What one way of using the cores is worth. Figures of one machine compare with each other, and no further."""

    cores: Cores
    prefill: float
    """Tokens per second of an engine that is alone."""
    decode: float
    at_once: float
    """Time that two engines take at once, divided by what they take one after the other."""

    def __post_init__(self) -> None:
        if not (self.prefill > 0 and self.decode > 0 and self.at_once > 0):
            raise ValueError(f"no figures: {self}")


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several ways. `kept` is the share of the best speed that it keeps alone, `at_once` as measured."""

    cores: Cores
    kept: float
    at_once: float

    @property
    def is_good(self) -> bool:
        """Whether it keeps both promises, and is no mere compromise."""
        return self.shortfall <= 1.0

    @property
    def shortfall(self) -> float:
        """How far it stays behind the promises: 1.0 when it keeps both, 1.1 when one is missed by a tenth."""
        return max(1.0, LEAST_KEPT / self.kept) * max(1.0, self.at_once / MOST_AT_ONCE)

    def __str__(self) -> str:
        verdict = "" if self.is_good else " (a compromise: no way was better)"
        return (
            f"{self.cores}: {self.kept:.2f} of the best speed alone, two models at once in "
            f"{self.at_once:.2f} times the time of one after the other{verdict}"
        )


def candidates() -> tuple[Cores, ...]:
    """The ways to be tried on this machine."""
    counts = sorted({physical_cores(), logical_cores()})
    return tuple(Cores(threads, spin) for threads in counts for spin in SPINS)


def choose(measured: Sequence[Measured]) -> Choice:
    """Of those that keep both promises, the one that shares best; else what comes nearest. The first of equals.

    What spins without limit is chosen only where nothing else was measured.
    """
    best_prefill = max(each.prefill for each in measured)
    best_decode = max(each.decode for each in measured)
    choices = (
        Choice(each.cores, min(each.prefill / best_prefill, each.decode / best_decode), each.at_once)
        for each in [each for each in measured if each.cores.spin < UNLIMITED] or measured
    )
    return min(choices, key=lambda choice: (choice.shortfall, choice.at_once))


@dataclass(frozen=True, slots=True)
class Machine:
    """What must be the same for figures to hold: a home may be copied, a container get another quota."""

    cpu: str
    logical_cores: int
    physical_cores: int
    """Both as far as they are ours."""
    engine: str
    """Its version, or the path of the program."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Figures of one machine, and what follows from them."""

    machine: Machine
    measured: tuple[Measured, ...]

    def __post_init__(self) -> None:
        if not self.measured:
            raise ValueError("a calibration without figures")

    @property
    def choice(self) -> Choice:
        """The way that engines are to use the cores."""
        return choose(self.measured)
