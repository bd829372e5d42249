"""The llama.cpp engine: runners as processes, `runner.base`'s contract as calls to llama-server's API."""

import ctypes
import errno
import fcntl
import logging
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import msgspec
from anyio.abc import Process

from a3s_power.devices import memory_of
from a3s_power.environment import child_environment
from a3s_power.errors import LoadFailed, LoadFailure, RunnerFailed, RunnerGone, RunnerLost
from a3s_power.generation import Event
from a3s_power.runner import failures, llamajson
from a3s_power.runner.base import ChatPrompt, Embeddings, LoadSpec, Sampling
from a3s_power.runner.cores import Cores
from a3s_power.runner.launch import MEDIA_MARKER, binary_argv, engine_environment, library_params
from a3s_power.runner.link import LinkBroken, Reply, Watch, exchange
from a3s_power.runner.process import last_words, running

_PREFIX, _LOCK = "a3s-", "lock"
_TEMP = Path("/tmp")  # noqa: S108  what is made in it is made by mkdtemp
_HOST = Path(__file__).with_name("host.py")
_UNREACHABLE = (ConnectionRefusedError, FileNotFoundError)
"""To connect fails like this when the engine is gone."""
_TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)
"""It fails like this when it is us who cannot."""
_OF_DRAFT = re.compile(r"failed to (?:load draft model|create MTP context)")
_WHY_NO_DRAFT = re.compile(r"speculative decoding context: (.+)")
POLL_S = 0.02
SETTLE_S = 10.0
"""Longer than a batch takes, behind which the engine notices that nobody reads."""
HEALTH_TIMEOUT_S = 5.0
CALL_TIMEOUT_S = 60.0
"""For calls that need no generation; a slot that is deep in a long batch can delay them."""


log = logging.getLogger(__name__)


def check_libraries() -> None:
    """Raise LoadFailed when a system library that the engine links against is missing."""
    if sys.platform != "linux":
        return
    try:
        ctypes.CDLL("libgomp.so.1")
    except OSError as exc:
        raise failures.load_failed(str(exc), returncode=1) from exc


@dataclass(frozen=True)
class LlamaCppEngine:
    """Makes runners. `llama_server` names a binary to drive instead of the engine that comes with us."""

    runtime_dir: Path
    """Short, since a Unix socket's path has at most 107 bytes; each runner gets a folder of its own in it."""
    load_timeout_s: float
    environ: Mapping[str, str]
    llama_server: str | None = None
    python: str = sys.executable
    """An interpreter that can import the engine; ours, or that of an environment with another build of it."""
    cores: Callable[[], Cores] = Cores.default
    """How runners that are started from now on use the machine's cores."""

    @asynccontextmanager
    async def start(
        self, spec: LoadSpec, on_progress: Callable[[int], None] = lambda _resident: None
    ) -> AsyncIterator["LlamaCppRunner"]:
        """See `runner.base`."""
        if self.llama_server is None:
            check_libraries()
        with self._private_folder() as folder:
            socket, log = str(Path(folder, "s.sock")), Path(folder, "log")  # the engine knows it by ".sock"

            async def ready(process: Process) -> None:
                try:
                    await self._ready(process, socket, log, on_progress)
                except LoadFailed as exc:
                    if spec.draft_path and _OF_DRAFT.search(last_words(log)):
                        raise LoadFailed(f"{exc}; the file is its draft {spec.draft_path}", exc.reason) from exc
                    raise
                if spec.draft_path and not await _is_drafting(socket):
                    raise _draft_refused(spec.draft_path, last_words(log))

            cores = self.cores()
            ours = engine_environment(cores)
            env = child_environment(self.environ, ours)
            runner: LlamaCppRunner | None = None
            try:
                async with running(self._argv(spec, socket, cores), log=log, env=env, ready=ready) as process:
                    runner = LlamaCppRunner(process, socket, log, ours[MEDIA_MARKER])
                    yield runner
            finally:
                if runner is not None:
                    runner.keep_last_words()  # for requests that learn of its end when the folder is gone

    @contextmanager
    def _private_folder(self) -> Iterator[str]:
        """For one runner; 0700, so that other users cannot reach the engine."""
        # A user's runtime folder goes when their last session ends, and a server may outlive that.
        where = self.runtime_dir if self.runtime_dir.is_dir() else _TEMP
        try:
            folder = TemporaryDirectory(prefix=_PREFIX, dir=where, ignore_cleanup_errors=True)
        except OSError as exc:
            raise LoadFailed(f"no folder for the engine's socket: {exc}", LoadFailure.OTHER) from exc
        with folder as name, Path(name, _LOCK).open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # as long as we live: see `remove_abandoned`
            yield name

    def _argv(self, spec: LoadSpec, socket: str, cores: Cores) -> list[str]:
        request: dict[str, Any] = {"socket": socket}
        if self.llama_server is None:
            request["params"] = library_params(spec, cores)
        else:
            request["binary"] = self.llama_server
            request["argv"] = binary_argv(spec, socket, cores)
        # By path, for an interpreter that does not know us. -P: its folder is no place to import from.
        return [self.python, "-P", str(_HOST), msgspec.json.encode(request).decode()]

    async def _ready(self, process: Process, socket: str, log: Path, on_progress: Callable[[int], None]) -> None:
        """Wait until the engine answers. The deadline moves as long as the process still grows."""
        resident = taken = 0
        with anyio.move_on_after(self.load_timeout_s) as scope:
            while True:
                if process.returncode is not None:
                    raise failures.load_failed(last_words(log), process.returncode)
                if await _is_healthy(socket):
                    return
                held = memory_of(process.pid)
                if held.resident > resident:
                    resident = held.resident
                    scope.deadline = anyio.current_time() + self.load_timeout_s
                    taken = max(taken, resident - held.reclaimable)
                    on_progress(taken)
                await anyio.sleep(POLL_S)
        words = failures.telling_line(last_words(log))
        raise LoadFailed(f"timed out waiting for the engine to start - {words}", LoadFailure.TIMED_OUT)


