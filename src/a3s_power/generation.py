"""One request for text and what comes back of it, whatever API it came through."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from a3s_power.messages import Message, ToolCall
from a3s_power.names import ModelName

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
    """A piece of the answer."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Thinking:
    """A piece of the reasoning before the answer."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCalls:
    """Complete calls the model made."""

    calls: tuple[ToolCall, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """The last event of every generation that was not broken off."""

    finish_reason: FinishReason
    usage: Usage = Usage()
    timings: Timings = Timings()


Event = Text | Thinking | ToolCalls | Done


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
