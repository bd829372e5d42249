"""Errors as Anthropic's clients know them, each under the id of its request."""

import secrets
from collections.abc import Mapping
from dataclasses import replace

from a3s_power.api.errors import Dialect, Failure, status_of
from a3s_power.api.sse import event_frame
from a3s_power.errors import AppError, ContextExceeded, InvalidRequest, ServerBusy
from a3s_power.wire.anthropic import AnthropicError, ErrorBody
from a3s_power.wire.gojson import encode

REQUEST_ID = "request-id"
"""The header of every reply that names its request."""

TYPES: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}
"""Status → type; all others are `api_error`."""


THREAD_DETAILS = {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
"""What Anthropic's SDK looks for before it goes on without threads."""


class ThreadUnsupported(InvalidRequest):
    """A turn whose conversation only Anthropic's servers have: its client can send all of it instead."""

    def __init__(self) -> None:
        super().__init__("thread: conversations are not kept here; send all messages")


def new_request_id() -> str:
    """`req_` and 24 hex digits."""
    return f"req_{secrets.token_hex(12)}"


def anthropic(exc: AppError) -> Failure:
    """The dialect for what is wrong with a request that goes no further."""
    return _failure(exc, new_request_id())


def anthropic_work(request_id: str) -> Dialect:
    """The dialect for what goes wrong once a request was read: no charset, but a newline, as Ollama has it."""

    def told(exc: AppError) -> Failure:
        failure = _failure(exc, request_id)
        return replace(failure, body=failure.body + b"\n", content_type="application/json")

    return told


def _failure(exc: AppError, request_id: str) -> Failure:
    status = status_of(exc)
    details = THREAD_DETAILS if isinstance(exc, ThreadUnsupported) else None
    body = encode(AnthropicError(ErrorBody(TYPES.get(status, "api_error"), _message(exc), details), request_id))
    headers = {REQUEST_ID: request_id}
    if isinstance(exc, ServerBusy):
        headers["Retry-After"] = str(exc.retry_after_s)
    return Failure(status, body, event_frame("error", body), headers)


def _message(exc: AppError) -> str:
    """Agents that shorten their conversations look for these words, and read the numbers."""
    if isinstance(exc, ContextExceeded):
        return f"prompt is too long: {exc.prompt_tokens} tokens > {exc.num_ctx} maximum"
    return str(exc)
