"""What both clients are tested with: the small models, and a model that calls tools and thinks."""

import pytest

from tests.conftest import ServerMaker
from tests.support.api import until

AGENT = (
    "{{ if .Tools }}{{ end }}"
    "{{ range $i, $_ := .Messages }}{{ if eq (len (slice $.Messages $i)) 1 }}"
    "{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}"
    "{{ if .ToolCalls }}<tool_call>{{ range .ToolCalls }}{{ json .Function }}{{ end }}</tool_call>{{ end }}"
    "{{ .Content }}{{ .ToolName }}"
    "{{ end }}{{ end }}"
)
"""Shows its tags, and renders the last message alone: the scripted engine looks at how the prompt begins."""


@pytest.fixture(scope="session")
def puppet(tmp_path_factory):
    """A server with the model `agent`, whose engine says what the last message tells it to."""
    with ServerMaker(tmp_path_factory.mktemp("puppet")) as make:
        api = make()
        body = {"model": "agent", "from": "m", "template": AGENT, "stream": False}
        assert api.post("/api/create", body).json() == {"status": "success"}
        yield api


@pytest.fixture(scope="module")
def embedder(real, minilm_gguf):
    """The name of an embedding model, on the real server for as long as a module needs it."""
    real.create("embedder", minilm_gguf)
    yield "embedder"
    unload(real, "embedder")
    real.sdk.delete("embedder")


@pytest.fixture
def made(real):
    """A name for a model that a test makes on the real server."""
    yield "made"
    real.http.request("DELETE", "/api/delete", content='{"model": "made"}')


def unload(api, name):
    """It goes when its last lease has ended, so this also tells that none is left."""
    api.post("/api/generate", {"model": name, "keep_alive": 0})
    until(lambda: f"{name}:latest" not in api.loaded())
