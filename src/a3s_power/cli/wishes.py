"""What the user of `run` wants besides an answer."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from a3s_power.errors import InvalidRequest
from a3s_power.wire.ollama import GenerateRequest

Think = bool | str | None
"""None leaves it to the model; a text is a level."""

_THINK: dict[str, Think] = {
    "true": True,
    "false": False,
    "high": "high",
    "medium": "medium",
    "low": "low",
    "max": "max",
}


@dataclass(frozen=True, slots=True)
class Wishes:
    """The flags of `run`, and what `/set` makes of them."""

    model: str
    system: str = ""
    template: str = ""
    format: Any = None
    """`"json"` or a JSON schema."""
    keep_alive: str | None = None
    """A Go duration, `"5m"`."""
    think: Think = None
    options: Mapping[str, Any] = field(default_factory=dict)
    word_wrap: bool = True
    hide_thinking: bool = False
    verbose: bool = False
    insecure: bool = False
    """For a model that has to be fetched first."""

    @property
    def load_request(self) -> GenerateRequest:
        """Loads the model, or says why it cannot do what is wanted."""
        return GenerateRequest(
            model=self.model, options=dict(self.options) or None, keep_alive=self.keep_alive, think=self.think
        )


def parse_think(text: str | None) -> Think:
    """The value of `--think`. Raises InvalidRequest."""
    if text is None:
        return None
    if text not in _THINK:
        raise InvalidRequest(
            f'invalid value for --think: "{text}" (must be true, false, high, medium, low, or max)'
        )
    return _THINK[text]


def parse_format(text: str | None) -> Any:
    """`json` or the text of a JSON schema. Raises InvalidRequest."""
    if not text or text == "json":
        return text or None
    try:
        return json.loads(text)
    except ValueError as exc:
        raise InvalidRequest(f"--format is neither json nor a JSON schema: {exc}") from exc


def inferred_think(capabilities: Collection[str]) -> Think:
    """What a user who said nothing gets."""
    return True if "thinking" in capabilities else None
