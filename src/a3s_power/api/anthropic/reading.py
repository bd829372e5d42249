"""Requests of Anthropic's as requests of ours, checked in Ollama's order and words."""

from collections.abc import Mapping
from typing import Any

from a3s_power.api.anthropic.content import conversation
from a3s_power.api.anthropic.errors import ThreadUnsupported
from a3s_power.api.ollama import fields
from a3s_power.api.ollama.naming import checked_name
from a3s_power.errors import CloudDisabled, InvalidRequest
from a3s_power.generation import JSON, ChatInput, GenerationRequest, ToolChoice
from a3s_power.wire import anthropic as wire

OPTIONS = {"max_tokens": "num_predict", "temperature": "temperature", "top_p": "top_p", "top_k": "top_k",
           "stop_sequences": "stop"}  # fmt: skip
"""Field → the option that it is with us."""

EFFORTS: Mapping[str, str] = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "max"}
"""Effort → level of thinking. Others say nothing."""

THINKING: Mapping[str | None, bool] = {"enabled": True, "disabled": False}
"""All else, `adaptive` too, leaves it to the model."""

SERVERS_TOOLS: Mapping[str, str] = {
    "web_search": "web search is unavailable",
    "web_fetch": "web fetch is unavailable",
}
"""How the types of tools begin that the server itself would have to run, and what is said of them."""


def generation(body: wire.MessagesRequest) -> GenerationRequest:
    """What to generate. Raises InvalidRequest, CloudDisabled."""
    _require_model(body)
    if (body.max_tokens or 0) <= 0:
        raise InvalidRequest("max_tokens is required and must be positive")
    own = {option: value for field, option in OPTIONS.items() if (value := getattr(body, field)) is not None}
    return _request(body, {**(body.options or {}), **own})


def prompt(body: wire.CountTokensRequest) -> GenerationRequest:
    """What to count the tokens of: the prompt that the same body would make. Raises as `generation` does."""
    _require_model(body)
    return _request(body, body.options or {})


def _require_model(body: wire.CountTokensRequest) -> None:
    if not body.model:
        raise InvalidRequest("model is required")


def _request(body: wire.CountTokensRequest, options: JSON) -> GenerationRequest:
    if not body.messages:
        raise InvalidRequest("messages is required")
    if body.thread is not None:
        raise ThreadUnsupported
    for field in ("mcp_servers", "container"):
        if getattr(body, field):
            raise InvalidRequest(f"{field} is not supported by this server")
    messages = tuple(conversation(body.system, body.messages))
    tools = [_tool(tool) for tool in body.tools or ()]
    thinking, config = body.thinking or wire.ThinkingParam(), body.output_config or wire.OutputConfigParam()
    return GenerationRequest(
        model=body.model or "",
        input=ChatInput(messages, tools),
        options=options,
        output_format=_output_format(config.format),
        think=_think(thinking, config),
        thinking_budget=_budget(thinking),
        tool_choice=_tool_choice(body.tool_choice),
        keep_alive_s=fields.keep_alive(body.keep_alive),
        name=checked_name(body.model or "", "chat"),
    )


# ---- tools ----


def _tool(given: wire.ToolParam) -> dict[str, Any]:
    for kind, unavailable in SERVERS_TOOLS.items():
        if (given.type or "").startswith(kind):
            raise CloudDisabled(unavailable)
    if not isinstance(given.input_schema, dict | None):
        raise InvalidRequest(f'invalid input_schema for tool "{given.name or ""}": it must be an object')
    function = {
        "name": given.name,
        "description": given.description,
        "parameters": given.input_schema,
        "strict": given.strict,
    }
    return {"type": "function", "function": {key: value for key, value in function.items() if value is not None}}


def _tool_choice(given: wire.ToolChoiceParam | None) -> ToolChoice:
    if given is None:
        return ToolChoice()
    is_parallel = not given.disable_parallel_tool_use
    match given.type:
        case "auto":
            return ToolChoice(is_parallel=is_parallel)
        case "none":
            return ToolChoice(is_allowed=False)
        case "any":
            return ToolChoice(is_required=True, is_parallel=is_parallel)
        case "tool":
            return ToolChoice(is_required=True, name=given.name or "", is_parallel=is_parallel)
    raise InvalidRequest(f'tool_choice.type: "{given.type or ""}" is none of "auto", "any", "tool", "none"')


# ---- the answer ----


def _think(thinking: wire.ThinkingParam, config: wire.OutputConfigParam) -> bool | str | None:
    if thinking.type in THINKING:
        return THINKING[thinking.type]
    return EFFORTS.get((config.effort or "").strip().lower())


def _budget(thinking: wire.ThinkingParam) -> int | None:
    """Any that is no nonsense: Anthropic's own API takes none below 1024, which says nothing of small models."""
    if thinking.type != "enabled":
        return None
    if thinking.budget_tokens is not None and thinking.budget_tokens < 0:
        raise InvalidRequest("thinking.budget_tokens must not be negative")
    return thinking.budget_tokens


def _output_format(given: wire.OutputFormatParam | None) -> object:
    if given is None:
        return None
    if given.type != "json_schema":
        raise InvalidRequest(f'output_config.format.type: "{given.type or ""}" is not "json_schema"')
    if not isinstance(given.schema, dict):
        raise InvalidRequest("output_config.format.schema must be an object")
    return given.schema
