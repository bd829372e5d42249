"""The `ollama` package from PyPI, its Client and its AsyncClient: each test asks with both."""

import ast
import shutil
from collections.abc import AsyncIterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import ollama
import pytest
from anyio.from_thread import start_blocking_portal
from pydantic import BaseModel

from tests.clients.conftest import unload
from tests.support.api import METRICS, tiny_gguf
from tests.support.registry import running_registry

EXCLUDED = {
    "systemone": "asks /v1/systemone, for models of a kind that the engine has not",
    "web_search": "asks ollama.com, with an account's key",
    "web_fetch": "asks ollama.com, with an account's key",
}
"""The methods that nothing here calls, and why."""

HI = [{"role": "user", "content": "Hi"}]
GREEDY = {"temperature": 0, "num_predict": 4}
PNG = b"\x89PNG\r\n\x1a\n"


class Pet(BaseModel):
    age: int
    is_cat: bool


def get_weather(city: str) -> str:
    """Tell the weather in a city.

    Args:
        city: Its name
    """
    return f"rain in {city}"


# ---- both clients as one ----


class Awaited:
    """An AsyncClient as a Client: calls are awaited, streams read to their ends."""

    def __init__(self, portal, client):
        self._portal = portal
        self._client = client

    def __getattr__(self, name):
        method = getattr(self._client, name)
        return lambda *args, **kwargs: self._portal.call(self._outcome, method, args, kwargs)

    @staticmethod
    async def _outcome(method, args, kwargs):
        reply = await method(*args, **kwargs)
        return [part async for part in reply] if isinstance(reply, AsyncIterator) else reply


@pytest.fixture(scope="module", params=["Client", "AsyncClient"])
def connect(request):
    """A context manager that makes a client for a server's URL."""

    @contextmanager
    def connect(url):
        with start_blocking_portal() as portal:
            made = getattr(ollama, request.param)(url, trust_env=False)
            client = made if isinstance(made, ollama.Client) else Awaited(portal, made)
            yield client
            client.close()

    return connect


@pytest.fixture(scope="module")
def client(connect, real):
    with connect(real.server.url) as client:
        yield client


@pytest.fixture(scope="module")
def client_of_puppet(connect, puppet):
    with connect(puppet.server.url) as client:
        yield client


def public(kind):
    return {name for name in dir(kind) if not name.startswith("_")}


def test_no_method_is_forgotten():
    tree = ast.parse(Path(__file__).read_text(encoding="utf-8"))
    called = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "client"
    }
    assert called | EXCLUDED.keys() == public(ollama.Client) == public(ollama.AsyncClient)
    assert not called & EXCLUDED.keys()


# ---- generate ----


def text_of(parts):
    return "".join(part.response for part in parts)


def test_generate(client):
    reply = client.generate("smollm2", "Hi", options=GREEDY)
    assert reply.model == "smollm2"
    assert datetime.fromisoformat(reply.created_at).tzinfo == UTC
    assert reply.response
    assert (reply.done, reply.done_reason) == (True, "length")
    assert reply.eval_count == 4
    assert reply.model_fields_set == {
        "model",
        "created_at",
        "response",
        "done",
        "done_reason",
        "context",
        *METRICS,
    }


def test_generate_in_a_stream(client):
    whole = client.generate("smollm2", "Hi", options=GREEDY)
    *parts, last = client.generate("smollm2", "Hi", options=GREEDY, stream=True)
    assert text_of([*parts, last]) == whole.response
    assert all(part.model_fields_set == {"model", "created_at", "response", "done"} for part in parts)
    assert not any(part.done for part in parts)
    assert last.model_fields_set == whole.model_fields_set
    assert last.context == whole.context


def test_generate_in_a_template_of_one_s_own(client):
    ours = {"system": "Be brief.", "template": "{{ .System }} <{{ .Prompt }}>"}
    templated = client.generate("smollm2", "Hi", options=GREEDY, **ours)
    raw = client.generate("smollm2", "Be brief. <Hi>", raw=True, options=GREEDY)
    assert templated.response == raw.response
    assert templated.prompt_eval_count == raw.prompt_eval_count
    assert raw.context is None


def test_generate_goes_on_from_a_context(client):
    first = client.generate("smollm2", "My name is Ada.", options=GREEDY)
    second = client.generate("smollm2", "And yours?", options=GREEDY, context=first.context)
    assert second.context[: len(first.context)] == first.context
    assert second.prompt_eval_count > len(first.context)


