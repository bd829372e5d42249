"""GET /v1/models and /v1/models/{model}."""

from starlette.requests import Request
from starlette.responses import Response

from a3s_power.api.ollama.naming import checked_name, said_by
from a3s_power.api.openai.writing import json_reply
from a3s_power.service.cards import ModelCard
from a3s_power.service.library import Library
from a3s_power.wire import openai as wire


class OpenAIModelsAPI:
    """The handlers; `library` does the work."""

    def __init__(self, library: Library) -> None:
        self._library = library

    async def list_all(self, _request: Request) -> Response:
        """GET /v1/models, in the order of /api/tags."""
        entries = [_entry(card, card.name.display) for card in await self._library.all()]
        return json_reply(wire.ModelList("list", entries or None))

    async def retrieve(self, request: Request) -> Response:
        """GET /v1/models/{model}; a name may hold slashes."""
        spelling = request.path_params["model"]
        name = checked_name(spelling, "show")
        with said_by("show", name.display):
            card = await self._library.card(name)
        return json_reply(_entry(card, spelling))


def _entry(card: ModelCard, spelling: str) -> wire.ModelEntry:
    return wire.ModelEntry(spelling, "model", int(card.model.modified_at.timestamp()), card.name.namespace)
