"""The shapes of Ollama's native API (`api/types.go`), requests and replies.

Requests are read as Go reads them (`gojson`): nothing is required, None is absent. In replies a field without a
default is always there; one with a default is left out while it has it. Keys keep the order they have here.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from a3s_power.wire.gojson import GoStruct, Int

Base64 = Annotated[str, Meta(extra_json_schema={"contentEncoding": "base64"})]
Images = Annotated[list[Base64], Meta(extra={"go": "[]api.ImageData"})]
Tools = Annotated[list[dict[str, Any]], Meta(extra={"go": "api.Tools"})]

# Any value passes here; the endpoint looks at it, and refuses what neither is as these schemas say nor empty.
KeepAlive = Annotated[
    Any,
    Meta(
        description="How long the model stays loaded: seconds, or a duration (`5m`); negative is forever.",
        extra_json_schema={
            "type": ["number", "string"],
            "pattern": r"^[-+]?(0|(([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+)$",
        },
    ),
]
Think = Annotated[
    Any,
    Meta(
        description="Whether to reason first, and how much; a model that can does by default.",
        extra_json_schema={"enum": [True, False, "low", "medium", "high", "max"]},
    ),
]
Format = Annotated[
    Any,
    Meta(
        description="`json`, or a JSON schema that the answer must follow.",
        extra_json_schema={"anyOf": [{"const": "json"}, {"type": "object"}]},
    ),
]
Texts = Annotated[
    Any,
    Meta(
        description="A text, or several.",
        extra_json_schema={"type": ["string", "array"], "items": {"type": "string"}},
    ),
]
Priority = Annotated[
    Any,
    Meta(
        description="Ours: whether somebody waits for it, the default, or others go first.",
        extra_json_schema={"enum": ["interactive", "batch"]},
    ),
]
Arguments = Annotated[Any, Meta(description="By name.", extra_json_schema={"type": "object"})]
Options = Annotated[dict[str, Any], Meta(extra_json_schema={"$ref": "#/components/schemas/Options"})]


# ---- requests ----


class ToolCallFunction(GoStruct):
    """The function a tool call names."""

    index: Int | None = None
    name: str | None = None
    arguments: Arguments = None


class ToolCall(GoStruct):
    """One tool call in a message of the history."""

    id: str | None = None
    function: ToolCallFunction | None = None


class Message(GoStruct):
    """One turn."""

    role: str | None = None
    """`system`, `user`, `assistant` or `tool`."""
    content: str | None = None
    thinking: str | None = None
    images: Images | None = None
    tool_calls: list[ToolCall] | None = None
    tool_name: str | None = None
    """In a message with the role `tool`: the function that was called."""
    tool_call_id: str | None = None


class GenerateRequest(GoStruct):
    """POST /api/generate."""

    model: str | None = None
    prompt: str | None = None
    """With none the model is only loaded, or with `"keep_alive": 0` unloaded."""
    suffix: str | None = None
    """What follows the text that is to be filled in."""
    system: str | None = None
    """In place of the model's own."""
    template: str | None = None
    """In place of the model's own; Go's text/template."""
    context: list[Int] | None = None
    """From an earlier reply, to go on from there."""
    stream: bool | None = None
    """Whether the answer comes in lines, as it is made; the default."""
    raw: bool | None = None
    """Whether the prompt goes to the model as it is, without a template."""
    format: Format = None
    keep_alive: KeepAlive = None
    images: Images | None = None
    options: Options | None = None
    think: Think = None
    truncate: bool | None = None
    """Whether the oldest messages are left out when all do not fit; the default."""
    shift: bool | None = None
    logprobs: bool | None = None
    """Whether each token comes with how likely it was."""
    top_logprobs: Int | None = None
    """And with how many of the likeliest in its place: at most 20."""
    priority: Priority = None
    debug_render_only: bool | None = msgspec.field(default=None, name="_debug_render_only")
    """Answer with what would be put before the model, and ask it nothing."""


