"""What a Go template sees of a conversation: values that look, print and encode as Ollama's Go values do.

Plain values are Python's own: None is Go's nil, dict a map, list a slice. What Ollama gives a type of its own
has one here: `Struct` for structs, `JSONMap` and `JSONList` for those whose `String` method writes JSON.
"""

import base64
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal

from a3s_power.errors import InvalidRequest
from a3s_power.generation import JSON
from a3s_power.messages import Message, ToolCall

NO_VALUE = "<no value>"
"""What Go's text/template prints for something that is not there."""


class JSONMap(dict[str, object]):
    """A map that prints as JSON: the arguments of a call, the properties of a tool."""


class JSONList(list[object]):
    """A list that prints as JSON: all tools."""


class PropertyType(list[str]):
    """The type of a tool's property, such as `["string", "null"]`; a single one prints and encodes as itself."""


class Struct:
    """A Go struct. `fields` has every exported name; `json_form` is what it encodes as, in order."""

    __slots__ = ("fields", "json_form", "prints_json", "type_name")

    def __init__(
        self,
        type_name: str,
        fields: Mapping[str, object],
        json_form: Mapping[str, object],
        *,
        prints_json: bool = False,
    ) -> None:
        self.type_name = type_name
        self.fields = fields
        self.json_form = json_form
        self.prints_json = prints_json


def message_value(message: Message) -> Struct:
    """One turn: Role, Content, Thinking, Images, ToolCalls, ToolName, ToolCallID."""
    fields = {
        "Role": message.role,
        "Content": message.content,
        "Thinking": message.thinking,
        "Images": list(message.images),
        "ToolCalls": [_tool_call_value(call) for call in message.tool_calls],
        "ToolName": message.tool_name,
        "ToolCallID": message.tool_call_id,
    }
    optional = {
        "thinking": fields["Thinking"],
        "images": fields["Images"],
        "tool_calls": fields["ToolCalls"],
        "tool_name": fields["ToolName"],
        "tool_call_id": fields["ToolCallID"],
    }
    return Struct("Message", fields, {"role": message.role, "content": message.content} | _without_empty(optional))


def tools_value(tools: Sequence[JSON]) -> JSONList | None:
    """All tools, in the shape of Ollama's `api.Tool`; None if there is none. Unknown keys are dropped.

    Raises InvalidRequest for schemas inside schemas without end.
    """
    try:
        return JSONList(_tool_value(tool) for tool in tools) if tools else None
    except RecursionError:
        raise InvalidRequest("the schema of a tool nests too deeply") from None


def json_text(value: object) -> str:
    """Compact JSON as Go's encoder writes it: maps by sorted key, `<`, `>` and `&` escaped.

    What JSON has no word for, NaN or an infinity anywhere inside, leaves nothing: Ollama ignores the error.
    """
    try:
        return _encode(value)
    except ValueError:
        return ""


