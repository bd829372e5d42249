"""A blob is there whole or not at all, whoever crashes on the way."""

import errno
import fcntl
import hashlib
import os
import re
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a3s_power.errors import BlobNotFound, DigestMismatch, InvalidDigest, InvalidRequest, StoreFailed
from a3s_power.store.blobs import BlobStore, check_digest

DATA = b"weights " * 1000
HEX = hashlib.sha256(DATA).hexdigest()
DIGEST = f"sha256:{HEX}"


@pytest.fixture
def store(tmp_path):
    return BlobStore(tmp_path)


def parts(root: Path) -> list[str]:
    return sorted(path.name for path in (root / ".a3s-power" / "parts").iterdir())


def add(store: BlobStore, data: bytes) -> str:
    with store.ingest() as ingest:
        ingest.write(data)
        return ingest.commit()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sha256:" + "a" * 64, "sha256:" + "a" * 64),
        ("sha256-" + "a" * 64, "sha256:" + "a" * 64),
        ("sha256:" + "Ab" * 32, "sha256:" + "Ab" * 32),
    ],
)
def test_a_digest_is_read_in_both_spellings_and_keeps_its_case(text, expected):
    assert check_digest(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256:",
        "a" * 64,
        "sha256:" + "a" * 63,
        "sha256:" + "a" * 65,
        "sha256:" + "g" * 64,
        "sha256:" + "a" * 64 + "\n",
        "sha512:" + "a" * 64,
        "SHA256:" + "a" * 64,
        "sha256:../" + "a" * 61,
        "sha256:" + "٣" * 64,
    ],
)
def test_what_is_no_digest_names_no_path(store, text):
    for ask in (store.path, store.has, store.open, store.delete, store.touch, store.size):
        with pytest.raises(InvalidDigest):
            ask(text)
    with pytest.raises(InvalidDigest), store.ingest(text):
        pass


@given(st.one_of(st.text(), st.from_regex(r"sha256[:-].*", fullmatch=True)))
def test_every_path_is_a_direct_child_of_blobs(text):
    store = BlobStore(Path("/store"))
    try:
        path = store.path(text)
    except InvalidDigest:
        return
    assert path.parent == Path("/store/blobs")
    assert re.fullmatch(r"sha256-[0-9a-fA-F]{64}", path.name)


def test_asking_an_empty_store_makes_nothing_on_disk(store, tmp_path):
    assert not store.has(DIGEST)
    assert store.digests() == []
    assert not store.delete(DIGEST)
    for ask in (store.open, store.size, store.touch):
        with pytest.raises(BlobNotFound, match=HEX):
            ask(DIGEST)
    assert list(tmp_path.iterdir()) == []


def test_a_blob_lies_where_ollama_looks_for_it(store, tmp_path):
    assert add(store, DATA) == DIGEST
    path = tmp_path / "blobs" / f"sha256-{HEX}"
    assert path.read_bytes() == DATA
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert store.has(DIGEST)
    assert store.size(DIGEST) == len(DATA)
    assert store.digests() == [DIGEST]
    with store.open(DIGEST) as file:
        assert file.read() == DATA
    assert parts(tmp_path) == []


def test_an_interrupted_upload_goes_on_where_it_ended(store, tmp_path):
    with store.ingest(DIGEST, len(DATA)) as first:
        first.write(DATA[:3000])
    assert parts(tmp_path) == [f"{HEX}.part"]
    assert not store.has(DIGEST)
    with BlobStore(tmp_path).ingest(DIGEST, len(DATA)) as second:
        assert (second.offset, second.size) == (3000, len(DATA))
        second.write(DATA[3000:])
        assert second.offset == second.size
        assert second.commit() == DIGEST
    assert store.path(DIGEST).read_bytes() == DATA
    assert parts(tmp_path) == []


def test_a_failure_inside_the_with_keeps_the_bytes_of_an_announced_blob(store, tmp_path):
    def hang_up():
        with store.ingest(DIGEST) as ingest:
            ingest.write(DATA[:10])
            raise ConnectionError

    with pytest.raises(ConnectionError):
        hang_up()
    with store.ingest(DIGEST) as ingest:
        assert ingest.offset == 10


@pytest.mark.parametrize("leave", [lambda _: None, lambda ingest: ingest.abort()])
def test_unannounced_bytes_never_stay(store, tmp_path, leave):
    with store.ingest() as ingest:
        ingest.write(DATA)
        leave(ingest)
    assert parts(tmp_path) == []
    assert store.digests() == []


def test_abort_drops_announced_bytes_too(store, tmp_path):
    with store.ingest(DIGEST) as ingest:
        ingest.write(DATA)
        ingest.abort()
    assert parts(tmp_path) == []


def test_an_ingest_that_took_nothing_leaves_nothing(store, tmp_path):
    with store.ingest(DIGEST):
        pass
    assert parts(tmp_path) == []


def test_restart_begins_again(store):
    with store.ingest(DIGEST, len(DATA)) as ingest:
        ingest.write(b"not the weights")
        ingest.restart()
        assert ingest.offset == 0
        ingest.write(DATA)
        assert ingest.commit() == DIGEST
    assert store.path(DIGEST).read_bytes() == DATA


