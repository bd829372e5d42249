"""llama-server's JSON: requests as it wants them, its streams as our events, its errors as ours."""

import base64
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import msgspec

from a3s_power.errors import AppError, ContextExceeded, EngineRejected, RunnerFailed
from a3s_power.generation import (
    Done,
    Event,
    FinishReason,
    Text,
    Thinking,
    Timings,
    TokenLogprob,
    Usage,
)
from a3s_power.messages import Message, ToolCall
from a3s_power.runner.base import ChatPrompt, Embeddings, Sampling
from a3s_power.runner.llamacalls import CallCollector, ToolCallDelta

log = logging.getLogger(__name__)

# ---- out ----

_SAMPLING_NAMES = {
    "num_keep": "n_keep",
    "seed": "seed",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "typical_p": "typical_p",
    "repeat_last_n": "repeat_last_n",
    "temperature": "temperature",
    "repeat_penalty": "repeat_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "stop": "stop",
}
"""SamplingOptions field → the engine's name; num_predict is decided before and comes as max_tokens."""


def _common(sampling: Sampling) -> dict[str, Any]:
    body: dict[str, Any] = {name: getattr(sampling.options, ours) for ours, name in _SAMPLING_NAMES.items()}
    body["stop"] = [text for text in body["stop"] if text]  # an empty one ends the reply before it begins
    body["seed"] %= 2**32  # the engine's seeds are unsigned; its own -1 is the largest
    body["n_predict"] = -1 if sampling.max_tokens is None else sampling.max_tokens
    body["stream"] = True
    body["return_progress"] = True  # a sign of life, and a write by which the engine sees that nobody reads
    body["cache_prompt"] = True
    if sampling.grammar is not None:
        body["grammar"] = sampling.grammar
    if sampling.logit_bias:
        body["logit_bias"] = list(sampling.logit_bias.items())
    return body


def completion_body(prompt: str | Sequence[int], sampling: Sampling, images: Sequence[bytes] = ()) -> bytes:
    """For POST /completion."""
    body = _common(sampling) | {"prompt": prompt, "preserved_tokens": sampling.preserved_tokens}
    if sampling.tells_tokens:
        body["return_tokens"] = True
    if images:
        body["prompt"] = {"prompt_string": prompt, "multimodal_data": images}  # which msgspec writes as base64
    if sampling.top_logprobs is not None:
        body["n_probs"] = max(1, sampling.top_logprobs)
    return msgspec.json.encode(body)


def chat_body(prompt: ChatPrompt, sampling: Sampling) -> bytes:
    """For POST /v1/chat/completions."""
    body = _common(sampling) | template_fields(prompt) | {"stream_options": {"include_usage": True}}
    if body["stop"]:
        body["verbose"] = True  # tells, in the last chunk, which of them it was
    if sampling.thinking_budget is not None:
        # With 0 the engine cannot end thoughts that the prompt has begun: the line break behind the tag counts.
        body["reasoning_budget_tokens"] = max(1, sampling.thinking_budget)
    if sampling.top_logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": max(1, sampling.top_logprobs)}
    return msgspec.json.encode(body)


def template_fields(prompt: ChatPrompt) -> dict[str, Any]:
    """What the chat template sees."""
    fields: dict[str, Any] = {"messages": [_message(message) for message in prompt.messages]}
    if prompt.tools:
        fields["tools"] = prompt.tools
    if prompt.think is not None:
        kwargs: dict[str, Any] = {"enable_thinking": bool(prompt.think)}
        if isinstance(prompt.think, str):
            kwargs["reasoning_effort"] = prompt.think
        fields["chat_template_kwargs"] = kwargs
    return fields


def embedding_body(inputs: Sequence[str | Sequence[int]]) -> bytes:
    """For POST /v1/embeddings: raw vectors, as the bytes they are."""
    return msgspec.json.encode({"input": inputs, "encoding_format": "base64", "embd_normalize": -1})


def _message(message: Message) -> dict[str, Any]:
    fields: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.images:
        text = [{"type": "text", "text": message.content}] if message.content else []
        fields["content"] = text + [_image_part(image) for image in message.images]
    if message.thinking:
        fields["reasoning_content"] = message.thinking
    if message.tool_calls:
        fields["tool_calls"] = [_tool_call(call) for call in message.tool_calls]
    if message.tool_call_id:
        fields["tool_call_id"] = message.tool_call_id
    if message.tool_name:
        fields["name"] = message.tool_name
    return fields


