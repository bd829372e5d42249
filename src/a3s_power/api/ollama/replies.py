"""Replies in Ollama's shapes: whole ones, and the lines of /api/chat and /api/generate."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from starlette.responses import Response

from a3s_power.generation import TokenLogprob
from a3s_power.messages import ToolCall
from a3s_power.wire import ollama as wire
from a3s_power.wire.gojson import encode


@dataclass(frozen=True, slots=True)
class Piece:
    """What one line of a stream adds to the answer."""

    text: str = ""
    thinking: str = ""
    calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()

    @classmethod
    def joined(cls, pieces: "list[Piece]") -> "Piece":
        """All of them as one."""
        return cls(
            "".join(piece.text for piece in pieces),
            "".join(piece.thinking for piece in pieces),
            tuple(call for piece in pieces for call in piece.calls),
            tuple(logprob for piece in pieces for logprob in piece.logprobs),
        )


@dataclass(frozen=True, slots=True)
class Ending:
    """What the last line tells besides; durations in nanoseconds. An empty one is of a line before it."""

    done_reason: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    context: tuple[int, ...] = ()
    is_truncated: bool = False


JSON = "application/json; charset=utf-8"
NDJSON = "application/x-ndjson"


def json_reply(reply: wire.Reply, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A whole reply."""
    return Response(encode(reply), status, headers, JSON)


def chat_line(model: str, piece: Piece, ending: Ending) -> wire.ChatReply:
    """One line of /api/chat."""
    message = wire.MessageReply("assistant", piece.text, piece.thinking, [_call(call) for call in piece.calls])
    return wire.ChatReply(
        model=model,
        created_at=utc_now(),
        message=message,
        done=bool(ending.done_reason),
        done_reason=ending.done_reason,
        logprobs=[_logprob(logprob) for logprob in piece.logprobs],
        truncated=ending.is_truncated,
        **ending.metrics,
    )


def generate_line(model: str, piece: Piece, ending: Ending) -> wire.GenerateReply:
    """One line of /api/generate; calls in it have no ids."""
    return wire.GenerateReply(
        model=model,
        created_at=utc_now(),
        response=piece.text,
        thinking=piece.thinking,
        done=bool(ending.done_reason),
        done_reason=ending.done_reason,
        context=list(ending.context),
        tool_calls=[_call(replace(call, id="")) for call in piece.calls],
        logprobs=[_logprob(logprob) for logprob in piece.logprobs],
        truncated=ending.is_truncated,
        **ending.metrics,
    )


def chat_preview(model: str, info: wire.DebugInfo) -> wire.ChatReply:
    """/api/chat with `_debug_render_only`."""
    message = wire.MessageReply("", "")
    return wire.ChatReply(model=model, created_at=utc_now(), message=message, done=False, debug_info=info)


def generate_preview(model: str, info: wire.DebugInfo) -> wire.GenerateReply:
    """/api/generate with `_debug_render_only`."""
    return wire.GenerateReply(model=model, created_at=utc_now(), response="", done=False, debug_info=info)


def _call(call: ToolCall) -> wire.ToolCallReply:
    function = wire.ToolCallFunctionReply(call.index, call.name, dict(call.arguments))
    return wire.ToolCallReply(id=call.id, function=function)


def _logprob(entry: TokenLogprob) -> wire.TokenLogprobReply:
    return wire.TokenLogprobReply(
        entry.token, entry.logprob, list(entry.bytes), [_logprob(other) for other in entry.top]
    )


def utc_now() -> str:
    """RFC 3339 with Z, nanoseconds less their trailing zeros."""
    seconds, nanoseconds = divmod(time.time_ns(), 10**9)
    fraction = f".{nanoseconds:09d}".rstrip("0") if nanoseconds else ""
    return f"{_date_and_time(seconds)}{fraction}Z"


@lru_cache(maxsize=2)  # every token has a time of its own, and formatting this much of it costs 3 microseconds
def _date_and_time(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"
