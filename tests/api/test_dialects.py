"""What a model says means the same through each API, streamed and whole, however the engine cuts it into pieces.

Six readers ask for the same reply: the official clients of Ollama, OpenAI and Anthropic, each in both ways. A script
says what the model says, and what each of them is to find.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import anthropic
import ollama
import openai
import pytest

from tests.conformance.conftest import create_variants
from tests.conftest import ServerMaker
from tests.support.api import CHAT_TEMPLATE, tiny_gguf

WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = {"get_weather": WEATHER, "get_time": {"type": "object", "properties": {}}}
PERSON = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
TIMINGS = {"cache_n": 2, "prompt_n": 5, "predicted_n": 9}
TOKENS = (7, 9)
"""What the figures above are: tokens of the prompt, cached ones too, and of the reply."""

Cut = Callable[[str], Iterable[str]]
"""A text → its pieces."""


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a reply ended, in the words of each API."""

    ollama: str
    openai: str
    anthropic: str


STOPPED = Ending("stop", "stop", "end_turn")
CUT_OFF = Ending("length", "length", "max_tokens")
CALLED = Ending("stop", "tool_calls", "tool_use")
CALLED_AND_CUT_OFF = Ending("length", "length", "tool_use")  # as Ollama has it
AT_STOP_SEQUENCE = Ending("stop", "stop", "stop_sequence")


@dataclass(frozen=True, slots=True)
class Told:
    """What a reply says, in no API's words but for why it ended."""

    text: str
    thoughts: str
    calls: Sequence[tuple[str, Any]]
    ending: str
    tokens: tuple[int, int] = TOKENS


# ---- what a model says ----


@dataclass(frozen=True, slots=True)
class Think:
    text: str


@dataclass(frozen=True, slots=True)
class Say:
    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """`arguments` as the model writes them. One that is cut off never comes to its end."""

    name: str
    arguments: str
    is_cut_off: bool = False


@dataclass(frozen=True, slots=True)
class Script:
    """All that a model says, and how it ends. `stop` and `schema` are what the client asks for."""

    said: Sequence[Think | Say | Call]
    ending: Ending = STOPPED
    stop: str = ""
    schema: Any = None

    @property
    def is_cut_off(self) -> bool:
        return self.ending.ollama == "length"

    def as_told(self, ending: str) -> Told:
        """What a client is to find in it."""
        whole = [each for each in self.said if isinstance(each, Call) and not each.is_cut_off]
        return Told(
            "".join(each.text for each in self.said if isinstance(each, Say)),
            "".join(each.text for each in self.said if isinstance(each, Think)),
            [(call.name, json.loads(call.arguments)) for call in whole],
            ending,
        )


OSLO, NOW = Call("get_weather", '{"city": "Oslo"}'), Call("get_time", "{}")

SCRIPTS = {
    "a text": Script([Say("It is cold in Oslo.")]),
    "nothing": Script([]),
    "a text that the limit cuts off": Script([Say("It is")], CUT_OFF),
    "a text before a stop sequence": Script([Say("one, two, ")], AT_STOP_SEQUENCE, stop="three"),
    "letters of several code points": Script([Say("Tromsø 北京 👩\u200d🚀🇳🇴 e\u0301 \u2028 \u00ad!")]),
    "what looks like an event": Script([Say('data: [DONE]\n\nevent: error\ndata: {"error": 1}\r\n\r\n: \x1f')]),
    "what looks like a call": Script([Say('{"name": "nobody", "arguments": {"city": "Oslo"}} <tool> a < b </think>')]),
    "thoughts, and a text": Script([Think("Where is it?\n\nIn Norway."), Say("It is cold.\n\nVery.")]),
    "thoughts that the limit cuts off": Script([Think("Where is")], CUT_OFF),
    "thoughts, and a call": Script([Think("I look it up."), OSLO], CALLED),
    "a call": Script([OSLO], CALLED),
    "a call of a tool without parameters": Script([NOW], CALLED),
    "two calls": Script([OSLO, NOW], CALLED),
    "thoughts, a text, and two calls": Script([Think("Hm."), Say("I look."), OSLO, NOW], CALLED),
    "arguments of all kinds": Script(
        [Call("get_weather", ' {"city" : "S\\u00e3o \\"Paulo\\" \\ud83d\\ude00😀 }{ </tool_call>",\n "b": [1, -2.5e3, null, {"c": true}], "": {}} ')],
        CALLED,
    ),
    "a call that the limit cuts off": Script([Say("So."), Call("get_weather", '{"city": "Os', True)], CUT_OFF),
    "a call, and one that the limit cuts off": Script([OSLO, Call("get_weather", '{"ci', True)], CUT_OFF),
    "an answer in a format": Script([Say('{"age": 36}')], schema=PERSON),
    "thoughts, and an answer in a format": Script([Think("Ada?"), Say('{"age": 36}')], schema=PERSON),
    "an answer in a format that the limit cuts off": Script([Say('{"ag')], CUT_OFF, schema=PERSON),
}  # fmt: skip


# ---- how an engine tells it ----


