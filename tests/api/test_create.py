"""Making models on a real server: quantised, drafted, adapted, and what is left when it breaks off."""

import hashlib
import json
import os
import resource
import subprocess
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest

from a3s_power.devices import logical_cores
from a3s_power.gguf import read_gguf
from tests.support.api import send_request, tiny_gguf, until
from tests.support.gguf_files import F16, F32, STRING, TensorSpec, TypedArray, write_gguf

WIDTH = 256
ROWS = 96 * 1024
"""Of the large model: 96 MiB of weights, which keep a core busy for a second."""


def model_file(path, rows=64, type_=F32, **metadata):
    """A model whose weights are random numbers; no engine could load it."""
    keys = {
        "general.architecture": "llama",
        "general.file_type": {F32: 0, F16: 1}[type_],
        "llama.context_length": 2048,
        "llama.embedding_length": WIDTH,
        "llama.block_count": 1,
        "llama.attention.head_count": 4,
        "tokenizer.ggml.tokens": TypedArray(STRING, ["a", "b", "c"]),
    } | metadata
    tensors = {
        "token_embd.weight": TensorSpec((WIDTH, rows), type_),
        "output_norm.weight": TensorSpec((WIDTH,), F32),
    }
    write_gguf(path, keys, tensors)
    weights = np.random.RandomState(1).randn(rows, WIDTH).astype("<f4" if type_ == F32 else "<f2")
    with path.open("r+b") as file:
        gguf = read_gguf(path)
        file.seek(gguf.data_offset + gguf.tensors[0].offset)
        file.write(weights.tobytes())
    return path


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return model_file(tmp_path_factory.mktemp("large") / "large.gguf", ROWS)


def store_of(api):
    return Path(api.server.environment["OLLAMA_MODELS"])


def blobs_of(api):
    return {path.name for path in (store_of(api) / "blobs").iterdir()}


def unfinished(api):
    """What a work that broke off would leave in the store."""
    parts = store_of(api) / ".a3s-power" / "parts"
    return list(parts.iterdir()) if parts.exists() else []


def workers_of(process):
    workers = []
    for child in psutil.Process(process.pid).children():
        with suppress(psutil.NoSuchProcess):  # or a zombie
            if "quantize_worker" in " ".join(child.cmdline()):
                workers.append(child)
    return workers


def quantising(api, large, **fields):
    return {"model": "q", "files": {"a.gguf": api.upload(large)}, "quantize": "q4_k_m", **fields}


def test_a_quantised_model_answers(real, minilm_gguf):
    body = {"model": "mini", "files": {"a.gguf": real.upload(minilm_gguf)}}
    real.create("full", minilm_gguf)
    steps = real.lines("/api/create", body | {"quantize": "q8_0"})
    statuses = [step["status"] for step in steps]
    names = list(dict.fromkeys(statuses))
    assert names[:3] == ["parsing GGUF", "quantizing F16 model to Q8_0", "verifying conversion"]
    assert names[-2:] == ["writing manifest", "success"]
    bars = [step for step in steps if step["status"].startswith("quantizing")]
    assert {(step["digest"], step["total"]) for step in bars} == {("0" * 19, minilm_gguf.stat().st_size)}
    done = [step.get("completed", 0) for step in bars]
    assert done == sorted(done)
    assert done[-1] == bars[-1]["total"]
    assert real.sdk.show("mini").details.quantization_level == "Q8_0"
    texts = ["A llama is an animal.", "The sky is blue."]
    vectors = [real.sdk.embed(name, texts, keep_alive=0).embeddings for name in ("mini", "full")]
    for small, full in zip(*vectors, strict=True):
        assert np.dot(small, full) > 0.999
    until(lambda: not {"mini:latest", "full:latest"} & set(real.loaded()))
    for name in ("mini", "full"):
        real.sdk.delete(name)


