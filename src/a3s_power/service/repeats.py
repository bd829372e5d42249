"""Noticing that a model is stuck."""

MAX_REPEATS = 30
"""As in Ollama: the same text so often in a row is a model that has lost its thread."""


class RepeatGuard:
    """Watches one reply."""

    def __init__(self) -> None:
        self._last = ""
        self._repeats = 0

    def is_stuck(self, text: str) -> bool:
        """Take note of the next piece; whether the same one, spaces aside, has now come too often in a row."""
        text = text.strip()
        self._repeats = self._repeats + 1 if text == self._last else 0
        self._last = text
        return self._repeats > MAX_REPEATS
