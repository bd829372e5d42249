"""Which tools the model may call, and whether it must."""

from collections.abc import Sequence

from a3s_power.api.openai.errors import InvalidParameter
from a3s_power.generation import JSON, ToolChoice

PARAM = "tool_choice"


def chosen(value: object, tools: Sequence[JSON], *, is_parallel: bool) -> tuple[ToolChoice, Sequence[JSON]]:
    """The choice, and the tools it leaves. Raises InvalidParameter; that a tool is there, the service checks."""
    match value:
        case None | "auto":
            return ToolChoice(is_parallel=is_parallel), tools
        case "none":
            return ToolChoice(is_allowed=False), tools
        case "required":
            return ToolChoice(is_required=True, is_parallel=is_parallel), tools
        case {"type": "function", "function": {"name": str(name)}}:
            return ToolChoice(is_required=True, name=name, is_parallel=is_parallel), tools
        case {
            "type": "allowed_tools",
            "allowed_tools": {"mode": "auto" | "required" as mode, "tools": list(allowed)},
        }:
            return chosen(mode, _allowed([_name(tool) for tool in allowed], tools), is_parallel=is_parallel)
    raise InvalidParameter(
        'invalid tool_choice (must be "none", "auto", "required", '
        '{"type": "function", "function": {"name": …}}, or {"type": "allowed_tools", …})',
        PARAM,
    )


def _allowed(names: Sequence[str], tools: Sequence[JSON]) -> Sequence[JSON]:
    """Those of the tools that are named."""
    known, wanted = {_name(tool) for tool in tools}, dict.fromkeys(names)
    for name in wanted:
        if name not in known:
            raise InvalidParameter(f'tool_choice names "{name}", which is not among the tools', PARAM)
    return [tool for tool in tools if _name(tool) in wanted]


def _name(tool: object) -> str:
    """Empty for what is no function at all: others look at that."""
    match tool:
        case {"function": {"name": str(name)}}:
            return name
    return ""
