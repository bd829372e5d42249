"""Many clients at once, of whom some leave, at a server whose runners are killed.

Nothing here goes by the clock. A storm's time is what happens in it: who leaves does so when so many items of the
answer have come, or so many others are done; a runner dies when so many are.
"""

import os
import random
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import anyio
import httpx2
import psutil

from tests.support.api import API
from tests.support.asking import Answer, Dialect, Failure, outcome_of

PS_TIMEOUT_S = 5
"""At once, on a machine that has a lot to do."""
ANSWER_TIMEOUT_S = 90


@dataclass(frozen=True, slots=True)
class AfterItems:
    """Leave when so many items have come: 0 as soon as the request is sent."""

    count: int


@dataclass(frozen=True, slots=True)
class AfterOthers:
    """Leave when so many clients of the storm are done, wherever one's own request is by then."""

    count: int


@dataclass(frozen=True, slots=True)
class Visit:
    """One client's request."""

    dialect: Dialect
    model: str
    prompt: str
    stream: bool
    max_tokens: int
    leaves: AfterItems | AfterOthers | None = None


@dataclass(frozen=True, slots=True)
class Left:
    """A client that did not wait for the end."""


Outcome = Answer | Failure | Left


class Storm:
    """All visits begin at once. After each `kill_every` of them that are done, a runner is killed."""

    def __init__(self, api: API, visits: Sequence[Visit], kill_every: int, seed: int) -> None:
        self.kills = 0
        self.polls = 0
        self._url = api.server.url
        self._server = psutil.Process(api.server.process.pid)
        self._visits = visits
        self._kill_every = kill_every
        self._random = random.Random(seed)
        self._outcomes: list[tuple[Visit, Outcome]] = []
        self._leavers: list[tuple[int, anyio.CancelScope]] = []

    def run(self) -> list[tuple[Visit, Outcome]]:
        """What came of each visit."""
        anyio.run(self._run)
        return self._outcomes

    async def _run(self) -> None:
        limits = httpx2.Limits(max_connections=None)
        async with httpx2.AsyncClient(
            base_url=self._url, timeout=ANSWER_TIMEOUT_S, limits=limits, trust_env=False
        ) as http:
            async with anyio.create_task_group() as poller:
                poller.start_soon(self._poll)
                async with anyio.create_task_group() as clients:
                    for visit in self._visits:
                        clients.start_soon(self._visit, http, visit)
                poller.cancel_scope.cancel()

    async def _poll(self) -> None:
        async with httpx2.AsyncClient(base_url=self._url, timeout=PS_TIMEOUT_S, trust_env=False) as http:
            while True:
                assert (await http.get("/api/ps")).status_code == 200
                self.polls += 1

    async def _visit(self, http: httpx2.AsyncClient, visit: Visit) -> None:
        outcome: Outcome = Left()
        with anyio.CancelScope() as scope:
            if isinstance(visit.leaves, AfterOthers):
                self._leavers.append((visit.leaves.count, scope))
            outcome = await self._ask(http, visit, scope)
        self._done(visit, outcome)

    async def _ask(self, http: httpx2.AsyncClient, visit: Visit, scope: anyio.CancelScope) -> Outcome:
        count = 0

        def on_item() -> None:
            nonlocal count
            count += 1
            if visit.leaves == AfterItems(count):
                scope.cancel()

        async def on_step(step: str, _info: object) -> None:
            if visit.leaves == AfterItems(0) and step == "http11.send_request_body.complete":
                scope.cancel()

        dialect = visit.dialect
        body = {"model": visit.model, "stream": visit.stream, **dialect.body(visit.prompt, visit.max_tokens)}
        async with http.stream("POST", dialect.path, json=body, extensions={"trace": on_step}) as response:
            return await outcome_of(dialect, response, on_item)

    def _done(self, visit: Visit, outcome: Outcome) -> None:
        self._outcomes.append((visit, outcome))
        done = len(self._outcomes)
        for after, scope in self._leavers:
            if after <= done:
                scope.cancel()
        if done // self._kill_every > self.kills:
            self._kill_a_runner()

    def _kill_a_runner(self) -> None:
        """Any of them, be it loading, serving or leaving. If there is none, the next that is done asks again."""
        if runners := self._server.children():
            with suppress(ProcessLookupError):  # it was about to be gone
                os.killpg(self._random.choice(runners).pid, signal.SIGKILL)
                self.kills += 1
