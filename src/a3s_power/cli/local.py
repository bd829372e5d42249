"""The commands that work on this machine and its home folder rather than through a server: serve, setup."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from a3s_power.settings import Endpoint, Settings
from a3s_power.setup.builds import choose_build, found_version
from a3s_power.setup.engine import chosen_engine, install_engine, use_builtin

_BUILTIN = "cpu, the engine that comes with a3s-power"


def serve(host: str | None, port: int | None) -> None:
    """Serve until stopped. `host` reads like OLLAMA_HOST and replaces it; `port` replaces the port of either."""
    from a3s_power import server  # the whole server, which no other command loads

    endpoint = None if host is None else Endpoint.parse(host)
    server.serve(Settings.load(flags={"host": endpoint, "port": port}))


def setup_cores() -> None:
    """Measure how engines use this machine's cores best; servers use it from their next start."""
    from a3s_power import server

    settings = Settings.load()
    with _ended_like_ctrl_c():
        server.calibrate(settings, _say)


def setup_engine(backend: str | None, wanted_build: str | None) -> None:
    """Install the engine for `backend` and have the server use it; `cpu` goes back; None tells what is in use."""
    home = Settings.load().home
    match backend:
        case None:
            choice = chosen_engine(home)
            print(f"{choice.backend} ({choice.python})" if choice else _BUILTIN)
        case "cpu":
            use_builtin(home)
            print(f"the server will use {_BUILTIN} from its next start")
        case _:
            _install_engine(backend, wanted_build)


def _install_engine(backend: str, wanted_build: str | None) -> None:
    settings = Settings.load()
    build = choose_build(backend, found_version(backend, os.environ), wanted_build)
    _say(f"setting up {build.name} in {settings.home / 'engines' / backend}")
    with _ended_like_ctrl_c():
        devices = install_engine(
            settings.home, backend, build, index=settings.engine_index, environ=os.environ, say=_say
        )
    for device in devices:
        print(f"{device.name}: {device.description}, {device.memory_total / 2**30:.1f} GiB")
    if not any(device.name.lower().startswith(backend) for device in devices):
        _say(f"Warning: the engine finds no device for {backend} on this machine, and will use the CPU")
    print(f"the server will use the {backend} engine from its next start")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextmanager
def _ended_like_ctrl_c() -> Iterator[None]:
    """Have SIGTERM, and SIGHUP of a closed terminal, leave through every `finally`: gigabytes may lie there."""
    before = {
        number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
