"""Requests that have ended runners: who is suspected, how they are tried, and how long it is remembered."""

from pathlib import Path

import anyio
import pytest

from a3s_power.errors import RunnerGone, RunnerLost, Suspected
from a3s_power.service.suspects import KILLS, MOST, REMEMBERED_S, Suspects, tried_twice

pytestmark = pytest.mark.anyio
MODEL, OTHER_MODEL = Path("/model"), Path("/other")


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def suspects(clock):
    return Suspects(clock)


async def lose(suspects, request, pid, told=0):
    with pytest.raises(RunnerLost):
        async with suspects.watching(MODEL, request) as attempt:
            attempt.reaches(pid)
            for _ in range(told):
                attempt.tells()
            raise RunnerLost("gone", pid)


async def is_served(suspects, request):
    """And left before its end, which proves nothing."""
    with anyio.CancelScope() as scope:
        try:
            async with suspects.watching(MODEL, request):
                scope.cancel()
                await anyio.lowlevel.checkpoint()
        except Suspected:
            return False
    return True


class Request:
    """One on its way, in a task of its own: to be told what happens to it."""

    def __init__(self, tasks, suspects, name, model=MODEL):
        self.attempt = None
        self.outcome = None
        self._suspects, self._name, self._model = suspects, name, model
        self._ends, self._error = anyio.Event(), None
        self._scope = anyio.CancelScope()
        tasks.start_soon(self._run)

    async def _run(self):
        with self._scope:
            try:
                async with self._suspects.watching(self._model, self._name) as self.attempt:
                    await self._ends.wait()
                    if self._error:
                        raise self._error
                self.outcome = "served"
            except (RunnerLost, Suspected) as exc:
                self.outcome = type(exc)

    @property
    def is_let_in(self):
        return self.attempt is not None

    def at(self, pid, told=0):
        self.attempt.reaches(pid)
        for _ in range(told):
            self.attempt.tells()

    async def ends(self, error=None):
        self._error = error
        self._ends.set()
        await anyio.wait_all_tasks_blocked()

    async def leaves(self):
        self._scope.cancel()
        await anyio.wait_all_tasks_blocked()


@pytest.fixture
async def begin(suspects):
    """Begins a request; all that are left are cancelled."""
    async with anyio.create_task_group() as tasks:

        async def one(name, model=MODEL):
            request = Request(tasks, suspects, name, model)
            await anyio.wait_all_tasks_blocked()
            return request

        yield one
        tasks.cancel_scope.cancel()


async def lose_together(begin, pid, told):
    """Several at one runner, which is lost; name → events it had told."""
    requests = [await begin(name) for name in told]
    for request, events in zip(requests, told.values(), strict=True):
        request.at(pid, events)
    for request in requests:
        await request.ends(RunnerLost("gone", pid))


# ---- who is refused ----


async def test_a_request_may_end_a_runner_once_but_not_for_ever(suspects):
    for pid in range(1, KILLS + 1):
        assert await is_served(suspects, "a")
        await lose(suspects, "a", pid)
    assert not await is_served(suspects, "a")
    assert await is_served(suspects, "b")


async def test_several_that_are_alike_at_the_same_runner_are_one_death(suspects, begin):
    await lose_together(begin, 7, dict.fromkeys(["a"], 0))
    both = [await begin("a"), await begin("a")]
    assert all(request.is_let_in for request in both)
    for request in both:
        request.at(8)
    for request in both:
        await request.ends(RunnerLost("gone", 8))
    assert [request.outcome for request in both] == [RunnerLost, RunnerLost]
    with pytest.raises(Suspected, match="ended the model's runner 2 times"):
        async with suspects.watching(MODEL, "a"):
            pass


async def test_who_never_reached_a_runner_is_not_blamed_for_its_end(suspects):
    for pid in range(1, KILLS):
        await lose(suspects, "waited", pid)
    with pytest.raises(RunnerGone):
        async with suspects.watching(MODEL, "waited"):
            raise RunnerGone("gone", KILLS)
    assert await is_served(suspects, "waited")


async def test_it_is_forgotten_after_a_while_from_the_last_death(suspects, clock):
    await lose(suspects, "a", 1)
    clock.now = REMEMBERED_S
    await lose(suspects, "a", 2)
    clock.now = 2 * REMEMBERED_S
    assert not await is_served(suspects, "a")
    clock.now += 1
    assert await is_served(suspects, "a")
    await lose(suspects, "a", 3)
    assert await is_served(suspects, "a")  # the old ones do not count again


