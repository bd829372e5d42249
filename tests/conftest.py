"""What every test may ask for: the small real model, servers with a real and a scripted engine."""

import json
import tempfile
from pathlib import Path

import pytest

from demo import smollm2
from demo.server import running_server
from tests.support import minilm
from tests.support.api import API, tiny_gguf
from tests.support.engines import FAKE_BINARY
from tests.support.pictures import seeing_model


@pytest.fixture(scope="session")
def anyio_backend():
    return ("asyncio", {"use_uvloop": True})


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct, fetched once into a cache outside the tree."""
    return smollm2.model_path()


@pytest.fixture(scope="session")
def minilm_gguf() -> Path:
    """all-MiniLM-L6-v2, an embedding model, made once into the same cache."""
    return minilm.model_path()


@pytest.fixture
def short_tmp():
    """An empty folder with a path short enough for Unix sockets in it."""
    with tempfile.TemporaryDirectory(prefix="a3t-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def real(tmp_path_factory, smollm2_gguf):
    """A server with the model `smollm2`, which tests must leave as it is."""
    with running_server(tmp_path_factory.mktemp("real"), OLLAMA_CONTEXT_LENGTH="512") as server:
        api = API(server)
        api.create("smollm2", smollm2_gguf)
        yield api
        api.close()


@pytest.fixture(scope="module")
def seeing(real, smollm2_gguf):
    """The same server, for as long as a module needs it with the model `see`, which knows colours and shapes."""
    with seeing_model(real, "see", smollm2_gguf):
        yield real


@pytest.fixture
def scripted(tmp_path):
    """Makes servers whose engine does as the prompt says (`tests/support/fake_engine.py`)."""
    with ServerMaker(tmp_path) as make:
        yield make


class ServerMaker:
    def __init__(self, folder):
        self._folder = folder
        self._open = []

    def __call__(self, *, switches=None, through=(), **settings):
        runtime = tempfile.TemporaryDirectory(prefix="a3t-", dir="/tmp")
        server = running_server(
            self._folder / f"server{len(self._open)}",
            through=through,
            A3S_POWER_LLAMA_SERVER=FAKE_BINARY,
            LLAMA_ARG_FAKE=json.dumps(switches or {}),
            XDG_RUNTIME_DIR=runtime.name,
            **{"A3S_POWER_DRAIN_TIMEOUT": "1", **settings},
        )
        api = API(server.__enter__())
        api.runtime_dir = runtime.name
        self._open.append((api, server, runtime))
        api.create("m", tiny_gguf(self._folder / "tiny.gguf"))
        return api

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for api, server, runtime in self._open:
            api.close()
            server.__exit__(None, None, None)
            runtime.cleanup()
