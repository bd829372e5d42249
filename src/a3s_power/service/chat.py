"""Generating text: from a request to a leased runner and its events."""

import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

import anyio.to_thread

from a3s_power.errors import ContextExceeded
from a3s_power.generation import JSON, ChatInput, Event, GenerationRequest
from a3s_power.grammar.gbnf import ThinkingFrame
from a3s_power.grammar.schema import answer_grammar
from a3s_power.options import SamplingOptions
from a3s_power.runner.base import ChatPrompt, Runner, Sampling
from a3s_power.scheduler.slots import Lease, LoadPlan
from a3s_power.service import prompting
from a3s_power.service.cards import Cards, ModelCard
from a3s_power.service.checks import check
from a3s_power.service.following import Follower
from a3s_power.service.loading import Loader
from a3s_power.service.prompting import Draft

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Generation:
    """A generation that has begun. Everything in it ends with the block it was made for."""

    events: AsyncIterator[Event]
    load_ns: int
    """From the request's arrival until a runner was there for it."""
    is_truncated: bool
    """Whether the oldest messages were left out, for the rest to fit."""
    _runner: Runner
    _prompt: str
    _follower: Follower

    async def context(self) -> tuple[int, ...]:
        """The tokens of the prompt, if it was ours to render, and of the reply so far: to go on from."""
        return tuple(await self._runner.tokenize(self._prompt + "".join(self._follower.said)))


@dataclass(frozen=True, slots=True)
class Preview:
    """What would be put before the model."""

    prompt: str
    image_count: int


class ChatService:
    """Chat and completion, on any API."""

    def __init__(self, cards: Cards, loader: Loader) -> None:
        self._cards = cards
        self._loader = loader

    @asynccontextmanager
    async def open(self, request: GenerationRequest) -> AsyncIterator[Generation]:
        """Begin to generate. Leaving the block stops the engine and gives the runner back.

        Raises, before anything is generated, what is wrong with the request (InvalidRequest and below,
        ModelNotFound), with the server (ServerBusy, LoadFailed), or what the engine says against it.
        """
        started = time.monotonic_ns()
        async with self._held(request) as turn, AsyncExitStack() as stack:
            load_ns = time.monotonic_ns() - started
            draft = await turn.draft()
            try:
                prompt, events = await turn.begin(draft, stack)
            except ContextExceeded:
                draft = await turn.shortened(draft)
                prompt, events = await turn.begin(draft, stack)
            follower = turn.follower(draft, prompt)
            yield Generation(follower.follow(events), load_ns, draft.is_truncated, turn.runner, prompt, follower)

    async def preview(self, request: GenerationRequest) -> Preview:
        """What `open` would put before the model. Raises as it does."""
        async with self._held(request) as turn:
            draft = await turn.draft()
            if await turn.count(draft) >= turn.num_ctx:
                draft = await turn.shortened(draft)
            return Preview(await turn.render(draft), draft.image_count)

    async def load(self, request: GenerationRequest) -> None:
        """Have the model loaded, and its keep-alive set, without generating. Raises as `open` does."""
        async with self._held(request):
            pass

    async def unload(self, request: GenerationRequest) -> None:
        """Let the model's runners go, when their running requests have ended. Raises ModelNotFound."""
        self._loader.unload(await self._cards.get(request.name, request.model))

    @asynccontextmanager
    async def _held(self, request: GenerationRequest) -> AsyncIterator["_Turn"]:
        card = await self._cards.get(request.name, request.model)
        check(card, request)
        await _grammar(request)  # before a model is loaded for a schema that cannot be kept
        plan, options = self._loader.plan(card, request.options)
        async with self._loader.lease(card, plan, request.keep_alive_s) as lease:
            yield _Turn(request, card, plan, lease, options)


