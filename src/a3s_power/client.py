"""A typed HTTP client of our own server: all that the command line knows of it.

Whatever goes wrong is a ClientError, worded for the person at the terminal. Streams are context managers: leaving
one early closes the connection, which is how a request is cancelled.
"""

import platform
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx2
import msgspec

from a3s_power import __version__
from a3s_power.errors import AppError
from a3s_power.hosts import is_loopback
from a3s_power.wire.ollama import (
    ChatReply,
    ChatRequest,
    CopyRequest,
    CreateRequest,
    DeleteRequest,
    DfReply,
    ErrorReply,
    GenerateReply,
    GenerateRequest,
    HealthReply,
    ListReply,
    PruneReply,
    PruneRequest,
    PullRequest,
    PushRequest,
    RunningReply,
    ShowReply,
    ShowRequest,
    StatusReply,
    VersionReply,
)

T = TypeVar("T")

_USER_AGENT = (
    f"a3s-power/{__version__} ({platform.machine()} {platform.system()}) Python/{platform.python_version()}"
)
# A server that is there accepts at once. How long a reply may take nobody knows: a model loads for minutes, an
# upload waits for a slow disk; the user has Ctrl+C.
_TIMEOUT = httpx2.Timeout(None, connect=5.0)
_UPLOAD_CHUNK = 2**20  # bytes
_MAX_LINE = 8 * 2**20  # bytes


class ClientError(AppError):
    """A request failed. `status` is the HTTP status, None where there was none or it said 200."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status

    @property
    def is_not_found(self) -> bool:
        return self.status == 404


class ServerUnreachable(ClientError):
    """No server answers at the address."""


class Client:
    """One server, at `base_url` (`http://127.0.0.1:11434`). Close it, or use it in a `with`."""

    def __init__(self, base_url: str, transport: httpx2.BaseTransport | None = None) -> None:
        try:
            url = httpx2.URL(base_url)
        except httpx2.InvalidURL as exc:
            raise ClientError(f"{base_url}: {exc}") from exc
        self._http = httpx2.Client(
            base_url=url,
            transport=transport,
            timeout=_TIMEOUT,
            headers={"User-Agent": _USER_AGENT},
            trust_env=not is_loopback(url.host),  # a proxy from HTTP_PROXY does not lead back to this machine
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # ---- the server ----

    def heartbeat(self) -> None:
        """Raises ServerUnreachable when no server is there."""
        self._call("HEAD", "/")

    def version(self) -> str:
        """The Ollama release whose API the server speaks."""
        return self._get("/api/version", VersionReply).version

    def health(self) -> HealthReply:
        """Has the server's own version. Only our own server answers it; Ollama says 404."""
        return self._get("/health", HealthReply)

    # ---- models ----

    def list(self) -> ListReply:
        """The models in the store, newest first."""
        return self._get("/api/tags", ListReply)

    def running(self) -> RunningReply:
        """The models in memory."""
        return self._get("/api/ps", RunningReply)

    def show(self, request: ShowRequest) -> ShowReply:
        return _decoded(self._call("POST", "/api/show", request).content, ShowReply)

    def copy(self, source: str, destination: str) -> None:
        self._call("POST", "/api/copy", CopyRequest(source=source, destination=destination))

    def delete(self, model: str) -> None:
        self._call("DELETE", "/api/delete", DeleteRequest(model=model))

    def load(self, request: GenerateRequest) -> GenerateReply:
        """Load a model, which can take minutes. `request` has no prompt; its `keep_alive` 0 unloads."""
        request = msgspec.structs.replace(request, stream=False)
        return _decoded(self._call("POST", "/api/generate", request).content, GenerateReply)

    def unload(self, model: str) -> None:
        """Take a model out of memory; no error when it is not there."""
        self.load(GenerateRequest(model=model, keep_alive=0))

    # ---- streams ----

    @contextmanager
    def generate(self, request: GenerateRequest) -> Iterator[Iterator[GenerateReply]]:
        with self._stream("/api/generate", request, GenerateReply) as replies:
            yield replies

    @contextmanager
    def chat(self, request: ChatRequest) -> Iterator[Iterator[ChatReply]]:
        with self._stream("/api/chat", request, ChatReply) as replies:
            yield replies

    @contextmanager
    def create(self, request: CreateRequest) -> Iterator[Iterator[StatusReply]]:
        with self._stream("/api/create", request, StatusReply) as replies:
            yield replies

    @contextmanager
    def pull(self, request: PullRequest) -> Iterator[Iterator[StatusReply]]:
        """Statuses of fetching a model, `success` the last."""
        with self._stream("/api/pull", request, StatusReply) as replies:
            yield replies

    @contextmanager
    def push(self, request: PushRequest) -> Iterator[Iterator[StatusReply]]:
        """Statuses of sending a model, `success` the last."""
        with self._stream("/api/push", request, StatusReply) as replies:
            yield replies

    # ---- blobs ----

    def has_blob(self, digest: str) -> bool:
        """Whether the server stores `sha256:<64 hex digits>`."""
        try:
            self._call("HEAD", f"/api/blobs/{digest}")
        except ClientError as exc:
            if exc.is_not_found:
                return False
            raise
        return True

    def upload_blob(self, path: Path, digest: str, on_progress: Callable[[int], None]) -> None:
        """Send a file; the server refuses it if it does not hash to `digest`. Progress counts bytes sent.

        Raises OSError if the file cannot be read.
        """
        size = path.stat().st_size
        headers = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
        self._call("POST", f"/api/blobs/{digest}", content=_read(path, size, on_progress), headers=headers)

    # ---- space ----

    def df(self) -> DfReply:
        """What models, blobs and unfinished transfers take of the server's disk."""
        return self._get("/api/df", DfReply)

    def prune(self, *, dry_run: bool) -> PruneReply:
        """Remove what nothing needs; a dry run only tells what would go."""
        return _decoded(self._call("POST", "/api/prune", PruneRequest(dry_run=dry_run)).content, PruneReply)

    # ---- one request ----

    def _get(self, path: str, shape: type[T]) -> T:
        return _decoded(self._call("GET", path).content, shape)

    def _call(
        self, method: str, path: str, body: msgspec.Struct | None = None, **arguments: Any
    ) -> httpx2.Response:
        """A reply read to its end. Raises ClientError for a status from 400 on."""
        if body is not None:
            arguments |= _json_body(body, accept="application/json")
        with _our_errors():
            response = self._http.request(method, path, **arguments)
        _check(response)
        return response

    @contextmanager
    def _stream(self, path: str, body: msgspec.Struct, shape: type[T]) -> Iterator[Iterator[T]]:
        """The lines of a reply, as they come. A line that has an `error` raises ClientError."""
        arguments = _json_body(body, accept="application/x-ndjson")
        with _our_errors(), self._http.stream("POST", path, **arguments) as response:
            if response.is_error:
                response.read()
            _check(response)
            yield (_decoded(line, shape) for line in _lines(response.iter_bytes()))


