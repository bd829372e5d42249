"""Who may fill how much of a pool of KV cells, in what order, and that it never overflows."""

import math
from contextlib import asynccontextmanager

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from a3s_power.scheduler.tokens import TokenPool

pytestmark = pytest.mark.anyio

SIZE = 10


def nothing():
    pass


class Request:
    """One request: reserves, changes what it holds as it is told, is gone."""

    def __init__(self, name, tokens):
        self.name = name
        self.tokens = tokens
        self.reservation = None
        self.is_waiting = True
        self.is_over = False
        self.scope = anyio.CancelScope()
        self._tell, self._orders = anyio.create_memory_object_stream(math.inf)

    @property
    def held(self):
        return self.reservation.tokens if self.reservation else 0

    @property
    def is_holding(self):
        return not self.is_waiting and not self.is_over

    def change(self, tokens):
        self._tell.send_nowait((tokens, nothing))

    def leave(self, before=nothing, after=nothing):
        """Give all back, and do these just before and after it, when nobody else has had a turn in between."""
        self._after = after
        self._tell.send_nowait((None, before))

    async def run(self, pool, served):
        try:
            with self._tell, self._orders, self.scope:
                async with pool.reserved(self.tokens) as self.reservation:
                    await self._obey(served)
                self._after()
        finally:
            self.is_over = True

    async def _obey(self, served):
        served.append(self)
        self.is_waiting = False
        async for tokens, before in self._orders:
            before()
            if tokens is None:
                return
            self.is_waiting = True
            await self.reservation.change(tokens)
            self.is_waiting = False
            served.append(self)


class House:
    """A pool, and requests to it. Names are given in order of age."""

    def __init__(self):
        self.pool = TokenPool(SIZE)
        self.requests = []
        self.served = []
        self.tasks = None

    async def ask(self, *wishes):
        """A request for each, as far as they get."""
        came = []
        for tokens in wishes:
            came.append(Request("abcdefghijklmnopqrstuvwxyz"[len(self.requests)], tokens))
            self.requests.append(came[-1])
            self.tasks.start_soon(came[-1].run, self.pool, self.served)
            await settle()
        return came

    async def change(self, request, tokens):
        request.change(tokens)
        await settle()

    async def leave(self, request, **around):
        request.leave(**around)
        await settle()

    async def cancel(self, request):
        request.scope.cancel()
        await settle()

    @property
    def held(self):
        """What each holds who is still there: `{"a": 4}`; 0 if it waits."""
        return {request.name: request.held for request in self.requests if not request.is_over}

    @property
    def waiting(self):
        return "".join(request.name for request in self.requests if request.is_waiting and not request.is_over)


@asynccontextmanager
async def house(*wishes):
    """A House with these requests; when it is left, nothing is held."""
    it = House()
    async with anyio.create_task_group() as it.tasks:
        try:
            await it.ask(*wishes)
            yield it
        finally:
            it.tasks.cancel_scope.cancel()
    assert it.pool.free == SIZE
    assert not it.pool._reservations


async def settle():
    """Until everybody waits for something that only the test can bring about."""
    for _ in range(20):  # most have come to rest by then, and the next line would sleep if they had not
        await anyio.lowlevel.checkpoint()
    await anyio.wait_all_tasks_blocked()


# ---- coming ----


@pytest.mark.parametrize(
    ("wishes", "held"),
    [
        ([10], [10]),
        ([4, 6], [4, 6]),
        ([4, 7], [4, 0]),
        ([4, 4, 4], [4, 4, 0]),
        ([4, 7, 1], [4, 0, 0]),  # nobody overtakes one that waits, though there is room
        ([4, 7, 0], [4, 0, 0]),
        ([0, 10, 0], [0, 10, 0]),
    ],
)
async def test_a_request_holds_what_fits_if_nobody_waits(wishes, held):
    async with house(*wishes) as it:
        assert list(it.held.values()) == held
        assert it.pool.free == SIZE - sum(held)


