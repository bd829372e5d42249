"""The command line's surface: help, mistakes, flags, and what it costs to start."""

import io
import subprocess
import sys
from types import SimpleNamespace

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from a3s_power.cli import main, models, run, terminal
from a3s_power.cli.chat import Next
from a3s_power.errors import InvalidRequest


@pytest.fixture(autouse=True)
def own_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("A3S_POWER_HOME", str(tmp_path / "power"))


def status_of(*argv):
    with pytest.raises(SystemExit) as caught:
        main.main(argv)
    return caught.value.code


def test_help_is_there_at_once():
    code = """
import sys
from a3s_power.cli.main import main
try:
    main(["--help"])
finally:
    print(*sys.modules, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert loaded.isdisjoint({"httpx2", "rich", "prompt_toolkit", "msgspec", "starlette", "anyio", "asyncio"})
    assert done.stdout.index("serve") < done.stdout.index("create") < done.stdout.index("show")
    assert "      A3S_POWER_HOST                Address of the server" in done.stdout


@pytest.mark.parametrize("argv", [[], ["help"], ["help", "run"], ["run", "-h"], ["start", "--help"], ["ls", "-h"]])
def test_help_succeeds(argv, capsys):
    assert status_of(*argv) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("Usage: a3s-power")
    assert printed.err == ""


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["lst"], 'unknown command "lst" for "a3s-power"\n\nDid you mean this?\n\tlist\n'),
        (["help", "xyzzy"], 'unknown command "xyzzy" for "a3s-power"'),
        (["show"], "accepts 1 arg(s), received 0"),
        (["cp", "a", "b", "c"], "accepts 2 arg(s), received 3"),
        (["rm"], "requires at least 1 arg(s), only received 0"),
        (["run"], "requires at least 1 arg(s), only received 0"),
        (
            ["show", "m", "--license", "--system"],
            "only one of '--license', '--modelfile', '--parameters', '--system', or '--template' can be specified",
        ),
        (
            ["run", "m", "--think=hard"],
            'invalid value for --think: "hard" (must be true, false, high, medium, low, or max)',
        ),
        (["run", "m", "--keepalive", "5"], 'time: missing unit in duration "5"'),
    ],
)
def test_a_mistake_is_one_line_and_status_1(argv, message, capsys):
    assert status_of(*argv) == 1
    printed = capsys.readouterr()
    assert printed.err == f"Error: {message}\n"
    assert printed.out == ""


def test_without_a_server(monkeypatch, capsys):
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:1")
    assert status_of("list") == 1
    assert capsys.readouterr().err.startswith(
        "Error: could not connect to a3s-power server, run 'a3s-power serve'"
    )
    assert status_of("--version") == 0
    assert capsys.readouterr().out.startswith("Warning: could not connect to a running A3S Power instance\n")


@pytest.mark.parametrize(
    ("argv", "wished", "words"),
    [
        (["m"], {"think": None, "word_wrap": True, "options": {}}, []),
        (["m", "why", "is", "it"], {}, ["why", "is", "it"]),
        (["m", "--prompt", "why", "is", "it"], {}, ["why", "is", "it"]),
        (["m", "--think", "high", "up"], {"think": True}, ["high", "up"]),
        (["m", "--think=high", "up"], {"think": "high"}, ["up"]),
        (["m", "--think=false"], {"think": False}, []),
        (["m", "--", "--think"], {}, ["--think"]),
        (["m", "--keep-alive", "5m"], {"keep_alive": "5m"}, []),
        (["m", "--keepalive", "-1s"], {"keep_alive": "-1s"}, []),
        (["m", "--format", "json"], {"format": "json"}, []),
        (["m", "--format", '{"type":"object"}'], {"format": {"type": "object"}}, []),
        (
            ["m", "--temperature", "0", "--num-ctx", "64", "--seed", "7", "--top-p", ".5"],
            {"options": {"temperature": 0.0, "num_ctx": 64, "seed": 7, "top_p": 0.5}},
            [],
        ),
        (
            ["m", "--nowordwrap", "--hidethinking", "--verbose", "--insecure"],
            {"word_wrap": False, "hide_thinking": True, "verbose": True},
            [],
        ),
        (["m", "--system", "s", "--template", "t"], {"system": "s", "template": "t"}, []),
    ],
)
def test_flags_of_run(argv, wished, words, monkeypatch):
    calls = []
    monkeypatch.setattr(run, "run", lambda *call: calls.append(call))
    assert status_of("run", *argv) == 0
    [(wishes, given)] = calls
    assert {name: getattr(wishes, name) for name in wished} == wished
    assert given == words


@pytest.mark.parametrize(
    ("argv", "call"),
    [
        (["ls", "Ll"], ("list_models", "Ll")),
        (["list"], ("list_models", "")),
        (["ps"], ("list_running", "")),
        (["delete", "a", "b"], ("remove", ("a", "b"))),
        (["cp", "a", "b"], ("copy", "a", "b")),
        (["stop", "m"], ("stop", "m")),
        (["show", "m", "--system"], ("show", "m", "system", False)),
        (["show", "-v", "m"], ("show", "m", None, True)),
    ],
)
def test_commands_about_models(argv, call, monkeypatch):
    calls = []
    monkeypatch.setattr(models, call[0], lambda *given: calls.append((call[0], *given)))
    assert status_of(*argv) == 0
    assert calls == [call]


# ---- the keyboard ----


class Talk:
    """Stands in for a session: remembers what is typed."""

    def __init__(self):
        self.lines = []
        self.keeps_history = True
        self.dropped = 0

    def start(self):
        pass

    def drop_input(self):
        self.dropped += 1

    def handle(self, line):
        self.lines.append(line)
        return Next.MORE if line == '"""' else Next.LINE


