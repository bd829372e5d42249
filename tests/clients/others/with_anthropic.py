"""anthropic, the official SDK."""

import anthropic
import checks
from anthropic import Anthropic
from checks import AGENT, ANSWER, CALL, CALLER, CHAT_MODEL, SAID, SAY, WEATHER, Mood, caught

HI = [{"role": "user", "content": "Hi"}]
COLD = {"temperature": 0}  # a field of the API's; this client has it no longer
SHORT = {"model": CHAT_MODEL, "messages": HI, "max_tokens": 8, "extra_body": COLD}
SAY_A_CALL = [{"role": "user", "content": CALL}]
TOOLS = [{"name": "get_weather", "description": "The weather", "input_schema": WEATHER}]


def client(url):
    return Anthropic(base_url=url, api_key="any", max_retries=0)


def chat(servers):
    reply = client(servers.real).messages.create(**SHORT, system="Be brief.")
    (block,) = reply.content
    assert (block.type, bool(block.text)) == ("text", True)
    assert reply.stop_reason in {"end_turn", "max_tokens"}
    assert 0 < reply.usage.output_tokens <= 8
    assert reply._request_id.startswith("req_")


def stream(servers):
    messages = [{"role": "user", "content": SAY}]
    with client(servers.scripted).messages.stream(model=AGENT, messages=messages, max_tokens=64) as events:
        texts = list(events.text_stream)
        reply = events.get_final_message()
    assert len(texts) > 1
    assert "".join(texts) == reply.content[0].text == SAID
    assert reply.stop_reason == "end_turn"
    assert reply.usage.output_tokens == 3


def tool(servers):
    reply = client(servers.scripted).messages.create(model=AGENT, messages=SAY_A_CALL, tools=TOOLS, max_tokens=64)
    check_call(reply)
    result = {"type": "tool_result", "tool_use_id": reply.content[0].id, "content": checks.get_weather("Oslo")}
    messages = [
        *SAY_A_CALL,
        {"role": "assistant", "content": reply.content},
        {"role": "user", "content": [result]},
    ]
    reply = client(servers.scripted).messages.create(model=AGENT, messages=messages, tools=TOOLS, max_tokens=64)
    assert reply.content[0].text == ANSWER + "get_weather"


def tool_in_a_stream(servers):
    request = {"model": AGENT, "messages": SAY_A_CALL, "tools": TOOLS, "max_tokens": 64}
    with client(servers.scripted).messages.stream(**request) as events:
        kinds = [event.type for event in events]
        check_call(events.get_final_message())
    assert "input_json" in kinds


def check_call(reply):
    assert reply.stop_reason == "tool_use"
    (block,) = reply.content
    assert (block.type, block.name, block.input) == ("tool_use", "get_weather", {"city": "Oslo"})


def tool_that_must_be_called(servers):
    for choice in ({"type": "any"}, {"type": "tool", "name": "get_weather"}):
        reply = client(servers.real).messages.create(
            model=CALLER,
            messages=HI,
            tools=TOOLS,
            tool_choice={**choice, "disable_parallel_tool_use": True},
            max_tokens=64,
            extra_body=COLD,
        )
        (block,) = [block for block in reply.content if block.type == "tool_use"]
        assert block.input["city"] in {"Oslo", "Rome"}


def thinking(servers):
    request = {
        "model": AGENT,
        "messages": [{"role": "user", "content": "say:<think>|Let me |see.|</think>|All |fine."}],
        "max_tokens": 2048,
        "thinking": {"type": "enabled", "budget_tokens": 1024},
    }
    whole = client(servers.scripted).messages.create(**request)
    with client(servers.scripted).messages.stream(**request) as events:
        streamed = events.get_final_message()
    for thought, text in (whole.content, streamed.content):
        assert (thought.type, thought.thinking) == ("thinking", "Let me see.")
        assert (text.type, text.text) == ("text", "All fine.")


def schema(servers):
    messages = [{"role": "user", "content": "I won!"}]
    request = {"model": CHAT_MODEL, "messages": messages, "max_tokens": 64, "extra_body": COLD}
    reply = client(servers.real).messages.parse(**request, output_format=Mood)
    assert isinstance(reply.parsed_output, Mood)


def count_tokens(servers):
    count = client(servers.real).messages.count_tokens(model=CHAT_MODEL, messages=HI)
    reply = client(servers.real).messages.create(**SHORT)
    assert count.input_tokens == reply.usage.input_tokens


def error(servers):
    exc = caught(
        anthropic.NotFoundError, lambda: client(servers.real).messages.create(**{**SHORT, "model": "nope"})
    )
    assert exc.body["error"] == {"type": "not_found_error", "message": "model 'nope' not found"}
    assert exc.request_id == exc.body["request_id"]


def error_in_a_stream(servers):
    messages = [{"role": "user", "content": "break:2"}]
    with client(servers.scripted).messages.stream(model=AGENT, messages=messages, max_tokens=64) as events:
        exc = caught(anthropic.APIStatusError, events.until_done)
    assert "broke as told" in exc.body["error"]["message"]


if __name__ == "__main__":
    checks.run(
        chat,
        stream,
        tool,
        tool_in_a_stream,
        tool_that_must_be_called,
        thinking,
        schema,
        count_tokens,
        error,
        error_in_a_stream,
    )
