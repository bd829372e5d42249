"""Following a reply: read, stripped of thoughts nobody wants, and stopped when it goes round in circles."""

import pytest

from a3s_power.generation import CallPart, Done, FinishReason, Text, Thinking, TokenLogprob, ToolCalls, Usage
from a3s_power.messages import ToolCall
from a3s_power.prompt.thinking import ThinkingSplitter
from a3s_power.service.following import Follower
from a3s_power.service.repeats import MAX_REPEATS, RepeatGuard

DONE = Done(FinishReason.STOP, Usage(5, 7))


def logprob(token):
    return TokenLogprob(token, -0.5, token.encode())


class Reader:
    """A splitter, as the whole of a reader."""

    lost = False

    def __init__(self):
        splitter = ThinkingSplitter("<think>", "</think>")
        self.feed, self.finish = splitter.feed, splitter.finish


async def follow(events, *, reader=None, shows_thinking=True, one_call=False):
    async def given():
        for event in events:
            yield event

    async def count_prompt():
        return 42

    follower = Follower(reader, shows_thinking=shows_thinking, count_prompt=count_prompt, one_call=one_call)
    return [event async for event in follower.follow(given())], "".join(follower.said)


@pytest.mark.anyio
async def test_without_a_reader_events_pass():
    events = [Thinking("hm"), Text("a"), CallPart(0, "{", "c1", "f"), CallPart(0, "}"), whole(0, "c1"), DONE]
    assert await follow(events) == (events, "a")


def whole(*indices_and_ids):
    pairs = zip(indices_and_ids[::2], indices_and_ids[1::2], strict=True)
    return ToolCalls(tuple(ToolCall("f", {}, call_id, index) for index, call_id in pairs))


@pytest.mark.anyio
async def test_a_call_without_an_id_gets_one_for_all_that_is_told_of_it():
    (first, second, called, _), _ = await follow([CallPart(0, "", "", "f"), CallPart(0, "{}"), whole(0, ""), DONE])
    assert (first.id, second.id) == (called.calls[0].id, "")
    assert first.id.startswith("call_")


@pytest.mark.anyio
async def test_a_call_that_comes_whole_is_told_in_parts_all_the_same():
    called = ToolCalls((ToolCall("f", {"é": [1]}, "c0"), ToolCall("g", {}, "c1", 1)))
    events, _ = await follow([called, DONE])
    assert events == [CallPart(0, '{"é":[1]}', "c0", "f"), CallPart(1, "{}", "c1", "g"), called, DONE]


ONE = [CallPart(0, "{}", "c0", "f"), whole(0, "c0")]


@pytest.mark.anyio
@pytest.mark.parametrize(
    "given, told",
    [
        ([*ONE, DONE], [*ONE, DONE]),
        ([Text("a"), *ONE, Text("b"), DONE], [Text("a"), *ONE, Text("b"), DONE]),
        ([*ONE, CallPart(1, "{}", "c1", "g"), DONE], ONE),
        ([*ONE, whole(1, "c1"), DONE], ONE),
    ],
)
async def test_where_one_call_is_allowed_the_second_ends_the_reply(given, told):
    *events, done = (await follow(given, one_call=True))[0]
    if told[-1] is DONE:
        assert [*events, done] == told
    else:
        assert events == told
        assert (done.finish_reason, done.usage.prompt_tokens) == (FinishReason.STOP, 42)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "given, told",
    [
        (
            [Thinking("\n"), Thinking(" a\n"), Text("\n\n"), Text(" b "), Text(" c")],
            [Thinking("a\n"), Text("b "), Text(" c")],
        ),
        ([Text("\n"), Text("a")], [Text("\n"), Text("a")]),  # no thoughts: the answer as it is
        ([Thinking("\n", (logprob("\n"),)), Text("a")], [Thinking("", (logprob("\n"),)), Text("a")]),
    ],
)
async def test_blanks_around_thoughts_are_taken_away(given, told):
    assert (await follow([*given, DONE]))[0] == [*told, DONE]


@pytest.mark.anyio
async def test_a_reader_sees_the_text_and_the_raw_text_is_kept():
    events, said = await follow([Text("<thi"), Text("nk>a</think>b<"), DONE], reader=Reader())
    assert events == [Thinking("a"), Text("b<"), DONE]
    assert said == "<think>a</think>b<"


@pytest.mark.anyio
async def test_no_logprob_is_lost_when_text_is_held_back():
    tokens = ["<thi", "nk>", "a", "</think>", "b"]
    given = [Text(token, (logprob(token),)) for token in tokens]
    events, _ = await follow([*given, DONE], reader=Reader())
    assert [entry.token for event in events[:-1] for entry in event.logprobs] == tokens
    assert "".join(event.text for event in events if isinstance(event, Text)) == "b"


@pytest.mark.anyio
async def test_thoughts_nobody_wants_leave_their_logprobs():
    events, _ = await follow(
        [Thinking("a", (logprob("a"),)), Thinking("b"), Text("c"), DONE], shows_thinking=False
    )
    assert events == [Text("", (logprob("a"),)), Text("c"), DONE]


@pytest.mark.anyio
async def test_a_reply_that_repeats_itself_is_ended_with_its_figures():
    events, _ = await follow([Text(" tick")] * 1000)
    *texts, done = events
    assert len(texts) == MAX_REPEATS + 2  # the first one, thirty repeats, and the one that is too many
    assert (done.finish_reason, done.usage) == (FinishReason.STOP, Usage(42, len(texts)))


@pytest.mark.anyio
async def test_what_was_held_back_is_told_before_such_an_end():
    events, _ = await follow([Text("x<")] + [Text("think")] * 1000, reader=Reader())
    assert isinstance(events[-1], Done)
    assert "".join(event.text for event in events[:-1]).startswith("x<think")


@pytest.mark.parametrize(
    "pieces, stuck",
    [
        (["a"] * 31, False),
        (["a"] * 32, True),
        (["a", "b"] * 500, False),
        ([" a", "a ", "a"] * 11, True),  # spaces aside
        (["\n"] * 32, True),
    ],
)
def test_thirty_repeats_are_borne(pieces, stuck):
    guard = RepeatGuard()
    assert any(guard.is_stuck(piece) for piece in pieces) is stuck
