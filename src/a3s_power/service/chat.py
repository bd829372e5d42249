"""Generating text: from a request to a leased runner and its events."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

import anyio.to_thread

from a3s_power.errors import ContextExceeded, InvalidRequest, UnsupportedCapability
from a3s_power.generation import ChatInput, Event, GenerationRequest, PromptInput
from a3s_power.messages import Message
from a3s_power.options import SamplingOptions
from a3s_power.prompt.template import GoTemplate
from a3s_power.runner.base import ChatPrompt, EventStream, Runner, Sampling
from a3s_power.scheduler.slots import LoadPlan
from a3s_power.service.cards import Cards, ModelCard
from a3s_power.service.loading import Loader


@dataclass(frozen=True, slots=True)
class Generation:
    """A generation that has begun. Everything in it ends with the block it was made for."""

    events: AsyncIterator[Event]
    load_ns: int
    """From the request's arrival until a runner was there for it."""
    prompt: str | None
    """The prompt as the model sees it, where we rendered it; None where the engine does."""
    runner: Runner


_Prompt = str | ChatPrompt
"""A finished text, or a conversation that the engine renders."""


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
        card = await self._cards.get(request.model)
        check_capabilities(card, request)
        _check_prompting(card, request)
        plan, sampling = self._loader.plan(card, request.options)
        async with self._loader.lease(card, plan, request.keep_alive_s) as lease:
            load_ns = time.monotonic_ns() - started
            prompt = await _prompt(lease.runner, card, request)
            bounds = _bounds(sampling, lease.spec.num_ctx, request)
            if lease.spec.num_ctx > plan.spec.num_ctx and not plan.spec.is_ctx_automatic:
                bounds = await _bounded(lease.runner, prompt, bounds, plan)
            async with _begin(lease.runner, prompt, bounds) as events:
                yield Generation(events, load_ns, prompt if isinstance(prompt, str) else None, lease.runner)

    async def load(self, request: GenerationRequest) -> None:
        """Have the model loaded, and its keep-alive set, without generating. Raises as `open` does."""
        card = await self._cards.get(request.model)
        check_capabilities(card, request)
        plan, _ = self._loader.plan(card, request.options)
        async with self._loader.lease(card, plan, request.keep_alive_s):
            pass

    async def unload(self, model: str) -> None:
        """Let the model's runners go, when their running requests have ended. Raises ModelNotFound."""
        self._loader.unload(await self._cards.get(model))


def check_capabilities(card: ModelCard, request: GenerationRequest) -> None:
    """Raise UnsupportedCapability for what the model cannot do, in Ollama's words."""
    verb = "chat" if isinstance(request.input, ChatInput) else "generate"
    _check_raw(request)
    if request.think and "thinking" not in card.capabilities:
        raise UnsupportedCapability(f'"{request.model}" does not support thinking', "thinking")
    if "completion" not in card.capabilities:
        raise UnsupportedCapability(f'"{request.model}" does not support {verb}', "completion")
    match request.input:
        case ChatInput(tools=tools):
            wanted = {"tools": bool(tools), "vision": _images(request)}
        case PromptInput() as given:
            wanted = {"insert": bool(given.suffix), "vision": _images(request)}
    for capability, is_wanted in wanted.items():
        if is_wanted and capability not in card.capabilities:
            raise UnsupportedCapability(f"{card.name} does not support {capability}", capability)


def _check_raw(request: GenerationRequest) -> None:
    match request.input:
        case PromptInput(raw=True) as given if given.template or given.system or given.context:
            raise InvalidRequest("raw mode does not support template, system, or context")


def _images(request: GenerationRequest) -> bool:
    match request.input:
        case ChatInput(messages):
            return any(message.images for message in messages)
        case PromptInput(images=images):
            return bool(images)


