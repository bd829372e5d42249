"""The server that the commands talk to."""

from collections.abc import Iterator
from contextlib import contextmanager

from a3s_power.client import Client
from a3s_power.settings import Settings


@contextmanager
def connected() -> Iterator[Client]:
    """A client of the server that A3S_POWER_HOST or OLLAMA_HOST names. ServerUnreachable if it is not there."""
    with Client(Settings.load().endpoint.url) as client:
        client.heartbeat()
        yield client
