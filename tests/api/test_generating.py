"""/api/generate and /api/chat: a real model behind a real server, asked by the official client and by hand."""

import json

import ollama
import pytest

from tests.support.api import METRICS, until

HI = [{"role": "user", "content": "Hi"}]
GREEDY = {"temperature": 0, "num_predict": 8}


def test_the_official_client_chats(real):
    reply = real.sdk.chat("smollm2", HI, options=GREEDY)
    assert reply.message.role == "assistant"
    assert reply.message.content
    assert reply.done
    assert reply.done_reason in {"stop", "length"}
    assert reply.prompt_eval_count == 31
    assert 1 <= reply.eval_count <= 8


def test_the_official_client_streams_what_it_would_get_at_once(real):
    whole = real.sdk.chat("smollm2", HI, options=GREEDY)
    parts = list(real.sdk.chat("smollm2", HI, options=GREEDY, stream=True))
    assert "".join(part.message.content for part in parts) == whole.message.content
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]


def test_the_official_client_generates_and_goes_on_from_the_context(real):
    first = real.sdk.generate("smollm2", "My name is Ada.", options=GREEDY)
    second = real.sdk.generate("smollm2", "And yours?", options=GREEDY, context=first.context)
    assert second.prompt_eval_count > first.prompt_eval_count + 8
    assert list(second.context)[: len(first.context)] == list(first.context)


@pytest.mark.anyio
async def test_the_official_async_client_streams(real):
    client = ollama.AsyncClient(host=real.server.url)
    parts = [part async for part in await client.chat("smollm2", HI, options=GREEDY, stream=True)]
    assert parts[-1].done
    await client._client.aclose()


@pytest.mark.parametrize("path, body", [("/api/chat", {"messages": HI}), ("/api/generate", {"prompt": "Hi"})])
def test_a_stream_is_ndjson_with_the_figures_on_its_last_line(real, path, body):
    response = real.post(path, {"model": "SmolLM2", "options": GREEDY, **body})
    lines = [json.loads(line) for line in response.text.splitlines()]
    assert response.headers["content-type"] == "application/x-ndjson"
    assert response.headers["server"].startswith("a3s-power/")
    assert {line["model"] for line in lines} == {"SmolLM2"}  # the client's own spelling
    assert all(line["created_at"].endswith("Z") for line in lines)
    assert not METRICS & {key for line in lines[:-1] for key in line}
    assert lines[-1].keys() >= METRICS
    assert lines[-1]["total_duration"] > lines[-1]["eval_duration"]


