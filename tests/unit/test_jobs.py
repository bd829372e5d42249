"""A few jobs at once, on threads that nobody has to wait for."""

import threading

import pytest

from a3s_power.cli.jobs import run_all


def test_results_come_in_order_and_progress_adds_up():
    told = []

    def job(number):
        def run(tell):
            tell(number)
            return -number

        return run

    assert run_all([job(number) for number in range(1, 10)], told.append) == [-n for n in range(1, 10)]
    assert told == sorted(told)
    assert told[-1] == 45
    assert run_all([], told.append) == []


def test_only_a_few_run_at_a_time():
    lock, running, most = threading.Lock(), 0, 0
    full = threading.Barrier(4)

    def job(_tell):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        full.wait(timeout=20)
        with lock:
            running -= 1

    run_all([job] * 8, lambda _done: None)
    assert most == 4


@pytest.mark.parametrize("exc", [OSError("broken"), KeyboardInterrupt()])
def test_a_failure_is_told_at_once_and_ends_the_others(exc):
    may_go_on, has_ended = threading.Event(), threading.Event()

    def slow(tell):
        try:
            may_go_on.wait(timeout=20)
            tell(1)
        except BaseException:
            has_ended.set()
            raise

    def failing(_tell):
        raise exc

    with pytest.raises(type(exc)):
        run_all([slow, failing], lambda _done: None)  # slow still waits: nobody waited for it
    may_go_on.set()
    assert has_ended.wait(timeout=20)


def test_ctrl_c_leaves_the_threads_behind():
    may_go_on = threading.Event()

    def slow(tell):
        tell(1)
        may_go_on.wait(timeout=20)

    def interrupted(_done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_all([slow], interrupted)
    may_go_on.set()
