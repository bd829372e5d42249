"""The shapes of OpenAI's API, as Ollama speaks it (`openai/openai.go`) and where we go further.

Requests are read as Go reads them (`gojson`): nothing is required, None is absent. In replies a field without a
default is always there; one with a default is left out while it has it. Keys keep the order they have here.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from a3s_power.wire.gojson import GoStruct, Int
from a3s_power.wire.ollama import DebugInfo, KeepAlive, Options, Priority, Reply, Texts, Tools

# Any value passes here; the endpoint looks at it, and refuses what is not as these schemas say.
ChatContent = Annotated[
    Any,
    Meta(
        description="A text, or an array of `text` and `image_url` parts.",
        extra_json_schema={"type": ["string", "array"], "items": {"type": "object"}},
    ),
]
ToolChoice = Annotated[
    Any,
    Meta(
        description='`none`, `auto`, `required`, or `{"type": "function", "function": {"name": …}}`.',
        extra_json_schema={"anyOf": [{"enum": ["none", "auto", "required"]}, {"type": "object"}]},
    ),
]
Effort = Annotated[
    str,
    Meta(
        description="How much to reason first; `none` is not at all.",
        extra_json_schema={"enum": ["none", "minimal", "low", "medium", "high", "xhigh", "ultra", "max"]},
    ),
]
ServiceTier = Annotated[
    Any, Meta(description="`flex` is the `priority` `batch`, unless that says else; all others are ignored.")
]

# ---- errors ----


class ErrorDetail(msgspec.Struct):
    """What went wrong. All four keys are always there."""

    message: str
    type: str
    param: str | None
    """The field of the request that is to blame."""
    code: str | None


class OpenAIError(msgspec.Struct):
    """Any failure, as a whole reply or as the last event of a stream."""

    error: ErrorDetail


# ---- what completions of chats and of texts have in common ----


class StreamOptions(GoStruct):
    """What a stream tells besides."""

    go_package = "openai"

    include_usage: bool | None = None


class PromptTokensDetails(Reply):
    """Of the prompt's tokens."""

    cached_tokens: int
    """Those that did not have to be computed again."""


class Usage(Reply):
    """Tokens of one request, of all its choices together."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails | None = None


# ---- chat ----


class ChatCallFunction(GoStruct):
    """The function a call names."""

    go_package = "openai"

    name: str | None = None
    arguments: Any = None
    """A JSON object, as a string."""


class ChatCall(GoStruct):
    """One call in a message of the history."""

    go_package = "openai"

    id: str | None = None
    function: ChatCallFunction | None = None


class ChatMessage(GoStruct):
    """One turn."""

    go_package = "openai"

    role: str | None = None
    """`system`, `developer`, `user`, `assistant` or `tool`."""
    content: ChatContent = None
    reasoning: str | None = None
    """What was thought before an answer of the assistant's."""
    tool_calls: list[ChatCall] | None = None
    name: str | None = None
    """In a message with the role `tool`: the function that was called."""
    tool_call_id: str | None = None


class Reasoning(GoStruct):
    """How to reason; in place of `reasoning_effort`."""

    go_package = "openai"

    effort: str | None = None


class JSONSchemaFormat(GoStruct):
    """A schema; its name and whether it is strict say nothing here: it is always kept."""

    go_package = "openai"

    schema: Any = None


class ResponseFormat(GoStruct):
    """What the answer must be."""

    go_package = "openai"

    type: str | None = None
    """`text`, `json_object` or `json_schema`."""
    json_schema: JSONSchemaFormat | None = None


class ChatCompletionRequest(GoStruct):
    """POST /v1/chat/completions. `user`, `metadata`, `store`, `functions` and the like are ignored."""

    go_package = "openai"

    model: str | None = None
    messages: list[ChatMessage] | None = None
    stream: bool | None = None
    """Whether the answer comes in events, as it is made."""
    stream_options: StreamOptions | None = None
    n: Int | None = None
    """How many answers: at most 16."""
    max_completion_tokens: Int | None = None
    """Most tokens of each answer, thoughts included; without it as many as fit."""
    max_tokens: Int | None = None
    """The older name of it."""
    temperature: float | None = None
    """1 by default, whatever the model's parameters say."""
    top_p: float | None = None
    """The same."""
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: Int | None = None
    """With several answers, that of the first; it goes up by one from each to the next."""
    stop: Texts = None
    """What ends the answer, and is not told."""
    logit_bias: dict[str, float] | None = None
    """Token of the model's → what is added to its logit, between -100 and 100."""
    logprobs: bool | None = None
    """Whether each token comes with how likely it was."""
    top_logprobs: Int | None = None
    """And with how many of the likeliest in its place: at most 20."""
    response_format: ResponseFormat | None = None
    tools: Tools | None = None
    """Functions that the model may call: `{"type": "function", "function": {"name": …, "parameters": …}}`."""
    tool_choice: ToolChoice = None
    parallel_tool_calls: bool | None = None
    """Whether there may be several calls in an answer; the default."""
    reasoning: Reasoning | None = None
    reasoning_effort: Effort | None = None
    modalities: list[str] | None = None
    """`text`, and nothing else."""
    audio: Any = None
    """Refused."""
    web_search_options: Any = None
    """Refused."""
    function_call: Any = None
    """The older `tool_choice`. Refused where it would force a call."""
    verbosity: str | None = None
    """`medium`, and nothing else."""
    keep_alive: KeepAlive = None
    """Ours, as in Ollama's own API."""
    options: Options | None = None
    """The same; OpenAI's fields win where they say something."""
    priority: Priority = None
    service_tier: ServiceTier = None
    debug_render_only: bool | None = msgspec.field(default=None, name="_debug_render_only")
    """Answer with what would be put before the model, and ask it nothing."""


