"""8.3 POST /api/generate."""

import json

import pytest

from tests.conformance.cases import FEW, GENERATE, PS, Case, ask, cases, g, say, send, stream
from tests.conformance.shapes import METRICS
from tests.support.api import until
from tests.support.pictures import Drawing, base64_of, encoded

THINK_WORDS = '(must be "high", "medium", "low", "max", true, or false)'
THINK_TYPES = 'think must be a boolean or string ("high", "medium", "low", "max", true, or false)'
LOGPROB_RANGE = {"status": 400, "error": "top_logprobs must be between 0 and 20"}
NO_PROMPT = {"model": "m", "stream": True}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome"]}, "is_big": {"type": "boolean"}},
    "required": ["city", "is_big"],
}


def wrong(text: str) -> dict:
    return {"status": 400, "error": text}


def debug(text: str) -> dict:
    """The reply that shows what the model would have seen."""
    return {"reply": {"model": "m", "response": "", "done": False, "_debug_info": {"rendered_template": text}}}


@cases(
    Case("G3", GENERATE, NO_PROMPT, reply={"model": "m", "response": "", "done": True, "done_reason": "load"}),
    Case("G5", GENERATE, {"model": "nope", "keep_alive": 0}, status=404, error="model 'nope' not found"),
    Case("G8", GENERATE, g(keep_alive="5"), **wrong('time: missing unit in duration "5"')),
    Case("G9", GENERATE, g(keep_alive="abc"), **wrong('time: invalid duration "abc"')),
    Case("G12", GENERATE, g(raw=True, template="x"), **wrong("raw mode does not support template, system, or context")),
    Case("G13", GENERATE, g(raw=True), check=lambda reply: reply["done"] and "context" not in reply),
    Case("G16", GENERATE, g(think=True), **wrong('"m" does not support thinking')),
    Case("G17", GENERATE, g(think=False), check=lambda reply: reply["response"] and "thinking" not in reply),
    Case("G19", GENERATE, g(think="extreme"), **wrong(f'invalid think value: "extreme" {THINK_WORDS}')),
    Case("G20", GENERATE, g(think=1), **wrong(THINK_TYPES)),
    Case("G23", GENERATE, g(top_logprobs=21), **LOGPROB_RANGE),
    Case("G24", GENERATE, g(top_logprobs=-1), **LOGPROB_RANGE),
    Case("G24 of no model", GENERATE, g(model="nope", top_logprobs=-1), **LOGPROB_RANGE),
    Case("G27", GENERATE, g(top_logprobs=5), check=lambda reply: "logprobs" not in reply),
    # Ollama answers these six with 500; a client's mistake is a 400 here, in the same words.
    Case("G28", GENERATE, g(options={"num_ctx": "x"}), **wrong('option "num_ctx" must be of type integer')),
    Case("G29", GENERATE, g(options={"temperature": "hot"}), **wrong('option "temperature" must be of type float32')),
    Case("G31", GENERATE, g(options={"stop": [1]}), **wrong('option "stop" must be of an array of strings')),
    Case("G32", GENERATE, g(options={"use_mmap": 1}), **wrong('option "use_mmap" must be of type boolean')),
    Case("G40", GENERATE, g(format="xml"), **wrong(r'invalid format: "\"xml\""; expected "json" or a valid JSON Schema object')),
    Case("G43", GENERATE, g(template="{{ .Prompt"), status=400, check=lambda reply: "unclosed action" in reply["error"]),
    Case("G33", GENERATE, g(options={**FEW, "mirostat": 2, "bogus": True, "seed": None}), check=lambda reply: reply["response"]),
    Case("G35", GENERATE, g(options={**FEW, "num_predict": 5}),
         check=lambda reply: (reply["eval_count"], reply["done_reason"]) == (5, "length")),
    Case("G44", GENERATE, g(template="PROMPT: {{ .Prompt }}", prompt="Hello", _debug_render_only=True), **debug("PROMPT: Hello")),
    Case("G44 stream", GENERATE, g(template="PROMPT: {{ .Prompt }}", prompt="Hello", _debug_render_only=True, stream=True),
         **debug("PROMPT: Hello")),
    Case("G45", GENERATE, g(raw=True, prompt="P", _debug_render_only=True), **debug("P")),
)  # fmt: skip
def test_generate(server, case):
    case.run(server)


def test_g1_a_stream_ends_with_its_figures(server):
    *lines, last = stream(server, GENERATE, g())
    assert [*lines[0]] == ["model", "created_at", "response", "done"]
    assert not any(line["done"] for line in lines)
    assert "".join(line["response"] for line in lines) == ask(server, GENERATE, g())["response"]
    assert (last["done"], last["response"], last["done_reason"]) == (True, "", "length")
    assert all(isinstance(token, int) for token in last["context"])
    assert all(last[key] > 0 for key in METRICS.split())


