"""From the request to create a model to the recipe, in its structured form or with a Modelfile in it."""

from collections.abc import Iterable

from msgspec import structs

from a3s_power.api.ollama import fields
from a3s_power.api.ollama.naming import checked_name
from a3s_power.build.recipe import Recipe, Remote
from a3s_power.errors import InvalidRequest
from a3s_power.modelfile import describe, parse
from a3s_power.names import ModelName
from a3s_power.wire import ollama as wire

_BLOB = "@"
"""Before a digest: how older clients name an uploaded file in their Modelfile."""


def recipe_of(body: wire.CreateRequest) -> Recipe:
    """Raises InvalidRequest for what is wrong before any file is looked at."""
    name = checked_name(body.model or body.name or "", "create")
    if body.modelfile:
        body = _with_modelfile(body, body.modelfile)
    remote = Remote(body.remote_host, body.from_ or name.display) if body.remote_host else None
    return Recipe(
        name=name,
        base=_base(body.from_) if remote is None else None,
        files=body.files,
        adapters=body.adapters or {},
        drafts=body.draft_files or {},
        quantize=body.quantize or body.quantization or "",
        draft_quantize=body.draft_quantize or "",
        remote=remote,
        template=body.template or "",
        system=body.system or "",
        licenses=fields.texts(body.license, "license must be a string or an array of strings"),
        parameters={key: value for key, value in (body.parameters or {}).items() if value is not None},
        messages=tuple(map(fields.message, body.messages or ())),
        renderer=body.renderer or "",
        parser=body.parser or "",
        requires=body.requires or "",
        info=body.info or {},
    )


def _base(text: str | None) -> ModelName | None:
    return checked_name(text, "from") if text else None


def _with_modelfile(body: wire.CreateRequest, text: str) -> wire.CreateRequest:
    """What the Modelfile says as fields of the request; the fields that the request has win over it."""
    said = describe(parse(text))
    files = _uploaded("FROM", said.models, body.files)
    names = [model for model in said.models if not model.startswith(_BLOB) and model not in files]
    return structs.replace(
        body,
        from_=body.from_ or next(reversed([_not_a_path("FROM", name) for name in names]), None),
        files=files or body.files,
        adapters=_uploaded("ADAPTER", said.adapters, body.adapters, only=True),
        draft_files=_uploaded("DRAFT", said.drafts, body.draft_files, only=True),
        template=body.template or said.template,
        system=body.system or said.system,
        renderer=body.renderer or said.renderer,
        parser=body.parser or said.parser,
        requires=body.requires or said.requires,
        license=body.license or list(said.licenses),
        parameters={**said.parameters.values, **(body.parameters or {})},
        messages=body.messages or [wire.Message(role=role, content=content) for role, content in said.messages],
    )


def _uploaded(
    command: str, sources: Iterable[str], given: dict[str, str] | None, *, only: bool = False
) -> dict[str, str]:
    """The files that the request names, and those that the command names by their digests."""
    files = dict(given or {})
    for n, source in enumerate(sources):
        if source.startswith(_BLOB):
            files[f"{command.lower()}-{n}.gguf"] = source.removeprefix(_BLOB)
        elif only and source not in files:
            raise InvalidRequest(f"{command} {source}: {_HOW}")
    return files


_HOW = "a file is uploaded as a blob first, and named in the request's fields or by its digest, @sha256:…"


def _not_a_path(command: str, text: str) -> str:
    if text.startswith((".", "/", "~", "\\")) or text.endswith((".gguf", ".safetensors")):
        raise InvalidRequest(f"{command} {text}: {_HOW}")
    return text
