"""Who gets which runner, in what order, how long runners stay, and that nothing is ever left behind."""

import math
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from a3s_power.errors import AppError, LoadFailed, LoadFailure, RunnerFailed, RunnerLost, ServerBusy
from a3s_power.names import ModelName
from a3s_power.requester import Priority, Requester
from a3s_power.runner.base import LoadSpec
from a3s_power.scheduler.placement import Capacity
from a3s_power.scheduler.scheduler import Scheduler
from a3s_power.scheduler.slots import ANYBODY, Asked, Limits, Machine
from a3s_power.units import FOREVER, GB
from tests.support.fakes import SIZE, FakeEngine, FakeMachine, FakeModel, FakePlan

pytestmark = pytest.mark.anyio

REFUSED = LoadFailed("the model could not be loaded", LoadFailure.OTHER)


class Request:
    """One request: waits, holds a lease until it is told to leave, is gone."""

    def __init__(self, model, plan):
        self.model = model
        self.plan = plan
        self.lease = None
        self.error = None
        self.is_over = False
        self.scope = anyio.CancelScope()
        self._leave = anyio.Event()
        self._and_then = lambda: None

    @property
    def is_holding(self):
        return self.lease is not None and not self.is_over

    @property
    def is_waiting(self):
        return self.lease is None and not self.is_over

    def leave(self, and_then=lambda: None):
        """Give the lease back, and do this before anybody else has a turn."""
        self._and_then = and_then
        self._leave.set()

    async def run(self, scheduler, keep_alive_s, asked):
        model = FakeModel(ModelName.parse(self.model))
        try:
            with self.scope:
                async with scheduler.lease(model, self.plan, keep_alive_s, asked) as self.lease:
                    await self._leave.wait()
                    self.lease.cost = self.lease.cost or self.lease.expected
                self._and_then()
        except AppError as exc:
            self.error = exc
        finally:
            self.is_over = True


class House:
    """A scheduler with a fake outside, and requests to it."""

    def __init__(self, total, limits):
        self.engine = FakeEngine()
        self.machine = FakeMachine(self.engine, total)
        self.scheduler = Scheduler(self.engine, self.machine.machine, limits)
        self.tasks = None

    async def ask(self, model, *, keep_alive_s=None, asked=ANYBODY, plan=None, **spec):
        """A request for a model, as far as it gets."""
        request = Request(model, FakePlan(LoadSpec(model, **{"slots": 4, **spec}), **plan or {}))
        self.tasks.start_soon(request.run, self.scheduler, keep_alive_s, asked)
        await settle()
        return request

    async def use(self, model, **options):
        """A request that comes and goes; its runner stays."""
        request = await self.ask(model, **options)
        await self.leave(request)

    async def leave(self, request, and_then=lambda: None):
        request.leave(and_then)
        await settle()

    async def cancel(self, request):
        request.scope.cancel()
        await settle()

    def unload(self, model):
        self.scheduler.unload(lambda other: other.name.model == model)

    @property
    def loaded(self):
        return [row.model.name.model for row in self.scheduler.loaded()]

    @property
    def leases(self):
        return {slot.spec.model_path: slot.leases for slot in self.scheduler._slots}


@asynccontextmanager
async def house(total=64 * GB, **limits):
    """A running House; when it is left, nothing of it may be left."""
    it = House(total, Limits(**limits))
    async with it.scheduler.running(), anyio.create_task_group() as it.tasks:
        try:
            yield it
        finally:
            it.engine.may_end.set()
            it.tasks.cancel_scope.cancel()
    assert not it.engine.processes
    assert not it.scheduler._slots
    assert not it.scheduler._queue


async def settle():
    """Until everybody waits for something that only the test can bring about."""
    for _ in range(20):  # most have come to rest by then, and the next line would sleep if they had not
        await anyio.lowlevel.checkpoint()
    await anyio.wait_all_tasks_blocked()


# ---- joining and waiting ----


async def test_ten_requests_for_one_model_load_it_once():
    async with house() as it:
        it.engine.hold_loads()
        requests = [await it.ask("a", slots=10) for _ in range(10)]
        assert all(request.is_waiting for request in requests)
        it.engine.may_load.set()
        await settle()
        assert len(it.engine.started) == 1
        assert len({request.lease.runner.pid for request in requests}) == 1


