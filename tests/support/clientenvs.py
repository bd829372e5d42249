"""Client libraries in environments of their own, and scripts that check them against our servers.

One environment for all of them takes pip ten minutes to work out; one for each takes seconds, and is kept. A script
gets the URLs of two servers, real and scripted, and prints one JSON line for each check.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from demo.smollm2 import cache_folder
from demo.wheels import CannotFetch
from tests.support import npm
from tests.support.api import API

CALLER = (
    "{{ range $i, $_ := .Messages }}<|im_start|>{{ .Role }}\n"
    "{{ if and $.Tools (eq $i 0) }}Tools: {{ json $.Tools }}\n{{ end }}{{ .Content }}"
    "{{ range .ToolCalls }}<tool_call>{{ json .Function }}</tool_call>{{ end }}<|im_end|>\n"
    "{{ end }}<|im_start|>assistant\n"
)
"""A template with tools, for a model that has not learned to call any: it calls one if it must."""

_INSTALL_TIMEOUT_S = 300
_SCRIPT_TIMEOUT_S = 180
_QUIET = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it asks the internet for prices
    "AI_SDK_LOG_WARNINGS": "false",
    "NO_PROXY": "127.0.0.1",
    "no_proxy": "127.0.0.1",
}

Outcomes = Mapping[str, str | None]
"""Check → how it failed, None if it did not."""


@contextmanager
def urls_for_checks(real: API, scripted: API) -> Iterator[tuple[str, str]]:
    """The servers' URLs, while the real one has the model `caller` too."""
    body = {"model": "caller", "from": "smollm2", "template": CALLER, "stream": False}
    assert real.post("/api/create", body).json() == {"status": "success"}
    yield real.server.url, scripted.server.url
    real.sdk.delete("caller")


def python_outcomes(script: Path, urls: Sequence[str]) -> Outcomes:
    """Run a Python script with what the file beside it pins (`with_x.py`, `with_x.txt`). Raises CannotFetch."""
    python = installed(script.with_suffix(".txt"))
    return _outcomes([str(python), "-E", "-s", "-B", str(script), *urls])


def npm_outcomes(script: Path, urls: Sequence[str]) -> Outcomes:
    """Run a script for Node.js with what `package-lock.json` beside it asks for. Raises CannotFetch."""
    packages = npm.installed(script.parent) / "node_modules"
    with tempfile.TemporaryDirectory() as folder:
        # Node.js looks for packages above the script that imports them, and they have no place in a source tree.
        Path(folder, "node_modules").symlink_to(packages)
        for file in script.parent.glob("*.mjs"):
            Path(folder, file.name).write_bytes(file.read_bytes())
        return _outcomes(["node", str(Path(folder, script.name)), *urls])


def _outcomes(argv: Sequence[str]) -> Outcomes:
    done = subprocess.run(
        argv,
        check=True,
        env={**os.environ, **_QUIET},
        stdout=subprocess.PIPE,
        encoding="utf-8",
        timeout=_SCRIPT_TIMEOUT_S,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["check"]: line["failure"] for line in lines}


def installed(pins: Path) -> Path:
    """The interpreter of an environment with what a file of requirements pins, made if it is not there yet.

    Raises CannotFetch.
    """
    identity = pins.read_bytes() + f"{sys.base_prefix} {sys.version}".encode()
    target = cache_folder() / "clients" / f"{pins.stem}-{hashlib.sha256(identity).hexdigest()[:12]}"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            made = Path(folder, "made")
            _make(made, pins)
            made.replace(target)  # an interpreter finds its packages from where it is
    return _python_of(target)


def _make(environment: Path, pins: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    argv = [sys.executable, "-m", "pip", "--python", str(_python_of(environment)), "install", "--quiet"]
    argv += ["--disable-pip-version-check", "--only-binary", ":all:", "--requirement", str(pins)]
    done = subprocess.run(argv, check=False, stdout=sys.stderr, timeout=_INSTALL_TIMEOUT_S)
    if done.returncode != 0:
        raise CannotFetch(f"could not fetch the packages of {pins.name}; is there a network?")


def _python_of(environment: Path) -> Path:
    return environment / "bin" / "python"
