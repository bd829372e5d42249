"""Model names in requests, and what each endpoint says when one is missing, malformed, unknown or not for us."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from a3s_power.errors import CloudDisabled, InvalidName, InvalidRequest, ModelNotFound, NotFound
from a3s_power.names import ModelName

Place = Literal["", "local", "cloud"]
"""Where a name says that its model is; mostly it says nothing."""
_CLOUD = "-cloud"


@dataclass(frozen=True, slots=True)
class Words:
    """One endpoint's texts; `{}` is the client's spelling, `{q}` the same in quotes."""

    empty: str = "model is required"
    invalid: str = "invalid model name"
    unknown: str = "model '{}' not found"
    cloud: str = "remote model is unavailable"
    has_place: bool = True
    """Whether `:local` and `:cloud` behind a name are its model's place; where not, they are tags like others."""


WORDS: Mapping[str, Words] = {
    "generate": Words(empty=""),
    "chat": Words(),
    "embed": Words(empty="", unknown="model {q} not found, try pulling it first"),
    "embeddings": Words(unknown="model {q} not found, try pulling it first"),
    "show": Words(cloud="remote model details are unavailable"),
    "pull": Words(empty="invalid model name"),
    "push": Words(invalid="unqualified name: {}", has_place=False),
    "delete": Words(invalid="name {q} is invalid", cloud=""),
    "source": Words(
        empty='source "" is invalid',
        invalid="source {q} is invalid",
        unknown="model {q} not found",
        has_place=False,
    ),
    "destination": Words(empty='destination "" is invalid', invalid="destination {q} is invalid", has_place=False),
    "create": Words(empty="invalid model name", has_place=False),
    "from": Words(empty="invalid model name"),
}
"""As Ollama's handlers word it (`server/routes.go`).

An empty text for `empty` means that it counts as unknown; one for `cloud`, that the name is taken as it stands: an
Ollama user's store may hold entries of cloud models, and they can be deleted.
"""


class UnknownModel(NotFound):
    """ModelNotFound in an endpoint's own words."""


@contextmanager
def said_by(endpoint: str, name: str) -> Iterator[None]:
    """Have a ModelNotFound from inside told the endpoint's way, of a model called `name`."""
    try:
        yield
    except ModelNotFound as exc:
        raise UnknownModel(_said(WORDS[endpoint].unknown, name)) from exc


def checked_name(text: str, endpoint: str) -> ModelName:
    """The model in our store that a client's name means: `foo:local` is `foo`.

    Raises InvalidRequest, UnknownModel or CloudDisabled in the endpoint's words.
    """
    words = WORDS[endpoint]
    if not text.strip():
        raise InvalidRequest(words.empty) if words.empty else UnknownModel(f"model '{text}' not found")
    base, place = _placed(text) if words.has_place else (text, "")
    if place and _placed(base)[1]:
        raise InvalidRequest(f'use either :local or :cloud, not both: "{text.strip()}"')
    if place == "cloud" and not words.cloud:
        base, place = _entry(base), ""
    try:
        if not words.has_place and base != base.strip():
            raise InvalidName(base)
        name = ModelName.parse(base)
    except InvalidName:
        raise InvalidRequest(_said(words.invalid, text)) from None
    if place == "cloud":
        raise CloudDisabled(words.cloud)
    return name


def _said(words: str, spelling: str) -> str:
    return words.format(spelling, q=json.dumps(spelling, ensure_ascii=False))


def _entry(base: str) -> str:
    """What Ollama calls its own entry of a cloud model: `foo:7b-cloud`, `foo:cloud`."""
    return f"{base}-cloud" if ":" in base.rpartition("/")[2] else f"{base}:cloud"


def _placed(text: str) -> tuple[str, Place]:
    """`foo:7b:Local` → `foo:7b`, local; `foo:7b-cloud` → `foo:7b`, cloud; `my-cloud-model` says no place."""
    base, colon, tag = text.strip().rpartition(":")
    tag = tag.strip()
    match tag.lower():
        case "local" | "cloud" as place if colon:
            return base, place
        case lower if colon and "/" not in tag and lower.endswith(_CLOUD):
            return f"{base}:{tag[: -len(_CLOUD)]}", "cloud"
    return text, ""
