"""The command line as a person uses it: the real program, a real server, a real model."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

PROGRAM = [sys.executable, "-m", "a3s_power.cli.main"]
ANSI = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[=>]")


@pytest.fixture
def cli(real, tmp_path):
    """Run one command; returns the finished process."""
    environ = {
        **os.environ,
        **real.server.environment,
        "A3S_POWER_HOME": str(tmp_path / "home"),
        "HOME": str(tmp_path),
    }

    def run(*args, stdin=None):
        given = {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
        return subprocess.run([*PROGRAM, *args], env=environ, capture_output=True, text=True, timeout=120, **given)

    run.environ = environ
    return run


@pytest.fixture
def short_answers(real):
    """A model that says little, always the same."""
    parameters = {"num_predict": 6, "temperature": 0}
    real.post("/api/create", {"model": "brief", "from": "smollm2", "parameters": parameters, "stream": False})
    yield "brief"
    real.sdk.delete("brief")


def ok(process):
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_a_model_is_made_shown_copied_and_removed(cli, real, tmp_path, smollm2_gguf):
    (tmp_path / "model.gguf").symlink_to(smollm2_gguf)
    modelfile = 'FROM ./model.gguf\nSYSTEM """\nYou are a cat.\n"""\nPARAMETER stop dog\nPARAMETER num_predict 4\nMESSAGE user Hi\n'
    (tmp_path / "Modelfile").write_text(modelfile)
    made = cli("create", "cat", "-f", str(tmp_path / "Modelfile"))
    assert made.returncode == 0, made.stderr
    assert made.stdout == ""
    assert made.stderr.rstrip().endswith("success")

    listed = ok(cli("list", "cat")).splitlines()
    assert listed[0].split() == ["NAME", "ID", "SIZE", "MODIFIED"]
    assert listed[1].startswith("cat:latest")
    assert "98 MB" in listed[1]
    assert "You are a cat." in ok(cli("show", "cat"))
    assert ok(cli("show", "cat", "--system")).strip() == "You are a cat."
    assert "PARAMETER stop dog" in ok(cli("show", "cat", "--modelfile"))

    assert ok(cli("cp", "cat", "user/dog")) == "copied 'cat' to 'user/dog'\n"
    assert ok(cli("rm", "cat", "user/dog")) == "deleted 'cat'\ndeleted 'user/dog'\n"
    assert len(ok(cli("list", "cat")).splitlines()) == 1


def test_what_show_prints_makes_the_same_model(cli, real, tmp_path, short_answers):
    (tmp_path / "Modelfile").write_text(ok(cli("show", short_answers, "--modelfile")))
    assert cli("create", "again", "-f", str(tmp_path / "Modelfile")).returncode == 0
    first, second = (real.post("/api/show", {"model": name}).json() for name in (short_answers, "again"))
    assert first["parameters"] == second["parameters"]
    assert first["model_info"] == second["model_info"]
    real.sdk.delete("again")


def test_run_answers_an_argument_a_pipe_and_both(cli, real, short_answers):
    asked = real.sdk.generate(short_answers, "Name a colour.")
    assert ok(cli("run", short_answers, "Name", "a", "colour.")) == asked.response + "\n\n"
    assert ok(cli("run", short_answers, stdin="Name a colour.")) == asked.response + "\n\n"
    both = real.sdk.generate(short_answers, "one\ntwo\n Count these.")
    assert ok(cli("run", short_answers, "Count these.", stdin="one\ntwo\n")) == both.response + "\n\n"


def test_run_takes_options_and_formats(cli, short_answers):
    timed = cli("run", "smollm2", "--num-predict", "3", "--seed", "1", "--verbose", "Hi")
    assert timed.returncode == 0
    assert re.search(r"^eval count: +3 token\(s\)$", timed.stderr, re.MULTILINE)
    schema = json.dumps({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]})
    assert isinstance(
        json.loads(ok(cli("run", "smollm2", "--format", schema, "--temperature", "0", "Hi")))["n"], int
    )


def test_ps_and_stop(cli, real, short_answers):
    ok(cli("run", short_answers, "--keepalive", "-1m", "Hi"))
    rows = ok(cli("ps")).splitlines()
    assert rows[0].split() == ["NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"]
    assert "100% CPU" in rows[1]
    assert "512" in rows[1]
    assert "Forever" in rows[1]
    assert ok(cli("stop", short_answers)) == ""
    real.post("/api/generate", {"model": "smollm2"})


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["show", "nope"], "Error: model 'nope:latest' not found\n"),
        (["rm", "nope"], "Error: model 'nope' not found\n"),
        (["cp", "nope", "x"], 'Error: model "nope" not found\n'),
        (["stop", "nope"], 'Error: couldn\'t find model "nope" to stop\n'),
        (["show"], "Error: accepts 1 arg(s), received 0\n"),
        (["frobnicate"], 'Error: unknown command "frobnicate" for "a3s-power"'),
        (["create", "x", "-f", "/nowhere/Modelfile"], "Error: specified Modelfile wasn't found\n"),
        (["run", "smollm2", "--think=maybe", "Hi"], 'Error: invalid value for --think: "maybe"'),
    ],
)  # fmt: skip
def test_mistakes_are_told_on_stderr_and_end_with_1(cli, args, message):
    process = cli(*args)
    assert process.returncode == 1
    assert process.stderr.startswith(message)
    assert process.stdout == ""


def test_without_a_server_every_command_says_how_to_start_one(cli):
    cli.environ["OLLAMA_HOST"] = "127.0.0.1:9"
    for args in (["list"], ["ps"], ["run", "x", "Hi"], ["show", "x"]):
        process = cli(*args)
        assert process.returncode == 1
        assert "could not connect to" in process.stderr
        assert "serve" in process.stderr


def test_versions_and_help(cli):
    assert ok(cli("--version")).startswith("a3s-power version is ")
    text = ok(cli("--help"))
    for command in ("serve", "create", "show", "run", "stop", "list", "ps", "cp", "rm"):
        assert re.search(rf"^  {command}\b", text, re.MULTILINE)


# ---- a terminal ----


@contextmanager
def terminal(environ, *args):
    """The program on a terminal of its own: send keys, wait for what it shows."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execvpe(PROGRAM[0], [*PROGRAM, *args], {**environ, "TERM": "xterm", "NO_COLOR": "1"})
    try:
        yield Terminal(fd)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(fd)