def test_another_model_can_be_quantised(scripted, tmp_path):
    api = scripted()
    api.create("full", model_file(tmp_path / "full.gguf", type_=F16), system="S")
    api.sdk.create("small", from_="full", quantize="Q4_K_M")
    shown = api.sdk.show("small")
    assert (shown.details.quantization_level, shown.details.parent_model, shown.modelfile.count("SYSTEM S")) == (
        "Q4_K_M",
        "",
        1,
    )
    before = blobs_of(api)
    api.sdk.create("same", from_="full", quantize="f16")
    assert blobs_of(api) == before  # not even a config of its own


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"quantize": "q9"}, "unsupported quantization type Q9 - supported types are F32, F16, Q4_K_S, Q4_K_M, Q8_0"),
        ({"draft_quantize": "q8_0"}, "--draft-quantize requires a DRAFT model"),
        ({"draft_files": {"../d.gguf": "sha256:" + "0" * 64}}, "file path must be relative"),
        ({"draft_files": {"d.gguf": ""}}, "invalid digest format"),
        ({"modelfile": "FROM ./model.gguf"}, "FROM ./model.gguf: a file is uploaded as a blob first"),
        ({"modelfile": "FROM m\nADAPTER ./a.gguf"}, "ADAPTER ./a.gguf: a file is uploaded as a blob first"),
        ({"modelfile": "SYSTEM x"}, "no FROM line"),
        ({"modelfile": "FROM m\nPARAMETER seed x"}, "invalid int value [x]"),
        ({"remote_host": "http://[", "from": "m"}, "bad remote"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_before_anything_is_read(scripted, fields, error):
    api = scripted()
    response = api.post("/api/create", {"model": "x", **fields})
    assert (response.status_code, response.json()["error"][: len(error)]) == (400, error)


def test_only_what_is_not_quantised_can_be(real):
    body = {"model": "q", "from": "smollm2", "quantize": "q8_0", "stream": False}
    response = real.post("/api/create", body)
    assert response.status_code == 400
    assert response.json() == {"error": "quantization is only supported for F16, BF16 and F32 models"}


def test_a_model_keeps_its_base_s_draft_unless_it_brings_its_own(scripted, tmp_path):
    api = scripted()
    first, second = (api.upload(model_file(tmp_path / name, **{"general.name": name})) for name in ("1", "2"))
    steps = [("m", {"d.gguf": first}), ("drafted", None), ("drafted", {"d.gguf": second})]
    for base, drafts in steps:
        body = {"model": "drafted", "from": base, "stream": False} | ({"draft_files": drafts} if drafts else {})
        assert api.post("/api/create", body).status_code == 200
        (drafted,) = store_of(api).glob("manifests/**/drafted/latest")
        layers = json.loads(drafted.read_text())["layers"]
        found = [layer["digest"] for layer in layers if layer["mediaType"].endswith("draft")]
        assert found == [second if drafts == {"d.gguf": second} else first]


def test_a_draft_that_is_quantised_is_not_quantised_again(scripted, tmp_path):
    api = scripted()
    draft = model_file(tmp_path / "d.gguf", **{"general.file_type": 7})
    body = {"model": "x", "from": "m", "draft_files": {"d.gguf": api.upload(draft)}, "draft_quantize": "q8_0"}
    response = api.post("/api/create", body | {"stream": False})
    assert (response.status_code, response.json()["error"]) == (
        400,
        "draft quantization requires an unquantized draft model, got Q8_0",
    )


def test_an_adapter_for_another_architecture_is_refused(scripted, tmp_path):
    api = scripted()
    adapter = tiny_gguf(tmp_path / "a.gguf", architecture="gemma2", **{"general.type": "adapter"})
    response = api.post(
        "/api/create", {"model": "x", "from": "m", "adapters": {"a": api.upload(adapter)}, "stream": False}
    )
    assert response.status_code == 400
    assert response.json()["error"] == "the adapter is for models of architecture 'gemma2', this one's is 'llama'"


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"template": "{{ .Prompt"}, "template error: "),
        ({"info": {"context_length": "long"}}, 'info field "context_length" must be a number'),
        ({"adapters": {"a": "adapter"}}, "the adapter is for models of architecture 'gemma2'"),
        ({"draft_files": {"d": "adapter"}}, "no base model was found"),
    ],
)
def test_mistakes_are_told_before_the_long_work(scripted, tmp_path, fields, error):
    api = scripted()
    adapter = tiny_gguf(tmp_path / "a.gguf", architecture="gemma2", **{"general.type": "adapter"})
    for key in ("adapters", "draft_files"):
        if key in fields:
            fields = {key: dict.fromkeys(fields[key], api.upload(adapter))}
    response = api.post("/api/create", quantising(api, model_file(tmp_path / "m.gguf"), **fields))
    *before, last = map(json.loads, response.text.splitlines())
    assert last["error"].startswith(error)
    assert not any(line["status"].startswith("quantizing") for line in before)