def _json_body(body: msgspec.Struct, accept: str) -> dict[str, Any]:
    headers = {"Content-Type": "application/json", "Accept": accept}
    return {"content": msgspec.json.encode(body), "headers": headers}


def _read(path: Path, size: int, on_progress: Callable[[int], None]) -> Iterator[bytes]:
    """The file's first `size` bytes, which are announced: what has grown since is for the digest to tell."""
    sent = 0
    with path.open("rb") as file:
        while chunk := file.read(min(_UPLOAD_CHUNK, size - sent)):
            yield chunk
            sent += len(chunk)
            on_progress(sent)
    if sent < size:
        raise ClientError(f"{path} became shorter while it was sent")


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """NDJSON cut at line feeds only; httpx's own `iter_lines` cuts inside a JSON text, at U+0085."""
    pending = bytearray()
    for chunk in chunks:
        *whole, rest = chunk.split(b"\n")
        for line in whole:
            yield bytes(pending) + line
            pending.clear()
        pending += rest
        if len(pending) > _MAX_LINE:
            raise ClientError(f"the server sent a line of more than {_MAX_LINE} bytes")
    if pending:
        yield bytes(pending)


def _decoded(body: bytes, shape: type[T]) -> T:
    """A reply. Raises ClientError for one that is none, which the error in its place usually explains."""
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        reason = _error_in(body) or f"the server sent something unexpected: {exc}"
        raise ClientError(reason) from exc


def _check(response: httpx2.Response) -> None:
    if response.is_error:
        raise ClientError(_reason(response), response.status_code)


def _reason(response: httpx2.Response) -> str:
    status_line = f"{response.status_code} {response.reason_phrase}"
    return _error_in(response.content) or response.text.strip() or status_line


def _error_in(body: bytes) -> str:
    """The text of `{"error": "…"}`; empty for anything else."""
    try:
        return msgspec.json.decode(body, type=ErrorReply).error
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""


@contextmanager
def _our_errors() -> Iterator[None]:
    try:
        yield
    except httpx2.RequestError as exc:
        if _was_refused(exc):
            text = "could not connect to a3s-power server, run 'a3s-power serve' to start it"
            raise ServerUnreachable(text) from exc
        raise ClientError(str(exc) or type(exc).__name__) from exc


def _was_refused(exc: BaseException | None) -> bool:
    while exc:
        if isinstance(exc, ConnectionRefusedError):
            return True
        exc = exc.__cause__ or exc.__context__
    return False
