"""8.7 POST /v1/chat/completions. What OpenAI's own client makes of it, `tests/api/test_openai_chat.py` tells."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.conformance.cases import WORKER_JSON, cases, send, user
from tests.conformance.test_chat import THOUGHT, WEATHER, call_of
from tests.support.api import API
from tests.support.pictures import Drawing, base64_of

COMPLETIONS = "POST /v1/chat/completions"
EVENT_STREAM = "text/event-stream"
REPLY_KEYS = ["id", "object", "created", "model", "system_fingerprint", "choices", "usage"]
CHUNK_KEYS = REPLY_KEYS[:-1]
SPOKEN = r"call_[a-z0-9]{8}"


def oc(*messages: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    """A body for COMPLETIONS."""
    return {"model": "m", "max_tokens": 6, "temperature": 0, "messages": list(messages) or [user("Hi")], **fields}


def say(*tokens: str, **fields: Any) -> dict[str, Any]:
    """A body that makes the scripted engine answer with these tokens."""
    return oc(user("say:" + "|".join(tokens)), **{"max_tokens": None, **fields})


def ask(api: API, body: Mapping[str, Any]) -> dict[str, Any]:
    """The reply to a request that succeeds and does not stream."""
    response = send(api, COMPLETIONS, body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == WORKER_JSON
    assert response.text.endswith("}\n")
    assert [*response.json()] == REPLY_KEYS
    return response.json()


def choice(api: API, body: Mapping[str, Any]) -> dict[str, Any]:
    """The only choice of the reply."""
    (only,) = ask(api, body)["choices"]
    assert [*only["message"]][:2] == ["role", "content"]
    return only


def chunks(api: API, body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All chunks of a stream."""
    response = send(api, COMPLETIONS, {**body, "stream": True})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == EVENT_STREAM
    *frames, done, rest = response.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]


