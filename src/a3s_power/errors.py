"""Every way our own code says no.

One class for each thing a caller might do something different about. A message is for the person at the
terminal; data that an outer layer needs to word it differently are attributes. Nothing here knows HTTP.
"""

from enum import StrEnum


class AppError(Exception):
    """Base of all errors this program raises on purpose."""


class InvalidRequest(AppError):
    """What was asked for makes no sense as asked; asking again will not help."""


class InvalidName(InvalidRequest):
    """Not a model name: `[host/][namespace/]model[:tag]`."""


class InvalidDigest(InvalidRequest):
    """Not a digest: `sha256:<64 hex digits>`."""

    def __init__(self, text: str = "") -> None:
        super().__init__("invalid digest format")
        self.text = text


class DigestMismatch(InvalidRequest):
    """Bytes arrived that do not hash to the digest they were announced under."""

    def __init__(self, expected: str, actual: str) -> None:
        super().__init__(f'digest mismatch, expected "{expected}", got "{actual}"')
        self.expected = expected
        self.actual = actual


class InvalidToolChoice(InvalidRequest):
    """A call is demanded of tools that are not there."""


class InvalidOption(InvalidRequest):
    """An option's value has the wrong type."""

    def __init__(self, name: str, expected: str) -> None:
        super().__init__(f'option "{name}" must be of {expected}')
        self.name = name


class InvalidModelfile(InvalidRequest):
    """A Modelfile that cannot be parsed."""


class InvalidGGUF(InvalidRequest):
    """A file that is not a well-formed GGUF."""


class InvalidImage(InvalidRequest):
    """A picture that cannot be read, of a format that is not supported, or too large."""


class InvalidTemplate(InvalidRequest):
    """A Go template that does not parse, or that fails on the values of one request."""


class NestsTooDeeply(InvalidTemplate):
    """A template meets a value with too much inside of each other, such as a tool call's arguments."""


class UnsupportedCapability(InvalidRequest):
    """The model cannot do what the request needs, such as `tools` or `thinking`."""

    def __init__(self, message: str, capability: str) -> None:
        super().__init__(message)
        self.capability = capability


class ContextExceeded(InvalidRequest):
    """The prompt alone does not fit the context window. Both counts are tokens."""

    def __init__(self, prompt_tokens: int, num_ctx: int) -> None:
        super().__init__(
            "the prompt is longer than the context length currently available to the model; shorten the prompt, "
            "adjust the context length in settings, or use a model with a longer context length "
            f"({prompt_tokens} tokens, {num_ctx} available)"
        )
        self.prompt_tokens = prompt_tokens
        self.num_ctx = num_ctx


class CloudDisabled(AppError):
    """What was asked for is Ollama's cloud's to do. `unavailable` says what: `web search is unavailable`."""

    def __init__(self, unavailable: str) -> None:
        super().__init__(f"ollama cloud is disabled: {unavailable}")


class NotFound(AppError):
    """Something named does not exist here."""


class ModelNotFound(NotFound):
    """No such model in the store. `name` is the client's own spelling."""

    def __init__(self, name: str) -> None:
        super().__init__(f"model '{name}' not found")
        self.name = name


class BlobNotFound(NotFound):
    """No such blob in the store."""

    def __init__(self, digest: str) -> None:
        super().__init__(f'blob "{digest}" not found')
        self.digest = digest


class BlobInUse(AppError):
    """A blob cannot go: something needs it. `user` says what: `model 'llama3.2:latest'`."""

    def __init__(self, digest: str, user: str) -> None:
        super().__init__(f'blob "{digest}" is in use by {user}')
        self.digest = digest


class StoreFailed(AppError):
    """The store could not be read or written: disk full, no permission, a corrupt manifest."""


class QuantizationFailed(AppError):
    """A process that quantises could not be started, or ended before its work was done."""


class ServerBusy(AppError):
    """The bound on waiting requests is reached; `retry_after_s` is a hint."""

    def __init__(self, retry_after_s: int = 1) -> None:
        super().__init__("server busy, please try again.  maximum pending requests exceeded")
        self.retry_after_s = retry_after_s


class LoadFailure(StrEnum):
    """Why an engine did not come up, as far as its last words say."""

    OUT_OF_MEMORY = "out of memory"
    UNSUPPORTED_ARCHITECTURE = "unsupported architecture"
    CORRUPT_FILE = "corrupt file"
    CONTEXT_TOO_LARGE = "context too large"
    MISSING_LIBRARY = "missing library"
    TIMED_OUT = "timed out"
    UNSUITABLE_DRAFT = "unsuitable draft"
    OTHER = "other"


class LoadFailed(AppError):
    """A runner could not be started."""

    def __init__(self, message: str, reason: LoadFailure) -> None:
        super().__init__(message)
        self.reason = reason


class RunnerFailed(AppError):
    """A runner died, or broke off, while it served a request."""


class RunnerLost(RunnerFailed):
    """The runner itself is gone, or was ended because it stood still: nobody else is served by it either."""

    def __init__(self, message: str, pid: int) -> None:
        super().__init__(message)
        self.pid = pid


class RunnerGone(RunnerLost):
    """It was gone before the request reached it, which had no part in that."""


class Suspected(InvalidRequest):
    """A request that has ended runners before, and is not tried again for a while."""


class EngineRejected(AppError):
    """The engine refused a request, in its own words and with its own HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