def _encode(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return _encode_string(value)
        case int():
            return str(value)
        case float():
            return _encode_float(value)
        case bytes():
            return '"' + base64.b64encode(value).decode() + '"'
        case Struct():
            return _encode_object(value.json_form.items())
        case Mapping():
            return _encode_object(sorted((str(key), item) for key, item in value.items()))
        case PropertyType() if len(value) == 1:
            return _encode_string(value[0])
        case list() | tuple():
            return "[" + ",".join(map(_encode, value)) + "]"
    raise ValueError(f"{type(value).__name__} has no JSON form")


def show(value: object, nil: str = "<nil>") -> str:
    """The text that `fmt.Print` makes of a value; of None, `nil`."""
    match value:
        case None:
            return nil
        case bool():
            return "true" if value else "false"
        case str():
            return value
        case int():
            return str(value)
        case float():
            return _show_float(value)
        case JSONMap() | JSONList():
            return json_text(value)
        case Struct():
            return (
                json_text(value) if value.prints_json else "{" + " ".join(map(show, value.fields.values())) + "}"
            )
        case Mapping():
            return "map[" + " ".join(f"{key}:{show(value[key])}" for key in sorted(value, key=str)) + "]"
        case PropertyType() if len(value) < 2:
            return "".join(value)
        case list() | tuple() | bytes():
            return "[" + " ".join(map(show, value)) + "]"
    return str(value)


def is_true(value: object) -> bool:
    """Go's idea of truth: false, 0, nil and what is empty are false; a struct is always true."""
    return isinstance(value, Struct) or bool(value)


def _tool_call_value(call: ToolCall) -> Struct:
    arguments = JSONMap(call.arguments or {})
    function = Struct(
        "ToolCallFunction",
        {"Index": call.index, "Name": call.name, "Arguments": arguments},
        {"index": call.index, "name": call.name, "arguments": arguments},
    )
    json_form = _without_empty({"id": call.id}) | {"function": function}
    return Struct("ToolCall", {"ID": call.id, "Function": function}, json_form)


def _tool_value(tool: JSON) -> Struct:
    type_, items = _string(tool.get("type")), tool.get("items")
    given = _mapping(tool.get("function"))
    name, description = _string(given.get("name")), _string(given.get("description"))
    parameters = _parameters_value(_mapping(given.get("parameters")))
    function = Struct(
        "ToolFunction",
        {"Name": name, "Description": description, "Parameters": parameters},
        {"name": name, "description": description, "parameters": parameters},
        prints_json=True,
    )
    json_form = {"type": type_} | _without_empty({"items": items}) | {"function": function}
    return Struct("Tool", {"Type": type_, "Items": items, "Function": function}, json_form, prints_json=True)


def _parameters_value(schema: JSON) -> Struct:
    type_, defs, items = _string(schema.get("type")), schema.get("$defs"), schema.get("items")
    required, properties = _strings(schema.get("required")), _properties_value(schema.get("properties"))
    optional = _without_empty({"$defs": defs, "items": items, "required": required})
    return Struct(
        "ToolFunctionParameters",
        {"Type": type_, "Defs": defs, "Items": items, "Required": required, "Properties": properties},
        {"type": type_} | optional | {"properties": properties},
        prints_json=True,
    )


def _properties_value(properties: object) -> JSONMap:
    return JSONMap({name: _property_value(_mapping(schema)) for name, schema in _mapping(properties).items()})


def _property_value(schema: JSON) -> Struct:
    type_ = schema.get("type")
    any_of = schema.get("anyOf")
    fields = {
        "AnyOf": [_property_value(_mapping(one)) for one in any_of] if isinstance(any_of, list) else [],
        "Type": PropertyType([type_] if isinstance(type_, str) else _strings(type_)),
        "Items": schema.get("items"),
        "Description": _string(schema.get("description")),
        "Enum": schema.get("enum"),
        "Properties": _properties_value(schema.get("properties")),
        "Required": _strings(schema.get("required")),
    }
    return Struct(
        "ToolProperty", fields, _without_empty({name[0].lower() + name[1:]: fields[name] for name in fields})
    )


def _without_empty(fields: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in fields.items() if is_true(value)}


def _mapping(value: object) -> JSON:
    return value if isinstance(value, Mapping) else {}


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""


def _strings(value: object) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list | tuple) else []


def _encode_object(items: Iterable[tuple[str, object]]) -> str:
    return "{" + ",".join(f"{_encode_string(key)}:{_encode(item)}" for key, item in items) + "}"


_ESCAPES = str.maketrans({character: f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"})


def _encode_string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).translate(_ESCAPES)


def _encode_float(value: float) -> str:
    if not math.isfinite(value):
        raise ValueError("JSON has no word for it")
    number = Decimal(repr(value)).normalize()
    if not value or 1e-6 <= abs(value) < 1e21:
        return format(number, "f")
    return f"{number.scaleb(-number.adjusted()):f}e{number.adjusted():+d}"


def _show_float(value: float) -> str:
    """Go's `%g`: the shortest digits, with an exponent below 1e-4 and from 1e6 on."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    number = Decimal(repr(value)).normalize()
    if -4 <= number.adjusted() < 6:
        return format(number, "f")
    return f"{number.scaleb(-number.adjusted()):f}e{number.adjusted():+03d}"
