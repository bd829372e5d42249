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
from a3s_power.store.manifests import without_nulls

_REMOTE_PORT = 11434
_MAX_LICENSES = 1000  # a manifest of MAX_MANIFEST_BYTES holds some 20 000 layers
_MAX_INT = 2**63 - 1  # of those who read the config in Go
_TEXT_INFO = {
    "model_family": "model_family",
    "base_name": "base_name",
    "quantization_level": "file_type",
    "parameter_size": "model_type",
}
"""Field of `info` in a request → of the config."""
_NUMBER_INFO = ("context_length", "embedding_length")


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
        if len(self.licenses) > _MAX_LICENSES:
            raise InvalidRequest(f"{len(self.licenses)} licenses, a model has at most {_MAX_LICENSES}")
        merge((self.parameters,))
        without_nulls(self.parameters, "parameters")

    @property
    def said(self) -> Mapping[str, object]:
        """What `info` says of the model: field of its Config → value. Raises InvalidRequest for other types."""
        said: dict[str, object] = {}
        for key, of_config in _TEXT_INFO.items():
            if (text := self.info.get(key)) is not None:
                if not isinstance(text, str):
                    raise InvalidRequest(f'info field "{key}" must be a string')
                said[of_config] = text
        for key in _NUMBER_INFO:
            if (number := self.info.get(key)) is not None:
                said[key] = _natural(key, number)
        if family := said.get("model_family"):
            said["model_families"] = (family,)
        if more := self.info.get("capabilities"):
            said["capabilities"] = _texts("capabilities", more)
        return said

    @property
    def digests(self) -> tuple[str, ...]:
        """All blobs it names."""
        return (*(self.files or {}).values(), *self.adapters.values(), *self.drafts.values())


def _is_relative(path: str) -> bool:
    """Slash-clean, relative, and nowhere above its own folder."""
    parts = path.split("/")
    return bool(path) and not any(part in {"", ".", ".."} for part in parts) and "\\" not in path


def _texts(key: str, value: object) -> tuple[str, ...]:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise InvalidRequest(f'info field "{key}" must be an array of strings')


def _natural(key: str, number: object) -> int:
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise InvalidRequest(f'info field "{key}" must be a number')
    if not 0 <= number <= _MAX_INT or number != int(number):
        raise InvalidRequest(f'info field "{key}" must be a non-negative integer')
    return int(number)
