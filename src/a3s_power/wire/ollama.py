"""The shapes of Ollama's native API (`api/types.go`), requests and replies.

Requests are read as Go reads them (`gojson`): nothing is required, None is absent. In replies a field without a
default is always there; one with a default is left out while it has it. Keys keep the order they have here.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from a3s_power.wire.gojson import GoStruct, Int

Images = Annotated[list[str], Meta(extra={"go": "[]api.ImageData"})]
Tools = Annotated[list[dict[str, Any]], Meta(extra={"go": "api.Tools"})]


# ---- requests ----


class ToolCallFunction(GoStruct):
    """The function a tool call names."""

    index: Int | None = None
    name: str | None = None
    arguments: dict[str, Any] | None = None


class ToolCall(GoStruct):
    """One tool call in a message of the history."""

    id: str | None = None
    function: ToolCallFunction | None = None


class Message(GoStruct):
    """One turn."""

    role: str | None = None
    content: str | None = None
    thinking: str | None = None
    images: Images | None = None
    tool_calls: list[ToolCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class GenerateRequest(GoStruct):
    """POST /api/generate."""

    model: str | None = None
    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    context: list[Int] | None = None
    stream: bool | None = None
    raw: bool | None = None
    format: Any = None
    keep_alive: Any = None
    images: Images | None = None
    options: dict[str, Any] | None = None
    think: Any = None
    truncate: bool | None = None
    shift: bool | None = None
    logprobs: bool | None = None
    top_logprobs: Int | None = None
    debug_render_only: bool | None = msgspec.field(default=None, name="_debug_render_only")


class ChatRequest(GoStruct):
    """POST /api/chat."""

    model: str | None = None
    messages: list[Message] | None = None
    stream: bool | None = None
    format: Any = None
    keep_alive: Any = None
    tools: Tools | None = None
    options: dict[str, Any] | None = None
    think: Any = None
    truncate: bool | None = None
    shift: bool | None = None
    logprobs: bool | None = None
    top_logprobs: Int | None = None
    debug_render_only: bool | None = msgspec.field(default=None, name="_debug_render_only")


class ShowRequest(GoStruct):
    """POST /api/show."""

    model: str | None = None
    name: str | None = None
    system: str | None = None
    template: str | None = None
    verbose: bool | None = None
    options: dict[str, Any] | None = None


class CopyRequest(GoStruct):
    """POST /api/copy."""

    source: str | None = None
    destination: str | None = None


class DeleteRequest(GoStruct):
    """DELETE /api/delete."""

    model: str | None = None
    name: str | None = None


class CreateRequest(GoStruct):
    """POST /api/create."""

    model: str | None = None
    name: str | None = None
    stream: bool | None = None
    from_: str | None = msgspec.field(default=None, name="from")
    files: dict[str, str] | None = None
    adapters: dict[str, str] | None = None
    draft_files: dict[str, str] | None = None
    draft_quantize: str | None = None
    quantize: str | None = None
    quantization: str | None = None
    template: str | None = None
    system: str | None = None
    license: Any = None
    parameters: dict[str, Any] | None = None
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


class ToolCallReply(Reply):
    """One call the model made."""

    function: ToolCallFunctionReply
    id: str = ""


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
