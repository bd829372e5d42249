"""The OpenAPI document: made from the shapes that requests are read with and replies written from."""

import ast
import inspect
import re
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from types import ModuleType, UnionType
from typing import Any, get_args

import anyio.to_thread
import msgspec
from msgspec import inspect as mi
from starlette.requests import Request
from starlette.responses import Response

from a3s_power import __version__, options
from a3s_power.api.ollama.replies import NDJSON
from a3s_power.api.operations import JSON, OPERATIONS, Operation
from a3s_power.api.requesters import HEADER
from a3s_power.api.sse import EVENT_STREAM
from a3s_power.requester import Priority
from a3s_power.wire import anthropic, ollama, openai

Schema = dict[str, Any]

REF = "#/components/schemas/{name}"

ABOUT = """\
Ollama's API. In a request, unknown fields are ignored and null is the same as absent. Durations in replies are
nanoseconds. A stream (`application/x-ndjson`) is one JSON value on each line; when something fails after the first
line, the last one is an error. One of OpenAI's (`text/event-stream`) is one JSON value in each event, and the last
is `[DONE]`; one of Anthropic's names them, and the last is `message_stop`, or `error`."""

STATUSES: Mapping[str, str] = {
    "200": "Done.",
    "201": "Stored.",
    "206": "Done, in part.",
    "400": "The request makes no sense, or asks for what this model cannot do.",
    "403": "What was asked for is Ollama's cloud's to do, and that is off.",
    "404": "There is no such model or file.",
    "409": "Something needs it.",
    "416": "There is nothing in that range.",
    "500": "It failed here: the store, the engine, or a bug.",
    "503": "Too busy, or shutting down. `Retry-After` says in how many seconds to come back.",
    "4XX": "The engine refused; the status is its own.",
    "5XX": "The engine failed; the status is its own.",
}

PARAMETERS: Mapping[str, Schema] = {
    "digest": {"type": "string", "pattern": "^sha256[:-][0-9a-fA-F]{64}$"},
    "model": {"type": "string", "description": "Its name, slashes and all: `hf.co/user/repo:tag`."},
}
"""What may stand in the place of a name in a path."""

PRIORITY: Schema = {
    "name": HEADER,
    "in": "header",
    "description": "What `priority` is where the body says nothing.",
    "schema": {"enum": [priority.value for priority in Priority]},
}


async def openapi(_request: Request) -> Response:
    """GET /openapi.json."""
    return Response(await anyio.to_thread.run_sync(_encoded), media_type=JSON)


@cache
def document() -> Schema:
    """The document, version 3.1 of OpenAPI. Made once, in some 50 ms: off the event loop."""
    paths: dict[str, Schema] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "A3S Power",
            "version": __version__,
            "description": ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": paths,
        "components": {"schemas": _components()},
    }


@cache
def _encoded() -> bytes:
    return msgspec.json.encode(document())


# ---- operations ----


def _operation(row: Operation) -> Schema:
    names = re.findall(r"{(\w+)}", row.path)
    told: Schema = {
        "tags": [row.group],
        "summary": row.summary,
        "operationId": "_".join(re.findall(r"\w+", f"{row.method.lower()} {row.path}")),
        "responses": {status: _response(row, status) for status in row.statuses},
    }
    if names:
        told["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": PARAMETERS[name]} for name in names
        ]
    if "priority" in getattr(row.request, "__struct_fields__", ()):
        told["parameters"] = [PRIORITY]
    if row.request:
        told["requestBody"] = {"required": True, "content": _request(row.request, row.example)}
    return told


def _request(shape: type, example: Mapping[str, Any] | None) -> Schema:
    if shape is bytes:
        return {"application/octet-stream": {}}
    return {JSON: {"schema": _ref(shape), "example": example}}


def _response(row: Operation, status: str) -> Schema:
    told: Schema = {"description": STATUSES[status]}
    if row.method == "HEAD" or status == "416":  # they have no body
        return told
    if not status.startswith("2"):
        told["content"] = {JSON: {"schema": _ref(row.error)}}
    elif row.reply:
        told["content"] = {media: _reply(row, row.reply, media) for media in row.media}
    return told


def _reply(row: Operation, shape: type, media: str) -> Schema:
    """OpenAPI 3.1 has no word for lines and events: the schema is that of one. Bytes have none."""
    if shape is bytes:
        return {}
    if media not in (NDJSON, EVENT_STREAM):
        return {"schema": _ref(shape)}
    said = {"anyOf": [_ref(each) for each in (*_each_of(row.event or shape), row.error)]}
    return {"schema": said if media == NDJSON else _event(said)}


def _event(said: Schema) -> Schema:
    """What comes in a frame: JSON, or OpenAI's last word."""
    data = {"type": "string", "contentMediaType": JSON, "contentSchema": said}
    told = {"event": {"type": "string"}, "data": {"anyOf": [data, {"const": "[DONE]"}]}}
    return {"type": "object", "properties": told, "required": ["data"]}


def _each_of(shape: type | UnionType | None) -> tuple[type, ...]:
    return (shape,) if isinstance(shape, type) else get_args(shape)


def _ref(shape: type) -> Schema:
    return {"type": "string"} if shape is str else {"$ref": REF.format(name=shape.__name__)}


# ---- schemas ----


def _components() -> dict[str, Schema]:
    """Every shape by name, its fields described by their docstrings."""
    named = {shape for row in OPERATIONS for shape in (row.request, row.reply, row.error, row.event)}
    shapes = {each for shape in named for each in _each_of(shape)} - {str, bytes}
    shapes |= {options.LoadOptions, options.SamplingOptions}
    _, schemas = msgspec.json.schema_components(shapes, ref_template=REF)
    for schema in schemas.values():
        schema.pop("additionalProperties", None)  # they are forbidden on the fast path of the decoder alone
        schema["properties"] = {name: _given(field) for name, field in schema["properties"].items()}
    for module in (ollama, openai, anthropic, options):
        for name, field, text in _field_docs(module):
            if name in schemas:
                schemas[name]["properties"][field]["description"] = text
    schemas["Options"] = _joined(schemas.pop("LoadOptions"), schemas.pop("SamplingOptions"))
    return dict(sorted(schemas.items()))


def _given(field: Schema) -> Schema:
    """A field as it is when it is there: where null is the default, it is no different from being absent."""
    if field.get("default", ...) is not None:
        return field
    kinds = [kind for kind in field.get("anyOf", ()) if kind != {"type": "null"}]
    given = kinds[0] if len(kinds) == 1 else field
    return {key: value for key, value in given.items() if key != "default"}


def _joined(load: Schema, sampling: Schema) -> Schema:
    """They are two kinds for us, and one object for clients."""
    return {
        "title": "Options",
        "description": "How to load the model and to pick tokens, where its own parameters do not suit.",
        "type": "object",
        "properties": load["properties"] | sampling["properties"],
    }


def _field_docs(module: ModuleType) -> Iterator[tuple[str, str, str]]:
    """Class, field in JSON, docstring: of a field, Python keeps that nowhere but in the source."""
    for node in ast.parse(inspect.getsource(module)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for field, doc in pairwise(node.body):
            match field, doc:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    yield node.name, _in_json(getattr(module, node.name), name), inspect.cleandoc(text)


def _in_json(shape: type, field: str) -> str:
    kind = mi.type_info(shape)
    assert isinstance(kind, mi.StructType | mi.DataclassType)
    return next(known.encode_name for known in kind.fields if known.name == field)
