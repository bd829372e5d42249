"""Looking at models and managing them, on a real server; hostile files included."""

import hashlib
import json
import random
from pathlib import Path

import pytest

from demo.server import running_server
from demo.smollm2 import GGUF_SHA256
from tests.support.api import API, tiny_gguf, until
from tests.support.gguf_files import STRING, TensorSpec, TypedArray, gguf_bytes, header_bytes


@pytest.fixture
def tiny(tmp_path):
    return tiny_gguf(tmp_path / "tiny.gguf")


def create(api, name, gguf, **fields):
    return api.post(
        "/api/create", {"model": name, "files": {"a.gguf": api.upload(gguf)}, "stream": False, **fields}
    )


def test_what_is_asked_first_is_answered(real):
    assert real.http.get("/").text == "Ollama is running"
    assert real.http.head("/").headers["content-length"] == "17"
    assert real.http.get("/api/version").json().keys() == {"version"}
    assert real.http.get("/health").json().keys() == {"status", "version", "uptime_seconds", "loaded_models"}


def test_unknown_paths_and_methods_are_said_to_be_so(real):
    assert (real.http.get("/nope").status_code, real.http.get("/nope").text) == (404, "404 page not found")
    response = real.http.get("/api/show")
    assert (response.status_code, response.headers["allow"], response.text) == (
        405,
        "POST",
        "405 method not allowed",
    )
    assert real.http.head("/api/ps").status_code == 405


def test_an_empty_store_lists_nothing(scripted):
    api = scripted()
    api.sdk.delete("m")
    assert api.http.get("/api/tags").json() == {"models": []}
    assert api.http.get("/api/ps").json() == {"models": []}


def test_the_official_client_looks_at_the_model(real):
    (row,) = [row for row in real.sdk.list().models if row.model == "smollm2:latest"]
    assert row.size == 98_362_432 + 152
    assert len(row.digest) == 64
    assert row.details.family == "llama"
    assert row.details.quantization_level == "Q4_1"
    shown = real.sdk.show("smollm2")
    assert shown.capabilities == ["completion"]
    assert shown.modelinfo["general.parameter_count"] == 134_515_008
    assert "general.name" not in shown.modelinfo
    assert shown.modelinfo["tokenizer.ggml.tokens"] is None
    assert "<|im_start|>" in shown.template


def test_show_verbose_has_the_arrays(real):
    shown = real.post("/api/show", {"model": "smollm2", "verbose": True}).json()
    assert len(shown["model_info"]["tokenizer.ggml.tokens"]) == 49152
    assert len(shown["tensors"]) == 272


def test_ps_tells_what_is_loaded(real):
    real.post("/api/generate", {"model": "smollm2", "keep_alive": -1})
    (row,) = real.http.get("/api/ps").json()["models"]
    assert row["name"] == row["model"] == "smollm2:latest"
    assert row["context_length"] == 512
    assert row["size"] > 98_000_000
    assert row["size_vram"] == 0
    assert int(row["expires_at"][:4]) > 2300
    real.post("/api/generate", {"model": "smollm2", "keep_alive": "5m"})


def test_parameters_are_shown_as_ollama_shows_them(real):
    parameters = {"stop": ["foo", "bar"], "seed": 42, "top_p": 0.9, "num_ctx": 262144 * 4}
    body = {"model": "p", "from": "smollm2", "parameters": parameters, "stream": False}
    assert real.post("/api/create", body).status_code == 200
    real.post("/api/create", {"model": "p", "from": "p", "parameters": {"seed": 43}, "stream": False})
    shown = real.post("/api/show", {"model": "p"}).json()
    assert shown["parameters"].splitlines() == [
        "num_ctx                        1.048576e+06",
        "seed                           43",
        'stop                           "foo"',
        'stop                           "bar"',
        "top_p                          0.9",
    ]
    assert "PARAMETER stop foo\nPARAMETER stop bar\n" in shown["modelfile"]
    assert shown["details"]["parent_model"] == "p:latest"
    real.sdk.delete("p")


