"""The models of the table: M, completion; T, tools; K, thinking; KT, both; I, insert; V, vision; E, embedding."""

import pytest

from demo.server import running_server
from tests.conformance.cases import PS, ask
from tests.conftest import ServerMaker
from tests.support.api import API, until
from tests.support.pictures import seeing_model

THOUGHTS = "{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}"
CALLS = "{{ if .ToolCalls }}<tool_call>{{ range .ToolCalls }}{{ json .Function }}{{ end }}</tool_call>{{ end }}"
RESULT = '{{ if eq .Role "tool" }}{{ .ToolName }}{{ .ToolCallID }}{{ end }}'


def last_message(rendered: str) -> str:
    """Of all messages only the last: the scripted engine looks at how the prompt begins."""
    return (
        "{{ range $i, $_ := .Messages }}{{ if eq (len (slice $.Messages $i)) 1 }}"
        + rendered
        + "{{ end }}{{ end }}"
    )


TOOLS = "{{ if .Tools }}{{ end }}"
TEMPLATES = {
    "t": TOOLS + last_message("{{ .Content }}" + CALLS + RESULT),
    "k": last_message(THOUGHTS + "{{ .Content }}"),
    "kt": TOOLS + last_message(THOUGHTS + "{{ .Content }}" + CALLS + RESULT),
    "i": "{{ if .Suffix }}{{ .Prompt }} ... {{ .Suffix }}{{ else }}{{ .Prompt }}{{ end }}",
}


def create_variants(api: API) -> None:
    """From the model `m` the others that differ only in their templates."""
    for name, template in TEMPLATES.items():
        body = {"model": name, "from": "m", "template": template, "stream": False}
        assert api.post("/api/create", body).status_code == 200


@pytest.fixture(scope="session")
def server(tmp_path_factory, smollm2_gguf):
    """A server with a real engine and the models m, t, k, kt and i, which tests must leave as they are."""
    folder = tmp_path_factory.mktemp("conformance")
    with running_server(folder, OLLAMA_CONTEXT_LENGTH="512", OLLAMA_NO_CLOUD="1") as own:
        api = API(own)
        api.create("m", smollm2_gguf)
        create_variants(api)
        yield api
        api.close()


@pytest.fixture(scope="session")
def with_e(server, minilm_gguf):
    """The same, with the model e besides."""
    server.create("e", minilm_gguf)
    return server


@pytest.fixture(scope="module")
def with_v(server, smollm2_gguf):
    """The same, with the model v besides, which knows colours and shapes."""
    with seeing_model(server, "v", smollm2_gguf):
        yield server


@pytest.fixture(scope="session")
def puppet(tmp_path_factory):
    """A server with the same models, whose engine does as the last message says (`tests/support/fake_engine.py`)."""
    with ServerMaker(tmp_path_factory.mktemp("puppet")) as make:
        api = make()
        create_variants(api)
        yield api


@pytest.fixture
def empty(tmp_path):
    """Makes servers without a model."""
    with ServerMaker(tmp_path) as make:

        def make_empty(**settings: str) -> API:
            api = make(**settings)
            api.sdk.delete("m")
            return api

        yield make_empty


@pytest.fixture
def unloaded(server):
    """The server with nothing loaded, which it is afterwards too."""
    unload_all(server)
    yield server
    unload_all(server)


def unload_all(api: API) -> None:
    for row in ask(api, PS)["models"]:
        api.post("/api/generate", {"model": row["name"], "keep_alive": 0})
    until(lambda: api.loaded() == [])
