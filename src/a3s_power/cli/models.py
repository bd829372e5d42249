"""The commands about the models of a server: list, ps, show, stop, rm, cp, version."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from a3s_power import __version__
from a3s_power.cli import output
from a3s_power.cli.target import connected
from a3s_power.client import Client, ClientError
from a3s_power.wire.ollama import ShowReply, ShowRequest


def list_models(prefix: str) -> None:
    """Those whose name begins with `prefix`, in any case."""
    with connected() as client:
        print(listing(client, prefix), end="")


def listing(client: Client, prefix: str) -> str:
    models = [model for model in client.list().models if model.name.lower().startswith(prefix.lower())]
    return output.list_table(models, datetime.now(UTC))


def list_running(prefix: str) -> None:
    """Those whose name begins with `prefix`."""
    with connected() as client:
        models = [model for model in client.running().models if model.name.startswith(prefix)]
    print(output.running_table(models, datetime.now(UTC)), end="")


def show(name: str, section: str | None, verbose: bool) -> None:
    """All about a model, or one text: license, modelfile, parameters, system or template."""
    with connected() as client:
        reply = client.show(ShowRequest(model=name, verbose=verbose or None))
    print(_section_text(reply, section) if section else output.show_text(reply, verbose), end="")


def _section_text(reply: ShowReply, section: str) -> str:
    """System and template end as they are written: they are made to be piped into a file."""
    text: str = getattr(reply, section)
    return text if section in ("system", "template") else f"{text}\n"


def stop(name: str) -> None:
    """Unload a model."""
    with connected() as client:
        try:
            client.unload(name)
        except ClientError as exc:
            if exc.is_not_found:
                raise ClientError(f'couldn\'t find model "{name}" to stop', exc.status) from exc
            raise


def remove(names: Sequence[str]) -> None:
    """Unload and delete each; the first failure ends it."""
    with connected() as client:
        for name in names:
            try:
                client.unload(name)
            except ClientError as exc:
                if not exc.is_not_found:
                    print(f"Warning: unable to stop model '{name}'", file=sys.stderr)
            client.delete(name)
            print(f"deleted '{name}'", flush=True)


def copy(source: str, destination: str) -> None:
    with connected() as client:
        client.copy(source, destination)
    print(f"copied '{source}' to '{destination}'")


def version() -> None:
    """Our own versions, the server's and the client's: which Ollama API they speak, `/api/version` says."""
    server = None
    try:
        with connected() as client:
            server = _server_version(client)
        print(f"a3s-power version is {server}")
    except ClientError:
        print("Warning: could not connect to a running A3S Power instance")
    if server != __version__:
        print(f"Warning: client version is {__version__}")


def _server_version(client: Client) -> str:
    try:
        return client.health().version
    except ClientError as exc:
        if exc.is_not_found:  # an Ollama listens there
            return client.version()
        raise
