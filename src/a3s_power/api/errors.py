"""Errors as replies: one table of statuses, one wording for each dialect."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from starlette.responses import Response

from a3s_power.errors import (
    AppError,
    BlobInUse,
    CloudDisabled,
    ContextExceeded,
    EngineRejected,
    InvalidRequest,
    NotFound,
    RunnerFailed,
    ServerBusy,
    StoreFailed,
)
from a3s_power.wire.gojson import encode
from a3s_power.wire.ollama import ErrorReply

log = logging.getLogger(__name__)


class Interrupted(AppError):
    """The server ends before the answer does."""

    def __init__(self) -> None:
        super().__init__("the server is shutting down")


class InternalError(AppError):
    """A bug of ours met a request. The log has the story; the client gets none of it."""


STATUS: Mapping[type[AppError], int] = {
    InvalidRequest: 400,
    CloudDisabled: 403,
    NotFound: 404,
    BlobInUse: 409,
    ServerBusy: 503,
    Interrupted: 503,
    AppError: 500,
}


@dataclass(frozen=True, slots=True)
class Failure:
    """An error in one dialect: as a whole reply, and as the last words of a stream that has begun."""

    status: int
    body: bytes
    in_stream: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json; charset=utf-8"

    def response(self) -> Response:
        """The whole reply."""
        return Response(self.body, self.status, self.headers, self.content_type)


Dialect = Callable[[AppError], Failure]


def status_of(exc: AppError) -> int:
    """The HTTP status of an error; what the engine refused keeps the engine's own."""
    if isinstance(exc, EngineRejected):
        return exc.status if 400 <= exc.status < 600 else 500
    return next(STATUS[cls] for cls in type(exc).__mro__ if cls in STATUS)


def native(exc: AppError) -> Failure:
    """Ollama's own dialect: `{"error": …}`, and nothing else."""
    body = encode(ErrorReply(str(exc)))
    headers = {"Retry-After": str(exc.retry_after_s)} if isinstance(exc, ServerBusy) else {}
    return Failure(status_of(exc), body, body + b"\n", headers)


def native_work(exc: AppError) -> Failure:
    """The native dialect for what goes wrong once a request was found to be in order: without the charset."""
    return replace(native(exc), content_type="application/json")


def native_stream(exc: AppError) -> Failure:
    """The native dialect for a streamed generation: it is the engine that works."""
    is_engines = isinstance(exc, EngineRejected | RunnerFailed | ContextExceeded)
    return native_work(exc) if is_engines else native(exc)


def as_app_error(exc: Exception) -> AppError:
    """Any exception as one that can be told to a client; a bug is logged here and told as such."""
    if isinstance(exc, StoreFailed):
        log.error("store failed", extra={"error": str(exc)})
    if isinstance(exc, AppError):
        return exc
    log.error("internal error", exc_info=exc)
    return InternalError("internal server error")
