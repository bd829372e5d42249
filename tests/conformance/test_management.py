"""8.6 Looking at models and managing them."""

import hashlib
import os
import re
from pathlib import Path

import pytest

from tests.conformance.cases import (
    COPY,
    CREATE,
    DELETE,
    GENERATE,
    PS,
    PULL,
    SHOW,
    TAGS,
    WORKER_JSON,
    Case,
    ask,
    cases,
    g,
    send,
)
from tests.support.api import tiny_gguf

ZEROS = f"sha256:{'0' * 64}"
A_BLOB = b"a blob of these tests"


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def blob(digest: str) -> str:
    return f"POST /api/blobs/{digest}"


def of_m(name: str, **fields) -> dict:
    """A body for CREATE: a model made from M."""
    return {"model": name, "from": "m", "stream": False, **fields}


def of_files(files, **fields) -> dict:
    """A body for CREATE: a model made from files, which comes to nothing."""
    return {"model": "never", "files": files, "stream": False, **fields}


NOT_WHOLE = "quantization is only supported for F16, BF16 and F32 models"


def wrong(text: str) -> dict:
    """Found while the model is being made."""
    return {"status": 400, "type": WORKER_JSON, "error": text}


@pytest.fixture
def tiny(server, tmp_path) -> dict[str, str]:
    """A file for CREATE."""
    return {"a.gguf": server.upload(tiny_gguf(tmp_path / "tiny.gguf"))}


@pytest.fixture
def made(server):
    """Makes models of the session's server, which are gone after the test."""
    names = set()

    def make(name: str, **fields):
        reply = send(server, CREATE, of_m(name, **fields))
        assert reply.status_code == 200, reply.text
        names.add(name)

    yield make
    for name in names:
        send(server, DELETE, {"model": name})


@cases(
    Case("M14", blob(digest_of(A_BLOB)), A_BLOB, status=201, type=None),
    Case("M14 again", blob(digest_of(A_BLOB)), A_BLOB, status=200, type=None),
    Case("M16", blob(ZEROS), A_BLOB, status=400, error=f'digest mismatch, expected "{ZEROS}", got "{digest_of(A_BLOB)}"'),
    Case("M17", "POST /api/blobs/abc", A_BLOB, status=400, error="invalid digest format"),
    Case("M18", f"HEAD /api/blobs/{digest_of(A_BLOB)}", status=200, type=None),
    Case("M18 missing", f"HEAD /api/blobs/{ZEROS}", status=404, type=None),
    Case("M24", CREATE, of_files({}), **wrong("unknown type")),
    Case("M24 stream", CREATE, of_files({}, stream=True), **wrong("unknown type")),
    Case("M25", CREATE, of_files({"a.gguf": ""}), status=400, error="invalid digest format"),
    Case("M26", CREATE, of_files({"/abs": ZEROS}), status=400, error="file path must be relative"),
    # Ollama answers 500; what a client did wrong is 400 here.
    Case("M32", CREATE, of_m("q", quantize="q8_0"), **wrong(NOT_WHOLE)),
    Case("M30", CREATE, of_m("q", quantize="q8_0", stream=True), **wrong(NOT_WHOLE)),
)  # fmt: skip
def test_blobs_and_files(server, case):
    case.run(server)


@pytest.mark.parametrize(
    "info, error",
    [
        pytest.param(
            {"context_length": 1.5}, 'info field "context_length" must be a non-negative integer', id="M28"
        ),
        pytest.param({"model_family": 1}, 'info field "model_family" must be a string', id="M29"),
    ],
)
def test_what_a_client_says_of_its_model_is_looked_at(server, tiny, info, error):
    response = send(server, CREATE, of_files(tiny, info=info))
    assert (response.status_code, response.headers["content-type"]) == (400, WORKER_JSON)
    assert response.json() == {"error": error}
    assert send(server, SHOW, {"model": "never"}).status_code == 404


def test_m20_a_model_is_made_from_a_file(server, tiny):
    Case("M20", CREATE, {**of_files(tiny), "model": "made"}, type=WORKER_JSON, text='{"status":"success"}').run(
        server
    )
    assert ask(server, SHOW, {"model": "made"})["details"]["family"] == "llama"
    server.sdk.delete("made")


def test_m1_an_empty_store_lists_nothing(empty):
    assert empty().http.get("/api/tags").text == '{"models":[]}'


def test_m2_the_newest_model_is_listed_first(scripted):
    api = scripted()
    for name, age_s in (("new", 0), ("oldest", 3000), ("old", 2000)):
        send(api, COPY, {"source": "m", "destination": name})
        make_older(api, name, age_s)
    make_older(api, "m", 1000)
    rows = ask(api, TAGS)["models"]
    assert [row["name"] for row in rows] == ["new:latest", "m:latest", "old:latest", "oldest:latest"]
    for row in rows:
        assert row["name"] == row["model"]
        assert re.fullmatch("[0-9a-f]{64}", row["digest"])


def make_older(api, name: str, age_s: int) -> None:
    models = Path(api.server.environment["OLLAMA_MODELS"])
    (manifest,) = models.glob(f"manifests/*/library/{name}/latest")
    modified = manifest.stat().st_mtime - age_s
    os.utime(manifest, (modified, modified))


