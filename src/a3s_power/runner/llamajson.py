"""llama-server's JSON: requests as it wants them, its streams as our events, its errors as ours."""

import base64
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
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
    ToolCalls,
    Usage,
)
from a3s_power.messages import Message, ToolCall
from a3s_power.runner.base import ChatPrompt, Sampling

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

JSON_OBJECT_SCHEMA = {"type": "object"}


def _common(sampling: Sampling) -> dict[str, Any]:
    body: dict[str, Any] = {name: getattr(sampling.options, ours) for ours, name in _SAMPLING_NAMES.items()}
    body["seed"] %= 2**32  # the engine's seeds are unsigned; its own -1 is the largest
    body["n_predict"] = -1 if sampling.max_tokens is None else sampling.max_tokens
    body["stream"] = True
    body["cache_prompt"] = True
    return body


def _schema(sampling: Sampling) -> Mapping[str, object] | None:
    if isinstance(sampling.output_format, str):
        return JSON_OBJECT_SCHEMA
    return sampling.output_format


def completion_body(prompt: str, sampling: Sampling) -> bytes:
    """For POST /completion."""
    body = _common(sampling) | {"prompt": prompt}
    if (schema := _schema(sampling)) is not None:
        body["json_schema"] = schema
    if sampling.top_logprobs is not None:
        body["n_probs"] = max(1, sampling.top_logprobs)
    return msgspec.json.encode(body)


def chat_body(prompt: ChatPrompt, sampling: Sampling) -> bytes:
    """For POST /v1/chat/completions."""
    body = _common(sampling) | template_fields(prompt) | {"stream_options": {"include_usage": True}}
    if (schema := _schema(sampling)) is not None:
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "schema", "schema": schema}}
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


def _message(message: Message) -> dict[str, Any]:
    fields: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.images:
        text = [{"type": "text", "text": message.content}] if message.content else []
        fields["content"] = text + [_image_part(image) for image in message.images]
    if message.tool_calls:
        fields["tool_calls"] = [_tool_call(call) for call in message.tool_calls]
    if message.tool_call_id:
        fields["tool_call_id"] = message.tool_call_id
    if message.tool_name:
        fields["name"] = message.tool_name
    return fields


def _image_part(image: bytes) -> dict[str, Any]:
    url = "data:image/png;base64," + base64.b64encode(image).decode()
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
    stop: bool = False
    stop_type: str = ""
    timings: _Timings | None = None
    completion_probabilities: list[_Logprob] = []
    error: _Error | None = None


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCallDelta(msgspec.Struct):
    index: int = 0
    id: str | None = None
    function: _Function = msgspec.field(default_factory=_Function)


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_ToolCallDelta] = []


class _Logprobs(msgspec.Struct):
    content: list[_Logprob] = []


class _Choice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _ChatChunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: dict[str, Any] | None = None
    timings: _Timings | None = None
    error: _Error | None = None


class _ErrorReply(msgspec.Struct):
    error: _Error


_decode_completion = msgspec.json.Decoder(_CompletionChunk).decode
_decode_chat = msgspec.json.Decoder(_ChatChunk).decode
_decode_error = msgspec.json.Decoder(_ErrorReply).decode


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


async def completion_events(chunks: AsyncIterator[bytes], want_top: int | None) -> AsyncIterator[Event]:
    """The stream of /completion."""
    async for data in server_sent_data(chunks):
        chunk = _decode_completion(data)
        if chunk.error is not None:
            raise _engine_error(chunk.error)
        logprobs = _logprobs(chunk.completion_probabilities, want_top)
        if chunk.content or logprobs:
            yield Text(chunk.content, logprobs)
        if chunk.stop:
            yield _done(chunk.stop_type == "limit", chunk.timings)
            return
    raise RunnerFailed("the engine ended its answer without a last word")


async def chat_events(chunks: AsyncIterator[bytes], want_top: int | None) -> AsyncIterator[Event]:
    """The stream of /v1/chat/completions; tool calls are collected and come whole before the Done."""
    calls: dict[int, list[str]] = {}  # index → id, name, arguments so far
    hit_limit = False
    async for data in server_sent_data(chunks):
        if data == b"[DONE]":
            break
        chunk = _decode_chat(data)
        if chunk.error is not None:
            raise _engine_error(chunk.error)
        for choice in chunk.choices:
            hit_limit = hit_limit or choice.finish_reason == "length"
            _collect(calls, choice.delta.tool_calls)
            for event in _pieces(choice, want_top):
                yield event
        if chunk.usage is not None:
            if calls:
                yield ToolCalls(tuple(_call(index, *parts) for index, parts in sorted(calls.items())))
            yield _done(hit_limit, chunk.timings)
            return
    raise RunnerFailed("the engine ended its answer without a last word")


def _pieces(choice: _Choice, want_top: int | None) -> Iterator[Event]:
    logprobs = _logprobs(choice.logprobs.content, want_top) if choice.logprobs else ()
    if choice.delta.reasoning_content:
        yield Thinking(choice.delta.reasoning_content, logprobs)
        logprobs = ()
    if choice.delta.content or logprobs:
        yield Text(choice.delta.content or "", logprobs)


def _collect(calls: dict[int, list[str]], deltas: Sequence[_ToolCallDelta]) -> None:
    for delta in deltas:
        parts = calls.setdefault(delta.index, ["", "", ""])
        parts[0] += delta.id or ""
        parts[1] += delta.function.name or ""
        parts[2] += delta.function.arguments or ""


def _call(index: int, call_id: str, name: str, arguments: str) -> ToolCall:
    try:
        parsed = msgspec.json.decode(arguments or "{}", type=dict[str, Any])
    except msgspec.DecodeError as exc:
        raise RunnerFailed(f'llama-server returned invalid tool call arguments for "{name}": {exc}') from exc
    return ToolCall(name, parsed, call_id, index)


def _logprobs(entries: Sequence[_Logprob], want_top: int | None) -> tuple[TokenLogprob, ...]:
    if want_top is None:
        return ()
    return tuple(_logprob(entry, entry.top_logprobs[:want_top]) for entry in entries)


def _logprob(entry: _Logprob, top: Sequence[_Logprob] = ()) -> TokenLogprob:
    raw = bytes(byte & 0xFF for byte in entry.bytes) if entry.bytes is not None else entry.token.encode()
    return TokenLogprob(entry.token, entry.logprob, raw, tuple(_logprob(other) for other in top))


def _done(hit_limit: bool, timings: _Timings | None) -> Done:
    t = timings or _Timings()
    return Done(
        FinishReason.LENGTH if hit_limit else FinishReason.STOP,
        Usage(t.cache_n + t.prompt_n, t.predicted_n, t.cache_n),
        Timings(round(t.prompt_ms * 1e6), round(t.predicted_ms * 1e6)),
    )


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
