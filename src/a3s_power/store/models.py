"""Models: what a name in the store means, its manifest and its small layers read into one value."""

import hashlib
import logging
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Self, TypeVar

from a3s_power.errors import InvalidRequest, ModelNotFound, StoreFailed
from a3s_power.messages import Message
from a3s_power.names import ModelName
from a3s_power.store import manifests as media
from a3s_power.store.blobs import BlobStore
from a3s_power.store.manifests import Layer, Manifest, ManifestStore, Stamp, StoredManifest, read_json, write_json
from a3s_power.store.parts import disk_errors
from a3s_power.units import MIB, human_bytes

MAX_TEXT_BYTES = 16 * MIB
"""The largest config, template, system prompt, licence, … that is read. Real ones have some KB."""

_AGAIN = "pull it or create it again"

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Draft:
    """The draft model of a config."""

    model_format: str = ""
    architecture: str = ""
    tensor_prefix: str = ""
    config: str = ""


@dataclass(frozen=True, slots=True)
class Config:
    """The config blob (Ollama's `ConfigV2`). Fields stand in the order they are written in."""

    model_format: str = ""
    model_family: str = ""
    model_families: tuple[str, ...] = ()
    model_type: str = ""
    """Parameter count as people read it, `8.0B`."""
    file_type: str = ""
    """Quantisation, `Q4_K_M`."""
    renderer: str = ""
    parser: str = ""
    requires: str = ""
    """The oldest Ollama that runs the model, a semantic version."""
    remote_host: str = ""
    remote_model: str = ""
    capabilities: tuple[str, ...] = ()
    context_length: int = 0
    embedding_length: int = 0
    base_name: str = ""
    draft: Draft | None = None

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Unknown keys are skipped. Raises InvalidRequest."""
        return read_json(data, cls, "config")

    def encode(self) -> bytes:
        """The very bytes Ollama would write."""
        always = ("model_format", "model_family", "model_families", "model_type", "file_type")
        keys = {field.name: getattr(self, field.name) for field in fields(self)}
        written = {key: value for key, value in keys.items() if value or key in always}
        if self.draft:
            written["draft"] = {f.name: v for f in fields(Draft) if (v := getattr(self.draft, f.name))}
        written["model_families"] = self.model_families or None
        return write_json(written | {"architecture": "amd64", "os": "linux"})


@dataclass(frozen=True, slots=True)
class Model:
    """A model, ready to be loaded and prompted. Shared between requests: nothing in it changes."""

    name: ModelName
    digest: str
    """Of the manifest, 64 hex digits."""
    size_bytes: int
    modified_at: datetime
    config: Config
    model_path: Path | None = None
    """The GGUF; None for a model that runs elsewhere or is no GGUF."""
    parent_model: str = ""
    projector_paths: tuple[Path, ...] = ()
    adapter_paths: tuple[Path, ...] = ()
    draft_path: Path | None = None
    template: str | None = None
    """Go template; None without a template layer."""
    system: str = ""
    parameters: Mapping[str, object] = field(default_factory=dict)
    """Options as the model's maker set them, not checked."""
    messages: tuple[Message, ...] = ()
    licenses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _MessageJSON:
    role: str = ""
    content: str = ""