class ChatRequest(GoStruct):
    """POST /api/chat."""

    model: str | None = None
    messages: list[Message] | None = None
    """With none the model is only loaded, or with `"keep_alive": 0` unloaded."""
    stream: bool | None = None
    """Whether the answer comes in lines, as it is made; the default."""
    format: Format = None
    keep_alive: KeepAlive = None
    tools: Tools | None = None
    """Functions that the model may call: `{"type": "function", "function": {"name": …, "parameters": …}}`."""
    options: Options | None = None
    think: Think = None
    truncate: bool | None = None
    """Whether the oldest messages are left out when all do not fit; the default."""
    shift: bool | None = None
    logprobs: bool | None = None
    """Whether each token comes with how likely it was."""
    top_logprobs: Int | None = None
    """And with how many of the likeliest in its place: at most 20."""
    priority: Priority = None
    debug_render_only: bool | None = msgspec.field(default=None, name="_debug_render_only")
    """Answer with what would be put before the model, and ask it nothing."""


class EmbedRequest(GoStruct):
    """POST /api/embed."""

    model: str | None = None
    input: Texts = None
    truncate: bool | None = None
    """Whether a text that is too long loses its end; the default. Else it is refused."""
    dimensions: Int | None = None
    """Only the first so many of each vector."""
    keep_alive: KeepAlive = None
    options: Options | None = None
    priority: Priority = None


class EmbeddingRequest(GoStruct):
    """POST /api/embeddings."""

    model: str | None = None
    prompt: str | None = None
    keep_alive: KeepAlive = None
    options: Options | None = None
    priority: Priority = None


class ShowRequest(GoStruct):
    """POST /api/show."""

    model: str | None = None
    name: str | None = None
    system: str | None = None
    template: str | None = None
    verbose: bool | None = None
    """Whether `model_info` has arrays in full."""
    options: Options | None = None


class CopyRequest(GoStruct):
    """POST /api/copy."""

    source: str | None = None
    destination: str | None = None


class DeleteRequest(GoStruct):
    """DELETE /api/delete."""

    model: str | None = None
    name: str | None = None


class PullRequest(GoStruct):
    """POST /api/pull."""

    model: str | None = None
    """`[host[:port]/][namespace/]model[:tag]`"""
    name: str | None = None
    """The older name of `model`."""
    insecure: bool | None = None
    """Whether a registry without a certificate that holds, or over plain http, will do."""
    stream: bool | None = None


class PushRequest(GoStruct):
    """POST /api/push."""

    model: str | None = None
    name: str | None = None
    """The older name of `model`."""
    insecure: bool | None = None
    """As for a pull."""
    stream: bool | None = None
    destination: str | None = None
    """Ours: `https://host[:port]`, a registry other than the name's own."""


class PruneRequest(GoStruct):
    """POST /api/prune."""

    dry_run: bool | None = None
    """Whether to tell what would go, and to leave it."""


class CreateRequest(GoStruct):
    """POST /api/create."""

    model: str | None = None
    name: str | None = None
    stream: bool | None = None
    from_: str | None = msgspec.field(default=None, name="from")
    """The model to start from."""
    files: dict[str, str] | None = None
    """File name → digest of a blob that was uploaded."""
    adapters: dict[str, str] | None = None
    draft_files: dict[str, str] | None = None
    draft_quantize: str | None = None
    quantize: str | None = None
    quantization: str | None = None
    template: str | None = None
    system: str | None = None
    license: Texts = None
    parameters: Options | None = None
    messages: list[Message] | None = None
    renderer: str | None = None
    parser: str | None = None
    requires: str | None = None
    remote_host: str | None = None
    info: dict[str, Any] | None = None
    modelfile: str | None = None


# ---- replies ----


class Reply(msgspec.Struct, omit_defaults=True):
    """Base of every reply."""


class ErrorReply(Reply):
    """Any failure, as a whole reply or as the last line of a stream."""

    error: str


class StatusReply(Reply):
    """One step of a long-running request."""

    status: str
    digest: str = ""
    total: int = 0
    completed: int = 0


class VersionReply(Reply):
    """GET /api/version."""

    version: str


class HealthReply(Reply):
    """GET /health."""

    status: str
    version: str
    uptime_seconds: int
    loaded_models: int


class TokenLogprobReply(Reply):
    """A token and how likely it was."""

    token: str
    logprob: float
    bytes: list[int] = []
    top_logprobs: list["TokenLogprobReply"] = []


class ToolCallFunctionReply(Reply):
    """The function a tool call names."""

    index: int
    name: str
    arguments: dict[str, Any]