class _Turn:
    """One request at the runner that it holds."""

    def __init__(
        self, request: GenerationRequest, card: ModelCard, plan: LoadPlan, lease: Lease, options: SamplingOptions
    ) -> None:
        self.runner = lease.runner
        self._request = request
        self._card = card
        self._options = options
        self._is_limited = lease.spec.num_ctx > plan.spec.num_ctx and not plan.spec.is_ctx_automatic
        self.num_ctx = plan.spec.num_ctx if self._is_limited else lease.spec.num_ctx
        """Tokens the request may see: no more than it asked for, where the runner has more."""

    async def draft(self) -> Draft:
        return await prompting.draft(self.runner, self._card, self._request)

    async def render(self, draft: Draft) -> str:
        return await prompting.render(self.runner, self._card, draft)

    async def count(self, draft: Draft) -> int:
        return await prompting.count(self.runner, self._card, draft)

    async def begin(self, draft: Draft, stack: AsyncExitStack) -> tuple[str, AsyncIterator[Event]]:
        """Have the engine begin; `stack` ends it. The prompt is "" where only the engine needs it.

        Raises ContextExceeded for a prompt that is too long.
        """
        chat = self._chat_prompt(draft)
        is_needed = chat is None or self._request.output_format is not None
        prompt = await self.render(draft) if is_needed else ""
        sampling = self._sampling(draft, await self._grammar(draft, prompt))
        if self._is_limited:
            sampling = _limited(sampling, await self.count(draft), self.num_ctx)
        stream = self.runner.complete(prompt, sampling) if chat is None else self.runner.chat(chat, sampling)
        return prompt, await stack.enter_async_context(stream)

    async def shortened(self, draft: Draft) -> Draft:
        """See `prompting.shortened`; raises ContextExceeded for what must not be shortened, too."""
        if not (self._request.may_truncate and draft.can_shorten):
            raise ContextExceeded(await self.count(draft), self.num_ctx)
        short = await prompting.shortened(self.runner, self._card, draft, self.num_ctx, self._max_tokens())
        dropped = len(draft.messages) - len(short.messages)
        log.info("conversation shortened", extra={"model": self._card.name.display, "messages": dropped})
        return short

    def follower(self, draft: Draft, prompt: str) -> Follower:
        """For the reply."""
        reader = None
        if draft.text is None and self._chat_prompt(draft) is None:
            reader = self._card.markup.reader(prompt, draft.messages, self._callable_tools())

        async def count_prompt() -> int:
            return await self.count(draft)

        return Follower(reader, shows_thinking=self._request.think is not False, count_prompt=count_prompt)

    def _sampling(self, draft: Draft, grammar: str | None) -> Sampling:
        """What the options mean in a context of that size: -1 is all of it, for `repeat_last_n` too."""
        options, num_ctx = self._options, self.num_ctx
        return Sampling(
            replace(
                options,
                repeat_last_n=num_ctx if options.repeat_last_n < 0 else min(options.repeat_last_n, num_ctx),
                num_keep=min(options.num_keep, num_ctx),
            ),
            self._max_tokens(),
            grammar,
            self._request.top_logprobs,
            self._card.markup.preserved_tokens if draft.text is None else (),
        )

    def _max_tokens(self) -> int | None:
        limit = self._options.num_predict
        return min(limit, self.num_ctx) if limit >= 0 else None

    def _chat_prompt(self, draft: Draft) -> ChatPrompt | None:
        """What the engine is to render and to read. Beside tools it takes no grammar: then we do both."""
        return None if self._request.output_format is not None and draft.tools else draft.chat_prompt

    def _callable_tools(self) -> Sequence[JSON]:
        """Under the client's names. None where a format binds the reply: what looks like a call is the answer."""
        if self._request.output_format is not None or not isinstance(self._request.input, ChatInput):
            return ()
        return self._request.input.tools

    async def _grammar(self, draft: Draft, prompt: str) -> str | None:
        frame = self._card.markup.frame(prompt, thinks=draft.think) if draft.text is None else None
        return await _grammar(self._request, frame)


async def _grammar(request: GenerationRequest, frame: ThinkingFrame | None = None) -> str | None:
    """On a thread: the worst schema takes half a second. Raises InvalidRequest for one that cannot be kept."""
    if request.output_format is None:
        return None
    return await anyio.to_thread.run_sync(answer_grammar, request.output_format, frame)


def _limited(sampling: Sampling, prompt_tokens: int, num_ctx: int) -> Sampling:
    """For a request that wants a smaller context than the runner has."""
    room = num_ctx - prompt_tokens
    if room <= 0:
        raise ContextExceeded(prompt_tokens, num_ctx)
    return replace(sampling, max_tokens=room if sampling.max_tokens is None else min(room, sampling.max_tokens))
