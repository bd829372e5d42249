"""The commands about the disk under the models: df, prune."""

from a3s_power.cli import output
from a3s_power.cli.target import connected
from a3s_power.units import human_bytes
from a3s_power.wire.ollama import DfReply, PruneReply

_TEXT_WIDTH = 100


def df() -> None:
    """What each model takes, what lies beside the models, what is free."""
    with connected() as client:
        print(df_text(client.df()), end="")


def prune(*, dry_run: bool) -> None:
    """Remove what nothing needs, or tell what would go."""
    with connected() as client:
        print(prune_text(client.prune(dry_run=dry_run), dry_run=dry_run))


def df_text(reply: DfReply) -> str:
    """A table of models; below it the sums, in which a blob of several models counts once."""
    models = [
        (model.name, human_bytes(model.size), human_bytes(model.shared), human_bytes(model.unique))
        for model in reply.models
    ]
    blobs, partial = reply.blobs, reply.partial
    sums = [
        ("blobs", blobs.size, f"{_counted(blobs.count, 'file')}; what several models share is counted once"),
        ("of these unused", blobs.unused_size, f"{_counted(blobs.unused_count, 'file')} that no model needs"),
        ("partial", partial.size, f"{_counted(partial.count, 'unfinished transfer')}"),
        ("total", reply.total, "blobs and partial"),
        ("free", reply.free, "left on the disk"),
    ]
    rows = [(name, human_bytes(size), note) for name, size, note in sums]
    return (
        output.table(("NAME", "SIZE", "SHARED", "UNIQUE"), models)
        + "\n"
        + output.section("Disk", rows, _TEXT_WIDTH)
    )


def prune_text(reply: PruneReply, *, dry_run: bool) -> str:
    """`removed 3 files, freed 2.1 GB`"""
    if not reply.removed:
        return "nothing to remove"
    files, size = _counted(reply.removed, "file"), human_bytes(reply.freed)
    return f"would remove {files} and free {size}" if dry_run else f"removed {files}, freed {size}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