def test_generate_with_options(client):
    options = ollama.Options(num_predict=3, temperature=0, seed=1, top_k=5, stop=["dog"], num_ctx=256, mirostat=0)
    reply = client.generate("smollm2", "Count to ten.", options=options)
    assert (reply.eval_count, reply.done_reason) == (3, "length")


def test_generate_what_a_pydantic_model_reads(client):
    reply = client.generate(
        "smollm2", "A cat of 3 years.", format=Pet.model_json_schema(), options={"temperature": 0}
    )
    Pet.model_validate_json(reply.response)


def test_generate_with_logprobs(client):
    reply = client.generate("smollm2", "Hi", logprobs=True, top_logprobs=2, options=GREEDY)
    check_logprobs(reply)
    assert "".join(entry.token for entry in reply.logprobs) == reply.response


def check_logprobs(reply):
    assert len(reply.logprobs) == reply.eval_count
    for entry in reply.logprobs:
        best, second = entry.top_logprobs
        assert (best.token, best.logprob) == (entry.token, entry.logprob)
        assert 0 >= best.logprob >= second.logprob


def test_generate_without_thinking(client):
    assert client.generate("smollm2", "Hi", think=False, options=GREEDY).thinking is None


@pytest.mark.parametrize("keep_alive, minutes", [("10m", 10), (90, 1.5)])
def test_generate_keeps_the_model_for_as_long_as_asked(client, keep_alive, minutes):
    client.generate("smollm2", "Hi", options=GREEDY, keep_alive=keep_alive)
    (row,) = [row for row in client.ps().models if row.model == "smollm2:latest"]
    left = row.expires_at - datetime.now(UTC)
    assert timedelta(minutes=minutes - 1) < left <= timedelta(minutes=minutes)
    client.generate("smollm2", keep_alive="5m")


def test_generate_loads_and_unloads(client):
    assert client.generate("smollm2").done_reason == "load"
    assert client.generate("smollm2", keep_alive=0).done_reason == "unload"


# ---- chat ----


def test_chat(client):
    reply = client.chat("smollm2", HI, options=GREEDY)
    assert reply.message.model_fields_set == {"role", "content"}
    assert reply.message.role == "assistant"
    assert reply.message.content
    assert reply.model_fields_set == {"model", "created_at", "message", "done", "done_reason", *METRICS}


def test_chat_in_a_stream(client):
    whole = client.chat("smollm2", HI, options=GREEDY)
    *parts, last = client.chat("smollm2", HI, options=GREEDY, stream=True)
    assert "".join(part.message.content for part in (*parts, last)) == whole.message.content
    assert all(part.model_fields_set == {"model", "created_at", "message", "done"} for part in parts)
    assert last.model_fields_set == whole.model_fields_set


def test_chat_goes_on_from_its_own_replies(client):
    messages = [ollama.Message(role="system", content="Be brief."), *HI]
    first = client.chat("smollm2", messages, options=GREEDY)
    second = client.chat("smollm2", [*messages, first.message, *HI], options=GREEDY)
    assert second.prompt_eval_count > first.prompt_eval_count + first.eval_count


def test_chat_about_what_a_pydantic_model_reads(client):
    reply = client.chat("smollm2", HI, format=Pet.model_json_schema(), options={"temperature": 0})
    Pet.model_validate_json(reply.message.content)


def test_chat_with_logprobs(client):
    check_logprobs(client.chat("smollm2", HI, logprobs=True, top_logprobs=2, options=GREEDY))


@pytest.mark.parametrize("stream", [False, True])
def test_chat_with_a_function_as_a_tool(client_of_puppet, stream):
    say = 'say:<tool_call>|{"name": "get_weather", |"arguments": {"city": "Oslo"}}|</tool_call>'
    messages = [{"role": "user", "content": say}]
    reply = client_of_puppet.chat("agent", messages, tools=[get_weather], stream=stream)
    parts = list(reply) if stream else [reply]
    (message,) = [part.message for part in parts if part.message.tool_calls]
    (call,) = message.tool_calls
    assert (call.function.name, call.function.arguments) == ("get_weather", {"city": "Oslo"})
    result = {
        "role": "tool",
        "tool_name": "get_weather",
        "content": f"say:{get_weather(**call.function.arguments)}|, says ",
    }
    reply = client_of_puppet.chat("agent", [*messages, message, result], tools=[get_weather])
    assert reply.message.content == "rain in Oslo, says get_weather"