async def test_a_reply_that_comes_to_its_end_clears_its_request(suspects):
    await lose(suspects, "a", 1)
    async with suspects.watching(MODEL, "a"):
        pass
    await lose(suspects, "a", 2)
    assert await is_served(suspects, "a")


async def test_other_errors_are_nobody_s_fault(suspects):
    for _ in range(9):
        with pytest.raises(ZeroDivisionError):
            async with suspects.watching(MODEL, "a"):
                raise ZeroDivisionError
    assert await is_served(suspects, "a")


async def test_so_many_are_remembered_and_no_more(suspects):
    for pid in range(1, KILLS + 1):
        await lose(suspects, "the first", pid)
    for request in range(MOST):
        await lose(suspects, request, 1000 + request)
    assert await is_served(suspects, "the first")


async def test_texts_that_are_no_unicode_have_a_digest(suspects):
    await lose(suspects, {"prompt": "\ud800"}, 1)


# ---- one after the other ----


async def test_suspects_of_a_model_are_tried_one_after_the_other(begin):
    await lose_together(begin, 1, {"guilty": 0, "a": 0, "b": 0})
    first, second, third = [await begin(name) for name in ("a", "guilty", "b")]
    assert [first.is_let_in, second.is_let_in, third.is_let_in] == [True, False, False]
    assert (await begin("no suspect")).is_let_in
    first.at(2, told=1)  # further than it was
    await anyio.wait_all_tasks_blocked()
    assert second.is_let_in
    assert not third.is_let_in


async def test_only_the_one_on_trial_is_blamed(suspects, begin):
    """Though others that had passed, or were none, lose the same runner: whoever of them learns of it first."""
    await lose_together(begin, 1, dict.fromkeys(["guilty", "a", "b"], 0))
    passed = [await begin("a"), await begin("b")]
    for request in passed:
        request.at(2, told=1)
        await anyio.wait_all_tasks_blocked()
    bystander, guilty = await begin("no suspect"), await begin("guilty")
    guilty.at(2)
    for request in (bystander, passed[0], guilty, passed[1]):
        await request.ends(RunnerLost("gone", 2))
    assert [await is_served(suspects, name) for name in ("a", "b", "no suspect", "guilty")] == [
        True,
        True,
        True,
        False,
    ]
    assert (await begin("no suspect")).is_let_in


async def test_who_had_told_something_is_on_trial_until_it_has_told_more(suspects, begin):
    await lose_together(begin, 1, {"late": 3, "a": 0})
    late, innocent = await begin("late"), await begin("a")
    late.at(2, told=3)
    await anyio.wait_all_tasks_blocked()
    assert not innocent.is_let_in
    await late.ends(RunnerLost("gone", 2))
    assert innocent.is_let_in
    assert not await is_served(suspects, "late")


async def test_one_that_leaves_while_it_is_tried_or_waits_lets_the_next_one_in(begin):
    await lose_together(begin, 1, {"a": 0, "b": 0, "c": 0})
    first, second, third = [await begin(name) for name in ("a", "b", "c")]
    await second.leaves()
    assert not third.is_let_in
    await first.leaves()
    assert third.is_let_in


async def test_models_do_not_wait_for_each_other(begin):
    for pid, model in enumerate((MODEL, OTHER_MODEL)):
        await (await begin("a", model)).ends(RunnerLost("gone", pid))
    assert [(await begin("a", model)).is_let_in for model in (MODEL, OTHER_MODEL)] == [True, True]


# ---- the second attempt ----


async def attempts(*outcomes):
    """What comes of attempts that end like these, and how many there were."""
    left = list(outcomes)

    async def attempt():
        outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return await tried_twice(attempt, "m"), len(left)


LOST = RunnerLost("gone", 1)


async def test_a_lost_runner_is_replaced_once():
    assert await attempts("said", "unused") == ("said", 1)
    assert await attempts(LOST, "said") == ("said", 0)
    with pytest.raises(RunnerLost):
        await attempts(LOST, LOST, "unused")


async def test_who_has_just_ended_its_second_runner_is_told_of_that():
    with pytest.raises(RunnerLost):
        await attempts(LOST, Suspected("refused"))
