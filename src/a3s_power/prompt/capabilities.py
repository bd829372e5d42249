"""What a model can do, as far as its config, its GGUF header and its templates tell.

The rules and their order are those of Ollama's `/api/show`. `/api/tags` answers by the same
function here: Ollama has a second, slightly different one for it.
"""

from collections.abc import Iterator, Sequence
from enum import StrEnum

from a3s_power.gguf import GGUF
from a3s_power.prompt.tags import thinking_tags
from a3s_power.prompt.template import GoTemplate


class Capability(StrEnum):
    """The words of Ollama's API."""

    COMPLETION = "completion"
    TOOLS = "tools"
    INSERT = "insert"
    VISION = "vision"
    EMBEDDING = "embedding"
    THINKING = "thinking"
    IMAGE = "image"
    AUDIO = "audio"


HARMONY_FAMILIES = ("gptoss", "gpt-oss")

_TOOLS, _THINKING = (Capability.TOOLS,), (Capability.THINKING,)
_BOTH = _TOOLS + _THINKING
PARSER_CAPABILITIES = {
    "qwen3": _TOOLS,
    "qwen3-thinking": _BOTH,
    "qwen3.5": _BOTH,
    "ornith": _BOTH,
    "qwen3-coder": _TOOLS,
    "qwen3-vl-instruct": _TOOLS,
    "qwen3-vl-thinking": _BOTH,
    "ministral": _TOOLS,
    "passthrough": (),
    "harmony": _BOTH,
    "cogito": _BOTH,
    "deepseek3": _BOTH,
    "olmo3": _TOOLS,
    "olmo3-think": _THINKING,
    "nemotron-3-nano": _BOTH,
    "nemotron-3.5-nano": _BOTH,
    "functiongemma": _TOOLS,
    "glm-4.7": _BOTH,
    "glm-ocr": _TOOLS,
    "gemma4": _BOTH,
    "gemma4-no-thinking": _TOOLS,
    "lfm2": _TOOLS,
    "lfm2-thinking": _BOTH,
    "laguna": _BOTH,
    "poolside-v1": _BOTH,
    "cohere": _BOTH,
    "glimmer": _BOTH,
}
"""What the built-in parser of a config's `parser` gets out of the model's text. An unknown one: nothing."""


def capabilities(
    *,
    declared: Sequence[str],
    gguf: GGUF | None,
    projectors: Sequence[GGUF],
    template: GoTemplate | None,
    native: bool,
    parser: str,
    family: str,
) -> tuple[str, ...]:
    """Everything the model can do, each once, in the order in which Ollama lists it.

    `declared` is the config's own list, `native` what `uses_chat_template` decided, `family` the config's
    `model_family`. Without `gguf` (a model that runs elsewhere) nothing is read from a header. Not done: the
    exceptions for safetensors models, which no engine here runs.
    """
    found = dict.fromkeys(declared)
    if gguf:
        found |= dict.fromkeys(_of_model(gguf, native=native))
    for projector in projectors:
        found |= dict.fromkeys(_of_projector(projector))
    if template and not native:
        found |= dict.fromkeys(of_go_template(template))
    found |= dict.fromkeys(PARSER_CAPABILITIES.get(parser, ()))
    if family in HARMONY_FAMILIES:
        found[Capability.THINKING] = None
    if "nemotron_h_omni" in (family, gguf.architecture if gguf else ""):
        found.pop(Capability.AUDIO, None)
    return tuple(str(capability) for capability in found)


def of_chat_template(jinja: str) -> tuple[Capability, ...]:
    """What a GGUF's Jinja template provides for, by Ollama's substring tests: tools, thinking."""
    tests = {
        Capability.TOOLS: "tools" in jinja or "tool_call" in jinja,
        Capability.THINKING: ("<think>" in jinja and "</think>" in jinja) or _drops_thinking(jinja),
    }
    return tuple(capability for capability, holds in tests.items() if holds)


def of_go_template(template: GoTemplate) -> tuple[Capability, ...]:
    """What a Go template provides for: tools, insert, thinking."""
    tests = {
        Capability.TOOLS: "tools" in template.vars,
        Capability.INSERT: "suffix" in template.vars,
        Capability.THINKING: thinking_tags(template.tree) is not None,
    }
    return tuple(capability for capability, holds in tests.items() if holds)


def _of_model(gguf: GGUF, *, native: bool) -> Iterator[Capability]:
    if native and gguf.chat_template:
        yield from of_chat_template(gguf.chat_template)
    yield Capability.COMPLETION if gguf.arch("pooling_type") is None else Capability.EMBEDDING
    if gguf.arch("vision.block_count") is not None:
        yield Capability.VISION
    if gguf.arch("audio.block_count") is not None:
        yield Capability.AUDIO


def _of_projector(projector: GGUF) -> Iterator[Capability]:
    yield Capability.VISION
    hears = any(key.endswith("has_audio_encoder") and value is True for key, value in projector.metadata.items())
    if hears and projector.metadata.get("clip.projector_type") != "gemma3nv":
        yield Capability.AUDIO


def _drops_thinking(jinja: str) -> bool:
    """It cuts reasoning out of old turns, so the model reasons."""
    cuts = "content.split('</think>')" in jinja or 'content.split("</think>")' in jinja
    return cuts and "reasoning_content" not in jinja and "<SPECIAL_12>" not in jinja
