"""Models from Hugging Face, from URLs, and from wherever a bare name leads; played by `tests/support/sites.py`."""

import functools
import hashlib
import http.server
import os
import random
import re
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from itertools import groupby
from pathlib import Path

import pytest

from a3s_power.store.blobs import BlobStore
from demo.server import running_server
from tests.support.answers import CutOff, Held, WithoutLength
from tests.support.api import API, until
from tests.support.gguf_files import TensorSpec, gguf_bytes
from tests.support.sites import HUGGING_FACE_CDN, OLLAMA_CDN, WORDINGS, running_sites
from tests.support.split_gguf import part_files, split_file, whole_file

MIB = 1 << 20
BLOCK = 256 * 1024  # what a part is resumed in
TOKEN = "hf_itsOwners"
LLAMA = {
    "general.architecture": "llama",
    "general.file_type": 0,
    "llama.context_length": 2048,
    "llama.embedding_length": 32,
    "llama.block_count": 1,
    "llama.attention.head_count": 4,
    "tokenizer.ggml.tokens": ["a", "b", "c"],
    "tokenizer.chat_template": "{% for message in messages %}{{ message['content'] }}{% endfor %}",
}
TENSORS = {f"blk.{number}.weight": random.Random(number).randbytes(3 * MIB) for number in range(3)}
WHOLE = whole_file(LLAMA, TENSORS)
PARTS = part_files("BF16/m-BF16", LLAMA, TENSORS)
SMALL, OTHER = (gguf_bytes(LLAMA | {"general.name": name}, {"a.weight": TensorSpec((32, 3))}) for name in "ab")
EYES = gguf_bytes(
    {
        "general.architecture": "clip",
        "general.type": "mmproj",
        "clip.has_vision_encoder": True,
        "clip.projector_type": "mlp",
    },
    {"v.weight": TensorSpec((32, 3))},
)
URL = "https://files.example/models/Large-Q8_0.gguf"
MISSING = "pull model manifest: file does not exist"


