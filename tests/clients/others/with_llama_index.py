"""llama-index-llms-ollama and llama-index-embeddings-ollama, on the native API."""

import checks
import ollama
from checks import AGENT, ANSWER, CALL, CHAT_MODEL, EMBEDDING_MODEL, SAID, SAY, Mood, caught
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.ollama import OllamaEmbedding
from llama_index.llms.ollama import Ollama

HI = [ChatMessage("Hi")]
get_weather = FunctionTool.from_defaults(checks.get_weather)


def model(servers, **fields):
    return Ollama(CHAT_MODEL, base_url=servers.real, temperature=0, additional_kwargs={"num_predict": 8}, **fields)


def agent(servers):
    return Ollama(AGENT, base_url=servers.scripted)


def chat(servers):
    reply = model(servers).chat(HI)
    assert reply.message.content
    assert 0 < reply.raw["usage"]["completion_tokens"] <= 8


def stream(servers):
    *parts, last = agent(servers).stream_chat([ChatMessage(SAY)])
    assert len(parts) > 1
    assert "".join(part.delta for part in (*parts, last)) == last.message.content == SAID


def complete(servers):
    assert model(servers).complete("Hi").text


def tool(servers):
    reply = agent(servers).chat_with_tools([get_weather], CALL)
    (call,) = agent(servers).get_tool_calls_from_response(reply)
    assert (call.tool_name, call.tool_kwargs) == ("get_weather", {"city": "Oslo"})
    result = ChatMessage(get_weather(**call.tool_kwargs).content, role="tool")
    reply = agent(servers).chat_with_tools([get_weather], chat_history=[ChatMessage(CALL), reply.message, result])
    assert reply.message.content == ANSWER


def tool_in_a_stream(servers):
    *_, last = agent(servers).stream_chat_with_tools([get_weather], CALL)
    (call,) = agent(servers).get_tool_calls_from_response(last)
    assert (call.tool_name, call.tool_kwargs) == ("get_weather", {"city": "Oslo"})


def schema(servers):
    llm = Ollama(CHAT_MODEL, base_url=servers.real, temperature=0)
    assert isinstance(llm.structured_predict(Mood, PromptTemplate("I won!")), Mood)


def embedding(servers):
    embeddings = OllamaEmbedding(EMBEDDING_MODEL, base_url=servers.real)
    assert [len(vector) for vector in embeddings.get_text_embedding_batch(["One", "Two"])] == [384, 384]
    assert len(embeddings.get_query_embedding("One")) == 384


def error(servers):
    nope = Ollama("nope", base_url=servers.real, context_window=512)  # else it asks for what it does not know
    exc = caught(ollama.ResponseError, lambda: nope.chat(HI))
    assert (exc.status_code, exc.error) == (404, "model 'nope' not found")


if __name__ == "__main__":
    checks.run(chat, stream, complete, tool, tool_in_a_stream, schema, embedding, error)
