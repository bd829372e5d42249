"""What runners really took: which figure counts for what, for how long, and what of it is kept on disk."""

import dataclasses
import logging
import os
import signal
import subprocess
import sys
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from a3s_power.runner.base import Drafting, LoadSpec, Pooling
from a3s_power.scheduler.measured import LAST_LOADS, MAX_FILE_BYTES, MAX_SPECS, Measurements
from a3s_power.scheduler.placement import Need

ENGINE = "xllamacpp 2026.10 cpu"


def blob(seed, folder="/store/blobs"):
    return f"{folder}/sha256-{seed:064x}"


SPEC = LoadSpec(blob(1), (blob(2),), (blob(3),), num_ctx=1024, slots=4, draft_path=blob(4), draft_num_predict=4)


@pytest.fixture
def seen():
    return Measurements(None, ENGINE)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "home" / "measured.json"


def reopened(path, engine=ENGINE):
    return Measurements(path, engine)


def saved(path, *held, spec=SPEC):
    """A file in which each of these was recorded for `spec`."""
    measurements = reopened(path)
    for each in held:
        measurements.record(spec, each)
    measurements.save()
    return measurements


def warnings(caplog):
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


# ---- what counts for what ----


def test_nothing_is_known_of_what_was_never_loaded(seen):
    assert seen.of(SPEC) is None


def test_what_a_runner_took_is_known_the_next_time(seen):
    assert seen.record(SPEC, Need(3, 4))
    assert seen.of(SPEC) == Need(3, 4)


OTHER = {  # a value that differs from SPEC's, for each field that changes what is allocated
    "model_path": blob(9),
    "projector_paths": (),
    "adapter_paths": (blob(3), blob(4)),
    "slots": 2,
    "kv_pool": 2048,
    "num_batch": 64,
    "num_gpu": 7,
    "main_gpu": 0,
    "use_mmap": False,
    "kv_cache_type": "q8_0",
    "flash_attention": False,
    "pooling": Pooling.LAST,
    "draft_path": None,
    "draft_num_predict": 9,
    "drafting": Drafting.MTP,
}
SAME = {  # changes that allocate nothing
    "num_ctx": {"num_ctx": 512, "kv_pool": SPEC.pool},
    "is_ctx_automatic": {"is_ctx_automatic": True},
    "num_thread": {"num_thread": 3},
    "devices": {"devices": ("CUDA0",)},  # known only once it has been placed, for which the figures are wanted
}


@pytest.mark.parametrize("field", OTHER)
def test_what_changes_the_memory_has_figures_of_its_own(seen, field):
    seen.record(SPEC, Need(3, 0))
    assert seen.of(replace(SPEC, **{field: OTHER[field]})) is None


@pytest.mark.parametrize("changes", SAME.values(), ids=SAME)
def test_what_takes_no_memory_makes_no_difference(seen, changes):
    seen.record(SPEC, Need(3, 0))
    assert seen.of(replace(SPEC, **changes)) == Need(3, 0)


def test_it_is_decided_for_every_field_whether_it_counts():
    assert {*OTHER, *SAME} == {field.name for field in dataclasses.fields(LoadSpec)}


def test_a_store_that_moved_keeps_its_figures(seen):
    seen.record(SPEC, Need(3, 0))
    files = {
        "projector_paths": (blob(2, "/new"),),
        "adapter_paths": (blob(3, "/new"),),
        "draft_path": blob(4, "/new"),
    }
    moved = replace(SPEC, model_path=blob(1, "/new"), **files)
    assert seen.of(moved) == Need(3, 0)


@pytest.mark.parametrize("files", [
    {"model_path": "/models/m.gguf"},
    {"model_path": blob(1) + "-partial"},
    {"projector_paths": ("/models/mmproj.gguf",)},
    {"adapter_paths": (blob(3), "/models/lora.gguf")},
    {"draft_path": "/models/draft.gguf"},
])  # fmt: skip
def test_a_file_whose_bytes_its_name_does_not_tell_is_not_remembered(seen, files):
    spec = replace(SPEC, **files)
    assert not seen.record(spec, Need(3, 0))
    assert seen.of(spec) is None


def test_a_process_that_is_gone_was_not_measured(seen):
    assert not seen.record(SPEC, Need(0, 0))
    assert seen.of(SPEC) is None


# ---- for how long ----


@pytest.mark.parametrize("loads, expected", [
    ([Need(3, 0), Need(2, 0)],                       Need(3, 0)),      # less the second time says nothing
    ([Need(2, 0), Need(3, 0)],                       Need(3, 0)),
    ([Need(9, 1), Need(1, 9)],                 Need(9, 9)),   # room must be found in both
    ([Need(9, 0), *[Need(2, 0)] * (LAST_LOADS - 1)], Need(9, 0)),
    ([Need(9, 0), *[Need(2, 0)] * LAST_LOADS],       Need(2, 0)),      # one that leaked does not count for ever
])  # fmt: skip
def test_the_most_of_the_last_loads_counts(seen, loads, expected):
    for held in loads:
        seen.record(SPEC, held)
    assert seen.of(SPEC) == expected