async def test_a_runner_serves_as_many_as_it_has_slots_and_the_others_in_order_of_arrival():
    async with house() as it:
        requests = [await it.ask("a", slots=2) for _ in range(5)]
        for served in range(2, 6):
            assert [request.is_holding or request.is_over for request in requests] == [
                n < served for n in range(5)
            ]
            await it.leave(requests[served - 2])
        assert len(it.engine.started) == 1


async def test_where_nobody_asked_for_a_context_the_loaded_one_does():
    async with house() as it:
        await it.use("a", num_ctx=2048, is_ctx_automatic=True)
        request = await it.ask("a", num_ctx=8192, is_ctx_automatic=True)
        assert request.lease.spec.num_ctx == 2048
        assert len(it.engine.started) == 1


async def test_a_runner_with_a_larger_context_serves_and_the_lease_says_so():
    async with house() as it:
        await it.use("a", num_ctx=8192)
        request = await it.ask("a", num_ctx=2048)
        assert request.lease.spec.num_ctx == 8192
        assert len(it.engine.started) == 1


async def test_models_that_fit_are_loaded_beside_each_other():
    async with house(total=2 * SIZE) as it:
        requests = [await it.ask(model) for model in "ab"]
        assert all(request.is_holding for request in requests)
        assert it.loaded == ["a", "b"]


async def test_a_load_counts_in_full_before_its_memory_is_taken():
    async with house(total=2 * SIZE - 1) as it:
        it.engine.hold_loads()
        await it.ask("a")
        await it.ask("b")
        assert it.engine.models == ["a"]


@pytest.mark.parametrize(
    ("held", "free"),
    [(4 * GB, 6 * GB), (1 * GB, 9 * GB)],  # what was measured counts, not the estimate
)
async def test_a_plan_has_the_last_word_of_what_is_loaded_into_what_is_free(held, free):
    async with house(total=10 * GB) as it:
        it.machine.sizes["a"] = held
        await it.use("a")
        offered = []

        def fit(free):
            offered.append(free)
            return LoadSpec("b", num_ctx=777), 5 * GB

        it.engine.hold_loads()
        await it.ask("b", plan={"fit": fit, "need": 1})
        assert offered == [free]
        assert [(row.spec.num_ctx, row.size) for row in it.scheduler.loaded()][1] == (777, 5 * GB)
        await it.ask("c", plan={"fit": fit, "need": 1})
        assert offered == [free, free - 5 * GB]


async def test_a_load_takes_what_it_has_not_yet_taken():
    async with house(total=10 * GB) as it:
        it.engine.hold_loads()
        await it.ask("a", plan={"need": 6 * GB})
        it.engine.progress[0](5 * GB)  # the machine counts these as taken
        it.machine.total -= 5 * GB
        assert (await it.ask("b", plan={"need": 5 * GB})).is_waiting
        assert it.engine.models == ["a"]
        await it.ask("c", plan={"need": 4 * GB})
        assert it.engine.models == ["a"]  # behind b, who wants room


async def test_a_model_larger_than_everything_is_tried_alone():
    async with house(total=SIZE) as it:
        assert (await it.ask("a", plan={"need": 9 * SIZE, "least": SIZE})).is_holding


async def test_a_runner_of_the_same_model_is_replaced_only_when_it_is_gone():
    async with house() as it:
        first = await it.ask("a", num_ctx=2048)
        second = await it.ask("a", num_ctx=8192)
        assert second.is_waiting
        it.engine.hold_ends()
        await it.leave(first)
        assert [spec.num_ctx for spec in it.engine.processes.values()] == [2048]
        it.engine.may_end.set()
        await settle()
        assert second.lease.spec.num_ctx == 8192
        assert it.loaded == ["a"]


@pytest.mark.parametrize("is_joined", [False, True])
async def test_a_runner_that_replaces_another_may_do_what_that_one_did(is_joined):
    def join(replaced):
        return FakePlan(LoadSpec("a", slots=4, num_ctx=8192, num_batch=replaced.num_batch), SIZE)

    async with house() as it:
        await it.use("a", num_batch=7, num_ctx=2048)
        second = await it.ask("a", num_ctx=8192, plan={"join": join if is_joined else None})
        assert (second.lease.spec.num_ctx, second.lease.spec.num_batch) == (8192, 7 if is_joined else 512)


# ---- how long runners stay ----


async def test_keep_alive_zero_unloads_after_the_last_lease():
    async with house() as it:
        one, other = await it.ask("a", keep_alive_s=0.0), await it.ask("a", keep_alive_s=0.0)
        await it.leave(one)
        assert it.loaded == ["a"]
        await it.leave(other)
        assert it.loaded == []
        assert it.engine.processes == {}


