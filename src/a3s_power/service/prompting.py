"""What a request puts before the model: which messages, rendered by whom, and shortened when they are too many."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar

from a3s_power.errors import ContextExceeded, InvalidRequest, InvalidTemplate, NestsTooDeeply, StoreFailed
from a3s_power.generation import JSON, ChatInput, GenerationRequest, PromptInput
from a3s_power.messages import Message
from a3s_power.prompt.definitions import checked_tools
from a3s_power.prompt.harmony import ToolNames
from a3s_power.prompt.template import GoTemplate
from a3s_power.runner.base import ChatPrompt, Runner
from a3s_power.service.cards import ModelCard

ANSWER_SHARE = 8
"""A conversation that is shortened leaves this part of the context, one in so many, for the answer."""

IMAGE_TOKENS = 768
IMAGE_PLACE = "[img]"
RENDERERS = 2
"""Threads; they compete for the interpreter anyway."""

T = TypeVar("T")

_THOUGHTS = re.compile(r"\s*<think>.*?</think>\s*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Draft:
    """What one request puts before the model, not yet rendered.

    A draft with a `text` is finished. Else its messages are rendered: by the Go template, or by the engine's chat
    template where there is none.
    """

    messages: tuple[Message, ...] = ()
    tools: Sequence[JSON] = ()
    think: bool | str | None = None
    template: GoTemplate | None = None
    text: str | None = None
    text_images: tuple[bytes, ...] = ()
    """Of a draft with a `text`, which has the engine's marker where each of them belongs."""
    before: str = ""
    """Text of an earlier reply's context, which nobody renders again."""
    is_chat: bool = False
    is_truncated: bool = False

    @property
    def is_native_chat(self) -> bool:
        """Whether the engine could render it, and read the reply."""
        return self.is_chat and self.template is None

    @property
    def can_shorten(self) -> bool:
        """Whether messages may be left out: never of a finished text, or behind a context."""
        return self.text is None and not self.before

    @property
    def images(self) -> tuple[bytes, ...]:
        """All pictures, in their order."""
        return (*self.text_images, *(image for message in self.messages for image in message.images))


# ---- drafting ----


async def draft(runner: Runner, card: ModelCard, request: GenerationRequest) -> Draft:
    """Put together what the client sent and what the model brings. Raises InvalidRequest, InvalidTemplate."""
    match request.input:
        case ChatInput() as chat:
            return _conversation(card, chat, _think(card, request))
        case PromptInput(raw=True) as given:
            return _finished(runner, given.prompt, given.images)
        case PromptInput(suffix=suffix) as given if suffix:
            return await _insert(runner, card, given, _think(card, request))
        case PromptInput() as given:
            return await _single(runner, card, given, _think(card, request))


def _think(card: ModelCard, request: GenerationRequest) -> bool | str | None:
    """A model that can think does, unless it is told not to."""
    if request.think is None and "thinking" in card.capabilities:
        return True
    if request.think == "max" and card.markup.is_harmony:
        return "high"  # the most that it knows
    return request.think


def _conversation(card: ModelCard, chat: ChatInput, think: bool | str | None) -> Draft:
    messages = (*card.model.messages, *chat.messages)
    if card.model.system and chat.messages[0].role != "system":
        messages = (Message("system", card.model.system), *messages)
    if card.drops_old_thoughts:
        messages = tuple(_without_old_thoughts(messages))
    tools = checked_tools(chat.tools)
    if card.template is not None and card.markup.is_harmony:
        names = ToolNames.of(tools)
        messages, tools = names.for_model(messages), names.tools
    return Draft(messages, tools, think, card.template, is_chat=True)


async def _single(runner: Runner, card: ModelCard, given: PromptInput, think: bool | str | None) -> Draft:
    """`/api/generate`: one user message, with the model's own before it unless it goes on from a context."""
    template, before = await _template(card, given), await _before(runner, card, given.context)
    if template is None and not card.has_chat_template:
        return _finished(runner, before + given.prompt, given.images)
    system = card.model.system if given.system is None else given.system
    messages = card.model.messages if given.context is None else ()
    if system:
        messages = (Message("system", system), *messages)
    messages = (*messages, Message("user", given.prompt, images=given.images))
    return Draft(messages, (), think, template, before=before)


async def _insert(runner: Runner, card: ModelCard, given: PromptInput, think: bool | str | None) -> Draft:
    """`/api/generate` with a suffix: what belongs between the two."""
    template, before = await _template(card, given), await _before(runner, card, given.context)
    assert template is not None, "a model without a Go template cannot insert"
    text = await _on_thread(template.render_insert, given.prompt, given.suffix, think)
    return _finished(runner, before + text, given.images)


def _finished(runner: Runner, text: str, images: tuple[bytes, ...]) -> Draft:
    return Draft(text=_with_markers(text, len(images), runner.media_marker), text_images=images)


async def _template(card: ModelCard, given: PromptInput) -> GoTemplate | None:
    """The client's own, else the model's."""
    return await _on_thread(GoTemplate.parse, given.template) if given.template else card.template


