"""Replies that are made in steps: every step gets on, no text is lost, and tokens are counted once."""

from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import pytest

from a3s_power.generation import Done, FinishReason, Text, Timings, Usage
from a3s_power.options import SamplingOptions
from a3s_power.runner.base import Sampling
from a3s_power.scheduler.tokens import TokenPool
from a3s_power.service.steps import MIN_STEP, in_steps

pytestmark = pytest.mark.anyio

PROMPT = [1] * 20
BLANK, WIDE = 0, 7
"""A token of tokenized texts only, and the first of those of a character that takes several."""


class Engine:
    """A runner whose model has a reply in mind: `pieces` of a text and its tokens, from where the prompt ends."""

    def __init__(self, pieces, tokenized=(), stop_reason=FinishReason.STOP):
        self.pieces = pieces
        self.steps = []
        """Of each, the tokens it began with and the limit."""
        self._tokenized = dict(tokenized)
        self._stop_reason = stop_reason

    async def settled(self):
        pass

    async def tokenize(self, text, *, special=False):
        return [BLANK, *(token for char in text for token in self._tokenized.get(char, [ord(char)]))]

    @asynccontextmanager
    async def complete(self, tokens, sampling, images=()):
        assert sampling.max_tokens > 0
        assert len(self.steps) < 20, "it gets nowhere"
        self.steps.append((list(tokens), sampling.max_tokens))
        yield self._events(list(tokens), sampling.max_tokens)

    async def _events(self, context, limit):
        said, made = context[len(PROMPT) :], 0
        for text, tokens in self.pieces:
            if said[: len(tokens)] == list(tokens):
                del said[: len(tokens)]
                continue
            assert not said, "what it is to go on from is not what it has said"
            if made + len(tokens) > limit:
                yield Done(FinishReason.LENGTH, Usage(len(context), limit, 3), Timings(5, 100))
                return
            made += len(tokens)
            yield Text(text, (), () if WIDE in tokens else tuple(tokens))
        reason = FinishReason.LENGTH if made == limit else self._stop_reason
        yield Done(reason, Usage(len(context), made, 3), Timings(5, 100))


def chars(text):
    return [(char, [ord(char)]) for char in text]


async def reply(engine, max_tokens, *, pool=4096):
    """The text and the last word; of the pool nothing is held any more."""
    pool = TokenPool(pool)
    async with AsyncExitStack() as stack:
        sampling = Sampling(SamplingOptions(), max_tokens)
        *texts, done = [event async for event in await in_steps(engine, pool, PROMPT, sampling, stack)]
    assert pool.free == pool.size
    return "".join(event.text for event in texts), done


@pytest.fixture
def short_steps(monkeypatch):
    monkeypatch.setattr("a3s_power.service.steps.MAX_STEP", MIN_STEP)


@pytest.mark.parametrize("length", [1, MIN_STEP - 1, MIN_STEP, MIN_STEP + 1, 3 * MIN_STEP])
async def test_a_reply_ends_when_the_model_ends_it(short_steps, length):
    engine = Engine(chars("x" * length))
    text, done = await reply(engine, 1000)
    assert text == "x" * length
    assert (done.finish_reason, done.usage) == (FinishReason.STOP, Usage(len(PROMPT), length, 3))


@pytest.mark.parametrize("limit", [1, MIN_STEP, MIN_STEP + 1, 3 * MIN_STEP])
async def test_or_at_its_limit(short_steps, limit):
    text, done = await reply(Engine(chars("x" * 2000)), limit)
    assert text == "x" * limit
    assert (done.finish_reason, done.usage) == (FinishReason.LENGTH, Usage(len(PROMPT), limit, 3))


async def test_its_limit_is_never_beyond_the_pool(short_steps):
    _, done = await reply(Engine(chars("x" * 2000)), 2000, pool=600)
    assert (done.finish_reason, done.usage.completion_tokens) == (FinishReason.LENGTH, 600 - len(PROMPT))


