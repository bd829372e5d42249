"""Generating text: from a request to a leased runner and its events."""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

import anyio.to_thread

from a3s_power.errors import ModelNotFound
from a3s_power.generation import ChatInput, Event, GenerationRequest
from a3s_power.grammar.calls import call_grammar
from a3s_power.grammar.schema import AnswerGrammar
from a3s_power.prompt.forced import forced_tools, offered
from a3s_power.requester import Requester
from a3s_power.runner.base import Runner
from a3s_power.scheduler.slots import Asked
from a3s_power.service.cards import Cards
from a3s_power.service.checks import check
from a3s_power.service.loading import Loader
from a3s_power.service.pictures import with_pictures
from a3s_power.service.suspects import Attempt, Suspects, tried_twice
from a3s_power.service.turn import Begun, Turn

CHARS_PER_TOKEN = 4
ANSWER_TOKENS = 256
"""How long an answer is expected to be that nobody bounds; put right when it is known."""


@dataclass(frozen=True, slots=True)
class Generation:
    """A generation that has begun. Everything in it ends with the block it was made for."""

    events: AsyncIterator[Event]
    load_ns: int
    """From the request's arrival until a runner was there for it."""
    is_truncated: bool
    """Whether the oldest messages were left out, for the rest to fit."""
    _runner: Runner
    _begun: Begun

    async def context(self) -> tuple[int, ...]:
        """The tokens of the prompt, if it was ours to render, and of the reply so far: to go on from.

        Without pictures, and without what marks their places, which nobody may know.
        """
        prompt = self._begun.prompt.replace(self._runner.media_marker, "")
        return tuple(await self._runner.tokenize(prompt + "".join(self._begun.follower.said)))


@dataclass(frozen=True, slots=True)
class Preview:
    """What would be put before the model."""

    prompt: str
    image_count: int


class ChatService:
    """Chat and completion, on any API."""

    def __init__(self, cards: Cards, loader: Loader, suspects: Suspects) -> None:
        self._cards = cards
        self._loader = loader
        self._suspects = suspects

    @asynccontextmanager
    async def open(self, request: GenerationRequest) -> AsyncIterator[Generation]:
        """Generate up to the first event. Leaving the block stops the engine and gives the runner back.

        Raises, before anything is told, what is wrong with the request (InvalidRequest and below, ModelNotFound),
        with the server (ServerBusy, LoadFailed), or what the engine says against it. A runner that is lost before
        the first event is replaced once.
        """
        async with AsyncExitStack() as stack:
            yield await tried_twice(lambda: self._begun(request, stack), request.model)

    async def preview(self, request: GenerationRequest) -> Preview:
        """What `open` would put before the model. Raises as it does."""
        async with self._held(request, generates=False) as turn:
            return Preview(*await turn.preview())

    async def count(self, request: GenerationRequest) -> int:
        """Tokens that `open` would put before the model, however many fit. Raises as it does."""
        async with self._held(request, generates=False) as turn:
            return await turn.count()

    async def capabilities(self, request: GenerationRequest) -> tuple[str, ...]:
        """What the model can do, by Ollama's names for it. Raises ModelNotFound, StoreFailed."""
        return (await self._cards.get(request.name, request.model)).capabilities

    async def load(self, request: GenerationRequest) -> None:
        """Have the model loaded, and its keep-alive set, without generating. Raises as `open` does."""
        async with self._held(request, generates=False):
            pass

    async def unload(self, request: GenerationRequest) -> None:
        """Let the model's runners go, when their running requests have ended. Raises ModelNotFound.

        A model that was deleted while it was loaded can still be told to go.
        """
        try:
            card = await self._cards.get(request.name, request.model)
        except ModelNotFound:
            if (loaded := self._loader.card_of_loaded(request.name)) is None:
                raise
            card = loaded
        self._loader.unload(card)

    async def _begun(self, request: GenerationRequest, stack: AsyncExitStack) -> Generation:
        """Up to the first event; what is begun is left with the stack, or here if it fails."""
        started = time.monotonic_ns()
        async with AsyncExitStack() as inner:
            turn = await inner.enter_async_context(self._held(request, generates=True))
            load_ns = time.monotonic_ns() - started
            begun = await turn.begin(inner)
            inner.callback(turn.settle_cost, begun)
            events = begun.follower.follow(begun.events)
            first = await anext(events)
            turn.attempt.tells()
            stack.push_async_exit(inner.pop_all())
        return Generation(_from(first, events, turn.attempt), load_ns, begun.is_truncated, turn.runner, begun)

    @asynccontextmanager
    async def _held(self, request: GenerationRequest, *, generates: bool) -> AsyncIterator[Turn]:
        card = await self._cards.get(request.name, request.model)
        request = offered(request)
        check(card, request)
        request = await with_pictures(request)
        plan, options = self._loader.plan(card, request.options)
        # Before a model is loaded for what cannot be kept.
        grammar = await _grammar(request) if generates else None
        asked = Asked(request.requester, _expected_tokens(request, options.num_predict, plan.spec.num_ctx))
        matters = replace(request, requester=Requester(), keep_alive_s=None)
        async with (
            self._suspects.watching(card.model.model_path, (generates, matters)) as attempt,
            self._loader.lease(card, plan, request.keep_alive_s, asked) as lease,
        ):
            attempt.reaches(lease.runner.pid)
            yield Turn(request, card, plan, lease, options, grammar, attempt)


def _expected_tokens(request: GenerationRequest, num_predict: int, num_ctx: int) -> int:
    """What it is likely to take, before its prompt is rendered; of a limit beyond all bounds no more than fits."""
    match request.input:
        case ChatInput(messages):
            chars = sum(len(message.content) for message in messages)
        case prompt:
            chars = len(prompt.prompt)
    return chars // CHARS_PER_TOKEN + (min(num_predict, num_ctx) if num_predict >= 0 else ANSWER_TOKENS)


async def _from(first: Event, events: AsyncIterator[Event], attempt: Attempt) -> AsyncIterator[Event]:
    yield first
    async for event in events:
        attempt.tells()
        yield event


async def _grammar(request: GenerationRequest) -> AnswerGrammar | None:
    """What binds the reply. A call that must be made stands in the place of an answer, whatever its format."""
    if tools := forced_tools(request):
        return await anyio.to_thread.run_sync(call_grammar, tools)
    if request.output_format is not None:
        return await anyio.to_thread.run_sync(AnswerGrammar.of, request.output_format)
    return None