def test_what_was_uploaded_outlives_a_failure_and_is_told_as_existing(scripted, tmp_path):
    api = scripted()
    source = model_file(tmp_path / "m.gguf")
    before = blobs_of(api)
    api.post("/api/create", quantising(api, source))
    (path,) = (path for path in (store_of(api) / "blobs").iterdir() if is_quantised(path, before))
    (tmp_path / "q.gguf").write_bytes(path.read_bytes())
    api.sdk.delete("q")
    assert not path.exists()
    digest = api.upload(tmp_path / "q.gguf")
    *_, last = api.lines("/api/create", quantising(api, source, system="x" * (17 << 20)))
    assert last["error"] == "the model's system is larger than 16 MB"
    assert path.exists()
    assert {"status": f"using existing layer {digest}"} in api.lines("/api/create", quantising(api, source))


def is_quantised(path, before):
    is_gguf = path.name not in before and path.read_bytes().startswith(b"GGUF")
    return is_gguf and read_gguf(path).file_type_name == "Q4_K_M"


def test_a_base_that_is_deleted_meanwhile_is_needed_to_the_end(scripted, large):
    api = scripted()
    api.create("full", large, system="S")
    (of_full,) = blobs_of(api) & {f"sha256-{hashlib.sha256(large.read_bytes()).hexdigest()}"}
    lines = api.stream("/api/create", {"model": "small", "from": "full", "quantize": "q4_k_m"})
    next(line for line in lines if line["status"].startswith("quantizing"))
    api.sdk.delete("full")
    *_, last = lines
    assert last == {"status": "success"}
    assert api.sdk.show("small").modelfile.count("SYSTEM S") == 1
    assert of_full not in blobs_of(api)


def test_a_model_says_its_architecture(scripted, tmp_path):
    api = scripted()
    nameless = write_gguf(tmp_path / "n.gguf", {}, {"t": TensorSpec((32,))})
    response = api.post("/api/create", {"model": "x", "files": {"n.gguf": api.upload(nameless)}, "stream": False})
    assert (response.status_code, response.json()["error"]) == (
        400,
        "the model's file does not say its architecture",
    )


def test_a_modelfile_can_be_sent_as_text(scripted, tmp_path):
    api = scripted()
    digest = api.upload(tiny_gguf(tmp_path / "other.gguf", architecture="other"))
    text = f'FROM @{digest}\nSYSTEM """A\nB"""\nPARAMETER stop a\nPARAMETER stop b\nMESSAGE user Hi\nLICENSE L'
    api.post("/api/create", {"model": "made", "modelfile": text, "system": "mine wins", "stream": False})
    shown = api.sdk.show("made")
    assert shown.details.family == "other"
    commands = [
        line for line in shown.modelfile.splitlines() if line and not line.startswith(("#", "FROM", "TEMPLATE"))
    ]
    assert commands == [
        "SYSTEM mine wins", "PARAMETER stop a", "PARAMETER stop b", "LICENSE L", "MESSAGE user Hi",
    ]  # fmt: skip
    api.post("/api/create", {"model": "child", "modelfile": "FROM made\nPARAMETER seed 7", "stream": False})
    assert "seed" in api.sdk.show("child").parameters


def test_a_name_for_a_model_elsewhere_is_kept(scripted):
    api = scripted()
    body = {"model": "cloudy", "from": "gpt-oss:120b", "remote_host": "ollama.com", "stream": False}
    assert api.post("/api/create", body).status_code == 200
    (row,) = [row for row in api.http.get("/api/tags").json()["models"] if row["name"] == "cloudy:latest"]
    assert (row["remote_host"], row["remote_model"]) == ("https://ollama.com:443", "gpt-oss:120b")


