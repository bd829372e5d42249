"""Another Ollama's store: its models as they are, taken apart into what a create request says."""

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from a3s_power.cli.gguf_sets import Problem
from a3s_power.cli.uploading import Plan, SourceFile
from a3s_power.errors import AppError, InvalidName
from a3s_power.names import ModelName
from a3s_power.wire.ollama import CreateRequest, Message

T = TypeVar("T")

_MAX_MODELS = 10_000
_MANIFEST_DEPTH = 3  # folders: a host, a namespace, a model
_MAX_TEXT = 32 * 2**20  # bytes of a manifest or of a layer that is text
_TYPE = "application/vnd.ollama.image."
_CONFIG = "application/vnd.docker.container.image."
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_INFO = {  # key of the config → of `info` in a create request, for what the GGUF might not say
    "file_type": "quantization_level",
    "model_type": "parameter_size",
    "base_name": "base_name",
    "context_length": "context_length",
    "embedding_length": "embedding_length",
    "capabilities": "capabilities",
}


class DamagedModel(AppError):
    """Something of a stored model is missing or is not what it should be."""


class _Layer(msgspec.Struct):
    digest: str = ""
    size: int = 0
    media_type: str = msgspec.field(name="mediaType", default="")


class _Manifest(msgspec.Struct):
    layers: list[_Layer] | None = None
    config: _Layer | None = None


@dataclass(frozen=True, slots=True)
class Blob:
    """One layer's bytes. `kind` is the end of its media type: `model`, `template`."""

    kind: str
    file: SourceFile
    size_bytes: int


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model of GGUF files, all of them there; what its texts say is not read yet."""

    name: ModelName
    blobs: tuple[Blob, ...]

    @property
    def size_bytes(self) -> int:
        return sum(blob.size_bytes for blob in self.blobs)

    def of(self, *kinds: str) -> list[Blob]:
        return [blob for blob in self.blobs if blob.kind in kinds]


def is_store(folder: Path) -> bool:
    """Whether a folder looks like one."""
    return (folder / "manifests").is_dir() and (folder / "blobs").is_dir()


def stored_models(root: Path) -> tuple[list[StoredModel], list[Problem]]:
    """The models of the store at `root`, and what else could have been one. Models of the cloud are neither.

    Blocks; reads the manifests only. Raises OSError if it may not look into the store.
    """
    next((root / "manifests").iterdir(), None)
    models: list[StoredModel] = []
    problems: list[Problem] = []

    def unreadable(exc: OSError) -> None:
        problems.append(Problem(Path(exc.filename), exc.strerror or str(exc)))

    for path in sorted(islice(_manifests(root / "manifests", unreadable), _MAX_MODELS)):
        try:
            if model := _model(root, path):
                models.append(model)
        except DamagedModel as exc:
            problems.append(Problem(path, str(exc)))
    return models, problems


def _manifests(folder: Path, unreadable: Callable[[OSError], None]) -> Iterator[Path]:
    """`<host>/<namespace>/<model>/<tag>`."""
    for place, folders, files in os.walk(folder, onerror=unreadable, followlinks=True):
        if len(Path(place).relative_to(folder).parts) == _MANIFEST_DEPTH:
            folders.clear()
            yield from (Path(place, name) for name in files)


def plan_of(model: StoredModel) -> Plan:
    """What makes the same model elsewhere. Blocks: it reads the model's texts. Raises DamagedModel."""
    config = _json(model, "config")
    request = CreateRequest(
        template=_text(model, "template", "prompt"),
        system=_text(model, "system"),
        license=[_read_blob(blob).decode("utf-8", "replace") for blob in model.of("license")] or None,
        parameters=_json(model, "params") or None,
        messages=_messages(model),
        renderer=config.get("renderer"),
        parser=config.get("parser"),
        requires=config.get("requires"),
        info={field: config[key] for key, field in _INFO.items() if config.get(key)} or None,
    )
    return Plan(
        request,
        files=_files(model, "model") | _files(model, "projector"),
        drafts=_files(model, "draft"),
        adapters=_files(model, "adapter"),
    )


def _files(model: StoredModel, kind: str) -> dict[str, SourceFile]:
    return {f"{kind}-{number}.gguf": blob.file for number, blob in enumerate(model.of(kind), 1)}


# ---- a manifest ----


def _model(root: Path, path: Path) -> StoredModel | None:
    """The model of a manifest; None for one of the cloud's, which has no weights here. Raises DamagedModel."""
    *folders, tag = path.relative_to(root / "manifests").parts
    try:
        name = ModelName.parse(f"{'/'.join(folders)}:{tag}")
    except InvalidName:  # some other file
        return None
    manifest = _decoded(_read(path), _Manifest)
    layers = [*(manifest.layers or ()), *([manifest.config] if manifest.config else ())]
    kinds = [_kind(layer) for layer in layers]
    if "tensor" in kinds:
        raise DamagedModel("its weights are safetensors, which have to be converted to GGUF first")
    if "model" not in kinds:
        return None
    return StoredModel(name, tuple(_blob(root, layer) for layer in layers if layer.digest))


def _kind(layer: _Layer) -> str:
    return "config" if layer.media_type.startswith(_CONFIG) else layer.media_type.removeprefix(_TYPE)


def _blob(root: Path, layer: _Layer) -> Blob:
    if not _DIGEST.fullmatch(layer.digest):
        raise DamagedModel(f"{layer.digest!r} is no digest")
    path = root / "blobs" / layer.digest.replace(":", "-")
    try:
        size_bytes = path.stat().st_size
    except OSError as exc:
        raise DamagedModel(f"{path.name}: {exc.strerror}") from exc
    if size_bytes != layer.size:
        raise DamagedModel(f"{path.name} has {size_bytes} bytes, not {layer.size}")
    return Blob(_kind(layer), SourceFile(path, layer.digest), size_bytes)


# ---- texts ----


def _text(model: StoredModel, *kinds: str) -> str | None:
    """The last of these layers."""
    blobs = model.of(*kinds)
    return _read_blob(blobs[-1]).decode("utf-8", "replace") if blobs else None


def _json(model: StoredModel, kind: str) -> dict[str, Any]:
    """The JSON objects of these layers in one."""
    merged: dict[str, Any] = {}
    for blob in model.of(kind):
        merged |= _decoded(_read_blob(blob), dict[str, Any])
    return merged


def _messages(model: StoredModel) -> list[Message] | None:
    blobs = model.of("messages")
    turns = _decoded(_read_blob(blobs[-1]), list[dict[str, Any]]) if blobs else []
    return [Message(role=turn.get("role"), content=turn.get("content")) for turn in turns] or None


def _read_blob(blob: Blob) -> bytes:
    """Its bytes, if they are what its name says."""
    data = _read(blob.file.path)
    if f"sha256:{hashlib.sha256(data).hexdigest()}" != blob.file.digest:
        raise DamagedModel(f"{blob.file.path} is damaged: it does not hash to its name")
    return data


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_TEXT + 1)
    except OSError as exc:
        raise DamagedModel(exc.strerror or str(exc)) from exc
    if len(data) > _MAX_TEXT:
        raise DamagedModel(f"{path.name} is larger than {_MAX_TEXT} bytes")
    return data


def _decoded(data: bytes, shape: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise DamagedModel(f"no such JSON as it should be: {exc}") from exc
