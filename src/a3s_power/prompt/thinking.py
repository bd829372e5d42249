"""Parting a model's thoughts from its answer by the tags around them."""

from collections.abc import Iterator
from enum import Enum, auto

from a3s_power.generation import Text, Thinking
from a3s_power.prompt.tags import overlap


class _State(Enum):
    START = auto()
    """Only blanks so far, or the beginning of the opening tag."""
    OPENED = auto()
    """Behind the opening tag, before the first thought."""
    THINKING = auto()
    CLOSED = auto()
    """Behind the closing tag, before the answer."""
    ANSWER = auto()


class ThinkingSplitter:
    """Makes Thinking and Text of a model's text, which may be cut into pieces anywhere.

    Thoughts stand at the very beginning or nowhere: a reply that begins otherwise is passed through untouched.
    Neither the tags nor the blanks behind them come out. Thoughts that are never closed remain thoughts.
    `is_inside` says that the prompt ended in the opening tag.
    """

    def __init__(self, opening: str, closing: str, *, is_inside: bool = False) -> None:
        self._opening = opening
        self._closing = closing
        self._state = _State.OPENED if is_inside else _State.START
        self._blanks: list[str] = []  # before the opening tag: they are the answer's if none follows
        self._held = ""  # what could be the beginning of the tag that is looked for

    def feed(self, text: str) -> list[Text | Thinking]:
        """What is certain after this piece."""
        return list(self._feed(text))

    def finish(self) -> list[Text | Thinking]:
        """What was held back, when the model has stopped."""
        event = Thinking if self._state in (_State.OPENED, _State.THINKING) else Text
        held = "".join(self._blanks) + self._held
        self._blanks, self._held = [], ""
        return [event(held)] if held else []

    def _feed(self, text: str) -> Iterator[Text | Thinking]:
        if self._state is _State.START:
            text = self._after_opening(text)
        if self._state is _State.OPENED and (text := text.lstrip()):
            self._state = _State.THINKING
        if self._state is _State.THINKING:
            thought, text = self._thought(text)
            if thought:
                yield Thinking(thought)
        if self._state is _State.CLOSED and (text := text.lstrip()):
            self._state = _State.ANSWER
        if self._state is _State.ANSWER and text:
            yield Text(text)

    def _after_opening(self, text: str) -> str:
        """What is left to read: nothing while all is open, else thoughts or an answer."""
        if not self._held:
            behind_blanks = text.lstrip()
            self._blanks.append(text[: len(text) - len(behind_blanks)])
            text = behind_blanks
        text = self._held + text
        if self._opening.startswith(text) and text != self._opening:
            self._held = text
            return ""
        blanks, self._blanks, self._held = self._blanks, [], ""
        if text.startswith(self._opening):
            self._state = _State.OPENED
            return text[len(self._opening) :]
        self._state = _State.ANSWER
        return "".join(blanks) + text

    def _thought(self, text: str) -> tuple[str, str]:
        """What is certainly a thought, and what follows the closing tag."""
        thought, closing, answer = (self._held + text).partition(self._closing)
        if closing:
            self._state, self._held = _State.CLOSED, ""
            return thought, answer
        certain = len(thought) - overlap(thought, self._closing)
        self._held = thought[certain:]
        return thought[:certain], ""
