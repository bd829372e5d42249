"""Which of a model's two templates speaks for it: its Go template, or the Jinja one inside its GGUF.

The decision is Ollama's (`server/prompt.go`, `server/images.go`). *Native* means that the engine applies the
GGUF's chat template itself; otherwise we render the prompt and the engine sees text.
"""

from a3s_power.prompt.capabilities import HARMONY_FAMILIES, Capability, of_chat_template, of_go_template
from a3s_power.prompt.template import GoTemplate

_TOOL_ROLES = (
    "tool_response",
    "tool_results",
    "role'] == 'tool'",
    'role\'] == "tool"',
    "role\"] == 'tool'",
    'role"] == "tool"',
    "message.role == 'tool'",
    'message.role == "tool"',
    "ipython",
)


def uses_chat_template(
    jinja: str | None,
    template: GoTemplate | None,
    *,
    renderer: str = "",
    parser: str = "",
    family: str = "",
    go_template: bool | None = None,
) -> bool:
    """Whether the model takes the native path. Without either template it does: the engine has a default.

    `renderer`, `parser` and `family` are the config's; `go_template` is OLLAMA_GO_TEMPLATE, None when unset.
    Models for Ollama's built-in renderers, and gpt-oss, take it wherever the file has a template: llama.cpp knows
    them.
    """
    if renderer or parser or is_harmony(template, family):
        return jinja is not None or template is None
    if template is None:
        return True
    if go_template is not None:
        return not go_template
    return jinja is not None and prefers_chat_template(jinja, template)


def is_harmony(template: GoTemplate | None, family: str) -> bool:
    """Whether a gpt-oss model speaks OpenAI's harmony format through its Go template."""
    markers = ("<|start|>", "<|end|>")
    return (
        family in HARMONY_FAMILIES and template is not None and all(marker in template.text for marker in markers)
    )


def prefers_chat_template(jinja: str, template: GoTemplate) -> bool:
    """Whether the Jinja template is the richer of the two; they tie in favour of the Go template."""
    ours, theirs = set(of_go_template(template)), set(of_chat_template(jinja))
    only_ours_returns = _go_returns_tools(template) and not _jinja_returns_tools(jinja)
    if len(theirs) > len(ours):
        return not only_ours_returns
    if theirs == ours and Capability.TOOLS in ours:
        return _jinja_returns_tools(jinja) and not _go_returns_tools(template)
    return False


def _go_returns_tools(template: GoTemplate) -> bool:
    """It shows the model its calls and their results: a round trip."""
    results = ('eq .Role "tool"', "tool_response", "TOOL_RESULTS")
    return {"tools", "toolcalls"} <= set(template.vars) and any(text in template.text for text in results)


def _jinja_returns_tools(jinja: str) -> bool:
    return (
        ("tools" in jinja or "tool_call" in jinja)
        and ("tool_calls" in jinja or "assistant_tool_call" in jinja)
        and any(text in jinja for text in _TOOL_ROLES)
    )