@pytest.mark.parametrize(
    ("keep_alive_s", "idle_s", "remaining_s"),
    [
        (None, 0, 300),         # the default
        (None, 299, 1),
        (None, 300, None),      # gone
        (60.0, 59, 1),
        (60.0, 60, None),
        (0.0, 0, None),
        (FOREVER, 10**9, math.inf),
    ],
)  # fmt: skip
async def test_an_idle_runner_stays_for_its_keep_alive(keep_alive_s, idle_s, remaining_s):
    async with house(keep_alive_s=300.0) as it:
        request = await it.ask("a", keep_alive_s=keep_alive_s)
        await it.leave(request, lambda: it.machine.pass_time(idle_s))
        assert [row.remaining_s for row in it.scheduler.loaded()] == ([] if remaining_s is None else [remaining_s])


async def test_a_busy_runner_never_expires_and_its_time_begins_when_it_is_idle():
    async with house(keep_alive_s=300.0) as it:
        request = await it.ask("a")
        it.machine.pass_time(10_000)
        assert [row.remaining_s for row in it.scheduler.loaded()] == [300]
        await it.leave(request, lambda: it.machine.pass_time(100))
        assert [row.remaining_s for row in it.scheduler.loaded()] == [200]
        request = await it.ask("a")
        await it.leave(request)
        assert [row.remaining_s for row in it.scheduler.loaded()] == [300]


async def test_the_end_of_keep_alive_needs_nobody_to_notice_it():
    it = House(64 * GB, Limits(keep_alive_s=0.001))
    it.scheduler = Scheduler(
        it.engine,
        Machine(lambda: Capacity(64 * GB), it.machine.machine.memory_of, anyio.current_time),
        Limits(keep_alive_s=0.001),
    )
    async with it.scheduler.running():
        async with it.scheduler.lease(FakeModel(ModelName.parse("a")), FakePlan(LoadSpec("a"))) as lease:
            pass
        assert lease.runner.pid in it.engine.processes
        with anyio.fail_after(10):
            while it.engine.processes:
                await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize(
    ("keep_alives", "remaining_s"),
    [
        ([60.0, None], 60),         # None leaves it
        ([None, 60.0], 60),         # a value replaces it
        ([FOREVER, None], math.inf),
        ([FOREVER, 60.0], 60),
        ([60.0, FOREVER], math.inf),
    ],
)  # fmt: skip
async def test_a_request_replaces_the_keep_alive_unless_it_has_none(keep_alives, remaining_s):
    async with house(keep_alive_s=300.0) as it:
        for keep_alive_s in keep_alives:
            await it.use("a", keep_alive_s=keep_alive_s)
        assert [row.remaining_s for row in it.scheduler.loaded()] == [remaining_s]


async def test_unloading_an_idle_runner_ends_it_and_no_other():
    async with house() as it:
        await it.use("a", keep_alive_s=FOREVER)
        await it.use("b")
        it.unload("a")
        await settle()
        assert it.engine.models == ["b"]


async def test_unloading_a_busy_runner_ends_it_when_its_requests_have_ended():
    async with house() as it:
        one, other = await it.ask("a"), await it.ask("a")
        it.unload("a")
        await it.leave(one)
        assert other.is_holding
        assert it.loaded == ["a"]
        await it.leave(other)
        assert it.engine.processes == {}


async def test_unloading_what_still_loads_ends_it_after_its_request():
    async with house() as it:
        it.engine.hold_loads()
        request = await it.ask("a")
        it.unload("a")
        it.engine.may_load.set()
        await settle()
        assert request.is_holding
        await it.leave(request)
        assert it.engine.processes == {}


# ---- making room ----


async def test_the_least_recently_used_idle_runner_goes_first():
    async with house(total=3 * SIZE) as it:
        for model in "abca":
            await it.use(model)
            it.machine.pass_time(1)
        assert (await it.ask("d")).is_holding
        assert it.engine.models == ["a", "c", "d"]


async def test_one_that_is_kept_forever_goes_last():
    async with house(total=2 * SIZE) as it:
        await it.use("a", keep_alive_s=FOREVER)
        it.machine.pass_time(1)
        await it.use("b")
        await it.use("c")
        assert it.engine.models == ["a", "c"]