@pytest.mark.parametrize(("wishes", "waiting"), [([4], ""), ([4, 7], "b"), ([4, 7, 1], "bc"), ([4, 7, 0], "b")])
async def test_who_wants_nothing_never_waits(wishes, waiting):
    async with house(*wishes) as it:
        assert it.waiting == waiting
        assert it.pool.is_contended == bool(waiting)


@pytest.mark.parametrize("tokens", [-1, SIZE + 1])
async def test_what_can_never_be_held_is_refused_and_changes_nothing(tokens):
    async with house(4) as it:
        with pytest.raises(ValueError, match=f"{tokens} of 10 tokens"):
            async with it.pool.reserved(tokens):
                pass
        with pytest.raises(ValueError, match=f"{tokens} of 10 tokens"):
            await it.requests[0].reservation.change(tokens)
        assert it.held == {"a": 4}
        assert it.pool.free == 6


# ---- leaving ----


@pytest.mark.parametrize(
    ("wishes", "leaves", "held"),
    [
        ([4, 6, 4, 6], "a", {"b": 6, "c": 4, "d": 0}),
        ([4, 6, 3, 3], "b", {"a": 4, "c": 3, "d": 3}),
        ([4, 6, 3, 4], "b", {"a": 4, "c": 3, "d": 0}),
        ([4, 6, 7, 1], "b", {"a": 4, "c": 0, "d": 0}),  # the one that would fit stays behind the older
    ],
)
async def test_who_leaves_makes_room_for_the_oldest_that_wait(wishes, leaves, held):
    async with house(*wishes) as it:
        await it.leave(next(request for request in it.requests if request.name == leaves))
        assert it.held == held


async def test_an_exception_in_the_block_gives_all_back():
    async with house() as it:
        with pytest.raises(ZeroDivisionError):
            async with it.pool.reserved(SIZE):
                await it.ask(4)
                raise ZeroDivisionError
        await settle()
        assert it.held == {"a": 4}


# ---- wanting more, or less ----


@pytest.mark.parametrize(
    ("wishes", "who", "tokens", "held", "waiting"),
    [
        ([4], "a", 10, {"a": 10}, ""),
        ([4], "a", 0, {"a": 0}, ""),
        ([4, 4], "a", 6, {"a": 6, "b": 4}, ""),
        ([4, 4], "a", 7, {"a": 0, "b": 4}, "a"),  # it holds nothing while it waits
        ([4, 4], "b", 7, {"a": 4, "b": 0}, "b"),
        ([4, 4, 3], "a", 5, {"a": 5, "b": 4, "c": 0}, "c"),  # those who wait are younger
        ([4, 4, 3], "a", 7, {"a": 0, "b": 4, "c": 0}, "ac"),  # it would have room for c, which is younger
        ([4, 4, 3], "b", 3, {"a": 4, "b": 3, "c": 3}, ""),
        ([4, 4, 3], "b", 4, {"a": 4, "b": 4, "c": 0}, "c"),
        ([0, 4, 7, 0], "d", 1, {"a": 0, "b": 4, "c": 0, "d": 0}, "cd"),  # somebody older waits
        ([3, 4, 7, 0], "a", 0, {"a": 0, "b": 4, "c": 0, "d": 0}, "c"),
        ([4, 4, 7, 0], "a", 2, {"a": 2, "b": 4, "c": 0, "d": 0}, "c"),
    ],
)
async def test_more_is_held_if_it_fits_and_nobody_older_waits_and_less_at_once(wishes, who, tokens, held, waiting):
    async with house(*wishes) as it:
        await it.change(next(request for request in it.requests if request.name == who), tokens)
        assert it.held == held
        assert it.waiting == waiting


async def test_who_wants_more_while_somebody_older_waits_lets_it_go_first():
    async with house(4, 5) as it:
        older, younger = it.requests
        await it.change(older, 6)
        assert it.held == {"a": 0, "b": 5}
        await it.change(younger, 6)  # which would have fitted
        assert it.held == {"a": 6, "b": 0}
        await it.leave(older)
        assert it.held == {"b": 6}


