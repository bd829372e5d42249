"""A few long jobs at once, on threads that nobody has to wait for."""

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from queue import SimpleQueue
from typing import Generic, TypeAlias, TypeVar

T = TypeVar("T")
Tell: TypeAlias = Callable[[int], None]
"""Takes how many bytes are done."""
Job: TypeAlias = Callable[[Tell], T]

_AT_ONCE = 4  # enough to keep a disk and the cores busy, few enough for a disk that turns


@dataclass(frozen=True, slots=True)
class _Moved:
    number: int
    done: int


@dataclass(frozen=True, slots=True)
class _Ended(Generic[T]):
    number: int
    result: T


@dataclass(frozen=True, slots=True)
class _Failed:
    exc: BaseException


class _Stopped(Exception):
    """Nobody wants the job's result any more."""


def run_all(jobs: Sequence[Job[T]], on_progress: Tell) -> list[T]:
    """What the jobs return, in their order. Progress is the sum of theirs, told on the caller's thread.

    The first failure ends it, as Ctrl+C does. Nothing waits for the threads then: each ends when it next tells how
    far it is, and one that hangs in a read or a write is a daemon, which does not keep the program.
    """
    news: SimpleQueue[_Moved | _Ended[T] | _Failed] = SimpleQueue()
    stopping = threading.Event()

    def run(number: int) -> None:
        def tell(done: int) -> None:
            if stopping.is_set():
                raise _Stopped
            news.put(_Moved(number, done))

        try:
            news.put(_Ended(number, jobs[number](tell)))
        except BaseException as exc:  # whatever it is, it belongs to the caller's thread
            news.put(_Failed(exc))

    waiting = iter(range(len(jobs)))
    amounts, results = [0] * len(jobs), dict[int, T]()
    try:
        _start(run, islice(waiting, _AT_ONCE))
        while len(results) < len(jobs):
            match news.get():
                case _Moved(number, done):
                    amounts[number] = done
                    on_progress(sum(amounts))
                case _Ended(number, result):
                    results[number] = result
                    _start(run, islice(waiting, 1))
                case _Failed(exc):
                    raise exc
    finally:
        stopping.set()
    return [results[number] for number in range(len(jobs))]


def _start(run: Callable[[int], None], numbers: Iterable[int]) -> None:
    for number in numbers:
        threading.Thread(target=run, args=(number,), daemon=True).start()
