"""What a request asks for that its model cannot do, told in Ollama's words before anything is loaded."""

from a3s_power.errors import InvalidRequest, UnsupportedCapability
from a3s_power.generation import ChatInput, GenerationRequest, PromptInput
from a3s_power.prompt.definitions import checked_tools
from a3s_power.service.cards import ModelCard


def check(card: ModelCard, request: GenerationRequest) -> None:
    """Raise InvalidRequest, or UnsupportedCapability, for the first thing that is wrong."""
    if isinstance(request.input, PromptInput):
        _check_prompt(card, request.input)
    if request.think and "thinking" not in card.capabilities:
        raise UnsupportedCapability(f'"{request.model}" does not support thinking', "thinking")
    if "completion" not in card.capabilities:
        verb = "chat" if isinstance(request.input, ChatInput) else "generate"
        raise UnsupportedCapability(f'"{request.model}" does not support {verb}', "completion")
    for capability in _wanted(request):
        if capability not in card.capabilities:
            raise UnsupportedCapability(f"{card.name} does not support {capability}", capability)
    if isinstance(request.input, ChatInput):
        checked_tools(request.input.tools)
    _check_prompting(card, request)


def _check_prompt(card: ModelCard, given: PromptInput) -> None:
    if "image" in card.capabilities:
        raise InvalidRequest("image generation models are not currently supported")
    if given.raw and (given.template or given.system or given.context):
        raise InvalidRequest("raw mode does not support template, system, or context")


def _wanted(request: GenerationRequest) -> tuple[str, ...]:
    match request.input:
        case ChatInput(tools=tools):
            wanted = {"tools": bool(tools), "vision": _has_images(request)}
        case PromptInput(suffix=suffix):
            wanted = {"insert": bool(suffix), "vision": _has_images(request)}
    return tuple(capability for capability, is_wanted in wanted.items() if is_wanted)


def _check_prompting(card: ModelCard, request: GenerationRequest) -> None:
    """Raise InvalidRequest for what we could not put before the model as it was meant."""
    is_text = card.template is not None or isinstance(request.input, PromptInput)
    if is_text and _has_images(request):
        raise InvalidRequest("this version takes pictures in /api/chat only, for models with a chat template")
    config = card.model.config
    is_lost = config.renderer or (config.parser and card.template is None)
    if is_lost and not card.has_chat_template:
        name = config.renderer or config.parser
        raise InvalidRequest(f'"{card.name.display}" needs the renderer "{name}", which this server has not')


def _has_images(request: GenerationRequest) -> bool:
    match request.input:
        case ChatInput(messages):
            return any(message.images for message in messages)
        case PromptInput(images=images):
            return bool(images)
