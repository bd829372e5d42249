"""The queue and the slots' lives: who gets which runner, and how long runners stay.

Each slot is one task in the scheduler's group; it owns its runner for as long as it is inside `Engine.start`. Each
request waits in one queue. Whatever changes (a runner is idle, has gone, a request left) walks the queue once, in
order of arrival, and asks the policy for every request in it: decisions are made and applied between two awaits.
"""

import dataclasses
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Generic

import anyio
from anyio.abc import TaskGroup

from a3s_power.errors import AppError, LoadFailed, LoadFailure, RunnerFailed, ServerBusy
from a3s_power.runner.base import Engine, LoadSpec, Runner
from a3s_power.scheduler.policy import Decision, Load, Use, Wait, decide
from a3s_power.scheduler.slots import Lease, Limits, Loaded, LoadPlan, M, Machine, Slot
from a3s_power.units import human_bytes

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Waiter(Generic[M]):
    model: M
    plan: LoadPlan
    keep_alive_s: float | None
    served: anyio.Event = field(default_factory=anyio.Event)
    slot: Slot[M] | None = None


class Scheduler(Generic[M]):
    """Use `async with scheduler.running()` once, and `lease` inside it."""

    def __init__(self, engine: Engine, machine: Machine, limits: Limits) -> None:
        self._engine = engine
        self._machine = machine
        self._limits = limits
        self._slots: list[Slot[M]] = []
        self._queue: list[_Waiter[M]] = []
        self._tasks: TaskGroup | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Own all runners; none is left when the block is."""
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            try:
                yield
            except Exception as exc:
                failure = exc  # to be raised outside, where no group is wrapped around it
            finally:
                self._tasks = None
                tasks.cancel_scope.cancel()
                for waiter in self._queue:
                    waiter.served.set()
        if failure is not None:
            raise failure

    # ---- for requests ----

    @asynccontextmanager
    async def lease(self, model: M, plan: LoadPlan, keep_alive_s: float | None = None) -> AsyncIterator[Lease]:
        """Hold a loaded runner that serves the plan's spec, for one request.

        `keep_alive_s` None leaves the runner's as it is. Raises ServerBusy at once when too many wait; LoadFailed
        when the runner does not come up.
        """
        slot = await self._join_queue(_Waiter(model, plan, keep_alive_s))
        try:
            await slot.loaded.wait()
            if slot.runner is None:
                raise slot.error or RunnerFailed("the model was unloaded while it was loading")
            yield Lease(slot.runner, slot.spec)
        finally:
            self._release(slot)

    def unload(self, serves: Callable[[M], bool]) -> None:
        """Let runners of these models go: at once if idle, else when their running requests end."""
        for slot in self._slots:
            if serves(slot.model):
                slot.keep_alive_s = 0.0
                slot.changed.set()

    def loaded(self) -> list[Loaded[M]]:
        """What is loaded and loading, in order of loading. Never waits."""
        now = self._machine.clock()
        return [
            Loaded(
                slot.model,
                slot.spec,
                self._measure(slot),
                0,
                slot.runner is None,
                slot.keep_alive_s if slot.leases else max(0.0, slot.expires_at - now),
            )
            for slot in self._slots
        ]

    # ---- the queue ----

    async def _join_queue(self, waiter: _Waiter[M]) -> Slot[M]:
        if len(self._queue) >= self._limits.max_queue and not self._goes_at_once(waiter):
            raise ServerBusy  # before it has evicted anything
        self._queue.append(waiter)
        self._dispatch()
        if waiter.slot is None and len(self._queue) > self._limits.max_queue:
            self._queue.remove(waiter)
            raise ServerBusy
        try:
            await waiter.served.wait()
        except BaseException:
            if waiter.slot is not None:  # handed over in the moment it was cancelled
                self._release(waiter.slot)
            else:
                self._queue.remove(waiter)
                self._dispatch()  # others may have waited behind it
            raise
        if waiter.slot is None:
            self._queue.remove(waiter)
            raise RunnerFailed("the server is shutting down")
        return waiter.slot

    def _goes_at_once(self, waiter: _Waiter[M]) -> bool:
        decision = self._decide(waiter, _Free(self._free), set())
        return isinstance(decision, Use) or decision == Load()

    def _decide(self, waiter: _Waiter[M], free: "_Free", closed: set[Slot[M]]) -> Decision:
        spec = waiter.plan.spec
        is_loaded = any(slot.spec.serves(spec) for slot in self._slots if not slot.is_leaving)
        left = 0 if is_loaded else free.bytes()  # the usual request asks for no memory
        return decide(spec, waiter.plan.need, self._slots, left, self._limits.max_loaded, closed)

    def _dispatch(self) -> None:
        """Give every request in the queue what it can have now, first come first served."""
        if self._tasks is None:
            return  # all runners are being ended
        closed: set[Slot[M]] = set()
        free = _Free(self._free)
        room_is_wanted = False
        stuck: set[LoadSpec] = set()  # who wants the same later in the queue gets no better answer
        for waiter in tuple(self._queue):
            if waiter.plan.spec in stuck:
                continue
            match self._decide(waiter, free, closed):
                case Use(slot):
                    self._hand_over(waiter, slot)  # type: ignore[arg-type]
                case Load() if room_is_wanted:
                    pass
                case Load(()):
                    slot = self._open_slot(self._tasks, waiter, free.bytes())
                    free.take(slot.size)
                    self._hand_over(waiter, slot)
                case Load(evict):
                    self._evict(evict, waiter)  # type: ignore[arg-type]
                    room_is_wanted = True
                case Wait(reason, drains, needs_room):
                    log.debug("waiting", extra={"model": waiter.model.name.display, "reason": reason})
                    closed.update(drains)  # type: ignore[arg-type]
                    room_is_wanted = room_is_wanted or needs_room
            if waiter.slot is None:
                stuck.add(waiter.plan.spec)

    def _hand_over(self, waiter: _Waiter[M], slot: Slot[M]) -> None:
        slot.leases += 1
        if waiter.keep_alive_s is not None:
            slot.keep_alive_s = waiter.keep_alive_s
        self._queue.remove(waiter)
        waiter.slot = slot
        waiter.served.set()

    def _release(self, slot: Slot[M]) -> None:
        slot.leases -= 1
        slot.idle_since = self._machine.clock()
        if slot.leases == 0 and not slot.loaded.is_set():
            slot.is_leaving = True
            slot.scope.cancel()  # nobody waits for this load any more
        slot.changed.set()
        self._dispatch()

    def _evict(self, slots: tuple[Slot[M], ...], waiter: _Waiter[M]) -> None:
        for slot in slots:
            slot.is_leaving = True
            slot.changed.set()
            log.info(
                "unloading to make room",
                extra={
                    "model": slot.model.name.display,
                    "wanted": waiter.model.name.display,
                    "differs": _differences(slot.spec, waiter.plan.spec),
                },
            )
            if slot.spec.model_path == waiter.plan.spec.model_path:
                waiter.plan = waiter.plan.joined(slot.spec)

    # ---- slots ----

    def _open_slot(self, tasks: TaskGroup, waiter: _Waiter[M], free: int) -> Slot[M]:
        keep_alive_s = self._limits.keep_alive_s if waiter.keep_alive_s is None else waiter.keep_alive_s
        slot = Slot(waiter.model, *waiter.plan.fitted(free), keep_alive_s, self._machine.clock())
        self._slots.append(slot)
        tasks.start_soon(self._live, slot)
        return slot

    async def _live(self, slot: Slot[M]) -> None:
        """A slot's whole life."""
        started = self._machine.clock()
        name = slot.model.name.display
        try:
            with slot.scope:
                async with self._engine.start(slot.spec, slot.grew) as runner:
                    slot.runner = runner
                    estimate, slot.size = slot.size, self._measure(slot)
                    slot.loaded.set()
                    log.info(
                        "loaded",
                        extra={
                            "model": name,
                            "num_ctx": slot.spec.num_ctx,
                            "slots": slot.spec.slots,
                            "size": human_bytes(slot.size),
                            "estimate": human_bytes(estimate),
                            "took_s": round(self._machine.clock() - started, 3),
                        },
                    )
                    await self._stay(slot, runner)
                log.info("unloaded", extra={"model": name})
        except AppError as exc:
            slot.error = exc
            log.warning("load failed", extra={"model": name, "error": str(exc)})
        except Exception as exc:  # a slot is a supervisor: what goes wrong in one must not take the others down
            slot.error = LoadFailed("the model could not be loaded: internal error", LoadFailure.OTHER)
            log.error("load failed", extra={"model": name}, exc_info=exc)
        finally:
            self._slots.remove(slot)
            slot.loaded.set()
            self._dispatch()

    async def _stay(self, slot: Slot[M], runner: Runner) -> None:
        """Return when the slot is told to leave, has expired, or its runner is gone."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch, slot, runner)
            while not slot.is_leaving:
                slot.changed = anyio.Event()
                with anyio.move_on_after(slot.expires_at - self._machine.clock()):
                    await slot.changed.wait()
                slot.is_leaving = slot.is_leaving or self._machine.clock() >= slot.expires_at
            tasks.cancel_scope.cancel()

    async def _watch(self, slot: Slot[M], runner: Runner) -> None:
        await runner.wait_exit()
        log.error("runner died", extra={"model": slot.model.name.display, "pid": runner.pid})
        slot.is_leaving = True
        slot.changed.set()

    def _measure(self, slot: Slot[M]) -> int:
        if slot.runner is None:
            return slot.size
        return self._machine.memory_of(slot.runner.pid).resident or slot.size

    def _free(self) -> int:
        """Bytes that a new runner can have beside those that are loaded and loading."""
        return self._machine.available() - sum(self._still_to_take(slot) for slot in self._slots)

    def _still_to_take(self, slot: Slot[M]) -> int:
        """Bytes that this slot will want or already has, though the system still calls them available."""
        if slot.runner is None:
            return max(0, slot.size - slot.resident)
        held = self._machine.memory_of(slot.runner.pid)
        return held.reclaimable + max(0, slot.size - held.resident)


class _Free:
    """The bytes that are free, for one walk over the queue: asked for once, and only if somebody wants to load."""

    def __init__(self, measure: Callable[[], int]) -> None:
        self._measure = measure
        self._bytes: int | None = None

    def bytes(self) -> int:
        if self._bytes is None:
            self._bytes = self._measure()
        return self._bytes

    def take(self, size: int) -> None:
        self._bytes = self.bytes() - size


def _differences(loaded: LoadSpec, wanted: LoadSpec) -> str:
    """Why a runner of the same model does not do: `num_ctx 4096 -> 8192`; "" for another model."""
    if loaded.model_path != wanted.model_path:
        return ""
    return ", ".join(
        f"{name} {getattr(loaded, name)} -> {getattr(wanted, name)}"
        for name in (field.name for field in dataclasses.fields(LoadSpec))
        if getattr(loaded, name) != getattr(wanted, name)
    )
