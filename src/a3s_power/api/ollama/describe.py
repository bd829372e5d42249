"""A model in the words of `/api/tags` and `/api/show`."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal

import anyio.to_thread

from a3s_power.gguf import GGUF, Array
from a3s_power.modelfile import Command, serialise
from a3s_power.service.cards import ModelCard
from a3s_power.wire import ollama as wire

DEFAULT_TEMPLATE = "{{ .Prompt }}"

_HIDDEN = frozenset({"general.name", "tokenizer.chat_template"})


def details(card: ModelCard) -> wire.ModelDetails:
    """What kind of model it is; the config says, and the file where the config does not."""
    config = card.model.config
    quantisation = config.file_type
    if quantisation in {"", "unknown"} and card.has_file:
        quantisation = card.gguf.file_type_name
    return wire.ModelDetails(
        parent_model="",
        format=config.model_format,
        family=config.model_family,
        families=list(config.model_families) or None,
        parameter_size=config.model_type,
        quantization_level=quantisation,
    )


def listed(card: ModelCard) -> wire.ListedModel:
    """One row of /api/tags."""
    of_list = details(card)
    of_list.context_length = card.gguf.context_length or card.model.config.context_length
    of_list.embedding_length = card.gguf.embedding_length or card.model.config.embedding_length
    return wire.ListedModel(
        name=card.name.display,
        model=card.name.display,
        remote_model=card.model.config.remote_model,
        remote_host=card.model.config.remote_host,
        modified_at=local_time(card.model.modified_at),
        size=card.model.size_bytes,
        digest=card.model.digest,
        details=of_list,
        capabilities=list(card.capabilities),
    )


async def shown(stored: ModelCard, asked: wire.ShowRequest) -> wire.ShowReply:
    """The reply of /api/show; `verbose` adds the arrays of the files, which takes a thread."""
    card = _overlaid(stored, asked)
    model, verbose = card.model, bool(asked.verbose)
    of_show = details(card)
    of_show.parent_model = model.parent_model
    return wire.ShowReply(
        license="\n".join(model.licenses),
        modelfile=modelfile(card),
        parameters=parameters(model.parameters),
        template=effective_template(card),
        system=model.system,
        details=of_show,
        messages=[wire.MessageReply(message.role, message.content) for message in model.messages],
        model_info=await _model_info(card, verbose),
        projector_info=await _projector_info(card, verbose),
        tensors=[wire.TensorReply(tensor.name, tensor.type, list(tensor.shape)) for tensor in card.gguf.tensors],
        capabilities=list(card.capabilities),
        modified_at=local_time(model.modified_at),
        requires=model.config.requires,
    )


def local_time(moment: datetime) -> str:
    """RFC 3339 with the offset, or Z for none; trailing zeros of the fraction left out."""
    text, offset = f"{moment:%Y-%m-%dT%H:%M:%S}", moment.isoformat()[-6:]
    fraction = f".{moment.microsecond:06d}".rstrip("0") if moment.microsecond else ""
    return text + fraction + ("Z" if offset == "+00:00" else offset)


def effective_template(card: ModelCard) -> str:
    """The template that prompts the model: Go's, or the file's own Jinja."""
    if card.template is None and card.gguf.chat_template is not None:
        return card.gguf.chat_template
    return card.model.template or DEFAULT_TEMPLATE


def _overlaid(card: ModelCard, asked: wire.ShowRequest) -> ModelCard:
    """The model as it would be with the request's system prompt and options."""
    given = {name: value for name, value in (asked.options or {}).items() if value is not None}
    system, parameters = asked.system or card.model.system, {**card.model.parameters, **given}
    return replace(card, model=replace(card.model, system=system, parameters=parameters))


async def _model_info(card: ModelCard, verbose: bool) -> dict[str, object]:
    if not card.has_file:
        return {}
    info = await anyio.to_thread.run_sync(_metadata, card.gguf, verbose)
    return dict(sorted({**info, "general.parameter_count": card.gguf.parameter_count}.items()))


async def _projector_info(card: ModelCard, verbose: bool) -> dict[str, object]:
    if not card.projectors:
        return {}
    return await anyio.to_thread.run_sync(_metadata, card.projectors[0], verbose)


def _metadata(gguf: GGUF, verbose: bool) -> dict[str, object]:
    """The file's metadata; arrays, unless empty, are null when not `verbose`."""
    info: dict[str, object] = {}
    for key, value in gguf.metadata.items():
        if key in _HIDDEN:
            continue
        if isinstance(value, Array):
            info[key] = value.decode() if verbose or not len(value) else None
        else:
            info[key] = value
    return info


def parameters(values: Mapping[str, object]) -> str:
    """One line for each value: the name in 30 columns, the value as Go's `%#v` prints it."""
    lines = []
    for name, value in sorted(values.items()):
        lines += [f"{name:<30} {_go_syntax(item)}" for item in _items(value)]
    return "\n".join(lines)


def _items(value: object) -> Sequence[object]:
    """A parameter that may be repeated is a list."""
    return value if isinstance(value, list | tuple) else [value]


def _go_syntax(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            escaped = value.replace("\\", "\\\\").replace('"', '\\"')
            return '"' + escaped.replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r") + '"'
        case int() | float():
            return go_number(value)
        case list():
            return "[]interface {}{" + ", ".join(map(_go_syntax, value)) + "}"
        case dict():
            members = (f"{_go_syntax(key)}:{_go_syntax(item)}" for key, item in sorted(value.items()))
            return "map[string]interface {}{" + ", ".join(members) + "}"
    return "<nil>"


def go_number(value: float) -> str:
    """Go's shortest `%g` of a float64: `0.9`, `42`, `1.048576e+06`; exponents below 1e-4 and from 1e6 on."""
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        return "+Inf" if value > 0 else "-Inf"  # which no JSON of Go's could have held
    sign, digits, exponent = Decimal(repr(float(value))).normalize().as_tuple()
    if value == 0 or not isinstance(exponent, int) or 1e-4 <= abs(value) < 1e6:
        return repr(float(value)).removesuffix(".0")
    head, *rest = map(str, digits)
    mantissa = f"{head}.{''.join(rest)}" if rest else head
    return f"{'-' if sign else ''}{mantissa}e{exponent + len(rest):+03d}"


def modelfile(card: ModelCard) -> str:
    """A Modelfile that makes this model again."""
    model = card.model
    header = '# Modelfile generated by "ollama show"\n'
    if model.model_path:
        header += f"# To build a new Modelfile based on this, replace FROM with:\n# FROM {card.name.display}\n"
    commands = [Command("model", str(model.model_path or card.name.display))]
    commands += [Command("adapter", str(path)) for path in model.adapter_paths]
    commands += [Command("draft", str(path)) for path in (model.draft_path,) if path]
    commands += [Command("model", str(path)) for path in model.projector_paths]
    commands.append(Command("template", model.template or DEFAULT_TEMPLATE))
    texts = {"system": model.system, "renderer": model.config.renderer, "parser": model.config.parser}
    commands += [Command(name, text) for name, text in texts.items() if text]
    for name, value in sorted(model.parameters.items()):
        commands += [Command(name, _plain(item)) for item in _items(value)]
    commands += [Command("license", text) for text in model.licenses]
    commands += [Command("message", f"{message.role}: {message.content}") for message in model.messages]
    return header + "\n" + serialise(commands)


def _plain(value: object) -> str:
    """For a Modelfile, where an integer must read as one whatever its size."""
    match value:
        case str():
            return value
        case int() | float() if not isinstance(value, bool) and value == int(value):
            return str(int(value))
    return _go_syntax(value)
