"""What each route takes and gives: the rows that the OpenAPI document is made from."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any

from a3s_power.api.ollama.replies import NDJSON
from a3s_power.api.sse import EVENT_STREAM
from a3s_power.wire import anthropic, openai
from a3s_power.wire import ollama as wire

JSON = "application/json"
OCTETS = "application/octet-stream"
TEXT = "text/plain"


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    group: str
    """The heading it stands under."""
    summary: str
    statuses: tuple[str, ...] = ("200",)
    """`4XX` and `5XX` stand for what an engine refuses, under a status of its own."""
    request: type | None = None
    """Shape of the body, which is JSON; bytes are a body as it is."""
    example: Mapping[str, Any] | None = None
    """A request that works, given the model."""
    reply: type | None = None
    """Shape of the reply, and of a line of a stream; None has no body, bytes are a file as it is."""
    media: tuple[str, ...] = (JSON,)
    """In which forms the reply comes; the first is what a client gets that does not ask."""
    error: type = wire.ErrorReply
    """Shape of what is said when it fails."""
    event: type | UnionType | None = None
    """Shape of an event of a stream, or shapes, where that is not the reply's."""


INFERENCE, MODELS, SERVER = "Inference", "Models", "Server"
OPENAI, ANTHROPIC = "OpenAI's API", "Anthropic's API"

