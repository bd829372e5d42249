"""Calls that must be, and calls that must not, with the real engine, whatever the model's template thinks of them."""

import time
from dataclasses import dataclass, field

import jsonschema_rs
import msgspec
import pytest

from a3s_power.errors import InvalidRequest
from a3s_power.generation import (
    CallPart,
    ChatInput,
    Done,
    FinishReason,
    GenerationRequest,
    Text,
    Thinking,
    ToolCalls,
    ToolChoice,
)
from a3s_power.messages import Message, ToolCall
from a3s_power.names import ModelName
from a3s_power.scheduler.machine import Memory
from a3s_power.scheduler.measured import Measurements
from a3s_power.scheduler.plans import Sizing
from a3s_power.scheduler.scheduler import Scheduler
from a3s_power.scheduler.slots import Limits, Machine
from a3s_power.service.cards import Cards
from a3s_power.service.chat import ChatService
from a3s_power.service.loading import LoadDefaults, Loader
from a3s_power.service.suspects import Suspects
from a3s_power.store.models import ModelStore
from demo.server import running_server
from tests.api.test_prompt_paths import FORCED_THINKING
from tests.support.api import API
from tests.support.engines import real_engine
from tests.support.templates import with_chat_template

HARMLESS = """{{ if .Tools }}Tools: {{ .Tools }}
{{ end }}{{ range .Messages }}{{ .Role }}: {{ .Content }}{{ if .ToolCalls }}[TOOL_CALLS] {{ .ToolCalls }}{{ end }}
{{ end }}assistant: """
THINKS = "thinks"  # begins every reply with a thought; the engine renders, and would read what comes back
GO = "go"  # with a Go template: we render and read
PLAIN = "plain"  # its template knows no tools

CITY = {"type": "string", "maxLength": 12}
WEATHER = {
    "name": "get-weather",
    "parameters": {
        "type": "object",
        "properties": {"city": CITY, "days": {"type": "integer", "minimum": 1, "maximum": 5}},
        "required": ["city", "days"],
        "additionalProperties": False,
    },
}
TIME = {"name": "get time", "parameters": {"type": "object", "properties": {}}}
ODD = {
    "name": 'say "é"\n',
    "parameters": {"properties": {"tone": {"enum": ["flat", "sharp"]}}, "required": ["tone"]},
}
CANNOT = {"name": "cannot", "parameters": {"type": "object", "properties": {"a": {"not": {"type": "string"}}}}}
MUST = ToolChoice(is_required=True)


def named(name):
    return ToolChoice(is_required=True, name=name)


# ---- a service, and asking it ----


@pytest.fixture(scope="module")
def store(smollm2_gguf, tmp_path_factory):
    """A store with three models."""
    folder = tmp_path_factory.mktemp("choice")
    thinking = with_chat_template(smollm2_gguf, folder / "thinks.gguf", FORCED_THINKING)
    with running_server(folder / "server") as server:
        api = API(server)
        api.create(THINKS, thinking)
        api.create(GO, smollm2_gguf, template=HARMLESS)
        api.create(PLAIN, smollm2_gguf)
        api.close()
    return ModelStore(folder / "server" / "models", noprune=True)


@pytest.fixture(scope="module")
async def service(store, tmp_path_factory):
    memory = Memory()
    machine = Machine(memory.available, memory.of, time.monotonic)
    scheduler = Scheduler(
        real_engine(tmp_path_factory.mktemp("e")), machine, Limits(max_loaded=2, max_queue=9, keep_alive_s=60)
    )
    async with scheduler.running():
        sizing = Sizing(Measurements(None, ""))
        loader = Loader(scheduler, LoadDefaults(slots=1, num_ctx=512), sizing)
        yield ChatService(Cards(store, None), loader, Suspects())