def pieces(text: str, size: int) -> Iterable[str]:
    return (text[start : start + size] for start in range(0, len(text), size))


def read_by_the_engine(script: Script, cut: Cut) -> Iterable[dict[str, Any]]:
    """The engine has told apart what the model says, and cuts each part."""
    calls = 0
    for each in script.said:
        match each:
            case Think(text):
                yield from (delta(reasoning_content=piece) for piece in cut(text))
            case Say(text):
                yield from (delta(content=piece) for piece in cut(text))
            case Call(name, arguments):
                function = {"name": name, "arguments": ""}
                yield delta(tool_calls=[{"index": calls, "id": f"engine-{calls}", "function": function}])
                for piece in cut(arguments.strip()):
                    yield delta(tool_calls=[{"index": calls, "function": {"arguments": piece}}])
                calls += 1
    reason = "length" if script.is_cut_off else "stop"
    yield {"choices": [{"delta": {}, "finish_reason": reason}]}
    yield {"choices": [], "usage": {}, "timings": TIMINGS, "__verbose": {"stopping_word": script.stop}}


def delta(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"delta": fields, "finish_reason": None}]}


def read_by_us(script: Script, cut: Cut) -> Iterable[dict[str, Any]]:
    """The engine tells the model's own words, marks and all."""
    yield from ({"content": piece, "stop": False} for piece in cut(spelt(script)))
    stop_type = "limit" if script.is_cut_off else "word" if script.stop else "eos"
    yield {"content": "", "stop": True, "stop_type": stop_type, "stopping_word": script.stop, "timings": TIMINGS}


def spelt(script: Script) -> str:
    """As models write it. What is cut off is the last, and its end is missing."""
    words = ""
    for each in script.said:
        match each:
            case Think(text):
                words += f"<think>\n{text}" + ("" if script.is_cut_off else "</think>\n\n")
            case Say(text):
                words += text
            case Call(name, arguments, is_cut_off):
                begun = f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}'
                words += begun if is_cut_off else begun + "}\n</tool_call>"
    return words


@dataclass(frozen=True, slots=True)
class Engine:
    """One of the two ways, and the model that it is for."""

    model: str
    tell: Callable[[Script, Cut], Iterable[dict[str, Any]]]

    def asked(self, script: Script, cut: Cut) -> "Asked":
        """What makes the engine say it. Its marks are escaped: they are in the reply only, not in the prompt."""
        prompt = "raw:" + json.dumps([*self.tell(script, cut)]).replace("<", "\\u003c")
        return Asked(self.model, prompt, {} if script.schema else TOOLS, script.schema, script.stop)


ENGINES = {"the engine reads": Engine("native", read_by_the_engine), "we read": Engine("kt", read_by_us)}


# ---- the readers ----


@dataclass(frozen=True, slots=True)
class Asked:
    """One question, in no API's words."""

    model: str
    prompt: str
    tools: dict[str, Any]
    schema: Any = None
    stop: str = ""

    @property
    def functions(self) -> list[dict[str, Any]]:
        return [
            {"type": "function", "function": {"name": name, "parameters": schema}}
            for name, schema in self.tools.items()
        ]

    @property
    def messages(self) -> list[Any]:
        return [{"role": "user", "content": self.prompt}]


class OllamaReaders:
    def __init__(self, url: str) -> None:
        self.client = ollama.Client(url)

    def whole(self, asked: Asked) -> Told:
        return self._told([self._ask(asked)])

    def streamed(self, asked: Asked) -> Told:
        return self._told(self._ask(asked, stream=True))

    def _ask(self, asked: Asked, **more: Any) -> Any:
        options = {"stop": [asked.stop]} if asked.stop else {}
        return self.client.chat(
            asked.model, asked.messages, tools=asked.functions, format=asked.schema, options=options, **more
        )

    def _told(self, replies: Iterable[ollama.ChatResponse]) -> Told:
        replies = list(replies)
        messages, last = [reply.message for reply in replies], replies[-1]
        calls = [call.function for message in messages for call in message.tool_calls or ()]
        return Told(
            "".join(message.content or "" for message in messages),
            "".join(message.thinking or "" for message in messages),
            [(call.name, call.arguments) for call in calls],
            last.done_reason,
            (last.prompt_eval_count, last.eval_count),
        )


