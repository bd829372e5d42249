"""Reading a model's raw text: which parts of it are thoughts, which are calls, which the answer.

A *markup* is what one model's templates say about that, a *reader* follows one reply. The engine reads the replies
to conversations that it renders itself; these are for all other prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

from a3s_power.generation import JSON, CallPart, Text, Thinking, ToolCalls
from a3s_power.grammar.gbnf import ThinkingFrame
from a3s_power.messages import Message
from a3s_power.prompt import harmony
from a3s_power.prompt.definitions import name_of
from a3s_power.prompt.tags import NO_TOOL_TAG, preserved, thinking_tags, tool_tag
from a3s_power.prompt.template import GoTemplate
from a3s_power.prompt.thinking import ThinkingSplitter
from a3s_power.prompt.toolcalls import ToolCallParser

Piece = Text | Thinking | CallPart | ToolCalls

CHAT_TEMPLATE_TAGS = (
    ("<think>", "</think>"),  # DeepSeek R1, Qwen 3 and most others
    ("[THINK]", "[/THINK]"),  # Magistral
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A
    ("<|channel>thought", "<channel|>"),  # Gemma 4
)
"""What models write around their thoughts, as far as their Jinja templates give it away."""

HARMONY_FRAME = ThinkingFrame(
    opening="<|channel|>analysis<|message|>",
    closing="<|end|><|start|>assistant<|channel|>final<|message|>",
    answer="<|channel|>final<|message|>",
)


class Reader(Protocol):
    """Follows one reply. Any way to cut a text into pieces reads the same; no piece is empty.

    A call is told in parts as it comes where its beginning leaves no doubt that it is one, and else just whole.
    """

    def feed(self, text: str) -> list[Piece]:
        """What the text so far has settled."""

    def finish(self) -> list[Piece]:
        """What was held back; nothing more will come."""

    @property
    def lost(self) -> bool:
        """Whether a call was begun that could not be read: it is in no ToolCalls, and its parts lead nowhere."""


@dataclass(frozen=True, slots=True)
class Markup:
    """How a model marks what is not its answer."""

    thinking: tuple[str, str] | None = None
    """The tags around thoughts, `("<think>", "</think>")`."""
    tool_tag: str = NO_TOOL_TAG
    """What a call begins with."""
    is_harmony: bool = False

    @classmethod
    def of_template(cls, template: GoTemplate, *, is_harmony: bool) -> Self:
        """As a Go template writes earlier turns, so will the model."""
        return cls(thinking_tags(template.tree), tool_tag(template.tree), is_harmony)

    @classmethod
    def of_chat_template(cls, jinja: str) -> Self:
        """By the marks that are found in a Jinja template."""
        is_harmony = all(marker in jinja for marker in ("<|channel|>", "<|message|>"))
        tags = (
            pair for pair in CHAT_TEMPLATE_TAGS if pair[1] in jinja
        )  # some only cut old thoughts, at their end
        return cls(next(tags, None), is_harmony=is_harmony)

    @property
    def preserved_tokens(self) -> tuple[str, ...]:
        """Marks that the engine must write out, though in some models they are special tokens."""
        if self.is_harmony:
            return harmony.PRESERVED_TOKENS
        tag = preserved(self.tool_tag)
        return (*(self.thinking or ()), *((tag,) if tag else ()))

    def frame(self, prompt: str, *, thinks: bool | str | None) -> ThinkingFrame | None:
        """Where in the reply to a prompt thoughts may stand, for a grammar that binds the answer alone.

        Where the model is not to think they may not, unless the prompt itself has begun them.
        """
        if self.is_harmony:
            return HARMONY_FRAME
        if self.thinking is None or (thinks is False and not self._opens(prompt)):
            return None
        return ThinkingFrame(*self.thinking, is_inside=self._opens(prompt))

    def reader(self, prompt: str, messages: Sequence[Message], tools: Sequence[JSON]) -> Reader:
        """For the reply to a prompt, in which these messages and tools were rendered."""
        if self.is_harmony:
            return harmony.HarmonyParser(harmony.ToolNames.of(tools), messages[-1] if messages else None)
        splitter = ThinkingSplitter(*self.thinking, is_inside=self._opens(prompt)) if self.thinking else None
        return _TagReader(splitter, self._parser(tools) if tools else None)

    def _parser(self, tools: Sequence[JSON]) -> ToolCallParser:
        names = [name for tool in tools if (name := name_of(tool))]
        return ToolCallParser(preserved(self.tool_tag) or self.tool_tag, names)

    def _opens(self, prompt: str) -> bool:
        return self.thinking is not None and prompt.rstrip().endswith(self.thinking[0].strip())


class _TagReader:
    """Thoughts first; what remains may hold calls."""

    def __init__(self, splitter: ThinkingSplitter | None, parser: ToolCallParser | None) -> None:
        self._splitter = splitter
        self._parser = parser

    def feed(self, text: str) -> list[Piece]:
        return self._parsed(self._splitter.feed(text) if self._splitter else [Text(text)] if text else [])

    def finish(self) -> list[Piece]:
        pieces = self._parsed(self._splitter.finish() if self._splitter else [])
        return pieces + (self._parser.finish() if self._parser else [])

    @property
    def lost(self) -> bool:
        return self._parser is not None and self._parser.lost

    def _parsed(self, pieces: Sequence[Text | Thinking]) -> list[Piece]:
        parsed: list[Piece] = []
        for piece in pieces:
            if self._parser and isinstance(piece, Text):
                parsed += self._parser.feed(piece.text)
            else:
                parsed.append(piece)
        return parsed


class BlankTrimmer:
    """Takes away the blanks before a reply's thoughts, and between them and the answer.

    For replies that the engine has read, since it leaves them. An answer without thoughts stays as it is.
    """

    def __init__(self) -> None:
        self._last: type[Text] | type[Thinking] | None = None
        """What the last piece was that was not blank."""

    def trim(self, piece: Text | Thinking) -> Text | Thinking:
        """The piece without them; nothing may be left of its text."""
        if self._last is type(piece):  # the usual case
            return piece
        if Thinking in (self._last, type(piece)):
            piece = replace(piece, text=piece.text.lstrip())
        if piece.text:
            self._last = type(piece)
        return piece