@dataclass
class Reply:
    """A reply's events, by what they are."""

    events: list
    thinking: str = ""
    text: str = ""
    parts: list = field(default_factory=list)
    calls: list = field(default_factory=list)

    def __post_init__(self):
        for event in self.events:
            match event:
                case Thinking(text):
                    self.thinking += text
                case Text(text):
                    self.text += text
                case CallPart():
                    self.parts.append(event)
                case ToolCalls(calls):
                    self.calls += calls

    @property
    def done(self):
        return self.events[-1]


def request(model, *tools, question="What is the weather in Oslo for 3 days?", tokens=80, **fields):
    return GenerationRequest(
        ModelName.parse(model),
        model,
        ChatInput((Message("user", question),), [{"type": "function", "function": tool} for tool in tools]),
        options={"temperature": 0, "num_predict": tokens},
        **fields,
    )


async def ask(service, *args, **fields):
    async with service.open(request(*args, **fields)) as generation:
        reply = Reply([event async for event in generation.events])
    assert isinstance(reply.done, Done)
    return reply


def check(reply, tool):
    """One call of that tool, to its schema, told while it came."""
    (call,) = reply.calls
    assert call.name == tool["name"]
    assert jsonschema_rs.Draft202012Validator(tool["parameters"]).is_valid(call.arguments), call.arguments
    first, *others = reply.parts
    assert (first.name, first.id) == (call.name, call.id)
    assert others
    assert all((part.index, part.id, part.name) == (0, "", "") for part in others)
    assert msgspec.json.decode("".join(part.arguments for part in reply.parts)) == call.arguments
    assert reply.text == ""
    assert reply.done.finish_reason is FinishReason.STOP


# ---- a call that must be ----


@pytest.mark.anyio
@pytest.mark.parametrize("model", [THINKS, GO])
@pytest.mark.parametrize("tool", [WEATHER, TIME, ODD], ids=lambda tool: tool["name"])
async def test_the_tool_that_is_named_is_called(service, model, tool):
    reply = await ask(service, model, WEATHER, ODD, TIME, tool_choice=named(tool["name"]), think=False)
    check(reply, tool)
    assert reply.thinking == ""
    if tool is WEATHER:
        assert len(reply.parts) > 5  # as the model made them


@pytest.mark.anyio
@pytest.mark.parametrize("model", [THINKS, GO])
async def test_one_of_the_tools_is_called(service, model):
    reply = await ask(service, model, ODD, WEATHER, TIME, tool_choice=MUST, think=False)
    check(reply, next(tool for tool in (ODD, WEATHER, TIME) if tool["name"] == reply.calls[0].name))


@pytest.mark.anyio
async def test_a_call_comes_behind_the_thoughts(service):
    reply = await ask(service, THINKS, WEATHER, tool_choice=MUST, thinking_budget=6)
    check(reply, WEATHER)
    assert reply.thinking
    kinds = [type(event) for event in reply.events]
    assert kinds.index(CallPart) > max(n for n, kind in enumerate(kinds) if kind is Thinking)


@pytest.mark.anyio
async def test_a_call_goes_before_a_format(service):
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    reply = await ask(service, THINKS, TIME, tool_choice=MUST, output_format=schema, think=False)
    check(reply, TIME)


@pytest.mark.anyio
async def test_a_call_that_is_cut_off_stays_in_parts(service):
    reply = await ask(service, THINKS, WEATHER, tool_choice=MUST, think=False, tokens=16)
    assert reply.parts[0].name == "get-weather"
    assert (reply.calls, reply.text, reply.done.finish_reason) == ([], "", FinishReason.LENGTH)


