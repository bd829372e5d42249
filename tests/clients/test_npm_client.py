"""The `ollama` package from npm, in a Node.js process of its own."""

import ast
import json
import shutil
from pathlib import Path

import pytest

from tests.clients.conftest import unload
from tests.support.api import tiny_gguf
from tests.support.npm import PROGRAMS, CallFailed, node_client
from tests.support.registry import running_registry

PACKAGE = Path(__file__).parent / "npm"

EXCLUDED = {
    "systemone": "asks /v1/systemone, for models of a kind that the engine has not",
    "webSearch": "asks ollama.com, with an account's key",
    "webFetch": "asks ollama.com, with an account's key",
    "abort": "called by calls.mjs, in the middle of a stream",
    "encodeImage": "called by the client for each picture",
    "fileExists": "private",
    "processStreamableRequest": "protected",
}
"""The methods that nothing here calls, and why."""

HI = [{"role": "user", "content": "Hi"}]
GREEDY = {"temperature": 0, "num_predict": 4}
FIGURES = [
    "done_reason",
    "total_duration",
    "load_duration",
    "prompt_eval_count",
    "prompt_eval_duration",
    "eval_count",
    "eval_duration",
]
AGE = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}},
    },
}


@pytest.fixture(scope="module")
def npm(real):
    with connected(real) as client:
        yield client


@pytest.fixture(scope="module")
def npm_of_puppet(puppet):
    with connected(puppet) as client:
        yield client


def connected(api):
    if missing := [program for program in PROGRAMS if not shutil.which(program)]:
        pytest.skip(f"this machine has no {' and no '.join(missing)}")
    return node_client(PACKAGE, api.server.url)


