"""From uploaded files or another model, and the texts around them, to a model in the store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from a3s_power.build.merge import Merge, Shard, is_shard, split_models
from a3s_power.errors import InvalidDigest, InvalidGGUF, InvalidRequest, InvalidTemplate
from a3s_power.gguf import GGUF, read_gguf
from a3s_power.messages import Message
from a3s_power.names import ModelName
from a3s_power.options import merge
from a3s_power.progress import Progress, Tell
from a3s_power.prompt.template import GoTemplate
from a3s_power.store import manifests as media
from a3s_power.store.blobs import check_digest
from a3s_power.store.manifests import Layer, write_json
from a3s_power.store.models import Config, ModelStore
from a3s_power.units import MIB, human_number

_TEXT_INFO = {
    "model_family": "model_family",
    "base_name": "base_name",
    "quantization_level": "file_type",
    "parameter_size": "model_type",
}
_NOT_INHERITED: Mapping[str, Any] = {
    "base_name": "",
    "context_length": 0,
    "embedding_length": 0,
    "remote_host": "",
    "remote_model": "",
    "draft": None,
}
_NUMBER_INFO = ("context_length", "embedding_length")
_TELL_BYTES = 64 * MIB  # between two steps while parts are merged


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a model is made of. Empty texts keep those of the base; `files` None means that none were named.

    Raises InvalidRequest for what is wrong before any file is looked at.
    """

    name: ModelName
    base: ModelName | None = None
    files: Mapping[str, str] | None = None
    """Path in the client's folder → digest of the uploaded blob."""
    adapters: Mapping[str, str] = field(default_factory=dict)
    template: str = ""
    system: str = ""
    licenses: tuple[str, ...] = ()
    parameters: Mapping[str, object] = field(default_factory=dict)
    messages: tuple[Message, ...] = ()
    renderer: str = ""
    parser: str = ""
    requires: str = ""
    info: Mapping[str, object] = field(default_factory=dict)
    origin: str = ""
    """Where the model's file is from, if its layer is to tell."""

    def __post_init__(self) -> None:
        for path in self.files or {}:
            if not _is_relative(path):
                raise InvalidRequest("file path must be relative")
        for digest in self.digests:
            if not digest:
                raise InvalidDigest
            check_digest(digest)
        merge((self.parameters,))

    @property
    def digests(self) -> tuple[str, ...]:
        """All blobs it names."""
        return (*(self.files or {}).values(), *self.adapters.values())


def assemble(store: ModelStore, recipe: Recipe, tell: Tell) -> None:
    """Make the model. Blocking; `tell` hears every step in Ollama's words, and ends the work by raising.

    Raises what is wrong with the recipe (InvalidRequest and below, ModelNotFound, BlobNotFound) or with the disk
    (StoreFailed); the store then has no trace of the model but blobs that the next clean-up takes.
    """
    with store.blobs.pin(recipe.digests):
        config, layers = _base(store, recipe, tell)
        layers += _adapters(store, recipe)
        config = _with_info(config, recipe)
        before = frozenset(layers)
        layers = _with_texts(store, layers, recipe)
        for layer in layers:
            tell(Progress(f"{'using existing' if layer in before else 'creating new'} layer {layer.digest}"))
        tell(Progress("writing manifest"))
        store.write(recipe.name, config, layers)


def _base(store: ModelStore, recipe: Recipe, tell: Tell) -> tuple[Config, list[Layer]]:
    if recipe.base is not None:
        return _from_model(store, recipe.base)
    if recipe.files is None:
        raise InvalidRequest("neither 'from' or 'files' was specified")
    if not recipe.files:
        raise InvalidRequest("unknown type")
    return _from_files(store, recipe, tell)


def _from_model(store: ModelStore, base: ModelName) -> tuple[Config, list[Layer]]:
    model = store.get(base)
    source = model.name.display
    layers = [replace(layer, from_=source) for layer in store.manifests.read(model.name).manifest.layers]
    return replace(model.config, **_NOT_INHERITED), layers


def _from_files(store: ModelStore, recipe: Recipe, tell: Tell) -> tuple[Config, list[Layer]]:
    layers: list[Layer] = []
    shards: dict[str, Path] = {}
    config = Config(model_format="gguf")
    for path, digest in sorted((recipe.files or {}).items()):
        tell(Progress("parsing GGUF"))
        layer, gguf = _file_layer(store, path, digest)
        if is_shard(gguf):
            shards[path] = store.blobs.path(digest)
            continue
        layers.append(layer)
        if layer.media_type == media.MODEL:
            config = _described(config, gguf)
    for model in split_models(shards):
        layer, gguf = _merged(store, model, tell)
        layers.append(layer)
        config = _described(config, gguf)
    models = [layer for layer in layers if layer.media_type == media.MODEL]
    if not models:
        raise InvalidRequest("no base model was found")
    if len(models) > 1:
        raise InvalidRequest("more than one model file")
    return config, [replace(layer, from_=recipe.origin or None) if layer in models else layer for layer in layers]


def _merged(store: ModelStore, shards: Sequence[Shard], tell: Tell) -> tuple[Layer, GGUF]:
    """All of a split model in one file, which is what engines find under a digest."""
    merge = Merge(shards)
    store.blobs.check_room(merge.size_bytes)
    with store.blobs.ingest(size=merge.size_bytes) as ingest:
        tell_at = 0

        def write(piece: bytes) -> None:
            nonlocal tell_at
            if ingest.offset >= tell_at:
                tell_at += _TELL_BYTES
                tell(Progress(f"merging {len(shards)} parts", total=merge.size_bytes, completed=ingest.offset))
            ingest.write(piece)

        merge.write_to(write)
        layer = Layer(media.MODEL, ingest.commit(), merge.size_bytes)
    return layer, read_gguf(store.blobs.path(layer.digest))