@pytest.mark.anyio
async def test_a_schema_that_cannot_be_kept_leaves_any_object(service):
    reply = await ask(service, GO, CANNOT, tool_choice=MUST, tokens=120)
    assert reply.parts[0].name == "cannot"
    assert "".join(part.arguments for part in reply.parts).startswith("{")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("tools", "choice", "said"),
    [
        ((), MUST, "tool_choice requires a call, but there are no tools"),
        ((), named("x"), 'tool_choice names "x", which is not among the tools'),
        ((WEATHER,), named("x"), 'tool_choice names "x", which is not among the tools'),
        ((WEATHER,), ToolChoice(name="x"), 'tool_choice names "x", which is not among the tools'),
        (
            (CANNOT | {"strict": True},),
            MUST,
            'tool "cannot" cannot be strict: "not" at $.properties.a cannot be expressed',
        ),
    ],
)
async def test_what_cannot_be_kept_is_refused(service, tools, choice, said):
    with pytest.raises(InvalidRequest) as error:
        await ask(service, THINKS, *tools, tool_choice=choice)
    assert str(error.value) == said


@pytest.mark.anyio
async def test_pictures_beside_it_are_refused(service):
    asked = request(PLAIN, WEATHER, tool_choice=MUST)
    message = Message("user", "Look", images=(b"\x89PNG",))
    with pytest.raises(InvalidRequest):
        async with service.open(
            GenerationRequest(asked.name, PLAIN, ChatInput((message,), asked.input.tools), tool_choice=MUST)
        ):
            pass


# ---- no call ----


@pytest.mark.anyio
@pytest.mark.parametrize("model", [THINKS, GO, PLAIN])
async def test_where_none_is_allowed_it_is_as_if_there_were_no_tools(service, model):
    without = request(model, WEATHER, tool_choice=ToolChoice(is_allowed=False))
    bare = request(model)
    assert await service.preview(without) == await service.preview(bare)
    one, other = [await ask(service, model, *tools, tokens=8, **more) for tools, more in
                  [((WEATHER,), {"tool_choice": ToolChoice(is_allowed=False)}), ((), {})]]  # fmt: skip
    assert (one.thinking, one.text) == (other.thinking, other.text)
    assert one.calls == []


# ---- other bounds of a reply ----


@pytest.mark.anyio
@pytest.mark.parametrize("fields", [{}, {"output_format": "json"}])
@pytest.mark.parametrize("budget", [0, 1, 6])
async def test_thoughts_are_ended_when_their_budget_is_spent(service, fields, budget):
    """The engine does so where it reads the reply, and we where it does not."""
    by_engine = await ask(service, THINKS, thinking_budget=budget, tokens=20, **fields)
    by_us = await ask(service, THINKS, thinking_budget=budget, tokens=20, top_logprobs=0, **fields)
    for reply in (by_engine, by_us):
        thoughts = [event for event in reply.events if isinstance(event, Thinking) and event.text]
        assert len(thoughts) <= max(1, budget)
        assert reply.text
        assert reply.done.usage.completion_tokens <= 20
    assert by_engine.done.usage.prompt_tokens == by_us.done.usage.prompt_tokens


@pytest.mark.anyio
@pytest.mark.parametrize("fields", [{}, {"top_logprobs": 0}])
async def test_tokens_can_be_favoured_and_banned(service, fields):
    async with service.open(request(PLAIN, tokens=1)) as generation:
        free = Reply([event async for event in generation.events])
        (token,) = await generation.context()  # the engine's is the prompt
    banned = await ask(service, PLAIN, tokens=1, logit_bias={token: -100.0}, **fields)
    assert banned.text != free.text
    favoured = await ask(service, PLAIN, tokens=5, logit_bias={token: 100.0}, **fields)
    assert favoured.text == free.text * 5


@pytest.mark.anyio
async def test_history_with_calls_is_no_reason_to_call(service):
    asked = request(THINKS, WEATHER, tool_choice=ToolChoice(is_allowed=False))
    call = ToolCall("get-weather", {"city": "Oslo", "days": 3}, "c1")
    history = (
        *asked.input.messages,
        Message("assistant", tool_calls=(call,)),
        Message("tool", "rain", tool_call_id="c1"),
    )
    preview = await service.preview(
        GenerationRequest(asked.name, THINKS, ChatInput(history, asked.input.tools), tool_choice=asked.tool_choice)
    )
    assert "<tools>" not in preview.prompt
    assert "get-weather" in preview.prompt
