"""A request for a chat: OpenAI's fields as what we call them, each checked or refused by its name."""

from collections.abc import Mapping

from a3s_power.api.ollama import fields
from a3s_power.api.ollama.naming import checked_name
from a3s_power.api.openai.errors import InvalidParameter, UnsupportedParameter
from a3s_power.api.openai.messages import conversation
from a3s_power.api.openai.parameters import logit_bias, options
from a3s_power.api.openai.toolchoice import chosen
from a3s_power.errors import InvalidRequest
from a3s_power.generation import JSON, ChatInput, GenerationRequest
from a3s_power.wire import openai as wire

ABSENT: JSON = {"temperature": 1.0, "top_p": 1.0}
"""What Ollama sends for a chat that says nothing, whatever the model's parameters are."""

EFFORTS: Mapping[str, bool | str | None] = {
    "": None,
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "max",
    "ultra": "max",
    "max": "max",
}


def generation_request(body: wire.ChatCompletionRequest) -> GenerationRequest:
    """What is to be generated, for each choice. Raises what is wrong with the request."""
    if not body.messages:
        raise InvalidRequest("[] is too short - 'messages'")
    _refuse_unsupported(body)
    messages = conversation(body.messages)
    limit = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    is_parallel = body.parallel_tool_calls is not False
    tool_choice, tools = chosen(body.tool_choice, body.tools or (), is_parallel=is_parallel)
    return GenerationRequest(
        model=body.model or "",
        input=ChatInput(messages, tools),
        options=options(body, limit, _stop(body.stop), ABSENT),
        output_format=_output_format(body.response_format),
        think=_think(body),
        keep_alive_s=fields.keep_alive(body.keep_alive),
        top_logprobs=fields.top_logprobs(body.logprobs, body.top_logprobs),
        tool_choice=tool_choice,
        logit_bias=logit_bias(body.logit_bias),
        name=checked_name(body.model or "", "chat"),
    )


def _refuse_unsupported(body: wire.ChatCompletionRequest) -> None:
    """Raise UnsupportedParameter for what would change the answer; what we do not know besides changes nothing."""
    wanted = {
        "modalities": any(modality != "text" for modality in body.modalities or ()),
        "audio": body.audio is not None,
        "web_search_options": body.web_search_options is not None,
        "function_call": body.function_call not in (None, "none", "auto"),
        "verbosity": body.verbosity not in (None, "medium"),
    }
    for param, is_wanted in wanted.items():
        if is_wanted:
            raise UnsupportedParameter(param)


def _stop(value: object) -> list[str]:
    match value:
        case None:
            return []
        case str():
            return [value]
        case list():
            return [text for text in value if isinstance(text, str)]
    raise InvalidParameter("stop must be a string or an array of strings", "stop")


def _output_format(given: wire.ResponseFormat | None) -> object:
    """What the engine is bound to; nothing for a type that says nothing to us, as Ollama has it."""
    wanted = given or wire.ResponseFormat()
    match (wanted.type or "").strip().lower():
        case "json_object":
            return "json"
        case "json_schema":
            return _schema(wanted.json_schema or wire.JSONSchemaFormat())
    return None


def _schema(given: wire.JSONSchemaFormat) -> object:
    if given.schema is None:
        param = "response_format.json_schema.schema"
        raise InvalidParameter(f"{param} is required", param)
    return given.schema


def _think(body: wire.ChatCompletionRequest) -> bool | str | None:
    effort = (body.reasoning_effort if body.reasoning is None else body.reasoning.effort) or ""
    if effort not in EFFORTS:
        known = '"minimal", "low", "medium", "high", "xhigh", "ultra", "max", or "none"'
        raise InvalidParameter(f'invalid reasoning value: "{effort}" (must be {known})', "reasoning_effort")
    return EFFORTS[effort]
