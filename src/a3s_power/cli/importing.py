"""`import`: models that other programs left on this machine, listed and registered with the server."""

import os
import re
import sys
from collections.abc import Iterable, Sequence
from os.path import realpath
from pathlib import Path

from a3s_power.cli import ollama_store, output, uploading
from a3s_power.cli.found_models import FoundModel, named
from a3s_power.cli.gguf_sets import GGUFSet
from a3s_power.cli.other_programs import PROGRAMS, find
from a3s_power.cli.progress import reporting
from a3s_power.cli.target import connected
from a3s_power.cli.uploading import Plan, SourceFile, make
from a3s_power.client import Client, ServerUnreachable
from a3s_power.errors import AppError
from a3s_power.units import human_bytes
from a3s_power.wire.ollama import CreateRequest

_BLOB = re.compile(r"(?:sha256-)?([0-9a-f]{64})")


class NotFoundHere(AppError):
    """No model of that name was found on this machine, or more than one."""


class NotImported(AppError):
    """Something that was asked for is not on the server."""


def import_models(names: Sequence[str], *, everything: bool, sources: Sequence[str]) -> None:
    """Register the models `names`, or `everything` that is not there yet; with neither, list what was found.

    `sources` are names of PROGRAMS and paths of folders; none is all programs.
    """
    with connected() as client:
        sources = sources or list(PROGRAMS)
        finds = find(sources, Path.home(), os.environ)
        for problem in finds.problems:
            print(f"Warning: {problem}", file=sys.stderr)
        models = named(finds)
        here = frozenset(model.name.casefold() for model in client.list().models)
        if names:
            _import(client, chosen(models, names))
        elif everything:
            _import(client, [model for model in models if not _is_in(here, model)])
            if finds.problems:
                raise NotImported("not everything that was found could be imported, see the warnings")
        else:
            print(listing(models, here), end="")
            hint = "Import with: a3s-power import NAME... or --all"
            print("", hint if models else f"No models found in {', '.join(sources)}", sep="\n", file=sys.stderr)


def listing(models: Iterable[FoundModel], here: frozenset[str]) -> str:
    """A table; `here` are the names of the server's models, case folded."""
    rows = [
        (
            model.name.display,
            human_bytes(model.content.size_bytes),
            model.source,
            "yes" if _is_in(here, model) else "",
        )
        for model in models
    ]
    return output.table(("NAME", "SIZE", "FROM", "HERE"), rows)


def _is_in(here: frozenset[str], model: FoundModel) -> bool:
    return model.name.display.casefold() in here


def chosen(models: Sequence[FoundModel], names: Iterable[str]) -> list[FoundModel]:
    """The models of these names; a tag may be left out where there is but one. Raises NotFoundHere."""
    return [_chosen(models, name) for name in names]


def _chosen(models: Sequence[FoundModel], name: str) -> FoundModel:
    folded = name.casefold()
    by_name = {model.name.display.casefold(): model for model in models}
    if folded in by_name:
        return by_name[folded]
    matches = [model for full, model in by_name.items() if full.rpartition(":")[0] == folded]
    match matches:
        case [model]:
            return model
        case []:
            raise NotFoundHere(f"no model '{name}' was found, 'a3s-power import' lists those that were")
    which = ", ".join(model.name.display for model in matches)
    raise NotFoundHere(f"'{name}' is not clear, it could be {which}")


def _import(client: Client, models: Iterable[FoundModel]) -> None:
    """One after the other; what fails does not keep the next ones. Raises NotImported at the end."""
    failures = []
    for model in models:
        name = model.name.display
        try:
            with reporting(sys.stderr) as steps:
                make(client, name, plan_of(model.content), steps)
        except ServerUnreachable:
            raise
        except (AppError, OSError) as exc:
            failures.append(f"{name}: {exc}")
        else:
            print(f"imported '{name}'", flush=True)
    if failures:
        raise NotImported("\n".join(["not imported:", *failures]) if len(failures) > 1 else failures[0])


def plan_of(content: GGUFSet | ollama_store.StoredModel) -> Plan:
    """What is to be sent. Blocks. Raises DamagedModel."""
    if isinstance(content, ollama_store.StoredModel):
        return ollama_store.plan_of(content)
    files = [SourceFile(file.path, _digest_of(file.path)) for file in content.files]
    return Plan(CreateRequest(), files=uploading.named(files))


def _digest_of(path: Path) -> str:
    """As its store named it, such as Hugging Face's cache, whose snapshots are links; "" if none did."""
    target = Path(realpath(path))
    found = _BLOB.fullmatch(target.name)
    return f"sha256:{found[1]}" if found and target.parent.name == "blobs" else ""
