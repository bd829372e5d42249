"""A server of one's own: its own process, port, home and store; ended when one is done with it."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_LISTENING = re.compile(r"Listening on (\S+)")
_POLL_S = 0.02
_END_TIMEOUT_S = 30


class CannotStart(Exception):
    """The server ended before it listened; the message has its log."""


@dataclass(frozen=True)
class OwnServer:
    """A running one."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    environment: Mapping[str, str]
    """For clients that are to find it."""


@contextmanager
def running_server(folder: Path, *, through: Sequence[str] = (), **settings: str) -> Iterator[OwnServer]:
    """Serve from `folder`, on a free port of the loopback interface; `settings` are environment variables.

    `through` is a command that becomes the one it is given.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "server.log"
    environment = {
        "A3S_POWER_HOME": str(folder / "home"),
        "OLLAMA_MODELS": str(folder / "models"),
        "OLLAMA_HOST": "127.0.0.1:0",
        **settings,
    }
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("OLLAMA_", "A3S_POWER_"))
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*through, sys.executable, "-m", "a3s_power.cli.main", "serve"],
            env=inherited | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        address = _wait_for_address(process, log)
        environment["OLLAMA_HOST"] = address
        yield OwnServer(f"http://{address}", process, log, environment)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def _wait_for_address(process: subprocess.Popen[bytes], log: Path) -> str:
    while True:
        has_ended = process.poll() is not None  # asked first: what it wrote before is in the log then
        if found := _LISTENING.search(log.read_text(errors="replace")):
            return found[1]
        if has_ended:
            raise CannotStart(log.read_text(errors="replace"))
        time.sleep(_POLL_S)
