"""Looking at models and managing them: tags, show, ps, copy, delete, create, blobs."""

from datetime import datetime, timedelta
from functools import partial

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response

from a3s_power.api.ollama import describe, fields
from a3s_power.api.ollama.creating import recipe_of
from a3s_power.api.ollama.naming import checked_name, said_by
from a3s_power.api.ollama.progress import progress_reply
from a3s_power.api.ollama.replies import json_reply
from a3s_power.errors import BlobNotFound, CloudDisabled
from a3s_power.scheduler.slots import Loaded
from a3s_power.service.cards import ModelCard
from a3s_power.service.library import Library
from a3s_power.wire import ollama as wire

COPILOT = "GitHubCopilotChat/"
"""A client that shows models by their `general.basename`, and is told the name it asked for."""

FAR_AHEAD = timedelta(days=292 * 365)
"""How Ollama shows a runner that stays forever: the longest Go duration."""


class ModelsAPI:
    """The handlers; `library` does the work."""

    def __init__(self, library: Library) -> None:
        self._library = library

    async def tags(self, _request: Request) -> Response:
        """GET /api/tags."""
        cards = await self._library.all()
        return json_reply(wire.ListReply([describe.listed(card) for card in cards]))

    async def ps(self, _request: Request) -> Response:
        """GET /api/ps; answers at once, while a model loads too."""
        now = datetime.now().astimezone()
        loaded = sorted(self._library.loaded(), key=lambda row: row.remaining_s, reverse=True)
        return json_reply(wire.RunningReply([_running(row, now) for row in loaded]))

    async def show(self, request: Request) -> Response:
        """POST /api/show."""
        body = await fields.read(request, wire.ShowRequest)
        spelling = body.model or body.name or ""
        name = checked_name(spelling, "show")
        with said_by("show", name.display):
            card = await self._library.card(name)
        if card.model.config.remote_host:
            raise CloudDisabled("remote model details are unavailable")
        reply = await describe.shown(card, body)
        if request.headers.get("user-agent", "").startswith(COPILOT):
            reply.model_info["general.basename"] = spelling
        # On a thread: with `verbose` it is megabytes.
        return await anyio.to_thread.run_sync(json_reply, reply)

    async def copy(self, request: Request) -> Response:
        """POST /api/copy."""
        body = await fields.read(request, wire.CopyRequest)
        source = checked_name(body.source or "", "source")
        destination = checked_name(body.destination or "", "destination")
        with said_by("source", body.source or ""):
            await self._library.copy(source, destination)
        return Response()

    async def delete(self, request: Request) -> Response:
        """DELETE /api/delete."""
        body = await fields.read(request, wire.DeleteRequest)
        name = body.model or body.name or ""
        with said_by("delete", name):
            await self._library.delete(checked_name(name, "delete"))
        return Response()

    async def create(self, request: Request) -> Response:
        """POST /api/create."""
        body = await fields.read(request, wire.CreateRequest)
        recipe = await anyio.to_thread.run_sync(recipe_of, body)  # a Modelfile may have a million lines
        return progress_reply(partial(self._library.create, recipe), body.stream)

    async def has_blob(self, request: Request) -> Response:
        """HEAD /api/blobs/:digest."""
        digest = request.path_params["digest"]
        if not await self._library.has_blob(digest):
            raise BlobNotFound(digest)
        return Response()

    async def receive_blob(self, request: Request) -> Response:
        """POST /api/blobs/:digest; the body is read only if it is not here yet."""
        digest = request.path_params["digest"]
        if await self._library.has_blob(digest):
            return Response()
        await self._library.receive_blob(digest, request.stream())
        return Response(status_code=201)


def _running(loaded: Loaded[ModelCard], now: datetime) -> wire.RunningModel:
    card = loaded.model
    remaining = timedelta(seconds=min(loaded.remaining_s, FAR_AHEAD.total_seconds()))
    return wire.RunningModel(
        name=card.name.display,
        model=card.name.display,
        size=loaded.size,
        digest=card.model.digest,
        details=describe.details(card),
        expires_at=describe.local_time(now + remaining),
        size_vram=loaded.size_vram,
        context_length=loaded.spec.num_ctx,
    )
