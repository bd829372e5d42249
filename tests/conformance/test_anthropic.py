"""8.8 POST /v1/messages. What Anthropic's own clients make of it, `tests/api/test_anthropic.py` tells."""

import json
import re
import select
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.conformance.cases import WORKER_JSON, cases, send, user
from tests.conformance.test_chat import THOUGHT, call_of
from tests.support.api import API, PATIENCE_S, until
from tests.support.pictures import Drawing, base64_of

MESSAGES = "POST /v1/messages"
MESSAGE_KEYS = ["id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"]
WEATHER = {
    "name": "get_weather",
    "description": "The weather in a city",
    "input_schema": {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}},
}


def am(*messages: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    """A body for MESSAGES."""
    return {
        "model": "m",
        "max_tokens": 6,
        "messages": list(messages) or [user("Hi")],
        "temperature": 0,
        **fields,
    }


def say(*tokens: str, **fields: Any) -> dict[str, Any]:
    """A body that makes the scripted engine answer with these tokens."""
    return am(user("say:" + "|".join(tokens)), max_tokens=100, **fields)


def ask(api: API, body: Mapping[str, Any]) -> dict[str, Any]:
    """The reply to a request that succeeds and does not stream."""
    response = send(api, MESSAGES, body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == WORKER_JSON
    assert response.text.endswith("}\n")
    reply = response.json()
    assert [*reply] == MESSAGE_KEYS
    return reply


def events(api: API, body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All events of a stream; each frame names the type of its data."""
    response = send(api, MESSAGES, {**body, "stream": True})
    assert response.status_code == 200, response.text
    frames = [
        re.fullmatch("event: (.*)\ndata: (.*)", frame).groups() for frame in response.text.split("\n\n")[:-1]
    ]
    assert [name for name, _ in frames] == [json.loads(data)["type"] for _, data in frames]
    return [json.loads(data) for _, data in frames]


@dataclass(frozen=True, slots=True)
class Refused:
    """A row: a request, and what it is told."""

    id: str
    body: Any
    message: str
    status: int = field(default=400, kw_only=True)
    type: str = field(default="invalid_request_error", kw_only=True)

    def run(self, api: API) -> None:
        response = send(api, MESSAGES, self.body)
        told = response.json()
        assert response.status_code == self.status
        assert [*told] == ["type", "error", "request_id"]
        assert told["type"] == "error"
        assert told["error"] == {"type": self.type, "message": self.message}
        assert re.fullmatch("req_[0-9a-f]{24}", told["request_id"])


def block(**fields: Any) -> dict[str, Any]:
    return am(user([fields]))


@cases(
    Refused("A1", b"", "EOF"),
    Refused("A2", am(model=None), "model is required"),
    Refused("A4", am(messages=[]), "messages is required"),
    Refused("A5", am(model="nope"), "model 'nope' not found", status=404, type="not_found_error"),
    Refused("A16", block(type="tool_use", name="f", input={}), "tool_use block missing required 'id' field"),
    Refused("A17", block(type="image", source={"type": "url", "url": "https://example.com/a.png"}),
            "invalid image source type: url. Only base64 images are supported."),
)  # fmt: skip
def test_what_is_refused(server, case):
    case.run(server)


def test_a6_a_whole_reply(server):
    reply = ask(server, am(max_tokens=50))
    assert re.fullmatch("msg_[0-9a-f]{24}", reply["id"])
    assert (reply["type"], reply["role"], reply["model"]) == ("message", "assistant", "m")
    assert reply["content"] == [{"type": "text", "text": "Hello! How can I assist you today?"}]
    assert reply["stop_reason"] == "end_turn"
    assert [*reply["usage"]] == ["input_tokens", "output_tokens"]
    assert all(count > 0 for count in reply["usage"].values())
    assert ask(server, am())["stop_reason"] == "max_tokens"


def test_a8_a_stream_is_a_message_of_blocks(server):
    response = send(server, MESSAGES, am(stream=True))
    assert response.headers["content-type"] == "text/event-stream"
    assert response.headers["cache-control"] == "no-cache"
    start, block_start, *deltas, block_stop, message_delta, message_stop = events(server, am())
    # With `stop_reason` and `stop_sequence`, as Anthropic has it; Ollama leaves them out.
    assert [*start["message"]] == MESSAGE_KEYS
    assert (start["message"]["content"], start["message"]["stop_reason"]) == ([], None)
    assert start["message"]["usage"] == {"input_tokens": 1, "output_tokens": 0}  # a guess: 6 bytes by four
    assert block_start == {
        "type": "content_block_start",
        "index": 0,
        "content_block": {"type": "text", "text": ""},
    }
    assert {(delta["type"], delta["delta"]["type"]) for delta in deltas} == {("content_block_delta", "text_delta")}
    assert block_stop == {"type": "content_block_stop", "index": 0}
    assert message_delta["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None}
    assert message_delta["usage"] == ask(server, am())["usage"]
    assert message_stop == {"type": "message_stop"}
    assert "".join(delta["delta"]["text"] for delta in deltas) == ask(server, am())["content"][0]["text"]


@pytest.mark.parametrize(
    "wish",
    [
        {"thinking": {"type": "enabled", "budget_tokens": 1024}},
        {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}},
    ],
)
def test_a9_thoughts_are_not_asked_of_a_model_that_has_none(server, wish):
    assert ask(server, am(**wish))["content"] == ask(server, am())["content"]


# Ours has an empty `signature`: Ollama sends none, but Anthropic's clients require the key.
@pytest.mark.parametrize("wish", [{}, {"thinking": {"type": "enabled", "budget_tokens": 1024}}])
def test_a10_thinking_comes_before_the_answer(puppet, wish):
    thought, answer = ask(puppet, say(*THOUGHT, "All ", "fine.", model="k", **wish))["content"]
    assert thought == {"type": "thinking", "thinking": "Let me think.", "signature": ""}
    assert answer == {"type": "text", "text": "All fine."}


def test_a12_the_thinking_block_is_closed_before_the_text_begins(puppet):
    told = events(puppet, say(*THOUGHT, "All ", "fine.", model="k"))
    blocks = [(each["type"], each["index"]) for each in told if each["type"].startswith("content_block")]
    start, delta, stop = "content_block_start", "content_block_delta", "content_block_stop"
    assert sorted(set(blocks), key=blocks.index) == [
        *((kind, 0) for kind in (start, delta, stop)),
        *((kind, 1) for kind in (start, delta, stop)),
    ]
    assert [each["content_block"]["type"] for each in told if each["type"] == start] == ["thinking", "text"]


def test_a13_a_call_is_a_block(puppet):
    reply = ask(puppet, say(*call_of("Oslo"), model="t", tools=[WEATHER]))
    (call,) = reply["content"]
    assert [*call] == ["type", "id", "name", "input"]
    assert call["id"]
    assert (call["type"], call["name"], call["input"]) == ("tool_use", "get_weather", {"city": "Oslo"})
    assert reply["stop_reason"] == "tool_use"


# Ours tells the input as the model writes it, in as many deltas as there are; Ollama has one, at the end.
def test_a14_a_call_is_streamed(puppet):
    _, start, *deltas, stop, ending, _ = events(puppet, say(*call_of("Oslo"), model="t", tools=[WEATHER]))
    assert (start["type"], start["index"]) == ("content_block_start", 0)
    assert start["content_block"] == {
        **start["content_block"],
        "type": "tool_use",
        "name": "get_weather",
        "input": {},
    }
    assert {delta["delta"]["type"] for delta in deltas} == {"input_json_delta"}
    assert json.loads("".join(delta["delta"]["partial_json"] for delta in deltas)) == {"city": "Oslo"}
    assert stop == {"type": "content_block_stop", "index": 0}
    assert ending["delta"]["stop_reason"] == "tool_use"


def test_a18_a_picture_is_seen(with_v):
    source = {"type": "base64", "media_type": "image/png", "data": base64_of(Drawing("red", "circle").png)}
    asked = [{"type": "image", "source": source}, {"type": "text", "text": "What color is the shape?"}]
    reply = ask(with_v, am(user(asked), model="v", max_tokens=8))
    assert reply["content"] == [{"type": "text", "text": "The shape is red."}]


def test_a20_a_block_that_nobody_knows_is_skipped(server):
    odd = {"type": "hologram", "text": "Say no more."}
    blocks = [odd, {"type": "text", "text": "Hi"}]
    assert ask(server, am(user(blocks)))["content"] == ask(server, am())["content"]
    assert ask(server, am(user([odd])))["type"] == "message"


# Ours names what ended the reply, as Anthropic does, where the engine tells: not where that reads the reply itself.
def test_a21_what_stopped_the_reply_is_told(server):
    words = ask(server, am(model="t", max_tokens=20))["content"][0]["text"].split()
    stopped = ask(server, am(model="t", max_tokens=20, stop_sequences=["~~", words[3]]))
    assert words[3] not in stopped["content"][0]["text"]
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", words[3])

    stopped = ask(server, am(max_tokens=50, stop_sequences=["assist"]))
    assert stopped["content"] == [{"type": "text", "text": "Hello! How can I "}]
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", "assist")


def test_a22_when_too_many_wait_it_is_overloaded(scripted):
    api = scripted(OLLAMA_NUM_PARALLEL="1", OLLAMA_MAX_QUEUE="1")
    running = begin(api, am(user("paced:2000:50"), max_tokens=2000, stream=True))
    until(lambda: b"tok" in running.recv(1 << 16))
    waiting = [begin(api, say("yes")) for _ in range(3)]
    (refused, *_), _, _ = select.select(waiting, [], [], PATIENCE_S)
    answer = ""
    while not answer.endswith("\n}") and '"request_id"' not in answer:
        answer += refused.recv(1 << 16).decode()
    head, _, body = answer.partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 503 ")
    assert "\r\nretry-after: 1\r\n" in f"{head}\r\n"
    assert json.loads(body)["error"]["type"] == "overloaded_error"
    for connection in (*waiting, running):
        connection.close()


def begin(api: API, body: Mapping[str, Any]):
    """Send a request, and do not wait for its reply."""
    connection = api.connect()
    content = json.dumps(body).encode()
    head = f"POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n"
    connection.sendall(head.encode() + content)
    return connection
