"""One request at the runner that it holds: its prompt, its bounds, its reply."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

import anyio.to_thread

from a3s_power.errors import ContextExceeded
from a3s_power.generation import (
    JSON,
    ChatInput,
    Done,
    Event,
    FinishReason,
    GenerationRequest,
    Text,
    Thinking,
    Usage,
)
from a3s_power.grammar.gbnf import ThinkingFrame
from a3s_power.grammar.schema import AnswerGrammar
from a3s_power.options import SamplingOptions
from a3s_power.prompt.forced import ForcedReader, forced_tools
from a3s_power.prompt.reading import Reader
from a3s_power.runner.base import ChatPrompt, Sampling
from a3s_power.scheduler.slots import Lease, LoadPlan
from a3s_power.service import prompting
from a3s_power.service.cards import ModelCard
from a3s_power.service.following import Follower
from a3s_power.service.prompting import Draft
from a3s_power.service.steps import in_steps, reserved
from a3s_power.service.suspects import Attempt

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Begun:
    """What the engine has begun."""

    prompt: str
    """As the model sees it; "" where only the engine needs it."""
    events: AsyncIterator[Event]
    follower: Follower
    is_truncated: bool


class Turn:
    """Made for one request, with its lease."""

    def __init__(
        self,
        request: GenerationRequest,
        card: ModelCard,
        plan: LoadPlan,
        lease: Lease,
        options: SamplingOptions,
        grammar: AnswerGrammar | None,
        attempt: Attempt,
    ) -> None:
        self.runner = lease.runner
        self.attempt = attempt
        self._lease = lease
        self._following: Follower | None = None
        self._request = request
        self._card = card
        self._options = options
        self._is_forced = bool(forced_tools(request))
        self._grammar = grammar
        self._is_limited = lease.spec.num_ctx > plan.spec.num_ctx and not plan.spec.is_ctx_automatic
        self._num_ctx = plan.spec.num_ctx if self._is_limited else lease.spec.num_ctx  # no more than was asked for

    async def begin(self, stack: AsyncExitStack) -> Begun:
        """Have the engine begin; `stack` ends it. Raises ContextExceeded for what is too long and stays so."""
        draft = await self._draft()
        try:
            async with AsyncExitStack() as attempt:
                begun = await self._begin(draft, attempt)
                await stack.enter_async_context(attempt.pop_all())
                return begun
        except ContextExceeded as exc:
            if not self._may_shorten(draft):
                raise
            return await self._begin(await self._shortened(draft, exc), stack)

    def settle_cost(self, begun: Begun) -> None:
        """Charge the client for what was computed; for a reply that was left early, at least what was expected."""
        if usage := begun.follower.usage:
            self._lease.cost = usage.prompt_tokens - usage.cached_tokens + usage.completion_tokens
        else:
            self._lease.cost = max(self._lease.expected, begun.follower.tokens)

    async def preview(self) -> tuple[str, int]:
        """The prompt that `begin` would have the engine begin with, and how many pictures are in it."""
        draft = await self._draft()
        if self._may_shorten(draft) and (tokens := await self._count(draft)) >= self._num_ctx:
            draft = await self._shortened(draft, ContextExceeded(tokens, self._num_ctx))
        prompt = await self._render(draft)
        # The marker itself is nobody's business: who knows it could use it.
        for number in range(len(draft.images)):
            prompt = prompt.replace(self.runner.media_marker, f"[img-{number}]", 1)
        return prompt, len(draft.images)

    async def count(self) -> int:
        """Tokens of the whole prompt, whether it fits or not."""
        return await self._count(await self._draft())

    async def _draft(self) -> Draft:
        return await prompting.draft(self.runner, self._card, self._request)

    async def _render(self, draft: Draft) -> str:
        return await prompting.render(self.runner, self._card, draft)

    async def _count(self, draft: Draft) -> int:
        return await prompting.count(self.runner, self._card, draft)

    async def _begin(self, draft: Draft, stack: AsyncExitStack) -> Begun:
        chat, pool = self._chat_prompt(draft), self._lease.tokens
        # How many tokens a picture takes nobody knows yet: with some, the engine keeps the limit where it can.
        is_counted = self._is_limited or (pool is not None and not draft.images)
        prompt = await self._render(draft) if chat is None or self._grammar or is_counted else ""
        frame = self._card.markup.frame(prompt, thinks=draft.think) if draft.text is None else None
        sampling = self._sampling(self._grammar.text(frame) if self._grammar else None)
        tokens = await self.runner.tokenize(prompt, special=True) if is_counted else []
        if is_counted:
            sampling = _limited(sampling, len(tokens) + prompting.IMAGE_TOKENS * len(draft.images), self._num_ctx)
        if chat is not None:
            await self._reserve(draft, len(tokens), sampling, stack)
            events = await stack.enter_async_context(self.runner.chat(chat, sampling))
            return Begun(prompt, events, self._follower(draft, None), draft.is_truncated)
        if frame is not None and sampling.thinking_budget is not None:
            await self._reserve(draft, len(tokens), sampling, stack)
            events = await self._completed_in_budget(draft, prompt, frame, sampling, stack)
        elif pool and _can_pause(draft, sampling):
            events = await in_steps(self.runner, pool, tokens, sampling, stack)
        else:
            await self._reserve(draft, len(tokens), sampling, stack)
            events = await stack.enter_async_context(self.runner.complete(prompt, sampling, draft.images))
        reader = await self._reader(draft, prompt)
        return Begun(prompt, events, self._follower(draft, reader), draft.is_truncated)

    async def _reserve(self, draft: Draft, prompt_tokens: int, sampling: Sampling, stack: AsyncExitStack) -> None:
        """All that the reply may come to take, in a pool that is too small for everybody's."""
        if (pool := self._lease.tokens) is None:
            return
        most = self._num_ctx if draft.images else prompt_tokens + (sampling.max_tokens or 0)
        await stack.enter_async_context(
            reserved(
                self.runner, pool, min(most, pool.size), lambda: bool(self._following and self._following.usage)
            )
        )

    # ---- who renders, and who reads ----

    def _chat_prompt(self, draft: Draft) -> ChatPrompt | None:
        """The conversation, if the engine is to render it, and to read the reply.

        Beside tools it takes no grammar, and of tokens that it holds back it tells no logprobs: then we do both.
        """
        wants_logprobs = self._request.top_logprobs is not None
        if not draft.is_native_chat or (self._grammar and draft.tools):
            return None
        if wants_logprobs and not draft.tools:
            return None
        return ChatPrompt(draft.messages, draft.tools, draft.think)

    async def _reader(self, draft: Draft, prompt: str) -> Reader:
        tools = self._callable_tools()
        if not tools:
            reader = self._card.markup.reader(prompt, draft.messages, tools)
            return ForcedReader(reader) if self._is_forced else reader
        # On a thread: of a thousand tools it takes a tenth of a second.
        return await anyio.to_thread.run_sync(self._card.markup.reader, prompt, draft.messages, tools)

    def _callable_tools(self) -> Sequence[JSON]:
        """Under the client's names. None where a grammar binds the reply: what looks like a call is the answer."""
        if self._grammar or not isinstance(self._request.input, ChatInput):
            return ()
        return self._request.input.tools

    def _follower(self, draft: Draft, reader: Reader | None) -> Follower:
        async def count_prompt() -> int:
            return await self._count(draft)

        self._following = Follower(
            reader,
            shows_thinking=self._request.think is not False,
            count_prompt=count_prompt,
            one_call=not self._request.tool_choice.is_parallel,
        )
        return self._following

    # ---- bounds ----

    def _may_shorten(self, draft: Draft) -> bool:
        return self._request.may_truncate and draft.can_shorten

    async def _shortened(self, draft: Draft, exc: ContextExceeded) -> Draft:
        short = await prompting.shortened(self.runner, self._card, draft, self._num_ctx, self._max_tokens())
        log.info(
            "conversation shortened",
            extra={
                "model": self._card.name.display,
                "prompt_tokens": exc.prompt_tokens,
                "num_ctx": self._num_ctx,
                "messages": len(draft.messages) - len(short.messages),
            },
        )
        return short

    def _sampling(self, grammar: str | None) -> Sampling:
        """What the options mean in a context of that size: -1 is all of it, for `repeat_last_n` too."""
        options, num_ctx = self._options, self._num_ctx
        return Sampling(
            replace(
                options,
                repeat_last_n=num_ctx if options.repeat_last_n < 0 else min(options.repeat_last_n, num_ctx),
                num_keep=min(options.num_keep, num_ctx),
            ),
            self._max_tokens(),
            grammar,
            self._request.top_logprobs,
            self._card.markup.preserved_tokens,
            self._request.logit_bias,
            None if self._request.thinking_budget is None else min(self._request.thinking_budget, num_ctx),
        )

    def _max_tokens(self) -> int | None:
        limit = self._options.num_predict
        return min(limit, self._num_ctx) if limit >= 0 else None

    async def _completed_in_budget(
        self, draft: Draft, prompt: str, frame: ThinkingFrame, sampling: Sampling, stack: AsyncExitStack
    ) -> AsyncIterator[Event]:
        """The reply to a prompt. When its thoughts have had their budget we end them, and it goes on from there.

        The engine could not: of a finished prompt it does not see whether thoughts have begun in it.
        """
        watch = self._card.markup.reader(prompt, draft.messages, ())
        thinking = await stack.enter_async_context(AsyncExitStack())
        events = await thinking.enter_async_context(self.runner.complete(prompt, sampling, draft.images))

        async def told() -> AsyncIterator[Event]:
            said: list[str] = []
            left = max(1, sampling.thinking_budget or 0)
            async for event in events:
                yield event
                if isinstance(event, Text):
                    said.append(event.text)
                    left -= any(isinstance(piece, Thinking) for piece in watch.feed(event.text))
                    if not left:
                        break
            else:
                return
            await thinking.aclose()
            yield Text(frame.closing)
            if self._lease.tokens:  # reserved is room for one of the two, and the engine may still be at the first
                await self.runner.settled()
            thoughts = "".join(said) + frame.closing
            spent = len(await self.runner.tokenize(thoughts))
            rest = self._behind_thoughts(sampling, spent)
            try:
                answer = self.runner.complete(prompt + thoughts, rest, draft.images)
                answered = await stack.enter_async_context(answer) if rest.max_tokens != 0 else None
            except ContextExceeded:
                answered = None
            if answered is None:  # the thoughts have taken all there was
                yield Done(FinishReason.LENGTH, Usage(await self._count(draft), spent))
                return
            async for event in answered:
                yield _with_thoughts(event, spent) if isinstance(event, Done) else event

        return told()

    def _behind_thoughts(self, sampling: Sampling, spent: int) -> Sampling:
        """For what comes behind thoughts of so many tokens."""
        limit = sampling.max_tokens
        return replace(
            sampling,
            max_tokens=None if limit is None else max(0, limit - spent),
            grammar=self._grammar.text() if self._grammar else None,
        )


def _with_thoughts(done: Done, spent: int) -> Done:
    """With thoughts that went out again behind the prompt counted as what they are."""
    usage = Usage(max(0, done.usage.prompt_tokens - spent), done.usage.completion_tokens + spent)
    return replace(done, usage=usage)


def _can_pause(draft: Draft, sampling: Sampling) -> bool:
    """Whether a completion can be broken off and continued from its tokens, without anybody seeing a difference.

    Not what the engine keeps a state of: a grammar, pictures, dice that must fall as they did the last time.
    """
    is_repeatable = sampling.options.seed != -1 and sampling.options.temperature > 0
    return not (draft.images or sampling.grammar or sampling.top_logprobs is not None or is_repeatable)


def _limited(sampling: Sampling, prompt_tokens: int, num_ctx: int) -> Sampling:
    """For a request that wants a smaller context than the runner has."""
    room = num_ctx - prompt_tokens
    if room <= 0:
        raise ContextExceeded(prompt_tokens, num_ctx)
    return replace(sampling, max_tokens=room if sampling.max_tokens is None else min(room, sampling.max_tokens))
