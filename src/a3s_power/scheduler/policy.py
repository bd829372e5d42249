"""What a request does next: join a runner, load one, or wait. Pure."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from a3s_power.runner.base import LoadSpec
from a3s_power.scheduler.placement import Capacity


class Slot(Protocol):
    """What the policy needs to know of a place for a runner."""

    @property
    def spec(self) -> LoadSpec:
        """What is loaded here, or loading."""

    @property
    def leases(self) -> int:
        """Requests that hold it."""

    @property
    def held(self) -> Capacity:
        """What it takes."""

    @property
    def idle_since(self) -> float:
        """When its last request ended, in seconds of any clock; means nothing while it is leased."""

    @property
    def is_pinned(self) -> bool:
        """Whether it is to be kept forever; such a one goes last."""

    @property
    def is_leaving(self) -> bool:
        """Whether it has been told to go, and only its memory is still in use."""


class Plan(Protocol):
    """What the policy needs to know of what a request wants loaded."""

    @property
    def spec(self) -> LoadSpec:
        """What serves the request."""

    def is_at_ease(self, free: Capacity) -> bool:
        """Whether it needs no more than that: for less, idle runners make room."""

    def fits(self, free: Capacity) -> bool:
        """Whether it can be loaded at all into so much."""


@dataclass(frozen=True, slots=True)
class Use:
    """Join this runner."""

    slot: Slot


@dataclass(frozen=True, slots=True)
class Load:
    """Tell these to go; once there are none to tell, load."""

    evict: tuple[Slot, ...] = ()


@dataclass(frozen=True, slots=True)
class Wait:
    """Ask again when something has changed.

    `drains` are the runners that it waits for: later requests do not join them, or it might wait for ever.
    With `needs_room` no later request loads anything either.
    """

    reason: str
    drains: tuple[Slot, ...] = ()
    needs_room: bool = False


@dataclass(frozen=True, slots=True)
class Refuse:
    """It would not fit if everything else were gone; `most` is what there would be."""

    most: Capacity


Decision = Use | Load | Wait | Refuse


def decide(
    plan: Plan,
    slots: Sequence[Slot],
    free: Capacity,
    max_loaded: float,
    closed: Collection[Slot] = (),
) -> Decision:
    """What one request does next. `free` is what all the slots leave; `closed` ones drain.

    The same inputs give the same answer.
    """
    spec = plan.spec
    live = [slot for slot in slots if not slot.is_leaving]
    fitting = [slot for slot in live if slot.spec.serves(spec)]
    for slot in fitting:
        if slot.leases < slot.spec.slots and slot not in closed:
            return Use(slot)
    if fitting:
        return Wait("every slot of its runner is taken")
    most = sum((slot.held for slot in slots), free)
    if not plan.fits(most):
        return Refuse(most)
    outdated = [slot for slot in live if slot.spec.files == spec.files]
    if busy := [slot for slot in outdated if slot.leases]:
        return Wait("the same model is busy with other load options", tuple(busy))
    leaving = [slot for slot in slots if slot.is_leaving]
    return _make_room(plan, live, outdated, leaving, free, max_loaded)


def _make_room(
    plan: Plan,
    live: Sequence[Slot],
    outdated: Sequence[Slot],
    leaving: Sequence[Slot],
    free: Capacity,
    max_loaded: float,
) -> Decision:
    """Evict what the new runner replaces, then idle ones, least recently used first, pinned ones last."""
    evict = list(outdated)
    staying = [slot for slot in live if slot not in evict]
    free_then = sum((slot.held for slot in (*leaving, *evict)), free)
    by_use = sorted(staying, key=lambda slot: (slot.leases > 0, slot.is_pinned, slot.idle_since))
    drains: list[Slot] = []
    for slot in by_use:
        if plan.is_at_ease(free_then) and len(staying) < max_loaded:
            break
        (drains if slot.leases else evict).append(slot)
        staying.remove(slot)
        free_then += slot.held
    if drains:
        return Wait("every runner that could make room is busy", tuple(drains), needs_room=True)
    if evict:
        return Load(tuple(evict))
    if leaving and (not plan.is_at_ease(free) or len(staying) + len(leaving) >= max_loaded):
        return Wait("a runner is still leaving", needs_room=True)
    return Load()