async def _is_healthy(socket: str) -> bool:
    try:
        with anyio.fail_after(HEALTH_TIMEOUT_S):
            async with exchange(socket, "/health") as reply:
                return reply.status == 200
    except (LinkBroken, TimeoutError):
        return False


class _Slot(msgspec.Struct):
    speculative: bool = True


async def _is_drafting(socket: str) -> bool:
    """False if the engine does without the draft that it was given: it tells nobody but its log."""
    try:
        with anyio.fail_after(HEALTH_TIMEOUT_S):
            async with exchange(socket, "/slots") as reply:
                slots = msgspec.json.decode(await reply.read(), type=list[_Slot]) if reply.status == 200 else []
    except (LinkBroken, TimeoutError):
        return True  # nobody knows
    return all(slot.speculative for slot in slots)


def _draft_refused(path: str, words: str) -> LoadFailed:
    why = found[1] if (found := _WHY_NO_DRAFT.search(words)) else "the engine does not use it"
    message = f"the draft {path} does not fit the model: {why}; the option draft_num_predict 0 does without it"
    return LoadFailed(message, LoadFailure.UNSUITABLE_DRAFT)


class LlamaCppRunner:
    """One live engine process. Made by LlamaCppEngine only."""

    def __init__(self, process: Process, socket: str, log: Path, media_marker: str) -> None:
        self.media_marker = media_marker
        self._process = process
        self._socket = socket
        self._log = log
        self._last_words: str | None = None
        self._verdict = ""
        self._open = 0
        """Requests that the engine has a slot for."""
        self._watch = Watch()

    @property
    def pid(self) -> int:
        """See `runner.base`."""
        return self._process.pid

    async def wait_exit(self) -> None:
        """See `runner.base`."""
        await self._process.wait()

    def keep_last_words(self) -> None:
        """Read what the engine wrote: the file goes."""
        self._last_words = last_words(self._log)

    def condemn(self, reason: str) -> None:
        """See `runner.base`."""
        self._verdict = reason

    async def progress(self) -> Hashable | None:
        """See `runner.base`."""
        slots = await self._slots()
        # One that hangs is seen even if its clients have given up by then: it does not say that it is done. But
        # where somebody just does not read, it may be waiting for that.
        is_done = slots is not None and (self._open > 0 or not any(slot.is_processing for slot in slots))
        if is_done and not self._watch.waiting:
            return None
        signs = tuple((slot.id_task, slot.n_prompt_tokens, slot.decoded) for slot in slots or ())
        return self._watch.signs, signs

    async def settled(self) -> None:
        """See `runner.base`."""
        with anyio.move_on_after(SETTLE_S):
            for pause_s in chain((0.05, 0.2, 0.5, 1.0), repeat(2.0)):  # more would keep it from noticing
                await anyio.sleep(pause_s)
                slots = await self._slots()
                if slots is None:
                    return  # it is gone
                if sum(slot.is_processing for slot in slots) <= self._open:
                    return
        log.warning("the engine still works on a request that was left", extra={"pid": self.pid})

    async def _slots(self) -> list[llamajson.EngineSlot] | None:
        """What the engine is at, nothing if it is of a kind that does not tell; None if it does not answer."""
        try:
            with anyio.fail_after(HEALTH_TIMEOUT_S):
                async with exchange(self._socket, "/slots") as reply:
                    return llamajson.engine_slots(await reply.read()) if reply.status == 200 else []
        except (LinkBroken, TimeoutError):
            return None

    @asynccontextmanager
    async def chat(self, prompt: ChatPrompt, sampling: Sampling) -> AsyncIterator[AsyncIterator[Event]]:
        """See `runner.base`."""
        body = llamajson.chat_body(prompt, sampling)
        async with self._work("/v1/chat/completions", body) as reply:
            yield self._told(llamajson.chat_events(reply.chunks(), sampling.top_logprobs))

    @asynccontextmanager
    async def complete(
        self, prompt: str | Sequence[int], sampling: Sampling, images: Sequence[bytes] = ()
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """See `runner.base`."""
        body = llamajson.completion_body(prompt, sampling, images)
        async with self._work("/completion", body) as reply:
            events = llamajson.completion_events(
                reply.chunks(), sampling.top_logprobs, tells_tokens=sampling.tells_tokens
            )
            yield self._told(events)

    async def render(self, prompt: ChatPrompt) -> str:
        """See `runner.base`."""
        return str(await self._call("/apply-template", llamajson.template_fields(prompt), "prompt"))

    async def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """See `runner.base`."""
        return list(await self._call("/tokenize", {"content": text, "add_special": special}, "tokens"))

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """See `runner.base`."""
        return str(await self._call("/detokenize", {"tokens": tokens}, "content"))

    async def embed(self, inputs: Sequence[str | Sequence[int]]) -> Embeddings:
        """See `runner.base`. Without a deadline: it takes as long as the model takes."""
        async with self._work("/v1/embeddings", llamajson.embedding_body(inputs)) as reply:
            return llamajson.embeddings(await reply.read(), len(inputs))

    @asynccontextmanager
    async def _work(self, path: str, body: bytes) -> AsyncIterator[Reply]:
        """A `_stream` that takes a slot."""
        async with self._stream(path, body, self._watch) as reply:  # whose head comes when it has one
            self._open += 1
            try:
                yield reply
            finally:
                self._open -= 1

    @asynccontextmanager
    async def _stream(self, path: str, body: bytes | None, watch: Watch | None = None) -> AsyncIterator[Reply]:
        """An answer of status 200; anything else is raised as what it means."""
        try:
            async with exchange(self._socket, path, body, watch) as reply:
                if reply.status != 200:
                    raise llamajson.refusal(reply.status, await reply.read())
                yield reply
        except LinkBroken as exc:
            kind = RunnerGone if isinstance(exc.__cause__, _UNREACHABLE) else RunnerLost
            raise await self._lost(exc, kind) from exc

    async def _call(self, path: str, body: Mapping[str, Any], key: str) -> Any:
        """One field of a small reply."""
        try:
            with anyio.fail_after(CALL_TIMEOUT_S):
                async with self._stream(path, msgspec.json.encode(body)) as reply:
                    return msgspec.json.decode(await reply.read(), type=dict[str, Any])[key]
        except TimeoutError as exc:
            raise RunnerFailed(f"the engine did not answer {path} within {CALL_TIMEOUT_S:.0f} s") from exc
        except (msgspec.DecodeError, KeyError) as exc:
            raise RunnerFailed(f"the engine's answer to {path} makes no sense: {exc}") from exc

    async def _told(self, events: AsyncIterator[Event]) -> AsyncIterator[Event]:
        """The events; a connection that breaks in the middle is told as what it means."""
        try:
            async for event in events:
                yield event
        except LinkBroken as exc:
            raise await self._lost(exc) from exc
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise RunnerFailed(f"the engine's answer makes no sense: {exc}") from exc

    async def _lost(self, broken: LinkBroken, kind: type[RunnerLost] = RunnerLost) -> RunnerFailed:
        """What a broken link means: that the runner is lost, if it is not there for others either."""
        with anyio.move_on_after(1.0):  # the connection breaks a little before the process is gone
            await self._process.wait()
        if self._process.returncode is None and not self._verdict:
            cause = broken.__cause__
            is_ours = isinstance(cause, OSError) and cause.errno in _TOO_MANY_FILES
            if is_ours or await _is_healthy(self._socket):
                return RunnerFailed(f"the connection to the engine broke: {broken}")
        words = last_words(self._log) if self._last_words is None else self._last_words
        return kind(failures.how_lost(words, self._process.returncode, self._verdict), self.pid)


def remove_abandoned(runtime_dir: Path) -> None:
    """Delete folders of runners whose server was killed while they loaded; a living one holds a lock in its own.

    Once it is loaded, a runner that loses its server removes its folder itself; while it loads it cannot.
    """
    for lock_path in runtime_dir.glob(f"{_PREFIX}*/{_LOCK}"):
        with suppress(OSError), lock_path.open("rb") as lock:  # somebody else's, in a folder that all share
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock_path.parent, ignore_errors=True)


def runtime_folder(environ: Mapping[str, str]) -> Path:
    """Where runners keep their sockets: the user's runtime folder where there is one, else the temp folder."""
    for name in ("XDG_RUNTIME_DIR", "TMPDIR"):
        folder = environ.get(name, "")
        if folder and len(folder) < 60 and os.access(folder, os.W_OK):
            return Path(folder)
    return _TEMP