def test_bytes_that_are_not_the_announced_ones_become_no_blob_and_are_dropped(store, tmp_path):
    with store.ingest(DIGEST) as ingest:
        ingest.write(b"something else")
        with pytest.raises(DigestMismatch) as caught:
            ingest.commit()
    assert caught.value.expected == DIGEST
    assert caught.value.actual == "sha256:" + hashlib.sha256(b"something else").hexdigest()
    assert store.digests() == []
    assert parts(tmp_path) == []


def test_too_many_bytes_are_refused_and_dropped(store, tmp_path):
    with store.ingest(DIGEST, 10) as ingest:
        ingest.write(DATA[:8])
        with pytest.raises(InvalidRequest, match="longer than the 10 bytes"):
            ingest.write(DATA[8:16])
    assert parts(tmp_path) == []


def test_too_few_bytes_are_refused_and_kept(store):
    with store.ingest(DIGEST, len(DATA)) as ingest:
        ingest.write(DATA[:10])
        with pytest.raises(InvalidRequest, match="10 of the 8000 bytes"):
            ingest.commit()
    with store.ingest(DIGEST, len(DATA)) as ingest:
        assert ingest.offset == 10


def test_a_part_longer_than_the_announced_size_is_no_beginning(store):
    with store.ingest(DIGEST) as ingest:
        ingest.write(b"x" * 9000)
    with store.ingest(DIGEST, len(DATA)) as ingest:
        assert ingest.offset == 0


def test_a_blob_that_is_here_already_is_touched_and_the_part_dropped(store, tmp_path):
    add(store, DATA)
    os.utime(store.path(DIGEST), (1, 1))
    inode = store.path(DIGEST).stat().st_ino
    add(store, DATA)
    assert store.path(DIGEST).stat().st_ino == inode
    assert store.path(DIGEST).stat().st_mtime > 1
    assert parts(tmp_path) == []


def test_a_blob_that_somebodys_crash_cut_short_is_replaced(store):
    add(store, DATA)
    os.truncate(store.path(DIGEST), 100)
    add(store, DATA)
    assert store.path(DIGEST).read_bytes() == DATA


def test_the_empty_blob_is_a_blob(store):
    empty = "sha256:" + hashlib.sha256(b"").hexdigest()
    with store.ingest(empty, 0) as ingest:
        assert ingest.commit() == empty
    assert store.size(empty) == 0


def test_other_files_among_the_blobs_are_not_blobs(store, tmp_path):
    add(store, DATA)
    for name in (
        f"sha256-{HEX}-partial",
        f"sha256-{HEX}-partial-0",
        f"sha256-{HEX}.tmp",
        "sha256-12",
        f"sha256:{HEX}",
    ):
        (tmp_path / "blobs" / name).write_bytes(b"")
    (tmp_path / "blobs" / f"sha256-{'0' * 64}").mkdir()
    assert store.digests() == [DIGEST]
    assert not store.has("sha256:" + "0" * 64)


def test_parts_lie_on_the_file_system_that_blobs_links_to(tmp_path):
    big_disk = tmp_path / "big" / "blobs"
    big_disk.mkdir(parents=True)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "blobs").symlink_to(big_disk)
    store = BlobStore(tmp_path / "models")
    with store.ingest(DIGEST) as ingest:
        ingest.write(DATA[:10])
    assert parts(tmp_path / "big") == [f"{HEX}.part"]
    add(store, DATA)
    assert (big_disk / f"sha256-{HEX}").read_bytes() == DATA
    assert not (tmp_path / "models" / ".a3s-power").exists()


# Pins


def test_a_pinned_blob_is_not_deleted_until_the_last_pin_is_gone(store):
    add(store, DATA)
    with store.pin([DIGEST]):
        with store.pin([DIGEST.replace(":", "-")]):
            assert not store.delete(DIGEST)
        assert store.is_pinned(DIGEST)
        assert not store.delete(DIGEST)
    assert not store.is_pinned(DIGEST)
    assert store.delete(DIGEST)
    assert not store.has(DIGEST)


def test_a_pin_ends_with_the_failure_of_its_block(store):
    with pytest.raises(ConnectionError), store.pin([DIGEST]):
        raise ConnectionError
    assert not store.is_pinned(DIGEST)


# The disk says no


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full; free some space"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "permission denied"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_a_failing_disk_is_said_plainly_and_the_part_can_be_resumed(store, monkeypatch, number, words):
    def fail(fd):
        raise OSError(number, os.strerror(number))

    with store.ingest(DIGEST) as ingest:
        ingest.write(DATA)
        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(StoreFailed, match=words):
            ingest.commit()
        monkeypatch.undo()
    assert not store.has(DIGEST)
    with store.ingest(DIGEST) as ingest:
        assert ingest.offset == len(DATA)
        ingest.commit()
    assert store.path(DIGEST).read_bytes() == DATA


