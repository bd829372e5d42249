"""Requests that have ended runners: tried once more with care, then not again for a while."""

import hashlib
import logging
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import anyio

from a3s_power.errors import RunnerGone, RunnerLost, Suspected

T = TypeVar("T")

KILLS = 2
"""Runners that a request may end; each time others lose theirs, too."""
REMEMBERED_S = 600.0
MOST = 1024

log = logging.getLogger(__name__)


async def tried_twice(attempt: Callable[[], Awaitable[T]], model: str) -> T:
    """What the attempt comes to; a runner that is lost before there is anything is replaced once."""
    try:
        return await attempt()
    except RunnerLost as exc:
        log.warning("tried again on another runner", extra={"model": model, "error": str(exc)})
        try:
            return await attempt()
        except Suspected:
            raise exc from None  # that was its second


@dataclass(slots=True)
class _Record:
    """What is known of a suspect."""

    pids: set[int] = field(default_factory=set)
    """Of runners that were lost: several requests that are alike may have been at the same one."""
    last: float = 0.0
    told: int = 0
    """Events it had told when a runner was lost, at most."""


@dataclass(slots=True, eq=False)
class _Trial:
    """A suspect at a runner, or on its way there, while the others of its model wait."""

    digest: bytes
    attempts: int = 0
    """Requests that are alike are tried together."""
    pids: set[int] = field(default_factory=set)
    over: anyio.Event = field(default_factory=anyio.Event)


class Attempt:
    """One request, as it gets on."""

    def __init__(self, trial: _Trial | None = None, told_before: int = 0) -> None:
        self.told = 0
        """Events so far."""
        self.trial = trial
        """None of one that is no suspect, or has got further than the last time."""
        self._told_before = told_before

    def reaches(self, pid: int) -> None:
        """It has a runner."""
        if self.trial is not None:
            self.trial.pids.add(pid)

    def tells(self) -> None:
        """One more event has come."""
        self.told += 1
        if self.trial is not None and self.told > self._told_before:
            self.leave()

    def leave(self) -> None:
        """It is not on trial any more."""
        trial, self.trial = self.trial, None
        if trial is not None:
            trial.attempts -= 1
            if not trial.attempts:
                trial.over.set()


class Suspects:
    """What was asked of runners when they were lost.

    Which of the requests at a runner ended it nobody can tell at first, so all are suspected; not those that never
    got there. From then on each of them is tried while no other one is at the model's runners, until it has got
    further than it had: if a runner is lost during that, it alone is blamed. A reply that comes to its end clears
    it. So an innocent one has to meet two guilty ones.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._records: OrderedDict[bytes, _Record] = OrderedDict()  # by digest
        self._trials: dict[Path | None, _Trial] = {}  # by model
        self._explained: deque[int] = deque(maxlen=64)
        """Runners that were lost to a suspect on trial."""

    @asynccontextmanager
    async def watching(self, model: Path | None, request: object) -> AsyncIterator[Attempt]:
        """Serve a request, whose `repr` is all that matters of it, when it is its turn.

        Raises Suspected for one that is not served.
        """
        attempt = Attempt()
        if self._records:  # or nobody needs to look at it
            attempt = await self._admitted(model, _digest(model, request))
        try:
            yield attempt
        except RunnerGone:
            raise
        except RunnerLost as exc:
            if attempt.trial is not None:
                self._explained.append(exc.pid)
                self._blame(_digest(model, request), exc.pid, attempt.told)
            elif not self._is_explained(exc.pid):
                self._blame(_digest(model, request), exc.pid, attempt.told)
            raise
        else:
            if self._records:
                self._records.pop(_digest(model, request), None)
        finally:
            attempt.leave()

    async def _admitted(self, model: Path | None, digest: bytes) -> Attempt:
        while (record := self._record(digest)) is not None:
            trial = self._trials.get(model)
            if trial is None or trial.over.is_set():
                trial = self._trials[model] = _Trial(digest)
            if trial.digest == digest:
                trial.attempts += 1
                return Attempt(trial, record.told)
            await trial.over.wait()
        return Attempt()

    def _record(self, digest: bytes) -> _Record | None:
        record = self._records.get(digest)
        if record is None:
            return None
        if self._clock() - record.last > REMEMBERED_S:
            del self._records[digest]
            return None
        if len(record.pids) >= KILLS:
            raise Suspected(
                f"this request has ended the model's runner {len(record.pids)} times and is not tried again for "
                f"{REMEMBERED_S / 60:.0f} minutes; a different prompt, context length or model may do"
            )
        return record

    def _is_explained(self, pid: int) -> bool:
        going_on = (trial for trial in self._trials.values() if not trial.over.is_set())
        return pid in self._explained or any(pid in trial.pids for trial in going_on)

    def _blame(self, digest: bytes, pid: int, told: int) -> None:
        record = self._records.pop(digest, None) or _Record()
        record.pids.add(pid)
        record.last = self._clock()
        record.told = max(record.told, told)
        self._records[digest] = record
        if len(self._records) > MOST:
            self._records.popitem(last=False)


def _digest(model: Path | None, request: object) -> bytes:
    text = repr((model, request))
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()