def test_a_copy_is_the_same_model_and_outlives_the_original(scripted):
    api = scripted()
    assert api.post("/api/copy", {"source": "M", "destination": "user/copy:v1"}).content == b""
    first, second = api.http.get("/api/tags").json()["models"]
    assert first["digest"] == second["digest"]
    api.sdk.delete("m")
    assert [row["name"] for row in api.http.get("/api/tags").json()["models"]] == ["user/copy:v1"]
    assert (
        api.post("/api/generate", {"model": "user/copy:v1", "prompt": "say:yes", "stream": False}).json()[
            "response"
        ]
        == "yes"
    )


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("POST", "/api/show", {}, 400, "model is required"),
        ("POST", "/api/show", {"model": "nope"}, 404, "model 'nope:latest' not found"),
        ("POST", "/api/copy", {}, 400, 'source "" is invalid'),
        ("POST", "/api/copy", {"source": "smollm2"}, 400, 'destination "" is invalid'),
        ("POST", "/api/copy", {"source": "a b", "destination": "x"}, 400, 'source "a b" is invalid'),
        ("POST", "/api/copy", {"source": "nope", "destination": "x"}, 404, 'model "nope" not found'),
        ("DELETE", "/api/delete", {}, 400, "model is required"),
        ("DELETE", "/api/delete", {"model": "a//b"}, 400, 'name "a//b" is invalid'),
        ("DELETE", "/api/delete", {"name": "nope"}, 404, "model 'nope' not found"),
        ("POST", "/api/create", {}, 400, "invalid model name"),
        ("POST", "/api/create", {"model": "x", "stream": False}, 400, "neither 'from' or 'files' was specified"),
        ("POST", "/api/create", {"model": "x", "files": {}, "stream": False}, 400, "unknown type"),
        ("POST", "/api/create", {"model": "x", "files": {"a.gguf": ""}}, 400, "invalid digest format"),
        ("POST", "/api/create", {"model": "x", "files": {"/a": "sha256:0"}}, 400, "file path must be relative"),
        ("POST", "/api/create", {"model": "x", "files": {"../a": "sha256:0"}}, 400, "file path must be relative"),
        ("POST", "/api/create", {"model": "x", "from": "smollm2", "parameters": {"seed": "x"}}, 400,
         'option "seed" must be of type integer'),
        ("POST", "/api/create", {"model": "x", "from": "smollm2", "info": {"context_length": 1.5}}, 400,
         'info field "context_length" must be a non-negative integer'),
        ("POST", "/api/create", {"model": "x", "from": "smollm2", "quantize": "Q4_K_M"}, 400,
         "quantization is only supported for F16, BF16 and F32 models"),
        ("POST", "/api/blobs/abc", "x", 400, "invalid digest format"),
    ],
)  # fmt: skip
def test_mistakes_have_an_answer(real, method, path, body, status, message):
    content = body if isinstance(body, str) else json.dumps(body)
    response = real.http.request(method, path, content=content)
    assert (response.status_code, response.json()) == (status, {"error": message})


def test_a_template_that_does_not_parse_is_refused_at_create(real):
    body = {"model": "x", "from": "smollm2", "template": "{{ .Prompt", "stream": False}
    response = real.post("/api/create", body)
    assert response.status_code == 400
    assert response.json()["error"].startswith("template error: ")


# ---- blobs ----


def test_a_blob_is_kept_only_under_its_own_digest(real):
    wrong = f"sha256:{'0' * 64}"
    response = real.http.post(f"/api/blobs/{wrong}", content=b"abc")
    right = f"sha256:{hashlib.sha256(b'abc').hexdigest()}"
    assert response.status_code == 400
    assert response.json()["error"] == f'digest mismatch, expected "{wrong}", got "{right}"'
    assert real.http.head(f"/api/blobs/{wrong}").status_code == 404
    assert real.http.post(f"/api/blobs/{right}", content=b"abc").status_code == 201
    assert real.http.post(f"/api/blobs/{right}", content=b"not even read").status_code == 200
    assert real.http.head(f"/api/blobs/{right}").status_code == 200


def in_parts(api):
    """What has been received and is no blob yet."""
    return list(Path(api.server.environment["OLLAMA_MODELS"]).glob(".a3s-power/parts/*"))


def test_an_upload_that_breaks_off_leaves_nothing(scripted):
    api = scripted()
    digest = f"sha256:{hashlib.sha256(b'x' * 1000).hexdigest()}"
    with api.connect() as connection:
        connection.sendall(
            f"POST /api/blobs/{digest} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nxxx".encode()
        )
        until(lambda: in_parts(api))  # it has begun
    until(lambda: not in_parts(api))
    assert api.http.head(f"/api/blobs/{digest}").status_code == 404
    assert api.http.post(f"/api/blobs/{digest}", content=b"x" * 1000).status_code == 201  # and the next one works
    assert not in_parts(api)


# ---- hostile files ----

HUGE = 2**62


def nested_arrays(depth):
    """An array that is said to hold an array that is said to hold …"""
    return b"".join((9).to_bytes(4, "little") + (1).to_bytes(8, "little") for _ in range(depth))


