"""langchain-openai."""

import checks
import openai
from checks import AGENT, ANSWER, CALL, CALLER, CHAT_MODEL, EMBEDDING_MODEL, SAID, SAY, Mood, caught
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool as as_tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

get_weather = as_tool(checks.get_weather)


def model(url, name, **fields):
    return ChatOpenAI(model=name, base_url=f"{url}/v1", api_key="any", temperature=0, max_retries=0, **fields)


def agent(servers):
    return model(servers.scripted, AGENT).bind_tools([get_weather])


def chat(servers):
    reply = model(servers.real, CHAT_MODEL, max_tokens=8).invoke("Hi")
    assert reply.content
    assert reply.response_metadata["finish_reason"] in {"stop", "length"}
    assert 0 < reply.usage_metadata["output_tokens"] <= 8


def stream(servers):
    parts = list(model(servers.scripted, AGENT, stream_usage=True).stream(SAY))
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
    assert agent(servers).invoke(messages).content == ANSWER + "get_weather"


def tool_in_a_stream(servers):
    (call,) = joined(agent(servers).stream(CALL)).tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Oslo"})


def joined(parts):
    reply, *others = parts
    for part in others:
        reply += part
    return reply


def schema(servers):
    structured = model(servers.real, CHAT_MODEL).with_structured_output(Mood)
    assert isinstance(structured.invoke("I won!"), Mood)


def schema_by_a_tool(servers):
    structured = model(servers.real, CALLER).with_structured_output(Mood, method="function_calling")
    assert isinstance(structured.invoke("I won!"), Mood)


def embedding(servers):
    embeddings = OpenAIEmbeddings(
        model=EMBEDDING_MODEL,
        base_url=f"{servers.real}/v1",
        api_key="any",
        check_embedding_ctx_length=False,  # else it counts, and sends, tokens of OpenAI's
    )
    assert [len(vector) for vector in embeddings.embed_documents(["One", "Two"])] == [384, 384]
    assert len(embeddings.embed_query("One")) == 384


def error(servers):
    exc = caught(openai.NotFoundError, lambda: model(servers.real, "nope").invoke("Hi"))
    assert exc.body["message"] == "model 'nope' not found"


if __name__ == "__main__":
    checks.run(chat, stream, tool, tool_in_a_stream, schema, schema_by_a_tool, embedding, error)
