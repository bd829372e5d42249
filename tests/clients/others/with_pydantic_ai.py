"""pydantic-ai-slim[openai,anthropic], with Ollama's provider (it speaks OpenAI's API) and with Anthropic's."""

from functools import partial

import checks
from checks import AGENT, ANSWER, CALL, CALLER, CHAT_MODEL, EMBEDDING_MODEL, SAID, SAY, Mood, caught
from pydantic_ai import Agent, Embedder, NativeOutput
from pydantic_ai.embeddings.openai import OpenAIEmbeddingModel
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.ollama import OllamaModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.ollama import OllamaProvider

SHORT = {"temperature": 0, "max_tokens": 8}


def of_ollama(url, name):
    return OllamaModel(name, provider=OllamaProvider(base_url=f"{url}/v1"))


def of_anthropic(url, name):
    return AnthropicModel(name, provider=AnthropicProvider(base_url=url, api_key="any"))


ROUTES = {"ollama": of_ollama, "anthropic": of_anthropic}


def chat(model, servers):
    reply = Agent(model(servers.real, CHAT_MODEL), model_settings=SHORT).run_sync("Hi")
    assert reply.output
    assert 0 < reply.usage.output_tokens <= 8


def stream(model, servers):
    agent = Agent(model(servers.scripted, AGENT))
    reply = agent.run_stream_sync(SAY)
    assert "".join(reply.stream_text(delta=True, debounce_by=None)) == SAID


def tool(model, servers):
    called = []
    agent = Agent(model(servers.scripted, AGENT))

    @agent.tool_plain
    def get_weather(city: str) -> str:
        """The weather in a city."""
        called.append(city)
        return checks.get_weather(city)

    assert agent.run_sync(CALL).output == ANSWER + "get_weather"
    reply = agent.run_stream_sync(CALL)
    assert reply.get_output() == ANSWER + "get_weather"
    assert called == ["Oslo", "Oslo"]


def schema_by_a_tool(model, servers):
    agent = Agent(model(servers.real, CALLER), output_type=Mood, model_settings={"temperature": 0})
    assert isinstance(agent.run_sync("I won!").output, Mood)


def schema(servers):
    model = of_ollama(servers.real, CHAT_MODEL)
    agent = Agent(model, output_type=NativeOutput(Mood), model_settings={"temperature": 0})
    assert isinstance(agent.run_sync("I won!").output, Mood)


def embedding(servers):
    provider = OllamaProvider(base_url=f"{servers.real}/v1")
    embedder = Embedder(OpenAIEmbeddingModel(EMBEDDING_MODEL, provider=provider))
    assert [len(vector) for vector in embedder.embed_documents_sync(["One", "Two"]).embeddings] == [384, 384]


def error(model, servers):
    exc = caught(ModelHTTPError, lambda: Agent(model(servers.real, "nope")).run_sync("Hi"))
    assert exc.status_code == 404
    assert "model 'nope' not found" in str(exc.body)


if __name__ == "__main__":
    named = {
        f"{name} {check.__name__}": partial(check, model)
        for name, model in ROUTES.items()
        for check in (chat, stream, tool, schema_by_a_tool, error)
    }
    named |= {"ollama schema": schema, "ollama embedding": embedding}
    checks.run(**named)
