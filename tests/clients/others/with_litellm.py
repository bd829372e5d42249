"""litellm, on three routes: `ollama_chat/` (the native API), `openai/` and `anthropic/`."""

import json
from dataclasses import dataclass
from functools import partial

import checks
import litellm
from checks import AGENT, ANSWER, CALL, CALLER, CHAT_MODEL, EMBEDDING_MODEL, SAID, SAY, WEATHER, Mood, caught

HI = [{"role": "user", "content": "Hi"}]
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "The weather", "parameters": WEATHER}}
]


@dataclass(frozen=True)
class Route:
    name: str
    path: str = ""
    """Of its API, on the server."""
    key: str | None = None
    schema_model: str = CHAT_MODEL
    """The route may ask for a schema by a tool that must be called."""

    def ask(self, url, model, messages, **more):
        return litellm.completion(
            f"{self.name}/{model}", messages, api_base=url + self.path, api_key=self.key, temperature=0, **more
        )


ROUTES = [
    Route("ollama_chat"),
    Route("openai", path="/v1", key="any"),
    Route("anthropic", key="any", schema_model=CALLER),
]


def chat(route, servers):
    reply = route.ask(servers.real, CHAT_MODEL, HI, max_tokens=8)
    assert reply.choices[0].message.content
    assert reply.choices[0].finish_reason in {"stop", "length"}
    assert 0 < reply.usage.completion_tokens <= 8


def stream(route, servers):
    request = {"messages": [{"role": "user", "content": SAY}], "stream_options": {"include_usage": True}}
    parts = list(route.ask(servers.scripted, AGENT, **request, stream=True))
    reply = litellm.stream_chunk_builder(parts)
    assert len(parts) > 2
    assert reply.choices[0].message.content == SAID
    assert reply.usage.completion_tokens == 3


def tool(route, servers):
    messages = [{"role": "user", "content": CALL}]
    reply = route.ask(servers.scripted, AGENT, messages, tools=TOOLS)
    (call,) = reply.choices[0].message.tool_calls
    assert reply.choices[0].finish_reason == "tool_calls"
    check_call(call)
    result = {"role": "tool", "tool_call_id": call.id, "content": checks.get_weather("Oslo")}
    messages += [reply.choices[0].message.model_dump(), result]
    assert route.ask(servers.scripted, AGENT, messages, tools=TOOLS).choices[0].message.content.startswith(ANSWER)


def tool_in_a_stream(route, servers):
    messages = [{"role": "user", "content": CALL}]
    parts = list(route.ask(servers.scripted, AGENT, messages, tools=TOOLS, stream=True))
    reply = litellm.stream_chunk_builder(parts)
    (call,) = reply.choices[0].message.tool_calls
    assert reply.choices[0].finish_reason == "tool_calls"
    check_call(call)


def check_call(call):
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Oslo"}


def schema(route, servers):
    messages = [{"role": "user", "content": "I won!"}]
    reply = route.ask(servers.real, route.schema_model, messages, response_format=Mood)
    Mood.model_validate_json(reply.choices[0].message.content)


def embedding(servers, *, model, url, key):
    reply = litellm.embedding(f"{model}/{EMBEDDING_MODEL}", ["One", "Two"], api_base=url(servers), api_key=key)
    assert [len(row["embedding"]) for row in reply.data] == [384, 384]


def error(route, servers):
    exc = caught(litellm.exceptions.NotFoundError, lambda: route.ask(servers.real, "nope", HI))
    assert "model 'nope' not found" in str(exc)


if __name__ == "__main__":
    named = {
        f"{route.name} {check.__name__}": partial(check, route)
        for route in ROUTES
        for check in (chat, stream, tool, tool_in_a_stream, schema, error)
    }
    named["ollama embedding"] = partial(embedding, model="ollama", url=lambda servers: servers.real, key=None)
    named["openai embedding"] = partial(
        embedding, model="openai", url=lambda servers: f"{servers.real}/v1", key="any"
    )
    checks.run(**named)
