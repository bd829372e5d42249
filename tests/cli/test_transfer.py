"""`pull`, `push` and a `run` that pulls, with a real registry."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.api import tiny_gguf
from tests.support.registry import running_registry

pytestmark = pytest.mark.skipif(
    shutil.which("docker-registry") is None, reason="this machine has no docker-registry"
)


@pytest.fixture
def registry(tmp_path):
    with running_registry(tmp_path / "registry") as running:
        yield running


@pytest.fixture
def cli(scripted, tmp_path):
    """Run one command against a server with a scripted engine; `cli.api` talks to it otherwise."""
    api = scripted()
    environ = {**os.environ, **api.server.environment, "HOME": str(tmp_path)}

    def run(*args):
        argv = [sys.executable, "-m", "a3s_power.cli.main", *args]
        return subprocess.run(
            argv, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
        )

    run.api = api
    return run


def test_a_model_is_pushed_removed_and_fetched_by_running_it(cli, registry, tmp_path):
    name = f"{registry.host}/test/tiny:v1"
    cli.api.create(name, tiny_gguf(tmp_path / "tiny.gguf"))
    pushed = cli("push", name, "--insecure")
    assert pushed.returncode == 0, pushed.stderr
    assert pushed.stderr.splitlines()[0] == "retrieving manifest"
    assert pushed.stderr.splitlines()[-1] == "success"
    assert cli("rm", name).returncode == 0

    ran = cli("run", "--insecure", name, "say:hello")
    assert (ran.returncode, ran.stdout.strip()) == (0, "hello")
    assert "pulling manifest" in ran.stderr
    again = cli("run", name, "say:hello")
    assert "pulling" not in again.stderr

    elsewhere = cli("push", name, "--destination", f"http://{registry.host}")
    assert elsewhere.returncode == 0, elsewhere.stderr


def test_what_cannot_be_fetched_is_told(cli, registry):
    for command in ("pull", "run"):
        failed = cli(command, "--insecure", f"{registry.host}/test/absent")
        assert failed.returncode == 1
        assert failed.stderr.splitlines()[-1] == "Error: pull model manifest: file does not exist"
        assert failed.stdout == ""
    assert not list(Path(cli.api.server.environment["OLLAMA_MODELS"]).glob("manifests/127*"))
