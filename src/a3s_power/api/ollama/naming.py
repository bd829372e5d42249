"""Model names in requests, and what each endpoint says when one is missing, malformed or unknown."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from a3s_power.errors import InvalidName, InvalidRequest, ModelNotFound, NotFound
from a3s_power.names import ModelName


@dataclass(frozen=True, slots=True)
class Words:
    """One endpoint's texts; `{}` is the client's spelling."""

    empty: str = "model is required"
    invalid: str = "invalid model name"
    unknown: str = "model '{}' not found"


WORDS: Mapping[str, Words] = {
    "generate": Words(empty=""),
    "chat": Words(),
    "show": Words(),
    "delete": Words(invalid='name "{}" is invalid'),
    "source": Words(
        empty='source "" is invalid', invalid='source "{}" is invalid', unknown='model "{}" not found'
    ),
    "destination": Words(empty='destination "" is invalid', invalid='destination "{}" is invalid'),
    "create": Words(empty="invalid model name"),
}
"""As Ollama's handlers word it (`server/routes.go`); an empty text for `empty` means that it counts as unknown."""


class UnknownModel(NotFound):
    """ModelNotFound in an endpoint's own words."""


@contextmanager
def said_by(endpoint: str, name: str) -> Iterator[None]:
    """Have a ModelNotFound from inside told the endpoint's way, of a model called `name`."""
    try:
        yield
    except ModelNotFound as exc:
        raise UnknownModel(WORDS[endpoint].unknown.format(name)) from exc


def checked_name(text: str, endpoint: str) -> ModelName:
    """Parse the name a client sent. Raises InvalidRequest or ModelNotFound in the endpoint's words."""
    words = WORDS[endpoint]
    if not text.strip():
        raise InvalidRequest(words.empty) if words.empty else ModelNotFound(text)
    try:
        return ModelName.parse(text)
    except InvalidName:
        raise InvalidRequest(words.invalid.format(text)) from None