def test_m4_what_is_loaded_is_told_whole(unloaded):
    ask(unloaded, GENERATE, g(options={"num_ctx": 384, "num_predict": 1}))
    (row,) = ask(unloaded, PS)["models"]
    assert [*row] == ["name", "model", "size", "digest", "details", "expires_at", "size_vram", "context_length"]
    assert (row["name"], row["model"], row["context_length"]) == ("m:latest", "m:latest", 384)
    assert row["size"] >= row["size_vram"] >= 0
    assert row["details"] == {
        "parent_model": "",
        "format": "gguf",
        "family": "llama",
        "families": ["llama"],
        "parameter_size": "134.52M",
        "quantization_level": "Q4_1",
    }
    (listed,) = [listed for listed in ask(unloaded, TAGS)["models"] if listed["name"] == "m:latest"]
    assert row["digest"] == listed["digest"]


def test_m5_a_model_is_shown(server):
    shown = ask(server, SHOW, {"model": "m"})
    info = shown["model_info"]
    assert shown["details"]["family"] == info["general.architecture"] == "llama"
    assert info["general.parameter_count"] == 134_515_008
    assert info["tokenizer.ggml.tokens"] is None
    assert not {"general.name", "tokenizer.chat_template"} & info.keys()
    assert {"name": "output_norm.weight", "type": "F32", "shape": [576]} in shown["tensors"]
    assert "{% for message in messages %}" in shown["template"]


def test_m6_a_model_is_shown_with_its_arrays(server):
    shown = ask(server, SHOW, {"model": "m", "verbose": True})
    assert len(shown["model_info"]["tokenizer.ggml.tokens"]) == 49152


def test_m8_parameters_stand_in_columns(server, made):
    made("p", parameters={"stop": ["foo", "bar"], "seed": 42, "top_p": 0.9})
    lines = ask(server, SHOW, {"model": "p"})["parameters"].split("\n")
    stops = ['stop                           "foo"', 'stop                           "bar"']
    assert [line for line in lines if line.startswith("stop")] == stops
    assert sorted(set(lines) - set(stops)) == [
        "seed                           42",
        "top_p                          0.9",
    ]


@pytest.mark.parametrize(
    "model, capabilities",
    [
        pytest.param("m", ["completion"], id="M9 C"),
        pytest.param("t", ["completion", "tools"], id="M9 T"),
        pytest.param("k", ["completion", "thinking"], id="M9 K"),
        pytest.param("kt", ["completion", "tools", "thinking"], id="M9 KT"),
        pytest.param("i", ["completion", "insert"], id="M9 I"),
    ],
)
def test_what_a_model_can_do_is_told(server, model, capabilities):
    assert ask(server, SHOW, {"model": model})["capabilities"] == capabilities
    (row,) = [row for row in ask(server, TAGS)["models"] if row["name"] == f"{model}:latest"]
    assert row["capabilities"] == capabilities


def test_m9_what_an_embedding_model_can_do(with_e):
    assert ask(with_e, SHOW, {"model": "e"})["capabilities"] == ["embedding"]


def test_m9_what_a_model_that_sees_can_do(server, tmp_path):
    server.create("v", tiny_gguf(tmp_path / "v.gguf", **{"llama.vision.block_count": 1}))
    assert ask(server, SHOW, {"model": "v"})["capabilities"] == ["completion", "vision"]
    server.sdk.delete("v")


def test_m10_copilot_is_told_the_name_it_asked_for(server):
    copilot = {"User-Agent": "GitHubCopilotChat/1"}
    assert send(server, SHOW, {"model": "M"}, copilot).json()["model_info"]["general.basename"] == "M"
    assert ask(server, SHOW, {"model": "M"})["model_info"].get("general.basename") != "M"


def digest_in_tags(api, name: str) -> str | None:
    rows = {row["name"]: row["digest"] for row in ask(api, TAGS)["models"]}
    return rows.get(name)


def test_m12_a_copy_is_the_same_model(server):
    Case("M12", COPY, {"source": "m", "destination": "b"}, type=None).run(server)
    assert digest_in_tags(server, "b:latest") == digest_in_tags(server, "m:latest")
    server.sdk.delete("b")


def test_m13_a_copy_goes_without_its_original(server):
    send(server, COPY, {"source": "m", "destination": "b"})
    Case("M13", DELETE, {"model": "b"}, type=None).run(server)
    assert digest_in_tags(server, "b:latest") is None
    assert ask(server, GENERATE, g())["response"]


def test_m21_a_model_gets_a_system_text(server, made):
    made("cat", system="You are a cat.")
    assert ask(server, SHOW, {"model": "cat"})["system"] == "You are a cat."
    assert "system" not in ask(server, SHOW, {"model": "m"})


def test_m22_parameters_join_those_of_the_base(server, made):
    made("p", parameters={"seed": 42})
    made("p", **{"from": "p", "parameters": {"top_k": 7}})
    assert sorted(ask(server, SHOW, {"model": "p"})["parameters"].split("\n")) == [
        "seed                           42",
        "top_k                          7",
    ]


def test_m34_a_name_in_other_letters_is_the_same_name(server, made):
    made("twin", system="First.")
    made("TWIN", system="Second.")
    names = [row["name"] for row in ask(server, TAGS)["models"] if row["name"].lower() == "twin:latest"]
    assert names == ["twin:latest"]
    assert ask(server, SHOW, {"model": "Twin"})["system"] == "Second."
    models = Path(server.server.environment["OLLAMA_MODELS"])
    assert [path.name for path in models.glob("manifests/*/library/*") if path.name.lower() == "twin"] == ["twin"]


def test_m33_a_registry_that_cannot_be_reached_is_told_with_what_was_tried(server):
    response = send(server, PULL, {"model": "127.0.0.1:9/test/unknown", "stream": False})
    assert (response.status_code, response.headers["content-type"]) == (500, WORKER_JSON)
    assert response.json()["error"].startswith("pull model manifest: ")