@pytest.mark.parametrize(
    ("keys", "lines"),
    [
        ("hi\rthere\r", ["hi", "there"]),
        ("a\nb\r", ["a\nb"]),  # Ctrl+J
        ("\x1b[200~a\nb\x1b[201~\r", ["a\nb"]),  # pasted
        ("oops\x03hi\r", ["hi"]),  # Ctrl+C
        ('"""\r\x03hi\r', ['"""', "hi"]),
        ("\t\r", [" " * 8]),
    ],
)
def test_keys(keys, lines, tmp_path):
    talk = Talk()
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        pipe.send_text(f"{keys}\x04")
        terminal.talk(talk, tmp_path / "history")
    assert talk.lines == lines


def test_ctrl_c_on_an_empty_line_tells_how_to_leave(tmp_path, capsys):
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        pipe.send_text("\x03\x04")
        terminal.talk(Talk(), tmp_path / "history")
    assert capsys.readouterr().out == "\nUse Ctrl + d or /bye to exit.\n"


def test_history_keeps_the_latest_lines(tmp_path):
    path, session = tmp_path / "home" / "history", SimpleNamespace(keeps_history=True)
    history = terminal.FileHistory(path, session)
    for number in range(terminal.MAX_HISTORY + 5):
        history.store_string(f"line\n{number}")
    session.keeps_history = False
    history.store_string("secret")
    kept = list(terminal.FileHistory(path, session).load_history_strings())
    assert (len(kept), kept[0], kept[-1]) == (terminal.MAX_HISTORY, "line\n104", "line\n5")
    assert path.stat().st_mode & 0o077 == 0
    assert [entry.name for entry in path.parent.iterdir()] == ["history"]


@pytest.mark.parametrize("content", [b"\xff", b"no json\n"])
def test_a_broken_history_is_no_reason_not_to_talk(content, tmp_path):
    path = tmp_path / "history"
    path.write_bytes(content)
    assert list(terminal.FileHistory(path, SimpleNamespace()).load_history_strings()) == []


def test_an_editor_that_is_missing_leaves_the_text(monkeypatch, capsys):
    monkeypatch.setenv("OLLAMA_EDITOR", "no-such-editor --wait")
    assert terminal._edited("text") == "text"
    assert 'editor "no-such-editor" not found' in capsys.readouterr().out


def test_a_format_that_is_no_json(monkeypatch):
    from a3s_power.cli.wishes import parse_format

    with pytest.raises(InvalidRequest, match="neither json nor a JSON schema"):
        parse_format("{")


def test_stdin_comes_before_the_words(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"piped\xff text")))
    assert run._piped() == "piped\ufffd text"