def test_a_body_is_read_whatever_its_type_is_called(real):
    body = {"Model": "smollm2", "PROMPT": "Hi", "stream": False, "options": GREEDY, "unknown": [{}]}
    response = real.post("/api/generate", body, headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert response.json()["response"]


def test_options_reach_the_engine(real):
    def ask(**options):
        body = {"model": "smollm2", "prompt": "Count to ten.", "stream": False}
        return real.post("/api/generate", {**body, "options": {"num_predict": 12, **options}}).json()

    short = ask(num_predict=5, temperature=0)
    assert (short["eval_count"], short["done_reason"]) == (5, "length")
    assert ask(seed=7)["response"] == ask(seed=7)["response"]
    assert ask(temperature=0)["response"] == ask(temperature=0, seed=9)["response"]
    whole = ask(temperature=0)["response"]
    word = whole.split()[2]
    stopped = ask(temperature=0, stop=[word])
    assert stopped["response"] == whole.partition(word)[0]
    assert stopped["done_reason"] == "stop"


def test_a_schema_binds_the_answer(real):
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    body = {"model": "smollm2", "messages": HI, "format": schema, "stream": False, "options": {"temperature": 0}}
    assert isinstance(json.loads(real.post("/api/chat", body).json()["message"]["content"])["age"], int)
    body["format"] = "json"
    body["options"]["num_predict"] = 200
    assert real.post("/api/chat", body).json()["message"]["content"].lstrip().startswith("{")


def test_logprobs_come_with_their_tokens(real):
    body = {
        "model": "smollm2",
        "messages": HI,
        "options": GREEDY,
        "logprobs": True,
        "top_logprobs": 2,
        "stream": False,
    }
    reply = real.post("/api/chat", body).json()
    assert len(reply["logprobs"]) == reply["eval_count"]
    for entry in reply["logprobs"]:
        assert entry["logprob"] <= 0
        assert bytes(entry["bytes"]).decode() == entry["token"]
        assert len(entry["top_logprobs"]) == 2


def test_raw_prompts_bypass_the_template(real):
    body = {"model": "smollm2", "prompt": "Once", "raw": True, "stream": False, "options": GREEDY}
    reply = real.post("/api/generate", body).json()
    assert reply["prompt_eval_count"] == 1
    assert "context" not in reply


def test_a_model_is_loaded_and_unloaded_without_a_prompt(real):
    loaded = real.post("/api/generate", {"model": "smollm2"}).json()
    assert (loaded["done"], loaded["done_reason"], loaded["response"]) == (True, "load", "")
    assert real.loaded() == ["smollm2:latest"]
    unloaded = real.post("/api/chat", {"model": "smollm2", "messages": [], "keep_alive": 0}).json()
    assert unloaded["done_reason"] == "unload"
    until(lambda: real.loaded() == [])  # it goes as soon as its process has


def test_a_smaller_context_is_served_by_the_larger_one_that_is_loaded(real):
    def ask(num_ctx):
        body = {"model": "smollm2", "prompt": "word " * 40, "stream": False}
        return real.post("/api/generate", {**body, "options": {"num_ctx": num_ctx, "temperature": 0}}).json()

    assert ask(512)["done"]
    small = ask(100)
    assert small["prompt_eval_count"] + small["eval_count"] <= 100
    assert "64 available" in ask(64)["error"]
    assert real.http.get("/api/ps").json()["models"][0]["context_length"] == 512


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/api/generate", "", 400, "missing request body"),
        ("/api/chat", '{"model":', 400, "unexpected EOF"),
        ("/api/chat", "[]", 400, "json: cannot unmarshal array into Go value of type api.ChatRequest"),
        ("/api/chat", {"model": 1}, 400, "json: cannot unmarshal number into Go struct field ChatRequest.model of type string"),
        ("/api/chat", {"model": "smollm2", "messages": [{"content": [{"type": "text"}]}]}, 400,
         "json: cannot unmarshal array into Go struct field ChatRequest.messages.content of type string"),
        ("/api/chat", {}, 400, "model is required"),
        ("/api/chat", "null", 400, "model is required"),
        ("/api/generate", {}, 404, "model '' not found"),
        ("/api/generate", {"model": "nope", "prompt": "Hi"}, 404, "model 'nope' not found"),
        ("/api/chat", {"model": "nope", "messages": HI}, 404, "model 'nope' not found"),
        ("/api/generate", {"model": "bad name!"}, 400, "invalid model name"),
        ("/api/chat", {"model": "smollm2", "messages": HI, "think": True}, 400, '"smollm2" does not support thinking'),
        ("/api/chat", {"model": "smollm2", "messages": HI, "tools": [{"type": "function"}]}, 400,
         "registry.ollama.ai/library/smollm2:latest does not support tools"),
        ("/api/generate", {"model": "smollm2", "prompt": "a", "suffix": "b"}, 400,
         "registry.ollama.ai/library/smollm2:latest does not support insert"),
        ("/api/chat", {"model": "smollm2", "messages": [{"role": "user", "images": ["aGk="]}]}, 400,
         "registry.ollama.ai/library/smollm2:latest does not support vision"),
        ("/api/chat", {"model": "smollm2", "messages": [{"role": "user", "images": ["!!!"]}]}, 400,
         "illegal base64 data at input byte 0"),
        ("/api/generate", {"model": "smollm2", "prompt": "a", "raw": True, "template": "x"}, 400,
         "raw mode does not support template, system, or context"),
        ("/api/generate", {"model": "smollm2", "prompt": "a", "options": {"num_ctx": "x"}}, 400,
         'option "num_ctx" must be of type integer'),
        ("/api/generate", {"model": "smollm2", "prompt": "a", "options": {"stop": [1]}}, 400,
         'option "stop" must be of an array of strings'),
        ("/api/generate", {"model": "smollm2", "prompt": "a", "format": "xml"}, 400,
         'invalid format: "\\"xml\\""; expected "json" or a valid JSON Schema object'),
        ("/api/generate", {"model": "smollm2", "prompt": "a", "keep_alive": "5"}, 400,
         'time: missing unit in duration "5"'),
        ("/api/generate", {"model": "smollm2", "prompt": "a", "think": "extreme"}, 400,
         'invalid think value: "extreme" (must be "high", "medium", "low", "max", true, or false)'),
        ("/api/generate", {"model": "smollm2", "prompt": "a", "top_logprobs": 21}, 400,
         "top_logprobs must be between 0 and 20"),
        ("/api/generate", {"model": "smollm2", "prompt": "a", "template": "{{ .Prompt"}, 400, None),
    ],
)  # fmt: skip
def test_mistakes_have_an_answer(real, path, body, status, message):
    response = real.post(path, body)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    error = response.json()["error"]
    assert error == message if message else error


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path, key", [("/api/chat", "messages"), ("/api/generate", "prompt")])
def test_a_prompt_longer_than_the_context_is_refused_with_the_numbers(real, path, key, stream):
    text = "word " * 900
    prompt = [{"role": "user", "content": text}] if key == "messages" else text
    response = real.post(path, {"model": "smollm2", key: prompt, "stream": stream})
    assert response.status_code == 400
    assert "512 available" in response.json()["error"]


def test_a_model_s_own_system_and_messages_and_parameters_count(real):
    fields = {"system": "You are a cat.", "parameters": {"num_predict": 3, "temperature": 0, "stop": ["dog"]}}
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    body = {"model": "cat", "from": "smollm2", "messages": messages, "stream": False, **fields}
    assert real.post("/api/create", body).json() == {"status": "success"}
    ours = real.post("/api/chat", {"model": "cat", "messages": HI, "stream": False}).json()
    by_hand = [{"role": "system", "content": "You are a cat."}, *messages, *HI]
    same = real.post("/api/chat", {"model": "smollm2", "messages": by_hand, "stream": False}).json()
    assert ours["eval_count"] == 3
    assert ours["prompt_eval_count"] == same["prompt_eval_count"]
    assert real.loaded() == ["smollm2:latest"]  # one file, one runner
    real.sdk.delete("cat")


def test_a_go_template_prompts_the_model(real):
    template = "{{ if .System }}[{{ .System }}] {{ end }}<{{ .Prompt }}>{{ .Response }}"
    real.post(
        "/api/create", {"model": "go", "from": "smollm2", "template": template, "system": "S", "stream": False}
    )
    shown = real.post("/api/show", {"model": "go"}).json()
    assert shown["template"] == template
    for path, body in (("/api/chat", {"messages": HI}), ("/api/generate", {"prompt": "Hi"})):
        reply = real.post(path, {"model": "go", "stream": False, "options": GREEDY, **body}).json()
        raw = {"model": "smollm2", "prompt": "[S] <Hi>", "raw": True, "stream": False, "options": GREEDY}
        assert reply["prompt_eval_count"] == real.post("/api/generate", raw).json()["prompt_eval_count"]
    real.sdk.delete("go")
