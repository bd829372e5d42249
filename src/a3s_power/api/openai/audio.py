"""POST /v1/audio/transcriptions: a form that is read, and then refused, since no model here is given audio."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import NoReturn

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import Response

from a3s_power.api.ollama.naming import checked_name, said_by
from a3s_power.errors import InvalidRequest, UnsupportedCapability
from a3s_power.service.checks import check_place
from a3s_power.service.library import Library
from a3s_power.units import MIB

MAX_FILE_BYTES = 25 * MIB
"""As OpenAI has it."""
MAX_BODY_BYTES = MAX_FILE_BYTES + MIB
MAX_FIELDS = 32
TOO_LARGE = f"audio file is too large: more than {MAX_FILE_BYTES} bytes"


class TranscriptionsAPI:
    """The handler."""

    def __init__(self, library: Library) -> None:
        self._library = library

    async def create(self, request: Request) -> Response:
        """POST /v1/audio/transcriptions. Raises what is wrong with the form, else that the model cannot hear."""
        async with _form(request) as form:
            model = _checked(form)
        await self._refuse(model)

    async def _refuse(self, model: str) -> NoReturn:
        name = checked_name(model, "chat")
        with said_by("chat", model):
            card = await self._library.card(name)
        check_place(card)
        if "audio" not in card.capabilities:
            raise UnsupportedCapability(f"{card.name} does not support audio", "audio")
        raise InvalidRequest(f"{card.name} takes audio, but this version of the server gives it none")


@asynccontextmanager
async def _form(request: Request) -> AsyncIterator[FormData]:
    """The body as a form, its files on disk while the block lasts. Raises InvalidRequest in Go's words."""
    content_type = request.headers.get("content-type", "").partition(";")[0]
    if content_type.strip().lower() != "multipart/form-data":
        raise InvalidRequest("failed to parse multipart form: request Content-Type isn't multipart/form-data")
    async with aclosing(_bounded(request.stream())) as chunks:
        parser = MultiPartParser(request.headers, chunks, max_files=1, max_fields=MAX_FIELDS)
        try:
            form = await parser.parse()
        except (MultiPartException, UnicodeError, LookupError) as exc:  # of a charset that is none
            raise InvalidRequest(f"failed to parse multipart form: {exc}") from exc
    try:
        yield form
    finally:
        await form.close()


async def _bounded(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    received = 0
    async for chunk in chunks:
        received += len(chunk)
        if received > MAX_BODY_BYTES:
            raise InvalidRequest(TOO_LARGE)
        yield chunk


def _checked(form: FormData) -> str:
    """The name of the model, if all is there that must be. Raises InvalidRequest."""
    model, file = form.get("model"), form.get("file")
    if not isinstance(model, str) or not model:
        raise InvalidRequest("model is required")
    if not isinstance(file, UploadFile):
        raise InvalidRequest("file is required: http: no such file")
    if not file.size:
        raise InvalidRequest("audio file is empty")
    if file.size > MAX_FILE_BYTES:
        raise InvalidRequest(TOO_LARGE)
    return model