@pytest.mark.parametrize("stream", [False, True])
def test_chat_with_thoughts(client_of_puppet, stream):
    say = [{"role": "user", "content": "say:<think>|Let me |see.|</think>|All |fine."}]
    reply = client_of_puppet.chat("agent", say, think=True, stream=stream)
    messages = [part.message for part in reply] if stream else [reply.message]
    assert "".join(message.thinking or "" for message in messages) == "Let me see."
    assert "".join(message.content for message in messages) == "All fine."


# ---- embed ----


def test_embed(client, embedder):
    reply = client.embed(embedder, ["One", "Two"])
    assert [len(vector) for vector in reply.embeddings] == [384, 384]
    assert reply.model_fields_set == {
        "model",
        "embeddings",
        "total_duration",
        "load_duration",
        "prompt_eval_count",
    }
    (alone,) = client.embed(embedder, "One", truncate=True, keep_alive="5m").embeddings
    assert alone == pytest.approx(reply.embeddings[0], abs=1e-4)
    (short,) = client.embed(embedder, "One", dimensions=64).embeddings
    assert len(short) == 64


def test_embeddings(client, embedder):
    assert len(client.embeddings(embedder, "One").embedding) == 384


# ---- models ----


def test_list(client):
    (row,) = [row for row in client.list().models if row.model == "smollm2:latest"]
    assert row.model_fields_set == set(ollama.ListResponse.Model.model_fields)
    assert row.modified_at <= datetime.now(UTC)
    assert row.size > 98_000_000
    assert len(row.digest) == 64
    check_details(row.details)


def check_details(details):
    assert details.model_dump() == {
        "parent_model": "",
        "format": "gguf",
        "family": "llama",
        "families": ["llama"],
        "parameter_size": "134.52M",
        "quantization_level": "Q4_1",
    }


def test_show(client):
    shown = client.show("smollm2")
    assert shown.model_fields_set == set(ollama.ShowResponse.model_fields) - {"parameters", "license"}
    assert shown.capabilities == ["completion"]
    assert shown.modelinfo["general.architecture"] == "llama"
    assert "<|im_start|>" in shown.template
    assert "\nFROM /" in shown.modelfile
    check_details(shown.details)


def test_ps(client):
    client.generate("smollm2")
    (row,) = [row for row in client.ps().models if row.model == "smollm2:latest"]
    assert row.model_fields_set == set(ollama.ProcessResponse.Model.model_fields)
    assert row.name == row.model
    assert row.size >= row.size_vram == 0
    assert row.context_length == 512
    check_details(row.details)


def test_copy_and_delete(client, made):
    assert client.copy("smollm2", made).status == "success"
    digests = {row.model: row.digest for row in client.list().models}
    assert digests["made:latest"] == digests["smollm2:latest"]
    assert client.delete(made).status == "success"
    assert "made:latest" not in {row.model for row in client.list().models}


def test_create_from_another_model(client, made):
    reply = client.create(
        made,
        from_="smollm2",
        system="You are a cat.",
        template="{{ .System }} {{ .Prompt }}",
        parameters={"num_predict": 3, "stop": ["dog"]},
        license=["MIT", "Apache-2.0"],
        messages=[ollama.Message(role="user", content="Meow?")],
    )
    assert (reply.status, reply.model_fields_set) == ("success", {"status"})
    shown = client.show(made)
    assert shown.template == "{{ .System }} {{ .Prompt }}"
    assert shown.license == "MIT\nApache-2.0"
    assert sorted(shown.parameters.split()) == ['"dog"', "3", "num_predict", "stop"]
    assert "\nSYSTEM You are a cat.\n" in shown.modelfile
    assert "\nMESSAGE user Meow?" in shown.modelfile
    assert client.generate(made, "Hi").eval_count <= 3


def test_create_from_an_uploaded_file_in_a_stream(client, made, tmp_path):
    gguf = tiny_gguf(tmp_path / "tiny.gguf")
    digest = client.create_blob(gguf)
    assert client.create_blob(gguf) == digest
    lines = [part.status for part in client.create(made, files={"tiny.gguf": digest}, stream=True)]
    assert lines[0] == "parsing GGUF"
    assert lines[-2:] == ["writing manifest", "success"]
    assert client.show(made).details.format == "gguf"


# ---- errors ----