_INFERS = ("200", "400", "403", "404", "500", "503", "4XX", "5XX")
_STREAMS = (NDJSON, JSON)
_EVENTS = (JSON, EVENT_STREAM)
_BLOB = "/api/blobs/{digest}"
_MODEL = "llama3.2"
_HELLO = {"role": "user", "content": "Why is the sky blue?"}

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "POST", "/api/chat", INFERENCE, "Go on with a conversation.", _INFERS,
        wire.ChatRequest, {"model": _MODEL, "messages": [_HELLO]}, wire.ChatReply, _STREAMS,
    ),
    Operation(
        "POST", "/api/generate", INFERENCE, "Go on with a text.", _INFERS,
        wire.GenerateRequest, {"model": _MODEL, "prompt": "Why is the sky blue?"}, wire.GenerateReply, _STREAMS,
    ),
    Operation(
        "POST", "/api/embed", INFERENCE, "Turn texts into vectors of length 1.", _INFERS,
        wire.EmbedRequest, {"model": _MODEL, "input": ["a llama", "an alpaca"]}, wire.EmbedReply,
    ),
    Operation(
        "POST", "/api/embeddings", INFERENCE, "Turn one text into a vector: the older way.", _INFERS,
        wire.EmbeddingRequest, {"model": _MODEL, "prompt": "a llama"}, wire.EmbeddingReply,
    ),
    Operation(
        "GET", "/api/tags", MODELS, "List the models that are here.", ("200", "500"), reply=wire.ListReply
    ),
    Operation("HEAD", "/api/tags", MODELS, "Headers of the list.", ("200", "500")),
    Operation("GET", "/api/ps", MODELS, "List the models that are loaded.", reply=wire.RunningReply),
    Operation(
        "POST", "/api/show", MODELS, "Tell all about a model.", ("200", "400", "403", "404", "500"),
        wire.ShowRequest, {"model": _MODEL}, wire.ShowReply,
    ),
    Operation(
        "POST", "/api/create", MODELS, "Make a model from another, or from uploaded files.",
        ("200", "400", "403", "404", "500"),
        wire.CreateRequest, {"model": "pirate", "from": _MODEL, "system": "You are a pirate."},
        wire.StatusReply, _STREAMS,
    ),
    Operation(
        "POST", "/api/pull", MODELS, "Fetch a model from a registry.", ("200", "400", "403", "500"),
        wire.PullRequest, {"model": _MODEL}, wire.StatusReply, _STREAMS,
    ),
    Operation(
        "POST", "/api/push", MODELS, "Send a model to a registry.", ("200", "400", "404", "500"),
        wire.PushRequest, {"model": f"me/{_MODEL}"}, wire.StatusReply, _STREAMS,
    ),
    Operation(
        "POST", "/api/copy", MODELS, "Give a model another name.", ("200", "400", "404", "500"),
        wire.CopyRequest, {"source": _MODEL, "destination": "me/mine:v1"},
    ),
    Operation(
        "DELETE", "/api/delete", MODELS, "Remove a model.", ("200", "400", "404", "500"),
        wire.DeleteRequest, {"model": "me/mine:v1"},
    ),
    Operation("HEAD", _BLOB, MODELS, "Ask whether a file has been uploaded.", ("200", "400", "404")),
    Operation(
        "GET", _BLOB, MODELS, "Download a file, or with `Range` a part of it.",
        ("200", "206", "400", "404", "416", "500"), reply=bytes, media=(OCTETS,),
    ),
    Operation("POST", _BLOB, MODELS, "Upload a file.", ("200", "201", "400", "500"), bytes),
    Operation("DELETE", _BLOB, MODELS, "Remove a file that no model needs.", ("200", "400", "404", "409", "500")),
    Operation("GET", "/api/df", MODELS, "Tell what takes the disk.", ("200", "500"), reply=wire.DfReply),
    Operation(
        "POST", "/api/prune", MODELS, "Remove files that nothing has needed for a while.", ("200", "400", "500"),
        wire.PruneRequest, {"dry_run": True}, wire.PruneReply,
    ),
    Operation(
        "POST", "/v1/chat/completions", OPENAI, "Go on with a conversation.", _INFERS,
        openai.ChatCompletionRequest, {"model": _MODEL, "messages": [_HELLO]}, openai.ChatCompletionReply,
        _EVENTS, openai.OpenAIError, openai.ChatCompletionChunk,
    ),
    Operation(
        "POST", "/v1/completions", OPENAI, "Go on with a text.", _INFERS,
        openai.CompletionRequest, {"model": _MODEL, "prompt": "Why is the sky blue?"}, openai.CompletionReply,
        _EVENTS, openai.OpenAIError,
    ),
    Operation(
        "POST", "/v1/embeddings", OPENAI, "Turn texts into vectors of length 1.", _INFERS,
        openai.EmbeddingsRequest, {"model": _MODEL, "input": ["a llama", "an alpaca"]}, openai.EmbeddingsReply,
        error=openai.OpenAIError,
    ),
    Operation(
        "GET", "/v1/models", OPENAI, "List the models that are here.", ("200", "500"), reply=openai.ModelList,
        error=openai.OpenAIError,
    ),
    Operation(
        "GET", "/v1/models/{model}", OPENAI, "Tell of one model that it is here.",
        ("200", "400", "403", "404", "500"), reply=openai.ModelEntry, error=openai.OpenAIError,
    ),
    Operation(
        "POST", "/v1/messages", ANTHROPIC, "Go on with a conversation.", _INFERS,
        anthropic.MessagesRequest, {"model": _MODEL, "max_tokens": 100, "messages": [_HELLO]},
        anthropic.MessagesReply, _EVENTS, anthropic.AnthropicError, anthropic.AnyEvent,
    ),
    Operation(
        "POST", "/v1/messages/count_tokens", ANTHROPIC, "Count the tokens of a conversation.", _INFERS,
        anthropic.CountTokensRequest, {"model": _MODEL, "messages": [_HELLO]}, anthropic.CountTokensReply,
        error=anthropic.AnthropicError,
    ),
    Operation("GET", "/", SERVER, "Say that a server is here.", reply=str, media=(TEXT,)),
    Operation("HEAD", "/", SERVER, "Say so without words."),
    Operation("GET", "/health", SERVER, "Say how it is.", reply=wire.HealthReply),
    Operation(
        "GET", "/api/version", SERVER, "Name the version of Ollama that this API is.", reply=wire.VersionReply
    ),
    Operation("HEAD", "/api/version", SERVER, "Headers of the version."),
    Operation(
        "GET", "/api/status", SERVER, "Tell that Ollama's cloud is off.", reply=wire.ServerStatusReply
    ),
    Operation(
        "GET", "/api/experimental/model-recommendations", SERVER, "Recommend models: none.",
        reply=wire.RecommendationsReply,
    ),
)  # fmt: skip

_REFUSES = "Ollama's cloud, which is off: it does nothing but refuse"
_HEARS_NOTHING = "takes a form, and does nothing but refuse: no model here is given audio"
_DESCRIBES = "describes the others"

UNLISTED: Mapping[str, str] = {
    "/api/me": _REFUSES,
    "/api/signout": _REFUSES,
    "/api/user/keys/{encoded_key}": _REFUSES,
    "/api/experimental/web_search": _REFUSES,
    "/api/experimental/web_fetch": _REFUSES,
    "/v1/audio/transcriptions": _HEARS_NOTHING,
    "/openapi.json": _DESCRIBES,
    "/docs": _DESCRIBES,
}
"""Paths that have no row, and why."""
