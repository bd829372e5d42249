"""Tool definitions, as clients send them: checked, and completed to what engines want to read."""

from collections.abc import Sequence

from a3s_power.errors import InvalidRequest
from a3s_power.generation import JSON


def checked_tools(given: Sequence[JSON]) -> tuple[JSON, ...]:
    """The definitions, otherwise as they are. Raises InvalidRequest for one that defines no function."""
    return tuple(_checked(n, tool) for n, tool in enumerate(given))


def _checked(n: int, tool: JSON) -> JSON:
    function = tool.get("function")
    if not isinstance(function, dict):
        raise InvalidRequest(f"tools[{n}].function must be an object")
    if not isinstance(function.get("name"), str) or not function["name"]:
        raise InvalidRequest(f"tools[{n}].function.name must be a string that is not empty")
    if not isinstance(function.get("description"), str | None):
        raise InvalidRequest(f"tools[{n}].function.description must be a string")
    if not isinstance(function.get("parameters"), dict | None):
        raise InvalidRequest(f"tools[{n}].function.parameters must be an object")
    said = {key: value for key, value in function.items() if value is not None}
    return {**tool, "type": "function", "function": said}  # there is no other type
