"""`create`: a Modelfile and the files that it names become a model on the server."""

import hashlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec import structs

from a3s_power.cli.progress import Steps, report, reporting
from a3s_power.cli.target import connected
from a3s_power.client import Client
from a3s_power.errors import InvalidModelfile, InvalidName
from a3s_power.modelfile import COMMANDS, MAX_SIZE, Command, parse, parse_parameters
from a3s_power.names import ModelName
from a3s_power.wire.ollama import CreateRequest, Message

_SEMVER = re.compile(r"v?(\d+(\.\d+){0,2}(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?)", re.ASCII)
_CHUNK = 2**20  # bytes
_CONVERT = "Other formats have to be converted first, with llama.cpp's convert_hf_to_gguf.py for example"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a Modelfile asks for: a request that lacks its files' digests, and the files."""

    request: CreateRequest
    files: Sequence[Path] = ()
    drafts: Sequence[Path] = ()
    adapters: Sequence[Path] = ()
    warnings: Sequence[str] = ()


_NOT_PARAMETERS = {"model", *COMMANDS}
_LAST_WINS = ("template", "system", "renderer", "parser")


def create(name: str, file: str | None, quantize: str | None, draft_quantize: str | None) -> None:
    """Make the model `name`. `file` is the Modelfile's path, `Modelfile` by default; without one, `FROM .`."""
    try:
        ModelName.parse(name)
    except InvalidName as exc:
        raise InvalidName(f"invalid model name: {name}") from exc
    plan = plan_of(_commands(file), Path(file or "Modelfile").absolute().parent)
    for warning in plan.warnings:
        print(warning)
    with connected() as client, reporting(sys.stderr) as steps:
        files = _uploaded(client, plan, steps)
        settled = {"model": name, "quantize": quantize, "draft_quantize": draft_quantize}
        with client.create(structs.replace(plan.request, **settled, **files)) as replies:
            for reply in replies:
                report(reply, steps)


def _commands(file: str | None) -> tuple[Command, ...]:
    path = Path(file or "Modelfile")
    try:
        with path.open("rb") as opened:
            return parse(opened.read(MAX_SIZE + 1))  # by mistake it may be the model itself
    except FileNotFoundError as exc:
        if file is None:
            return (Command("model", "."),)
        raise InvalidModelfile("specified Modelfile wasn't found") from exc


# ---- the Modelfile ----


def plan_of(commands: Sequence[Command], folder: Path) -> Plan:
    """What is to be done. Paths are relative to `folder`, the Modelfile's own.

    Raises InvalidModelfile, among others for a file that no model can be made of.
    """
    values: dict[str, list[str]] = {}
    for command in commands:
        values.setdefault(command.name, []).append(command.args)
    sources = {text: _expanded(text, folder) for text in values.get("model", [])}
    names = [text for text, path in sources.items() if not path.exists()]
    files = [_checked(path) for path in sources.values() if path.exists()]
    drafts = [_checked(_expanded(text, folder)) for text in values.get("draft", [])]
    adapters = [_checked(_expanded(text, folder)) for text in values.get("adapter", [])[-1:]]
    for draft in drafts:
        if draft.resolve() in [file.resolve() for file in files]:
            raise InvalidModelfile(f"DRAFT must not reference the same local path as FROM: {draft}")
    parameters = parse_parameters((c.name, [c.args]) for c in commands if c.name not in _NOT_PARAMETERS)
    request = CreateRequest(
        from_=names[-1] if names else None,
        license=values.get("license"),
        messages=[_message(text) for text in values.get("message", [])] or None,
        parameters=dict(parameters.values) or None,
        requires=_version(values["requires"][-1]) if "requires" in values else None,
    )
    last_wins = {name: values[name][-1] for name in _LAST_WINS if name in values}
    return Plan(structs.replace(request, **last_wins), files, drafts, adapters, parameters.warnings)


def _expanded(text: str, folder: Path) -> Path:
    try:
        return folder / Path(text).expanduser()
    except RuntimeError as exc:
        user = text.removeprefix("~").partition("/")[0]
        raise InvalidModelfile(f"failed to find user '{user}'") from exc


def _checked(path: Path) -> Path:
    """A path, if a GGUF file is there."""
    if path.is_dir():
        raise InvalidModelfile(f"{path} is a folder: name the GGUF file in it. {_CONVERT}")
    try:
        with path.open("rb") as file:
            is_gguf = file.read(4) == b"GGUF"
    except OSError as exc:
        raise InvalidModelfile(f"{path}: {exc.strerror}") from exc
    if not is_gguf:
        raise InvalidModelfile(f"{path} is not a GGUF file. {_CONVERT}")
    return path


def _message(text: str) -> Message:
    role, _, content = text.partition(": ")
    return Message(role=role, content=content)


def _version(text: str) -> str:
    if not (found := _SEMVER.fullmatch(text)):
        raise InvalidModelfile("requires must be a valid semver (e.g. 0.14.0)")
    return found[1]


# ---- its files ----


def _uploaded(client: Client, plan: Plan, steps: Steps) -> dict[str, dict[str, str]]:
    """The request's file fields; the server has all the blobs they name."""
    steps.status("gathering model components")
    groups = {"files": plan.files, "draft_files": plan.drafts, "adapters": plan.adapters}
    return {
        field: dict(zip(upload_names(paths), (_upload(client, path, steps) for path in paths), strict=True))
        for field, paths in groups.items()
        if paths
    }


def upload_names(paths: Sequence[Path]) -> list[str]:
    """What the server calls the files: their paths from the folder that holds them all."""
    if not paths:
        return []
    root = Path(os.path.commonpath([path.parent for path in paths]))
    return [path.relative_to(root).as_posix() for path in paths]


def _upload(client: Client, path: Path, steps: Steps) -> str:
    """The file's digest, after the server has it."""
    size = path.stat().st_size
    digest = _digest(path, lambda done: steps.amount(f"hashing {path.name}", done, size))
    if not client.has_blob(digest):
        client.upload_blob(path, digest, lambda done: steps.amount(f"copying file {digest}", done, size))
    return digest


def _digest(path: Path, on_progress: Callable[[int], None]) -> str:
    hashed = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            hashed.update(chunk)
            on_progress(file.tell())
    return f"sha256:{hashed.hexdigest()}"