def test_a_file_where_the_folder_should_be_is_one_clear_error(store, tmp_path):
    (tmp_path / "blobs").write_text("")
    with pytest.raises(StoreFailed, match=str(tmp_path)), store.ingest():
        pass
    with pytest.raises(StoreFailed):
        store.digests()


# Crashes: a child process kills itself at one step of an ingest

CHILD = """
import os, signal, sys
from pathlib import Path
from a3s_power.store.blobs import BlobStore

data_dir, step, nth = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
data, digest = b"weights " * 1000, sys.argv[4]

def dying(real):
    calls = 0
    def call(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    return call

with BlobStore(data_dir).ingest(digest, len(data)) as ingest:
    ingest.write(data[:4000])
    if step == "write":
        os.kill(os.getpid(), signal.SIGKILL)
    ingest.write(data[4000:])
    if step != "commit":
        setattr(os, step, dying(getattr(os, step)))
    ingest.commit()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    ("step", "nth", "held", "is_blob"),
    [
        ("write", 1, 4000, False),
        ("fchmod", 1, 8000, False),
        ("utime", 1, 8000, False),
        ("fsync", 1, 8000, False),
        ("replace", 1, 8000, False),
        ("fsync", 2, 0, True),  # of the folder: the rename is done
        ("commit", 1, 0, True),
    ],
)
def test_a_crash_at_any_step_loses_nothing_and_shows_nothing_half_done(store, tmp_path, step, nth, held, is_blob):
    argv = [sys.executable, "-c", CHILD, str(tmp_path), step, str(nth), DIGEST]
    assert subprocess.run(argv, check=False).returncode == -signal.SIGKILL
    assert store.digests() == ([DIGEST] if is_blob else [])
    with store.ingest(DIGEST, len(DATA)) as ingest:
        assert ingest.offset == held
        ingest.write(DATA[held:])
        ingest.commit()
    assert store.path(DIGEST).read_bytes() == DATA
    assert parts(tmp_path) == []


# Two at once


def test_a_second_ingest_of_the_same_blob_gets_a_part_of_its_own(store, tmp_path):
    with store.ingest(DIGEST) as first:
        first.write(DATA[:4000])
        with store.ingest(DIGEST) as second:
            assert second.offset == 0
            second.write(DATA)
            second.commit()
        first.write(DATA[4000:])
        first.commit()
    assert store.path(DIGEST).read_bytes() == DATA
    assert parts(tmp_path) == []


def test_a_second_ingest_that_fails_harms_neither_the_first_nor_its_part(store, tmp_path):
    with store.ingest(DIGEST) as first:
        first.write(DATA[:4000])
        with store.ingest(DIGEST) as second:
            second.write(b"wrong")
            with pytest.raises(DigestMismatch):
                second.commit()
        assert parts(tmp_path) == [f"{HEX}.part"]
    with store.ingest(DIGEST) as again:
        assert again.offset == 4000


def test_who_waited_at_a_part_never_writes_to_the_blob_it_became(store, monkeypatch):
    """Opened before the rename and locked after it: the lock is on the blob, not on a part."""
    real, done = fcntl.flock, []

    def flock(fd, operation):
        if not done:
            done.append(fd)
            with BlobStore(store.root.parent).ingest(DIGEST) as other:
                other.write(DATA[other.offset :])
                other.commit()
        return real(fd, operation)

    with store.ingest(DIGEST) as ingest:
        ingest.write(DATA[:100])
    monkeypatch.setattr(fcntl, "flock", flock)
    with store.ingest(DIGEST) as ingest:
        assert ingest.offset == 0
        ingest.write(b"not the weights")
    assert store.path(DIGEST).read_bytes() == DATA


def test_many_threads_that_bring_the_same_blob_make_one(store, tmp_path):
    together, failures = threading.Barrier(6), []

    def bring():
        try:
            together.wait()
            with store.ingest(DIGEST, len(DATA)) as ingest:
                for start in range(ingest.offset, len(DATA), 100):
                    ingest.write(DATA[start : start + 100])
                ingest.commit()
        except Exception as exc:
            failures.append(exc)

    threads = [threading.Thread(target=bring) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert store.path(DIGEST).read_bytes() == DATA
    assert parts(tmp_path) == []


OTHER_PROCESS = """
import sys
from pathlib import Path
from a3s_power.store.blobs import BlobStore

with BlobStore(Path(sys.argv[1])).ingest(sys.argv[2]) as ingest:
    ingest.write((b"weights " * 1000)[ingest.offset:])
    print(ingest.commit())
"""


def test_two_processes_that_bring_the_same_blob_do_not_harm_each_other(store, tmp_path):
    with store.ingest(DIGEST, len(DATA)) as ours:
        ours.write(DATA[:4000])
        argv = [sys.executable, "-c", OTHER_PROCESS, str(tmp_path), DIGEST]
        assert subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip() == DIGEST
        assert store.path(DIGEST).read_bytes() == DATA
        ours.write(DATA[4000:])
        assert ours.commit() == DIGEST
    assert store.path(DIGEST).read_bytes() == DATA
    assert parts(tmp_path) == []