async def test_both_go_on_if_what_the_younger_gives_back_is_enough_for_both():
    async with house(1, 4, 5) as it:
        await it.change(it.requests[0], 3)
        await it.leave(it.requests[2])
        await it.change(it.requests[1], 5)
        assert it.held == {"a": 3, "b": 5}


async def test_who_has_been_going_on_for_long_comes_before_those_who_came_later():
    async with house(3, 7, 5, 2) as it:
        first, second, *_ = it.requests
        await it.change(first, 4)
        assert it.waiting == "acd"
        await it.leave(second)
        assert it.held == {"a": 4, "c": 5, "d": 0}


async def test_when_all_want_to_grow_the_youngest_is_set_aside():
    async with house(3, 3, 3) as it:
        for request in it.requests:
            await it.change(request, 5)
        assert it.held == {"a": 5, "b": 5, "c": 0}
        await it.leave(it.requests[0])
        assert it.held == {"b": 5, "c": 5}


# ---- cancelling ----


@pytest.mark.parametrize("waits_again", [False, True])
@pytest.mark.parametrize(
    ("cancelled", "held"),
    [
        ("holding", {"waiting": 4, "next": 4}),
        ("waiting", {"holding": 7, "next": 0}),
        ("next", {"holding": 7, "waiting": 0}),
    ],
)
async def test_cancelled_a_request_gives_all_back_and_the_next_ones_come(waits_again, cancelled, held):
    async with house() as it:
        if waits_again:
            waiting, holding = await it.ask(1, 7)
            await it.change(waiting, 4)
        else:
            holding, waiting = await it.ask(7, 4)
        (next_one,) = await it.ask(4)
        everybody = {"holding": holding, "waiting": waiting, "next": next_one}
        await it.cancel(everybody[cancelled])
        assert everybody[cancelled].scope.cancelled_caught
        assert {name: one.held for name, one in everybody.items() if not one.is_over} == held


@pytest.mark.parametrize("waits_again", [False, True])
async def test_one_that_waits_and_leaves_stands_in_nobodys_way(waits_again):
    async with house() as it:
        if waits_again:
            waiting, _ = await it.ask(2, 4)
            await it.change(waiting, 7)
        else:
            _, waiting = await it.ask(4, 7)
        (next_one,) = await it.ask(6)
        assert next_one.held == 0
        await it.cancel(waiting)
        assert next_one.held == 6


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("waits_again", [False, True])
async def test_cancelled_in_the_moment_it_is_served_a_request_gives_all_back(moment, waits_again):
    async with house() as it:
        if waits_again:
            waiting, holding = await it.ask(3, 7)
            await it.change(waiting, 8)
        else:
            holding, waiting = await it.ask(7, 8)
        (next_one,) = await it.ask(6)
        await it.leave(holding, **{moment: waiting.scope.cancel})
        assert waiting.scope.cancelled_caught
        assert it.held == {next_one.name: 6}


async def test_who_gives_up_waiting_for_more_holds_nothing_and_may_ask_again():
    async with house() as it:
        async with it.pool.reserved(2) as reservation:
            (other,) = await it.ask(8)
            with anyio.move_on_after(0):
                await reservation.change(3)
            assert (reservation.tokens, reservation.is_waiting) == (0, False)
            await reservation.change(2)
            assert (reservation.tokens, other.held) == (2, 8)


async def test_who_gives_up_in_the_moment_it_is_served_holds_nothing_and_the_next_one_comes():
    async with house() as it:
        async with it.pool.reserved(2) as reservation:
            holding, next_one = await it.ask(8, 8)
            with anyio.CancelScope() as patience:
                holding.leave(before=patience.cancel)
                await reservation.change(3)
            await settle()
            assert (reservation.tokens, next_one.held) == (0, 8)


# ---- how far to go in one step ----