async def test_a_load_waits_until_what_it_replaces_is_gone():
    async with house(total=SIZE) as it:
        await it.use("a")
        it.engine.hold_ends()
        request = await it.ask("b")
        assert request.is_waiting
        assert it.engine.models == ["a"]
        it.engine.may_end.set()
        await settle()
        assert request.is_holding
        assert it.engine.models == ["b"]


async def test_the_number_of_loaded_models_is_bounded():
    async with house(max_loaded=1) as it:
        await it.use("a")
        first = await it.ask("b")
        assert it.engine.models == ["b"]
        second = await it.ask("c")
        assert second.is_waiting
        await it.leave(first)
        assert second.is_holding


async def test_one_who_waits_for_room_is_not_starved_by_later_requests_for_what_is_loaded():
    async with house(total=SIZE) as it:
        busy = await it.ask("a")
        waits_for_room = await it.ask("b")
        later = await it.ask("a")  # there is a slot, but it drains
        assert waits_for_room.is_waiting
        assert later.is_waiting
        await it.leave(busy)
        assert waits_for_room.is_holding
        assert later.is_waiting
        await it.leave(waits_for_room)
        assert later.is_holding
        assert it.engine.models == ["a"]  # fmt: skip


async def test_a_runner_is_open_again_when_the_one_who_waited_for_its_room_is_gone():
    async with house(total=SIZE) as it:
        await it.ask("a")
        waits_for_room, later = await it.ask("b"), await it.ask("a")
        await it.cancel(waits_for_room)
        assert later.is_holding
        assert it.engine.models == ["a"]


async def test_nobody_loads_into_the_room_that_an_earlier_request_waits_for():
    async with house(total=2 * SIZE) as it:
        busy = await it.ask("a")
        large = await it.ask("b", plan={"need": 2 * SIZE})
        small = await it.ask("c")
        assert it.engine.models == ["a"]
        await it.leave(busy)
        assert large.is_holding
        assert small.is_waiting


async def test_a_runner_that_leaves_costs_no_other_its_place_when_it_comes_again():
    async with house(total=64 * GB) as it:
        it.machine.sizes["a"] = SIZE // 2
        await it.use("a")
        await it.use("b")
        it.engine.hold_ends()
        it.unload("a")
        await settle()
        await it.ask("a")
        assert not any(slot.is_leaving for slot in it.scheduler._slots if slot.model.name.model == "b")


# ---- what goes wrong ----


async def test_a_failed_load_reaches_all_who_waited_for_it_and_the_next_one_tries_again():
    async with house() as it:
        it.engine.hold_loads()
        it.engine.failures = [REFUSED]
        requests = [await it.ask("a") for _ in range(3)]
        it.engine.may_load.set()
        await settle()
        assert [request.error for request in requests] == [REFUSED] * 3
        assert it.loaded == []
        assert (await it.ask("a")).is_holding
        assert len(it.engine.started) == 2


async def test_an_engine_that_fails_in_an_unexpected_way_fails_its_own_requests_only():
    async with house() as it:
        other = await it.ask("b")
        it.engine.failures = [ZeroDivisionError("surprise")]
        request = await it.ask("a")
        assert isinstance(request.error, LoadFailed)
        assert other.is_holding
        assert (await it.ask("a")).is_holding


async def test_a_runner_that_dies_frees_its_slot_and_the_next_request_starts_another():
    async with house(total=SIZE) as it:
        request = await it.ask("a")
        it.engine.runners[request.lease.runner.pid].die()
        await settle()
        assert it.loaded == []
        again = await it.ask("a")
        assert again.lease.runner.pid != request.lease.runner.pid
        await it.leave(request)  # the hold on the dead one harms nobody
        assert it.leases == {"a": 1}


async def test_a_runner_that_dies_makes_room_for_who_waits():
    async with house(total=SIZE) as it:
        request = await it.ask("a")
        waiting = await it.ask("b")
        it.engine.runners[request.lease.runner.pid].die()
        await settle()
        assert waiting.is_holding


async def test_too_many_who_wait_are_refused_at_once_and_those_before_them_are_not():
    async with house(max_queue=2) as it:
        holding = await it.ask("a", slots=1)
        waiting = [await it.ask("a", slots=1) for _ in range(2)]
        refused = await it.ask("a", slots=1)
        assert isinstance(refused.error, ServerBusy)
        assert all(request.is_waiting for request in waiting)
        await it.leave(holding)
        assert waiting[0].is_holding
        assert (await it.ask("a", slots=1)).is_waiting  # there is a place in the queue again


