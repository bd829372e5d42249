"""8.7 but for chats: texts that go on, models, audio, and of 8.5 what is asked at /v1.

What OpenAI's own client makes of them, `tests/api/test_openai_more.py` tells.
"""

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
import zstandard

from tests.conformance.cases import JSON, TEXT, WORKER_JSON, Case, cases, send
from tests.support.api import API

COMPLETIONS, EMBEDDINGS = "POST /v1/completions", "POST /v1/embeddings"
TRANSCRIPTIONS = "POST /v1/audio/transcriptions"
ZEROS = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
SIZE = 384


def ot(**fields: Any) -> dict[str, Any]:
    """A body for COMPLETIONS."""
    return {"model": "m", "prompt": "Hi", "max_tokens": 6, "temperature": 0, **fields}


def oe(**fields: Any) -> dict[str, Any]:
    """A body for EMBEDDINGS."""
    return {"model": "e", **fields}


def reply_to(api: API, request: str, body: Any = None) -> Any:
    """The reply to a request that succeeds and does not stream."""
    response = send(api, request, body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == WORKER_JSON
    assert response.text.endswith("}\n")
    return response.json()


def chunks(api: API, body: dict[str, Any]) -> list[dict[str, Any]]:
    """All chunks of a stream."""
    response = send(api, COMPLETIONS, {**body, "stream": True})
    assert response.headers["content-type"] == "text/event-stream"
    *frames, done, rest = response.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]


@dataclass(frozen=True, slots=True)
class Refused:
    """A row: a request, and what it is told."""

    id: str
    request: str
    body: Any
    message: str
    status: int = field(default=400, kw_only=True)
    type: str = field(default="invalid_request_error", kw_only=True)
    sent: dict[str, str] = field(default_factory=dict, kw_only=True)

    def run(self, api: API) -> None:
        response = send(api, self.request, self.body, self.sent)
        assert response.status_code == self.status
        error = response.json()["error"]
        assert [*error] == ["message", "type", "param", "code"]
        assert (error["message"], error["type"]) == (self.message, self.type)
        assert response.headers["content-type"] in {JSON, WORKER_JSON}


MULTIPART = {"Content-Type": "multipart/form-data; boundary=x"}
NO_MODEL = '--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF\r\n--x--\r\n'
NO_FORM = "failed to parse multipart form: request Content-Type isn't multipart/form-data"
HEX = "Invalid value for 'encoding_format' = hex. Supported values: ['float', 'base64']."


@cases(
    Refused("E18", EMBEDDINGS, oe(input="Hi", encoding_format="hex"), HEX),
    Refused("E19", EMBEDDINGS, oe(input=[]), "invalid input"),
    Refused("E19 absent", EMBEDDINGS, oe(), "invalid input"),
    Refused("E19 tokens", EMBEDDINGS, oe(input=[1, 2]), "invalid input type"),
    Refused("O35", COMPLETIONS, ot(stop=[1]), "invalid type for 'stop' field: float64"),
    Refused("O42", "GET /v1/models/nope", None, "model 'nope:latest' not found", status=404, type="not_found_error"),
    Refused("O54", TRANSCRIPTIONS, NO_MODEL, "model is required", sent=MULTIPART),
    Refused("O55", TRANSCRIPTIONS, {"model": "m"}, NO_FORM),
)  # fmt: skip
def test_refusals(server, case):
    case.run(server)


@cases(Case("O57", "POST /v1/images/generations", {}, status=404, type=TEXT, text="404 page not found"))
def test_what_is_not_served(server, case):
    case.run(server)


# ---- texts ----


def test_o33_a_whole_reply(server):
    reply = reply_to(server, COMPLETIONS, ot())
    assert [*reply] == ["id", "object", "created", "model", "system_fingerprint", "choices", "usage"]
    assert (reply["object"], reply["model"], reply["system_fingerprint"]) == ("text_completion", "m", "fp_ollama")
    assert reply["id"].startswith("cmpl-")
    (choice,) = reply["choices"]
    assert [*choice] == ["text", "index", "finish_reason"]
    assert choice["text"]
    assert choice["finish_reason"] in {"stop", "length"}


def test_o34_usage_is_in_every_chunk_and_counts_in_the_last(server):
    *told, last = chunks(server, ot(stream_options={"include_usage": True}))
    assert [chunk["usage"] for chunk in told] == [ZEROS] * len(told)
    assert [chunk["choices"][0]["finish_reason"] for chunk in told] == [None] * (len(told) - 1) + ["length"]
    assert told[-1]["choices"][0]["text"] == ""
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 6
    assert "usage" not in chunks(server, ot())[-1]


def test_o37_without_a_prompt_the_model_is_loaded(server):
    (choice,) = reply_to(server, COMPLETIONS, ot(prompt=""))["choices"]
    assert choice == {"text": "", "index": 0, "finish_reason": "load"}


def test_o38_what_stands_between(server):
    assert reply_to(server, COMPLETIONS, ot(model="i", suffix="the end"))["choices"][0]["text"]


@pytest.mark.parametrize(
    ("request_line", "body"),
    [
        (COMPLETIONS, ot()),
        ("POST /v1/chat/completions", {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]}),
    ],
)  # fmt: skip
def test_o53_a_compressed_body(server, request_line, body):
    packed = zstandard.compress(json.dumps(body).encode())
    assert send(server, request_line, packed, {"Content-Encoding": "zstd"}).status_code == 200


# ---- models ----


def test_o39_no_models_are_null(empty):
    assert send(empty(), "GET /v1/models").text == '{"object":"list","data":null}\n'


def test_o41_one_model(server):
    reply = reply_to(server, "GET /v1/models/M")
    assert [*reply] == ["id", "object", "created", "owned_by"]
    assert (reply["id"], reply["object"], reply["owned_by"]) == ("M", "model", "library")


# ---- embeddings ----


def test_e16_a_vector_and_what_it_took(with_e):
    reply = reply_to(with_e, EMBEDDINGS, oe(input="Hi"))
    assert [*reply] == ["object", "data", "model", "usage"]
    assert (reply["object"], reply["model"]) == ("list", "e")
    (item,) = reply["data"]
    assert (item["object"], len(item["embedding"]), item["index"]) == ("embedding", SIZE, 0)
    assert reply["usage"]["prompt_tokens"] == reply["usage"]["total_tokens"] > 0


def test_e20_an_empty_text_is_a_text(with_e):
    assert len(reply_to(with_e, EMBEDDINGS, oe(input=""))["data"]) == 1
