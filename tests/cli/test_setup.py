"""`setup engine`: what it makes, what it leaves when it fails or is interrupted, and that a runner works in it.

The index is a folder with a wheel named xllamacpp, made here; pip and the environments are real.
"""

import fcntl
import http.client
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import zipfile
from contextlib import contextmanager

import psutil
import pytest

from a3s_power.cli import main
from a3s_power.runner import host
from a3s_power.setup import builds, errors, pip
from a3s_power.setup.builds import BUILDS, Build, choose_build, found_version
from a3s_power.setup.engine import EngineChoice, builtin_version, chosen_engine
from a3s_power.setup.errors import SetupFailed
from tests.support.engines import wait_until_gone

STUB = """
import http.server, importlib.util, json, socketserver, threading
from types import SimpleNamespace

MARK = "the index"

def get_device_info():
    print("ggml_cuda_init: found 1 CUDA devices")
    gpu = {"name": "CUDA0", "description": "NVIDIA H200", "memory_total": 150 * 2**30, "memory_free": 1}
    return [gpu, {"name": "CPU", "description": "AMD EPYC", "memory_total": 24 * 2**30, "memory_free": 1}]

class CommonParams(SimpleNamespace):
    def __init__(self):
        super().__init__(model=SimpleNamespace(path=""), n_ctx=0)

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        knows_us = importlib.util.find_spec("a3s_power") is not None
        body = json.dumps({"path": self.path, "n_ctx": self.server.params.n_ctx, "knows_us": knows_us}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
    def address_string(self):
        return "a socket"

class Server:
    def __init__(self, params):
        if params.model.path == "":
            raise RuntimeError("no model")
        server = socketserver.ThreadingUnixStreamServer(params.hostnames[0], Handler)
        server.params = params
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print("listening", flush=True)
"""
NEEDS_DRIVER = 'raise ImportError("libcuda.so.1: cannot open shared object file: No such file or directory")'


def write_wheel(folder, name="xllamacpp", source=STUB, version=None, tag="py3-none-any", needs=()):
    version = version or builtin_version()
    info = f"{name}-{version}.dist-info"
    metadata = [
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}",
        *(f"Requires-Dist: {n}" for n in needs),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-{version}-{tag}.whl", "w") as wheel:
        wheel.writestr(f"{name}/__init__.py", source)
        wheel.writestr(f"{info}/METADATA", "\n".join(metadata) + "\n")
        wheel.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        wheel.writestr(f"{info}/RECORD", "")


def write_index(folder, build="cu132", **wheel):
    """One package index with one wheel; returns the URL above it."""
    page = folder / build / "xllamacpp"
    write_wheel(page, **wheel)
    links = "".join(f'<a href="{path.name}">{path.name}</a>' for path in page.glob("*.whl"))
    (page / "index.html").write_text(f"<!DOCTYPE html><html><body>{links}</body></html>")
    return folder.as_uri()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home of its own, on a machine without any GPU, whose pip has no other index."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("A3S_POWER_HOME", str(tmp_path / "power"))
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr(builds, "_cuda_of_driver", lambda: None)
    return tmp_path / "power"


@pytest.fixture
def setup_engine(home, monkeypatch, capsys):
    """Run the command with an index; returns status, stdout and stderr."""

    def run(*words, index=None):
        if index:
            monkeypatch.setenv("A3S_POWER_ENGINE_INDEX", index)
        with pytest.raises(SystemExit) as caught:
            main.main(["setup", "engine", *words])
        printed = capsys.readouterr()
        return caught.value.code, printed.out, printed.err

    return run


@pytest.fixture
def installed(home):
    """An engine that was set up before: a link to a folder, and the choice. Returns what must stay."""
    folder = home / "engines" / "cuda-before"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    (home / "engines" / "cuda").symlink_to(folder.name)
    python = str(home / "engines" / "cuda" / "bin" / "python")
    choice = EngineChoice("cuda", python, builtin_version())
    (home / "engine.json").write_text(json.dumps({"backend": "cuda", "python": python, "version": choice.version}))
    return choice


