"""What a model is to be made of, as far as it can be checked without a look at any file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from a3s_power.build.quantize import target_type
from a3s_power.errors import InvalidDigest, InvalidRequest
from a3s_power.messages import Message
from a3s_power.names import ModelName
from a3s_power.options import merge
from a3s_power.store.blobs import check_digest

_REMOTE_PORT = 11434


@dataclass(frozen=True, slots=True)
class Remote:
    """A model that another server runs: ours is a name for it. Raises InvalidRequest for no such host."""

    host: str
    """As its user wrote it; `url` is what it means."""
    model: str

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            valid = bool(parts.hostname) and parts.port is not None
        except ValueError:
            valid = False
        if not valid:
            raise InvalidRequest("bad remote")

    @property
    def url(self) -> str:
        """Scheme, host and port, by Ollama's rules (`server/create.go`): a path alone is the server next door."""
        if self.host.startswith("/"):
            return f"http://localhost:{_REMOTE_PORT}{self.host.rstrip('/')}"
        if self.host == "ollama.com":
            return "https://ollama.com:443"
        scheme, _, rest = self.host.rpartition("://")
        authority, slash, path = rest.partition("/")
        port = "" if urlsplit(f"//{authority}").port else f":{_REMOTE_PORT}"
        return f"{scheme or 'http'}://{authority}{port}{slash}{path}".rstrip("/")


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a model is made of. Empty texts keep those of the base; `files` None means that none were named.

    Raises InvalidRequest for what is wrong before any file is looked at.
    """

    name: ModelName
    base: ModelName | None = None
    files: Mapping[str, str] | None = None
    """Path in the client's folder → digest of the uploaded blob."""
    adapters: Mapping[str, str] = field(default_factory=dict)
    drafts: Mapping[str, str] = field(default_factory=dict)
    """Files of the model that drafts for this one, as `files`."""
    quantize: str = ""
    """The type to quantise the model to, in any case; "" leaves it as it is."""
    draft_quantize: str = ""
    remote: Remote | None = None
    template: str = ""
    system: str = ""
    licenses: tuple[str, ...] = ()
    parameters: Mapping[str, object] = field(default_factory=dict)
    messages: tuple[Message, ...] = ()
    renderer: str = ""
    parser: str = ""
    requires: str = ""
    info: Mapping[str, object] = field(default_factory=dict)
    origin: str = ""
    """Where the model's file is from, if its layer is to tell."""

    def __post_init__(self) -> None:
        if not all(map(_is_relative, (*(self.files or {}), *self.drafts))):
            raise InvalidRequest("file path must be relative")
        for digest in self.digests:
            if not digest:
                raise InvalidDigest
            check_digest(digest)
        if self.draft_quantize and not self.drafts:
            raise InvalidRequest("--draft-quantize requires a DRAFT model")
        if self.remote and self.drafts:
            raise InvalidRequest("DRAFT cannot be used with remote models")
        for text in filter(None, (self.quantize, self.draft_quantize)):
            target_type(text)
        merge((self.parameters,))

    @property
    def digests(self) -> tuple[str, ...]:
        """All blobs it names."""
        return (*(self.files or {}).values(), *self.adapters.values(), *self.drafts.values())


def _is_relative(path: str) -> bool:
    """Slash-clean, relative, and nowhere above its own folder."""
    parts = path.split("/")
    return bool(path) and not any(part in {"", ".", ".."} for part in parts) and "\\" not in path
