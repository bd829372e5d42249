"""The queue and the slots' lives: who gets which runner, and how long runners stay.

Each slot is one task in the scheduler's group; it owns its runner for as long as it is inside `Engine.start`. Each
request waits in one queue. Whatever changes (a runner is idle, has gone, a request left) walks the queue once, in
the order that is fair, and asks the policy for every request in it: decisions are made and applied between two
awaits.
"""

import dataclasses
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import reduce
from operator import sub
from typing import Generic

import anyio
from anyio.abc import TaskGroup

from a3s_power.errors import AppError, LoadFailed, LoadFailure, RunnerFailed, RunnerLost, ServerBusy
from a3s_power.requester import Requester
from a3s_power.runner.base import Engine, LoadSpec, Runner
from a3s_power.scheduler.fairness import FairShare
from a3s_power.scheduler.placement import Capacity
from a3s_power.scheduler.policy import Decision, Load, Refuse, Use, Wait, decide
from a3s_power.scheduler.slots import ANYBODY, Asked, Lease, Limits, Loaded, LoadPlan, M, Machine, Slot
from a3s_power.scheduler.tokens import TokenPool
from a3s_power.units import human_bytes

log = logging.getLogger(__name__)

NOTHING = Capacity(0)
OTHER = LoadFailure.OTHER
RETURN_S, RETURN_LOOK_S, RETURN_SHARE = 5.0, 0.25, 0.75
"""How long, how often and for how much of it one waits for a GPU's memory to come back; Ollama's figures."""
LOOKS, MAX_LOOK_S = 10, 5.0
"""How often a runner is looked at within the time it may stand still, and the longest time between two looks."""


@dataclass(eq=False)
class _Waiter(Generic[M]):
    model: M
    plan: LoadPlan
    keep_alive_s: float | None
    requester: Requester
    cost: int
    served: anyio.Event = field(default_factory=anyio.Event)
    """Set when `slot` or `error` is, or nobody serves any more."""
    slot: Slot[M] | None = None
    error: AppError | None = None
    asked_for: LoadSpec = field(init=False)
    """What the request asks for itself; a plan may come to be joined with another's."""

    def __post_init__(self) -> None:
        self.asked_for = self.plan.spec


