"""Work for when nobody asks for anything: begun when it is quiet, ended when it is not, done once."""

import anyio
import pytest

from a3s_power.scheduler import quiet
from a3s_power.scheduler.quiet import when_quiet

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _looks_at_once(monkeypatch):
    monkeypatch.setattr(quiet, "LOOK_S", 0.001)
    monkeypatch.setattr(quiet, "WATCH_S", 0.001)


class Asked:
    quiet_s = 0.0


class Work:
    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)
        self.begun = anyio.Event()
        self.ended = 0

    async def __call__(self):
        self.begun.set()
        try:
            if not self.outcomes:
                await anyio.sleep_forever()
            return self.outcomes.pop(0)
        finally:
            self.ended += 1


async def test_it_is_begun_when_it_is_quiet_and_again_until_it_is_done():
    asked, work = Asked(), Work(False, False, True)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(when_quiet, asked, 60, work)
        await anyio.wait_all_tasks_blocked()
        assert not work.begun.is_set()
        asked.quiet_s = 60.0
    assert (work.ended, work.outcomes) == (3, [])


async def test_it_ends_when_somebody_asks_and_is_begun_again_later():
    asked, work = Asked(), Work()
    asked.quiet_s = 60.0
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(when_quiet, asked, 60, work)
        await work.begun.wait()
        asked.quiet_s = 0.0
        while not work.ended:
            await anyio.lowlevel.checkpoint()
        work.outcomes.append(True)
        asked.quiet_s = 60.0
    assert work.ended == 2