def test_only_what_is_new_is_worth_saving(seen):
    assert [seen.record(SPEC, Need(2, 0)) for _ in range(LAST_LOADS + 1)] == [True] * LAST_LOADS + [False]


def test_what_was_loaded_longest_ago_goes_first(seen):
    specs = [replace(SPEC, num_batch=number) for number in range(MAX_SPECS + 1)]
    for spec in specs[:-1]:
        seen.record(spec, Need(1, 0))
    seen.record(specs[0], Need(1, 0))  # loaded once more: now the next is the oldest
    seen.record(specs[-1], Need(1, 0))
    assert [spec.num_batch for spec in specs if seen.of(spec) is None] == [1]


# ---- another pool of the same model ----


def pooled(tokens):
    return replace(SPEC, kv_pool=tokens)


def estimate(spec):
    """Wrong by far, but right about what one more token takes."""
    return Need(77777 + spec.pool, 99999 + 10 * spec.pool)


@pytest.mark.parametrize("loads, pool, expected", [
    ([],                                             500, None),
    ([(500, Need(1000, 8000))],                      500, Need(1000, 8000)),  # seen as it is
    ([(500, Need(1000, 8000))],                      600, Need(1100, 9000)),
    ([(500, Need(1000, 8000))],                      400, Need(900, 7000)),
    ([(500, Need(1000, 8000)), (500, Need(2000, 0))],   400, Need(1900, 7000)),  # the most of the nearest
    ([(900, Need(5000, 5000)), (500, Need(1000, 0))],   600, Need(1100, 1000)),  # the nearest
    ([(500, Need(50, 8000))],                        400, Need(0, 7000)),     # nobody takes less than nothing
])  # fmt: skip
def test_another_pool_takes_what_was_seen_and_the_difference_of_the_estimates(seen, loads, pool, expected):
    for tokens, held in loads:
        seen.record(pooled(tokens), held)
    assert seen.scaled(pooled(pool), estimate) == expected


def test_a_load_that_leaked_is_forgotten_though_every_load_had_another_pool(seen):
    seen.record(pooled(100), Need(10**9, 0))
    for more in range(LAST_LOADS):
        seen.record(pooled(500 + more), Need(1000, 0))
    assert seen.scaled(pooled(100), estimate) == Need(600, 0)


def test_nothing_is_made_of_other_options_figures(seen):
    seen.record(SPEC, Need(3, 0))
    assert seen.scaled(replace(SPEC, num_batch=64, kv_pool=99), estimate) is None


# ---- the file ----

NAMES = st.integers(0, 2**256 - 1).map(blob)
SPECS = st.builds(
    LoadSpec,
    model_path=NAMES,
    projector_paths=st.lists(NAMES, max_size=2).map(tuple),
    adapter_paths=st.lists(NAMES, max_size=2).map(tuple),
    num_ctx=st.integers(1, 2**20),
    slots=st.integers(1, 64),
    kv_pool=st.integers(0, 2**30),
    devices=st.lists(st.text("CUDA01é", max_size=5), max_size=2).map(tuple),
)
HELD = st.builds(Need, st.integers(1, 2**63 - 1), st.integers(0, 2**63 - 1))


@given(loads=st.lists(st.tuples(SPECS, HELD), max_size=12))
def test_what_is_saved_is_found_again(tmp_path_factory, loads):
    path = tmp_path_factory.mktemp("home") / "measured.json"
    measurements = Measurements(path, ENGINE)
    for spec, held in loads:
        measurements.record(spec, held)
    measurements.save()
    again = reopened(path)
    for spec, _ in loads:
        assert again.of(spec) == measurements.of(spec) is not None
        assert again.scaled(spec, estimate) == measurements.scaled(spec, estimate)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_what_went_first_goes_first_after_a_restart_too(path):
    old, new = replace(SPEC, num_batch=1), replace(SPEC, num_batch=2)
    saved(path, Need(1, 0), spec=old)
    saved(path, Need(1, 0), spec=new)
    measurements = reopened(path)
    for slots in range(5, 5 + MAX_SPECS - 1):
        measurements.record(replace(SPEC, slots=slots), Need(1, 0))
    assert (measurements.of(old), measurements.of(new)) == (None, Need(1, 0))


def test_the_file_at_its_fullest_is_read_again(path):
    measurements = reopened(path)
    for number in range(MAX_SPECS):
        for host in range(LAST_LOADS):
            measurements.record(replace(SPEC, num_batch=number), Need(2**62 + host, 2**62))
    measurements.save()
    assert path.stat().st_size < MAX_FILE_BYTES / 8
    assert reopened(path).of(replace(SPEC, num_batch=0)) == Need(2**62 + LAST_LOADS - 1, 2**62)