class Scheduler(Generic[M]):
    """Use `async with scheduler.running()` once, and `lease` inside it."""

    def __init__(self, engine: Engine, machine: Machine, limits: Limits) -> None:
        self._engine = engine
        self._machine = machine
        self._limits = limits
        self._slots: list[Slot[M]] = []
        self._queue: list[_Waiter[M]] = []
        self._shares = FairShare()
        self._last_released = machine.clock()
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
    async def lease(
        self, model: M, plan: LoadPlan, keep_alive_s: float | None = None, asked: Asked = ANYBODY
    ) -> AsyncIterator[Lease]:
        """Hold a loaded runner that serves the plan's spec, for one request.

        `keep_alive_s` None leaves the runner's as it is. Raises ServerBusy when too many wait, of whom the last in
        the order that is fair has to go; LoadFailed when the runner does not come up, or cannot.
        """
        slot: Slot[M] | None = None
        while slot is None:
            waiter = _Waiter(model, plan, keep_alive_s, asked.requester, max(1, asked.cost))
            slot = await self._loaded_slot(waiter)
        lease = Lease(slot.runner, slot.spec, slot.tokens, waiter.cost)  # type: ignore[arg-type]
        try:
            yield lease
        except RunnerLost:
            self._retire(slot)  # before who tries again is given it once more
            raise
        finally:
            self._give_back(waiter, slot, lease.cost)

    async def _loaded_slot(self, waiter: _Waiter[M]) -> Slot[M] | None:
        """A slot whose runner serves the waiter; None if it came to be loaded with less: to be asked for again."""
        slot = await self._join_queue(waiter)
        try:
            await slot.loaded.wait()
            if slot.runner is None:
                raise slot.error or RunnerFailed("the model was unloaded while it was loading")
        except BaseException:
            self._give_back(waiter, slot, 0)
            raise
        if not slot.has_shrunk or slot.spec.serves(waiter.asked_for):
            return slot
        self._give_back(waiter, slot, 0)
        return None

    def _give_back(self, waiter: _Waiter[M], slot: Slot[M], tokens: int) -> None:
        self._shares.finished(waiter, tokens)
        self._release(slot)

    def unload(self, serves: Callable[[M], bool]) -> None:
        """Let runners of these models go: at once if idle, else when their running requests end."""
        for slot in self._slots:
            if serves(slot.model):
                slot.keep_alive_s = 0.0
                slot.changed.set()

    @property
    def quiet_s(self) -> float:
        """Seconds since the last request ended; 0 while there are any."""
        is_busy = self._queue or any(slot.leases for slot in self._slots)
        return 0.0 if is_busy else self._machine.clock() - self._last_released

    def loaded(self) -> list[Loaded[M]]:
        """What is loaded and loading, in order of loading. Never waits."""
        now = self._machine.clock()
        return [
            Loaded(
                slot.model,
                slot.spec,
                self._measured(slot).host + sum(self._measured(slot).gpus.values()),
                sum(self._measured(slot).gpus.values()),
                slot.runner is None,
                slot.keep_alive_s if slot.leases else max(0.0, slot.expires_at - now),
            )
            for slot in self._slots
        ]

    # ---- the queue ----

    async def _join_queue(self, waiter: _Waiter[M]) -> Slot[M]:
        if self._tasks is None:
            raise RunnerFailed("the server is shutting down")
        self._queue.append(waiter)
        self._shares.arrived(waiter)
        try:
            if len(self._queue) > self._limits.max_queue and not self._is_settled_at_once(waiter):
                self._turn_last_away()  # before it has evicted anything
            self._dispatch()
            if len(self._queue) > self._limits.max_queue:
                self._turn_last_away()
            await waiter.served.wait()
        except BaseException:
            if waiter.slot is not None:  # handed over in the moment it was cancelled
                self._give_back(waiter, waiter.slot, 0)
            elif waiter in self._queue:
                self._turn_away(waiter, None)
                self._dispatch()  # others may have waited behind it
            raise
        if waiter.slot is not None:
            return waiter.slot
        if waiter.error is None:
            self._turn_away(waiter, None)
        raise waiter.error or RunnerFailed("the server is shutting down")

    def _turn_last_away(self) -> None:
        *_, last = self._shares.ordered(self._queue)
        self._turn_away(last, ServerBusy())

    def _turn_away(self, waiter: _Waiter[M], error: AppError | None) -> None:
        self._queue.remove(waiter)
        self._shares.withdrew(waiter)
        waiter.error = error
        waiter.served.set()

    def _is_settled_at_once(self, waiter: _Waiter[M]) -> bool:
        decision = self._decide(waiter, _Free(self._free), set())
        return isinstance(decision, Use | Refuse) or decision == Load()

    def _decide(self, waiter: _Waiter[M], free: "_Free", closed: set[Slot[M]]) -> Decision:
        spec = waiter.plan.spec
        is_loaded = any(slot.spec.serves(spec) for slot in self._slots if not slot.is_leaving)
        left = NOTHING if is_loaded else free.capacity()  # the usual request asks for no memory
        return decide(waiter.plan, self._slots, left, self._limits.max_loaded, closed)

    def _dispatch(self) -> None:
        """Give every request in the queue what it can have now, in the order that is fair."""
        if self._tasks is None:
            return  # all runners are being ended
        closed: set[Slot[M]] = set()
        free = _Free(self._free)
        room_is_wanted = False
        stuck: set[LoadSpec] = set()  # who wants the same later in the queue gets no better answer
        for waiter in self._shares.ordered(tuple(self._queue)):
            if waiter.plan.spec in stuck:
                continue
            try:
                match self._decide(waiter, free, closed):
                    case Use(slot):
                        self._hand_over(waiter, slot)  # type: ignore[arg-type]
                    case Load() if room_is_wanted:
                        pass
                    case Load(()):
                        self._join_waiting(waiter, free.capacity())
                        slot = self._open_slot(self._tasks, waiter, free.capacity())
                        free.take(slot.held)
                        self._hand_over(waiter, slot)
                    case Load(evict):
                        self._evict(evict, waiter)  # type: ignore[arg-type]
                        room_is_wanted = True
                    case Wait(reason, drains, needs_room):
                        log.debug("waiting", extra={"model": waiter.model.name.display, "reason": reason})
                        closed.update(drains)  # type: ignore[arg-type]
                        room_is_wanted = room_is_wanted or needs_room
                    case Refuse(most):
                        self._turn_away(waiter, waiter.plan.refusal(most))
            except Exception as exc:  # what is wrong with one must not keep all others from being served
                log.error("cannot be scheduled", extra={"model": waiter.model.name.display}, exc_info=exc)
                self._turn_away(waiter, LoadFailed("the model could not be loaded: internal error", OTHER))
            if not waiter.served.is_set():
                stuck.add(waiter.plan.spec)

    def _hand_over(self, waiter: _Waiter[M], slot: Slot[M]) -> None:
        slot.leases += 1
        if waiter.keep_alive_s is not None:
            slot.keep_alive_s = waiter.keep_alive_s
        self._queue.remove(waiter)
        self._shares.started(waiter)
        waiter.slot = slot
        waiter.served.set()

    def _release(self, slot: Slot[M]) -> None:
        slot.leases -= 1
        slot.idle_since = self._last_released = self._machine.clock()
        if slot.leases == 0 and not slot.loaded.is_set():
            slot.is_leaving = True
            slot.scope.cancel()  # nobody waits for this load any more
        slot.changed.set()
        self._dispatch()

    def _retire(self, slot: Slot[M]) -> None:
        """Have nobody else join it; it ends, and whoever still holds it is told."""
        slot.is_leaving = True
        slot.changed.set()

    def _evict(self, slots: tuple[Slot[M], ...], waiter: _Waiter[M]) -> None:
        for slot in slots:
            self._retire(slot)
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

    def _join_waiting(self, waiter: _Waiter[M], free: Capacity) -> None:
        """Have what is loaded do for all that wait for the same model, if there is room for that."""
        for other in self._queue:
            spec = other.plan.spec
            if spec.files == waiter.plan.spec.files and not spec.is_ctx_automatic:
                joined = waiter.plan.joined(spec)
                if joined is not waiter.plan and joined.is_at_ease(free):
                    waiter.plan = joined

    # ---- slots ----

    def _open_slot(self, tasks: TaskGroup, waiter: _Waiter[M], free: Capacity) -> Slot[M]:
        keep_alive_s = self._limits.keep_alive_s if waiter.keep_alive_s is None else waiter.keep_alive_s
        fitted = waiter.plan.fitted(free)
        slot = Slot(waiter.model, fitted.spec, waiter.plan, fitted.taken, keep_alive_s, self._machine.clock())
        self._slots.append(slot)
        tasks.start_soon(self._live, slot)
        return slot

    async def _live(self, slot: Slot[M]) -> None:
        """A slot's whole life."""
        name = slot.model.name.display
        try:
            with slot.scope:
                try:
                    await self._serve(slot)
                except LoadFailed as exc:
                    if not self._shrink(slot, exc):
                        raise
                    await self._serve(slot)
                log.info("unloaded", extra={"model": name})
        except AppError as exc:
            slot.error = exc
            self._tell_all_that_wait_for(slot, exc)
            log.warning("load failed", extra={"model": name, "error": str(exc)})
        except Exception as exc:  # a slot is a supervisor: what goes wrong in one must not take the others down
            slot.error = LoadFailed("the model could not be loaded: internal error", LoadFailure.OTHER)
            log.error("load failed", extra={"model": name}, exc_info=exc)
        finally:
            self._slots.remove(slot)
            slot.loaded.set()
            self._dispatch()

    def _tell_all_that_wait_for(self, slot: Slot[M], exc: AppError) -> None:
        """Of what would fail again: else they would try it in turns, and each might take as long."""
        if not isinstance(exc, LoadFailed) or exc.reason in (LoadFailure.OUT_OF_MEMORY, LoadFailure.OTHER):
            return
        for waiter in tuple(self._queue):
            if slot.spec.serves(waiter.asked_for):
                self._turn_away(waiter, exc)

    async def _serve(self, slot: Slot[M]) -> None:
        """From the start of a runner to its end."""
        started = self._machine.clock()
        async with self._engine.start(slot.spec, slot.grew) as runner:
            slot.runner = runner
            slot.tokens = TokenPool(slot.spec.pool) if slot.spec.is_pool_short else None
            estimate, slot.held = slot.held, self._measured(slot)
            slot.most = slot.held
            slot.loaded.set()
            log.info(
                "loaded",
                extra={
                    "model": slot.model.name.display,
                    "num_ctx": slot.spec.num_ctx,
                    "slots": slot.spec.slots,
                    "pool": slot.spec.pool,
                    "devices": ",".join(slot.spec.devices),
                    "size": human_bytes(slot.held.total),
                    "estimate": human_bytes(estimate.total),
                    "took_s": round(self._machine.clock() - started, 3),
                },
            )
            try:
                await self._stay(slot, runner)
            finally:
                await self._record(slot)
            before = self._machine.available() if slot.held.gpus else None
        if before is not None:
            await self._returned(slot, before)

    async def _record(self, slot: Slot[M]) -> None:
        if self._machine.record is not None and slot.most.host:
            with anyio.CancelScope(shield=True):
                await self._machine.record(slot.spec, slot.most)

    async def _returned(self, slot: Slot[M], before: Capacity) -> None:
        """Wait until the driver counts a GPU's memory as free again: that comes after the process is gone."""
        with anyio.move_on_after(RETURN_S):
            while any(
                self._machine.available().gpus.get(name, 0) - before.gpus.get(name, 0) < RETURN_SHARE * size
                for name, size in slot.held.gpus.items()
            ):
                await self._machine.sleep(RETURN_LOOK_S)

    def _shrink(self, slot: Slot[M], exc: LoadFailed) -> bool:
        """Make the slot's context or pool smaller, if that is what it failed for and nobody asked for as much."""
        if exc.reason not in (LoadFailure.OUT_OF_MEMORY, LoadFailure.CONTEXT_TOO_LARGE):
            return False
        if (fitted := slot.plan.smaller(slot.spec)) is None:
            return False
        log.warning(
            "loading again with less",
            extra={
                "model": slot.model.name.display,
                "differs": _differences(slot.spec, fitted.spec),
                "error": str(exc),
            },
        )
        slot.spec, slot.held, slot.resident, slot.has_shrunk = fitted.spec, fitted.taken, 0, True
        return True

    async def _stay(self, slot: Slot[M], runner: Runner) -> None:
        """Return when the slot is told to leave, has expired, or its runner is gone."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch, slot, runner)
            tasks.start_soon(self._watch_progress, slot, runner)
            while not slot.is_leaving:
                slot.changed = anyio.Event()
                with anyio.move_on_after(slot.expires_at - self._machine.clock()):
                    await slot.changed.wait()
                slot.is_leaving = slot.is_leaving or self._machine.clock() >= slot.expires_at
            tasks.cancel_scope.cancel()

    async def _watch(self, slot: Slot[M], runner: Runner) -> None:
        await runner.wait_exit()
        log.error("runner died", extra={"model": slot.model.name.display, "pid": runner.pid})
        self._retire(slot)

    async def _watch_progress(self, slot: Slot[M], runner: Runner) -> None:
        """End a runner that owes something and stands still; and see how much it has come to hold."""
        limit_s, clock = self._limits.stall_timeout_s, self._machine.clock
        last, since = None, clock()
        while True:
            await self._machine.sleep(min(limit_s / LOOKS, MAX_LOOK_S))
            slot.held = self._measured(slot)
            slot.most = max(slot.most, slot.held, key=lambda held: held.total)
            now = await runner.progress()
            if now is None or now != last:
                last, since = now, clock()
            elif clock() - since >= limit_s:
                log.error("runner stands still", extra={"model": slot.model.name.display, "pid": runner.pid})
                runner.condemn(f"it made no progress for {limit_s:g} s")
                self._retire(slot)
                return

    def _measured(self, slot: Slot[M]) -> Capacity:
        """What it holds; where nobody can tell, what it was estimated or last seen to."""
        if slot.runner is None:
            return slot.held
        memory = self._machine.memory_of(slot.runner.pid)
        if not memory.resident:
            return slot.held
        return Capacity(memory.resident, slot.held.gpus if memory.gpus is None else memory.gpus)

    def _free(self) -> Capacity:
        """What a new runner can have beside those that are loaded and loading."""
        return reduce(sub, (self._still_to_take(slot) for slot in self._slots), self._machine.available())

    def _still_to_take(self, slot: Slot[M]) -> Capacity:
        """What this slot will want or already has, though the system still calls it available."""
        if slot.runner is None:
            return Capacity(max(0, slot.held.host - slot.resident), slot.held.gpus)
        memory = self._machine.memory_of(slot.runner.pid)
        on_host = memory.reclaimable + max(0, slot.held.host - memory.resident)
        return Capacity(on_host, slot.held.gpus if memory.gpus is None else {})


class _Free:
    """What is free, for one walk over the queue: asked for once, and only if somebody wants to load."""

    def __init__(self, measure: Callable[[], Capacity]) -> None:
        self._measure = measure
        self._capacity: Capacity | None = None

    def capacity(self) -> Capacity:
        if self._capacity is None:
            self._capacity = self._measure()
        return self._capacity

    def take(self, taken: Capacity) -> None:
        self._capacity = self.capacity() - taken


def _differences(loaded: LoadSpec, wanted: LoadSpec) -> str:
    """Why a runner of the same model does not do: `num_ctx 4096 -> 8192`; "" for another model."""
    if loaded.model_path != wanted.model_path:
        return ""
    return ", ".join(
        f"{name} {getattr(loaded, name)} -> {getattr(wanted, name)}"
        for name in (field.name for field in dataclasses.fields(LoadSpec))
        if getattr(loaded, name) != getattr(wanted, name)
    )
