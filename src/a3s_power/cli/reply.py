"""How a reply reaches the terminal while it is being generated."""

from collections.abc import Sequence
from typing import TextIO

import msgspec

from a3s_power.cli.output import display_width
from a3s_power.units import format_duration
from a3s_power.wire.ollama import ChatReply, GenerateReply, ToolCallReply

_GREY, _BOLD, _PLAIN = "\x1b[38;5;245m", "\x1b[1m", "\x1b[0m"


class Wrapper:
    """Breaks lines between words of a text that comes in pieces: a word that outgrows its line moves down."""

    def __init__(self, width: int) -> None:
        self._limit = width - 5  # columns
        self._column = 0
        self._word = ""

    def feed(self, text: str) -> str:
        """What to write for the next piece; escape codes take back what was written of a word."""
        return "".join(map(self._put, text))

    def _put(self, char: str) -> str:
        width = display_width(char)
        if char in " \t" and self._column + width > self._limit:
            char = "\n"  # the break takes its place
        if self._column + width > self._limit and char not in "\r\n":
            return self._break_before(char)
        self._column += width
        if char in "\r\n":
            self._column, self._word = 0, ""
        elif char in " \t" or width > 1:  # lines may break after any wide character
            self._word = ""
        else:
            self._word += char
        return char

    def _break_before(self, char: str) -> str:
        word, taken_back = self._word, display_width(self._word)
        if taken_back > self._limit - 5:  # moving it down would not help
            word, taken_back = "", 0
        self._word = word + char
        self._column = taken_back + display_width(char)
        back = f"\x1b[{taken_back}D" if taken_back else ""
        return f"{back}\x1b[K\n{word}{char}"


class ReplyPrinter:
    """Writes one reply: thinking under its heading, text, tool calls.

    `width` is the terminal's, 0 for no wrapping. Where `out` is no terminal the text is left as it is, on purpose:
    Ollama wraps there too, and so puts escape codes into files and pipes.
    """

    def __init__(self, out: TextIO, *, width: int = 0, hide_thinking: bool = False) -> None:
        self._out = out
        self._is_terminal = out.isatty()
        self._width = width
        self._hide_thinking = hide_thinking
        self._wrapper = self._new_wrapper()
        self._thinking = ""  # the latest piece while the thinking is open

    def thinking(self, text: str) -> None:
        if not text or self._hide_thinking:
            return
        if not self._thinking:
            self._write(self._heading("Thinking...") + "\n" + (_GREY if self._is_terminal else ""))
        self._thinking = text
        self._write_wrapped(text)

    def text(self, text: str) -> None:
        if text:
            self._end_thinking()
            self._write_wrapped(text)

    def tool_calls(self, calls: Sequence[ToolCallReply]) -> None:
        """We offer the model no tools, so whatever it calls is none."""
        if calls:
            self._end_thinking()
            self._write("\n".join(map(_describe, calls)))

    def _end_thinking(self) -> None:
        if self._thinking:
            newline = "" if self._thinking.endswith("\n") else "\n"
            self._write(newline + self._heading("...done thinking.") + "\n\n")
            self._thinking = ""
            self._wrapper = self._new_wrapper()

    def _heading(self, text: str) -> str:
        return f"{_GREY}{_BOLD}{text}{_PLAIN}" if self._is_terminal else text

    def _new_wrapper(self) -> Wrapper | None:
        return Wrapper(self._width) if self._is_terminal and self._width >= 10 else None

    def _write_wrapped(self, text: str) -> None:
        self._write(self._wrapper.feed(text) if self._wrapper else text)

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def _describe(call: ToolCallReply) -> str:
    arguments = msgspec.json.encode(call.function.arguments).decode()
    return f"  Model called a non-existent function '{call.function.name}()' with arguments: {arguments}"


def timings(reply: GenerateReply | ChatReply) -> str:
    """The block of `--verbose`; lines whose value is zero are left out."""
    lines = [
        ("total duration:", _duration(reply.total_duration)),
        ("load duration:", _duration(reply.load_duration)),
        ("prompt eval count:", _count(reply.prompt_eval_count)),
        ("prompt eval duration:", _duration(reply.prompt_eval_duration)),
        ("prompt eval rate:", _rate(reply.prompt_eval_count, reply.prompt_eval_duration)),
        ("eval count:", _count(reply.eval_count)),
        ("eval duration:", _duration(reply.eval_duration)),
        ("eval rate:", _rate(reply.eval_count, reply.eval_duration)),
    ]
    return "".join(f"{label:<21} {value}\n" for label, value in lines if value)


def _duration(took_ns: int) -> str:
    return format_duration(took_ns / 1e9) if took_ns > 0 else ""


def _count(tokens: int) -> str:
    return f"{tokens} token(s)" if tokens > 0 else ""


def _rate(tokens: int, took_ns: int) -> str:
    return f"{tokens / (took_ns / 1e9):.2f} tokens/s" if took_ns > 0 else ""
