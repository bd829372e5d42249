"""Manifests: one JSON file for each model, `<data_dir>/manifests/<host>/<namespace>/<model>/<tag>`.

The format is Docker's image manifest v2, spelled as Go's encoder does, so that digests agree with Ollama's.
"""

import hashlib
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from io import FileIO
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from a3s_power.errors import InvalidDigest, InvalidName, InvalidRequest, ModelNotFound, StoreFailed
from a3s_power.names import ModelName
from a3s_power.store.blobs import check_digest
from a3s_power.store.parts import disk_errors, fsync_dir, make_workspace, open_temp
from a3s_power.units import MIB

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
MODEL = "application/vnd.ollama.image.model"
PROJECTOR = "application/vnd.ollama.image.projector"
ADAPTER = "application/vnd.ollama.image.adapter"
DRAFT = "application/vnd.ollama.image.draft"
TEMPLATE = "application/vnd.ollama.image.template"
PROMPT = "application/vnd.ollama.image.prompt"
"""The old name of TEMPLATE."""
SYSTEM = "application/vnd.ollama.image.system"
PARAMS = "application/vnd.ollama.image.params"
MESSAGES = "application/vnd.ollama.image.messages"
LICENSE = "application/vnd.ollama.image.license"
TENSOR = "application/vnd.ollama.image.tensor"
JSON = "application/vnd.ollama.image.json"

MAX_MANIFEST_BYTES = 4 * MIB
"""What registries agree to take (OCI distribution spec). A model of one GGUF needs about 1 KB."""
MAX_LAYERS = 32_768
"""More than fit into MAX_MANIFEST_BYTES unless they are nearly empty; a tensor model has one for each tensor."""

MAX_JSON_DEPTH = 100
"""Levels of objects and arrays in manifests, configs and parameters, which have about three."""

_GO_ESCAPES = {char: f"\\u{ord(char):04x}".encode() for char in "<>&\u2028\u2029"}
_DEPTH = 4
_ABSENT = (FileNotFoundError, NotADirectoryError)

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

Stamp = tuple[int, int, int]
"""What changes when a file does: its mtime in ns, size and inode."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One blob's part in a model. `digest` is `sha256:<hex>`, or empty, which Ollama allows."""

    media_type: str
    digest: str
    size: int
    from_: str | None = None
    """The model or the blob path it came from."""
    name: str | None = None
    """Of a tensor, or of a JSON file."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a model is made of."""

    config: Layer
    layers: tuple[Layer, ...]

    @property
    def blobs(self) -> tuple[Layer, ...]:
        """The layers, then the config: everything that has bytes."""
        return tuple(layer for layer in (*self.layers, self.config) if layer.digest)

    @property
    def distinct_blobs(self) -> tuple[Layer, ...]:
        """`blobs`, each digest once."""
        return tuple({layer.digest: layer for layer in self.blobs}.values())

    @property
    def digests(self) -> frozenset[str]:
        return frozenset(layer.digest for layer in self.blobs)

    @property
    def size_bytes(self) -> int:
        """As Ollama adds it up: a blob that is there twice counts twice."""
        return sum(layer.size for layer in self.layers) + self.config.size


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """A manifest as it lies on disk."""

    name: ModelName
    manifest: Manifest
    digest: str
    """Of the file, 64 hex digits: what `ollama list` calls the model's ID."""
    modified_at: datetime
    """Local time, aware."""
    stamp: Stamp

    @property
    def size_bytes(self) -> int:
        return self.manifest.size_bytes


class _LayerJSON(msgspec.Struct):
    media_type: str = msgspec.field(name="mediaType", default="")
    digest: str = ""
    size: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0
    from_: str = msgspec.field(name="from", default="")
    name: str = ""


class _ManifestJSON(msgspec.Struct):
    config: _LayerJSON | None = None
    layers: Annotated[list[_LayerJSON], msgspec.Meta(max_length=MAX_LAYERS)] | None = None


