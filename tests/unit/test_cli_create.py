"""`create`: from a Modelfile to the request, and which files are sent."""

import hashlib

import httpx2
import msgspec
import pytest

from a3s_power.cli import create, uploading
from a3s_power.client import Client, ClientError
from a3s_power.errors import AppError, InvalidModelfile
from a3s_power.modelfile import describe, parse
from tests.support.api import tiny_gguf
from tests.support.gguf_files import write_gguf

GGUF = b"GGUF and more"
DIGEST = f"sha256:{hashlib.sha256(GGUF).hexdigest()}"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model.gguf").write_bytes(GGUF)
    (tmp_path / "lora.gguf").write_bytes(b"GGUF lora")
    (tmp_path / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    return tmp_path


def planned(text, folder):
    plan = create.plan_of(describe(parse(text)), folder)
    return msgspec.to_builtins(plan.request), plan


def paths_of(files):
    return {name: file.path for name, file in files.items()}


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
    assert paths_of(plan.files) == {"model.gguf": folder / "model.gguf"}
    assert paths_of(plan.adapters) == {"lora.gguf": folder / "lora.gguf"}


def test_a_part_brings_the_others_and_a_folder_its_adapters(tmp_path):
    parts = [tmp_path / f"m-0000{number}-of-00002.gguf" for number in (1, 2)]
    for part in parts:
        tiny_gguf(part)
    (tmp_path / "loras").mkdir()
    write_gguf(tmp_path / "loras/a.gguf", {"general.architecture": "llama", "general.type": "adapter"})
    both = "\n".join(f"FROM ./{part.name}" for part in parts)
    for lines in (f"FROM ./{parts[0].name}", both):
        _, plan = planned(f"{lines}\nADAPTER loras", tmp_path)
        assert paths_of(plan.files) == {part.name: part for part in parts}
        assert paths_of(plan.adapters) == {"a.gguf": tmp_path / "loras/a.gguf"}


def test_a_tilde_is_the_users_home(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    _, plan = planned("FROM ~/model.gguf", folder / "elsewhere")
    assert paths_of(plan.files) == {"model.gguf": folder / "model.gguf"}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("FROM .", r"/model\.safetensors has to be converted to GGUF first"),
        ("FROM model.safetensors", r"model\.safetensors is not a GGUF file; it has to be converted to GGUF"),
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
    assert uploading.upload_names([one]) == ["x.gguf"]
    assert uploading.upload_names([one, two]) == ["a/x.gguf", "b/x.gguf"]
    assert uploading.upload_names([]) == []


def test_a_way_through_a_link_does_not_make_two_files_one(tmp_path):
    (tmp_path / "far" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to("far/deep")
    paths = [tmp_path / "p.gguf", tmp_path / "link" / ".." / "p.gguf"]
    assert uploading.upload_names(paths) == ["p.gguf", "far/p.gguf"]


# ---- with a server ----


class Server:
    """Stores blobs that hash to their digests, and answers a create with two steps."""

    def __init__(self):
        self.blobs = {}
        self.uploads = 0
        self.created = []
        self.when_asked_for_a_blob = lambda: None

    def __call__(self, request):
        path = request.url.path
        match request.method, path.removeprefix("/api/blobs/"):
            case "HEAD", "/":
                return httpx2.Response(200)
            case "HEAD", digest:
                self.when_asked_for_a_blob()
                return httpx2.Response(200 if digest in self.blobs else 404)
            case "POST", "/api/create":
                self.created.append(msgspec.json.decode(request.content))
                return httpx2.Response(200, content=b'{"status":"parsing GGUF"}\n{"status":"success"}\n')
            case "POST", digest:
                self.uploads += 1
                data = request.read()
                if digest != f"sha256:{hashlib.sha256(data).hexdigest()}":
                    return httpx2.Response(400, json={"error": "digest mismatch"})
                self.blobs[digest] = data
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


def test_deprecated_parameters_are_left_out_with_a_warning(folder, server, capsys):
    (folder / "Modelfile").write_text("FROM a\nPARAMETER mirostat 1")
    create.create("mine", str(folder / "Modelfile"), None, None)
    assert server.created == [{"model": "mine", "from": "a"}]
    assert capsys.readouterr().out == "warning: parameter mirostat is deprecated\n"


def test_what_to_quantise_to_is_the_servers_to_judge(folder, server):
    (folder / "Modelfile").write_text("FROM llama3.2\nDRAFT model.gguf")
    create.create("mine", str(folder / "Modelfile"), quantize="q9_X", draft_quantize="q4_0")
    assert server.created == [
        {
            "model": "mine",
            "from": "llama3.2",
            "draft_files": {"model.gguf": DIGEST},
            "quantize": "q9_X",
            "draft_quantize": "q4_0",
        }
    ]


def test_several_files_are_one_step(folder, server, capsys):
    files = {f"{n}.gguf": b"GGUF" + bytes([n]) * n * 1_000_000 for n in (1, 2, 3)}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / "Modelfile").write_text("".join(f"FROM ./{name}\n" for name in files))
    create.create("mine", str(folder / "Modelfile"), None, None)
    digests = {name: f"sha256:{hashlib.sha256(data).hexdigest()}" for name, data in files.items()}
    assert server.created == [{"model": "mine", "files": digests}]
    assert server.blobs == {digests[name]: data for name, data in files.items()}
    steps = capsys.readouterr().err.splitlines()
    assert steps == ["gathering model components", "hashing 3 files", "copying 3 files", "parsing GGUF", "success"]


def test_a_file_that_changes_after_it_was_hashed_is_told(folder, server):
    (folder / "Modelfile").write_text("FROM ./model.gguf")
    server.when_asked_for_a_blob = lambda: (folder / "model.gguf").write_bytes(b"GGUF and less")
    with pytest.raises(ClientError, match=r"model\.gguf changed while it was sent: digest mismatch"):
        create.create("mine", str(folder / "Modelfile"), None, None)
    assert server.created == []
    assert server.blobs == {}


@pytest.mark.parametrize(
    ("name", "file", "message"),
    [
        ("a//b", None, "invalid model name: a//b"),
        ("mine", "nowhere", "specified Modelfile wasn't found"),
        ("mine", None, "has to be converted to GGUF first"),
        ("mine", "model.gguf", "command must be one of"),
    ],
)
def test_mistakes_are_found_before_the_server_is_asked(name, file, message, folder, server, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(AppError, match=message):
        create.create(name, file, None, None)
    assert server.created == []
    assert server.blobs == {}