def deltas(api: API, body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What is new in each chunk of a stream, the last but for its reason."""
    return [chunk["choices"][0]["delta"] for chunk in chunks(api, body)]


def reasons(told: list[dict[str, Any]]) -> list[str | None]:
    return [chunk["choices"][0]["finish_reason"] for chunk in told]


# ---- refusals ----


@dataclass(frozen=True, slots=True)
class Refused:
    """A row: a request, and what it is told."""

    id: str
    body: Any
    message: str
    status: int = field(default=400, kw_only=True)
    type: str = field(default="invalid_request_error", kw_only=True)

    def run(self, api: API) -> None:
        response = send(api, COMPLETIONS, self.body)
        error = response.json()["error"]
        assert (response.status_code, error["message"]) == (self.status, self.message)
        assert [*error] == ["message", "type", "param", "code"]
        assert error["type"] == self.type


def parts(*given: Any) -> dict[str, Any]:
    return oc(user(list(given)))


def picture(url: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": url}


PICTURE_ELSEWHERE = "image URLs are not currently supported, please use base64 encoded data instead"


@cases(
    Refused("O1", b"", "EOF"),
    Refused("O2", oc(messages=[]), "[] is too short - 'messages'"),
    Refused("O2 absent", {"model": "m"}, "[] is too short - 'messages'"),
    Refused("O3", oc(model=None), "model is required"),
    Refused("O3 unknown", oc(model="nope"), "model 'nope' not found", status=404, type="not_found_error"),
    Refused("O10", oc(user(5)), "invalid message content type: float64"),
    Refused("O10 bool", oc(user(True)), "invalid message content type: bool"),
    Refused("O10 object", oc(user({})), "invalid message content type: map[string]interface {}"),
    Refused("O10 part", parts(5), "invalid message format"),
    Refused("O10 unknown part", parts({"type": "x"}), "invalid message format"),
    Refused("O10 text", parts({"type": "text", "text": 5}), "invalid message format"),
    Refused("O11", oc(user(None)), "invalid message content type: <nil>"),
    Refused("O13", parts(picture({"url": "https://example.com/a.png"})), PICTURE_ELSEWHERE),
    Refused("O13 string", parts(picture("http://example.com/a.png")), PICTURE_ELSEWHERE),
    Refused("O14", parts(picture("data:image/gif;base64,AAAA")), "invalid image input"),
    Refused("O14 base64", parts(picture("data:image/png;base64,!")), "invalid image input"),
    Refused("O14 shape", parts(picture({"url": 5})), "invalid message format"),
    Refused("O17", oc(reasoning_effort="high"), '"m" does not support thinking'),
    Refused("O17 object", oc(reasoning={"effort": "high"}, reasoning_effort="none"), '"m" does not support thinking'),
    Refused("O17 unknown", oc(reasoning_effort="x"),
            'invalid reasoning value: "x" (must be "minimal", "low", "medium", "high", "xhigh", "ultra", "max", or "none")'),
    Refused("O26", oc(tools=[WEATHER]), "registry.ollama.ai/library/m:latest does not support tools"),
    Refused("O30", oc(logprobs=True, top_logprobs=30), "top_logprobs must be between 0 and 20"),
)  # fmt: skip
def test_refusals(server, case):
    case.run(server)


def test_o25_a_call_of_the_history_has_an_object_for_arguments(puppet):
    for arguments in ("not json", "", "[]", {}, None):
        call = {"id": "c", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
        body = oc({"role": "assistant", "tool_calls": [call]}, model="t", tools=[WEATHER])
        Refused("O25", body, "invalid tool call arguments").run(puppet)


# ---- whole ----


def test_o5_a_whole_reply(server):
    reply = ask(server, oc(max_tokens=40))
    assert re.fullmatch(r"chatcmpl-\d+", reply["id"])
    assert (reply["object"], reply["model"], reply["system_fingerprint"]) == ("chat.completion", "m", "fp_ollama")
    message = {"role": "assistant", "content": "Hello! How can I assist you today?"}
    assert reply["choices"] == [{"index": 0, "message": message, "finish_reason": "stop"}]
    used = reply["usage"]
    assert used["prompt_tokens"] + used["completion_tokens"] == used["total_tokens"]
    assert 0 <= used["prompt_tokens_details"]["cached_tokens"] < used["prompt_tokens"]


# Ollama ignores it. It is the only limit that OpenAI's newer clients know, and an answer longer than was asked for is
# no answer to what was asked.
def test_o9_the_newer_limit_wins(server):
    for limits in ({"max_completion_tokens": 3}, {"max_completion_tokens": 3, "max_tokens": 6}):
        reply = ask(server, oc(**{"max_tokens": None, **limits}))
        assert reply["usage"]["completion_tokens"] == 3
        assert reply["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("shape", [picture, lambda url: picture({"url": url})], ids=["string", "object"])
def test_o15_a_picture_is_seen(with_v, shape):
    url = f"data:image/png;base64,{base64_of(Drawing('red', 'circle').png)}"
    asked = {"type": "text", "text": "What color is the shape?"}
    body = oc(user([asked, shape(url)]), model="v", max_tokens=8)
    assert choice(with_v, body)["message"]["content"] == "The shape is red."


def test_o18_no_thoughts_are_no_wish(server):
    assert choice(server, oc(reasoning_effort="none"))["message"]["content"]


def test_o27_an_answer_in_json(server):
    body = oc(user("List a colour and a number."), max_tokens=None, response_format={"type": " JSON_object "})
    json.loads(choice(server, body)["message"]["content"])


def test_o29_each_token_with_its_alternatives(server):
    reply = ask(server, oc(logprobs=True, top_logprobs=2))
    rows = reply["choices"][0]["logprobs"]["content"]
    assert len(rows) == reply["usage"]["completion_tokens"]
    for row in rows:
        assert [*row] == ["token", "logprob", "bytes", "top_logprobs"]
        assert bytes(row["bytes"]).decode() == row["token"]
        assert [[*other] for other in row["top_logprobs"]] == [["token", "logprob", "bytes"]] * 2


@pytest.mark.parametrize("stop", ["assist", ["assist"], ["assist", 5]])
def test_o31_a_text_that_ends_the_answer(server, stop):
    stopped = choice(server, oc(max_tokens=40, stop=stop))
    assert (stopped["message"]["content"].rstrip(), stopped["finish_reason"]) == ("Hello! How can I", "stop")


# ---- streamed ----


def test_o6_a_stream(server):
    told = chunks(server, oc())
    assert [[*chunk] for chunk in told] == [CHUNK_KEYS] * len(told)
    assert {(chunk["object"], chunk["model"]) for chunk in told} == {("chat.completion.chunk", "m")}
    assert len({(chunk["id"], chunk["created"]) for chunk in told}) == 1
    first, *others, last = [chunk["choices"][0]["delta"] for chunk in told]
    assert first["role"] == "assistant"
    assert [[*delta] for delta in others] == [["content"]] * len(others)
    assert last == {}
    assert reasons(told) == [None] * (len(told) - 1) + ["length"]
    whole = choice(server, oc())["message"]["content"]
    assert "".join(delta["content"] for delta in (first, *others)) == whole


def test_o7_usage_comes_last_if_asked_for(server):
    *others, last = chunks(server, oc(stream_options={"include_usage": True}))
    assert [[*chunk] for chunk in others] == [CHUNK_KEYS] * len(others)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 6
    assert reasons(others)[-1] == "length"


# ---- thinking ----


def test_o19_thoughts_stand_beside_the_answer(puppet):
    answered = choice(puppet, say(*THOUGHT, "All ", "fine.", model="k"))
    assert answered["message"] == {"role": "assistant", "content": "All fine.", "reasoning": "Let me think."}
    told = deltas(puppet, say(*THOUGHT, "All ", "fine.", model="k"))
    assert "".join(delta.get("reasoning", "") for delta in told) == "Let me think."
    assert {delta["content"] for delta in told if "reasoning" in delta} == {""}


def test_o21_nothing_is_thought_when_told_not_to(puppet):
    answered = choice(puppet, say("All ", "fine.", model="k", reasoning_effort="none"))
    assert answered["message"] == {"role": "assistant", "content": "All fine."}


# ---- tools ----


def test_o22_a_call_comes_with_the_reply(puppet):
    answered = choice(puppet, say(*call_of("Oslo"), model="t", tools=[WEATHER]))
    assert (answered["message"]["content"], answered["finish_reason"]) == ("", "tool_calls")
    (call,) = answered["message"]["tool_calls"]
    assert [*call] == ["id", "index", "type", "function"]
    assert re.fullmatch(SPOKEN, call["id"])
    assert (call["index"], call["type"], [*call["function"]]) == (0, "function", ["name", "arguments"])
    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "Oslo"}


# Ours come in parts, as they are generated: the first tells whose they are.
def test_o23_a_call_is_streamed(puppet):
    told = chunks(puppet, say(*call_of("Oslo"), model="t", tools=[WEATHER]))
    pieces = [call for chunk in told for call in chunk["choices"][0]["delta"].get("tool_calls", ())]
    first, *others = pieces
    assert re.fullmatch(SPOKEN, first["id"])
    assert (first["index"], first["type"], first["function"]["name"]) == (0, "function", "get_weather")
    assert [[*piece] for piece in others] == [["index", "function"]] * len(others)
    arguments = "".join(piece["function"]["arguments"] for piece in pieces)
    assert json.loads(arguments) == {"city": "Oslo"}
    assert reasons(told)[-1] == "tool_calls"