def _image_part(image: bytes) -> dict[str, Any]:
    url = "data:image/png;base64," + base64.b64encode(image).decode()  # or JPEG: the engine looks for itself
    return {"type": "image_url", "image_url": {"url": url}}


def _tool_call(call: ToolCall) -> dict[str, Any]:
    arguments = msgspec.json.encode(call.arguments).decode()
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


# ---- in ----


class _Timings(msgspec.Struct):
    cache_n: int = 0
    prompt_n: int = 0
    prompt_ms: float = 0.0
    predicted_n: int = 0
    predicted_ms: float = 0.0


class _Logprob(msgspec.Struct):
    token: str = ""
    logprob: float = 0.0
    bytes: list[int] | None = None
    top_logprobs: list["_Logprob"] = []


class _Error(msgspec.Struct):
    message: str = ""
    code: int | str = 500
    type: str = ""
    n_prompt_tokens: int = 0
    n_ctx: int = 0


class _CompletionChunk(msgspec.Struct):
    content: str = ""
    tokens: tuple[int, ...] = ()
    tokens_predicted: int = 0
    stop: bool = False
    stop_type: str = ""
    stopping_word: str = ""
    timings: _Timings | None = None
    completion_probabilities: list[_Logprob] = []
    prompt_progress: "_Progress | None" = None
    error: _Error | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallDelta] = []


class _Logprobs(msgspec.Struct):
    content: list[_Logprob] = []


class _Choice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Progress(msgspec.Struct):
    total: int = 0


class _Verbose(msgspec.Struct):
    stopping_word: str = ""


class _ChatChunk(msgspec.Struct):
    choices: list[_Choice] = []
    verbose: _Verbose = msgspec.field(name="__verbose", default_factory=_Verbose)
    usage: dict[str, Any] | None = None
    timings: _Timings | None = None
    prompt_progress: _Progress | None = None
    error: _Error | None = None


class _ErrorReply(msgspec.Struct):
    error: _Error


class _Embedding(msgspec.Struct):
    index: int
    embedding: bytes
    """Base64 in the reply, which msgspec undoes."""


class _EmbeddingUsage(msgspec.Struct):
    prompt_tokens: int


class _EmbeddingReply(msgspec.Struct):
    data: list[_Embedding]
    usage: _EmbeddingUsage


_decode_completion = msgspec.json.Decoder(_CompletionChunk).decode
_decode_chat = msgspec.json.Decoder(_ChatChunk).decode
_decode_error = msgspec.json.Decoder(_ErrorReply).decode
_decode_embeddings = msgspec.json.Decoder(_EmbeddingReply).decode


_UNREADABLE = "does not match the expected"
"""In what llama-server says of a reply that its parser of tool calls cannot follow to the end. The text before the
call has been streamed by then, and the call itself was none: the reply is over, but nothing failed."""