def decode(data: bytes) -> Manifest:
    """Read a manifest as tolerantly as Ollama does: what it does not know, it skips.

    Raises InvalidRequest beyond MAX_MANIFEST_BYTES or MAX_LAYERS, and for a digest that is none, a negative
    size, or JSON that has neither config nor layers (an image index, say).
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise InvalidRequest(f"manifest is larger than {MAX_MANIFEST_BYTES} bytes")
    read = read_json(data, _ManifestJSON, "manifest")
    if read.config is None and read.layers is None:
        raise InvalidRequest("manifest: has neither config nor layers")
    return Manifest(_layer(read.config or _LayerJSON()), tuple(map(_layer, read.layers or ())))


def encode(manifest: Manifest) -> bytes:
    """The very bytes Ollama would write."""
    return write_json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": _layer_keys(manifest.config),
            "layers": [_layer_keys(layer) for layer in manifest.layers],
        }
    )


def read_json(data: bytes, type_: type[_T], what: str) -> _T:
    """JSON as a `type_`; null is the same as absent, as in Go.

    Raises InvalidRequest that begins with `what`, also for what is nested deeper than MAX_JSON_DEPTH.
    """
    try:
        return msgspec.convert(without_nulls(msgspec.json.decode(data), what), type_)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRequest(f"{what}: {exc}") from exc


def without_nulls(value: object, what: str, depth: int = 0) -> object:
    """JSON as Go reads it, where null is the same as absent. Raises InvalidRequest beyond MAX_JSON_DEPTH."""
    if depth > MAX_JSON_DEPTH:
        raise InvalidRequest(f"{what}: nested deeper than {MAX_JSON_DEPTH} levels")
    match value:
        case dict():
            return {key: without_nulls(item, what, depth + 1) for key, item in value.items() if item is not None}
        case list():
            return [without_nulls(item, what, depth + 1) for item in value if item is not None]
    return value


def write_json(value: object) -> bytes:
    """JSON as Go's `json.Encoder` writes it: compact, HTML escaped, with a newline at the end."""
    text = msgspec.json.encode(value)
    for char, escape in _GO_ESCAPES.items():
        text = text.replace(char.encode(), escape)
    return text + b"\n"


class ManifestStore:
    """All manifests of a store. Names are taken as spelled, but for `resolve`."""

    def __init__(self, data_dir: Path) -> None:
        self.root = data_dir / "manifests"

    def path(self, name: ModelName) -> Path:
        """Inside the store, whatever the name: no part of one begins with a dot or holds a slash."""
        return self.root.joinpath(*name.parts)

    def resolve(self, name: ModelName) -> ModelName:
        """The spelling this name has here: names that differ only in case are the same.

        The exact spelling wins, then the first in order. A new name takes over the host and the namespace of
        its neighbours. (Ollama matches each part by itself, even with parts of different models, in random order.)
        """
        if self.stamp(name) is not None:
            return name
        with disk_errors(f"read {self.root}"):
            if match := next(_matches(self.root, name.parts), None):
                return ModelName(*match)
            host = next(_spellings(self.root, name.host), name.host)
            namespace = next(_spellings(self.root / host, name.namespace), name.namespace)
        return ModelName(host, namespace, name.model, name.tag)

    def stamp(self, name: ModelName) -> Stamp | None:
        """Changes whenever the manifest does; None if there is none. One stat."""
        path = self.path(name)
        with disk_errors(f"read {path}"), suppress(*_ABSENT):
            status = path.stat()
            return _stamp(status) if stat.S_ISREG(status.st_mode) else None
        return None

    def read(self, name: ModelName) -> StoredManifest:
        """Raises ModelNotFound, or StoreFailed if the manifest cannot be used."""
        if stored := self._load(self.path(name)):
            return stored
        raise ModelNotFound(name.display)

    def read_bytes(self, name: ModelName) -> bytes:
        """The file as it is, fields we do not know included. Raises ModelNotFound."""
        path = self.path(name)
        with disk_errors(f"read manifest {path}"):
            try:
                return path.read_bytes()
            except _ABSENT as exc:
                raise ModelNotFound(name.display) from exc

    def write(self, name: ModelName, manifest: Manifest | bytes) -> None:
        """Put a manifest in place at once and for good. Bytes are kept as they are, once they decode."""
        if isinstance(manifest, Manifest):
            manifest = encode(manifest)
        decode(manifest)
        self._put(self.path(name), manifest)

    def copy(self, source: ModelName, destination: ModelName) -> None:
        """The same bytes under another name. Raises ModelNotFound."""
        self._put(self.path(destination), self.read_bytes(source))

    def delete(self, name: ModelName) -> None:
        """Remove a manifest and the folders that this leaves empty. Raises ModelNotFound."""
        path = self.path(name)
        with disk_errors(f"delete manifest {path}"):
            try:
                path.unlink()
            except _ABSENT as exc:
                raise ModelNotFound(name.display) from exc
            fsync_dir(path.parent)  # blobs are deleted next: a power cut must not bring the manifest back
        with suppress(OSError):
            for folder in path.parents[: _DEPTH - 1]:
                folder.rmdir()

    def names(self) -> list[ModelName]:
        """Every model here, in order. Files that no name leads to are skipped with a warning."""
        names = []
        for path in _files(self.root, _DEPTH):
            try:
                names.append(self._name(path))
            except StoreFailed as exc:
                _log.warning("skipping: %s", exc)
        return names

    def all(self, *, strict: bool = False) -> list[StoredManifest]:
        """Every manifest here. Those that cannot be used are skipped with a warning or, if `strict`, raise."""
        manifests = []
        for path in _files(self.root, _DEPTH):
            try:
                if stored := self._load(path):
                    manifests.append(stored)
                    continue
                raise StoreFailed(f"manifest {path} has gone, or links to nothing")
            except StoreFailed as exc:
                if strict:
                    raise
                _log.warning("skipping: %s", exc)
        return manifests

    def referenced_digests(self, *, strict: bool = False) -> frozenset[str]:
        """The blobs that some manifest needs; `strict` as in `all`."""
        return frozenset().union(*(stored.manifest.digests for stored in self.all(strict=strict)))

    def _name(self, path: Path) -> ModelName:
        parts = path.relative_to(self.root).parts
        with suppress(InvalidName):
            name = ModelName.parse("/".join(parts[:-1]) + f":{parts[-1]}")
            if name.parts == parts:
                return name
        raise StoreFailed(f"{path} is not the manifest of any model: its path is not a valid name")

    def _load(self, path: Path) -> StoredManifest | None:
        """None if nothing is there, or a link that leads nowhere."""
        name = self._name(path)
        with disk_errors(f"read manifest {path}"):
            try:
                with path.open("rb") as file:
                    status, data = os.fstat(file.fileno()), file.read(MAX_MANIFEST_BYTES + 1)
            except _ABSENT:
                return None
        try:
            manifest = decode(data)
        except InvalidRequest as exc:
            raise StoreFailed(f"{path} is corrupt ({exc}); pull the model again, or remove the file") from exc
        modified_at = datetime.fromtimestamp(status.st_mtime).astimezone()
        return StoredManifest(name, manifest, hashlib.sha256(data).hexdigest(), modified_at, _stamp(status))

    def _put(self, path: Path, data: bytes) -> None:
        with disk_errors(f"write manifest {path}"):
            temp, file = open_temp(make_workspace(self.root))
            try:
                with file:
                    _write_all(file, data)
                    os.fchmod(file.fileno(), 0o644)
                    os.fsync(file.fileno())
                    path.parent.mkdir(parents=True, exist_ok=True)
                    temp.replace(path)
            except BaseException:
                temp.unlink(missing_ok=True)
                raise
            for folder in path.parents[:_DEPTH]:
                fsync_dir(folder)


