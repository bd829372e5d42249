"""From a recipe to a model in the store: its parts, what is said of it, and the texts around it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

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
    _check_template(recipe.template)
    said = recipe.said
    with store.blobs.pin(recipe.digests), Workbench(store, tell) as bench:
        base = _base(bench, recipe)
        adapters = _adapters(bench, recipe, base)  # what is wrong with it is said before hours of work
        drafts = _drafts(bench, recipe)
        base = _quantised(bench, base, recipe.quantize)
        kept = [layer for layer in base.layers if not (drafts and layer.media_type == media.DRAFT)]
        config = _with_draft(bench, _with_renderer(base), drafts or kept)
        config = _with_info(config, said, recipe)
        layers = _with_texts(bench, [*kept, *adapters, *drafts], base, recipe)
        for layer in layers:
            tell(Progress(_status(bench, layer, base.known)))
        tell(Progress("writing manifest"))
        store.write(recipe.name, config, layers)


def _check_template(text: str) -> None:
    try:
        GoTemplate.parse(text)
    except InvalidTemplate as exc:
        raise InvalidTemplate(f"template error: {exc}") from exc


def _status(bench: Workbench, layer: Layer, known: KnownTemplate | None) -> str:
    if known and layer.digest == digest_of(known.template):
        return f"using autodetected template {known.name}"
    return f"{'creating new' if layer.digest in bench.fresh else 'using existing'} layer {layer.digest}"


# ---- what it begins with ----


def _base(bench: Workbench, recipe: Recipe) -> _Base:
    if recipe.remote is not None:
        return _Base(Config(remote_host=recipe.remote.url, remote_model=recipe.remote.model))
    if recipe.base is not None:
        return _from_model(bench, recipe.base)
    if recipe.files is None:
        raise InvalidRequest("neither 'from' or 'files' was specified")
    return _from_files(bench, recipe, recipe.files)


def _from_model(bench: Workbench, base: ModelName) -> _Base:
    model = bench.store.get(base)
    source, manifest = model.name.display, bench.store.manifests.read(model.name).manifest
    bench.borrow(manifest.digests)
    layers = tuple(replace(layer, from_=source) for layer in manifest.layers)
    config = Config(**{key: getattr(model.config, key) for key in _INHERITED})
    models = [layer for layer in layers if layer.media_type == media.MODEL]
    part = Part(models[-1], read_gguf(model.model_path)) if models and model.model_path else None
    return _Base(config, layers, part, model.parameters)


def _from_files(bench: Workbench, recipe: Recipe, files: Mapping[str, str]) -> _Base:
    parts = parts_of(bench, files)
    model = only_model(parts)
    others = [part.layer for part in parts if part is not model]
    config = Config(
        model_format="gguf",
        model_family=model.gguf.architecture,
        model_families=(model.gguf.architecture,),
        model_type=human_number(model.gguf.parameter_count),
        file_type=model.gguf.file_type_name,
    )
    known = detect(model.gguf.chat_template) if model.gguf.chat_template else None
    model = replace(model, layer=replace(model.layer, from_=recipe.origin or None))
    return _Base(config, (model.layer, *others), model, known=known)


def _quantised(bench: Workbench, base: _Base, target: str) -> _Base:
    """The base with its model's weights as the `target` type; "" leaves them."""
    if not target or base.config.remote_host:
        return base
    if base.model is None:
        raise InvalidRequest("no base model was found")
    made = quantised(bench, base.model, target)
    layers = tuple(made.layer if layer is base.model.layer else layer for layer in base.layers)
    return replace(
        base, model=made, layers=layers, config=replace(base.config, file_type=made.gguf.file_type_name)
    )


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


def _with_info(config: Config, said: Mapping[str, object], recipe: Recipe) -> Config:
    """What the request says of the model wins over what its file says."""
    changes: dict[str, Any] = dict(said)
    if more := changes.get("capabilities"):
        changes["capabilities"] = (*config.capabilities, *more)
    for key in ("renderer", "parser", "requires"):
        if text := getattr(recipe, key):
            changes[key] = text
    return replace(config, **changes)


# ---- the small layers ----


def _with_texts(bench: Workbench, layers: Sequence[Layer], base: _Base, recipe: Recipe) -> list[Layer]:
    """Template, system, licences, parameters, messages: those given replace or join those it began with."""
    result = list(layers)

    def put(media_type: str, data: str | bytes, *, replaces: tuple[str, ...] = ()) -> None:
        result[:] = [layer for layer in result if layer.media_type not in replaces]
        result.append(bench.add(media_type, data))

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
