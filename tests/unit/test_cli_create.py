"""`create`: from a Modelfile to the request, and which files are sent."""

import hashlib

import httpx2
import msgspec
import pytest

from a3s_power.cli import create
from a3s_power.client import Client
from a3s_power.errors import AppError, InvalidModelfile
from a3s_power.modelfile import parse

GGUF = b"GGUF and more"
DIGEST = f"sha256:{hashlib.sha256(GGUF).hexdigest()}"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model.gguf").write_bytes(GGUF)
    (tmp_path / "lora.gguf").write_bytes(b"GGUF lora")
    (tmp_path / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    return tmp_path


def planned(text, folder):
    plan = create.plan_of(parse(text), folder)
    return msgspec.to_builtins(plan.request), plan


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("FROM llama3.2", {"from": "llama3.2"}),
        ("FROM a\nFROM b", {"from": "b"}),
        ("FROM a\nSYSTEM one\nSYSTEM two\nTEMPLATE t", {"from": "a", "system": "two", "template": "t"}),
        ("FROM a\nRENDERER r\nPARSER p", {"from": "a", "renderer": "r", "parser": "p"}),
        ("FROM a\nLICENSE x\nLICENSE y", {"from": "a", "license": ["x", "y"]}),
        (
            "FROM a\nPARAMETER stop x\nPARAMETER stop y\nPARAMETER top_k 1\nPARAMETER top_k 2",
            {"from": "a", "parameters": {"stop": ["x", "y"], "top_k": 2}},
        ),
        (
            "FROM a\nMESSAGE user q: r\nMESSAGE assistant s",
            {
                "from": "a",
                "messages": [{"role": "user", "content": "q: r"}, {"role": "assistant", "content": "s"}],
            },
        ),
        ("FROM a\nREQUIRES v0.14.0", {"from": "a", "requires": "0.14.0"}),
        ("FROM model.gguf", {}),
        ("PARAMETER model a", {"from": "a"}),
    ],
)
def test_a_modelfile_becomes_a_request(lines, expected, folder):
    request, _ = planned(lines, folder)
    assert request == expected


def test_files_are_found_beside_the_modelfile(folder):
    _, plan = planned("FROM ./model.gguf\nADAPTER lora.gguf", folder)
    assert plan.files == [folder / "model.gguf"]
    assert plan.adapters == [folder / "lora.gguf"]


def test_a_tilde_is_the_users_home(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    _, plan = planned("FROM ~/model.gguf", folder / "elsewhere")
    assert plan.files == [folder / "model.gguf"]


def test_deprecated_parameters_are_left_out_with_a_warning(folder):
    request, plan = planned("FROM a\nPARAMETER mirostat 1", folder)
    assert request == {"from": "a"}
    assert plan.warnings == ["warning: parameter mirostat is deprecated"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("FROM .", r"is a folder: name the GGUF file in it\. Other formats have to be converted first"),
        ("FROM model.safetensors", r"model\.safetensors is not a GGUF file\. Other formats have to be converted"),
        ("FROM a\nADAPTER nowhere.gguf", r"nowhere\.gguf: No such file or directory"),
        ("FROM model.gguf\nDRAFT ./model.gguf", r"DRAFT must not reference the same local path as FROM: "),
        ("FROM a\nREQUIRES one", r"requires must be a valid semver \(e\.g\. 0\.14\.0\)"),
        ("FROM a\nPARAMETER top_k x", r"invalid int value \[x\]"),
        ("FROM ~nobody-of-this-name/x", r"failed to find user 'nobody-of-this-name'"),
    ],
)
def test_what_cannot_be_made(lines, message, folder):
    with pytest.raises(InvalidModelfile, match=message):
        planned(lines, folder)


def test_names_of_several_files_keep_what_tells_them_apart(tmp_path):
    one, two = tmp_path / "a" / "x.gguf", tmp_path / "b" / "x.gguf"
    assert create.upload_names([one]) == ["x.gguf"]
    assert create.upload_names([one, two]) == ["a/x.gguf", "b/x.gguf"]
    assert create.upload_names([]) == []


# ---- with a server ----


class Server:
    """Stores blobs, and answers a create with two steps."""

    def __init__(self):
        self.blobs = {}
        self.uploads = 0
        self.created = []

    def __call__(self, request):
        path = request.url.path
        match request.method, path.removeprefix("/api/blobs/"):
            case "HEAD", "/":
                return httpx2.Response(200)
            case "HEAD", digest:
                return httpx2.Response(200 if digest in self.blobs else 404)
            case "POST", "/api/create":
                self.created.append(msgspec.json.decode(request.content))
                return httpx2.Response(200, content=b'{"status":"parsing GGUF"}\n{"status":"success"}\n')
            case "POST", digest:
                self.blobs[digest] = request.read()
                self.uploads += 1
                return httpx2.Response(201)
        raise AssertionError(path)


@pytest.fixture
def server(monkeypatch):
    server = Server()

    def connected():
        return Client("http://test", transport=httpx2.MockTransport(server))

    monkeypatch.setattr(create, "connected", connected)
    return server


def test_a_file_is_sent_once(folder, server, capsys):
    (folder / "Modelfile").write_text("FROM model.gguf\nSYSTEM hi")
    for name in ("mine", "again"):
        create.create(name, str(folder / "Modelfile"), quantize="q4_K_M", draft_quantize=None)
    assert server.blobs == {DIGEST: GGUF}
    assert server.uploads == 1
    assert server.created[0] == {
        "model": "mine",
        "files": {"model.gguf": DIGEST},
        "system": "hi",
        "quantize": "q4_K_M",
    }
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines()[:5] == [
        "gathering model components",
        "hashing model.gguf",
        f"copying file {DIGEST}",
        "parsing GGUF",
        "success",
    ]


def test_the_modelfile_is_the_one_here_by_default(folder, server, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "Modelfile").write_text("FROM ./model.gguf")
    create.create("mine", None, None, None)
    assert server.created == [{"model": "mine", "files": {"model.gguf": DIGEST}}]


@pytest.mark.parametrize(
    ("name", "file", "message"),
    [
        ("a//b", None, "invalid model name: a//b"),
        ("mine", "nowhere", "specified Modelfile wasn't found"),
        ("mine", None, "is a folder"),
        ("mine", "model.gguf", "command must be one of"),
    ],
)
def test_mistakes_are_found_before_the_server_is_asked(name, file, message, folder, server, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(AppError, match=message):
        create.create(name, file, None, None)
    assert server.created == []
    assert server.blobs == {}
