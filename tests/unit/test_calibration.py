"""Calibration: measured once per machine, kept for that machine alone, and nothing left when it is broken off."""

import dataclasses
import json
import tempfile
from collections import Counter
from contextlib import asynccontextmanager

import anyio
import msgspec
import psutil
import pytest

from a3s_power.errors import LoadFailed, RunnerFailed
from a3s_power.generation import Done, FinishReason, Timings, Usage
from a3s_power.gguf import read_gguf
from a3s_power.runner import calibration
from a3s_power.runner.calibration import PATIENCE, calibrated, kept_in, measure, this_machine
from a3s_power.runner.calibration_model import WIDTH, write_model
from a3s_power.runner.cores import Calibration, Cores, Machine, Measured
from tests.support.engines import fake_engine, real_engine

MACHINE = Machine("AMD EPYC", 2, 2, "xllamacpp 1")
GREEDY, SHARING = Cores(2, 300_000), Cores(2, 500)
KEPT = Calibration(MACHINE, (Measured(GREEDY, 100.0, 10.0, 3.0), Measured(SHARING, 98.0, 9.9, 1.1)))


def silent(line):
    """Nobody wants to know."""


def nobody():
    """No other work has a share of the cores."""
    return 0.0


@pytest.fixture
def temp(tmp_path, monkeypatch):
    """The folder for temporary files."""
    folder = tmp_path / "temp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


# ---- engines that say how fast they were ----


class Room:
    """Where scripted engines meet: how many of each kind are at work, and how many there have been."""

    def __init__(self, at_two=anyio.lowlevel.checkpoint):
        self.at_two, self.at_work, self.started, self.running = at_two, Counter(), Counter(), Counter()

    def engine(self, cores):
        return ScriptedEngine(self, cores)


@dataclasses.dataclass
class ScriptedEngine:
    """Starts no process. When two of the greedy kind are at work at once, they do as the room says."""

    room: Room
    cores: Cores

    @asynccontextmanager
    async def start(self, spec, on_progress=None):
        self.room.started[self.cores] += 1
        self.room.running[self.cores] += 1
        try:
            yield self
        finally:
            self.room.running[self.cores] -= 1

    @asynccontextmanager
    async def complete(self, prompt, sampling, images=()):
        self.room.at_work[self.cores] += 1
        try:
            await anyio.lowlevel.checkpoint()
            if self.cores == GREEDY and self.room.at_work[GREEDY] == 2:
                await self.room.at_two()
            yield self.events()
        finally:
            self.room.at_work[self.cores] -= 1

    async def events(self):
        tenths = 1 if self.cores == GREEDY else 2
        timings = Timings(prompt_ns=tenths * 10_000_000, completion_ns=tenths * 20_000_000)
        yield Done(FinishReason.LENGTH, Usage(prompt_tokens=104, completion_tokens=40, cached_tokens=4), timings)


@pytest.mark.anyio
async def test_each_way_gets_its_speed_alone_and_its_time_for_two(temp):
    greedy, sharing = await measure((GREEDY, SHARING), Room().engine, silent)
    assert (greedy.cores, greedy.prefill, greedy.decode) == (GREEDY, 10_000.0, 2000.0)
    assert (sharing.cores, sharing.prefill, sharing.decode) == (SHARING, 5000.0, 1000.0)
    assert 0 < sharing.at_once <= PATIENCE


@pytest.mark.anyio
async def test_two_that_stand_in_each_other_s_way_are_not_waited_for(temp):
    greedy, _ = await measure((GREEDY, SHARING), Room(at_two=anyio.sleep_forever).engine, silent)
    assert greedy.at_once == PATIENCE


@pytest.mark.anyio
async def test_an_engine_serves_all_measures_of_its_way_and_a_second_those_of_two(temp):
    room = Room()
    await measure((GREEDY, SHARING), room.engine, silent)
    assert room.started == {GREEDY: 2, SHARING: 2}
    assert room.running.total() == 0


@pytest.mark.anyio
async def test_an_engine_that_fails_is_told_as_it_is(temp):
    async def fail():
        raise RunnerFailed("out of luck")

    with pytest.raises(RunnerFailed, match="out of luck"):
        await measure((GREEDY,), Room(at_two=fail).engine, silent)
    assert list(temp.iterdir()) == []


# ---- the file ----