def test_no_method_is_forgotten(npm):
    tree = ast.parse(Path(__file__).read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    called = {call.args[0].value for call in calls if call.func.id == "npm"}
    assert called | EXCLUDED.keys() == npm.methods
    assert not called & EXCLUDED.keys()


# ---- registries ----


@pytest.mark.skipif(shutil.which("docker-registry") is None, reason="this machine has no docker-registry")
def test_push_and_pull(npm_of_puppet, puppet, tmp_path):
    npm = npm_of_puppet
    with running_registry(tmp_path / "registry") as registry:
        request = {"model": f"{registry.host}/test/tiny:v1", "insecure": True}
        puppet.create(request["model"], tiny_gguf(tmp_path / "tiny.gguf"))
        assert npm("push", request)["status"] == "success"
        npm("delete", {"model": request["model"]})
        parts = npm("pull", {**request, "stream": True})
        assert (parts[0]["status"], parts[-1]["status"]) == ("pulling manifest", "success")
        npm("delete", {"model": request["model"]})


# ---- generate and chat ----


def test_generate(npm):
    reply = npm("generate", {"model": "smollm2", "prompt": "Hi", "options": GREEDY})
    assert {*reply} == {"model", "created_at", "response", "done", "context", *FIGURES}
    assert reply["response"]
    assert (reply["done"], reply["done_reason"], reply["eval_count"]) == (True, "length", 4)


def test_generate_in_a_stream(npm):
    request = {"model": "smollm2", "prompt": "Hi", "options": GREEDY}
    whole = npm("generate", request)
    *parts, last = npm("generate", {**request, "stream": True})
    assert "".join(part["response"] for part in (*parts, last)) == whole["response"]
    assert all(part.keys() == {"model", "created_at", "response", "done"} for part in parts)
    assert last.keys() == whole.keys()
    assert last["context"] == whole["context"]


def test_generate_loads_and_unloads(npm):
    assert npm("generate", {"model": "smollm2", "prompt": ""})["done_reason"] == "load"
    assert npm("generate", {"model": "smollm2", "prompt": "", "keep_alive": 0})["done_reason"] == "unload"


def test_chat(npm):
    reply = npm("chat", {"model": "smollm2", "messages": HI, "options": GREEDY})
    assert {*reply} == {"model", "created_at", "message", "done", *FIGURES}
    assert reply["message"].keys() == {"role", "content"}
    assert reply["message"]["content"]


def test_chat_in_a_stream(npm):
    request = {"model": "smollm2", "messages": HI, "options": GREEDY, "logprobs": True}
    whole = npm("chat", request)
    parts = npm("chat", {**request, "stream": True})
    assert "".join(part["message"]["content"] for part in parts) == whole["message"]["content"]
    assert [entry for part in parts for entry in part.get("logprobs", [])] == whole["logprobs"]
    assert parts[-1].keys() | {"logprobs"} == whole.keys()


def test_chat_with_an_answer_in_a_format(npm):
    reply = npm("chat", {"model": "smollm2", "messages": HI, "format": AGE, "options": {"temperature": 0}})
    assert json.loads(reply["message"]["content"]).keys() == {"age"}


@pytest.mark.parametrize("stream", [False, True])
def test_chat_with_a_tool(npm_of_puppet, stream):
    say = 'say:<tool_call>|{"name": "get_weather", |"arguments": {"city": "Oslo"}}|</tool_call>'
    messages = [{"role": "user", "content": say}]
    request = {"model": "agent", "messages": messages, "tools": [WEATHER]}
    reply = npm_of_puppet("chat", {**request, "stream": stream})
    (message,) = [part["message"] for part in (reply if stream else [reply]) if "tool_calls" in part["message"]]
    (call,) = message["tool_calls"]
    assert call["function"] == {"index": 0, "name": "get_weather", "arguments": {"city": "Oslo"}}
    result = {"role": "tool", "tool_name": "get_weather", "content": "say:rain, |says "}
    reply = npm_of_puppet("chat", {**request, "messages": [*messages, message, result]})
    assert reply["message"] == {"role": "assistant", "content": "rain, says get_weather"}


@pytest.mark.parametrize("stream", [False, True])
def test_chat_with_thoughts(npm_of_puppet, stream):
    say = [{"role": "user", "content": "say:<think>|Let me |see.|</think>|All |fine."}]
    reply = npm_of_puppet("chat", {"model": "agent", "messages": say, "think": True, "stream": stream})
    messages = [part["message"] for part in (reply if stream else [reply])]
    assert "".join(message.get("thinking", "") for message in messages) == "Let me see."
    assert "".join(message["content"] for message in messages) == "All fine."


def test_abort_ends_the_work(npm_of_puppet, puppet):
    with pytest.raises(CallFailed) as caught:
        npm_of_puppet("generate", {"model": "agent", "prompt": "paced:100000:200", "stream": True}, abort_after=2)
    assert caught.value.name == "AbortError"
    assert all(part["response"].startswith(" tok") for part in caught.value.parts)
    unload(puppet, "agent")
    assert npm_of_puppet("generate", {"model": "agent", "prompt": "say:Hi"})["response"] == "Hi"


def test_abort_stops_the_real_engine_too(npm, real):
    story = {"model": "smollm2", "prompt": "Tell a long story.", "options": {"temperature": 0}, "stream": True}
    with pytest.raises(CallFailed, match="AbortError"):
        npm("generate", story, abort_after=2)
    unload(real, "smollm2")
    assert npm("ps") == {"models": []}
    assert npm("generate", {"model": "smollm2", "prompt": "Hi", "options": GREEDY})["done"]


# ---- embed ----


def test_embed(npm, embedder):
    reply = npm("embed", {"model": embedder, "input": ["One", "Two"], "truncate": True, "dimensions": 64})
    assert reply.keys() == {"model", "embeddings", "total_duration", "load_duration", "prompt_eval_count"}
    assert [len(vector) for vector in reply["embeddings"]] == [64, 64]


def test_embeddings(npm, embedder):
    reply = npm("embeddings", {"model": embedder, "prompt": "One"})
    assert reply.keys() == {"embedding"}
    assert len(reply["embedding"]) == 384


# ---- models ----


def names(reply):
    return {row["name"] for row in reply["models"]}


def test_version(npm):
    assert npm("version").keys() == {"version"}


def test_list(npm):
    (row,) = [row for row in npm("list")["models"] if row["name"] == "smollm2:latest"]
    assert row.keys() >= {"name", "model", "modified_at", "size", "digest", "details"}
    assert row["details"].keys() >= {
        "parent_model",
        "format",
        "family",
        "families",
        "parameter_size",
        "quantization_level",
    }


def test_show(npm):
    shown = npm("show", {"model": "smollm2", "system": "Be brief."})
    assert shown.keys() >= {"modelfile", "template", "details", "modified_at", "model_info", "capabilities"}
    assert shown["system"] == "Be brief."
    assert shown["capabilities"] == ["completion"]


def test_ps(npm):
    npm("generate", {"model": "smollm2", "prompt": ""})
    (row,) = [row for row in npm("ps")["models"] if row["name"] == "smollm2:latest"]
    assert row.keys() >= {"name", "model", "size", "digest", "details", "expires_at", "size_vram"}


def test_copy_and_delete(npm, made):
    assert npm("copy", {"source": "smollm2", "destination": made}) == {"status": "success"}
    assert "made:latest" in names(npm("list"))
    assert npm("delete", {"model": made}) == {"status": "success"}
    assert "made:latest" not in names(npm("list"))


@pytest.mark.parametrize("stream", [False, True])
def test_create(npm, made, stream):
    more = {"system": "You are a cat.", "parameters": {"num_predict": 3}, "license": "MIT", "messages": HI}
    reply = npm("create", {"model": made, "from": "smollm2", "stream": stream, **more})
    assert (reply[-1] if stream else reply) == {"status": "success"}
    shown = npm("show", {"model": made})
    assert (shown["system"], shown["license"], shown["messages"]) == ("You are a cat.", "MIT", HI)
    assert shown["parameters"].split() == ["num_predict", "3"]


# ---- errors ----


@pytest.mark.parametrize("ask, status, message", [
    (lambda npm: npm("generate", {"model": "nope", "prompt": "Hi"}), 404, "model 'nope' not found"),
    (lambda npm: npm("generate", {"model": "nope", "prompt": "Hi", "stream": True}), 404, "model 'nope' not found"),
    (lambda npm: npm("generate", {"model": "smollm2", "prompt": "a", "suffix": "b"}), 400,
     "registry.ollama.ai/library/smollm2:latest does not support insert"),
    (lambda npm: npm("chat", {"model": "smollm2", "messages": HI, "think": True}), 400,
     '"smollm2" does not support thinking'),
    (lambda npm: npm("chat", {"model": "smollm2", "messages": HI, "tools": [WEATHER]}), 400,
     "registry.ollama.ai/library/smollm2:latest does not support tools"),
    (lambda npm: npm("chat", {"model": "smollm2", "messages": [{**HI[0], "images": ["aGk="]}]}), 400,
     "registry.ollama.ai/library/smollm2:latest does not support vision"),
    (lambda npm: npm("embed", {"model": "nope", "input": "Hi"}), 404, 'model "nope" not found, try pulling it first'),
    (lambda npm: npm("embeddings", {"model": "nope", "prompt": "Hi"}), 404,
     'model "nope" not found, try pulling it first'),
    (lambda npm: npm("show", {"model": "nope"}), 404, "model 'nope:latest' not found"),
    (lambda npm: npm("copy", {"source": "nope", "destination": "other"}), 404, 'model "nope" not found'),
    (lambda npm: npm("delete", {"model": "nope"}), 404, "model 'nope' not found"),
    (lambda npm: npm("create", {"model": "made"}), 400, "neither 'from' or 'files' was specified"),
])  # fmt: skip
def test_a_refusal_is_an_error_with_its_status_and_our_words(npm, ask, status, message):
    with pytest.raises(CallFailed) as caught:
        ask(npm)
    assert (caught.value.name, caught.value.status, caught.value.message) == ("ResponseError", status, message)


def test_an_error_in_a_stream_is_thrown_behind_what_came_before(npm_of_puppet):
    with pytest.raises(CallFailed) as caught:
        npm_of_puppet("generate", {"model": "agent", "prompt": "break:2", "stream": True})
    assert caught.value.message == "broke as told"
    assert [part["response"] for part in caught.value.parts] == [" tok0", " tok1"]
