"""An engine's last words → why it did not come up, or why it is gone."""

import re
import signal

from a3s_power.errors import LoadFailed, LoadFailure

_OUT_OF_MEMORY = (
    r"out of memory|out of device memory|(cuda|hip)Malloc failed|failed to allocate|allocation failed|"
    r"not enough memory|insufficient memory|erroroutof(device|host)?memory|cannot allocate memory|bad_alloc"
)

_REASONS = [
    (re.compile(pattern, re.IGNORECASE), reason)
    for pattern, reason in (
        (r"libgomp\.so\.1", LoadFailure.MISSING_LIBRARY),
        (r"unknown model architecture", LoadFailure.UNSUPPORTED_ARCHITECTURE),
        (r"allocate .*kv cache|failed to create.context", LoadFailure.CONTEXT_TOO_LARGE),
        (_OUT_OF_MEMORY, LoadFailure.OUT_OF_MEMORY),
        (
            r"error loading model|failed to load model|corrupted or incomplete|invalid magic",
            LoadFailure.CORRUPT_FILE,
        ),
    )
]

_ADVICE = {
    LoadFailure.OUT_OF_MEMORY: "free some memory, or try a smaller model or num_ctx",
    LoadFailure.CONTEXT_TOO_LARGE: "try a smaller num_ctx",
    LoadFailure.UNSUPPORTED_ARCHITECTURE: "a newer engine may know it: pip install --upgrade xllamacpp",
    LoadFailure.CORRUPT_FILE: "pull or create the model again",
    LoadFailure.MISSING_LIBRARY: (
        "the engine needs the OpenMP runtime libgomp.so.1: install the package libgomp1 (Debian, Ubuntu) "
        "or libgomp (Fedora, RHEL, Alpine)"
    ),
}

_TELLING = re.compile(r"\berror\b|\bfailed\b|^[\d.]+ E |^\w*(Error|Exception): ", re.IGNORECASE)
_FATAL = re.compile(rf"GGML_ASSERT|GGML_ABORT|terminate called|what\(\):|(CUDA|ROCm) error|{_OUT_OF_MEMORY}")
_PREFIX = re.compile(r"^[\d.]+ [A-Z] +(?:\S+ +)?\S+: ")


def load_failed(words: str, returncode: int) -> LoadFailed:
    """The error for an engine that ended with `returncode` before it was ready."""
    reason = next((reason for pattern, reason in _REASONS if pattern.search(words)), LoadFailure.OTHER)
    if reason is LoadFailure.OTHER and returncode == -signal.SIGKILL:
        reason = LoadFailure.OUT_OF_MEMORY  # the kernel's out-of-memory killer leaves no words
    said = telling_line(words) or ending(returncode)
    message = f"the model could not be loaded ({reason}): {said}"
    if reason in _ADVICE:
        message += f"; {_ADVICE[reason]}"
    return LoadFailed(message, reason)


def how_lost(words: str, returncode: int | None, verdict: str = "") -> str:
    """What to tell of an engine that was lost while it served. `verdict` says why, if it was us who ended it."""
    reason = verdict or _first(_FATAL, words)  # plain errors in the log may be those of requests long answered
    if not reason and returncode is not None:
        reason = ending(returncode)
    message = "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error"
    return f"{message}: {reason}" if reason else message


def telling_line(words: str) -> str:
    """The first line that says what went wrong, without the engine's time stamps; "" if none does."""
    return _first(_TELLING, words)


def _first(pattern: re.Pattern[str], words: str) -> str:
    line = next((line for line in words.splitlines() if pattern.search(line)), "")
    return _PREFIX.sub("", line).strip()


def ending(returncode: int) -> str:
    """`killed by SIGKILL`, `exit status 1`."""
    if returncode < 0:
        names = {signum.value: signum.name for signum in signal.Signals}  # real-time signals have none
        return f"the engine was killed by {names.get(-returncode, f'signal {-returncode}')}"
    return f"the engine ended with exit status {returncode}"
