"""What operators and probes ask: is it there, which version, how is it."""

import time

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from a3s_power import __version__
from a3s_power.api.ollama.replies import json_reply
from a3s_power.service.library import Library
from a3s_power.wire.ollama import HealthReply, VersionReply

OLLAMA_VERSION = "0.30.0"
"""The Ollama release whose wire we follow: clients gate features on it."""


class OpsAPI:
    """The handlers."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._started = time.monotonic()

    async def root(self, _request: Request) -> Response:
        """GET, HEAD /: how Ollama's clients look for a server."""
        return PlainTextResponse("Ollama is running")

    async def version(self, _request: Request) -> Response:
        """GET /api/version."""
        return json_reply(VersionReply(OLLAMA_VERSION))

    async def health(self, _request: Request) -> Response:
        """GET /health."""
        loaded = [runner for runner in self._library.loaded() if not runner.is_loading]
        uptime_s = int(time.monotonic() - self._started)
        return json_reply(HealthReply("ok", __version__, uptime_s, len(loaded)))