@pytest.mark.anyio
async def test_what_was_measured_is_not_measured_again(temp, tmp_path):
    path = tmp_path / "home" / "cores.json"
    room = Room()
    first = await calibrated(path, MACHINE, room.engine, silent, nobody)
    started = room.started.total()
    assert await calibrated(path, MACHINE, room.engine, silent, nobody) == first
    assert room.started.total() == started > 0
    assert [file.name for file in path.parent.iterdir()] == ["cores.json"]
    assert list(temp.iterdir()) == []


@pytest.mark.anyio
async def test_beside_other_work_no_figures_are_kept(temp, tmp_path):
    told = []
    path = tmp_path / "cores.json"
    assert (await calibrated(path, MACHINE, Room().engine, told.append, lambda: 0.5)).measured
    assert "50% of the cores" in told[-1]
    assert not path.exists()


@pytest.mark.parametrize(
    "change", [{"cpu": "ARM"}, {"logical_cores": 4}, {"physical_cores": 1}, {"engine": "xllamacpp 2"}]
)
def test_figures_of_another_machine_do_not_count(tmp_path, change):
    path = tmp_path / "cores.json"
    path.write_bytes(calibration.encoded(KEPT))
    assert kept_in(path, MACHINE) == KEPT
    assert kept_in(path, dataclasses.replace(MACHINE, **change)) is None


NO_THREADS = msgspec.to_builtins(KEPT)
NO_THREADS["measured"][0]["cores"]["threads"] = 0
NO_FIGURES = msgspec.to_builtins(KEPT) | {"measured": []}


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", b'"\xff"', b"{}", json.dumps(NO_THREADS).encode(), json.dumps(NO_FIGURES).encode()]
)  # fmt: skip
def test_a_file_that_makes_no_sense_is_no_calibration(tmp_path, content):
    path = tmp_path / "cores.json"
    path.write_bytes(content)
    assert kept_in(path, MACHINE) is None


def test_where_there_is_no_file_there_is_no_calibration(tmp_path):
    assert kept_in(tmp_path / "cores.json", MACHINE) is None
    assert kept_in(tmp_path, MACHINE) is None


def test_this_machine_is_known_by_its_cpu_and_its_engine():
    machine = this_machine()
    assert machine == this_machine() != this_machine("/usr/bin/llama-server")
    assert machine.cpu
    assert machine.engine.startswith("xllamacpp 20")


# ---- with processes ----


STEPS = 1 + calibration.ROUNDS + 2
"""Lines told of two ways: the start, the rounds of one at a time, two at once of each way."""


@pytest.mark.anyio
@pytest.mark.parametrize("step", range(STEPS))
async def test_broken_off_at_any_step_it_leaves_no_process_and_no_file(step, temp, short_tmp):
    """Cancelled where the step after it first waits: while an engine starts, or answers."""
    told = []

    def cancel_at_step(line):
        told.append(line)
        if len(told) > step:
            scope.cancel()

    before = set(psutil.Process().children())
    with anyio.CancelScope() as scope:
        await measure((GREEDY, SHARING), lambda cores: fake_engine(short_tmp), cancel_at_step)
    assert len(told) == step + 1
    assert set(psutil.Process().children()) == before
    assert list(temp.iterdir()) == list(short_tmp.iterdir()) == []


@pytest.mark.anyio
async def test_an_engine_that_does_not_start_leaves_nothing(temp, short_tmp):
    before = set(psutil.Process().children())
    with pytest.raises(LoadFailed):
        await measure((GREEDY,), lambda cores: fake_engine(short_tmp, last_words="no such luck"), silent)
    assert set(psutil.Process().children()) == before
    assert list(temp.iterdir()) == list(short_tmp.iterdir()) == []


@pytest.mark.anyio
async def test_the_real_engine_loads_the_model_and_tells_its_times(temp, short_tmp, monkeypatch):
    monkeypatch.setattr(calibration, "ROUNDS", 1)
    (measured,) = await measure((SHARING,), lambda cores: real_engine(short_tmp), silent)
    assert measured.prefill > measured.decode > 0


def test_the_model_is_a_small_llama_without_weight_on_the_disk(tmp_path):
    path = tmp_path / "model.gguf"
    write_model(path)
    model = read_gguf(path)
    assert (model.architecture, model.embedding_length) == ("llama", WIDTH)
    assert 80e6 < model.parameter_count < 150e6
    assert path.stat().st_blocks * 512 < model.weights_bytes / 10
