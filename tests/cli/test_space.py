"""`df` and `prune`: what they print, and that they reach the server."""

import os
import time
from pathlib import Path

import pytest

from a3s_power.cli import main, space
from a3s_power.wire.ollama import BlobSpace, DfReply, ModelSpace, PartialSpace, PruneReply


def test_a_table_of_models_and_the_sums():
    reply = DfReply(
        models=[
            ModelSpace("llama3.2:latest", 2_000_001_000, 1000, 2_000_000_000),
            ModelSpace("me/b:v1", 1000, 1000, 0),
        ],
        blobs=BlobSpace(count=4, size=2_000_501_000, unused_count=1, unused_size=500_000),
        partial=PartialSpace(count=2, size=70_000_000),
        total=2_070_501_000,
        free=90_000_000_000,
    )
    lines = [line.rstrip() for line in space.df_text(reply).splitlines()]
    assert lines == [
        "NAME               SIZE      SHARED    UNIQUE",
        "llama3.2:latest    2.0 GB    1 KB      2 GB",
        "me/b:v1            1 KB      1 KB      0 B",
        "",
        "  Disk",
        "    blobs              2.0 GB    4 files; what several models share is counted once",
        "    of these unused    500 KB    1 file that no model needs",
        "    partial            70 MB     2 unfinished transfers",
        "    total              2.1 GB    blobs and partial",
        "    free               90 GB     left on the disk",
        "",
    ]


@pytest.mark.parametrize(
    ("reply", "dry_run", "text"),
    [
        (PruneReply(0, 0), False, "nothing to remove"),
        (PruneReply(0, 0), True, "nothing to remove"),
        (PruneReply(1, 512), False, "removed 1 file, freed 512 B"),
        (PruneReply(3, 2_000_000_000), True, "would remove 3 files and free 2 GB"),
    ],
)
def test_what_went_in_a_line(reply, dry_run, text):
    assert space.prune_text(reply, dry_run=dry_run) == text


@pytest.fixture
def cli(scripted, monkeypatch, capsys):
    """Run one command against a server of its own; returns what it prints."""
    api = scripted()
    monkeypatch.setenv("OLLAMA_HOST", api.server.environment["OLLAMA_HOST"])

    def run(*argv):
        with pytest.raises(SystemExit) as caught:
            main.main(argv)
        printed = capsys.readouterr()
        assert caught.value.code == 0, printed.err
        return printed.out

    run.models = Path(api.server.environment["OLLAMA_MODELS"])
    return run


def test_the_commands_reach_the_server(cli):
    part = cli.models / ".a3s-power" / "parts" / f"{'a' * 64}.part"
    part.write_text("begun")
    long_ago = time.time() - 15 * 24 * 3600
    os.utime(part, (long_ago, long_ago))
    assert "1 unfinished transfer\n" in cli("df").replace(" \n", "\n").replace("  ", "")
    assert cli("prune", "--dry-run") == "would remove 1 file and free 5 B\n"
    assert cli("prune") == "removed 1 file, freed 5 B\n"
    assert cli("prune") == "nothing to remove\n"
    assert cli("df").splitlines()[1].startswith("m:latest ")
