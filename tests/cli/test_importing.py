"""`import`: models of other programs come to a real server."""

import json
from pathlib import Path

import pytest

from a3s_power.cli import main, other_programs
from tests.support.api import tiny_gguf, tiny_projector
from tests.support.gguf_files import write_gguf
from tests.support.split_gguf import part_files


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home with models of LM Studio and in the Hugging Face cache, one of which is damaged."""
    home = tmp_path / "home"
    studio = home / ".lmstudio" / "models" / "bartowski" / "Tiny-1B-GGUF"
    hub = home / ".cache" / "huggingface" / "hub" / "models--ggml-org--Seer-GGUF"
    snapshot = hub / "snapshots" / ("a" * 40)
    for folder in (studio, hub / "blobs", snapshot):
        folder.mkdir(parents=True)
    tiny_gguf(studio / "Tiny-1B-Q8_0.gguf")
    (studio / "Tiny-1B-F16.gguf").write_bytes(b"GGUF")
    model = {"general.architecture": "llama", "llama.block_count": 1, "llama.embedding_length": 32}
    for name, data in part_files("Seer-Q4_K_M", model, {"a": bytes(64), "b": bytes(32)}).items():
        (snapshot / name).write_bytes(data)
    tiny_projector(snapshot / "mmproj-F16.gguf")
    monkeypatch.setenv("HOME", str(home))
    for name in ("HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(other_programs, "OLLAMA_SERVICE", tmp_path / "no-service")
    return home


@pytest.fixture
def api(scripted):
    return scripted()


@pytest.fixture
def run(api, home, monkeypatch, capsys):
    """Run `import` with these arguments: its status, what it printed, and the last line of what it complained of."""
    monkeypatch.setenv("OLLAMA_HOST", api.server.environment["OLLAMA_HOST"])

    def run(*argv):
        with pytest.raises(SystemExit) as caught:
            main.main(["import", *argv])
        printed = capsys.readouterr()
        lines = [line.rstrip() for line in printed.out.splitlines()]
        return caught.value.code, lines, printed.err.splitlines()

    return run


def names(api):
    return {model.model for model in api.sdk.list().models} - {"m:latest"}


DAMAGED = "Warning: {home}/.lmstudio/models/bartowski/Tiny-1B-GGUF/Tiny-1B-F16.gguf: the header is truncated"


def test_without_a_name_it_lists_what_there_is(run, api, home):
    status, lines, complaints = run()
    assert status == 0
    assert [line.split() for line in lines] == [
        ["NAME", "SIZE", "FROM", "HERE"],
        ["seer:q4_k_m", "4.8", "KB", "huggingface"],
        ["tiny-1b:q8_0", "896", "B", "lmstudio"],
    ]
    assert complaints[0].startswith(DAMAGED.format(home=home))
    assert complaints[1:] == ["", "Import with: a3s-power import NAME... or --all"]
    assert names(api) == set()
    assert run("tiny-1b")[:2] == (0, ["imported 'tiny-1b:q8_0'"])
    assert run("--from", "lmstudio")[1][1].split() == ["tiny-1b:q8_0", "896", "B", "lmstudio", "yes"]


def test_where_nothing_is_it_says_so(run, tmp_path):
    (tmp_path / "empty").mkdir()
    status, lines, complaints = run("--from", f"{tmp_path}/empty", "--from", "ollama")
    assert (status, len(lines)) == (0, 1)
    assert complaints == ["", f"No models found in {tmp_path}/empty, ollama"]
    assert run("--all", "--from", "ollama") == (0, [], [])


def test_a_model_is_imported_with_its_parts_and_its_projector(run, api):
    status, lines, complaints = run("Seer:Q4_K_M", "--from", "huggingface")
    assert (status, lines) == (0, ["imported 'seer:q4_k_m'"])
    assert complaints[0] == "gathering model components"
    assert complaints[-1] == "success"
    assert api.sdk.show("seer:q4_k_m").modelfile.count("\nFROM /") == 2
    assert names(api) == {"seer:q4_k_m"}


def test_all_is_what_is_not_here_yet(run, api):
    assert run("--all", "--from", "huggingface")[:2] == (0, ["imported 'seer:q4_k_m'"])
    assert run("--all", "--from", "huggingface") == (0, [], [])
    status, lines, complaints = run("--all")
    assert (status, lines) == (1, ["imported 'tiny-1b:q8_0'"])
    assert complaints[-1] == "Error: not everything that was found could be imported, see the warnings"
    assert names(api) == {"seer:q4_k_m", "tiny-1b:q8_0"}


def test_the_cache_has_hashed_its_files_already(run, api, home):
    hub = home / ".cache/huggingface/hub/models--ggml-org--Seer-GGUF"
    good, wrong = tiny_gguf(home / "good.gguf"), tiny_gguf(home / "wrong.gguf", architecture="qwen3")
    digest = api.upload(good).removeprefix("sha256:")
    good.rename(hub / "blobs" / digest)
    wrong.rename(hub / "blobs" / ("0" * 64))
    for name, blob in (("good-Q8_0.gguf", digest), ("wrong-F16.gguf", "0" * 64)):
        (hub / "snapshots" / ("a" * 40) / name).symlink_to(hub / "blobs" / blob)
    status, lines, complaints = run("seer:q8_0", "seer:f16", "seer:q4_k_m", "--from", "huggingface")
    assert (status, lines) == (1, ["imported 'seer:q8_0'", "imported 'seer:q4_k_m'"])
    assert not any(line.startswith("hashing good") for line in complaints)
    assert complaints[-1].startswith(
        f"Error: seer:f16: {hub}/snapshots/{'a' * 40}/wrong-F16.gguf is damaged: digest"
    )


@pytest.mark.parametrize("is_service", [True, False])
def test_a_model_of_ollamas_store_comes_out_the_same(is_service, run, api, scripted, tmp_path, monkeypatch):
    """Our own stores are as Ollama's: what one server has made, another imports."""
    other = scripted()
    lora = write_gguf(tmp_path / "lora.gguf", {"general.architecture": "llama", "general.type": "adapter"})
    seer = tiny_projector(tmp_path / "mmproj.gguf")
    model = tiny_gguf(tmp_path / "model.gguf")
    request = {
        "model": "me/cat:v1", "stream": False,
        "files": {"model.gguf": other.upload(model), "mmproj.gguf": other.upload(seer)},
        "adapters": {"lora.gguf": other.upload(lora)},
        "template": "{{ .System }}{{ .Prompt }}", "system": "You are a cat.", "license": ["MIT", "and more"],
        "parameters": {"stop": ["dog"], "top_k": 2, "mirostat": 1},
        "messages": [{"role": "user", "content": "Hi"}],
        "renderer": "qwen3-coder", "parser": "qwen3-coder", "requires": "0.14.0",
        "info": {"quantization_level": "Q8_0", "capabilities": ["tools"], "context_length": 512},
    }  # fmt: skip
    assert other.post("/api/create", request).status_code == 200
    store = other.server.environment["OLLAMA_MODELS"]
    monkeypatch.setattr(other_programs, "OLLAMA_SERVICE", Path(store))
    source = "ollama" if is_service else store
    assert run("me/cat:v1", "--from", source)[:2] == (0, ["imported 'me/cat:v1'"])

    def described(api):
        shown = api.post("/api/show", {"model": "me/cat:v1"}).json()
        del shown["modified_at"]
        return json.dumps(shown).replace(api.server.environment["OLLAMA_MODELS"], "store")

    assert described(api) == described(other)


def test_a_name_has_to_be_one_that_was_found(run, home):
    complaint = "Error: no model 'tiny-1b:f16' was found, 'a3s-power import' lists those that were"
    status, lines, complaints = run("tiny-1b:f16")
    assert (status, lines, complaints[-1]) == (1, [], complaint)
    assert complaints[0].startswith(DAMAGED.format(home=home))
    tiny_gguf(home / ".lmstudio/models/bartowski/Tiny-1B-GGUF/Tiny-1B-Q4_0.gguf")
    complaint = "Error: 'tiny-1b' is not clear, it could be tiny-1b:q4_0, tiny-1b:q8_0"
    assert run("tiny-1b")[2][-1] == complaint


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["--all", "tiny"], "Error: name models or use --all, not both"),
        (["--from", "/nowhere"], "Error: /nowhere is neither a folder nor one of lmstudio, huggingface, ollama"),
    ],
)
def test_mistakes_are_told(argv, complaint, run):
    assert run(*argv) == (1, [], [complaint])
