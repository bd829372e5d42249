"""Models that other programs left on this machine, and the names they come under. Pure: nothing is read here."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from a3s_power.cli.gguf_sets import GGUFSet, Problem
from a3s_power.cli.ollama_store import StoredModel
from a3s_power.names import DEFAULT_HOST, DEFAULT_NAMESPACE, DEFAULT_TAG, ModelName

_QUANTIZATION = re.compile(
    r"(?:^|[-._ ])((?:ud-)?(?:i?q\d(?:_[a-z0-9]+)*|tq\d_\d|bf16|fp?16|fp?32|mxfp4(?:_moe)?|nvfp4))(?=$|[-. ])",
    re.IGNORECASE | re.ASCII,
)
_GGUF = re.compile(r"[-_.]gguf$")
_NOT_IN_NAMES = re.compile(r"[^a-z0-9_.-]+")
_MAX_PART = 72  # characters: a part of a name has at most 80, and a number may follow
_SAYS_NOTHING = frozenset({"", "model", "ggml-model"})  # as a file's name


@dataclass(frozen=True, slots=True)
class Collection:
    """Models whose files were put together: a repository's, or those of one folder."""

    source: str
    """Where it was found, as the user says it: `lmstudio`, `/data/models`."""
    folder: Path
    models: tuple[GGUFSet, ...]
    publisher: str = ""
    repository: str = ""
    """Empty: the files' own names have to do."""


@dataclass(frozen=True, slots=True)
class Finds:
    """All that was found."""

    collections: tuple[Collection, ...] = ()
    stored: tuple[tuple[str, StoredModel], ...] = ()
    """Each with its source. They have names already."""
    problems: tuple[Problem, ...] = ()

    def __add__(self, other: "Finds") -> "Finds":
        return Finds(
            self.collections + other.collections, self.stored + other.stored, self.problems + other.problems
        )


@dataclass(frozen=True, slots=True)
class FoundModel:
    """One model, and the name it would come under, which no other has."""

    name: ModelName
    source: str
    content: GGUFSet | StoredModel


def named(finds: Finds) -> list[FoundModel]:
    """Every model, in order of name. One that was found in several ways is one model."""
    taken: set[str] = set()
    seen: set[object] = set()
    models = []
    for source, stored in finds.stored:
        manifest = stored.name, tuple(blob.file.digest for blob in stored.blobs)
        if manifest not in seen:
            seen.add(manifest)
            models.append(FoundModel(_free(_numbered(stored.name), taken), source, stored))
    for collection in finds.collections:
        for model, choices in _choices(collection):
            if (identity := model.parts[0].identity) not in seen:
                seen.add(identity)
                models.append(FoundModel(_free(choices, taken), collection.source, model))
    return sorted(models, key=lambda model: model.name.display)


def _free(choices: Iterable[ModelName], taken: set[str]) -> ModelName:
    name = next(name for name in choices if name.display.casefold() not in taken)
    taken.add(name.display.casefold())
    return name


def _choices(collection: Collection) -> Iterator[tuple[GGUFSet, Iterator[ModelName]]]:
    """The names for each model, the best first: the repository's, the file's where that is not enough."""
    repository = _GGUF.sub("", _clean(collection.repository))
    tags = Counter(_tag(model) for model in collection.models)
    for model in collection.models:
        tag = _tag(model)
        is_enough = repository and tags[tag] == 1
        yield model, _names(collection, repository if is_enough else _title(model, collection.folder), tag)


def _names(collection: Collection, model: str, tag: str) -> Iterator[ModelName]:
    """Without the publisher, with it, with a number."""
    namespaces = [DEFAULT_NAMESPACE, _clean(collection.publisher).replace(".", "-") or DEFAULT_NAMESPACE]
    plain, full = (ModelName(DEFAULT_HOST, namespace, model or "model", tag) for namespace in namespaces)
    yield plain
    yield from _numbered(full)


def _numbered(name: ModelName) -> Iterator[ModelName]:
    yield name
    yield from (ModelName(name.host, name.namespace, name.model, f"{name.tag}-{n}") for n in count(2))


def _title(model: GGUFSet, folder: Path) -> str:
    """What a file's name says besides the quantisation."""
    found = _quantization(model)
    title = _clean(model.stem[: found.start()] if found else model.stem)
    return _clean(folder.name) if title in _SAYS_NOTHING else title


def _tag(model: GGUFSet) -> str:
    if found := _quantization(model):
        return _clean(found[1])
    said = model.parts[0].quantization
    return DEFAULT_TAG if said == "unknown" else _clean(said)


def _quantization(model: GGUFSet) -> re.Match[str] | None:
    """`Q4_K_M` in `Qwen3-8B-Q4_K_M`: the last word that is one."""
    *_, last = (None, *_QUANTIZATION.finditer(model.stem))
    return last


def _clean(text: str) -> str:
    """Lower case, and nothing that a part of a name must not have; may be empty."""
    return _NOT_IN_NAMES.sub("-", text.lower()).strip("-.")[:_MAX_PART]
