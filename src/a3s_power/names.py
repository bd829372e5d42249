"""Model names: `[host/][namespace/]model[:tag]`, as registries and the store on disk spell them."""

import re
from dataclasses import dataclass
from typing import Self

from a3s_power.errors import InvalidName

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"

_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}", re.ASCII)
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}", re.ASCII)
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class ModelName:
    """A complete and valid name; there is no half-parsed one. Each part keeps its case."""

    host: str
    namespace: str
    model: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `llama3.2`, `user/model:tag`, `http://localhost:5000/ns/model`. A scheme is dropped.

        Raises InvalidName for anything else, `@sha256:…` forms and empty parts included.
        """
        path, colon, tag = text.strip().rpartition(":")
        if not colon or "/" in tag:  # a colon left of a slash is the host's port, or the scheme's
            path, tag = text.strip(), DEFAULT_TAG
        host, namespace = DEFAULT_HOST, DEFAULT_NAMESPACE
        _scheme, separator, rest = path.partition("://")
        match rest.split("/") if separator and rest.count("/") == 2 else path.split("/"):
            case [model]:
                pass
            case [namespace, model]:
                pass
            case [host, namespace, model]:
                pass
            case _:
                raise InvalidName(f"{text!r}: expected [host/][namespace/]model[:tag]")
        for part, pattern in ((host, _HOST), (namespace, _NAMESPACE), (model, _PART), (tag, _PART)):
            if not pattern.fullmatch(part):
                raise InvalidName(f"{text!r}: {part!r} is not a valid part of a name")
        return cls(host, namespace, model, tag)

    def __str__(self) -> str:
        """The full name, `registry.ollama.ai/library/llama3.2:latest`."""
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    @property
    def display(self) -> str:
        """The name people see: default host and namespace left out, the tag always there."""
        name = f"{self.model}:{self.tag}"
        if self.host.casefold() != DEFAULT_HOST:
            return f"{self.host}/{self.namespace}/{name}"
        if self.namespace.casefold() != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{name}"
        return name

    @property
    def parts(self) -> tuple[str, str, str, str]:
        """Host, namespace, model, tag: the path of its manifest."""
        return (self.host, self.namespace, self.model, self.tag)

    def same_as(self, other: "ModelName") -> bool:
        """Names that differ only in case name the same model."""
        return str(self).casefold() == str(other).casefold()
