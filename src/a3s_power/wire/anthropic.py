"""The shapes of Anthropic's Messages API, as Ollama speaks it (`anthropic/anthropic.go`) and where we go further.

Requests are read as Go reads them (`gojson`): nothing is required, None is absent. In replies all fields are
always there, in this order, nulls too: Anthropic's own clients ask for them by name.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from a3s_power.wire.gojson import GoStruct, Int
from a3s_power.wire.ollama import KeepAlive, Options, Priority

# A text or blocks: Go's decoder leaves it to Ollama's own code, and ours to the endpoint.
Content = Annotated[
    Any,
    Meta(
        description='A text, or blocks: `{"type": "text", "text": …}`.',
        extra_json_schema={"type": ["string", "array"], "items": {"type": "object"}},
    ),
]
InputSchema = Annotated[Any, Meta(description="A JSON schema of the input.", extra_json_schema={"type": "object"})]
AnswerSchema = Annotated[
    Any, Meta(description="A JSON schema that the answer must follow.", extra_json_schema={"type": "object"})
]
Ignored = Annotated[Any, Meta(description="Accepted, and ignored.")]


# ---- requests ----


class _Param(GoStruct):
    """Base of them all: errors tell their package."""

    go_package = "anthropic"


class ImageSource(_Param):
    """Where a picture comes from."""

    type: str | None = None
    """`base64`."""
    media_type: str | None = None
    data: str | None = None
    url: str | None = None


class ContentBlock(_Param):
    """A block of a message, of any type that we read; each uses some of the fields."""

    type: str | None = None
    text: str | None = None
    source: ImageSource | None = None
    id: str | None = None
    name: str | None = None
    input: Any = None
    tool_use_id: str | None = None
    content: Any = None
    is_error: bool | None = None
    thinking: str | None = None
    signature: str | None = None
    cache_control: Ignored = None
    citations: Ignored = None


class MessageParam(_Param):
    """One turn."""

    role: str | None = None
    """`user` or `assistant`."""
    content: Content = None


class ToolParam(_Param):
    """A function that the model may call."""

    type: str | None = None
    name: str | None = None
    description: str | None = None
    input_schema: InputSchema = None
    strict: bool | None = None
    """Whether a call that is required is refused rather than made without being held to the schema."""
    cache_control: Ignored = None


class ToolChoiceParam(_Param):
    """Whether tools are called."""

    type: str | None = None
    """`auto`: as the model likes; `any`: one must be; `tool`: the one named must be; `none`: not at all."""
    name: str | None = None
    disable_parallel_tool_use: bool | None = None
    """Whether there is one call at most."""


class ThinkingParam(_Param):
    """Whether the model reasons first."""

    type: str | None = None
    """`enabled`, `disabled`, or `adaptive`, which leaves it to the model."""
    budget_tokens: Int | None = None
    """Most tokens of it; then the model is made to answer."""
    display: Ignored = None


class OutputFormatParam(_Param):
    """What the answer must look like."""

    type: str | None = None
    """`json_schema`."""
    schema: AnswerSchema = None


class OutputConfigParam(_Param):
    """How the answer comes about."""

    effort: str | None = None
    """How much to reason where `thinking` leaves it open: `low`, `medium`, `high` or `max`."""
    format: OutputFormatParam | None = None


class CountTokensRequest(_Param):
    """POST /v1/messages/count_tokens."""

    model: str | None = None
    thread: Any = None
    mcp_servers: Any = None
    container: Any = None
    messages: list[MessageParam] | None = None
    system: Content = None
    tools: Annotated[list[ToolParam], Meta(extra={"go": "[]anthropic.Tool"})] | None = None
    tool_choice: ToolChoiceParam | None = None
    thinking: ThinkingParam | None = None
    output_config: OutputConfigParam | None = None
    cache_control: Ignored = None
    context_management: Ignored = None
    options: Options | None = None
    """Ours: Ollama's, where the fields of this API say nothing else."""
    keep_alive: KeepAlive = None
    priority: Priority = None


class MessagesRequest(CountTokensRequest):
    """POST /v1/messages."""

    max_tokens: Int | None = None
    """Most tokens to generate, thoughts and all."""
    temperature: float | None = None
    top_p: float | None = None
    top_k: Int | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    """Whether the answer comes in events, as it is made."""
    metadata: Ignored = None
    service_tier: Ignored = None


# ---- replies ----


class TextBlock(msgspec.Struct, tag_field="type", tag="text"):
    """A piece of the answer."""

    text: str


class ThinkingBlock(msgspec.Struct, tag_field="type", tag="thinking"):
    """Reasoning. We sign nothing and check no signature; Anthropic's clients want the key."""

    thinking: str
    signature: str = ""


class ToolUseBlock(msgspec.Struct, tag_field="type", tag="tool_use"):
    """A call."""

    id: str
    name: str
    input: dict[str, Any]


ReplyBlock = TextBlock | ThinkingBlock | ToolUseBlock


class TokenUsage(msgspec.Struct):
    """Tokens. Of the prompt, those from a cache count too."""

    input_tokens: int
    output_tokens: int


class MessagesReply(msgspec.Struct, kw_only=True):
    """POST /v1/messages: the assistant's turn."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[ReplyBlock]
    stop_reason: str | None
    stop_sequence: str | None
    """The one of the request that ended it, if one did and the engine tells."""
    usage: TokenUsage


class CountTokensReply(msgspec.Struct):
    """POST /v1/messages/count_tokens."""

    input_tokens: int


class ErrorBody(msgspec.Struct, omit_defaults=True):
    """What went wrong."""

    type: str
    message: str
    details: dict[str, Any] | None = None
    """For clients that know another way."""


class AnthropicError(msgspec.Struct, tag_field="type", tag="error"):
    """Any failure, as a whole reply or as the last event of a stream."""

    error: ErrorBody
    request_id: str


# ---- events of a stream ----


class StreamEvent(msgspec.Struct, tag_field="type"):
    """One event; its name is its type."""

    @property
    def name(self) -> str:
        """`message_start`"""
        return str(self.__struct_config__.tag)


class MessageStart(StreamEvent, tag="message_start"):
    """The first: a message without content."""

    message: MessagesReply


class BlockStart(StreamEvent, tag="content_block_start"):
    """A block begins, without content."""

    index: int
    content_block: ReplyBlock


class TextDelta(msgspec.Struct, tag_field="type", tag="text_delta"):
    """More of a text."""

    text: str


class ThinkingDelta(msgspec.Struct, tag_field="type", tag="thinking_delta"):
    """More of a thought."""

    thinking: str


class InputDelta(msgspec.Struct, tag_field="type", tag="input_json_delta"):
    """More of the JSON of a call's input."""

    partial_json: str


Delta = TextDelta | ThinkingDelta | InputDelta


class BlockDelta(StreamEvent, tag="content_block_delta"):
    """The open block goes on."""

    index: int
    delta: Delta


class BlockStop(StreamEvent, tag="content_block_stop"):
    """The open block is complete."""

    index: int


class Stop(msgspec.Struct):
    """Why the message ended."""

    stop_reason: str | None
    stop_sequence: str | None = None


class MessageDelta(StreamEvent, tag="message_delta"):
    """What is known of the message once it is complete."""

    delta: Stop
    usage: TokenUsage


class MessageStop(StreamEvent, tag="message_stop"):
    """The last."""


AnyEvent = MessageStart | BlockStart | BlockDelta | BlockStop | MessageDelta | MessageStop
