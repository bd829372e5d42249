"""`create`: a Modelfile and the files that it names become a model on the server."""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from msgspec import structs

from a3s_power.cli.model_folder import TO_CONVERT, adapters_of, files_of, parts_of
from a3s_power.cli.progress import reporting
from a3s_power.cli.target import connected
from a3s_power.cli.uploading import Plan, SourceFile, make, named
from a3s_power.errors import InvalidModelfile, InvalidName
from a3s_power.modelfile import MAX_SIZE, Command, Description, describe, parse
from a3s_power.names import ModelName
from a3s_power.wire.ollama import CreateRequest, Message

_PATHS = ("./", "../", "/", "~")


def create(name: str, file: str | None, quantize: str | None, draft_quantize: str | None) -> None:
    """Make the model `name`. `file` is the Modelfile's path, `Modelfile` by default; without one, `FROM .`."""
    try:
        ModelName.parse(name)
    except InvalidName as exc:
        raise InvalidName(f"invalid model name: {name}") from exc
    description = describe(_commands(file))
    plan = plan_of(description, Path(file or "Modelfile").absolute().parent)
    for warning in description.parameters.warnings:
        print(warning)
    request = structs.replace(plan.request, quantize=quantize, draft_quantize=draft_quantize)
    with connected() as client, reporting(sys.stderr) as steps:
        make(client, name, replace(plan, request=request), steps)


def _commands(file: str | None) -> tuple[Command, ...]:
    path = Path(file or "Modelfile")
    try:
        with path.open("rb") as opened:
            return parse(opened.read(MAX_SIZE + 1))  # by mistake it may be the model itself
    except FileNotFoundError as exc:
        if file is None:
            return (Command("model", "."),)
        raise InvalidModelfile("specified Modelfile wasn't found") from exc


def plan_of(description: Description, folder: Path) -> Plan:
    """What is to be done. Paths are relative to `folder`, the Modelfile's own.

    Raises InvalidModelfile, among others for files that no model can be made of.
    """
    sources = {text: _expanded(text, folder) for text in description.models}
    names = [text for text, path in sources.items() if not path.exists()]
    for text in names:
        if text.startswith(_PATHS):  # no model has such a name
            raise InvalidModelfile(f"{text}: no such file or folder")
    files = _files_at([path for path in sources.values() if path.exists()], files_of)
    drafts = _files_at([_expanded(text, folder) for text in description.drafts], files_of)
    adapters = _files_at([_expanded(text, folder) for text in description.adapters], adapters_of)
    for draft in drafts:
        if draft.resolve() in [file.resolve() for file in files]:
            raise InvalidModelfile(f"DRAFT must not reference the same local path as FROM: {draft}")
    groups = [named([SourceFile(path) for path in paths]) for paths in (files, drafts, adapters)]
    return Plan(_request(description, names), *groups)


def _request(description: Description, names: Sequence[str]) -> CreateRequest:
    messages = [Message(role=role, content=content) for role, content in description.messages]
    return CreateRequest(
        from_=names[-1] if names else None,
        template=description.template,
        system=description.system,
        license=list(description.licenses) or None,
        parameters=dict(description.parameters.values) or None,
        messages=messages or None,
        renderer=description.renderer,
        parser=description.parser,
        requires=description.requires,
    )


def _expanded(text: str, folder: Path) -> Path:
    try:
        return folder / Path(text).expanduser()
    except RuntimeError as exc:
        user = text.removeprefix("~").partition("/")[0]
        raise InvalidModelfile(f"failed to find user '{user}'") from exc


def _files_at(paths: Iterable[Path], of_folder: Callable[[Path], list[Path]]) -> list[Path]:
    """GGUF files: each with its parts, of folders what `of_folder` says, none twice."""
    groups = (of_folder(path) if path.is_dir() else _parts_of(path) for path in paths)
    return list(dict.fromkeys(file for group in groups for file in group))


def _parts_of(path: Path) -> list[Path]:
    if path.exists() and not path.is_file():  # opening a pipe would wait for its other end
        raise InvalidModelfile(f"{path} is no file")
    try:
        with path.open("rb") as file:
            is_gguf = file.read(4) == b"GGUF"
    except OSError as exc:
        raise InvalidModelfile(f"{path}: {exc.strerror}") from exc
    if not is_gguf:
        raise InvalidModelfile(f"{path} is not a GGUF file; it {TO_CONVERT}")
    return parts_of(path)