def _check_prompting(card: ModelCard, request: GenerationRequest) -> None:
    """Raise InvalidRequest for what we could not put before the model as it was meant."""
    is_text = card.template is not None or isinstance(request.input, PromptInput)
    if is_text and _images(request):
        raise InvalidRequest("this version takes pictures in /api/chat only, for models with a chat template")
    config = card.model.config
    if (renderer := config.renderer or config.parser) and not (card.has_chat_template or card.template):
        raise InvalidRequest(f'"{card.name.display}" needs the renderer "{renderer}", which this server has not')


# ---- prompts ----


async def _prompt(runner: Runner, card: ModelCard, request: GenerationRequest) -> _Prompt:
    match request.input:
        case ChatInput() as chat:
            return await _chat_prompt(card, chat, request.think)
        case PromptInput(raw=True) as given:
            return given.prompt
        case PromptInput() as given:
            text = await _render(runner, card, given, request.think)
            return await _before(runner, card, given) + text


async def _chat_prompt(card: ModelCard, chat: ChatInput, think: bool | str | None) -> _Prompt:
    messages = (*card.model.messages, *chat.messages)
    if card.model.system and chat.messages[0].role != "system":
        messages = (Message("system", card.model.system), *messages)
    if card.template is None:
        return ChatPrompt(messages, chat.tools, think)
    return await _rendered(card.template, messages, think)


async def _before(runner: Runner, card: ModelCard, given: PromptInput) -> str:
    """The text of an earlier reply's context."""
    if not given.context:
        return ""
    if not all(0 <= token < card.footprint.vocabulary for token in given.context):
        raise InvalidRequest("context holds tokens that the model does not have")
    return await runner.detokenize(given.context)


async def _render(runner: Runner, card: ModelCard, given: PromptInput, think: bool | str | None) -> str:
    template = card.template
    if given.template:
        template = await anyio.to_thread.run_sync(GoTemplate.parse, given.template)
    if given.suffix:
        assert template is not None, "a model without a Go template has no capability insert"
        return await anyio.to_thread.run_sync(template.render_insert, given.prompt, given.suffix)
    system = card.model.system if given.system is None else given.system
    messages = () if given.context else card.model.messages
    if system:
        messages = (Message("system", system), *messages)
    messages = (*messages, Message("user", given.prompt))
    if template is not None:
        return await _rendered(template, messages, think)
    if card.has_chat_template:
        return await runner.render(ChatPrompt(messages, think=think))
    return given.prompt


async def _rendered(template: GoTemplate, messages: Sequence[Message], think: bool | str | None) -> str:
    """On a thread: a template that nobody has read may take seconds before its budget is spent."""
    return await anyio.to_thread.run_sync(partial(template.render_chat, messages, think=think))


# ---- bounds ----


def _bounds(options: SamplingOptions, num_ctx: int, request: GenerationRequest) -> Sampling:
    """What the options mean in a context of that size: -1 is all of it, for `repeat_last_n` too."""
    return Sampling(
        replace(
            options,
            repeat_last_n=num_ctx if options.repeat_last_n < 0 else min(options.repeat_last_n, num_ctx),
            num_keep=min(options.num_keep, num_ctx),
        ),
        min(options.num_predict, num_ctx) if options.num_predict >= 0 else None,
        request.output_format,
        request.top_logprobs,
    )


async def _bounded(runner: Runner, prompt: _Prompt, sampling: Sampling, plan: LoadPlan) -> Sampling:
    """The runner has a larger context than the request asked for: the request gets no more than it asked."""
    text = prompt if isinstance(prompt, str) else await runner.render(prompt)
    prompt_tokens = len(await runner.tokenize(text, special=True))
    room = plan.spec.num_ctx - prompt_tokens
    if room <= 0:
        raise ContextExceeded(prompt_tokens, plan.spec.num_ctx)
    return replace(sampling, max_tokens=room if sampling.max_tokens is None else min(room, sampling.max_tokens))


def _begin(runner: Runner, prompt: _Prompt, sampling: Sampling) -> EventStream:
    if isinstance(prompt, str):
        return runner.complete(prompt, sampling)
    return runner.chat(prompt, sampling)
