"""One request for text and what comes back of it, whatever API it came through."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from a3s_power.messages import Message, ToolCall
from a3s_power.names import ModelName
from a3s_power.requester import Requester

JSON = Mapping[str, object]


class FinishReason(StrEnum):
    """Why generation ended."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request. `prompt_tokens` includes `cached_tokens`."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time went, in nanoseconds, as the engine measured it."""

    prompt_ns: int = 0
    completion_ns: int = 0


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token and how likely it was; `top` holds the likeliest alternatives, best first."""

    token: str
    logprob: float
    bytes: bytes
    top: tuple["TokenLogprob", ...] = ()


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of the answer. Who asks an engine for the `tokens` it consists of gets them."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Thinking:
    """A piece of the reasoning before the answer."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class CallPart:
    """A piece of a call while the model makes it. The first tells `id` and `name`; `arguments` are JSON text.

    The parts of one call come one after the other, and those of the next only then. Put together, their arguments
    are the JSON of those in ToolCalls, which tells the call again once it is whole. A reply that is cut off may
    end in the middle.
    """

    index: int
    arguments: str = ""
    id: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class ToolCalls:
    """Complete calls the model made, each told in parts before."""

    calls: tuple[ToolCall, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """The last event of every generation that was not broken off."""

    finish_reason: FinishReason
    usage: Usage = Usage()
    timings: Timings = Timings()
    stop_sequence: str = ""
    """The client's, if it was one of them that ended it, as far as the engine tells."""


Event = Text | Thinking | CallPart | ToolCalls | Done


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether tools are called: as the model likes; not at all; one must be; the one called `name` must be."""

    is_allowed: bool = True
    is_required: bool = False
    name: str = ""
    is_parallel: bool = True
    """Whether a reply may hold several calls."""


@dataclass(frozen=True, slots=True)
class ChatInput:
    """A conversation to be continued by the assistant."""

    messages: tuple[Message, ...]
    tools: Sequence[JSON] = ()


@dataclass(frozen=True, slots=True)
class PromptInput:
    """One prompt, as `/api/generate` takes it. None leaves a text to the model; `raw` bypasses templates."""

    prompt: str
    suffix: str = ""
    system: str | None = None
    template: str | None = None
    context: tuple[int, ...] | None = None
    images: tuple[bytes, ...] = ()
    raw: bool = False


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What a client wants, in no API's own words.

    `name` is the model that is meant, `model` the client's spelling of it; `options` are JSON values, checked when
    merged with the model's; `keep_alive_s` None keeps what the runner has; `think` None leaves it to the model;
    `output_format` is None, or what should be "json" or a JSON schema, not looked at yet; `top_logprobs` None asks
    for no logprobs at all; `may_truncate` lets a conversation that is too long lose its oldest messages.
    """

    name: ModelName
    model: str
    input: ChatInput | PromptInput
    options: JSON = field(default_factory=dict)
    output_format: object = None
    think: bool | str | None = None
    keep_alive_s: float | None = None
    top_logprobs: int | None = None
    may_truncate: bool = False
    tool_choice: ToolChoice = ToolChoice()
    thinking_budget: int | None = None
    """Most tokens of thoughts; then the model is made to answer."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Token → what is added to its logit; -100 bans it."""
    requester: Requester = field(default_factory=Requester)