@pytest.mark.parametrize("ask, status, message", [
    (lambda client: client.generate("nope", "Hi"), 404, "model 'nope' not found"),
    (lambda client: list(client.generate("nope", "Hi", stream=True)), 404, "model 'nope' not found"),
    (lambda client: client.generate("smollm2", "a", suffix="b"), 400, "registry.ollama.ai/library/smollm2:latest does not support insert"),
    (lambda client: client.generate("smollm2", "Look.", images=[PNG]), 400, "registry.ollama.ai/library/smollm2:latest does not support vision"),
    (lambda client: client.generate("smollm2", "Hi", think=True), 400, '"smollm2" does not support thinking'),
    (lambda client: client.generate("smollm2", "Hi", options={"num_ctx": "x"}), 400, 'option "num_ctx" must be of type integer'),
    (lambda client: client.chat("nope", HI), 404, "model 'nope' not found"),
    (lambda client: client.chat("smollm2", HI, think="high"), 400, '"smollm2" does not support thinking'),
    (lambda client: client.chat("smollm2", HI, tools=[get_weather]), 400, "registry.ollama.ai/library/smollm2:latest does not support tools"),
    (lambda client: client.chat("smollm2", [{**HI[0], "images": [PNG]}]), 400, "registry.ollama.ai/library/smollm2:latest does not support vision"),
    (lambda client: client.embed("nope", "Hi"), 404, 'model "nope" not found, try pulling it first'),
    (lambda client: client.embeddings("nope", "Hi"), 404, 'model "nope" not found, try pulling it first'),
    (lambda client: client.show("nope"), 404, "model 'nope:latest' not found"),
    (lambda client: client.copy("nope", "other"), 404, 'model "nope" not found'),
    (lambda client: client.delete("nope"), 404, "model 'nope' not found"),
    (lambda client: client.create("made"), 400, "neither 'from' or 'files' was specified"),
    (lambda client: client.create("made", from_="smollm2", template="{{ .Prompt"), 400, None),
    (lambda client: client.create("made", files={"a.gguf": "sha256:abc"}), 400, "invalid digest format"),
])  # fmt: skip
def test_a_refusal_is_an_error_with_its_status_and_our_words(client, ask, status, message):
    with pytest.raises(ollama.ResponseError) as caught:
        ask(client)
    assert caught.value.status_code == status
    assert caught.value.error == message if message else caught.value.error


def test_an_error_in_a_stream_is_raised_behind_what_came_before(client_of_puppet):
    with pytest.raises(ollama.ResponseError, match="broke as told"):
        list(client_of_puppet.generate("agent", "break:2", stream=True))


# ---- clients that leave ----

LONG = "paced:100000:200"
"""A reply of minutes, at a speed that an engine could have."""


def test_a_stream_that_is_left_ends_its_work(puppet):
    with ollama.Client(puppet.server.url, trust_env=False) as client:
        parts = client.generate("agent", LONG, stream=True)
        assert next(parts).response.startswith(" tok")
        parts.close()
        unload(puppet, "agent")
        assert client.generate("agent", "say:Hi").response == "Hi"


@pytest.mark.anyio
async def test_a_stream_that_is_left_ends_its_work_in_async_code_too(puppet):
    async with ollama.AsyncClient(puppet.server.url, trust_env=False) as client:
        parts = await client.chat("agent", [{"role": "user", "content": LONG}], stream=True)
        assert (await anext(parts)).message.content.startswith(" tok")
        await parts.aclose()
        unload(puppet, "agent")
        assert (await client.generate("agent", "say:Hi")).response == "Hi"


# ---- registries ----


@pytest.mark.skipif(shutil.which("docker-registry") is None, reason="this machine has no docker-registry")
def test_push_and_pull(client_of_puppet, puppet, tmp_path):
    client = client_of_puppet
    with running_registry(tmp_path / "registry") as registry:
        name = f"{registry.host}/test/tiny:v1"
        puppet.create(name, tiny_gguf(tmp_path / "tiny.gguf"))
        assert client.push(name, insecure=True).status == "success"
        client.delete(name)
        parts = list(client.pull(name, insecure=True, stream=True))
        assert (parts[0].status, parts[-1].status) == ("pulling manifest", "success")
        assert any(part.completed == part.total for part in parts if part.digest)
        with pytest.raises(ollama.ResponseError, match="file does not exist"):
            client.pull(f"{registry.host}/test/absent", insecure=True)
        client.delete(name)