async def test_who_is_refused_has_evicted_nobody():
    async with house(total=2 * SIZE, max_queue=1) as it:
        await it.use("idle")
        await it.ask("a", slots=1)
        assert (await it.ask("a", slots=1)).is_waiting
        assert isinstance((await it.ask("b")).error, ServerBusy)
        assert it.engine.models == ["idle", "a"]


async def test_who_need_not_wait_is_not_refused():
    async with house(max_queue=1) as it:
        await it.ask("a", slots=1)
        assert (await it.ask("a", slots=1)).is_waiting
        assert (await it.ask("b")).is_holding


async def test_those_who_wait_for_a_load_are_not_in_the_queue():
    async with house(max_queue=0) as it:
        it.engine.hold_loads()
        requests = [await it.ask("a") for _ in range(4)]
        assert [request.error for request in requests] == [None] * 4


# ---- cancelling ----


async def test_cancelled_in_the_queue_a_request_leaves_no_trace():
    async with house() as it:
        holding, waiting, next_one = [await it.ask("a", slots=1) for _ in range(3)]
        await it.cancel(waiting)
        assert waiting.scope.cancelled_caught
        await it.leave(holding)
        assert next_one.is_holding
        assert it.leases == {"a": 1}


async def test_cancelled_while_it_loads_a_request_alone_ends_the_load():
    async with house() as it:
        it.engine.hold_loads()
        request = await it.ask("a")
        await it.cancel(request)
        assert it.engine.processes == {}
        assert it.loaded == []


async def test_cancelled_while_it_loads_a_request_among_others_does_not_end_the_load():
    async with house() as it:
        it.engine.hold_loads()
        one, other = await it.ask("a"), await it.ask("a")
        await it.cancel(one)
        it.engine.may_load.set()
        await settle()
        assert other.is_holding
        assert it.leases == {"a": 1}
        assert len(it.engine.started) == 1


async def test_who_comes_while_a_load_is_given_up_gets_a_new_one():
    async with house() as it:
        it.engine.hold_loads()
        it.engine.hold_ends()
        await it.cancel(await it.ask("a"))
        assert it.engine.models == ["a"]
        request = await it.ask("a")
        it.engine.may_load.set()
        it.engine.may_end.set()
        await settle()
        assert request.is_holding


async def test_cancelled_while_it_holds_a_request_gives_the_runner_back():
    async with house() as it:
        request, waiting = await it.ask("a", slots=1), await it.ask("a", slots=1)
        await it.cancel(request)
        assert waiting.is_holding
        assert it.leases == {"a": 1}


async def test_cancelled_in_the_moment_it_is_served_a_request_gives_the_runner_back():
    async with house() as it:
        holding, waiting, next_one = [await it.ask("a", slots=1) for _ in range(3)]
        await it.leave(holding, waiting.scope.cancel)
        assert waiting.scope.cancelled_caught
        assert next_one.is_holding
        assert it.leases == {"a": 1}


async def test_an_exception_in_the_request_gives_the_runner_back():
    async with house() as it:
        with suppress(ZeroDivisionError):
            async with it.scheduler.lease(FakeModel(ModelName.parse("a")), FakePlan(LoadSpec("a"))):
                raise ZeroDivisionError
        assert it.leases == {"a": 0}


# ---- whose turn it is ----


def of(client, cost=100, priority=Priority.INTERACTIVE):
    return Asked(Requester(client, priority), cost)


async def test_a_light_client_does_not_wait_for_all_that_a_heavy_one_wants():
    async with house() as it:
        running = await it.ask("a", slots=1, asked=of("heavy"))
        heavy = [await it.ask("a", slots=1, asked=of("heavy")) for _ in range(5)]
        light = await it.ask("a", slots=1, asked=of("light"))
        await it.leave(running)
        assert light.is_holding
        await it.leave(light)
        assert [request.is_holding for request in heavy] == [True, False, False, False, False]


async def test_batch_waits_for_whoever_is_there_in_person():
    async with house() as it:
        running = await it.ask("a", slots=1, asked=of("x"))
        batch = await it.ask("a", slots=1, asked=of("y", priority=Priority.BATCH))
        interactive = await it.ask("a", slots=1, asked=of("x"))
        await it.leave(running)
        assert interactive.is_holding
        await it.leave(interactive)
        assert batch.is_holding