def test_g4_a_model_leaves_and_never_comes_to_be_told_so(unloaded):
    told = {"model": "m", "response": "", "done": True, "done_reason": "unload"}
    leave = Case("G4", GENERATE, {"model": "m", "keep_alive": 0}, reply=told)
    ask(unloaded, GENERATE, {"model": "m"})
    assert unloaded.loaded() == ["m:latest"]
    leave.run(unloaded)
    until(lambda: unloaded.loaded() == [])
    leave.run(unloaded)
    assert unloaded.loaded() == []


@pytest.mark.parametrize("keep_alive", [-1, "-1m"])
def test_g7_a_model_that_stays_for_good_expires_in_centuries(unloaded, keep_alive):
    ask(unloaded, GENERATE, g(keep_alive=keep_alive))
    assert expiry(unloaded) > "2300"


@pytest.mark.parametrize("keep_alive", [42.5, "42m", "-1m"])
def test_g11_keep_alive_is_seconds_or_a_duration(unloaded, keep_alive):
    ask(unloaded, GENERATE, g(keep_alive=keep_alive))
    assert (expiry(unloaded) > "2300") == (keep_alive == "-1m")


def expiry(api) -> str:
    (row,) = ask(api, PS)["models"]
    return row["expires_at"]


def test_g15_a_gap_is_filled(server):
    filled = ask(server, GENERATE, g(model="i", prompt="One", suffix="three"))
    same = ask(server, GENERATE, g(raw=True, prompt="One ... three"))
    assert filled["prompt_eval_count"] == same["prompt_eval_count"]
    assert filled["response"] == same["response"]


def test_g21_thinking_is_told_apart(puppet):
    reply = ask(puppet, GENERATE, say("<think>", "\nLet me ", "think.", "</think>", "\n\n", "Fine.", model="k"))
    assert (reply["thinking"], reply["response"]) == ("Let me think.", "Fine.")


def test_g25_each_token_has_its_logprob(server):
    reply = ask(server, GENERATE, g(logprobs=True))
    assert len(reply["logprobs"]) == reply["eval_count"]
    assert "".join(entry["token"] for entry in reply["logprobs"]) == reply["response"]
    for entry in reply["logprobs"]:
        assert [*entry] == ["token", "logprob", "bytes"]
        assert entry["logprob"] <= 0
        assert bytes(entry["bytes"]).decode() == entry["token"]


def test_g36_a_stop_string_ends_the_answer_before_it(server):
    def answer(**options):
        return ask(
            server, GENERATE, g(prompt="Count to ten.", options={"temperature": 0, "num_predict": 12, **options})
        )

    whole = answer()["response"]
    word = whole.split()[3]
    stopped = answer(stop=[word])
    assert stopped["response"] == whole.partition(word)[0]
    assert stopped["done_reason"] == "stop"


def test_g37_a_seed_makes_the_answer_the_same(server):
    body = g(options={**FEW, "seed": 7})
    assert ask(server, GENERATE, body)["response"] == ask(server, GENERATE, body)["response"]


def test_g39_a_schema_binds_the_answer(server):
    reply = ask(server, GENERATE, g(format=SCHEMA, options={"temperature": 0, "num_predict": 60}))
    answer = json.loads(reply["response"])
    assert answer["city"] in {"Oslo", "Rome"}
    assert isinstance(answer["is_big"], bool)


@pytest.mark.parametrize("value", ["", None])
def test_g41_no_format_is_free_text(server, value):
    reply = send(server, GENERATE, json.dumps({**g(), "format": value})).json()
    assert reply["response"] == ask(server, GENERATE, g())["response"]


def test_g47_a_context_carries_the_conversation_on(server):
    told = ask(server, GENERATE, g(prompt="The capital of Zembla is Onhava."))
    asked = g(prompt="What is the capital of Zembla?", options={"temperature": 0, "num_predict": 16})
    aware = ask(server, GENERATE, {**asked, "context": told["context"]})
    assert aware["context"][: len(told["context"])] == told["context"]
    assert "Onhava" in aware["response"]
    assert "Onhava" not in ask(server, GENERATE, asked)["response"]


def test_g48_an_embedding_model_does_not_write(with_e):
    Case("G48", GENERATE, g(model="e"), **wrong('"e" does not support generate')).run(with_e)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_g49_a_picture_is_seen(with_v, kind):
    picture = base64_of(encoded(Drawing("red", "circle").image, kind))
    reply = ask(with_v, GENERATE, g(model="v", prompt="What color is the shape?", images=[picture]))
    assert reply["response"] == "The shape is red."


def test_g51_a_model_that_paints_is_refused(server):
    info = {"capabilities": ["image"]}
    assert (
        server.post("/api/create", {"model": "painter", "from": "m", "info": info, "stream": False}).status_code
        == 200
    )
    refused = wrong("image generation models are not currently supported")
    Case("G51", GENERATE, g(model="painter"), **refused).run(server)
    server.sdk.delete("painter")
