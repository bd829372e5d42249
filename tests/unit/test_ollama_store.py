"""Another Ollama's store, taken apart."""

import hashlib
import json
import os

import msgspec
import pytest

from a3s_power.cli.ollama_store import DamagedModel, is_store, plan_of, stored_models

LAYER = "application/vnd.ollama.image."
CONFIG = "application/vnd.docker.container.image.v1+json"


def layers(kind, digest):
    return json.dumps({"layers": [{"mediaType": LAYER + kind, "digest": digest, "size": 1}]})


class Store:
    """One on disk, as Ollama writes it."""

    def __init__(self, root):
        self.root = root
        (root / "blobs").mkdir(parents=True)
        (root / "manifests").mkdir()

    def blob(self, data):
        data = (
            data
            if isinstance(data, bytes)
            else data.encode()
            if isinstance(data, str)
            else json.dumps(data).encode()
        )
        digest = hashlib.sha256(data).hexdigest()
        (self.root / "blobs" / f"sha256-{digest}").write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    def manifest(self, name, *layers, config=None):
        path = self.root / "manifests" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        layers = [{"mediaType": LAYER + kind, **self.blob(data)} for kind, data in layers]
        config = {"mediaType": CONFIG, **self.blob(config or {})}
        path.write_text(json.dumps({"schemaVersion": 2, "config": config, "layers": layers}))
        return path

    def found(self):
        models, problems = stored_models(self.root)
        return [model.name.display for model in models], [problem.reason for problem in problems]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "models")


def test_models_have_the_names_of_their_manifests(store):
    store.manifest("registry.ollama.ai/library/llama3.2/latest", ("model", "GGUF"))
    store.manifest("registry.ollama.ai/me/Mine/v1", ("model", "GGUF"))
    store.manifest("hf.co/user/repo-GGUF/Q8_0", ("model", "GGUF"))
    store.manifest("registry.ollama.ai/library/llama3.2/.DS_Store", ("model", "GGUF"))
    (store.root / "manifests/README").touch()
    (store.root / "manifests/a/b/c/d").mkdir(parents=True)
    (store.root / "manifests/a/b/c/d/e").touch()
    assert is_store(store.root)
    assert store.found() == (["hf.co/user/repo-GGUF:Q8_0", "llama3.2:latest", "me/Mine:v1"], [])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look everywhere")
def test_what_may_not_be_looked_into_is_told(store):
    store.manifest("registry.ollama.ai/library/m/latest", ("model", "GGUF"))
    (store.root / "manifests/hf.co").mkdir(mode=0)
    try:
        assert store.found() == (["m:latest"], ["Permission denied"])
    finally:
        (store.root / "manifests/hf.co").chmod(0o700)


def test_everything_of_a_model_goes_into_its_request(store):
    store.manifest(
        "registry.ollama.ai/library/all/latest",
        ("model", "GGUF model"),
        ("projector", "GGUF projector"),
        ("adapter", "GGUF adapter"),
        ("draft", "GGUF draft"),
        ("template", "{{ .Prompt }}"),
        ("system", "You are a cat."),
        ("license", "MIT"),
        ("license", "and more"),
        ("params", {"stop": ["x"], "top_k": 1}),
        ("params", {"top_k": 2}),
        ("messages", [{"role": "user", "content": "hi"}]),
        config={"renderer": "r", "parser": "p", "requires": "0.14.0", "file_type": "Q4_K_M", "model_type": "1B",
                "capabilities": ["tools"], "context_length": 2048, "model_family": "llama", "os": "linux"},
    )  # fmt: skip
    (model,), _ = stored_models(store.root)
    plan = plan_of(model)
    assert msgspec.to_builtins(plan.request) == {
        "template": "{{ .Prompt }}",
        "system": "You are a cat.",
        "license": ["MIT", "and more"],
        "parameters": {"stop": ["x"], "top_k": 2},
        "messages": [{"role": "user", "content": "hi"}],
        "renderer": "r",
        "parser": "p",
        "requires": "0.14.0",
        "info": {
            "quantization_level": "Q4_K_M",
            "parameter_size": "1B",
            "capabilities": ["tools"],
            "context_length": 2048,
        },
    }
    for files, kinds in (
        (plan.files, ["model", "projector"]),
        (plan.drafts, ["draft"]),
        (plan.adapters, ["adapter"]),
    ):
        assert list(files) == [f"{kind}-1.gguf" for kind in kinds]
        for kind, file in zip(kinds, files.values(), strict=True):
            data = f"GGUF {kind}".encode()
            assert file.path.read_bytes() == data
            assert file.digest == f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_a_plain_model_has_a_plain_request(store):
    store.manifest("registry.ollama.ai/library/m/latest", ("model", "GGUF"))
    (model,), _ = stored_models(store.root)
    assert msgspec.to_builtins(plan_of(model).request) == {}


def test_a_model_of_the_cloud_has_nothing_to_import(store):
    store.manifest("registry.ollama.ai/library/big/cloud", config={"remote_host": "https://ollama.com:443"})
    assert store.found() == ([], [])


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        ("{", "no such JSON"),
        ("[]", "no such JSON"),
        (layers("tensor", ""), "its weights are safetensors"),
        (layers("model", "../../x"), "'../../x' is no digest"),
        (layers("model", f"sha256:{'0' * 64}"), f"sha256-{'0' * 64}: No such file or directory"),
    ],
)
def test_what_cannot_be_a_model_is_told(manifest, reason, store):
    store.manifest("registry.ollama.ai/library/good/latest", ("model", "GGUF"))
    store.manifest("registry.ollama.ai/library/bad/latest").write_text(manifest)
    names, problems = store.found()
    assert names == ["good:latest"]
    assert len(problems) == 1
    assert problems[0].startswith(reason)


def test_a_file_that_is_too_short_is_told(store):
    path = store.manifest("registry.ollama.ai/library/m/latest", ("model", "GGUF and more"))
    digest = json.loads(path.read_text())["layers"][0]["digest"].replace(":", "-")
    (store.root / "blobs" / digest).write_bytes(b"GGUF")
    assert store.found() == ([], [f"{digest} has 4 bytes, not 13"])


def test_a_text_that_was_changed_is_no_part_of_the_model(store):
    path = store.manifest("registry.ollama.ai/library/m/latest", ("model", "GGUF"), ("system", "You are a cat."))
    digest = json.loads(path.read_text())["layers"][1]["digest"].replace(":", "-")
    (store.root / "blobs" / digest).write_text("You are a dog.")
    (model,), _ = stored_models(store.root)
    with pytest.raises(DamagedModel, match="does not hash to its name"):
        plan_of(model)
