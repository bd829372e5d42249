"""From files on this machine to a model on the server: what it does not have yet is sent, once."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from msgspec import structs

from a3s_power.cli.jobs import Tell, run_all
from a3s_power.cli.progress import Steps, report
from a3s_power.client import Client, ClientError
from a3s_power.wire.ollama import CreateRequest

T = TypeVar("T")

_CHUNK = 2**20  # bytes
_BAD_REQUEST = 400


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file to send. `digest` is what its place says it hashes to (stores name blobs so); "" is not known."""

    path: Path
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """A model in the making: a request without the model's name and the digests, and the files.

    Files are keyed by what the server is to call them.
    """

    request: CreateRequest
    files: Mapping[str, SourceFile] = field(default_factory=dict)
    drafts: Mapping[str, SourceFile] = field(default_factory=dict)
    adapters: Mapping[str, SourceFile] = field(default_factory=dict)


def upload_names(paths: Sequence[Path]) -> list[str]:
    """What the server is to call files: their paths from the folder that holds them all."""
    if not paths:
        return []
    plain = [Path(os.path.realpath(path.parent), path.name) for path in paths]  # no server takes `..`
    root = Path(os.path.commonpath([path.parent for path in plain]))
    names = [os.fsencode(path.relative_to(root).as_posix()) for path in plain]
    # The server takes no bytes that are no UTF-8, and no backslashes: it might be on Windows.
    return [name.decode(errors="backslashreplace").replace("\\", "%") for name in names]


def named(files: Sequence[SourceFile]) -> dict[str, SourceFile]:
    """Files by their `upload_names`."""
    return dict(zip(upload_names([file.path for file in files]), files, strict=True))


def make(client: Client, name: str, plan: Plan, steps: Steps) -> None:
    """Have the server make the model `name`; `steps` shows how far it is.

    Raises ClientError, also for a file that is no longer what it was hashed as; OSError if one cannot be read.
    """
    steps.status("gathering model components")
    groups = {"files": plan.files, "draft_files": plan.drafts, "adapters": plan.adapters}
    files = dict.fromkeys(file for group in groups.values() for file in group.values())
    digests = _uploaded(client, list(files), steps)
    fields: dict[str, Any] = {
        key: {path: digests[file] for path, file in group.items()} for key, group in groups.items() if group
    }
    with client.create(structs.replace(plan.request, model=name, **fields)) as replies:
        for reply in replies:
            report(reply, steps)


def _uploaded(client: Client, files: Sequence[SourceFile], steps: Steps) -> dict[SourceFile, str]:
    """The digest of each file, once the server has them all."""
    unknown = [file for file in files if not file.digest]
    title = _title("hashing", [file.path.name for file in unknown])
    hashed = _for_each(unknown, title, _digest, steps)
    digests = {file: file.digest for file in files} | dict(zip(unknown, hashed, strict=True))
    missing = [file for file in files if not client.has_blob(digests[file])]
    title = _title("copying", [f"file {digests[file]}" for file in missing])
    _for_each(missing, title, lambda file, tell: _send(client, file, digests[file], tell), steps)
    return digests


def _title(verb: str, whats: Sequence[str]) -> str:
    return f"{verb} {whats[0]}" if len(whats) == 1 else f"{verb} {len(whats)} files"


def _for_each(
    files: Sequence[SourceFile], title: str, work: Callable[[SourceFile, Tell], T], steps: Steps
) -> list[T]:
    """Work on all files, a few at a time, as one step."""
    if not files:
        return []
    total = sum(file.path.stat().st_size for file in files)
    steps.amount(title, 0, total)
    return run_all([partial(work, file) for file in files], lambda done: steps.amount(title, done, total))


def _digest(file: SourceFile, tell: Tell) -> str:
    hashed = hashlib.sha256()
    with file.path.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            hashed.update(chunk)
            tell(opened.tell())
    return f"sha256:{hashed.hexdigest()}"


def _send(client: Client, file: SourceFile, digest: str, tell: Tell) -> None:
    try:
        client.upload_blob(file.path, digest, tell)
    except ClientError as exc:
        if exc.status != _BAD_REQUEST:
            raise
        reason = "is damaged" if file.digest else "changed while it was sent"
        raise ClientError(f"{file.path} {reason}: {exc}", exc.status) from exc
