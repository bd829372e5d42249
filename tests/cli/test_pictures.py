"""Pictures that a prompt on the command line names, seen by a real model."""

import os
import subprocess
import sys

import pytest

from tests.support.pictures import Drawing, encoded

RED = Drawing("red", "circle")
BLUE = Drawing("blue", "square")


@pytest.fixture
def ask(seeing, tmp_path):
    """`a3s-power run MODEL PROMPT` in a folder with pictures; returns the finished process."""
    (tmp_path / "cat.png").write_bytes(RED.png)
    (tmp_path / "my dog.JPG").write_bytes(encoded(BLUE.image, "JPEG"))
    (tmp_path / "page.png").write_bytes(b"<html></html>")
    environ = {**os.environ, **seeing.server.environment, "HOME": str(tmp_path), "A3S_POWER_HOME": str(tmp_path)}

    def run(prompt, *, model="see"):
        argv = [
            sys.executable,
            "-m",
            "a3s_power.cli.main",
            "run",
            model,
            "--temperature",
            "0",
            "--num-predict",
            "8",
        ]
        return subprocess.run(
            [*argv, prompt],
            cwd=tmp_path,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


@pytest.mark.parametrize(
    "prompt, color, note",
    [
        ("what color is it? ./cat.png", "red", "Added image './cat.png'\n"),
        ("./my\\ dog.JPG What color is the shape?", "blue", "Added image './my dog.JPG'\n"),
        ("What color is the shape? './cat.png'", "red", "Added image './cat.png'\n"),
    ],
)
def test_a_picture_that_is_named_is_seen(ask, prompt, color, note):
    process = ask(prompt)
    assert process.returncode == 0, process.stderr
    assert color in process.stdout
    assert process.stderr == note


def test_a_file_that_is_no_picture_is_refused(ask):
    process = ask("What color is it? ./page.png")
    assert (process.returncode, process.stdout) == (1, "")
    assert process.stderr == "Error: invalid file type: text/plain\n"


def test_for_a_model_that_cannot_see_a_path_is_text(ask):
    process = ask("Say ./cat.png", model="smollm2")
    assert process.returncode == 0
    assert "Added" not in process.stderr
