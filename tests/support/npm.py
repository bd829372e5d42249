"""Packages from npm, and a client from there that Python can call."""

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from demo.smollm2 import cache_folder
from demo.wheels import CannotFetch

PROGRAMS = ("node", "npm")
_INSTALL_TIMEOUT_S = 120
_END_TIMEOUT_S = 10


class CallFailed(Exception):
    """What the client threw."""

    def __init__(self, name: str, message: str, status: int | None, parts: list[Any] | None) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name
        self.message = message
        self.status = status
        """Of the HTTP reply; None if there was none, or a good one."""
        self.parts = parts
        """What had been read of a stream."""


class NodeClient:
    """An object in a Node.js process of its own, whose methods are called one at a time."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.methods = set(self._outcome())
        """The names of all it has, private ones too: JavaScript does not tell them apart."""

    def __call__(
        self, method: str, request: Mapping[str, Any] | None = None, *, abort_after: int | None = None
    ) -> Any:
        """What the method resolves to, of a stream the list of its parts. Raises CallFailed.

        `abort_after` calls the client's `abort()` after so many parts.
        """
        order = {"method": method, "request": request, "abortAfter": abort_after}
        assert self._process.stdin
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._outcome()

    def _outcome(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, "Node.js ended; what it said is above"
        outcome = json.loads(line)
        assert outcome["said"] == [], "the client complains on its console"
        if error := outcome["error"]:
            raise CallFailed(**error, parts=outcome["reply"])
        return outcome["reply"]


@contextmanager
def node_client(package: Path, host: str) -> Iterator[NodeClient]:
    """Run `calls.mjs` of a folder with a `package.json` against a server."""
    script = (package / "calls.mjs").read_text(encoding="utf-8")
    # As an argument, not as a file: then imports are looked for in the folder it runs in, where the packages are.
    argv = ["node", "--no-warnings", "--input-type=module", "--eval", script, host]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, cwd=installed(package), stdin=pipe, stdout=pipe, encoding="utf-8") as process:
        try:
            yield NodeClient(process)
            process.communicate(timeout=_END_TIMEOUT_S)  # it leaves when there is nothing more to read
        finally:
            process.kill()


def installed(package: Path) -> Path:
    """A folder with what `package-lock.json` asks for, fetched if it is not there yet. Raises CannotFetch."""
    lock = package / "package-lock.json"
    target = cache_folder() / "npm" / hashlib.sha256(lock.read_bytes()).hexdigest()[:12]
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            made = Path(folder, "made")
            made.mkdir()
            for file in (package / "package.json", lock):
                shutil.copy(file, made)
            _install(made)
            made.replace(target)
    return target


def _install(folder: Path) -> None:
    argv = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(argv, cwd=folder, check=False, stdout=sys.stderr, timeout=_INSTALL_TIMEOUT_S)
    if done.returncode != 0:
        raise CannotFetch("could not fetch the npm packages of the client tests; is there a network?")