class ChatTopLogprob(Reply):
    """A token that might have stood there."""

    token: str
    logprob: float
    bytes: list[int]


class ChatLogprob(Reply):
    """A token and how likely it was."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[ChatTopLogprob]


class ChatLogprobs(Reply):
    """A row for each token."""

    content: list[ChatLogprob]


class CalledFunction(Reply):
    """The function a call names, and its arguments as JSON in a string."""

    name: str
    arguments: str


class ChatCallReply(Reply):
    """One call that the model made."""

    id: str
    index: int
    type: str
    function: CalledFunction


class ChatMessageReply(Reply):
    """The assistant's turn."""

    role: str
    content: str
    reasoning: str = ""
    tool_calls: list[ChatCallReply] = msgspec.field(default_factory=list)


class ChatChoice(Reply):
    """One of the answers."""

    index: int
    message: ChatMessageReply
    finish_reason: str | None
    """`stop`, `length` or `tool_calls`."""
    logprobs: ChatLogprobs | None = None


class ChatCompletionReply(Reply):
    """POST /v1/chat/completions: the whole reply."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    debug_info: DebugInfo | None = msgspec.field(default=None, name="_debug_info")


class CalledFunctionDelta(Reply):
    """More of a call: its name at first, then its arguments."""

    name: str | None = None
    arguments: str | None = None


class ChatCallDelta(Reply):
    """A piece of a call. Clients put the strings of all pieces with one index together."""

    index: int
    id: str | None = None
    type: str | None = None
    function: CalledFunctionDelta | None = None


class ChatDelta(Reply):
    """What is new of an answer."""

    role: str | None = None
    content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ChatCallDelta] = msgspec.field(default_factory=list)


class ChunkChoice(Reply):
    """A piece of one of the answers."""

    index: int
    delta: ChatDelta
    finish_reason: str | None
    """Null until the last piece."""
    logprobs: ChatLogprobs | None = None


class ChatCompletionChunk(Reply):
    """POST /v1/chat/completions: one event of a stream."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: Usage | None = None


# ---- text completions ----


class CompletionRequest(GoStruct):
    """POST /v1/completions. `best_of`, `user` and other fields of OpenAI's that are not here are ignored."""

    go_package = "openai"

    model: str | None = None
    prompt: Texts = None
    """With none the model is only loaded, or with `"keep_alive": 0` unloaded."""
    suffix: str | None = None
    """What follows the text that is to be filled in."""
    echo: bool | None = None
    """Whether the prompt stands before each text."""
    n: Int | None = None
    """How many texts for each prompt."""
    max_tokens: Int | None = None
    """Most tokens of each text; without it as many as fit."""
    stop: Texts = None
    seed: Int | None = None
    temperature: float | None = None
    """1 by default, whatever the model's parameters say."""
    top_p: float | None = None
    """The same."""
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    """Token → what is added to its logit, between -100 and 100."""
    logprobs: Int | None = None
    """Each token comes with how likely it was, and with so many of the likeliest in its place: at most 20."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    keep_alive: KeepAlive = None
    """Ours, as in Ollama's own API."""
    options: Options | None = None
    """The same; OpenAI's fields win where they say something."""
    priority: Priority = None
    service_tier: ServiceTier = None
    debug_render_only: bool | None = msgspec.field(default=None, name="_debug_render_only")


class CompletionLogprobs(Reply):
    """A row for each token of a piece of text."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    """The likeliest, and the one that was taken."""
    text_offset: list[int]
    """Where the token begins in the whole text, in characters."""


class CompletionChoice(Reply):
    """One of the texts, or a piece of it."""

    text: str
    index: int
    finish_reason: str | None
    """`stop`, `length`, `load`, `unload`; null in a stream until the last piece."""
    logprobs: CompletionLogprobs | None = None


class CompletionReply(Reply):
    """POST /v1/completions: the reply, and each event of a stream."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


# ---- embeddings ----


class EmbeddingsRequest(GoStruct):
    """POST /v1/embeddings. A text that is too long loses its end."""

    go_package = "openai"

    model: str | None = None
    input: Texts = None
    dimensions: Int | None = None
    """Only the first so many of each vector."""
    encoding_format: str | None = None
    """`float` or `base64`: the bytes of little-endian float32."""
    keep_alive: KeepAlive = None
    """Ours, as in Ollama's own API."""
    options: Options | None = None
    """The same."""
    priority: Priority = None
    service_tier: ServiceTier = None


class EmbeddingItem(Reply):
    """The vector of one text."""

    object: str
    embedding: list[float] | str
    index: int


class EmbeddingsUsage(Reply):
    """Tokens of all texts together."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsReply(Reply):
    """POST /v1/embeddings."""

    object: str
    data: list[EmbeddingItem]
    model: str
    usage: EmbeddingsUsage


# ---- models ----


class ModelEntry(Reply):
    """GET /v1/models/{model}."""

    id: str
    object: str
    created: int
    """Seconds since 1970."""
    owned_by: str
    """The namespace of its name."""


class ModelList(Reply):
    """GET /v1/models."""

    object: str
    data: list[ModelEntry] | None
    """Null when there are none."""
