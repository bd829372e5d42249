"""Shortening a conversation: which messages go when it is too long, and which never do."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a3s_power.errors import ContextExceeded
from a3s_power.messages import Message, ToolCall
from a3s_power.service import prompting
from a3s_power.service.prompting import Draft

ROLES = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}


@dataclass
class Runner:
    """Renders a message as its content; a token is a letter."""

    media_marker = "<__media__>"

    renders: int = 0

    async def render(self, prompt):
        self.renders += 1
        return "".join(message.content for message in prompt.messages)

    async def tokenize(self, text, *, special=False):
        return list(text)


class Card:
    adds_bos = False


def conversation(text):
    """`s3 u5 a2`: a system message of 3 tokens, a user's of 5, an answer of 2."""
    return tuple(Message(ROLES[word[0]], word[0] * int(word[1:])) for word in text.split())


def words(messages):
    return " ".join(f"{message.role[0]}{len(message.content)}" for message in messages)


async def shorten(text, num_ctx, answer=0):
    return await prompting.shortened(Runner(), Card(), Draft(conversation(text), is_chat=True), num_ctx, answer)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "messages, num_ctx, answer, kept",
    [
        ("u5 a5 u5 a5 u5", 20, 0, "u5 a5 u5"),
        ("s5 u5 a5 u5 a5 u5", 21, 0, "s5 u5 a5 u5"),  # system messages stay,
        ("u5 a5 s5 u5 a5 u5", 21, 0, "s5 u5 a5 u5"),  # wherever they stand
        ("u5 a1 t5 a5 u5 a5 u5", 20, 0, "u5 a5 u5"),  # a call goes with its result
        ("u5 a5 u5 a1 t5 a5", 18, 0, "u5 a1 t5 a5"),  # the last turn is all since the last question
        ("a5 u5 a5 u5", 18, 0, "u5 a5 u5"),  # a greeting is a turn of its own
        ("u5 u5 u5", 12, 0, "u5 u5"),
        ("u5 a5 u5 a5 u5", 22, 4, "u5 a5 u5"),  # room for the answer
        ("u5 a5 u5 a5 u5", 18, 4, "u5"),
        ("u5 a5 u5 a5 u5", 19, 100, "u5"),  # but a quarter at most: 4
        ("u5 a5 u5 a5 u17", 18, 4, "u17"),  # and none if there is none
        ("u2 a2 u2 a2 u2 a2 u2 a2 u2", 17, None, "u2 a2 u2 a2 u2 a2 u2"),  # an eighth for who did not say
    ],
)
async def test_the_oldest_turns_go_as_few_as_it_takes(messages, num_ctx, answer, kept):
    draft = await shorten(messages, num_ctx, answer)
    assert words(draft.messages) == kept
    assert draft.is_truncated


@pytest.mark.anyio
@pytest.mark.parametrize("messages, num_ctx", [("u20", 20), ("u5 a5 u20", 20), ("s15 u2 a2 u5", 20), ("s30", 20)])
async def test_what_must_stay_and_does_not_fit_is_told_with_its_length(messages, num_ctx):
    with pytest.raises(ContextExceeded) as error:
        await shorten(messages, num_ctx)
    assert error.value.prompt_tokens >= num_ctx


@pytest.mark.anyio
async def test_a_long_history_is_counted_a_few_times_only():
    runner = Runner()
    await prompting.shortened(runner, Card(), Draft(conversation("u5 a5 " * 500 + "u5"), is_chat=True), 100, 10)
    assert runner.renders <= 12


@pytest.mark.anyio
@given(st.lists(st.tuples(st.sampled_from("suat"), st.integers(0, 9)), max_size=12), st.integers(4, 60))
async def test_the_last_turn_and_system_messages_stay_and_the_rest_is_a_tail(parts, num_ctx):
    messages = tuple(Message(ROLES[role], role * size) for role, size in parts)
    try:
        draft = await prompting.shortened(Runner(), Card(), Draft(messages, is_chat=True), num_ctx, 0)
    except ContextExceeded:
        return
    assert sum(len(message.content) for message in draft.messages) < num_ctx
    said = [message for message in messages if message.role != "system"]
    kept = [message for message in draft.messages if message.role != "system"]
    assert kept == said[len(said) - len(kept) :]
    assert [m for m in draft.messages if m.role == "system"] == [m for m in messages if m.role == "system"]


@pytest.mark.parametrize(
    "content, left",
    [
        ("<think>hm</think>yes", "yes"),
        ("  <think>\nhm\n</think>\n\nyes", "yes"),
        ("no <think>hm</think>", "no <think>hm</think>"),
        ("<think>hm", "<think>hm"),
    ],
)
def test_thoughts_in_old_answers_are_cut_out(content, left):
    messages = (
        Message("user", "a"),
        Message("assistant", content),
        Message("user", "b"),
        Message("assistant", content),
    )
    cut = [message.content for message in prompting._without_old_thoughts(messages)]
    assert cut == ["a", left, "b", content]  # what follows the last question stays as it is


def test_tool_calls_survive_the_cutting():
    call = ToolCall("f", {})
    messages = (Message("assistant", "<think>x</think>", tool_calls=(call,)), Message("user", "b"))
    assert next(prompting._without_old_thoughts(messages)).tool_calls == (call,)
