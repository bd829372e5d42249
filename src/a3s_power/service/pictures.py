"""The pictures of a request, made into what the engine takes before a model is loaded for them."""

from collections.abc import Sequence
from dataclasses import replace

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar

from a3s_power.errors import InvalidImage, InvalidRequest
from a3s_power.generation import ChatInput, GenerationRequest, PromptInput
from a3s_power.prompt.images import MAX_AT_ONCE, prepared
from a3s_power.units import MIB

MAX_TOTAL_BYTES = 256 * MIB
"""Of all pictures of a request, which are held as long as it runs."""

_decoders: RunVar[anyio.CapacityLimiter] = RunVar("picture decoders")


async def with_pictures(request: GenerationRequest) -> GenerationRequest:
    """The request with each picture as the engine gets it. Raises InvalidRequest: `image 2 of 3: …`."""
    given = [image for images in _images(request) for image in images]
    if not given:
        return request
    if sum(map(len, given)) > MAX_TOTAL_BYTES:
        raise InvalidRequest(f"the images have more than {MAX_TOTAL_BYTES // MIB} MiB together")
    made = iter([await _prepared(image, number, len(given)) for number, image in enumerate(given, start=1)])
    match request.input:
        case ChatInput(messages) as chat:
            messages = tuple(replace(m, images=tuple(next(made) for _ in m.images)) for m in messages)
            return replace(request, input=replace(chat, messages=messages))
        case PromptInput() as prompt:
            return replace(request, input=replace(prompt, images=tuple(made)))


def _images(request: GenerationRequest) -> Sequence[tuple[bytes, ...]]:
    match request.input:
        case ChatInput(messages):
            return [message.images for message in messages]
        case PromptInput(images=images):
            return [images]


async def _prepared(image: bytes, number: int, count: int) -> bytes:
    try:
        limiter = _decoders.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(MAX_AT_ONCE)
        _decoders.set(limiter)
    try:
        return await anyio.to_thread.run_sync(prepared, image, limiter=limiter)
    except InvalidImage as exc:
        raise InvalidImage(f"image {number} of {count}: {exc}") from exc