class OpenAIReaders:
    def __init__(self, url: str) -> None:
        self.client = openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)

    def whole(self, asked: Asked) -> Told:
        reply = self.client.chat.completions.create(**self._fields(asked))
        (choice,) = reply.choices
        message = choice.message
        calls = [(call.function.name, call.function.arguments) for call in message.tool_calls or ()]
        return self._told([message], calls, choice.finish_reason, reply.usage)

    def streamed(self, asked: Asked) -> Told:
        fields = {**self._fields(asked), "stream": True, "stream_options": {"include_usage": True}}
        *chunks, last = self.client.chat.completions.create(**fields)
        deltas = [chunk.choices[0].delta for chunk in chunks]
        calls: list[tuple[str, str]] = []
        for piece in (piece for delta in deltas for piece in delta.tool_calls or ()):
            if piece.id:
                calls.append((piece.function.name, ""))
            name, arguments = calls[piece.index]
            calls[piece.index] = name, arguments + piece.function.arguments
        return self._told(deltas, calls, chunks[-1].choices[0].finish_reason, last.usage)

    def _fields(self, asked: Asked) -> dict[str, Any]:
        fields: dict[str, Any] = {"model": asked.model, "messages": asked.messages}
        if asked.tools:
            fields["tools"] = asked.functions
        if asked.schema:
            schema = {"name": "answer", "schema": asked.schema}
            fields["response_format"] = {"type": "json_schema", "json_schema": schema}
        return fields | ({"stop": asked.stop} if asked.stop else {})

    def _told(self, said: Iterable[Any], calls: Iterable[tuple[str, str]], ending: str, usage: Any) -> Told:
        said = list(said)
        return Told(
            "".join(each.content or "" for each in said),
            "".join(getattr(each, "reasoning", "") for each in said),
            whole_calls(calls),
            ending,
            (usage.prompt_tokens, usage.completion_tokens),
        )


class AnthropicReaders:
    def __init__(self, url: str) -> None:
        self.client = anthropic.Anthropic(base_url=url, api_key="any", max_retries=0)

    def whole(self, asked: Asked) -> Told:
        return self._told(self.client.messages.create(**self._fields(asked)))

    def streamed(self, asked: Asked) -> Told:
        written: dict[int, str] = {}
        with self.client.messages.stream(**self._fields(asked)) as stream:
            for event in stream:
                if event.type == "content_block_delta" and event.delta.type == "input_json_delta":
                    written[event.index] = written.get(event.index, "") + event.delta.partial_json
            return self._told(stream.get_final_message(), written)

    def _fields(self, asked: Asked) -> dict[str, Any]:
        fields: dict[str, Any] = {"model": asked.model, "max_tokens": 100, "messages": asked.messages}
        if asked.tools:
            fields["tools"] = [{"name": name, "input_schema": schema} for name, schema in asked.tools.items()]
        if asked.schema:
            fields["output_config"] = {"format": {"type": "json_schema", "schema": asked.schema}}
        return fields | ({"stop_sequences": [asked.stop]} if asked.stop else {})

    def _told(self, message: anthropic.types.Message, written: dict[int, str] | None = None) -> Told:
        """`written`: index of a block → what its input was streamed as; the client would make the best of a half."""
        blocks = message.content
        calls = [
            (block.name, json.dumps(block.input) if written is None else written[index])
            for index, block in enumerate(blocks)
            if block.type == "tool_use"
        ]
        return Told(
            "".join(block.text for block in blocks if block.type == "text"),
            "".join(block.thinking for block in blocks if block.type == "thinking"),
            whole_calls(calls),
            message.stop_reason,
            (message.usage.input_tokens, message.usage.output_tokens),
        )


def whole_calls(calls: Iterable[tuple[str, str]]) -> list[tuple[str, Any]]:
    """A stream cannot take back the beginning of a call that is cut off: clients find that its JSON is none."""
    return [(name, json.loads(arguments)) for name, arguments in calls if is_json(arguments)]


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A scripted engine; with `native` it reads replies, with `kt` it leaves that to us."""
    folder = tmp_path_factory.mktemp("dialects")
    with ServerMaker(folder) as make:
        api = make()
        create_variants(api)
        template = CHAT_TEMPLATE + "{# tools <think> </think> #}"
        api.create("native", tiny_gguf(folder / "native.gguf", chat_template=template))
        yield api


@pytest.fixture(scope="module")
def readers(server):
    """All six, each with the word for an ending that it is to find."""
    url = server.server.url
    apis = {"ollama": OllamaReaders(url), "openai": OpenAIReaders(url), "anthropic": AnthropicReaders(url)}
    yield {
        f"{name}, {way}": (name, getattr(api, way)) for name, api in apis.items() for way in ("whole", "streamed")
    }
    for api in apis.values():
        api.client.close()


def check(readers, engine: Engine, script: Script, cut: Cut) -> None:
    asked = engine.asked(script, cut)
    told = {name: read(asked) for name, (_, read) in readers.items()}
    assert told == {name: script.as_told(getattr(script.ending, api)) for name, (api, _) in readers.items()}


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_each_api_tells_the_same(readers, engine, script, size):
    check(readers, engine, script, lambda text: pieces(text, size))


@pytest.mark.parametrize("size", [1, 2, 1000])
def test_a_call_that_came_to_its_end_is_one_whatever_the_limit_cuts_off(readers, size):
    """Of what the engine reads. Where we read, a text behind a call is not told, as in Ollama."""
    script = Script([OSLO, Say("Now")], CALLED_AND_CUT_OFF)
    check(readers, ENGINES["the engine reads"], script, lambda text: pieces(text, size))


RICH = SCRIPTS["thoughts, a text, and two calls"]


@pytest.mark.parametrize("at", range(1, len(spelt(RICH))))
def test_no_cut_changes_what_is_told(readers, at):
    check(readers, ENGINES["we read"], RICH, lambda text: (text[:at], text[at:]))
