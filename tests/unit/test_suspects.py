"""Requests that have ended runners: how often, how long it is remembered, and what counts as the same request."""

import pytest

from a3s_power.errors import RunnerGone, RunnerLost, Suspected
from a3s_power.service.suspects import KILLS, MOST, REMEMBERED_S, Suspects


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


def lose(suspects, request, pid):
    with pytest.raises(RunnerLost), suspects.watching(request):
        raise RunnerLost("gone", pid)


def is_served(suspects, request):
    try:
        with suspects.watching(request):
            return True
    except Suspected:
        return False


def test_a_request_may_end_a_runner_once_but_not_for_ever(suspects):
    for pid in range(1, KILLS + 1):
        assert is_served(suspects, "a")
        lose(suspects, "a", pid)
    assert not is_served(suspects, "a")
    assert is_served(suspects, "b")


def test_several_at_the_same_runner_are_one_death(suspects):
    for _ in range(5):
        lose(suspects, "a", 7)
    assert is_served(suspects, "a")


def test_who_never_reached_a_runner_is_not_blamed_for_its_end(suspects):
    for pid in range(1, KILLS):
        lose(suspects, "waited", pid)
    with pytest.raises(RunnerGone), suspects.watching("waited"):
        raise RunnerGone("gone", KILLS)
    assert is_served(suspects, "waited")


def test_it_is_forgotten_after_a_while_from_the_last_death(suspects, clock):
    lose(suspects, "a", 1)
    clock.now = REMEMBERED_S
    lose(suspects, "a", 2)
    clock.now = 2 * REMEMBERED_S
    assert not is_served(suspects, "a")
    clock.now += 1
    assert is_served(suspects, "a")
    lose(suspects, "a", 3)
    assert is_served(suspects, "a")  # the old ones do not count again


def test_other_errors_are_nobody_s_fault(suspects):
    for _ in range(9):
        with pytest.raises(ZeroDivisionError), suspects.watching("a"):
            raise ZeroDivisionError
    assert is_served(suspects, "a")


def test_so_many_are_remembered_and_no_more(suspects):
    for pid in range(1, KILLS + 1):
        lose(suspects, "the first", pid)
    for request in range(MOST):
        lose(suspects, request, 1)
    assert is_served(suspects, "the first")


def test_texts_that_are_no_unicode_have_a_digest(suspects):
    lose(suspects, {"prompt": "\ud800"}, 1)