async def _before(runner: Runner, card: ModelCard, context: Sequence[int] | None) -> str:
    if not context:
        return ""
    if not all(0 <= token < card.footprint.vocabulary for token in context):
        raise InvalidRequest("context holds tokens that the model does not have")
    # What is left of a picture there is its place, which no picture comes for.
    return (await runner.detokenize(context)).replace(runner.media_marker, "")


def _without_old_thoughts(messages: Sequence[Message]) -> Iterator[Message]:
    """Thoughts that clients send back inside answers, before the last question, only fill the context."""
    last = max((n for n, message in enumerate(messages) if message.role == "user"), default=0)
    for n, message in enumerate(messages):
        if n < last and message.role == "assistant":
            content = message.content
            thoughts = _THOUGHTS.match(content)
            yield replace(message, content=content[thoughts.end() :]) if thoughts else message
        else:
            yield message


# ---- rendering ----


async def render(runner: Runner, card: ModelCard, given: Draft) -> str:
    """The text that the model sees. Raises InvalidTemplate, EngineRejected."""
    if given.text is not None:
        return given.text
    if given.template is None:
        return given.before + await runner.render(ChatPrompt(given.messages, given.tools, given.think))
    try:
        messages = tuple(_marked(message, runner.media_marker) for message in given.messages)
        rendered = await _on_thread(given.template.render_chat, messages, given.tools, given.think)
    except InvalidTemplate as exc:
        if given.template is not card.template or isinstance(exc, NestsTooDeeply):
            raise
        raise StoreFailed(f"model '{card.name.display}' has a template that fails: {exc}") from exc
    if (places := rendered.count(runner.media_marker)) != len(given.images):
        raise InvalidRequest(f"the template has {places} places for {len(given.images)} images")
    if card.adds_bos:
        rendered = rendered.removeprefix("<bos>")
    return given.before + rendered


async def count(runner: Runner, card: ModelCard, given: Draft) -> int:
    """Tokens that the draft takes; a picture counts as many as in Ollama, before anyone has looked at it."""
    tokens = await runner.tokenize(await render(runner, card, given), special=True)
    return len(tokens) + IMAGE_TOKENS * len(given.images)


def _marked(message: Message, marker: str) -> Message:
    """For Go templates, which know nothing of pictures."""
    if not message.images:
        return message
    return replace(message, content=_with_markers(message.content, len(message.images), marker))


def _with_markers(text: str, count: int, marker: str) -> str:
    """The text with a place for each picture: where it says `[img]`, else before all of it, as Ollama has it."""
    for _ in range(count):
        before, place, after = text.partition(IMAGE_PLACE)
        if not place:
            break
        text, count = before + marker + after, count - 1
    return marker * count + text


_renderers: RunVar[anyio.CapacityLimiter] = RunVar("renderers")


async def _on_thread(work: Callable[..., T], *args: object) -> T:
    """For templates: one that nobody has read may take seconds before its budget is spent.

    They have few threads, so that all others stay free, and a client that leaves does not wait for its own.
    """
    try:
        limiter = _renderers.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(RENDERERS)
        _renderers.set(limiter)
    return await anyio.to_thread.run_sync(work, *args, limiter=limiter, abandon_on_cancel=True)


# ---- shortening ----


async def shortened(runner: Runner, card: ModelCard, given: Draft, num_ctx: int, answer: int | None) -> Draft:
    """The draft without its oldest turns, as few as make room for an answer of `answer` tokens.

    System messages and tools stay, and so does the last turn: the last user message and all that follows. A turn
    goes whole, so that no tool result loses its call and no answer its question. An answer whose length nobody
    said gets a share of the context, and none more than a quarter. Raises ContextExceeded if the last turn alone
    is too long.
    """
    turns = list(_turns(given.messages))
    room = num_ctx - 1 - min(num_ctx // 4, num_ctx // ANSWER_SHARE if answer is None else answer)

    async def without(dropped: int) -> tuple[Draft, int]:
        kept = {n for turn in turns[dropped:] for n in turn}
        messages = tuple(m for n, m in enumerate(given.messages) if n in kept or m.role == "system")
        candidate = replace(given, messages=messages, is_truncated=True)
        return candidate, await count(runner, card, candidate)

    low, high = 1, len(turns) - 1  # the fewest turns to drop lie between
    best, tokens = await without(max(high, 0))
    if tokens >= num_ctx or high < 1:
        raise ContextExceeded(tokens, num_ctx)
    while low < high:
        middle = (low + high) // 2
        candidate, tokens = await without(middle)
        if tokens <= room:
            best, high = candidate, middle
        else:
            low = middle + 1
    return best


def _turns(messages: Sequence[Message]) -> Iterator[list[int]]:
    """Indices of messages that belong together: a user's, and what follows it. System messages are in none."""
    turn: list[int] = []
    for n, message in enumerate(messages):
        if message.role == "user" and turn:
            yield turn
            turn = []
        if message.role != "system":
            turn.append(n)
    yield turn
