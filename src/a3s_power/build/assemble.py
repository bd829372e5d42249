"""From a recipe to a model in the store: its parts, what is said of it, and the texts around it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from a3s_power.build.known_templates import KnownTemplate, detect
from a3s_power.build.parts import only_model, parts_of, quantised
from a3s_power.build.recipe import Recipe
from a3s_power.build.tensor_types import SOURCES
from a3s_power.build.workbench import Part, Workbench, digest_of
from a3s_power.errors import InvalidRequest, InvalidTemplate
from a3s_power.gguf import read_gguf
from a3s_power.names import ModelName
from a3s_power.progress import Progress, Tell
from a3s_power.prompt.template import GoTemplate
from a3s_power.store import manifests as media
from a3s_power.store.manifests import Layer, write_json
from a3s_power.store.models import Config, Draft, ModelStore
from a3s_power.units import human_number

_TEXT_INFO = {
    "model_family": "model_family",
    "base_name": "base_name",
    "quantization_level": "file_type",
    "parameter_size": "model_type",
}
_NUMBER_INFO = ("context_length", "embedding_length")
_INHERITED = (
    "model_format", "model_family", "model_families", "model_type", "file_type", "renderer", "parser", "requires",
    "capabilities",
)  # fmt: skip
_BUILT_IN = {
    "gemma4": "gemma4",
    "laguna": "laguna",
    "nemotron_h": "nemotron-3-nano",
    "nemotron_h_moe": "nemotron-3-nano",
    "nemotron_h_omni": "nemotron-3-nano",
}
"""Architecture → the renderer and parser that Ollama has for it (`server/create.go`)."""
_STOPS = {"gemma4": ["<turn|>"]}
"""Architecture → where it stops, unless its maker says otherwise."""


@dataclass(frozen=True, slots=True)
class _Base:
    """What a model begins with: that of another model, or what its files are."""

    config: Config
    layers: tuple[Layer, ...] = ()
    model: Part | None = None
    """None for a model that runs elsewhere."""
    parameters: Mapping[str, object] = field(default_factory=dict)
    known: KnownTemplate | None = None
    """The template that its file's own is taken for."""


def assemble(store: ModelStore, recipe: Recipe, tell: Tell) -> None:
    """Make the model. Blocking; `tell` hears every step in Ollama's words, and ends the work by raising.

    Raises what is wrong with the recipe (InvalidRequest and below, ModelNotFound, BlobNotFound) or with the disk
    (StoreFailed); the store then has no trace of the model but the uploaded blobs, which the next clean-up takes.
    """
    with store.blobs.pin(recipe.digests), Workbench(store, tell) as bench:
        base = _base(bench, recipe)
        drafts = _drafts(bench, recipe)
        config = _with_info(_with_draft(bench, _with_renderer(base), drafts or base.layers), recipe)
        layers = [*base.layers, *_adapters(bench, recipe, base), *drafts]
        layers = _with_texts(bench, layers, base, recipe)
        for layer in layers:
            tell(Progress(_status(bench, layer, base.known)))
        tell(Progress("writing manifest"))
        store.write(recipe.name, config, layers)


def _status(bench: Workbench, layer: Layer, known: KnownTemplate | None) -> str:
    if known and layer.digest == digest_of(known.template):
        return f"using autodetected template {known.name}"
    return f"{'creating new' if layer.digest in bench.fresh else 'using existing'} layer {layer.digest}"


# ---- what it begins with ----


def _base(bench: Workbench, recipe: Recipe) -> _Base:
    if recipe.remote is not None:
        return _Base(Config(remote_host=recipe.remote.url, remote_model=recipe.remote.model))
    if recipe.base is not None:
        return _from_model(bench, recipe.base, recipe.quantize)
    if recipe.files is None:
        raise InvalidRequest("neither 'from' or 'files' was specified")
    return _from_files(bench, recipe, recipe.files)


def _from_model(bench: Workbench, base: ModelName, quantize: str) -> _Base:
    model = bench.store.get(base)
    source = model.name.display
    layers = [replace(each, from_=source) for each in bench.store.manifests.read(model.name).manifest.layers]
    config = Config(**{key: getattr(model.config, key) for key in _INHERITED})
    found = [at for at, layer in enumerate(layers) if layer.media_type == media.MODEL]
    if not found or model.model_path is None:
        if quantize:
            raise InvalidRequest("no base model was found")
        return _Base(config, tuple(layers), parameters=model.parameters)
    part = Part(layers[found[-1]], read_gguf(model.model_path))
    if quantize:
        part = quantised(bench, part, quantize)
        layers[found[-1]] = part.layer
        config = replace(config, file_type=part.gguf.file_type_name)
    return _Base(config, tuple(layers), part, model.parameters)


