"""Pieces come in any order, whoever crashes on the way: the blob is right, or there is none."""

import errno
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a3s_power.errors import DigestMismatch, InvalidRequest, StoreFailed
from a3s_power.store import assembly as module
from a3s_power.store.assembly import BLOCK_BYTES, KEPT_FREE_BYTES
from a3s_power.store.blobs import BlobStore
from a3s_power.store.models import ModelStore
from a3s_power.store.prune import Pruned, prune

SIZE = 4 * BLOCK_BYTES + 1000
DATA = random.Random(5).randbytes(SIZE)
HEX = hashlib.sha256(DATA).hexdigest()
DIGEST = f"sha256:{HEX}"
DAY = 24 * 3600


@pytest.fixture
def store(tmp_path):
    return BlobStore(tmp_path)


def parts(root: Path) -> list[str]:
    return sorted(path.name for path in (root / ".a3s-power" / "parts").iterdir())


def part_file(store: BlobStore) -> Path:
    return store.root.parent / ".a3s-power" / "parts" / f"{HEX}.part"


def map_file(store: BlobStore) -> Path:
    return part_file(store).with_suffix(".map")


def fill(assembly, data=DATA) -> None:
    for start, end in assembly.missing():
        assembly.write(start, data[start:end])


def begin(store: BlobStore, *blocks: int) -> None:
    """Leave a part in which these blocks are held."""
    with store.assemble(DIGEST, SIZE) as assembly:
        for block in blocks:
            start = block * BLOCK_BYTES
            assembly.write(start, DATA[start : start + BLOCK_BYTES])