@pytest.fixture
def sites(tmp_path, monkeypatch):
    for name in ("https_proxy", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with running_sites(tmp_path / "sites") as sites:
        yield sites


@pytest.fixture
def api(scripted, sites):
    return scripted(**sites.environment)


def pull(api, name, **fields):
    return api.lines("/api/pull", {"model": name, **fields})


def refusal(api, name, **fields):
    """Status and error of a pull that comes to nothing."""
    response = api.post("/api/pull", {"model": name, "stream": False, **fields})
    return response.status_code, response.json()["error"]


def steps(lines):
    """Each status once, however often it was told."""
    return [status for status, _ in groupby(line["status"] for line in lines)]


def digest(data):
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def pulling(data):
    return f"pulling {digest(data)[7:19]}"


def names(api):
    return [model.model for model in api.sdk.list().models]


def store_of(api):
    return Path(api.server.environment["OLLAMA_MODELS"])


def has(api, data):
    return (store_of(api) / "blobs" / digest(data).replace(":", "-")).exists()


def left_parts(api):
    return sorted(path.suffix for path in store_of(api).glob(".a3s-power/parts/*"))


def model_file(api, name):
    """The bytes of a model's GGUF."""
    found = re.search(r"^FROM (/.+)$", api.sdk.show(name).modelfile, re.MULTILINE)
    return Path(found[1]).read_bytes()


def layers(api, name):
    return [name for _, name in re.findall(r"^(FROM|ADAPTER) (.+)$", api.sdk.show(name).modelfile, re.MULTILINE)]


def as_it_is(seen, response):
    return response


def leave(api, sites, name, data):
    """Begin a pull, and hang up when some of these bytes of one file have come and are written."""

    answer = sites.on_answer

    def hold(seen, response):
        is_of_it = len(response.body) > BLOCK and response.body in data
        return Held(answer(seen, response), 2 * MIB) if is_of_it else answer(seen, response)

    sites.on_answer = hold
    lines = api.stream("/api/pull", {"model": name})
    assert next(line for line in lines if line.get("total") == len(data) and line.get("completed", 0) > 0)
    lines.close()
    until(lambda: "path=/api/pull" in api.server.log.read_text())
    sites.on_answer = answer
    sites.requests.clear()


def ranges(sites, host):
    """Where each request for bytes of a file began and ended, but for those that only look."""
    asked = [seen.headers.get("range", "") for seen in sites.requests if seen.host == host]
    found = [tuple(map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", text).groups())) for text in asked]
    return [(start, end) for start, end in found if end - start >= 4]


def manifest(*files):
    """What Ollama's registry says of a model."""
    kinds = {"config": b"{}"} | dict(files)
    described = [
        {"mediaType": f"application/vnd.ollama.image.{kind}", "digest": digest(data), "size": len(data)}
        for kind, data in kinds.items()
    ]
    return repr({"schemaVersion": 2, "config": described[0], "layers": described[1:]}).replace("'", '"').encode()


def publish(sites, name, data):
    """Have a model on Ollama's registry."""
    sites.ollama.add(name, manifest(("model", data)), [b"{}", data])


# ---- Hugging Face ----


@pytest.mark.parametrize(
    "name, data",
    [
        ("hf.co/user/repo", SMALL),
        ("hf.co/user/repo:Q8_0", OTHER),
        ("huggingface.co/user/repo:q8_0", OTHER),
        ("hf.co/user/repo:m-Q8_0.gguf", OTHER),
    ],
)
def test_a_model_of_hugging_face(api, sites, name, data):
    sites.hugging_face.add(
        "user/repo", {"m-Q8_0.gguf": OTHER, "m-Q4_K_M.gguf": SMALL, "template": b"{{ .Prompt }}"}
    )
    lines = pull(api, name)
    assert (lines[0]["status"], lines[-3:]) == (
        "pulling manifest",
        [{"status": "verifying sha256 digest"}, {"status": "writing manifest"}, {"status": "success"}],
    )
    assert model_file(api, name) == data
    assert api.sdk.generate(name, "say:hello").response == "hello"
    assert {seen.host for seen in sites.requests} == {"huggingface.co", HUGGING_FACE_CDN}


@pytest.mark.parametrize(
    "name, words",
    [
        ("hf.co/user/repo:Q2_K", "The specified tag is not available in the repository"),
        ("hf.co/user/none", "Repository is not GGUF or is not compatible with llama.cpp"),
    ],
)
def test_what_hugging_face_has_to_say_is_passed_on(api, sites, name, words):
    sites.hugging_face.add("user/repo", {"m-Q8_0.gguf": SMALL})
    sites.hugging_face.add("user/none", {"model.safetensors": b""})
    status, error = refusal(api, name)
    assert (status, error.startswith("pull model manifest: 400: "), words in error) == (500, True, True)


def test_a_token_opens_private_repositories_and_is_shown_to_hugging_face_alone(scripted, sites):
    api = scripted(**sites.environment, HF_TOKEN=f"{TOKEN}\n")
    sites.hugging_face.add("user/private", {"m-Q8_0.gguf": SMALL}, token=TOKEN)
    sites.hugging_face.add("user/parts", PARTS, token=TOKEN)
    publish(sites, "elsewhere", OTHER)
    sites.files[URL] = OTHER
    for name in (
        "hf.co/user/private",
        "huggingface.co/user/parts:bf16",
        "https://huggingface.co/user/private/blob/main/m-Q8_0.gguf",
        "https://hf.co/user/private/resolve/main/m-Q8_0.gguf",
        "user/private",
        "elsewhere",
        URL,
    ):
        assert pull(api, name)[-1] == {"status": "success"}
    shown_to = {seen.host for seen in sites.requests if TOKEN in repr(seen)}
    assert (
        shown_to == {seen.host for seen in sites.requests if "authorization" in seen.headers} == {"huggingface.co"}
    )
    assert sites.cdn.authorizations == []
    assert {HUGGING_FACE_CDN, OLLAMA_CDN, "registry.ollama.ai", "files.example"} < set(sites.connects)
    assert TOKEN not in api.server.log.read_text()


@pytest.mark.parametrize("name", ["hf.co/user/private", "https://huggingface.co/user/private/resolve/main/m.gguf"])
@pytest.mark.parametrize("token", ["", "hf_aStrangers"])
def test_who_may_not_read_is_told_what_it_takes(scripted, sites, token, name):
    sites.hugging_face.add("user/private", {"m.gguf": SMALL}, token=TOKEN)
    status, error = refusal(scripted(**sites.environment, HF_TOKEN=token), name)
    assert (status, "unauthorized: access denied" in error) == (500, True)
    assert "private and gated repositories need a token in HF_TOKEN that may read them" in error
    assert "hf_aStrangers" not in error


def test_nobody_is_shown_a_token_who_need_not_prove_to_be_hugging_face(scripted, sites):
    sites.hugging_face.add("user/private", {"m-Q8_0.gguf": SMALL}, token=TOKEN)
    api = scripted(**sites.environment, HF_TOKEN=TOKEN)
    assert "access denied" in refusal(api, "hf.co/user/private", insecure=True)[1]
    assert not [seen for seen in sites.requests if "authorization" in seen.headers]


# ---- models in parts ----


@pytest.mark.parametrize("wording", WORDINGS)
@pytest.mark.parametrize("name", ["hf.co/user/parts:bf16", "hf.co/user/parts"])
def test_a_model_in_parts_becomes_one_file(api, sites, wording, name):
    sites.hugging_face.wording = wording
    sites.hugging_face.add("user/parts", PARTS)
    lines = pull(api, name)
    made = [f"creating new layer {digest(WHOLE)}"]
    assert steps(lines) == [
        "pulling manifest", *map(pulling, PARTS.values()), "verifying sha256 digest", "parsing GGUF", "merging 3 parts",
        *made, "writing manifest", "success",
    ]  # fmt: skip
    for data in PARTS.values():
        told = [line for line in lines if line["status"] == pulling(data)]
        assert told[-1] == {
            "status": pulling(data), "digest": digest(data), "total": len(data), "completed": len(data)
        }  # fmt: skip
    assert model_file(api, name) == WHOLE
    assert not any(has(api, data) for data in PARTS.values())
    assert left_parts(api) == []
    assert api.sdk.generate(name, "say:hello").response == "hello"


def test_a_model_in_parts_that_is_here_is_not_fetched_again(api, sites):
    sites.hugging_face.add("user/parts", PARTS)
    pull(api, "hf.co/user/parts:BF16")
    sites.requests.clear()
    assert steps(pull(api, "hf.co/user/parts:BF16")) == ["pulling manifest", "success"]
    assert {seen.host for seen in sites.requests} == {"huggingface.co"}
    changed = part_files("BF16/m-BF16", LLAMA | {"general.name": "new"}, TENSORS)
    sites.hugging_face.add("user/parts", changed)
    pull(api, "hf.co/user/parts:BF16")
    assert model_file(api, "hf.co/user/parts:BF16") == whole_file(LLAMA | {"general.name": "new"}, TENSORS)
    assert not has(api, WHOLE)


def test_a_projector_comes_with_the_parts(api, sites):
    sites.hugging_face.add("user/parts", {**PARTS, "mmproj-BF16.gguf": b"another", "mmproj-F16.gguf": EYES})
    lines = pull(api, "hf.co/user/parts")
    assert pulling(EYES) in steps(lines)
    assert [Path(path).read_bytes() for path in layers(api, "hf.co/user/parts")] == [WHOLE, EYES]
    assert "vision" in api.sdk.show("hf.co/user/parts").capabilities
    assert not has(api, b"another")


def test_after_a_client_has_left_the_next_pull_goes_on_with_what_is_there(api, sites):
    sites.hugging_face.add("user/parts", {**PARTS, "mmproj-F16.gguf": EYES})
    first, second, _ = PARTS.values()

    leave(api, sites, "hf.co/user/parts", second)
    assert names(api) == ["m:latest"]
    assert has(api, first)
    assert left_parts(api) == [".map", ".part"]

    assert pull(api, "hf.co/user/parts")[-1] == {"status": "success"}
    resolved = [seen.path.rpartition("/")[2] for seen in sites.requests if "/resolve/" in seen.path]
    assert set(resolved) == {"m-BF16-00002-of-00003.gguf", "m-BF16-00003-of-00003.gguf", "mmproj-F16.gguf"}
    assert ranges(sites, HUGGING_FACE_CDN)[0][0] >= MIB
    assert model_file(api, "hf.co/user/parts") == WHOLE


def test_a_server_that_is_killed_while_it_merges_leaves_no_model(sites, tmp_path):
    tensors = {"a.weight": bytes(128 * MIB), "b.weight": bytes(128 * MIB)}
    parts = part_files("m-F32", LLAMA, tensors)
    sites.hugging_face.add("user/large", parts)
    blobs = tmp_path / "server" / "models" / "blobs"
    blobs.mkdir(parents=True)
    for data in parts.values():
        (blobs / digest(data).replace(":", "-")).write_bytes(data)
    with serving(tmp_path / "server", sites) as api:
        lines = api.stream("/api/pull", {"model": "hf.co/user/large"})
        assert next(line for line in lines if line["status"] == "merging 2 parts")
        api.server.process.kill()
        api.server.process.wait()
        lines.close()
        assert len(list(blobs.iterdir())) == 2
    with serving(tmp_path / "server", sites) as api:
        assert names(api) == []
        assert pull(api, "hf.co/user/large")[-1] == {"status": "success"}
        assert names(api) == ["hf.co/user/large:latest"]
        assert not any(map(functools.partial(has, api), parts.values()))
    assert HUGGING_FACE_CDN not in sites.connects


@contextmanager
def serving(folder, sites, **settings):
    """A server with the real engine, which may be killed within the block."""
    with running_server(folder, **sites.environment, **settings) as server, closing(API(server)) as api:
        yield api


def test_a_real_model_in_parts_answers(sites, tmp_path, smollm2_gguf):
    (tmp_path / "parts").mkdir()
    parts = split_file(smollm2_gguf, tmp_path / "parts", 40)
    assert len(parts) == 3
    sites.hugging_face.add("user/SmolLM2-GGUF", parts)
    with serving(tmp_path / "server", sites, OLLAMA_CONTEXT_LENGTH="512") as api:
        name = "hf.co/user/SmolLM2-GGUF:Q4_1"
        assert [reply.status for reply in api.sdk.pull(name, stream=True)][-1] == "success"
        assert model_file(api, name) == smollm2_gguf.read_bytes()
        question = [{"role": "user", "content": "What is the capital of France?"}]
        reply = api.sdk.chat(name, question, options={"temperature": 0, "num_predict": 8})
        assert (reply.done, reply.eval_count, reply.message.content.strip() != "") == (True, 8, True)


# ---- wherever a name leads ----

CATALOGUED = "Qwen/Qwen3-0.6B-GGUF"  # what the catalogue has for qwen3:0.6b, at Q8_0


def test_ollamas_registry_comes_first(api, sites):
    publish(sites, "qwen3:0.6b", SMALL)
    publish(sites, "user/repo", SMALL)
    sites.hugging_face.add(CATALOGUED, {"m-Q8_0.gguf": OTHER})
    sites.hugging_face.add("user/repo", {"m-Q8_0.gguf": OTHER})
    for name in ("qwen3:0.6b", "user/repo"):
        pull(api, name)
        assert model_file(api, name) == SMALL
    assert set(sites.connects) == {"registry.ollama.ai", OLLAMA_CDN}


@pytest.mark.parametrize(
    "name, there, tag", [("qwen3:0.6b", CATALOGUED, "Q8_0"), ("user/repo:q8_0", "user/repo", "q8_0")]
)
def test_what_it_has_not_comes_from_hugging_face(api, sites, name, there, tag):
    sites.hugging_face.add(there, {"m-Q8_0.gguf": OTHER})
    lines = pull(api, name)
    assert steps(lines)[:2] == ["pulling manifest", f"pulling manifest from hf.co/{there}:{tag}"]
    assert lines[-1] == {"status": "success"}
    assert model_file(api, name) == OTHER
    assert names(api) == [name, "m:latest"]


@pytest.mark.parametrize("token", ["", TOKEN])
def test_what_nobody_has_does_not_exist(scripted, sites, token):
    sites.hugging_face.tokens.add(TOKEN)
    api = scripted(**sites.environment, HF_TOKEN=token)
    for name, asked in {
        "unheard-of": ["registry.ollama.ai"],
        "qwen3:0.6b": ["registry.ollama.ai", "huggingface.co"],
        "user/repo": ["registry.ollama.ai", "huggingface.co"],
    }.items():
        sites.connects.clear()
        assert pull(api, name)[-1] == {"error": MISSING}
        assert sites.connects == asked
        assert refusal(api, name) == (500, MISSING)


def test_where_only_hugging_face_is_allowed_the_catalogue_is_asked_at_once(scripted, sites):
    publish(sites, "qwen3:0.6b", SMALL)
    sites.hugging_face.add(CATALOGUED, {"m-Q8_0.gguf": OTHER})
    api = scripted(**sites.environment, A3S_POWER_REGISTRIES="hf.co")
    assert pull(api, "qwen3:0.6b")[-1] == {"status": "success"}
    assert model_file(api, "qwen3:0.6b") == OTHER
    assert set(sites.connects) == {"huggingface.co", HUGGING_FACE_CDN}
    for name in ("unheard-of", "other.example/a/b", URL):
        status, error = refusal(api, name)
        assert (status, "is not allowed here; A3S_POWER_REGISTRIES" in error) == (400, True)


def test_a_model_is_made_of_one_that_is_not_here(api, sites):
    publish(sites, "base", SMALL)
    lines = api.lines("/api/create", {"model": "mine", "from": "base", "system": "Be brief."})
    assert steps(lines) == [
        "pulling manifest", pulling(SMALL), pulling(b"{}"), "verifying sha256 digest", "writing manifest", "success",
        f"using existing layer {digest(SMALL)}", f"creating new layer {digest(b'Be brief.')}", "writing manifest",
        "success",
    ]  # fmt: skip
    assert api.sdk.show("mine").modelfile.count("Be brief.") == 1
    assert sorted(names(api)) == ["base:latest", "m:latest", "mine:latest"]
    sites.requests.clear()
    assert "pulling manifest" not in steps(api.lines("/api/create", {"model": "again", "from": "base"}))
    assert sites.requests == []


def test_no_model_is_made_of_one_that_nobody_has(api):
    body = {"model": "mine", "from": "unheard-of"}
    assert api.lines("/api/create", body) == [{"status": "pulling manifest"}, {"error": MISSING}]
    whole = api.post("/api/create", body | {"stream": False})
    assert (whole.status_code, whole.json()) == (500, {"error": MISSING})
    assert names(api) == ["m:latest"]


# ---- bytes that are wrong ----


def spoil(host):
    """Every large answer of a host has other bytes than it should."""

    def change(seen, response):
        if seen.host == host and len(response.body) > BLOCK:
            response.body = bytes(len(response.body))
        return response

    return change


def test_wrong_bytes_are_an_error_and_the_next_pull_begins_anew(api, sites):
    publish(sites, "large", WHOLE)
    sites.on_answer = spoil(OLLAMA_CDN)
    wrong = digest(bytes(8 * MIB) + bytes(len(WHOLE) - 8 * MIB))
    assert pull(api, "large")[-1] == {
        "error": f"digest mismatch, file must be downloaded again: want {digest(WHOLE)}, got {wrong}"
    }
    assert (left_parts(api), names(api)) == ([], ["m:latest"])
    sites.on_answer = as_it_is
    assert pull(api, "large")[-1] == {"status": "success"}
    assert model_file(api, "large") == WHOLE


def test_wrong_bytes_of_one_registry_do_not_fail_the_pull_from_another(api, sites):
    publish(sites, "large", WHOLE)
    with BlobStore(store_of(api)).assemble(digest(WHOLE), len(WHOLE)) as assembly:
        assembly.write(0, bytes(4 * MIB))  # of one that broke off
    assert left_parts(api) == [".map", ".part"]
    assert pull(api, "large")[-1] == {"status": "success"}
    assert model_file(api, "large") == WHOLE
    assert ranges(sites, OLLAMA_CDN)[0][0] == 4 * MIB
    assert left_parts(api) == []


# ---- URLs ----


def test_a_file_at_a_url_is_called_after_it(api, sites):
    sites.files[URL] = WHOLE
    lines = pull(api, URL)
    assert steps(lines) == [
        "pulling Large-Q8_0.gguf", "parsing GGUF", f"using existing layer {digest(WHOLE)}", "writing manifest",
        "success",
    ]  # fmt: skip
    told = [line for line in lines if line["status"] == "pulling Large-Q8_0.gguf"]
    assert told[-1] == {"status": "pulling Large-Q8_0.gguf", "total": len(WHOLE), "completed": len(WHOLE)}
    assert names(api) == ["Large-Q8_0:latest", "m:latest"]
    assert model_file(api, "Large-Q8_0") == WHOLE
    assert api.sdk.generate("Large-Q8_0", "say:hello").response == "hello"


def test_the_official_client_and_the_command_line_pull_urls_too(api, sites, tmp_path):
    sites.files |= {URL: SMALL, "https://other.example/b.gguf": OTHER}
    assert api.sdk.pull(URL).status == "success"
    argv = [sys.executable, "-m", "a3s_power.cli.main", "pull", "https://other.example/b.gguf?download=true"]
    environ = {**os.environ, **api.server.environment, "HOME": str(tmp_path)}
    done = subprocess.run(argv, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "success"), done.stderr
    assert sorted(names(api)) == ["Large-Q8_0:latest", "b:latest", "m:latest"]


def test_a_page_of_hugging_face_means_the_file_it_is_about(api, sites):
    sites.hugging_face.add("user/repo", {"a/m.gguf": SMALL})
    pull(api, "https://huggingface.co/user/repo/blob/main/a/m.gguf")
    assert model_file(api, "m") == SMALL


def test_the_first_of_several_parts_brings_the_others(api, sites):
    sites.files = {f"https://files.example/{path}": data for path, data in PARTS.items()}
    lines = pull(api, "https://files.example/BF16/m-BF16-00001-of-00003.gguf")
    assert steps(lines)[:4] == [*(f"pulling {Path(path).name}" for path in PARTS), "parsing GGUF"]
    assert model_file(api, "m-BF16") == WHOLE
    assert not any(has(api, data) for data in PARTS.values())


def test_a_file_is_resumed_as_long_as_it_is_the_same(api, sites):
    sites.files[URL] = WHOLE
    leave(api, sites, URL, WHOLE)
    assert left_parts(api) == [".map", ".part"]
    assert names(api) == ["m:latest"]
    pull(api, URL)
    assert min(ranges(sites, "files.example")) >= (MIB, 0)
    assert model_file(api, "Large-Q8_0") == WHOLE
    assert left_parts(api) == []


def test_a_file_that_was_replaced_meanwhile_begins_anew(api, sites):
    sites.files[URL] = WHOLE
    leave(api, sites, URL, WHOLE)
    sites.files[URL] = new = whole_file(LLAMA, {name: data[::-1] for name, data in TENSORS.items()})
    assert len(new) == len(WHOLE)
    pull(api, URL)
    assert min(ranges(sites, "files.example"))[0] == 0
    assert model_file(api, "Large-Q8_0") == new


def test_a_file_that_has_no_version_begins_anew(api, sites):
    def without_version(seen, response):
        del response.headers["ETag"]
        return response

    sites.files[URL], sites.on_answer = WHOLE, without_version
    leave(api, sites, URL, WHOLE)
    until(lambda: left_parts(api) == [])
    pull(api, URL)
    assert min(ranges(sites, "files.example"))[0] == 0
    assert model_file(api, "Large-Q8_0") == WHOLE


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_pull_survives_a_hang_up_unless_the_file_is_another_then(api, sites, is_replaced):
    sites.files[URL] = WHOLE
    other = bytes(reversed(WHOLE))

    def hang_up(seen, response):
        if len(response.body) < BLOCK:
            return response
        sites.on_answer = as_it_is
        if is_replaced:
            sites.files[URL] = b"GGUF" + other[4:]
        return CutOff(response, 2 * MIB)

    sites.on_answer = hang_up
    last = pull(api, URL)[-1]
    if is_replaced:
        assert last == {"error": "files.example has changed the file while it was read"}
        assert names(api) == ["m:latest"]
    else:
        assert last == {"status": "success"}
        assert model_file(api, "Large-Q8_0") == WHOLE


HOPELESS = (
    (b"<!DOCTYPE html><title>Log in</title>", 400, "Large-Q8_0.gguf at files.example is no GGUF file"),
    (b"GG", 400, "Large-Q8_0.gguf at files.example is no GGUF file"),
    (b"GGUF, it says, and " + bytes(MIB), 400, "Large-Q8_0.gguf: "),
    (EYES, 400, "no base model was found"),
    (PARTS["BF16/m-BF16-00002-of-00003.gguf"], 400, 'split GGUF "Large-Q8_0.gguf" must use llama.cpp split'),
    (None, 500, "file does not exist"),
)


def test_what_makes_no_model_leaves_nothing_behind(api, sites):
    before = sorted(store_of(api).rglob("*"))
    for data, status, said in HOPELESS:
        sites.files = {} if data is None else {URL: data}
        found = refusal(api, URL)
        assert (found[0], found[1].startswith(said)) == (status, True), found
        assert sorted(store_of(api).rglob("*")) == before


def test_a_file_of_unknown_length_is_refused(api, sites):
    sites.files[URL], sites.accepts_ranges = SMALL, False
    sites.on_answer = lambda seen, response: WithoutLength(response)
    assert refusal(api, URL) == (500, "files.example does not tell how long Large-Q8_0.gguf is")


def test_a_site_without_ranges_will_do(api, sites):
    sites.files[URL], sites.accepts_ranges = WHOLE, False
    assert pull(api, URL)[-1] == {"status": "success"}
    assert model_file(api, "Large-Q8_0") == WHOLE


def test_plain_http_needs_to_be_asked_for(api, tmp_path):
    (tmp_path / "tiny.gguf").write_bytes(SMALL)
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/tiny.gguf"
        status, error = refusal(api, url)
        assert (status, "its address is http" in error, "use --insecure" in error) == (500, True, True)
        assert pull(api, url, insecure=True)[-1] == {"status": "success"}
        server.shutdown()
        thread.join()
    assert model_file(api, "tiny") == SMALL


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


UNASKABLE = {
    "https://user:secret@files.example/m.gguf": "without a user or a password",
    "https://[::1/m.gguf": "no URL",
    "https://files.example:99999/m.gguf": "there is no such port",
    "https://files.example/\x01.gguf": "the file has no name",
    "https://files.example/a\x01/m.gguf": "no file's address",
    f"https://files.example/{'a/' * 40_000}m.gguf": "no file's address",
}


def test_a_url_that_cannot_be_asked(api, sites):
    for url, said in UNASKABLE.items():
        assert said in refusal(api, url)[1]
    assert sites.connects == []


def test_a_path_that_looks_like_another_host_is_a_path(api, sites):
    sites.files["https://files.example//other.example/m.gguf"] = SMALL
    assert pull(api, "https://files.example//other.example/m.gguf")[-1] == {"status": "success"}
    assert set(sites.connects) == {"files.example"}
