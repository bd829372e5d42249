"""Errors as OpenAI's clients know them: `{"error": {"message": …, "type": …, "param": …, "code": …}}`."""

from collections.abc import Mapping
from dataclasses import replace

from a3s_power.api.errors import Failure, status_of
from a3s_power.api.requesters import InvalidPriority
from a3s_power.api.sse import data_frame
from a3s_power.errors import AppError, ContextExceeded, InvalidRequest, InvalidToolChoice, ServerBusy
from a3s_power.wire.gojson import encode
from a3s_power.wire.openai import ErrorDetail, OpenAIError

TYPES: Mapping[int, str] = {400: "invalid_request_error", 404: "not_found_error"}
"""Status → type; all others are `api_error`."""


class InvalidParameter(InvalidRequest):
    """One field of the request is to blame, and `param` is its name."""

    def __init__(self, message: str, param: str, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class UnsupportedParameter(InvalidParameter):
    """A field asks for what no model here can do, so that leaving it out of account would change the answer."""

    def __init__(self, param: str, what: str = "") -> None:
        super().__init__(f"{what or repr(param)} is not supported by this server", param, "unsupported_parameter")


def openai(exc: AppError) -> Failure:
    """The dialect of /v1, but for /v1/messages."""
    status = status_of(exc)
    body = encode(OpenAIError(_detail(exc, TYPES.get(status, "api_error"))))
    headers = {"Retry-After": str(exc.retry_after_s)} if isinstance(exc, ServerBusy) else {}
    return Failure(status, body, data_frame(body), headers)


def openai_work(exc: AppError) -> Failure:
    """The dialect for what goes wrong once a request was read: as Ollama, without the charset, with a newline."""
    failure = openai(exc)
    return replace(failure, body=failure.body + b"\n", content_type="application/json")


def _detail(exc: AppError, kind: str) -> ErrorDetail:
    match exc:
        case ContextExceeded(prompt_tokens=tokens, num_ctx=limit):
            return ErrorDetail(_too_long(tokens, limit), kind, "messages", "context_length_exceeded")
        case InvalidToolChoice():
            return ErrorDetail(str(exc), kind, "tool_choice", None)
        case InvalidPriority():
            return ErrorDetail(str(exc), kind, "priority", None)
        case InvalidParameter(param=param, code=code):
            return ErrorDetail(str(exc), kind, param, code)
    return ErrorDetail(str(exc), kind, None, None)


def _too_long(tokens: int, limit: int) -> str:
    """Agents that shorten their conversations look for `maximum context length`, and read the numbers."""
    return (
        f"This model's maximum context length is {limit} tokens. However, your messages resulted in {tokens} "
        "tokens. Please reduce the length of the messages."
    )