def test_a_known_chat_template_is_found(scripted, tmp_path):
    api = scripted()
    jinja = (
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>'"
        " + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    digest = api.upload(tiny_gguf(tmp_path / "c.gguf", chat_template=jinja))
    steps = api.lines("/api/create", {"model": "known", "files": {"c.gguf": digest}})
    assert {"status": "using autodetected template chatml"} in steps
    shown = api.sdk.show("known")
    assert "<|im_start|>" in shown.template
    assert shown.parameters.split() == ["stop", '"<|im_start|>"', "stop", '"<|im_end|>"']


# ---- breaking off ----


def test_who_leaves_ends_the_workers_and_takes_all_with_them(scripted, large):
    api = scripted()
    body = quantising(api, large)
    before = blobs_of(api)
    connection = send_request(api, "/api/create", body)
    until(lambda: workers_of(api.server.process))
    connection.close()
    until(lambda: not workers_of(api.server.process))
    until(lambda: not unfinished(api))
    assert blobs_of(api) == before
    assert api.post("/api/show", {"model": "q"}).status_code == 404


def test_a_killed_server_leaves_no_worker_and_the_next_one_cleans_up(scripted, large):
    api = scripted()
    body = quantising(api, large)
    with send_request(api, "/api/create", body):
        workers = until(lambda: workers_of(api.server.process))
        api.server.process.kill()
    until(lambda: not any(worker.is_running() for worker in workers))
    assert not any(store_of(api).glob("manifests/**/q/*"))
    assert unfinished(api)
    scripted(OLLAMA_MODELS=str(store_of(api)))
    assert not unfinished(api)


@pytest.mark.parametrize("victim", [0, -1])
def test_a_killed_worker_is_told_and_nothing_is_made(scripted, large, victim):
    api = scripted()
    before = blobs_of(api)
    lines = api.stream("/api/create", quantising(api, large))
    next(line for line in lines if line["status"].startswith("quantizing"))
    until(lambda: len(workers_of(api.server.process)) == logical_cores())
    workers_of(api.server.process)[victim].kill()
    *_, last = lines
    assert "quantiz" in last["error"]
    until(lambda: not unfinished(api))
    assert len(blobs_of(api) - before) == 1  # what was uploaded
    assert api.post("/api/show", {"model": "q"}).status_code == 404


def test_a_full_disk_is_told_and_nothing_is_made(scripted, large):
    api = scripted()
    body = quantising(api, large)
    before = blobs_of(api)
    resource.prlimit(api.server.process.pid, resource.RLIMIT_FSIZE, (4 << 20, 4 << 20))
    *_, last = api.lines("/api/create", body)
    assert "too large" in last["error"]
    until(lambda: not unfinished(api))
    assert blobs_of(api) == before
    assert workers_of(api.server.process) == []
    assert api.sdk.generate("m", "Hi").done


IN_A_SMALL_STORE = (
    "unshare",
    "-Urm",
    "sh",
    "-c",
    'mount -t tmpfs -o size=128m none "$OLLAMA_MODELS" && exec "$@"',
    "sh",
)
"""Becomes a command whose models are on a disk of 128 MiB: room for the large model, not for a second one."""


def can_mount(folder):
    return (
        subprocess.run([*IN_A_SMALL_STORE, "true"], env={**os.environ, "OLLAMA_MODELS": str(folder)}).returncode
        == 0
    )


def test_a_disk_that_is_full_is_told_and_nothing_is_made(scripted, large, tmp_path):
    if not can_mount(tmp_path):
        pytest.skip("this machine lets us mount nothing")
    (tmp_path / "small").mkdir()
    api = scripted(through=IN_A_SMALL_STORE, OLLAMA_MODELS=str(tmp_path / "small"))
    response = api.post("/api/create", quantising(api, large, quantize="f16", stream=False))
    assert response.status_code == 500
    assert "not enough disk space" in response.json()["error"]
    assert api.post("/api/show", {"model": "q"}).status_code == 404
    assert api.http.get("/api/df").json()["partial"] == {"count": 0, "size": 0}
    assert api.sdk.generate("m", "Hi").done