def test_what_another_engine_took_does_not_count_and_stays(path):
    saved(path, Need(3, 0))
    other = reopened(path, "xllamacpp 2027.1 cpu")
    assert other.of(SPEC) is None
    other.record(SPEC, Need(5, 0))
    other.save()
    assert (reopened(path, "xllamacpp 2027.1 cpu").of(SPEC), reopened(path).of(SPEC)) == (Need(5, 0), Need(3, 0))


def test_without_a_path_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    measurements = Measurements(None, ENGINE)
    measurements.record(SPEC, Need(3, 0))
    measurements.save()
    assert list(tmp_path.iterdir()) == []


def test_no_file_is_no_reason_to_warn(path, caplog):
    assert reopened(path).of(SPEC) is None
    assert warnings(caplog) == []


def document(**changes):
    """What a file would hold, with other values in its one row."""
    row = {"engine": ENGINE, "spec": {"model_path": "m"}, "loads": [{"pool": 1, "host": 1, "gpus": 0}]}
    return {"version": 1, "rows": [row | changes]}


@pytest.mark.parametrize("content", [
    b"", b"\x00", b"null", b"[]", b"{}", b'{"version": 1, "rows": [', b'\xff\xfe{}', b'{"version": 1, "rows": ["\xff"]}',
    b'{"x":' + b"[" * 100_000, b" " * (MAX_FILE_BYTES + 1),
    document() | {"version": 2},
    document() | {"rows": [document()["rows"][0]] * (MAX_SPECS + 1)},
    document(engine=None), document(spec={}), document(spec={"model_path": "m", "slots": "4"}),
    document(loads=[]), document(loads=[{"pool": 1, "host": 1}]), document(loads=[{"pool": 1, "host": -1, "gpus": 0}]),
    document(loads=[{"pool": 1, "host": 2**63, "gpus": 0}]), document(loads=[{"pool": 1, "host": 1.5, "gpus": 0}]),
], ids=lambda content: str(content)[:50])  # fmt: skip
def test_a_file_that_is_not_ours_is_passed_over_and_replaced(path, caplog, content):
    path.parent.mkdir()
    path.write_bytes(content if isinstance(content, bytes) else msgspec.json.encode(content))
    assert reopened(path).of(SPEC) is None
    assert warnings(caplog) == ["passing over what runners took"]
    saved(path, Need(3, 0))
    assert reopened(path).of(SPEC) == Need(3, 0)


@given(st.binary(max_size=300))
def test_no_bytes_are_an_error(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "noise.json"
    path.write_bytes(data)
    assert reopened(path).of(SPEC) is None


def test_what_a_later_version_adds_to_a_row_is_skipped(path):
    path.parent.mkdir()
    path.write_bytes(msgspec.json.encode(document(measured_at="2030-01-01")))
    assert Measurements(path, ENGINE).record(SPEC, Need(3, 0))


@pytest.mark.parametrize("in_the_way", ["path", "folder"])
def test_a_place_that_cannot_be_written_is_said_once(path, caplog, in_the_way):
    measurements = Measurements(path, ENGINE)
    if in_the_way == "path":
        path.mkdir(parents=True)
    else:
        path.parent.touch()
    for host in (1, 2):
        measurements.record(SPEC, Need(host, 0))
        measurements.save()
    assert measurements.of(SPEC) == Need(2, 0)
    assert warnings(caplog) == ["cannot keep what runners took"]
    assert [file.name for file in path.parent.parent.rglob("*")].count(path.name) == (in_the_way == "path")


def test_a_full_disk_leaves_the_old_file_and_nothing_else(path, monkeypatch):
    measurements = saved(path, Need(3, 0))

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    measurements.record(SPEC, Need(5, 0))
    measurements.save()
    assert reopened(path).of(SPEC) == Need(3, 0)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


KILLED_WHILE_WRITING = """
import os, pathlib, signal, sys
from a3s_power.runner.base import LoadSpec
from a3s_power.scheduler.measured import Need, Measurements
os.fsync = lambda fd: os.kill(os.getpid(), signal.SIGKILL)
measurements = Measurements(pathlib.Path(sys.argv[1]), sys.argv[2])
measurements.record(LoadSpec(sys.argv[3]), Need(5, 0))
measurements.save()
"""


def test_who_is_killed_in_the_middle_of_writing_leaves_the_old_file(path):
    spec = LoadSpec(SPEC.model_path)
    saved(path, Need(3, 0), spec=spec)
    argv = [sys.executable, "-c", KILLED_WHILE_WRITING, str(path), ENGINE, spec.model_path]
    assert subprocess.run(argv, timeout=60, check=False).returncode == -signal.SIGKILL
    assert reopened(path).of(spec) == Need(3, 0)


def test_of_two_servers_with_one_home_the_last_writer_wins(path):
    one, two = reopened(path), reopened(path)
    one.record(SPEC, Need(1, 0))
    two.record(SPEC, Need(2, 0))
    two.save()
    one.save()
    assert reopened(path).of(SPEC) == Need(1, 0)