def _from_files(bench: Workbench, recipe: Recipe, files: Mapping[str, str]) -> _Base:
    parts = parts_of(bench, files)
    model = only_model(parts)
    others = [part.layer for part in parts if part is not model]
    if recipe.quantize:
        model = quantised(bench, model, recipe.quantize)
    config = Config(
        model_format="gguf",
        model_family=model.gguf.architecture,
        model_families=(model.gguf.architecture,),
        model_type=human_number(model.gguf.parameter_count),
        file_type=model.gguf.file_type_name,
    )
    known = detect(model.gguf.chat_template) if model.gguf.chat_template else None
    layer = replace(model.layer, from_=recipe.origin or None)
    return _Base(config, (layer, *others), model, known=known)


def _adapters(bench: Workbench, recipe: Recipe, base: _Base) -> list[Layer]:
    if not recipe.adapters:
        return []
    if len(recipe.adapters) > 1:
        raise InvalidRequest("only one adapter is currently supported")
    if base.model is None:
        raise InvalidRequest("no base model was found")
    (part,) = parts_of(bench, recipe.adapters)
    if part.layer.media_type != media.ADAPTER:
        raise InvalidRequest("the adapter file is no adapter")
    if (its := part.gguf.architecture) != (ours := base.model.gguf.architecture):
        raise InvalidRequest(f"the adapter is for models of architecture '{its}', this one's is '{ours}'")
    return [part.layer]


def _drafts(bench: Workbench, recipe: Recipe) -> list[Layer]:
    if not recipe.drafts:
        return []
    draft = only_model(parts_of(bench, recipe.drafts))
    if recipe.draft_quantize:
        if (type_ := draft.gguf.file_type_name) not in SOURCES:
            raise InvalidRequest(f"draft quantization requires an unquantized draft model, got {type_}")
        draft = quantised(bench, draft, recipe.draft_quantize)
    return [replace(draft.layer, media_type=media.DRAFT)]


# ---- what is said of it ----


def _with_renderer(base: _Base) -> Config:
    """Ollama's own renderer and parser for the architecture, where it has one."""
    built_in = _BUILT_IN.get(base.config.model_family, "")
    return replace(base.config, renderer=base.config.renderer or built_in, parser=base.config.parser or built_in)


def _with_draft(bench: Workbench, config: Config, layers: Sequence[Layer]) -> Config:
    drafts = [layer.digest for layer in layers if layer.media_type == media.DRAFT]
    if not drafts:
        return config
    architecture = read_gguf(bench.store.blobs.path(drafts[-1])).architecture
    return replace(config, draft=Draft(model_format="gguf", architecture=architecture))


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


def _with_texts(bench: Workbench, layers: Sequence[Layer], base: _Base, recipe: Recipe) -> list[Layer]:
    """Template, system, licences, parameters, messages: those given replace or join those it began with."""
    result = list(layers)

    def put(media_type: str, data: str | bytes, *, replaces: tuple[str, ...] = ()) -> None:
        result[:] = [layer for layer in result if layer.media_type not in replaces]
        result.append(bench.add(media_type, data))

    if recipe.template:
        _check_template(recipe.template)
    if template := recipe.template or (base.known.template if base.known else ""):
        put(media.TEMPLATE, template, replaces=(media.TEMPLATE, media.PROMPT))
    if recipe.system:
        put(media.SYSTEM, recipe.system, replaces=(media.SYSTEM,))
    for text in recipe.licenses:
        put(media.LICENSE, text)
    if parameters := {**_own_parameters(base), **recipe.parameters}:
        merged = {**base.parameters, **parameters}
        put(media.PARAMS, write_json(dict(sorted(merged.items()))), replaces=(media.PARAMS,))
    if recipe.messages:
        messages = [{"role": message.role, "content": message.content} for message in recipe.messages]
        put(media.MESSAGES, write_json(messages), replaces=(media.MESSAGES,))
    return result


def _own_parameters(base: _Base) -> dict[str, object]:
    """Where a model of this kind stops, as far as nobody else says so."""
    stops = list(base.known.stops) if base.known else _STOPS.get(base.config.model_family)
    return {"stop": stops} if stops and "stop" not in base.parameters else {}


def _check_template(text: str) -> None:
    try:
        GoTemplate.parse(text)
    except InvalidTemplate as exc:
        raise InvalidTemplate(f"template error: {exc}") from exc