def left_in(home):
    """What lies under the home, but for the lock and what is inside of environments."""
    paths = [*home.iterdir(), *(home / "engines").iterdir()]
    return sorted(path.name for path in paths if path.name not in {"engines", "lock"})


BEFORE = ["cuda", "cuda-before", "engine.json"]


# ---- what it makes ----


def test_an_engine_is_installed_proved_and_chosen(setup_engine, home, tmp_path, installed):
    status, out, err = setup_engine("cuda", index=write_index(tmp_path / "index"))
    assert status == 0, err
    assert out.splitlines() == [
        "CUDA0: NVIDIA H200, 150.0 GiB",
        "CPU: AMD EPYC, 24.0 GiB",
        "the server will use the cuda engine from its next start",
    ]
    assert err.startswith(f"setting up cu132 in {home}/engines/cuda\n")
    assert f"Successfully installed xllamacpp-{builtin_version()}\n" in err
    python = str(home / "engines" / "cuda" / "bin" / "python")
    assert chosen_engine(home) == EngineChoice("cuda", python, builtin_version())
    (folder,) = (home / "engines").glob("cuda-*")  # the one before is gone
    assert left_in(home) == ["cuda", folder.name, "engine.json"]
    assert_a_runner_works(python, tmp_path)
    assert setup_engine()[:2] == (0, f"cuda ({python})\n")
    assert setup_engine("cpu")[0] == 0
    assert chosen_engine(home) is None
    assert setup_engine()[:2] == (0, "cpu, the engine that comes with a3s-power\n")


