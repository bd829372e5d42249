"""What every test may ask for: the small real model, and an event loop like the server's."""

import tempfile
from pathlib import Path

import pytest

from demo import smollm2


@pytest.fixture(scope="session")
def anyio_backend():
    return ("asyncio", {"use_uvloop": True})


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct, fetched once into a cache outside the tree."""
    return smollm2.model_path()


@pytest.fixture
def short_tmp():
    """An empty folder with a path short enough for Unix sockets in it."""
    with tempfile.TemporaryDirectory(prefix="a3t-", dir="/tmp") as folder:
        yield Path(folder)