HOSTILE = {
    "random": random.Random(1).randbytes(4096),
    "only the magic": b"GGUF",
    "huge key count": header_bytes([], [], key_count=HUGE),
    "huge tensor count": header_bytes([], [], tensor_count=HUGE),
    "a tensor past the end": gguf_bytes({"general.architecture": "llama"}, {"a": TensorSpec((32, 3), offset=1 << 40)}),
    "a tensor larger than the file": gguf_bytes({"general.architecture": "llama"}, {"a": TensorSpec((1 << 30, 4), size_bytes=16)}),
    "an array longer than the file": gguf_bytes({"a": TypedArray(STRING, ["x"], length=HUGE)}),
    "arrays in arrays in arrays": header_bytes([b"\x01" + bytes(7) + b"k" + (9).to_bytes(4, "little") + nested_arrays(5000)], []),
}  # fmt: skip


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_refused_and_nothing_made_of_it(real, tmp_path, content):
    path = tmp_path / "hostile.gguf"
    path.write_bytes(content)
    response = create(real, "hostile", path)
    assert response.status_code == 400, response.text
    assert response.json()["error"]
    assert real.post("/api/show", {"model": "hostile"}).status_code == 404


def test_a_truncated_model_is_refused(real, tmp_path, smollm2_gguf):
    path = tmp_path / "cut.gguf"
    path.write_bytes(smollm2_gguf.read_bytes()[:50_000_000])
    response = create(real, "cut", path)
    assert response.status_code == 400
    assert "blk." in response.json()["error"]


@pytest.mark.parametrize(
    ("architecture", "reason"), [("llama", "corrupt file"), ("zlama", "unsupported architecture")]
)
def test_a_file_that_only_the_engine_can_refuse_is_refused_at_load(real, tmp_path, architecture, reason):
    assert create(real, "odd", tiny_gguf(tmp_path / "odd.gguf", architecture=architecture)).status_code == 200
    response = real.post("/api/generate", {"model": "odd", "prompt": "Hi"})
    assert response.status_code == 500
    assert f"could not be loaded ({reason})" in response.json()["error"]
    real.sdk.delete("odd")


# ---- one store, two programs ----


def test_a_folder_that_ollama_made_is_served_as_it_is(tmp_path, smollm2_gguf):
    """Laid out by hand, symlinked blob included; and left as it was."""
    models = tmp_path / "models"
    blobs = models / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"sha256-{GGUF_SHA256}").symlink_to(smollm2_gguf)

    def blob(data):
        digest = hashlib.sha256(data).hexdigest()
        (blobs / f"sha256-{digest}").write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    config = {"model_format": "gguf", "model_family": "llama", "model_families": ["llama"], "model_type": "134.52M",
              "file_type": "Q4_1", "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers"}}  # fmt: skip
    kind = "application/vnd.ollama.image."
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            **blob(json.dumps(config).encode()),
        },
        "layers": [
            {"mediaType": kind + "model", "digest": f"sha256:{GGUF_SHA256}", "size": smollm2_gguf.stat().st_size},
            {"mediaType": kind + "params", **blob(b'{"num_predict":2,"temperature":0}\n')},
            {"mediaType": kind + "system", **blob(b"You are a dog.")},
        ],
    }
    path = models / "manifests/registry.ollama.ai/library/smollm/135m"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(manifest))
    (blobs / "sha256-1234-partial").write_bytes(b"a download of Ollama's")
    before = {str(file): file.stat().st_mtime_ns for file in models.rglob("*") if file.is_file()}

    with running_server(tmp_path / "server", OLLAMA_MODELS=str(models), OLLAMA_CONTEXT_LENGTH="512") as server:
        api = API(server)
        reply = api.sdk.chat("Smollm:135m", [{"role": "user", "content": "Hi"}])
        assert reply.eval_count == 2
        assert api.sdk.show("smollm:135m").details.family == "llama"
        api.close()
    after = {str(file): file.stat().st_mtime_ns for file in models.rglob("*") if file.is_file()}
    assert after == before


def test_what_we_make_lies_where_ollama_looks(scripted):
    api = scripted()
    api.post("/api/create", {"model": "user/made:v1", "from": "m", "system": "S", "stream": False})
    models = api.server.environment["OLLAMA_MODELS"]
    with open(f"{models}/manifests/registry.ollama.ai/user/made/v1", "rb") as file:
        manifest = json.load(file)
    assert [*manifest] == ["schemaVersion", "mediaType", "config", "layers"]
    for layer in (manifest["config"], *manifest["layers"]):
        with open(f"{models}/blobs/{layer['digest'].replace(':', '-')}", "rb") as file:
            data = file.read()
        assert len(data) == layer["size"]
        assert f"sha256:{hashlib.sha256(data).hexdigest()}" == layer["digest"]