async def test_a_full_queue_turns_away_the_last_in_turn_and_not_the_last_to_come():
    async with house(max_queue=3) as it:
        await it.ask("a", slots=1, asked=of("heavy"))
        heavy = [await it.ask("a", slots=1, asked=of("heavy")) for _ in range(3)]
        light = await it.ask("a", slots=1, asked=of("light"))
        assert light.is_waiting
        assert [isinstance(request.error, ServerBusy) for request in heavy] == [False, False, True]


async def test_what_a_request_really_took_is_what_counts():
    async with house() as it:
        cheap, dear = await it.ask("a", slots=2, asked=of("x", 1)), await it.ask("a", slots=2, asked=of("y", 1))
        of_x, of_y = [await it.ask("a", slots=2, asked=of(client, 1)) for client in "xy"]
        cheap.lease.cost, dear.lease.cost = 10, 1000
        await it.leave(dear)
        assert (of_x.is_holding, of_y.is_holding) == (True, False)


# ---- memory ----


def growing(model, most=math.inf):
    """Plans that are joined to a larger context; for more than `most` beside their own there is no room."""

    def join(spec, other):
        joined = replace(spec, num_ctx=max(spec.num_ctx, other.num_ctx))
        need = SIZE if joined.num_ctx <= max(most, spec.num_ctx) else 999 * GB
        return FakePlan(joined, need=need, join=lambda another: join(joined, another))

    return lambda num_ctx: {"join": lambda other: join(LoadSpec(model, slots=4, num_ctx=num_ctx), other)}


@pytest.mark.parametrize(
    ("most", "loads"),
    [(math.inf, [4096, 8192]), (7000, [4096, 7000, 8192]), (5500, [4096, 5000, 6000, 7000, 8192])],
)
async def test_a_model_is_loaded_once_for_all_that_wait_as_far_as_there_is_room(most, loads):
    plan = growing("a", most)
    async with house() as it:
        holder = await it.ask("a", num_ctx=4096)
        waiting = [await it.ask("a", num_ctx=ctx, plan=plan(ctx)) for ctx in (5000, 6000, 7000, 8192)]
        await it.leave(holder)
        while not all(request.is_over for request in waiting):
            for request in waiting:
                if request.is_holding:
                    await it.leave(request)
        assert [spec.num_ctx for spec in it.engine.started] == loads
        assert [request.error for request in waiting] == [None] * 4


async def test_who_leaves_the_context_to_us_has_no_part_in_how_large_it_is():
    async with house() as it:
        holder = await it.ask("a", num_ctx=4096)
        first = await it.ask("a", num_ctx=5000, plan=growing("a")(5000))
        await it.ask("a", num_ctx=32768, is_ctx_automatic=True)
        await it.leave(holder)
        assert first.is_holding
        assert [spec.num_ctx for spec in it.engine.started] == [4096, 5000]


async def test_what_cannot_fit_is_told_so_and_nobody_is_evicted_for_it():
    async with house(total=2 * SIZE) as it:
        await it.use("a")
        request = await it.ask("b", plan={"need": 3 * SIZE})
        assert str(request.error) == f"{3 * SIZE} bytes do not fit into {2 * SIZE}"
        assert it.loaded == ["a"]


OUT_OF_MEMORY = LoadFailed("out of memory", LoadFailure.OUT_OF_MEMORY)


