"""What a model can do, and which of its templates says so."""

from inspect import signature

import pytest

from a3s_power.gguf import GGUF
from a3s_power.prompt.capabilities import capabilities
from a3s_power.prompt.choice import prefers_chat_template, uses_chat_template
from a3s_power.prompt.template import GoTemplate


def gguf(**keys):
    metadata = {"general.architecture": "llama"} | {key.replace("__", "."): value for key, value in keys.items()}
    return GGUF(3, metadata, (), 0, 0)


def go(text):
    return GoTemplate.parse(text)


EMPTY = {
    "declared": (),
    "gguf": gguf(),
    "projectors": (),
    "template": None,
    "native": False,
    "parser": "",
    "family": "llama",
}
JINJA = "{% if tools %}{{ tools }}{% endif %}<think></think>"
THINKING_GO = "{{ range .Messages }}{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}{{ end }}"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "completion"),
        ({"gguf": None}, ""),
        ({"gguf": None, "declared": ("tools", "image")}, "tools image"),
        ({"declared": ("image", "completion")}, "image completion"),
        ({"gguf": gguf(llama__pooling_type=1)}, "embedding"),
        ({"gguf": gguf(llama__pooling_type=0)}, "embedding"),
        ({"gguf": gguf(llama__vision__block_count=2, llama__audio__block_count=2)}, "completion vision audio"),
        ({"projectors": (gguf(),)}, "completion vision"),
        ({"projectors": (gguf(clip__has_audio_encoder=True), gguf())}, "completion vision audio"),
        ({"projectors": (gguf(clip__has_audio_encoder=False),)}, "completion vision"),
        (
            {"projectors": (gguf(clip__has_audio_encoder=True, clip__projector_type="gemma3nv"),)},
            "completion vision",
        ),
        ({"gguf": gguf(tokenizer__chat_template=JINJA), "native": True}, "tools thinking completion"),
        ({"gguf": gguf(tokenizer__chat_template=JINJA), "native": False}, "completion"),
        ({"gguf": gguf(tokenizer__chat_template="<think>"), "native": True}, "completion"),
        (
            {"gguf": gguf(tokenizer__chat_template="content.split('</think>')"), "native": True},
            "thinking completion",
        ),
        (
            {"gguf": gguf(tokenizer__chat_template="content.split('</think>') reasoning_content"), "native": True},
            "completion",
        ),
        ({"template": go("{{ .Messages }}{{ .Tools }}{{ .Suffix }}")}, "completion tools insert"),
        ({"template": go(THINKING_GO)}, "completion thinking"),
        ({"template": go("{{ .Messages }}{{ .Tools }}"), "native": True}, "completion"),
        ({"parser": "qwen3-coder"}, "completion tools"),
        ({"parser": "harmony"}, "completion tools thinking"),
        ({"parser": "unheard-of"}, "completion"),
        ({"family": "gptoss"}, "completion thinking"),
        ({"family": "gpt-oss", "parser": "harmony"}, "completion tools thinking"),
        (
            {"family": "nemotron_h_omni", "projectors": (gguf(clip__has_audio_encoder=True),)},
            "completion vision",
        ),
    ],
)
def test_capabilities_come_in_ollama_s_order(given, expected):
    assert set(EMPTY) == set(signature(capabilities).parameters)
    assert capabilities(**EMPTY | given) == tuple(expected.split())


HARMONY = go("<|start|>{{ .Messages }}<|end|>")
GO_PLAIN = go("{{ .Messages }}")
GO_TOOLS = go("{{ .Messages }}{{ .Tools }}")
GO_ROUND_TRIP = go('{{ range .Messages }}{{ if eq .Role "tool" }}{{ .ToolCalls }}{{ end }}{{ end }}{{ .Tools }}')
JINJA_TOOLS = "{{ tools }}"
JINJA_ROUND_TRIP = "{{ tools }}{{ message.tool_calls }}{% if message['role'] == 'tool' %}"


@pytest.mark.parametrize(
    ("jinja", "template", "expected"),
    [
        ("", GO_PLAIN, False),
        (JINJA_TOOLS, GO_PLAIN, True),
        (JINJA_TOOLS + "<think></think>", GO_TOOLS, True),
        (JINJA_TOOLS + "<think></think>", GO_ROUND_TRIP, False),  # richer, but results would be lost
        (JINJA_ROUND_TRIP + "<think></think>", GO_ROUND_TRIP, True),
        (JINJA_TOOLS, GO_TOOLS, False),
        (JINJA_ROUND_TRIP, GO_TOOLS, True),
        (JINJA_ROUND_TRIP, GO_ROUND_TRIP, False),
        ("<think></think>", GO_TOOLS, False),  # as many, but others
        (JINJA_ROUND_TRIP, go("{{ .Messages }}{{ .Tools }}{{ .Suffix }}"), False),
        ("{{ tool_call }}assistant_tool_call ipython", GO_TOOLS, True),
    ],
)
def test_the_richer_template_is_preferred(jinja, template, expected):
    assert prefers_chat_template(jinja, template) is expected


@pytest.mark.parametrize(
    ("jinja", "template", "given", "expected"),
    [
        (None, None, {}, True),
        (JINJA, None, {}, True),
        (JINJA, None, {"go_template": True}, True),
        (None, GO_PLAIN, {}, False),
        (JINJA, GO_PLAIN, {}, True),
        (JINJA, GO_PLAIN, {"go_template": True}, False),
        (JINJA, GO_ROUND_TRIP, {"go_template": False}, True),
        (None, GO_PLAIN, {"go_template": False}, True),
        (JINJA, GO_PLAIN, {"renderer": "qwen3-coder", "go_template": True}, True),
        (None, GO_PLAIN, {"parser": "qwen3", "go_template": False}, False),
        (None, None, {"renderer": "qwen3-coder"}, True),
        (JINJA, HARMONY, {"family": "gptoss", "go_template": True}, True),
        (None, HARMONY, {"family": "gptoss", "go_template": False}, False),
        (JINJA, HARMONY, {"family": "llama"}, True),
        (JINJA, GO_PLAIN, {"family": "gpt-oss"}, True),
    ],
)
def test_the_path_is_chosen_once_per_model(jinja, template, given, expected):
    assert uses_chat_template(jinja, template, **given) is expected
