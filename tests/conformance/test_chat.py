"""8.4 POST /api/chat."""

import re

import pytest

from tests.conformance.cases import (
    CHAT,
    FEW,
    WORKER_JSON,
    Case,
    ask,
    cases,
    ch,
    say_in_chat,
    stream,
    user,
)
from tests.conformance.shapes import METRICS
from tests.support.pictures import Drawing, base64_of

UNLOADED = {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "unload"}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}},
    },
}


def call_of(city: str) -> tuple[str, ...]:
    """The tokens of a call, none of them whole JSON."""
    return ("<tool_call>", '{"name": "get_weather", ', f'"arguments": {{"city": "{city}"}}', "}", "</tool_call>")


@cases(
    Case("C4", CHAT, ch() | {"messages": [], "keep_alive": 0}, reply={"model": "m", **UNLOADED}),
    Case("C8", CHAT, ch(tools=[]), check=lambda reply: reply["message"]["content"]),
    Case("C18", CHAT, ch(think=True), status=400, error='"m" does not support thinking'),
    Case("C24", CHAT, ch(_debug_render_only=True),
         check=lambda reply: "Hi" in reply["_debug_info"]["rendered_template"]
         and [*reply] == ["model", "created_at", "message", "done", "_debug_info"]
         and reply["message"] == {"role": "", "content": ""} and reply["done"] is False),
    # Whatever `shift` says; and ours names both numbers.
    Case("C26", CHAT, ch(user("word " * 900), shift=False), status=400, check=lambda reply: "context" in reply["error"]),
    Case("C26 shift", CHAT, ch(user("word " * 900)), status=400, check=lambda reply: "context" in reply["error"]),
    Case("C29", CHAT, ch(user("Look.", images=["!!!"])), status=400, error="illegal base64 data at input byte 0"),
)  # fmt: skip
def test_chat(server, case):
    case.run(server)


@cases(
    Case("C5", CHAT, {"model": "e"}, status=400, error='"e" does not support chat'),
    Case("C6", CHAT, {"model": "e", "keep_alive": 0}, reply={"model": "e", **UNLOADED}),
)
def test_chat_with_an_embedding_model(with_e, case):
    case.run(with_e)


def test_c33_an_error_before_the_first_chunk_is_no_line(puppet):
    body = ch(user("refuse:503"), stream=True)
    Case("C33", CHAT, body, status=503, type=WORKER_JSON, error="refused as told").run(puppet)


def test_c34_an_error_after_the_first_chunk_is_the_last_line(puppet):
    first, last = stream(puppet, CHAT, ch(user("break:1"), options={}))
    assert first["message"] == {"role": "assistant", "content": " tok0"}
    assert last == {"error": "broke as told"}


def test_c1_a_stream_ends_with_its_figures(server):
    *lines, last = stream(server, CHAT, ch())
    assert [*lines[0]] == ["model", "created_at", "message", "done"]
    assert all([*line["message"]] == ["role", "content"] for line in (*lines, last))
    assert {line["message"]["role"] for line in (*lines, last)} == {"assistant"}
    assert not any(line["done"] for line in lines)
    assert (last["done"], last["message"]["content"], last["done_reason"]) == (True, "", "length")
    assert all(last[key] > 0 for key in METRICS.split())


def test_c2_a_whole_reply(server):
    reply = ask(server, CHAT, ch(options={"temperature": 0}))
    assert reply["message"] == {"role": "assistant", "content": "Hello! How can I assist you today?"}
    assert (reply["done"], reply["done_reason"]) == (True, "stop")
    assert reply["prompt_eval_count"] > 0


# ---- tools ----


def check_call(call, index: int, city: str) -> None:
    assert re.fullmatch("call_[a-z0-9]{8}", call["id"])
    assert call["function"] == {"index": index, "name": "get_weather", "arguments": {"city": city}}


def test_c9_a_call_comes_with_the_reply(puppet):
    reply = ask(puppet, CHAT, say_in_chat(*call_of("Oslo"), model="t", tools=[WEATHER]))
    (call,) = reply["message"]["tool_calls"]
    check_call(call, 0, "Oslo")
    assert (reply["message"]["content"], reply["done_reason"]) == ("", "stop")


def test_c10_a_call_is_streamed_whole(puppet):
    lines = stream(puppet, CHAT, say_in_chat("Let me see. ", *call_of("Oslo"), model="t", tools=[WEATHER]))
    (calls,) = [line["message"]["tool_calls"] for line in lines if "tool_calls" in line["message"]]
    (call,) = calls
    check_call(call, 0, "Oslo")
    assert "".join(line["message"]["content"] for line in lines).strip() == "Let me see."
    assert lines[-1]["done_reason"] == "stop"