class ModelStore:
    """The models of one data folder. With `noprune` a manifest that is replaced leaves its blobs behind."""

    def __init__(self, data_dir: Path, *, noprune: bool = False) -> None:
        self.blobs = BlobStore(data_dir)
        self.manifests = ManifestStore(data_dir)
        self.lock = threading.RLock()
        """Held while manifests change and blobs go by what manifests need."""
        self._noprune = noprune
        self._cache: dict[ModelName, tuple[Stamp, Model]] = {}

    def get(self, name: ModelName) -> Model:
        """The model of that name, in whatever case. One stat if it was asked for before.

        Raises ModelNotFound, and StoreFailed if a blob is missing or cannot be read.
        """
        stamp, found = self.manifests.stamp(name), name
        if stamp is None:
            found = self._find(name)
            stamp = self.manifests.stamp(found)
        if cached := self._cache.get(found):
            known, model = cached
            if known == stamp:
                return model
        stored = self.manifests.read(found)
        model = self._load(stored)
        self._cache[found] = (stored.stamp, model)
        return model

    def known(self, name: ModelName) -> Model | None:
        """The model of that very name, if it was asked for before and is still the same: one stat, no more."""
        if cached := self._cache.get(name):
            stamp, model = cached
            return model if stamp == self.manifests.stamp(name) else None
        return None

    def outline(self, name: ModelName) -> Model:
        """A model of which no layer is read, and its config only if that can be: to be listed, and to be deleted.

        Raises ModelNotFound, and StoreFailed for a manifest that cannot be used.
        """
        stored = self.manifests.read(self._find(name))
        try:
            config = _Layers(self.blobs, stored).config()
        except StoreFailed:
            config = Config()
        return _model(stored, config)

    def copy(self, source: ModelName, destination: ModelName) -> None:
        """Another name for the same model; an older model of that name is replaced. Raises ModelNotFound."""
        with self.lock:
            source, destination = self._find(source), self.manifests.resolve(destination)
            if source != destination:
                self.manifests.copy(source, destination)
                self._cache.pop(destination, None)

    def delete(self, name: ModelName) -> None:
        """Remove a model, and the blobs that no other model needs. A running one goes on. ModelNotFound."""
        with self.lock:
            found = self._find(name)
            manifest = self.manifests.read(found).manifest
            self.manifests.delete(found)
            self._cache.pop(found, None)
            self._delete_unused(manifest.digests)

    def replace(self, name: ModelName, manifest: Manifest | bytes) -> frozenset[str]:
        """Put a manifest in place; bytes (from a registry) stay as they are.

        Raises BlobNotFound, and writes nothing, unless all its blobs are here. Returns the blobs of the model
        that had this name which nothing needs any more, and which are gone.
        """
        with self.lock:
            name = self.manifests.resolve(name)
            for digest in (manifest if isinstance(manifest, Manifest) else media.decode(manifest)).digests:
                self.blobs.size(digest)
            before = self._digests_before(name)
            self.manifests.write(name, manifest)
            self._cache.pop(name, None)
            return frozenset() if self._noprune else self._delete_unused(before)

    def has_from(self, name: ModelName, origin: str) -> bool:
        """Whether there is a whole model of that name, made from this origin."""
        try:
            manifest = self.manifests.read(self.manifests.resolve(name)).manifest
        except (ModelNotFound, StoreFailed):
            return False
        is_from = any(layer.media_type == media.MODEL and layer.from_ == origin for layer in manifest.layers)
        return is_from and all(map(self.blobs.has, manifest.digests))

    def delete_unused(self, digests: Iterable[str]) -> None:
        """Remove those blobs that no model needs."""
        with self.lock:
            self._delete_unused(digests)

    def write(self, name: ModelName, config: Config, layers: Sequence[Layer]) -> Manifest:
        """Make a model of blobs that are here, as `replace` does."""
        with self.lock:
            manifest = Manifest(self.add_layer(media.CONFIG, config.encode()), tuple(layers))
            self.replace(name, manifest)
        return manifest

    def add_layer(self, media_type: str, data: bytes | str) -> Layer:
        """A layer of bytes at hand; the blob may be here already. Raises InvalidRequest beyond MAX_TEXT_BYTES."""
        data = data.encode() if isinstance(data, str) else data
        if len(data) > MAX_TEXT_BYTES:
            kind = "config" if media_type == media.CONFIG else media_type.rpartition(".")[2]
            raise InvalidRequest(f"the model's {kind} is larger than {human_bytes(MAX_TEXT_BYTES)}")
        with self.blobs.ingest(f"sha256:{hashlib.sha256(data).hexdigest()}", len(data)) as ingest:
            ingest.restart()
            ingest.write(data)
            return Layer(media_type, ingest.commit(), len(data))

    def _find(self, name: ModelName) -> ModelName:
        found = self.manifests.resolve(name)
        if self.manifests.stamp(found) is None:
            raise ModelNotFound(name.display)
        return found

    def _digests_before(self, name: ModelName) -> frozenset[str]:
        try:
            return self.manifests.read(name).manifest.digests
        except ModelNotFound:
            return frozenset()
        except StoreFailed as exc:
            _log.warning("blobs of the replaced model %s stay: %s", name.display, exc)
            return frozenset()

    def _delete_unused(self, digests: Iterable[str]) -> frozenset[str]:
        unused = frozenset(digests) - self.manifests.referenced_digests()
        return frozenset(digest for digest in unused if self.blobs.delete(digest))

    def _load(self, stored: StoredManifest) -> Model:
        layers = _Layers(self.blobs, stored)
        sources = [layer.from_ or "" for layer in stored.manifest.layers if layer.media_type == media.MODEL]
        return replace(
            _model(stored, layers.config()),
            model_path=_last(layers.paths(media.MODEL)),
            parent_model=_last(sources) or "",
            projector_paths=layers.paths(media.PROJECTOR),
            adapter_paths=layers.paths(media.ADAPTER),
            draft_path=_last(layers.paths(media.DRAFT)),
            template=_last(layers.texts(media.TEMPLATE, media.PROMPT)),
            system=_last(layers.texts(media.SYSTEM)) or "",
            parameters=layers.parameters(),
            messages=layers.messages(),
            licenses=layers.texts(media.LICENSE),
        )