def assert_a_runner_works(python, tmp_path):
    """`runner.host`, run by its path with the environment's interpreter, which does not have our package."""
    folder = tmp_path / "r"
    folder.mkdir()
    path = folder / "s.sock"
    request = json.dumps({"socket": str(path), "params": {"model.path": "/blob", "n_ctx": 512}})
    argv = [python, "-P", host.__file__, request]
    environ = {"PATH": os.environ["PATH"]}
    with subprocess.Popen(argv, env=environ, cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"listening\n"
        assert asked(path) == {"path": "/health", "n_ctx": 512, "knows_us": False}
        process.stdin.close()
    assert process.returncode == 0
    assert not folder.exists()


def asked(path):
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    connection.request("GET", "/health")
    body = json.loads(connection.getresponse().read())
    connection.close()
    return body


def test_a_machine_without_such_a_device_is_told_so(setup_engine, tmp_path):
    status, _, err = setup_engine("vulkan", index=write_index(tmp_path / "index", build="vulkan"))
    assert status == 0
    assert "Warning: the engine finds no device for vulkan on this machine, and will use the CPU\n" in err


def test_the_users_pip_settings_find_dependencies_and_spoil_nothing(setup_engine, home, tmp_path, monkeypatch):
    own = tmp_path / "own"
    write_wheel(own, source="MARK = 'own index'")  # of the same version
    write_wheel(own, name="dependency", version="1.0", source="")
    monkeypatch.setenv("PIP_FIND_LINKS", str(own))
    monkeypatch.setenv("PIP_TARGET", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    status, _, err = setup_engine("cuda", index=write_index(tmp_path / "index", needs=["dependency"]))
    assert status == 0, err
    argv = [chosen_engine(home).python, "-I", "-c", "import dependency, xllamacpp; print(xllamacpp.MARK)"]
    assert subprocess.check_output(argv, text=True) == "the index\n"
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("settings", "with_indexes", "expected"),
    [
        ("global.proxy='http://p:1'\n", False, {"PIP_PROXY": "http://p:1"}),
        (":env:.proxy='http://e:1'\nglobal.proxy='http://p:1'\n", False, {"PIP_PROXY": "http://e:1"}),
        ("global.cert='/a'\ninstall.cert='/b'\n", False, {"PIP_CERT": "/b"}),
        ("global.extra-index-url='\\nhttps://a\\nhttps://b'\n", True, {"PIP_EXTRA_INDEX_URL": "\nhttps://a\nhttps://b"}),
        ("global.index-url='https://a'\nglobal.timeout='9'\n", False, {"PIP_TIMEOUT": "9"}),
        ("global.target='/t'\ninstall.user='true'\nlist.proxy='x'\nWARNING: odd\n", True, {}),
        ("global.trusted-host=\"it's\"\n", True, {"PIP_TRUSTED_HOST": "it's"}),
    ],
)  # fmt: skip
def test_only_the_ways_out_are_taken_from_pips_settings(settings, with_indexes, expected):
    environ = {"HTTPS_PROXY": "http://s:1", "PIP_TARGET": "/t"}
    found = pip.environment(environ, settings, with_indexes=with_indexes)
    assert found == {"HTTPS_PROXY": "http://s:1", "PIP_CONFIG_FILE": os.devnull, **expected}


# ---- which build ----


@pytest.mark.parametrize(
    ("backend", "found", "name"),
    [
        ("cuda", None, "cu132"),
        ("cuda", (13, 2), "cu132"),
        ("cuda", (14, 0), "cu132"),
        ("cuda", (13, 0), "cu128"),  # it cannot compile what CUDA 13.2 has written
        ("cuda", (12, 8), "cu128"),
        ("rocm", None, "rocm-7.2.4"),
        ("rocm", (7, 0), "rocm-7.2.4"),
        ("rocm", (6, 2), "rocm-6.4.1"),
        ("vulkan", None, "vulkan"),
    ],
)
def test_the_newest_build_that_the_machine_can_run_is_taken(backend, found, name):
    assert choose_build(backend, found).name == name


def test_a_build_can_be_insisted_on():
    assert choose_build("cuda", (12, 4), "cu124") == Build("cu124")  # the index may have it
    with pytest.raises(SetupFailed, match=r"^'../evil' is no build for cuda: cu132, cu128$"):
        choose_build("cuda", None, "../evil")


def test_a_machine_too_old_for_all_builds_is_told_so(setup_engine, home, monkeypatch):
    monkeypatch.setattr(builds, "_cuda_of_driver", lambda: (12, 4))
    assert setup_engine("cuda")[2] == (
        "Error: this machine has CUDA 12.4, and the oldest build, cu128, needs 12.8: update it, or insist on a build "
        "with --build\n"
    )
    assert not home.exists()


@pytest.mark.parametrize(("text", "expected"), [("7.2.4-43\n", (7, 2)), ("odd", None), (None, None)])
def test_rocm_tells_its_version_in_a_file(text, expected, tmp_path):
    if text is not None:
        (tmp_path / ".info").mkdir()
        (tmp_path / ".info" / "version").write_text(text)
    assert found_version("rocm", {"ROCM_PATH": str(tmp_path)}) == expected


def test_the_command_knows_the_backends_that_there_are():
    assert main.setup_engine.params[-1].type.choices == (*BUILDS, "cpu")


# ---- what goes wrong ----


@pytest.mark.parametrize(
    ("wheel", "reason"),
    [
        (
            {"tag": "cp399-cp399-any"},
            f"no wheel of xllamacpp=={builtin_version()} for this Python and this machine",
        ),
        ({"version": "1.0"}, r"\(from versions: 1.0\)"),
        (
            {"source": NEEDS_DRIVER},
            "the NVIDIA driver is not installed, .* - ImportError: libcuda.so.1: cannot open",
        ),
        ({"source": "import os; os.abort()"}, "the engine's first start failed: it was ended by SIGABRT"),
        ({"source": "get_device_info = list"}, "list of devices makes no sense"),
    ],
)
def test_a_failed_set_up_changes_nothing(setup_engine, home, tmp_path, installed, wheel, reason):
    status, out, err = setup_engine("cuda", index=write_index(tmp_path / "index", **wheel))
    assert (status, out) == (1, "")
    assert_said(err, reason)
    assert left_in(home) == BEFORE
    assert chosen_engine(home) == installed


def assert_said(err, pattern):
    assert re.search(f"^Error: .*{pattern}", err, re.MULTILINE), err


def test_an_index_that_cannot_be_reached(setup_engine, home, installed, monkeypatch):
    monkeypatch.setenv("PIP_RETRIES", "1")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = taken.getsockname()[1]
    status, _, err = setup_engine("cuda", index=f"http://127.0.0.1:{nobody}/whl")
    assert status == 1
    assert_said(err, "the package index could not be reached; pip heeds HTTPS_PROXY")
    assert left_in(home) == BEFORE


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (
            "The virtual environment was not created successfully because ensurepip is not\navailable.",
            "apt install python3-venv",
        ),
        ("/usr/bin/python3: No module named venv", "apt install python3-venv"),
        (
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
            "the disk is full",
        ),
        ("ImportError: libvulkan.so.1: cannot open shared object file", "apt install libvulkan1"),
        ("", "exit status 3"),
    ],
)
def test_failures_in_words(output, words):
    assert words in str(errors.failure("venv", output, 3))


