"""`create` with files: what reaches a real server, and what a user can stop."""

import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.support.api import tiny_gguf, tiny_projector
from tests.support.gguf_files import write_gguf
from tests.support.split_gguf import part_files

PROGRAM = [sys.executable, "-m", "a3s_power.cli.main"]


@pytest.fixture
def cli(scripted, tmp_path):
    """Run one command in a folder of its own, against a server with a scripted engine."""
    api = scripted()
    folder = tmp_path / "folder"
    folder.mkdir()
    environ = {**os.environ, **api.server.environment, "HOME": str(tmp_path)}

    def run(*args):
        return subprocess.run(
            [*PROGRAM, *args], cwd=folder, env=environ, capture_output=True, text=True, timeout=60, check=False
        )

    run.api, run.folder = api, folder
    return run


def test_a_folder_becomes_a_model(cli):
    parts = part_files(
        "m",
        {"general.architecture": "llama", "llama.block_count": 1, "llama.embedding_length": 32},
        {"a": bytes(64), "b": bytes(32)},
    )
    for name, data in parts.items():
        (cli.folder / name).write_bytes(data)
    tiny_projector(cli.folder / "mmproj-m.gguf")
    (cli.folder / "README.md").write_text("# M")
    made = cli("create", "mine")  # without a Modelfile: FROM .
    assert made.returncode == 0, made.stderr
    assert made.stdout == ""
    lines = made.stderr.splitlines()
    assert lines[:3] == ["gathering model components", "hashing 3 files", "copying 3 files"]
    assert lines[-1] == "success"
    shown = cli.api.sdk.show("mine")
    assert shown.details.family == "llama"
    assert shown.modelfile.count("\nFROM /") == 2
    again = cli("create", "again")
    assert again.returncode == 0, again.stderr
    assert "copying" not in again.stderr


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "no Modelfile, GGUF or safetensors files found in {folder}"),
        (["a.gguf", "b.gguf"], "{folder} holds several models, name one of them: a.gguf, b.gguf"),
        (
            ["model.safetensors"],
            "{folder}/model.safetensors has to be converted to GGUF first, "
            "with llama.cpp's convert_hf_to_gguf.py for example",
        ),
    ],
)
def test_a_folder_without_one_model_is_told_in_a_sentence(files, message, cli):
    for name in files:
        tiny_gguf(cli.folder / name)
    failed = cli("create", "mine")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr == f"Error: {message.format(folder=cli.folder)}\n"


@pytest.mark.parametrize("path", ["./missing.gguf", "~/missing.gguf", "/missing.gguf", "../loop", "/dev/null"])
def test_a_path_to_no_file_is_told(path, cli, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    (cli.folder / "Modelfile").write_text(f"FROM {path}")
    failed = cli("create", "mine")
    message = "/dev/null is no file" if path == "/dev/null" else f"{path}: no such file or folder"
    assert (failed.returncode, failed.stderr) == (1, f"Error: {message}\n")


def test_a_folder_s_files_may_have_any_name_and_lie_on_both_sides_of_it(cli, tmp_path):
    beside = tmp_path / "beside"
    beside.mkdir()
    tiny_gguf(beside / os.fsdecode(b"caf\xe9.gguf"))
    tiny_projector(cli.folder / "mmproj-m.gguf")
    write_gguf(cli.folder / "imatrix.gguf", {"general.type": "imatrix"})
    (cli.folder / "Modelfile").write_text("FROM ../beside\nFROM ./mmproj-m.gguf\n")
    made = cli("create", "mine")
    assert made.returncode == 0, made.stderr
    (cli.folder / "Modelfile").write_text("FROM ./imatrix.gguf")
    refused = cli("create", "mine")
    assert refused.stderr.splitlines()[-1] == "Error: imatrix.gguf is no part of a model"


class Stalled(BaseHTTPRequestHandler):
    """A server that takes no blob, and says nothing about it until the test is over."""

    def do_HEAD(self):
        self.send_response(200 if self.path == "/" else 404)
        self.end_headers()

    def do_POST(self):
        self.server.has_stalled.set()
        self.server.is_over.wait(timeout=60)
        self.close_connection = True

    def log_message(self, *args):
        pass


@pytest.fixture
def stalled():
    with ThreadingHTTPServer(("127.0.0.1", 0), Stalled) as server:
        server.has_stalled, server.is_over = threading.Event(), threading.Event()
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.is_over.set()
        server.shutdown()
        thread.join()


def test_ctrl_c_ends_an_upload_that_hangs(stalled, tmp_path):
    for name in ("one", "two"):
        with tiny_gguf(tmp_path / f"{name}.gguf").open("ab") as file:
            file.truncate(64 * 2**20)  # more than the buffers between the two take
    (tmp_path / "Modelfile").write_text("FROM ./one.gguf\nFROM ./two.gguf")
    environ = {**os.environ, "HOME": str(tmp_path), "OLLAMA_HOST": f"127.0.0.1:{stalled.server_port}"}
    with subprocess.Popen(
        [*PROGRAM, "create", "mine"], cwd=tmp_path, env=environ, stderr=subprocess.PIPE, text=True
    ) as process:
        assert stalled.has_stalled.wait(timeout=60)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
        assert process.stderr.read() == "gathering model components\nhashing 2 files\ncopying 2 files\n\n"