# ---- steps that keep nothing ----


@pytest.mark.parametrize("limit", [MIN_STEP + 10, 3000])
async def test_tokens_without_text_end_at_the_limit_too(short_steps, limit):
    engine = Engine([("", [2])] * 4000)
    text, done = await reply(engine, limit)
    assert (text, done.finish_reason) == ("", FinishReason.LENGTH)
    assert done.usage.completion_tokens == limit
    assert sum(made for _, made in engine.steps) < 3 * limit


async def test_what_may_become_a_stop_sequence_for_longer_than_a_step_is_told_when_it_does_not(short_steps):
    held = chars("x" * 700)
    engine = Engine([*chars("before "), *[("", tokens) for _, tokens in held], ("x" * 700 + "!", [33])])
    text, done = await reply(engine, 2000)
    assert text == "before " + "x" * 700 + "!"
    assert done.usage.completion_tokens == 7 + 701


async def test_what_is_held_back_at_a_step_s_end_is_made_again(short_steps):
    held = MIN_STEP - 2
    engine = Engine([*chars("x" * held), ("", [65]), ("", [66]), ("ABC", [67]), *chars("yz")])
    text, done = await reply(engine, 1000)
    assert text == "x" * held + "ABCyz"
    assert len(engine.steps[1][0]) == len(PROMPT) + held
    assert done.usage.completion_tokens == held + 5


# ---- characters of several tokens ----


@pytest.mark.parametrize("before", range(MIN_STEP - 4, MIN_STEP + 1))
async def test_a_character_of_several_tokens_goes_on_as_those(short_steps, before):
    """Wherever a step ends: before, within or behind it."""
    smile = [WIDE, 8, 9]
    engine = Engine([*chars("x" * before), ("😀", smile), ("😀", smile), *chars("y" * 300)], {"😀": smile})
    text, done = await reply(engine, 1000)
    assert text == "x" * before + "😀😀" + "y" * 300
    assert done.usage.completion_tokens == before + 6 + 300


async def test_many_of_them_are_counted_as_they_were_made(short_steps):
    """Though a text of their own would begin with a blank, which takes a token more."""
    smile = [WIDE, 8, 9]
    text, done = await reply(Engine([("😀", smile)] * 1000, {"😀": smile}), 1500)
    assert text == "😀" * 500
    assert (done.finish_reason, done.usage.completion_tokens) == (FinishReason.LENGTH, 1500)


async def test_tokens_that_are_guessed_wrong_never_lead_beyond_the_limit(short_steps):
    """An engine that knows no more of them than their text: it goes on wherever it is told to."""

    class Guessing(Engine):
        async def _events(self, context, limit):
            for _ in range(limit // 3):
                yield Text("😀")
            yield Done(FinishReason.LENGTH, Usage(len(context), limit))

    engine = Guessing([], {"😀": [4, 5, 6, 7, 8, 9]})
    text, done = await reply(engine, 500)
    assert text
    assert (done.finish_reason, done.usage.completion_tokens) == (FinishReason.LENGTH, 500)


# ---- what is told of them all ----


async def test_the_prompt_is_timed_once_and_all_the_rest_is_the_reply_s(short_steps):
    engine = Engine(chars("x" * 600))
    _, done = await reply(engine, 1000)
    assert len(engine.steps) == 3
    assert done.timings == Timings(5, 100 + 105 + 105)


async def test_replies_that_outgrow_the_pool_together_are_all_whole(short_steps):
    pool, ends = TokenPool(700), []

    async def one():
        async with AsyncExitStack() as stack:
            events = await in_steps(Engine(chars("x" * 600)), pool, PROMPT, Sampling(max_tokens=650), stack)
            *_, done = [event async for event in events]
        ends.append(done.usage.completion_tokens)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(one)
    assert ends == [600] * 5