async def server_sent_data(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The payload of each `data:` (or llama-server's `error:`) line of an event stream."""
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data: "):
                yield line[6:]
            elif line.startswith(b"error: "):
                yield b'{"error":%b}' % line[7:]


async def completion_events(
    chunks: AsyncIterator[bytes], want_top: int | None, *, tells_tokens: bool = False
) -> AsyncIterator[Event]:
    """The stream of /completion.

    With `tells_tokens`, each Text has its tokens, and those that have no text yet come without. Of a character
    that took several tokens the engine tells only the last: a Text that ends with one, or goes on behind it, has
    none at all.
    """
    predicted, is_whole = 0, True
    async for data in server_sent_data(chunks):
        chunk = _decode_completion(data)
        if chunk.error is not None:
            raise _engine_error(chunk.error)
        if chunk.prompt_progress is not None:
            continue  # which has a token that is none
        logprobs = _logprobs(chunk.completion_probabilities, want_top)
        if tells_tokens:
            is_whole = is_whole and len(chunk.tokens) == chunk.tokens_predicted - predicted
            predicted = chunk.tokens_predicted
            if chunk.content or chunk.tokens:
                yield Text(chunk.content, logprobs, chunk.tokens if is_whole else ())
            is_whole = is_whole or bool(chunk.content)
        elif chunk.content or logprobs:
            yield Text(chunk.content, logprobs)
        if chunk.stop:
            yield _done(chunk.stop_type == "limit", chunk.timings, chunk.stopping_word)
            return
    raise RunnerFailed("the engine ended its answer without a last word")


async def chat_events(chunks: AsyncIterator[bytes], want_top: int | None) -> AsyncIterator[Event]:
    """The stream of /v1/chat/completions."""
    calls = CallCollector()
    prompt_tokens = pieces = 0
    hit_limit, stop_sequence = False, ""
    async for data in server_sent_data(chunks):
        if data == b"[DONE]":
            break
        chunk = _decode_chat(data)
        if chunk.error is not None:
            if _UNREADABLE not in chunk.error.message:
                raise _engine_error(chunk.error)
            log.warning("a tool call could not be read")
            for told in calls.finish():
                yield told
            yield Done(FinishReason.STOP, Usage(prompt_tokens, pieces))
            return
        if chunk.prompt_progress is not None:
            prompt_tokens = chunk.prompt_progress.total
        stop_sequence = stop_sequence or chunk.verbose.stopping_word
        for choice in chunk.choices:
            hit_limit = hit_limit or choice.finish_reason == "length"
            for event in _pieces(choice, want_top):
                pieces += 1
                yield event
            for told in calls.add(choice.delta.tool_calls):
                yield told
        if chunk.usage is not None:
            for told in calls.finish():
                yield told
            yield _done(hit_limit, chunk.timings, stop_sequence)
            return
    raise RunnerFailed("the engine ended its answer without a last word")


def _pieces(choice: _Choice, want_top: int | None) -> Iterator[Event]:
    logprobs = _logprobs(choice.logprobs.content, want_top) if choice.logprobs else ()
    if choice.delta.reasoning_content:
        yield Thinking(choice.delta.reasoning_content, logprobs)
        logprobs = ()
    if choice.delta.content or logprobs:
        yield Text(choice.delta.content or "", logprobs)


def _logprobs(entries: Sequence[_Logprob], want_top: int | None) -> tuple[TokenLogprob, ...]:
    if want_top is None:
        return ()
    told = (entry for entry in entries if entry.token or entry.bytes)  # the token that ends a reply has no text
    return tuple(_logprob(entry, entry.top_logprobs[:want_top]) for entry in told)


def _logprob(entry: _Logprob, top: Sequence[_Logprob] = ()) -> TokenLogprob:
    raw = bytes(byte & 0xFF for byte in entry.bytes) if entry.bytes is not None else entry.token.encode()
    return TokenLogprob(entry.token, entry.logprob, raw, tuple(_logprob(other) for other in top))


def _done(hit_limit: bool, timings: _Timings | None, stop_sequence: str = "") -> Done:
    t = timings or _Timings()
    return Done(
        FinishReason.LENGTH if hit_limit else FinishReason.STOP,
        Usage(t.cache_n + t.prompt_n, t.predicted_n, t.cache_n),
        Timings(round(t.prompt_ms * 1e6), round(t.predicted_ms * 1e6)),
        stop_sequence,
    )


def embeddings(body: bytes, count: int) -> Embeddings:
    """The answer of /v1/embeddings to `count` inputs. Raises RunnerFailed for one that is no such thing."""
    try:
        reply = _decode_embeddings(body)
    except msgspec.DecodeError as exc:
        raise RunnerFailed(f"the engine's embeddings make no sense: {exc}") from exc
    data = sorted(reply.data, key=lambda entry: entry.index)
    if [entry.index for entry in data] != list(range(count)) or len({len(entry.embedding) for entry in data}) > 1:
        raise RunnerFailed("the engine's embeddings make no sense: not one of the same size for each input")
    return Embeddings(tuple(entry.embedding for entry in data), reply.usage.prompt_tokens)


class _NextToken(msgspec.Struct):
    n_decoded: int = 0


class EngineSlot(msgspec.Struct):
    """What one of the engine's slots is at."""

    is_processing: bool = False
    id_task: int = -1
    n_prompt_tokens: int = 0
    next_token: list[_NextToken] = []

    @property
    def decoded(self) -> int:
        """Tokens generated so far."""
        return sum(token.n_decoded for token in self.next_token)


_decode_slots = msgspec.json.Decoder(list[EngineSlot]).decode


def engine_slots(body: bytes) -> list[EngineSlot]:
    """The answer of /slots; none of one that makes no sense."""
    try:
        return _decode_slots(body)
    except msgspec.DecodeError:
        return []


def refusal(status: int, body: bytes) -> AppError:
    """The error for an answer that is not 200."""
    try:
        error = _decode_error(body).error
    except msgspec.DecodeError:
        return EngineRejected(body.decode(errors="replace").strip() or f"engine status {status}", status)
    error.code = status
    return _engine_error(error)


def _engine_error(error: _Error) -> AppError:
    if error.type == "exceed_context_size_error":
        return ContextExceeded(error.n_prompt_tokens, error.n_ctx)
    return EngineRejected(error.message, error.code if isinstance(error.code, int) else 500)