def _layer(read: _LayerJSON) -> Layer:
    try:
        digest = check_digest(read.digest) if read.digest else ""
    except InvalidDigest as exc:
        raise InvalidRequest(f"manifest: {exc}: {read.digest[:80]!r}") from exc
    return Layer(read.media_type, digest, read.size, read.from_ or None, read.name or None)


def _layer_keys(layer: Layer) -> dict[str, object]:
    optional = {"from": layer.from_, "name": layer.name}
    return {
        "mediaType": layer.media_type,
        "digest": layer.digest,
        "size": layer.size,
        **{key: value for key, value in optional.items() if value},
    }


def _write_all(file: FileIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _stamp(status: os.stat_result) -> Stamp:
    return (status.st_mtime_ns, status.st_size, status.st_ino)


def _files(folder: Path, depth: int) -> Iterator[Path]:
    """What lies `depth` levels down and is no folder; a folder that cannot be listed stands for its content."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    except OSError:
        yield folder
        return
    for entry in entries:
        if depth > 1 and entry.is_dir():
            yield from _files(folder / entry.name, depth - 1)
        elif depth == 1 and not entry.is_dir():
            yield folder / entry.name


def _matches(folder: Path, parts: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The paths of files below `folder` that equal `parts` but for case."""
    for entry in _spellings(folder, parts[0]):
        if len(parts) > 1:
            yield from ((entry, *rest) for rest in _matches(folder / entry, parts[1:]))
        elif (folder / entry).is_file():
            yield (entry,)


def _spellings(folder: Path, part: str) -> Iterator[str]:
    """The entries of `folder` that equal `part` but for case, the exact one first."""
    with suppress(*_ABSENT):
        entries = [entry.name for entry in folder.iterdir()]
        same = (name for name in entries if name.isascii() and name.casefold() == part.casefold())
        yield from sorted(same, key=lambda name: (name != part, name))