class ToolCallReply(Reply, kw_only=True):
    """One call the model made."""

    id: str = ""
    function: ToolCallFunctionReply


class MessageReply(Reply):
    """A piece of an assistant's turn, or a message of a model's own."""

    role: str
    content: str
    thinking: str = ""
    tool_calls: list[ToolCallReply] = []


class DebugInfo(Reply):
    """What would have been put before the model."""

    rendered_template: str
    image_count: int = 0


class GenerateReply(Reply, kw_only=True):
    """One line of /api/generate."""

    model: str
    created_at: str
    response: str
    thinking: str = ""
    done: bool
    done_reason: str = ""
    context: list[int] = []
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0
    tool_calls: list[ToolCallReply] = []
    debug_info: DebugInfo | None = msgspec.field(default=None, name="_debug_info")
    logprobs: list[TokenLogprobReply] = []
    truncated: bool = False
    """Ours: the oldest messages were left out."""


class ChatReply(Reply, kw_only=True):
    """One line of /api/chat."""

    model: str
    created_at: str
    message: MessageReply
    done: bool
    done_reason: str = ""
    debug_info: DebugInfo | None = msgspec.field(default=None, name="_debug_info")
    logprobs: list[TokenLogprobReply] = []
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0
    truncated: bool = False
    """Ours: the oldest messages were left out."""


class EmbedReply(Reply):
    """POST /api/embed."""

    model: str
    embeddings: list[list[float]]
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0


class EmbeddingReply(Reply):
    """POST /api/embeddings."""

    embedding: list[float]


class ModelDetails(Reply):
    """What kind of model it is. The last two are in /api/tags only."""

    parent_model: str
    format: str
    family: str
    families: list[str] | None
    parameter_size: str
    quantization_level: str
    context_length: int = 0
    embedding_length: int = 0


class ListedModel(Reply, kw_only=True):
    """One row of /api/tags."""

    name: str
    model: str
    remote_model: str = ""
    remote_host: str = ""
    modified_at: str
    size: int
    digest: str
    details: ModelDetails
    capabilities: list[str] = []


class ListReply(Reply):
    """GET /api/tags."""

    models: list[ListedModel]


class RunningModel(Reply):
    """One row of /api/ps."""

    name: str
    model: str
    size: int
    digest: str
    details: ModelDetails
    expires_at: str
    size_vram: int
    context_length: int


class RunningReply(Reply):
    """GET /api/ps."""

    models: list[RunningModel]


class ModelSpace(Reply):
    """What one model takes of the disk, in bytes."""

    name: str
    size: int
    shared: int
    """Of these, what other models need too."""
    unique: int
    """And what goes when the model does."""


class BlobSpace(Reply):
    """What all blobs take, in bytes, each counted once."""

    count: int
    size: int
    unused_count: int
    unused_size: int
    """Of these, what no model needs."""


class PartialSpace(Reply):
    """What unfinished downloads and uploads take, in bytes; Ollama's too."""

    count: int
    size: int


class DfReply(Reply):
    """GET /api/df."""

    models: list[ModelSpace]
    """The largest first."""
    blobs: BlobSpace
    partial: PartialSpace
    total: int
    """Bytes of blobs and of what is partial."""
    free: int
    """Bytes left on that disk."""


class PruneReply(Reply):
    """POST /api/prune."""

    removed: int
    """Files that went, or would go."""
    freed: int
    """Their bytes."""


class TensorReply(Reply):
    """One tensor of a model's file."""

    name: str
    type: str
    shape: list[int]


class ShowReply(Reply, kw_only=True):
    """POST /api/show."""

    license: str = ""
    modelfile: str
    parameters: str = ""
    template: str
    system: str = ""
    details: ModelDetails
    messages: list[MessageReply] = []
    model_info: dict[str, Any]
    projector_info: dict[str, Any] = {}
    tensors: list[TensorReply] = []
    capabilities: list[str] = []
    modified_at: str
    requires: str = ""


class CloudStatus(Reply):
    """Whether Ollama's cloud is off, and what switched it off: `none`, `env`, `config` or `both`."""

    disabled: bool
    source: str


class ServerStatusReply(Reply):
    """GET /api/status."""

    cloud: CloudStatus


class RecommendationsReply(Reply):
    """GET /api/experimental/model-recommendations."""

    recommendations: list[dict[str, Any]]
