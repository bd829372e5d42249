"""What nothing needs goes, and nothing else."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from a3s_power.errors import StoreFailed
from a3s_power.names import ModelName
from a3s_power.store.manifests import LICENSE, SYSTEM
from a3s_power.store.models import Config, ModelStore
from a3s_power.store.prune import Pruned, migrate_names, prune

NOW = time.time()
HOUR, DAY = 3600, 24 * 3600
DIGEST = "sha256:" + "a" * 64


@pytest.fixture
def store(tmp_path):
    return ModelStore(tmp_path)


def aged(path: Path, age_s: float) -> Path:
    os.utime(path, (NOW - age_s, NOW - age_s))
    return path


def unused(store: ModelStore, text: str, age_s: float) -> str:
    digest = store.add_layer(SYSTEM, text).digest
    aged(store.blobs.path(digest), age_s)
    return digest


def parts(root: Path) -> list[str]:
    return sorted(path.name for path in (root / ".a3s-power" / "parts").iterdir())


def test_an_empty_store_needs_no_pruning(store, tmp_path):
    assert prune(store) == Pruned(0, 0)
    assert migrate_names(store.blobs) == 0
    assert list(tmp_path.iterdir()) == []


def test_unused_blobs_older_than_an_hour_go(store):
    manifest = store.write(ModelName.parse("tiny"), Config(), [store.add_layer(LICENSE, "MIT")])
    for digest in manifest.digests:
        aged(store.blobs.path(digest), 30 * DAY)
    unused(store, "old", HOUR + 1)
    pinned, young = unused(store, "pinned", 30 * DAY), unused(store, "young", HOUR - 1)
    with store.blobs.pin([pinned]):
        assert prune(store, now=NOW) == Pruned(1, 3)
    assert set(store.blobs.digests()) == manifest.digests | {pinned, young}
    assert prune(store, older_than_s=0, now=NOW + 1) == Pruned(2, 11)


def test_files_that_are_no_blobs_are_somebodys(store, tmp_path):
    names = {
        f"sha256-{'a' * 64}-partial",
        f"sha256-{'a' * 64}-partial-0",
        f"sha256-{'a' * 64}.tmp",
        "sha256-1234567890",
        "README",
    }
    (tmp_path / "blobs").mkdir()
    for name in names:
        (tmp_path / "blobs" / name).write_text("")
        aged(tmp_path / "blobs" / name, 30 * DAY)
    assert prune(store, now=NOW) == Pruned(0, 0)
    assert {path.name for path in (tmp_path / "blobs").iterdir()} == names


def test_nothing_goes_while_a_manifest_cannot_be_read(store):
    old = unused(store, "old", 30 * DAY)
    store.write(ModelName.parse("tiny"), Config(), [])
    store.manifests.path(ModelName.parse("tiny")).write_text("{")
    with pytest.raises(StoreFailed, match="corrupt"):
        prune(store, now=NOW)
    assert store.blobs.has(old)


def test_a_dry_run_tells_what_would_go(store, tmp_path):
    old = unused(store, "old", HOUR + 1)
    with store.blobs.ingest(DIGEST) as ingest:
        ingest.write(b"begun")
    aged(tmp_path / ".a3s-power" / "parts" / f"{'a' * 64}.part", 15 * DAY)
    with store.blobs.pin([unused(store, "pinned", 30 * DAY)]):
        assert prune(store, now=NOW, dry_run=True) == Pruned(2, 8)
        assert store.blobs.has(old)
        assert parts(tmp_path) == [f"{'a' * 64}.part"]
        assert prune(store, now=NOW) == Pruned(2, 8)


@pytest.mark.parametrize(("age_s", "left"), [(13 * DAY, [f"{'a' * 64}.part"]), (15 * DAY, [])])
def test_a_part_can_be_resumed_for_two_weeks(store, tmp_path, age_s, left):
    with store.blobs.ingest(DIGEST) as ingest:
        ingest.write(b"begun")
    aged(tmp_path / ".a3s-power" / "parts" / f"{'a' * 64}.part", age_s)
    prune(store, now=NOW)
    assert parts(tmp_path) == left


LEFT_BEHIND = """
import os, signal, sys
from pathlib import Path
from a3s_power.store.blobs import BlobStore

with BlobStore(Path(sys.argv[1])).ingest() as ingest:
    ingest.write(b"gone with its process")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_and_nobody_can_resume_goes_at_once(store, tmp_path):
    subprocess.run([sys.executable, "-c", LEFT_BEHIND, str(tmp_path)], check=False)
    assert len(parts(tmp_path)) == 1
    assert prune(store, now=NOW) == Pruned(1, len(b"gone with its process"))
    assert parts(tmp_path) == []


def test_a_map_that_is_about_to_be_renamed_stays(store, tmp_path):
    folder = tmp_path / ".a3s-power" / "parts"
    folder.mkdir(parents=True)
    (tmp_path / "blobs").mkdir()
    (folder / f"{'a' * 64}.map.tmp").touch()
    aged(folder / f"{'a' * 64}.map.tmp", HOUR - 1)
    assert prune(store, now=NOW) == Pruned(0, 0)
    aged(folder / f"{'a' * 64}.map.tmp", HOUR + 1)
    assert prune(store, now=NOW) == Pruned(1, 0)


def test_parts_that_are_being_written_stay(store, tmp_path):
    with store.blobs.ingest(DIGEST) as announced, store.blobs.ingest() as other:
        announced.write(b"slow")
        other.write(b"slow")
        for name in parts(tmp_path):
            aged(tmp_path / ".a3s-power" / "parts" / name, 30 * DAY)
        assert prune(store, now=NOW) == Pruned(0, 0)
        assert len(parts(tmp_path)) == 2


def test_old_file_names_are_migrated(store, tmp_path):
    (tmp_path / "blobs").mkdir()
    for name in (f"sha256:{'a' * 64}", f"sha256-{'b' * 64}", "other:file"):
        (tmp_path / "blobs" / name).write_text(name)
    assert migrate_names(store.blobs) == 1
    assert store.blobs.digests() == [DIGEST, "sha256:" + "b" * 64]
    assert (tmp_path / "blobs" / "other:file").exists()
    assert migrate_names(store.blobs) == 0