def _adapters(store: ModelStore, recipe: Recipe) -> list[Layer]:
    layers = [_file_layer(store, path, digest)[0] for path, digest in sorted(recipe.adapters.items())]
    if len(layers) > 1:
        raise InvalidRequest("only one adapter is currently supported")
    if any(layer.media_type != media.ADAPTER for layer in layers):
        raise InvalidRequest("the adapter file is no adapter")
    return layers


def _file_layer(store: ModelStore, path: str, digest: str) -> tuple[Layer, GGUF]:
    digest = check_digest(digest)
    size = store.blobs.size(digest)
    with store.blobs.open(digest) as file:
        if file.read(4) != b"GGUF":
            name = PurePosixPath(path).name
            raise InvalidRequest(
                "supplied file was not in GGUF format" if name.endswith(".gguf") else "unknown type"
            )
    try:
        gguf = read_gguf(store.blobs.path(digest))
    except InvalidGGUF as exc:
        raise InvalidGGUF(f"{PurePosixPath(path).name}: {exc}") from exc
    store.blobs.touch(digest)
    return Layer(_media_type(gguf), digest, size), gguf


def _media_type(gguf: GGUF) -> str:
    """What kind of file it is, by Ollama's rules (`server/create.go`)."""
    kind = gguf.metadata.get("general.type")
    if kind == "adapter":
        return media.ADAPTER
    has_blocks = bool(gguf.arch("block_count", 0))
    encodes = any(gguf.arch(key) for key in ("has_vision_encoder", "has_audio_encoder"))
    if (
        kind in {"projector", "mmproj"}
        or (gguf.arch("vision.block_count", 0) and not has_blocks)
        or (gguf.architecture == "clip" and not has_blocks and encodes)
    ):
        return media.PROJECTOR
    return media.MODEL


def _described(config: Config, gguf: GGUF) -> Config:
    return replace(
        config,
        model_family=gguf.architecture,
        model_families=(*config.model_families, gguf.architecture),
        model_type=human_number(gguf.parameter_count),
        file_type=gguf.file_type_name,
    )


def _with_info(config: Config, recipe: Recipe) -> Config:
    """What the request says of the model wins over what its file says."""
    changes: dict[str, object] = {}
    for key, of_config in _TEXT_INFO.items():
        if (text := recipe.info.get(key)) is not None:
            if not isinstance(text, str):
                raise InvalidRequest(f'info field "{key}" must be a string')
            changes[of_config] = text
    for key in _NUMBER_INFO:
        if (number := recipe.info.get(key)) is not None:
            changes[key] = _natural(key, number)
    if family := changes.get("model_family"):
        changes["model_families"] = (family,)
    if more := recipe.info.get("capabilities"):
        changes["capabilities"] = (*config.capabilities, *_texts("capabilities", more))
    for key in ("renderer", "parser", "requires"):
        if text := getattr(recipe, key):
            changes[key] = text
    return replace(config, **changes)  # type: ignore[arg-type]


def _texts(key: str, value: object) -> tuple[str, ...]:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise InvalidRequest(f'info field "{key}" must be an array of strings')


def _natural(key: str, number: object) -> int:
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise InvalidRequest(f'info field "{key}" must be a number')
    if number < 0 or number != int(number):
        raise InvalidRequest(f'info field "{key}" must be a non-negative integer')
    return int(number)


# ---- the small layers ----


def _with_texts(store: ModelStore, layers: Sequence[Layer], recipe: Recipe) -> list[Layer]:
    """Template, system, licences, parameters, messages: those given replace or join those of the base."""
    result = list(layers)

    def put(media_type: str, data: str | bytes, *, replaces: tuple[str, ...] = ()) -> None:
        result[:] = [layer for layer in result if layer.media_type not in replaces]
        result.append(store.add_layer(media_type, data))

    if recipe.template:
        _check_template(recipe.template)
        put(media.TEMPLATE, recipe.template, replaces=(media.TEMPLATE, media.PROMPT))
    if recipe.system:
        put(media.SYSTEM, recipe.system, replaces=(media.SYSTEM,))
    for text in recipe.licenses:
        put(media.LICENSE, text)
    if recipe.parameters:
        inherited = store.get(recipe.base).parameters if recipe.base else {}
        merged = {**inherited, **recipe.parameters}
        put(media.PARAMS, write_json(dict(sorted(merged.items()))), replaces=(media.PARAMS,))
    if recipe.messages:
        messages = [{"role": message.role, "content": message.content} for message in recipe.messages]
        put(media.MESSAGES, write_json(messages), replaces=(media.MESSAGES,))
    return result


def _check_template(text: str) -> None:
    try:
        GoTemplate.parse(text)
    except InvalidTemplate as exc:
        raise InvalidTemplate(f"template error: {exc}") from exc


def _is_relative(path: str) -> bool:
    """Slash-clean, relative, and nowhere above its own folder."""
    parts = path.split("/")
    return bool(path) and not any(part in {"", ".", ".."} for part in parts) and "\\" not in path
