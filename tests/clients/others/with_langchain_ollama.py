"""langchain-ollama, on the native API."""

import checks
import ollama
from checks import AGENT, ANSWER, CALL, CHAT_MODEL, EMBEDDING_MODEL, SAID, SAY, Mood, caught
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool as as_tool
from langchain_ollama import ChatOllama, OllamaEmbeddings

get_weather = as_tool(checks.get_weather)


def model(servers, **fields):
    return ChatOllama(model=CHAT_MODEL, base_url=servers.real, temperature=0, num_predict=8, **fields)


def agent(servers):
    return ChatOllama(model=AGENT, base_url=servers.scripted).bind_tools([get_weather])


def chat(servers):
    reply = model(servers, validate_model_on_init=True).invoke("Hi")
    assert reply.content
    assert reply.response_metadata["done_reason"] in {"stop", "length"}
    assert 0 < reply.usage_metadata["output_tokens"] <= 8


def stream(servers):
    parts = list(agent(servers).stream(SAY))
    reply = joined(parts)
    assert len(parts) > 2
    assert reply.content == SAID
    assert reply.usage_metadata["output_tokens"] == 3


def tool(servers):
    messages = [HumanMessage(CALL)]
    messages.append(agent(servers).invoke(messages))
    (call,) = messages[-1].tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Oslo"})
    messages.append(get_weather.invoke(call))
    assert agent(servers).invoke(messages).content == ANSWER


def tool_in_a_stream(servers):
    (call,) = joined(agent(servers).stream(CALL)).tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Oslo"})


def joined(parts):
    reply, *others = parts
    for part in others:
        reply += part
    return reply


def schema(servers):
    structured = ChatOllama(model=CHAT_MODEL, base_url=servers.real, temperature=0).with_structured_output(Mood)
    assert isinstance(structured.invoke("I won!"), Mood)


def embedding(servers):
    embeddings = OllamaEmbeddings(model=EMBEDDING_MODEL, base_url=servers.real)
    assert [len(vector) for vector in embeddings.embed_documents(["One", "Two"])] == [384, 384]
    assert len(embeddings.embed_query("One")) == 384


def error(servers):
    exc = caught(ollama.ResponseError, lambda: ChatOllama(model="nope", base_url=servers.real).invoke("Hi"))
    assert (exc.status_code, exc.error) == (404, "model 'nope' not found")


if __name__ == "__main__":
    checks.run(chat, stream, tool, tool_in_a_stream, schema, embedding, error)