def test_c12_a_result_names_its_call_by_the_id_alone(puppet):
    call = {"id": "call_a1b2c3d4", "function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}
    turns = [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_a1b2c3d4", "content": "say:3 C, says |"},
    ]
    reply = ask(puppet, CHAT, ch(*turns, model="t", tools=[WEATHER], options={}))
    assert reply["message"] == {"role": "assistant", "content": "3 C, says call_a1b2c3d4"}


def test_c13_calls_are_numbered(puppet):
    reply = ask(puppet, CHAT, say_in_chat(*call_of("Oslo"), "\n", *call_of("Rome"), model="t", tools=[WEATHER]))
    first, second = reply["message"]["tool_calls"]
    check_call(first, 0, "Oslo")
    check_call(second, 1, "Rome")
    assert first["id"] != second["id"]


# ---- thinking ----

THOUGHT = ("<think>", "\nLet me ", "think.", "</think>", "\n\n")


def kinds(lines) -> list[str]:
    """What each line carries, neighbours of one kind taken together."""
    found: list[str] = []
    for line in lines:
        kind = next((key for key in ("thinking", "tool_calls", "content") if line["message"].get(key)), "nothing")
        if [kind] != found[-1:]:
            found.append(kind)
    return found


def test_c14_thinking_comes_before_the_answer(puppet):
    lines = stream(puppet, CHAT, say_in_chat(*THOUGHT, "All ", "fine.", model="k"))
    assert kinds(lines) == ["thinking", "content", "nothing"]
    assert "".join(line["message"].get("thinking", "") for line in lines) == "Let me think."
    assert "".join(line["message"]["content"] for line in lines) == "All fine."


def test_c16_nothing_is_thought_when_told_not_to(puppet):
    reply = ask(puppet, CHAT, say_in_chat("All ", "fine.", model="k", think=False))
    assert reply["message"] == {"role": "assistant", "content": "All fine."}


def test_c17_the_highest_level_is_known(puppet):
    reply = ask(puppet, CHAT, say_in_chat(*THOUGHT, "Fine.", model="k", think="max"))
    assert reply["message"] == {"role": "assistant", "content": "Fine.", "thinking": "Let me think."}


def test_c20_a_call_comes_after_the_thought(puppet):
    lines = stream(puppet, CHAT, say_in_chat(*THOUGHT, *call_of("Oslo"), model="kt", tools=[WEATHER]))
    assert kinds(lines)[:2] == ["thinking", "tool_calls"]
    assert "content" not in kinds(lines)
    (call,) = [call for line in lines for call in line["message"].get("tool_calls", ())]
    check_call(call, 0, "Oslo")


# ---- what the model sees ----


def rendered(api, body) -> str:
    return ask(api, CHAT, {**body, "_debug_render_only": True})["_debug_info"]["rendered_template"]


def test_c21_a_role_is_read_in_lower_case(server):
    shouted = ask(server, CHAT, ch({"role": "USER", "content": "Hi"}))
    plain = ask(server, CHAT, ch())
    assert shouted["message"] == plain["message"]
    assert shouted["prompt_eval_count"] == plain["prompt_eval_count"]


def test_c22_a_model_s_own_system_text_comes_first(server):
    body = {"model": "cat", "from": "m", "system": "You are a cat.", "stream": False}
    assert server.post("/api/create", body).status_code == 200
    assert rendered(server, ch(model="cat")).startswith("<|im_start|>system\nYou are a cat.<|im_end|>")
    server.sdk.delete("cat")


# Ours says so: "truncated" in the last chunk. A call and its result stay together.
def test_c25_the_oldest_turns_make_room(server):
    system = {"role": "system", "content": "Be brief."}
    turns = [
        [user(f"turn {n} " + "word " * 150), {"role": "assistant", "content": f"answer {n}"}] for n in range(5)
    ]
    body = ch(system, *(message for turn in turns for message in turn), user("Hi"))
    assert ask(server, CHAT, body)["truncated"] is True
    *lines, last = stream(server, CHAT, body)
    assert last["truncated"] is True
    assert not any("truncated" in line for line in lines)
    prompt = rendered(server, body)
    assert "turn 0" not in prompt
    assert all(text in prompt for text in ("Be brief.", "turn 4", "answer 4", "Hi"))
    assert "truncated" not in ask(server, CHAT, ch())


def test_c28_a_picture_is_asked_about_again(with_v):
    asked = user("What color is the shape?", images=[base64_of(Drawing("red", "circle").png)])
    said = ask(with_v, CHAT, ch(asked, model="v", options={**FEW, "num_predict": 8}))["message"]
    assert said == {"role": "assistant", "content": "The shape is red."}
    reply = ask(with_v, CHAT, ch(asked, said, user("What shape is in the picture?"), model="v", options={}))
    assert "circle" in reply["message"]["content"]


@pytest.mark.parametrize("wanted", [0, 3])
def test_c32_tokens_come_with_their_alternatives(server, wanted):
    reply = ask(server, CHAT, ch(options=FEW, logprobs=True, top_logprobs=wanted))
    assert len(reply["logprobs"]) == reply["eval_count"]
    for entry in reply["logprobs"]:
        likely = [other["logprob"] for other in entry.get("top_logprobs", ())]
        assert len(likely) == wanted
        assert likely == sorted(likely, reverse=True)