# ---- what cannot run here ----


def by_hand(api, name, config, layers=()):
    """An entry in the store as another program may have left it; a layer without bytes is missing."""
    models = Path(api.server.environment["OLLAMA_MODELS"])

    def layer(kind, data):
        digest = hashlib.sha256(data).hexdigest()
        if data:
            (models / "blobs" / f"sha256-{digest}").write_bytes(data)
        return {
            "mediaType": f"application/vnd.ollama.image.{kind}",
            "digest": f"sha256:{digest}",
            "size": len(data),
        }

    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": layer("config", json.dumps(config).encode()),
        "layers": [layer(kind, data) for kind, data in layers],
    }
    path = models / "manifests/registry.ollama.ai/library" / name / "latest"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(manifest))


@pytest.fixture
def odd_store(scripted):
    api = scripted()
    by_hand(api, "garbled", {"model_family": "llama", "file_type": "Q4_0"}, [("model", b"no GGUF")])
    by_hand(api, "missing", {"model_family": "llama"}, [("model", b"")])
    by_hand(api, "painter", {"capabilities": ["image"], "model_format": "safetensors"})
    by_hand(
        api,
        "far",
        {
            "remote_host": "https://ollama.com",
            "remote_model": "big",
            "context_length": 131072,
            "capabilities": ["tools"],
        },
    )
    return api


def test_every_entry_of_the_store_is_listed_and_can_be_deleted(odd_store):
    rows = {row["name"]: row for row in odd_store.http.get("/api/tags").json()["models"]}
    assert rows.keys() >= {"garbled:latest", "missing:latest", "painter:latest", "far:latest"}
    assert rows["garbled:latest"]["details"]["family"] == "llama"
    assert (rows["far:latest"]["remote_host"], rows["far:latest"]["remote_model"]) == ("https://ollama.com", "big")
    assert rows["far:latest"]["details"]["context_length"] == 131072
    for name in ("garbled", "missing", "painter", "far"):
        assert odd_store.http.request("DELETE", "/api/delete", json={"model": name}).status_code == 200
    assert [row["name"] for row in odd_store.http.get("/api/tags").json()["models"]] == ["m:latest"]


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/api/generate", {"model": "far", "prompt": "a"}, 403, "ollama cloud is disabled: remote model is unavailable"),
        ("/api/embed", {"model": "far", "input": "a"}, 403, "ollama cloud is disabled: remote model is unavailable"),
        ("/api/show", {"model": "far"}, 403, "ollama cloud is disabled: remote model details are unavailable"),
        ("/api/generate", {"model": "painter", "prompt": "a"}, 400, "image generation models are not currently supported"),
        ("/api/embed", {"model": "painter", "input": "a"}, 400, "model 'painter:latest' has no GGUF file and cannot run here"),
        ("/api/generate", {"model": "garbled", "prompt": "a"}, 500, "model 'garbled:latest' cannot be read"),
        ("/api/generate", {"model": "missing", "prompt": "a"}, 500, "model 'missing:latest' is incomplete"),
    ],
)  # fmt: skip
def test_what_cannot_run_here_says_why(odd_store, path, body, status, said):
    response = odd_store.post(path, body)
    assert response.status_code == status
    assert response.json()["error"].startswith(said)


def test_a_model_without_a_file_is_shown_as_far_as_it_is_known(odd_store):
    reply = odd_store.post("/api/show", {"model": "painter"}).json()
    assert reply["modelfile"].startswith('# Modelfile generated by "ollama show"\n\nFROM painter:latest\n')
    assert (reply["model_info"], reply["capabilities"]) == ({}, ["image"])


def test_a_deleted_model_can_still_be_unloaded(scripted):
    api = scripted()
    api.post("/api/generate", {"model": "m", "keep_alive": -1})
    api.sdk.delete("m")
    assert api.loaded() == ["m:latest"]
    assert api.post("/api/generate", {"model": "m", "keep_alive": 0}).json()["done_reason"] == "unload"
    until(lambda: not api.loaded())
    assert api.post("/api/generate", {"model": "m", "keep_alive": 0}).status_code == 404


def test_what_show_is_asked_to_overlay_is_in_the_modelfile_too(real):
    reply = real.post(
        "/api/show", {"model": "smollm2", "system": "Be brief.", "options": {"seed": 7, "top_k": None}}
    ).json()
    assert reply["system"] == "Be brief."
    assert reply["parameters"] == "seed                           7"
    assert "SYSTEM Be brief.\n" in reply["modelfile"]
    assert "PARAMETER seed 7\n" in reply["modelfile"]