def blocks_missing(assembly) -> list[int]:
    return [b for start, end in assembly.missing() for b in range(start // BLOCK_BYTES, -(-end // BLOCK_BYTES))]


# Bytes


def test_pieces_in_any_order_make_a_blob(store, tmp_path):
    with store.assemble(DIGEST, SIZE) as assembly:
        assert (assembly.size, assembly.completed, assembly.missing()) == (SIZE, 0, [(0, SIZE)])
        for start in range(0, SIZE, 100_000)[::-1]:
            assembly.write(start, DATA[start : start + 100_000])
        assert (assembly.completed, assembly.missing()) == (SIZE, [])
        assembly.commit()
    assert store.path(DIGEST).read_bytes() == DATA
    assert store.path(DIGEST).stat().st_mode & 0o777 == 0o644
    assert parts(tmp_path) == []


def test_the_gaps_are_whole_blocks(store):
    with store.assemble(DIGEST, SIZE) as assembly:
        assembly.write(BLOCK_BYTES - 1, DATA[BLOCK_BYTES - 1 : 3 * BLOCK_BYTES + 1])
        assert assembly.missing() == [(0, BLOCK_BYTES), (3 * BLOCK_BYTES, SIZE)]
        assert assembly.completed == 2 * BLOCK_BYTES


def test_what_is_written_and_not_committed_is_there_next_time(store, tmp_path):
    begin(store, 1, 4)
    assert parts(tmp_path) == [f"{HEX}.map", f"{HEX}.part"]
    with store.assemble(DIGEST, SIZE) as assembly:
        assert assembly.completed == BLOCK_BYTES + 1000
        assert blocks_missing(assembly) == [0, 2, 3]
        fill(assembly)
        assembly.commit()
    assert store.path(DIGEST).read_bytes() == DATA


def test_half_a_block_is_fetched_again_next_time(store):
    with store.assemble(DIGEST, SIZE) as assembly:
        assembly.write(0, DATA[: 2 * BLOCK_BYTES - 1])
    with store.assemble(DIGEST, SIZE) as assembly:
        assert assembly.missing() == [(BLOCK_BYTES, SIZE)]


def test_bytes_of_a_block_that_is_held_are_not_written_again(store):
    """It may have been hashed already: other bytes in its place would pass for the right ones."""
    with store.assemble(DIGEST, SIZE) as assembly:
        assembly.write(0, DATA[:BLOCK_BYTES])
        assembly.hash_ahead()
        assembly.write(0, bytes(BLOCK_BYTES))
        fill(assembly)
        assembly.commit()
    assert store.path(DIGEST).read_bytes() == DATA


@pytest.mark.parametrize("offset", [-1, SIZE, SIZE - 1])
def test_there_is_nothing_to_write_outside_the_blob(store, offset):
    with store.assemble(DIGEST, SIZE) as assembly:
        with pytest.raises(InvalidRequest, match=f"outside the {SIZE} bytes"):
            assembly.write(offset, b"ab")


def test_wrong_bytes_become_no_blob_and_are_dropped(store, tmp_path):
    with store.assemble(DIGEST, SIZE) as assembly:
        fill(assembly, bytes(SIZE))
        with pytest.raises(DigestMismatch) as caught:
            assembly.commit()
    assert caught.value.actual == "sha256:" + hashlib.sha256(bytes(SIZE)).hexdigest()
    assert store.digests() == []
    assert parts(tmp_path) == []


def test_too_few_bytes_are_refused_and_kept(store):
    with store.assemble(DIGEST, SIZE) as assembly:
        assembly.write(0, DATA[:BLOCK_BYTES])
        with pytest.raises(InvalidRequest, match=f"{BLOCK_BYTES} of the {SIZE} bytes"):
            assembly.commit()
    with store.assemble(DIGEST, SIZE) as assembly:
        assert assembly.completed == BLOCK_BYTES


def test_an_assembly_that_took_nothing_leaves_nothing(store, tmp_path):
    with store.assemble(DIGEST, SIZE):
        pass
    assert parts(tmp_path) == []


def test_the_empty_blob_is_a_blob(store, tmp_path):
    empty = "sha256:" + hashlib.sha256(b"").hexdigest()
    with store.assemble(empty, 0) as assembly:
        assert assembly.missing() == []
        assembly.hash_ahead()
        assembly.commit()
    assert store.size(empty) == 0
    assert parts(tmp_path) == []


def test_a_blob_that_is_here_already_stays_and_the_part_goes(store, tmp_path):
    with store.ingest(DIGEST) as ingest:
        ingest.write(DATA)
        ingest.commit()
    inode = store.path(DIGEST).stat().st_ino
    with store.assemble(DIGEST, SIZE) as assembly:
        fill(assembly)
        assembly.commit()
    assert store.path(DIGEST).stat().st_ino == inode
    assert parts(tmp_path) == []


# Any order, any crash

SMALL = 16  # bytes of a block, below
LENGTH = st.integers(0, 5 * SMALL) | st.sampled_from(range(0, 5 * SMALL + 1, SMALL))
STEP = st.one_of(
    st.tuples(st.just("write"), LENGTH, LENGTH, st.booleans() | st.just(False)),
    st.just(("hash",)),
    st.just(("reopen",)),
)


@given(size=LENGTH, steps=st.lists(STEP, max_size=30))
def test_whatever_happens_the_blob_is_right_or_there_is_none(size, steps):
    data = random.Random(size).randbytes(size)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    with (
        mock.patch.object(module, "BLOCK_BYTES", SMALL),
        mock.patch.object(module, "_HASH_BYTES", 2 * SMALL),
        tempfile.TemporaryDirectory() as folder,
    ):
        store, was_wrong, held = BlobStore(Path(folder)), False, 0
        opened = store.assemble(digest, size)
        assembly = opened.__enter__()
        for step in steps:
            match step:
                case ("write", start, length, is_wrong):
                    piece = data[start : start + length]
                    was_wrong |= is_wrong and bool(piece)
                    assembly.write(min(start, size), bytes(len(piece)) if is_wrong else piece)
                case ("hash",):
                    assembly.hash_ahead()
                case ("reopen",):
                    opened.__exit__(None, None, None)
                    opened = store.assemble(digest, size)
                    assembly = opened.__enter__()
                    assert assembly.completed == held
            gaps = assembly.missing()
            assert assembly.completed == size - sum(end - start for start, end in gaps) >= held
            held = assembly.completed
        fill(assembly, data)
        try:
            assembly.commit()
            assert store.path(digest).read_bytes() == data
        except DigestMismatch:
            assert was_wrong
            assert not store.has(digest)
        opened.__exit__(None, None, None)
        assert parts(Path(folder)) == []


CHILD = """
import os, signal, sys
from pathlib import Path
from a3s_power.store.assembly import BLOCK_BYTES
from a3s_power.store.blobs import BlobStore

store, digest, data, step, nth = BlobStore(Path(sys.argv[1])), sys.argv[2], Path(sys.argv[3]).read_bytes(), sys.argv[4], int(sys.argv[5])

def dying(real):
    calls = 0
    def call(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    return call

def die_at(name):
    setattr(os, name, dying(getattr(os, name)))

if step in {"pwrite", "ftruncate"}:
    die_at(step)
with store.assemble(digest, len(data)) as assembly:
    for start in range(0, len(data), BLOCK_BYTES):
        assembly.write(start, data[start : start + BLOCK_BYTES])
    if step != "commit":
        die_at(step)
    assembly.commit()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    ("step", "nth", "blocks_held", "is_blob"),
    [
        ("ftruncate", 2, 0, False),
        ("pwrite", 1, 0, False),  # each block is two: its bytes, its mark
        ("pwrite", 4, 1, False),
        ("pwrite", 5, 2, False),
        ("fchmod", 1, 5, False),
        ("fsync", 1, 5, False),
        ("replace", 1, 5, False),
        ("fsync", 2, 0, True),  # of the folder: the rename is done, and the map is left
        ("unlink", 1, 0, True),
        ("commit", 1, 0, True),
    ],
)
def test_a_crash_at_any_step_loses_no_more_than_a_block_of_each_writer(
    store, tmp_path, step, nth, blocks_held, is_blob
):
    (tmp_path / "data").write_bytes(DATA)
    argv = [sys.executable, "-c", CHILD, str(tmp_path), DIGEST, str(tmp_path / "data"), step, str(nth)]
    assert subprocess.run(argv, check=False).returncode == -signal.SIGKILL
    assert store.digests() == ([DIGEST] if is_blob else [])
    with store.assemble(DIGEST, SIZE) as assembly:
        assert blocks_missing(assembly) == list(range(blocks_held, 5))
        fill(assembly)
        assembly.commit()
    assert store.path(DIGEST).read_bytes() == DATA
    assert parts(tmp_path) == []


# What an earlier one left


def test_what_an_ingest_left_is_the_beginning(store):
    with store.ingest(DIGEST) as ingest:
        ingest.write(DATA[: 2 * BLOCK_BYTES + 5])
    with store.assemble(DIGEST, SIZE) as assembly:
        assert assembly.missing() == [(2 * BLOCK_BYTES, SIZE)]
        fill(assembly)
        assembly.commit()
    assert store.path(DIGEST).read_bytes() == DATA


def test_what_an_ingest_left_before_its_commit_is_all(store):
    with store.ingest(DIGEST) as ingest:
        ingest.write(DATA)
    with store.assemble(DIGEST, SIZE) as assembly:
        assert assembly.missing() == []
        assembly.commit()


def test_an_ingest_takes_no_holes_for_bytes(store, tmp_path):
    begin(store, 0, 2)
    with store.ingest(DIGEST, SIZE) as ingest:
        assert ingest.offset == 0
        ingest.write(DATA[:10])
    with store.assemble(DIGEST, SIZE) as assembly:
        assert blocks_missing(assembly) == [1, 3, 4]
    assert parts(tmp_path) == [f"{HEX}.map", f"{HEX}.part"]


HEADER_BYTES = 24


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: b"x" + data[1:], id="other magic"),
        pytest.param(lambda data: data[:8] + b"\x02" + data[9:], id="other version"),
        pytest.param(lambda data: data[:16] + b"\x01" + data[17:], id="other size"),
        pytest.param(lambda data: data[:-1], id="too short"),
        pytest.param(lambda data: data + b"\1", id="too long"),
        pytest.param(lambda data: data[:HEADER_BYTES] + b"\1\1\1\1\7", id="no marks"),
    ],
)
def test_a_part_with_a_map_that_is_of_no_use_begins_anew(store, spoil):
    begin(store, 0, 1, 2)
    map_file(store).write_bytes(spoil(map_file(store).read_bytes()))
    with store.assemble(DIGEST, SIZE) as assembly:
        assert assembly.missing() == [(0, SIZE)]
        fill(assembly)
        assembly.commit()
    assert store.path(DIGEST).read_bytes() == DATA


@pytest.mark.parametrize(
    ("length", "missing"),
    [
        (0, [0, 1, 2, 3, 4]),
        (BLOCK_BYTES + 10, [1, 2, 3, 4]),
        (SIZE - 1, [3, 4]),
        (SIZE + 1, [0, 1, 2, 3, 4]),
    ],
)
def test_a_mark_counts_for_bytes_that_the_part_has(store, length, missing):
    begin(store, 0, 1, 2, 4)
    os.truncate(part_file(store), length)
    with store.assemble(DIGEST, SIZE) as assembly:
        assert blocks_missing(assembly) == missing


def test_a_part_of_another_size_begins_anew(store):
    begin(store, 0, 1)
    with store.assemble(DIGEST, SIZE - 1) as assembly:
        assert assembly.missing() == [(0, SIZE - 1)]


# Several at once


def test_threads_write_to_different_ranges(store):
    failures = []

    def write(first):
        try:
            for start in range(first * 7777, SIZE, 4 * 7777):
                assembly.write(start, DATA[start : start + 7777])
                assembly.hash_ahead()
        except Exception as exc:
            failures.append(exc)

    with store.assemble(DIGEST, SIZE) as assembly:
        threads = [threading.Thread(target=write, args=[first]) for first in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert assembly.missing() == []
        assembly.commit()
    assert store.path(DIGEST).read_bytes() == DATA


def test_a_second_assembly_gets_a_part_of_its_own_that_does_not_stay(store, tmp_path):
    with store.assemble(DIGEST, SIZE) as first:
        first.write(0, DATA[:BLOCK_BYTES])
        with store.assemble(DIGEST, SIZE) as second:
            assert second.missing() == [(0, SIZE)]
            fill(second, bytes(SIZE))
        assert parts(tmp_path) == [f"{HEX}.map", f"{HEX}.part"]
        with store.assemble(DIGEST, SIZE) as third:
            fill(third)
            third.commit()
        fill(first)
        first.commit()
    assert store.path(DIGEST).read_bytes() == DATA
    assert parts(tmp_path) == []


OTHER_PROCESS = """
import sys
from pathlib import Path
from a3s_power.store.blobs import BlobStore

data = Path(sys.argv[3]).read_bytes()
with BlobStore(Path(sys.argv[1])).assemble(sys.argv[2], len(data)) as assembly:
    [(start, end)] = assembly.missing()
    assembly.write(start, data[start:end])
    assembly.commit()
    print(start, end)
"""


def test_two_processes_that_bring_the_same_blob_do_not_harm_each_other(store, tmp_path):
    (tmp_path / "data").write_bytes(DATA)
    with store.assemble(DIGEST, SIZE) as ours:
        ours.write(0, DATA[:BLOCK_BYTES])
        argv = [sys.executable, "-c", OTHER_PROCESS, str(tmp_path), DIGEST, str(tmp_path / "data")]
        assert subprocess.run(argv, check=True, capture_output=True, text=True).stdout == f"0 {SIZE}\n"
        assert store.path(DIGEST).read_bytes() == DATA
        fill(ours)
        ours.commit()
    assert store.path(DIGEST).read_bytes() == DATA
    assert parts(tmp_path) == []


# The disk


def disk_with(monkeypatch, free_bytes: int) -> None:
    monkeypatch.setattr(os, "statvfs", lambda fd: SimpleNamespace(f_bavail=free_bytes // 512, f_frsize=512))


def test_a_blob_that_does_not_fit_is_refused_before_a_byte_comes(store, tmp_path, monkeypatch):
    disk_with(monkeypatch, KEPT_FREE_BYTES)
    with (
        pytest.raises(StoreFailed, match=r"1\.0 MB needed, 67 MB free; free some space"),
        store.assemble(DIGEST, SIZE),
    ):
        pass
    assert parts(tmp_path) == []


def test_a_blob_of_absurd_size_is_refused_as_well(store, tmp_path):
    with pytest.raises(StoreFailed, match="needed"), store.assemble(DIGEST, 2**63 - 1):
        pass
    assert parts(tmp_path) == []


def test_what_is_held_needs_no_more_room(store, monkeypatch):
    begin(store, 0, 1, 2, 3)
    disk_with(monkeypatch, KEPT_FREE_BYTES + 4096)
    with store.assemble(DIGEST, SIZE) as assembly:
        fill(assembly)
        assembly.commit()


def test_a_part_whose_rest_has_no_room_stays(store, tmp_path, monkeypatch):
    begin(store, 0, 1)
    disk_with(monkeypatch, KEPT_FREE_BYTES)
    with pytest.raises(StoreFailed, match="not enough disk space"), store.assemble(DIGEST, SIZE):
        pass
    monkeypatch.undo()
    with store.assemble(DIGEST, SIZE) as assembly:
        assert blocks_missing(assembly) == [2, 3, 4]


def test_a_disk_that_fills_up_is_said_plainly_and_what_came_is_kept(store, monkeypatch):
    def fail(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with store.assemble(DIGEST, SIZE) as assembly:
        assembly.write(0, DATA[:BLOCK_BYTES])
        monkeypatch.setattr(os, "pwrite", fail)
        with pytest.raises(StoreFailed, match="the disk is full"):
            assembly.write(BLOCK_BYTES, DATA[BLOCK_BYTES:])
        monkeypatch.undo()
    with store.assemble(DIGEST, SIZE) as assembly:
        assert assembly.missing() == [(BLOCK_BYTES, SIZE)]


def test_a_failing_sync_keeps_the_part(store, monkeypatch):
    def fail(fd):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with store.assemble(DIGEST, SIZE) as assembly:
        fill(assembly)
        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(StoreFailed, match="Input/output error"):
            assembly.commit()
        monkeypatch.undo()
    with store.assemble(DIGEST, SIZE) as assembly:
        assert assembly.missing() == []
        assembly.commit()


# Prune


def aged(path: Path, age_s: float) -> None:
    then = path.stat().st_mtime - age_s
    os.utime(path, (then, then))


def test_a_map_is_kept_as_long_as_its_part_and_goes_with_it(store, tmp_path):
    begin(store, 0)
    models = ModelStore(tmp_path)
    aged(map_file(store), 30 * DAY)  # its part is what counts
    aged(part_file(store), 13 * DAY)
    assert prune(models) == Pruned(0, 0)
    aged(part_file(store), 2 * DAY)
    assert prune(models) == Pruned(1, BLOCK_BYTES)  # holes take no room
    assert parts(tmp_path) == []


def test_a_part_that_is_being_assembled_stays(store, tmp_path):
    with store.assemble(DIGEST, SIZE) as first, store.assemble(DIGEST, SIZE) as second:
        first.write(0, DATA[:BLOCK_BYTES])
        second.write(0, DATA[:BLOCK_BYTES])
        for name in parts(tmp_path):
            aged(tmp_path / ".a3s-power" / "parts" / name, 30 * DAY)
        assert prune(ModelStore(tmp_path)) == Pruned(0, 0)
        assert len(parts(tmp_path)) == 4


def test_a_map_without_its_part_goes_with_the_unused_blobs(store, tmp_path):
    begin(store, 0)
    part_file(store).unlink()
    assert prune(ModelStore(tmp_path)) == Pruned(0, 0)
    aged(map_file(store), 3601)
    assert prune(ModelStore(tmp_path)).count == 1
    assert parts(tmp_path) == []


def test_what_a_killed_process_had_for_itself_alone_goes_as_well(store, tmp_path):
    begin(store, 0)
    folder = part_file(store).parent
    for path in list(folder.iterdir()):
        shutil.move(path, folder / ("own" + path.suffix.replace("part", "tmp")))
        aged(folder / ("own" + path.suffix.replace("part", "tmp")), 3601)
    assert prune(ModelStore(tmp_path)).count == 1
    assert parts(tmp_path) == []