class Terminal:
    def __init__(self, fd):
        self._fd = fd
        self.shown = ""

    def send(self, keys):
        self.shown = ""
        os.write(self._fd, keys.encode())

    def wait_for(self, pattern, timeout_s=60):
        deadline = time.monotonic() + timeout_s
        while not re.search(pattern, self.shown):
            ready, _, _ = select.select([self._fd], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{pattern!r} never came; the screen shows {self.shown!r}"
            data = os.read(self._fd, 65536).decode(errors="replace")
            if "\x1b[6n" in data:  # the program asks where the cursor is
                os.write(self._fd, b"\x1b[1;1R")
            self.shown += ANSI.sub("", data)
        return self.shown


def test_a_session_remembers_what_was_said(cli, real, short_answers):
    answers = real.sdk.chat(short_answers, [{"role": "user", "content": "Hi"}]).message.content
    with terminal(cli.environ, "run", short_answers) as screen:
        screen.wait_for(">>> ")
        screen.send("Hi\r")
        screen.wait_for(re.escape(answers.split("\n")[0][:20]) + r"[\s\S]*>>> ")
        screen.send("/set parameter num_predict 2\r")
        screen.wait_for(r"Set parameter 'num_predict' to '2'[\s\S]*>>> ")
        screen.send("/set nosuch\r")
        screen.wait_for(r"Unknown command '/set nosuch'[\s\S]*>>> ")
        screen.send("/bye\r")


def test_ctrl_c_ends_a_reply_and_not_the_session(cli, real):
    with terminal(cli.environ, "run", "smollm2", "--temperature", "0") as screen:
        screen.wait_for(">>> ")
        screen.send("Write a very long story about a whale.\r")
        screen.wait_for(r"whale\.[\s\S]*(\S+\s+){12}\S")  # what was typed, then a dozen words of whatever sort
        screen.send("\x03")
        screen.wait_for(">>> ")
        screen.send("/show info\r")
        screen.wait_for("llama")
