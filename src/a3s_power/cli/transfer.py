"""`pull` and `push`: models between registries and the server."""

import sys

from a3s_power.cli.progress import report, reporting
from a3s_power.cli.target import connected
from a3s_power.client import Client
from a3s_power.wire.ollama import PullRequest, PushRequest


def pull(model: str, *, insecure: bool) -> None:
    """Fetch a model."""
    with connected() as client:
        fetch(client, model, insecure=insecure)


def fetch(client: Client, model: str, *, insecure: bool) -> None:
    """Have the server fetch a model, and show how far it is."""
    with (
        reporting(sys.stderr) as steps,
        client.pull(PullRequest(model=model, insecure=insecure)) as replies,
    ):
        for reply in replies:
            report(reply, steps)


def push(model: str, *, insecure: bool, destination: str | None) -> None:
    """Send a model to its registry, or to another."""
    request = PushRequest(model=model, insecure=insecure, destination=destination)
    with connected() as client, reporting(sys.stderr) as steps, client.push(request) as replies:
        for reply in replies:
            report(reply, steps)
