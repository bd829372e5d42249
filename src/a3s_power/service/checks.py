"""What a request asks for that its model cannot do, told in Ollama's words before anything is loaded."""

from a3s_power.errors import CloudDisabled, InvalidRequest, InvalidToolChoice, UnsupportedCapability
from a3s_power.generation import ChatInput, GenerationRequest, PromptInput
from a3s_power.prompt.definitions import checked_tools
from a3s_power.prompt.forced import forced_tools
from a3s_power.service.cards import ModelCard


def check(card: ModelCard, request: GenerationRequest) -> None:
    """Raise InvalidRequest, UnsupportedCapability or CloudDisabled for the first thing that is wrong."""
    check_place(card)
    if isinstance(request.input, PromptInput):
        _check_prompt(card, request.input)
    if request.think and "thinking" not in card.capabilities:
        raise UnsupportedCapability(f'"{request.model}" does not support thinking', "thinking")
    if "completion" not in card.capabilities:
        verb = "chat" if isinstance(request.input, ChatInput) else "generate"
        raise UnsupportedCapability(f'"{request.model}" does not support {verb}', "completion")
    for capability in _wanted(request):
        is_there = capability in card.capabilities
        if capability == "insert":
            is_there = is_there and card.template is not None
        if not is_there:
            raise UnsupportedCapability(f"{card.name} does not support {capability}", capability)
    if isinstance(request.input, ChatInput):
        checked_tools(request.input.tools)
        _check_choice(request)
    _check_prompting(card)


def check_place(card: ModelCard) -> None:
    """Raise CloudDisabled for a model that Ollama's cloud would run: its entry in the store has no file."""
    if card.model.config.remote_host:
        raise CloudDisabled("remote model is unavailable")


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


def _check_choice(request: GenerationRequest) -> None:
    choice = request.tool_choice
    if forced_tools(request) or not (choice.is_required or choice.name):
        return
    if choice.name:
        raise InvalidToolChoice(f'tool_choice names "{choice.name}", which is not among the tools')
    raise InvalidToolChoice("tool_choice requires a call, but there are no tools")


def _check_prompting(card: ModelCard) -> None:
    """Raise InvalidRequest for what we could not put before the model as it was meant."""
    config = card.model.config
    needs = config.renderer or ("" if card.markup.is_harmony else config.parser)
    if needs and not card.has_chat_template:
        raise InvalidRequest(f'"{card.name.display}" needs the renderer "{needs}", which this server has not')


def _has_images(request: GenerationRequest) -> bool:
    match request.input:
        case ChatInput(messages):
            return any(message.images for message in messages)
        case PromptInput(images=images):
            return bool(images)