# ---- interrupted, and two at once ----


@contextmanager
def command_at_work(index_socket):
    """The command as a process, once its pip waits for the index; yields both."""
    url = f"http://127.0.0.1:{index_socket.getsockname()[1]}"
    argv = [sys.executable, "-m", "a3s_power.cli.main", "setup", "engine", "cuda", "--build", "cu128"]
    environ = {**os.environ, "A3S_POWER_ENGINE_INDEX": url, "PIP_RETRIES": "0"}
    with subprocess.Popen(argv, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as command:
        connection, _ = index_socket.accept()
        (child,) = psutil.Process(command.pid).children()
        with connection:
            yield command, child
        if child.is_running():
            child.kill()


@pytest.fixture
def silent_index():
    """An index that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        yield server


@pytest.mark.parametrize(
    ("number", "whom", "status", "said"),
    [
        (signal.SIGINT, "command", 130, ""),
        (signal.SIGTERM, "command", 130, ""),
        (signal.SIGKILL, "pip", 1, "Error: pip failed: it was ended by SIGKILL\n"),
    ],
)
def test_interrupted_halfway_it_leaves_what_was_there(silent_index, home, installed, number, whom, status, said):
    with command_at_work(silent_index) as (command, child):
        assert len(left_in(home)) == len(BEFORE) + 1
        os.kill(command.pid if whom == "command" else child.pid, number)
        _, err = command.communicate(timeout=60)
        assert (command.returncode, wait_until_gone([child])) == (status, [])
    assert err.endswith(said)
    assert left_in(home) == BEFORE
    assert chosen_engine(home) == installed


def test_what_a_killed_command_leaves_is_swept_by_the_next(silent_index, setup_engine, home, tmp_path, installed):
    index = write_index(tmp_path / "index")
    with command_at_work(silent_index) as (command, child):
        command.kill()
        command.wait()
        assert chosen_engine(home) == installed
        assert "another set-up is at work" in setup_engine("cuda", index=index)[2]  # its pip still is
        child.kill()
        assert wait_until_gone([child]) == []
    assert setup_engine("cuda", index=index)[0] == 0
    assert len(left_in(home)) == len(BEFORE)


def test_two_at_once(setup_engine, home, installed):
    with (home / "engines" / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert setup_engine("cuda", index="http://127.0.0.1:1")[::2] == (
            1,
            f"setting up cu132 in {home}/engines/cuda\n"
            f"Error: another set-up is at work in {home}/engines; try again when it has ended\n",
        )
    assert left_in(home) == BEFORE


# ---- which engine the server uses ----


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ('{"backend": "cuda", "python": "/gone/bin/python", "version": "1"}', "the cuda engine is gone (/gone/bin/python)"),
        ('{"backend": "cuda"}', "cannot be read, using the built-in engine: KeyError('python')"),
        ("[]", "cannot be read"),
        ("", "cannot be read"),
    ],
)  # fmt: skip
def test_an_engine_that_is_gone_is_replaced_by_the_built_in_one(text, warning, tmp_path, caplog):
    (tmp_path / "engine.json").write_text(text)
    assert chosen_engine(tmp_path) is None
    assert warning in caplog.text


def test_an_engine_of_another_version_is_used_with_a_warning(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    choice = {"backend": "rocm", "python": sys.executable, "version": "1.0"}
    (tmp_path / "engine.json").write_text(json.dumps(choice))
    assert chosen_engine(tmp_path) == EngineChoice(**choice)
    assert "run 'a3s-power setup engine rocm' again" in caplog.text
