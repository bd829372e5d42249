"""A blob comes through, whatever the registry does, and nothing is fetched or sent twice without need."""

import hashlib
import math
import random
import threading
from contextlib import asynccontextmanager, contextmanager

import anyio
import anyio.lowlevel
import pytest

from a3s_power.errors import DigestMismatch, StoreFailed
from a3s_power.registry import transfer
from a3s_power.registry.errors import (
    BadReply,
    RegistryFailed,
    RegistryRefused,
    RegistryUnreachable,
    RemoteNotFound,
    Unauthorized,
)
from a3s_power.registry.files import Source
from a3s_power.registry.patience import Patience
from a3s_power.registry.pieces import Piece, plan
from a3s_power.registry.transfer import fetch_blob, push_blob
from a3s_power.store.blobs import BlobStore
from a3s_power.units import MIB

pytestmark = pytest.mark.anyio

KIB = 1024
BLOCK = 256 * KIB
BACKOFF = (10, 20, 30)


def blob(size: int) -> tuple[bytes, str]:
    data = (random.Random(size).randbytes(min(size, MIB)) * (size // MIB + 1))[:size]
    return data, f"sha256:{hashlib.sha256(data).hexdigest()}"


DATA, DIGEST = blob(20 * MIB + 12_345)  # three pieces
SHORT, SHORT_DIGEST = blob(2 * BLOCK + 100)  # one


class Naps:
    """Takes the place of sleep: backoff takes no time, and throughput is measured only when a test says so."""

    def __init__(self):
        self.taken = []

    async def __call__(self, seconds):
        if seconds == transfer._MEASURE_S:
            await anyio.sleep_forever()
        self.taken.append(seconds)
        await anyio.lowlevel.checkpoint()


@pytest.fixture
def naps():
    return Naps()


@pytest.fixture
def patience(naps):
    return Patience(backoff_s=BACKOFF, sleep=naps)


@pytest.fixture
def store(tmp_path):
    return BlobStore(tmp_path)


class Progress(list):
    """What was told, which never goes back."""

    def __call__(self, count):
        assert not self or count >= self[-1]
        self.append(count)


# What a connection may do after some bytes of a read


def reset():
    raise RegistryUnreachable("connection reset")


def expire():
    raise RegistryRefused(403, "URL has expired", is_transient=True)


def end():
    """It breaks off and looks as if that were all."""


class Remote:
    """Holds one blob. `faults`, one for each read from the first on: how many bytes it sends, then what it does."""

    def __init__(self, data, *, accepts_ranges=True, chunk=48 * KIB, faults=(), sources=()):
        self.data, self.accepts_ranges, self.chunk = data, accepts_ranges, chunk
        self.faults, self.sources = list(faults), list(sources)
        self.reads, self.urls = [], []
        self.sent = self.open = self.most_open = 0
        self.on_sent = lambda: None

    async def source(self):
        await anyio.lowlevel.checkpoint()
        answer = self.sources.pop(0) if self.sources else len(self.data)
        if isinstance(answer, Exception):
            raise answer
        self.urls.append(f"https://cdn.test/{len(self.urls)}")
        return Source(self.urls[-1], answer, self.accepts_ranges)

    @asynccontextmanager
    async def read(self, source, start, end):
        assert self.accepts_ranges or (start, end) == (0, len(self.data))
        self.reads.append((source.url, start, end))
        self.open += 1
        self.most_open = max(self.open, self.most_open)
        try:
            limit, fault = self.faults.pop(0) if self.faults else (math.inf, None)
            yield self._chunks(self.data[start:end], limit, fault)
        finally:
            self.open -= 1

    async def _chunks(self, data, limit, fault):
        data = memoryview(data)
        for at in range(0, len(data), self.chunk):
            await anyio.lowlevel.checkpoint()
            chunk = bytes(data[at : min(at + self.chunk, limit)])
            self.sent += len(chunk)
            self.on_sent()
            if chunk:
                yield chunk
            if at + self.chunk > limit:
                break
        match fault:
            case None:
                pass
            case "stall":
                await anyio.sleep_forever()
            case bytes():
                yield fault
            case _:
                fault()


async def fetch(store, remote, digest, patience, on_progress=lambda _: None):
    with store.assemble(digest, len(remote.data)) as assembly:
        await fetch_blob(remote, assembly, on_progress, patience=patience)
        assembly.commit()
    assert store.path(digest).read_bytes() == remote.data
    assert remote.open == 0


# Pieces


@pytest.mark.parametrize(
    ("size", "piece"),
    [
        (1, 1),
        (20 * MIB, 8 * MIB),
        (160 * MIB + 5, 10 * MIB),
        (10_000 * MIB, 256 * MIB),
    ],
)
def test_a_blob_is_cut_into_sixteenths_within_bounds(size, piece):
    pieces = plan([(0, size)], size, in_ranges=True)
    assert {p.end - p.position for p in pieces[:-1]} <= {piece}
    assert [p.position for p in pieces] == [0, *(p.end for p in pieces[:-1])]
    assert pieces[-1].end == size


def test_gaps_are_cut_each_by_itself():
    gaps = [(BLOCK, 2 * BLOCK), (10 * MIB, 20 * MIB)]
    assert plan(gaps, 30 * MIB, in_ranges=True) == [
        Piece(BLOCK, 2 * BLOCK),
        Piece(10 * MIB, 18 * MIB),
        Piece(18 * MIB, 20 * MIB),
    ]


def test_without_ranges_there_is_one_piece_from_the_first_gap():
    assert plan([(5, 10), (20, 30)], 40, in_ranges=False) == [Piece(5, 40)]
    assert plan([], 40, in_ranges=False) == []


# Fetching


@pytest.mark.parametrize("accepts_ranges", [True, False])
async def test_a_blob_comes_whole(store, patience, naps, accepts_ranges):
    remote, progress = Remote(DATA, accepts_ranges=accepts_ranges), Progress()
    await fetch(store, remote, DIGEST, patience, progress)
    assert len(remote.reads) == (3 if accepts_ranges else 1)
    assert (progress[0], progress[-1]) == (0, len(DATA))
    assert (remote.sent, remote.urls, naps.taken) == (len(DATA), ["https://cdn.test/0"], [])


async def test_nothing_is_asked_for_when_nothing_is_missing(store, patience):
    remote, progress = Remote(b""), Progress()
    await fetch(store, remote, blob(0)[1], patience, progress)
    assert (remote.urls, progress) == ([], [0])


async def test_only_what_is_missing_is_fetched(store, patience):
    with store.assemble(DIGEST, len(DATA)) as assembly:
        assembly.write(MIB, DATA[MIB : 9 * MIB])
    remote, progress = Remote(DATA), Progress()
    await fetch(store, remote, DIGEST, patience, progress)
    assert [(start, end) for _, start, end in remote.reads][:2] == [(0, MIB), (9 * MIB, 17 * MIB)]
    assert remote.sent == len(DATA) - 8 * MIB
    assert progress[0] == 8 * MIB


async def test_without_ranges_all_is_sent_and_what_is_held_skipped(store, patience):
    with store.assemble(DIGEST, len(DATA)) as assembly:
        assembly.write(0, DATA[: 5 * MIB])
        assembly.write(9 * MIB, DATA[9 * MIB : 10 * MIB])
    remote, progress = Remote(DATA, accepts_ranges=False), Progress()
    await fetch(store, remote, DIGEST, patience, progress)
    assert remote.sent == len(DATA)
    assert progress[0] == 6 * MIB


@pytest.mark.parametrize("accepts_ranges", [True, False])
@pytest.mark.parametrize("fault", [reset, expire, end])
async def test_a_connection_may_fail_at_every_offset(store, patience, naps, fault, accepts_ranges):
    for limit in range(0, len(SHORT), 41_011):
        naps.taken.clear()
        remote = Remote(SHORT, accepts_ranges=accepts_ranges, faults=[(limit, fault)])
        await fetch(store, remote, SHORT_DIGEST, patience)
        assert remote.sent == len(SHORT) + (0 if accepts_ranges else limit)
        assert naps.taken == [10]
        store.delete(SHORT_DIGEST)


async def test_after_a_failure_the_source_is_asked_for_afresh(store, patience):
    remote = Remote(SHORT, faults=[(BLOCK, expire)])
    await fetch(store, remote, SHORT_DIGEST, patience)
    assert remote.reads == [
        ("https://cdn.test/0", 0, len(SHORT)),
        ("https://cdn.test/1", BLOCK, len(SHORT)),
    ]


async def test_a_silent_connection_is_given_up_for_another_at_once(store, naps):
    patience = Patience(stall_s=0.05, backoff_s=BACKOFF, sleep=naps)
    remote = Remote(SHORT, faults=[(0, "stall"), (100_000, "stall"), (BLOCK, "stall")])
    await fetch(store, remote, SHORT_DIGEST, patience)
    assert remote.sent == len(SHORT)
    assert naps.taken == []


async def test_a_registry_that_is_always_silent_fails(store, naps):
    patience = Patience(stall_s=0.01, backoff_s=BACKOFF, sleep=naps)
    remote = Remote(SHORT, faults=[(0, "stall")] * 10)
    with pytest.raises(RegistryFailed, match=r"max retries exceeded: no data for 0\.01 seconds"):
        await fetch(store, remote, SHORT_DIGEST, patience)
    assert (len(remote.reads), remote.open, naps.taken) == (1 + len(BACKOFF), 0, [])


async def test_retries_come_later_and_later_and_end(store, patience, naps):
    remote = Remote(SHORT, faults=[(0, reset)] * 10)
    with pytest.raises(RegistryFailed, match="max retries exceeded: connection reset"):
        await fetch(store, remote, SHORT_DIGEST, patience)
    assert naps.taken == list(BACKOFF)
    assert remote.open == 0


async def test_progress_renews_the_patience(store, patience, naps):
    remote = Remote(SHORT, faults=[(0, reset), (0, reset), (7, reset)] * 5)
    await fetch(store, remote, SHORT_DIGEST, patience)
    assert naps.taken == [10, 20, *[10, 20, 30] * 4, 10]


async def test_bytes_beyond_those_asked_for_are_not_taken(store, patience):
    remote = Remote(SHORT, faults=[(math.inf, b"more")])
    await fetch(store, remote, SHORT_DIGEST, patience)


async def test_wrong_bytes_are_found_out(store, patience):
    with pytest.raises(DigestMismatch):
        await fetch(store, Remote(bytes(len(SHORT))), SHORT_DIGEST, patience)
    assert not store.has(SHORT_DIGEST)


@pytest.mark.parametrize(
    "refusal", [RemoteNotFound(), Unauthorized(), RegistryRefused(400, "no", is_transient=False)]
)
async def test_what_the_registry_will_not_give_is_not_asked_for_again(store, patience, naps, refusal):
    with pytest.raises(type(refusal)):
        await fetch(store, Remote(SHORT, sources=[refusal]), SHORT_DIGEST, patience)
    assert naps.taken == []


async def test_an_answer_that_breaks_the_protocol_is_not_asked_for_again(store, patience, naps):
    def lie():
        raise BadReply("was asked for bytes 0-9 and sent bytes 5-9")

    remote = Remote(DATA, faults=[(BLOCK, lie)])
    with pytest.raises(BadReply, match="sent bytes 5-9"):
        await fetch(store, remote, DIGEST, patience)
    assert (remote.open, naps.taken) == (0, [])


async def test_a_source_that_cannot_be_found_now_may_be_later(store, patience, naps):
    remote = Remote(
        SHORT, sources=[RegistryUnreachable("no route"), RegistryRefused(503, "later", is_transient=True)]
    )
    await fetch(store, remote, SHORT_DIGEST, patience)
    assert naps.taken == [10, 20]


async def test_a_source_whose_size_is_unknown_will_do(store, patience):
    await fetch(store, Remote(SHORT, sources=[None]), SHORT_DIGEST, patience)


async def test_a_blob_of_another_size_is_not_begun(store, patience):
    remote = Remote(SHORT, sources=[7])
    with pytest.raises(BadReply, match=f"has 7 bytes there, not the {len(SHORT)} announced"):
        await fetch(store, remote, SHORT_DIGEST, patience)
    assert remote.reads == []


async def test_a_disk_that_says_no_ends_everything_at_once(store, patience, naps):
    remote = Remote(DATA)
    with store.assemble(DIGEST, len(DATA)) as assembly:

        def full(offset, data):
            raise StoreFailed("the disk is full")

        assembly.write = full
        with pytest.raises(StoreFailed, match="the disk is full"):
            await fetch_blob(remote, assembly, lambda _: None, patience=patience)
    assert (remote.open, naps.taken) == (0, [])


async def test_the_digest_is_checked_while_it_streams_and_writes_are_bounded(store, patience):
    hashing, writes, loop_thread = 0, [], threading.get_ident()

    with store.assemble(DIGEST, len(DATA)) as assembly:
        real_write, real_hash = assembly.write, assembly.hash_ahead

        def write(offset, data):
            assert threading.get_ident() != loop_thread
            writes.append(len(data))
            real_write(offset, data)

        def hash_ahead():
            nonlocal hashing
            assert threading.get_ident() != loop_thread
            hashing += 1
            real_hash()

        assembly.write, assembly.hash_ahead = write, hash_ahead
        remote = Remote(DATA)
        await fetch_blob(remote, assembly, lambda _: None, patience=patience)
    assert hashing
    assert max(writes) < MIB + remote.chunk


# More connections while they bring more

LARGE, LARGE_DIGEST = blob(128 * MIB)  # sixteen pieces


async def test_more_connections_are_made_while_bytes_come(store):
    remote, asked = Remote(LARGE, chunk=MIB), []

    async def measure(seconds):
        asked.append(seconds)
        before = remote.sent
        while remote.sent == before:
            await anyio.lowlevel.checkpoint()

    await fetch(store, remote, LARGE_DIGEST, Patience(sleep=measure))
    assert set(asked) == {transfer._MEASURE_S}
    assert 6 <= remote.most_open <= 16


async def test_no_more_connections_are_made_while_nothing_comes(store):
    remote = Remote(LARGE, chunk=MIB)

    async def measure(seconds):
        assert remote.sent == 0

    await fetch(store, remote, LARGE_DIGEST, Patience(sleep=measure))
    assert remote.most_open == 4


# Interruptions


@contextmanager
def cancelled_after(remote: Remote, count: int):
    """Cancel the block once the remote has sent so many more bytes."""
    end = remote.sent + count
    with anyio.CancelScope() as scope:
        remote.on_sent = lambda: remote.sent >= end and scope.cancel()
        yield scope
    remote.on_sent = lambda: None


async def test_cancelled_halfway_it_leaves_nothing_running_and_can_be_resumed(store, patience):
    remote = Remote(DATA)
    threads = anyio.to_thread.current_default_thread_limiter()
    with store.assemble(DIGEST, len(DATA)) as assembly:
        with cancelled_after(remote, len(DATA) // 2) as scope:
            await fetch_blob(remote, assembly, lambda _: None, patience=patience)
        assert scope.cancelled_caught
        assert (remote.open, threads.borrowed_tokens) == (0, 0)
        held = assembly.completed
        assert held > len(DATA) // 2 - 4 * BLOCK
    progress = Progress()
    await fetch(store, remote, DIGEST, patience, progress)
    assert progress[0] == held


async def test_cancelled_while_it_waits_for_the_next_try_it_goes_at_once(store):
    async def sleep(seconds):
        if seconds in BACKOFF:
            scope.cancel()
        await anyio.sleep_forever()

    remote = Remote(SHORT, faults=[(BLOCK, reset)])
    with store.assemble(SHORT_DIGEST, len(SHORT)) as assembly:
        with anyio.CancelScope() as scope:
            patience = Patience(backoff_s=BACKOFF, sleep=sleep)
            await fetch_blob(remote, assembly, lambda _: None, patience=patience)
        assert scope.cancelled_caught
        assert (remote.open, assembly.completed) == (0, BLOCK)


async def test_twenty_interruptions_cost_less_than_a_tenth(store, patience):
    remote = Remote(LARGE)
    for _ in range(20):
        with cancelled_after(remote, len(LARGE) // 21):
            await fetch(store, remote, LARGE_DIGEST, patience)
        assert not store.has(LARGE_DIGEST)
    await fetch(store, remote, LARGE_DIGEST, patience)
    assert remote.sent <= 1.1 * len(LARGE)


# Pushing


class Uploads:
    """A registry that takes blobs. `faults`, one for each PATCH from the first on: how many bytes it still takes."""

    def __init__(self, *, faults=(), keeps_halves=True, mounts=()):
        self.blobs, self.uploads = {}, {}
        self.faults, self.keeps_halves, self.mounts = list(faults), keeps_halves, set(mounts)
        self.begin_errors, self.offset_errors, self.finish_errors = [], [], []
        self.taken, self.calls = 0, []

    async def blob_size(self, digest):
        await anyio.lowlevel.checkpoint()
        self.calls.append("HEAD")
        return len(self.blobs[digest]) if digest in self.blobs else None

    async def begin_upload(self, digest, mount_from):
        await anyio.lowlevel.checkpoint()
        self.calls.append("POST")
        if self.begin_errors:
            raise self.begin_errors.pop(0)
        if mount_from in self.mounts:
            return None
        url = f"https://registry.test/{self.calls.count('POST')}"
        self.uploads[url] = b""
        return url

    async def upload(self, url, offset, data, length):
        self.calls.append("PATCH")
        room = self.faults.pop(0) if self.faults else math.inf
        held = self.uploads.get(url)
        if held is None:
            raise RemoteNotFound
        assert offset == len(held)
        received = b""
        async for chunk in data:
            received += chunk[: min(len(chunk), room - len(received))]
            if len(received) == room:
                self.uploads[url] += received if self.keeps_halves else b""
                self.taken += len(received)
                raise RegistryUnreachable("connection reset")
        assert len(received) == length
        self.taken += length
        self.uploads[url] += received
        return url

    async def upload_offset(self, url):
        self.calls.append("GET")
        if self.offset_errors:
            raise self.offset_errors.pop(0)
        if url not in self.uploads:
            raise RemoteNotFound
        return len(self.uploads[url])

    async def finish_upload(self, url, digest):
        self.calls.append("PUT")
        error = self.finish_errors.pop(0) if self.finish_errors else None
        if error is None or error.args == ("answer lost",):
            self.blobs[digest] = self.uploads.pop(url)
            assert digest == f"sha256:{hashlib.sha256(self.blobs[digest]).hexdigest()}"
        if error is not None:
            raise error


BODY, BODY_DIGEST = blob(5 * MIB + 77)


@pytest.fixture(autouse=True)
def small_uploads(monkeypatch):
    monkeypatch.setattr(transfer, "UPLOAD_BYTES", 2 * MIB)


async def push(registry, patience, *, data=BODY, digest=BODY_DIGEST, mount_from=None, on_progress=lambda _: None):
    def read(start, length):
        assert threading.get_ident() != loop_thread
        return data[start : start + length]

    loop_thread = threading.get_ident()
    await push_blob(registry, digest, len(data), read, mount_from, on_progress, patience=patience)


async def test_a_blob_is_sent_in_chunks(patience, naps):
    registry, progress = Uploads(), Progress()
    await push(registry, patience, on_progress=progress)
    assert registry.blobs == {BODY_DIGEST: BODY}
    assert registry.calls == ["HEAD", "POST", "PATCH", "PATCH", "PATCH", "PUT"]
    assert (progress[0], progress[-1], naps.taken) == (0, len(BODY), [])


async def test_the_empty_blob_is_sent_in_none(patience):
    registry = Uploads()
    await push(registry, patience, data=b"", digest=blob(0)[1])
    assert registry.calls == ["HEAD", "POST", "PUT"]


async def test_a_blob_that_is_there_is_not_sent(patience):
    registry, progress = Uploads(), Progress()
    registry.blobs[BODY_DIGEST] = BODY
    await push(registry, patience, on_progress=progress)
    assert (registry.calls, progress) == (["HEAD"], [len(BODY)])


@pytest.mark.parametrize(("mount_from", "patches"), [("library/parent", 0), ("library/other", 3), (None, 3)])
async def test_a_blob_of_another_repository_is_mounted(patience, mount_from, patches):
    registry, progress = Uploads(mounts=["library/parent"]), Progress()
    await push(registry, patience, mount_from=mount_from, on_progress=progress)
    assert registry.calls.count("PATCH") == patches
    assert progress[-1] == len(BODY)


async def test_an_upload_goes_on_from_what_the_registry_has(patience, naps):
    registry = Uploads(faults=[MIB + 5, 0, 100, math.inf, 1])
    await push(registry, patience)
    assert registry.blobs == {BODY_DIGEST: BODY}
    assert registry.taken == len(BODY)
    assert naps.taken == [10, 10, 20, 10]  # what came through is known when the offset has been asked for


async def test_where_halves_are_lost_the_chunk_is_sent_again(patience):
    registry, progress = Uploads(faults=[math.inf, MIB], keeps_halves=False), []
    await push(registry, patience, on_progress=progress.append)
    assert registry.blobs == {BODY_DIGEST: BODY}
    assert registry.taken == len(BODY) + MIB
    assert progress[-1] == len(BODY)


async def test_an_upload_that_the_registry_gave_up_is_begun_again(patience):
    registry = Uploads(faults=[math.inf, MIB])
    registry.offset_errors = [RemoteNotFound()]
    await push(registry, patience)
    assert registry.blobs == {BODY_DIGEST: BODY}
    assert registry.calls.count("POST") == 2


async def test_while_the_offset_cannot_be_asked_for_the_upload_is_not_given_up(patience, naps):
    registry = Uploads(faults=[math.inf, MIB])
    registry.offset_errors = [RegistryUnreachable("no route")]
    await push(registry, patience)
    assert registry.calls.count("POST") == 1
    assert registry.taken == len(BODY)
    assert naps.taken == [10, 20]


async def test_a_finished_upload_whose_answer_got_lost_is_found(patience):
    registry = Uploads()
    registry.finish_errors = [RegistryUnreachable("answer lost")]
    await push(registry, patience)
    assert registry.calls[-3:] == ["PUT", "GET", "HEAD"]
    assert registry.taken == len(BODY)


async def test_a_finish_that_failed_is_tried_again_without_sending(patience):
    registry = Uploads()
    registry.finish_errors = [RegistryRefused(503, "busy", is_transient=True)]
    await push(registry, patience)
    assert registry.calls[-3:] == ["PUT", "GET", "PUT"]
    assert registry.taken == len(BODY)


@pytest.mark.parametrize(
    "error", [Unauthorized(), RemoteNotFound(), RegistryRefused(413, "too large", is_transient=False)]
)
async def test_an_upload_that_is_refused_is_not_tried_again(patience, naps, error):
    registry = Uploads()
    registry.begin_errors = [error]
    with pytest.raises(type(error)):
        await push(registry, patience)
    assert naps.taken == []


async def test_blobs_that_the_registry_calls_wrong_are_not_sent_again(patience):
    registry = Uploads()
    registry.finish_errors = [RegistryRefused(400, "DIGEST_INVALID", is_transient=False)]
    with pytest.raises(RegistryRefused, match="DIGEST_INVALID"):
        await push(registry, patience)
    assert registry.taken == len(BODY)


async def test_the_patience_with_an_upload_ends_too(patience, naps):
    registry = Uploads(faults=[0] * 10)
    with pytest.raises(RegistryFailed, match="max retries exceeded: connection reset"):
        await push(registry, patience)
    assert naps.taken == list(BACKOFF)


async def test_uploads_that_are_lost_again_and_again_are_no_progress(patience, naps):
    registry = Uploads(faults=[math.inf, MIB] * 10)
    registry.offset_errors = [RemoteNotFound() for _ in range(10)]
    with pytest.raises(RegistryFailed, match="max retries exceeded"):
        await push(registry, patience)
    assert naps.taken == list(BACKOFF)


async def test_a_disk_that_cannot_be_read_is_not_tried_again(patience, naps):
    def read(start, length):
        raise StoreFailed("cannot read")

    with pytest.raises(StoreFailed, match="cannot read"):
        await push_blob(Uploads(), BODY_DIGEST, len(BODY), read, None, lambda _: None, patience=patience)
    assert naps.taken == []