@pytest.mark.parametrize(
    ("wishes", "step"),
    [
        ([], 4),
        ([2], 4),
        ([4], 3),  # half of what is free
        ([5], 2),
        ([10], 2),  # it will have to wait for it
        ([4, 7], 2),  # somebody waits
    ],
)
async def test_steps_are_long_while_there_is_room(wishes, step):
    async with house(*wishes) as it:
        assert it.pool.step(at_least=2, at_most=4) == step


# ---- whatever happens ----

amounts = st.integers(0, SIZE)
steps = st.one_of(
    st.tuples(st.just("ask"), amounts),
    st.tuples(st.just("change"), st.integers(0, 9), amounts),
    st.tuples(st.sampled_from(["leave", "cancel"]), st.integers(0, 9)),
    st.tuples(st.just("leave and cancel"), st.integers(0, 9), st.integers(0, 9), st.sampled_from(["before", "after"])),
)  # fmt: skip


async def do(it, step):
    holding = [request for request in it.requests if request.is_holding]
    alive = [request for request in it.requests if not request.is_over]
    match step:
        case ("ask", tokens):
            await it.ask(tokens)
        case ("change", n, tokens) if holding:
            await it.change(holding[n % len(holding)], tokens)
        case ("leave", n) if holding:
            await it.leave(holding[n % len(holding)])
        case ("cancel", n) if alive:
            await it.cancel(alive[n % len(alive)])
        case ("leave and cancel", n, m, moment) if holding:
            await it.leave(holding[n % len(holding)], **{moment: alive[m % len(alive)].scope.cancel})


def look(it, held_before):
    """What is true whenever everybody has come to rest."""
    alive = [request for request in it.requests if not request.is_over]
    waiting = [request for request in alive if request.is_waiting]
    assert it.pool.free == SIZE - sum(it.held.values()) >= 0
    assert [request.held for request in waiting] == [0] * len(waiting)
    assert it.pool.is_contended == bool(waiting)
    if waiting:
        oldest = next(reservation for reservation in it.pool._reservations if reservation.is_waiting)
        assert oldest.wanted > it.pool.free
        got_more = [name for name, tokens in it.held.items() if tokens > held_before.get(name, 0)]
        assert all(name < waiting[0].name for name in got_more)


async def tell(story):
    """Play it, then let everybody leave who holds, until nobody waits; `house` looks for what is left."""
    async with house() as it:
        for step in story:
            held_before = it.held
            await do(it, step)
            look(it, held_before)
        while alive := [request for request in it.requests if not request.is_over]:
            holding = [request for request in alive if request.is_holding]
            assert holding, "somebody waits, and nobody is there to wait for"
            held_before = it.held
            await it.leave(holding[-1])
            look(it, held_before)
        assert all(request in it.served or request.scope.cancelled_caught for request in it.requests)


@given(st.lists(steps, max_size=20))
@settings(max_examples=150, deadline=None)
def test_whoever_waits_is_served_by_age_and_nothing_is_overcommitted(story):
    anyio.run(tell, story)


async def go_on_to_the_end(pool, prompt, end, finished):
    """An open-ended request, with a turn of everybody else between its steps."""
    async with pool.reserved(prompt) as reservation:
        while reservation.tokens < end:
            assert pool.free >= 0
            await anyio.lowlevel.checkpoint()
            await reservation.change(min(end, reservation.tokens + pool.step(at_least=1, at_most=4)))
        finished.append((prompt, end))


async def generate(requests):
    pool, finished = TokenPool(SIZE), []
    async with anyio.create_task_group() as tasks:
        for prompt, end in requests:
            tasks.start_soon(go_on_to_the_end, pool, prompt, end, finished)
        await settle()
        tasks.cancel_scope.cancel()  # those who would otherwise wait for ever
    assert sorted(finished) == sorted(requests)
    assert pool.free == SIZE


@given(st.lists(st.tuples(amounts, amounts), max_size=8))
@settings(max_examples=100, deadline=None)
def test_open_ended_requests_that_outgrow_the_pool_together_all_come_to_their_end(requests):
    anyio.run(generate, requests)
