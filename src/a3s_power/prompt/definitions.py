"""Tool definitions, as clients send them: checked, and cut down to what models are shown of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from a3s_power.errors import InvalidRequest
from a3s_power.generation import JSON

PARAMETERS_KEYS = ("type", "$defs", "items", "required", "properties")
PROPERTY_KEYS = ("type", "$ref", "description", "enum", "items", "anyOf", "properties", "required")
"""What Ollama lets through (`api/types.go`), and references, without which its models see empty properties."""
MAX_DEPTH = 50


def checked_tools(given: Sequence[JSON]) -> tuple[JSON, ...]:
    """The definitions, keys in their order. Raises InvalidRequest for one that defines no function."""
    return tuple(_checked(f"tools[{n}].function", tool) for n, tool in enumerate(given))


def name_of(tool: JSON) -> str | None:
    """What the tool is called; None for a definition that was never checked."""
    match tool:
        case {"function": {"name": str(name)}}:
            return name
    return None


def _checked(where: str, tool: JSON) -> JSON:
    function = tool.get("function")
    if not isinstance(function, dict):
        raise InvalidRequest(f"{where} must be an object")
    if not isinstance(function.get("name"), str) or not function["name"]:
        raise InvalidRequest(f"{where}.name must be a string that is not empty")
    if not isinstance(function.get("description"), str | None):
        raise InvalidRequest(f"{where}.description must be a string")
    kept = {key: function[key] for key in function if key in ("name", "description") and function[key] is not None}
    match function.get("parameters"):
        case None:
            pass
        case dict() as parameters:
            kept["parameters"] = _parameters(parameters)
        case _:
            raise InvalidRequest(f"{where}.parameters must be an object")
    return {"type": "function", "function": kept}  # there is no other type


def _parameters(given: Mapping[str, Any]) -> JSON:
    kept = _kept(given, PARAMETERS_KEYS)
    root = given.get("$defs")
    definitions = frozenset(f"#/$defs/{name}" for name in root) if isinstance(root, dict) else frozenset()
    return _with_properties(kept, definitions, 0)


def _property(given: object, definitions: frozenset[str], depth: int) -> object:
    if not isinstance(given, dict) or depth > MAX_DEPTH:
        return {}
    kept = _kept(given, PROPERTY_KEYS)
    if kept.get("$ref") not in definitions:
        kept.pop("$ref", None)
    if isinstance(ways := kept.get("anyOf"), list):
        kept["anyOf"] = [_property(way, definitions, depth + 1) for way in ways]
    return _with_properties(kept, definitions, depth + 1)


def _with_properties(kept: dict[str, Any], definitions: frozenset[str], depth: int) -> dict[str, Any]:
    if isinstance(properties := kept.get("properties"), dict):
        kept["properties"] = {name: _property(each, definitions, depth) for name, each in properties.items()}
    return kept


def _kept(given: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in given.items() if key in keys and value is not None}