def _model(stored: StoredManifest, config: Config) -> Model:
    """As far as it can be told without a look at its layers."""
    return Model(
        name=stored.name,
        digest=stored.digest,
        size_bytes=stored.size_bytes,
        modified_at=stored.modified_at,
        config=config,
    )


class _Layers:
    """Reads the layers of one manifest by their media type. What cannot be read is StoreFailed."""

    def __init__(self, blobs: BlobStore, stored: StoredManifest) -> None:
        self._blobs = blobs
        self._manifest = stored.manifest
        self._model = stored.name.display

    def config(self) -> Config:
        if not self._manifest.config.digest:
            return Config()
        return self._decode(self._manifest.config, Config)

    def paths(self, media_type: str) -> tuple[Path, ...]:
        return tuple(self._path(layer) for layer in self._of(media_type))

    def texts(self, *media_types: str) -> tuple[str, ...]:
        return tuple(self._read(layer).decode(errors="replace") for layer in self._of(*media_types))

    def parameters(self) -> Mapping[str, object]:
        merged: dict[str, object] = {}
        for layer in self._of(media.PARAMS):
            merged |= self._decode(layer, dict[str, object])
        return MappingProxyType(merged)

    def messages(self) -> tuple[Message, ...]:
        read = [self._decode(layer, list[_MessageJSON]) for layer in self._of(media.MESSAGES)]
        return tuple(Message(message.role.lower(), message.content) for message in _last(read) or ())

    def _of(self, *media_types: str) -> Iterator[Layer]:
        return (layer for layer in self._manifest.layers if layer.media_type in media_types)

    def _decode(self, layer: Layer, type_: type[_T]) -> _T:
        try:
            return read_json(self._read(layer), type_, f"blob {layer.digest}")
        except InvalidRequest as exc:
            raise StoreFailed(f"model '{self._model}' is corrupt ({exc}); {_AGAIN}") from exc

    def _read(self, layer: Layer) -> bytes:
        with self._blobs.open(self._present(layer)) as file, disk_errors(f"read blob {layer.digest}"):
            data = file.read(MAX_TEXT_BYTES + 1)
        if len(data) > MAX_TEXT_BYTES:
            limit = human_bytes(MAX_TEXT_BYTES)
            raise StoreFailed(f"model '{self._model}': blob {layer.digest} is text of more than {limit}")
        return data

    def _path(self, layer: Layer) -> Path:
        return self._blobs.path(self._present(layer))

    def _present(self, layer: Layer) -> str:
        if layer.digest and self._blobs.has(layer.digest):
            return layer.digest
        missing = layer.digest or f"of its {layer.media_type} layer"
        raise StoreFailed(f"model '{self._model}' is incomplete: blob {missing} is missing; {_AGAIN}")


def _last(items: Sequence[_T]) -> _T | None:
    return items[-1] if items else None