async def test_an_engine_without_memory_gets_a_second_smaller_try():
    async with house() as it:
        it.engine.failures = [OUT_OF_MEMORY]
        request = await it.ask(
            "a",
            num_ctx=4096,
            is_ctx_automatic=True,
            plan={"shrink": lambda loaded: replace(loaded, num_ctx=loaded.num_ctx // 2)},
        )
        assert request.lease.spec.num_ctx == 2048
        assert [spec.num_ctx for spec in it.engine.started] == [4096, 2048]


@pytest.mark.parametrize("failures, tries", [([OUT_OF_MEMORY, OUT_OF_MEMORY], 2), ([REFUSED], 1)])
async def test_there_is_no_third_try_and_none_for_other_reasons(failures, tries):
    async with house() as it:
        it.engine.failures = list(failures)
        request = await it.ask("a", plan={"shrink": lambda loaded: replace(loaded, num_ctx=1)})
        assert request.error is failures[-1]
        assert len(it.engine.started) == tries


async def test_the_most_that_a_runner_held_is_remembered():
    async with house(stall_timeout_s=10.0) as it:
        await it.use("a", keep_alive_s=FOREVER)
        for held in (6 * GB, 3 * GB):
            it.machine.sizes["a"] = held
            it.machine.pass_time(1)
            await settle()
        it.unload("a")
        await settle()
        assert [(spec.model_path, most.host) for spec, most in it.machine.recorded] == [("a", 6 * GB)]


async def test_the_bound_holds_for_those_too_who_could_join_a_runner_that_drains_for_another():
    async with house(total=SIZE, max_queue=2) as it:
        await it.ask("a")
        await it.ask("b")  # waits for a's end
        late = [await it.ask("a") for _ in range(5)]
        assert [isinstance(request.error, ServerBusy) for request in late] == [False, True, True, True, True]


async def test_who_can_never_be_served_costs_nobody_a_place():
    async with house(total=SIZE, max_queue=1) as it:
        await it.ask("a", slots=1)
        waiting = await it.ask("a", slots=1, asked=of("x", 1000))
        huge = await it.ask("b", plan={"need": 9 * SIZE}, asked=of("y", 1))
        assert isinstance(huge.error, LoadFailed)
        assert waiting.is_waiting


CORRUPT = LoadFailed("the model could not be loaded", LoadFailure.CORRUPT_FILE)


async def test_a_load_that_would_fail_again_is_told_to_all_who_wait_for_it():
    async with house() as it:
        it.engine.hold_loads()
        it.engine.failures = [CORRUPT] * 9
        requests = [await it.ask("a", slots=2) for _ in range(7)]
        it.engine.may_load.set()
        await settle()
        assert [request.error for request in requests] == [CORRUPT] * 7
        assert len(it.engine.started) == 1


async def test_whose_plan_fails_fails_alone():
    def fit(free):
        raise ZeroDivisionError

    async with house() as it:
        broken = await it.ask("a", plan={"fit": fit})
        assert str(broken.error) == "the model could not be loaded: internal error"
        assert (await it.ask("b")).is_holding


async def test_a_request_has_the_context_it_asked_for_though_its_load_came_up_with_less():
    async with house() as it:
        it.engine.hold_loads()
        it.engine.failures = [OUT_OF_MEMORY]
        shrink = {"shrink": lambda loaded: replace(loaded, num_ctx=loaded.num_ctx // 2)}
        content = await it.ask("a", num_ctx=8192, is_ctx_automatic=True, plan=shrink)
        firm = await it.ask("a", num_ctx=8192)
        it.engine.may_load.set()
        await settle()
        assert content.lease.spec.num_ctx == 4096
        await it.leave(content)
        assert firm.lease.spec.num_ctx == 8192


# ---- runners that stand still ----


async def stand_still(it, at, seconds):
    (runner,) = it.engine.runners.values()
    for _ in range(seconds):
        runner.at = at(runner.at)
        it.machine.pass_time(1)
        await settle()
    return runner


@pytest.mark.parametrize(
    "at, lives",
    [
        (lambda _: 7, False),                   # owes something, and nothing moves
        (lambda before: (before or 0) + 1, True),
        (lambda _: None, True),                 # owes nothing
    ],
)  # fmt: skip
async def test_a_runner_that_owes_something_and_stands_still_is_ended(at, lives):
    async with house(stall_timeout_s=10.0) as it:
        await it.ask("a")
        runner = await stand_still(it, at, 20)
        assert it.loaded == (["a"] if lives else [])
        assert runner.verdict == ("" if lives else "it made no progress for 10 s")


async def test_who_lost_its_runner_is_not_given_the_same_again():
    async with house() as it:
        with suppress(RunnerLost):
            async with it.scheduler.lease(FakeModel(ModelName.parse("a")), FakePlan(LoadSpec("a"))) as lease:
                first = lease.runner.pid
                raise RunnerLost("gone", first)  # before anybody has noticed that the process is gone
        request = await it.ask("a")
        assert request.lease.runner.pid != first


# ---- the end ----


async def test_leaving_ends_all_runners_loading_idle_and_busy():
    it = House(64 * GB, Limits())
    async with anyio.create_task_group() as it.tasks:
        async with it.scheduler.running():
            busy = await it.ask("busy")
            await it.use("idle")
            it.engine.hold_loads()
            loading = await it.ask("loading")
            assert it.engine.models == ["busy", "idle", "loading"]
        assert it.engine.processes == {}
        await settle()
        assert isinstance(loading.error, RunnerFailed)
        await it.leave(busy)
    assert it.scheduler._slots == []


async def test_leaving_tells_those_who_still_wait():
    it = House(SIZE, Limits())
    async with anyio.create_task_group() as it.tasks:
        async with it.scheduler.running():
            busy = await it.ask("a")
            waiting = await it.ask("b")
        await settle()
        it.tasks.cancel_scope.cancel()
        assert isinstance(waiting.error, AppError)
        assert busy.is_holding


async def test_who_comes_after_the_end_is_told_so():
    it = House(SIZE, Limits())
    async with it.scheduler.running():
        pass
    with pytest.raises(RunnerFailed):
        async with it.scheduler.lease(FakeModel(ModelName.parse("a")), FakePlan(LoadSpec("a"))):
            pass


async def test_an_error_in_the_block_comes_out_as_it_is():
    it = House(SIZE, Limits())
    with pytest.raises(ZeroDivisionError):
        async with it.scheduler.running():
            raise ZeroDivisionError


# ---- looking ----


async def test_what_is_loading_is_shown_at_once_with_its_estimate_then_with_what_was_measured():
    async with house() as it:
        it.machine.sizes["a"] = 3 * GB
        it.engine.hold_loads()
        await it.ask("a", plan={"need": 5 * GB})
        assert [(row.is_loading, row.size) for row in it.scheduler.loaded()] == [(True, 5 * GB)]
        it.engine.may_load.set()
        await settle()
        assert [(row.is_loading, row.size, row.size_vram) for row in it.scheduler.loaded()] == [(False, 3 * GB, 0)]


async def test_what_leaves_is_shown_until_it_is_gone_but_nobody_joins_it():
    async with house() as it:
        await it.use("a")
        it.engine.hold_ends()
        it.unload("a")
        await settle()
        assert it.loaded == ["a"]
        again = await it.ask("a")
        assert it.loaded == ["a", "a"]
        it.engine.may_end.set()
        await settle()
        assert again.is_holding
        assert it.loaded == ["a"]


# ---- whatever happens ----

steps = st.one_of(
    st.tuples(st.just("ask"), st.sampled_from("abc"), st.sampled_from([1024, 2048]), st.sampled_from([None, 0.0, FOREVER]),
              st.sampled_from([of("x"), of("y", 900), of("y", priority=Priority.BATCH)])),
    st.tuples(st.sampled_from(["leave", "cancel", "die"]), st.integers(0, 9)),
    st.tuples(st.just("unload"), st.sampled_from("abc")),
    st.tuples(st.sampled_from(["hold_loads", "let_load", "hold_ends", "let_end", "fail_next"])),
)  # fmt: skip


async def do(it, requests, step):
    holding = [request for request in requests if request.is_holding]
    alive = [request for request in requests if not request.is_over]
    match step:
        case ("ask", model, num_ctx, keep_alive_s, asked):
            requests.append(await it.ask(model, num_ctx=num_ctx, slots=2, keep_alive_s=keep_alive_s, asked=asked))
        case ("leave", n) if holding:
            holding[n % len(holding)].leave()
        case ("cancel", n) if alive:
            alive[n % len(alive)].scope.cancel()
        case ("die", n) if it.engine.runners:
            list(it.engine.runners.values())[n % len(it.engine.runners)].die()
        case ("unload", model):
            it.unload(model)
        case ("hold_loads" | "hold_ends" as hold,):
            getattr(it.engine, hold)()
        case ("let_load",):
            it.engine.may_load.set()
        case ("let_end",):
            it.engine.may_end.set()
        case ("fail_next",):
            it.engine.failures = [REFUSED]
    await settle()


async def tell(story):
    """Play it, then let everybody finish; `house` looks for what is left."""
    requests = []
    async with house(total=2 * SIZE, max_queue=8) as it:
        for step in story:
            await do(it, requests, step)
            for slot in it.scheduler._slots:
                assert 0 <= slot.leases <= slot.spec.slots
            assert it.machine.machine.available().host >= 0
        it.engine.may_load.set()
        it.engine.may_end.set()
        it.engine.failures = []
        await settle()
        while any(not request.is_over for request in requests):
            holding = [request for request in requests if request.is_holding]
            assert holding, "somebody waits, and nobody is there to wait for"
            await it.leave(holding[0])
        assert all(request.lease or request.error or request.scope.cancelled_caught for request in requests)


@given(st.lists(steps, max_size=14))
@settings(max_examples=60, deadline=None)
def test_every_request_is_served_or_told_why_not_and_nothing_is_overcommitted(story):
    anyio.run(tell, story)
