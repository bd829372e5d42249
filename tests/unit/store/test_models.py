"""What a name means: a store laid out by Ollama is read, and what we write Ollama can read."""

import hashlib
import json
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a3s_power.errors import BlobNotFound, InvalidRequest, ModelNotFound, StoreFailed
from a3s_power.messages import Message
from a3s_power.names import ModelName
from a3s_power.store import models
from a3s_power.store.manifests import LICENSE, MODEL, SYSTEM, TEMPLATE, Layer, Manifest
from a3s_power.store.models import Config, Draft, ModelStore

CONFIG_JSON = (
    b'{"model_format":"gguf","model_family":"llama","model_families":["llama","clip"],"model_type":"8.0B",'
    b'"file_type":"Q4_K_M","architecture":"amd64","os":"linux"}\n'
)
CONFIG = Config("gguf", "llama", ("llama", "clip"), "8.0B", "Q4_K_M")
IMAGE = "application/vnd.ollama.image."


@pytest.fixture
def store(tmp_path):
    return ModelStore(tmp_path)


def blob(root: Path, data: bytes) -> str:
    digest = hashlib.sha256(data).hexdigest()
    (root / "blobs").mkdir(exist_ok=True)
    (root / "blobs" / f"sha256-{digest}").write_bytes(data)
    return f"sha256:{digest}"


def by_hand(
    root: Path, path: str, layers: list[tuple[str, bytes]], config: bytes = CONFIG_JSON, **source
) -> bytes:
    """Lay out a model as Ollama does, without any code of ours."""
    entries = [
        {"mediaType": IMAGE + kind, "digest": blob(root, data), "size": len(data), **source}
        for kind, data in layers
    ]
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            "digest": blob(root, config),
            "size": len(config),
        },
        "layers": entries,
    }
    file = root / "manifests" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(manifest, separators=(",", ":")) + "\n")
    return file.read_bytes()


def tiny(store: ModelStore, name: str, *texts: str) -> Manifest:
    layers = [store.add_layer(LICENSE, text) for text in (name, *texts)]
    return store.write(ModelName.parse(name), CONFIG, layers)


def displayed(store: ModelStore) -> list[str]:
    return [name.display for name in store.manifests.names()]


# Reading


def test_a_store_laid_out_by_ollama_is_read(store, tmp_path):
    data = by_hand(
        tmp_path,
        "registry.ollama.ai/library/llava/7b",
        [
            ("model", b"GGUF first"),
            ("model", b"GGUF last"),
            ("projector", b"GGUF projector"),
            ("adapter", b"GGUF one"),
            ("adapter", b"GGUF two"),
            ("draft", b"GGUF draft"),
            ("template", b"{{ .Prompt }}"),
            ("system", b"Be brief."),
            ("params", b'{"stop":["<|a|>"],"temperature":0.1,"seed":null}\n'),
            ("params", b'{"temperature":0.8}\n'),
            ("messages", b'[{"role":"User","content":"hi"},{"role":"assistant","content":"yo","images":null}]\n'),
            ("license", b"MIT"),
            ("license", b"Apache \xff"),
            ("embed", b"long gone"),
            ("something.new", b"?"),
        ],
        **{"from": "llava:latest"},
    )
    model = store.get(ModelName.parse("llava:7b"))

    def path(data):
        return tmp_path / "blobs" / f"sha256-{hashlib.sha256(data).hexdigest()}"

    assert model.name.display == "llava:7b"
    assert model.digest == hashlib.sha256(data).hexdigest()
    assert model.size_bytes == sum(layer["size"] for layer in json.loads(data)["layers"]) + len(CONFIG_JSON)
    assert model.config == CONFIG
    assert model.model_path == path(b"GGUF last")
    assert model.parent_model == "llava:latest"
    assert model.projector_paths == (path(b"GGUF projector"),)
    assert model.adapter_paths == (path(b"GGUF one"), path(b"GGUF two"))
    assert model.draft_path == path(b"GGUF draft")
    assert model.template == "{{ .Prompt }}"
    assert model.system == "Be brief."
    assert dict(model.parameters) == {"stop": ["<|a|>"], "temperature": 0.8}
    assert model.messages == (Message("user", "hi"), Message("assistant", "yo"))
    assert model.licenses == ("MIT", "Apache \N{REPLACEMENT CHARACTER}")


def test_a_model_without_layers_has_defaults(store, tmp_path):
    remote = b'{"remote_host":"https://ollama.com","remote_model":"big","model_families":null,"rootfs":{"type":"layers"}}'
    by_hand(tmp_path, "registry.ollama.ai/library/big/cloud", [], remote)
    model = store.get(ModelName.parse("big:cloud"))
    assert model.config == Config(remote_host="https://ollama.com", remote_model="big")
    assert (model.model_path, model.draft_path, model.template) == (None, None, None)
    assert (model.parent_model, model.system, model.messages, model.licenses) == ("", "", (), ())
    assert model.parameters == {}


def test_the_old_name_of_the_template_layer_still_counts(store, tmp_path):
    by_hand(tmp_path, "registry.ollama.ai/library/old/latest", [("prompt", b"{{ .System }}")])
    assert store.get(ModelName.parse("old")).template == "{{ .System }}"


def test_a_manifest_may_have_no_config(store):
    store.replace(ModelName.parse("bare"), b'{"config":{"digest":""},"layers":[]}')
    assert store.get(ModelName.parse("bare")).config == Config()


def test_lookups_are_case_insensitive_and_answer_with_the_stored_spelling(store):
    tiny(store, "hf.co/Someone/Tiny:Q4")
    assert str(store.get(ModelName.parse("HF.co/someone/tiny:q4")).name) == "hf.co/Someone/Tiny:Q4"


@pytest.mark.parametrize("ask", [ModelStore.get, ModelStore.delete, lambda s, n: s.copy(n, ModelName.parse("b"))])
def test_an_absent_model_is_not_found_in_the_clients_own_spelling(store, ask):
    tiny(store, "me/other")
    with pytest.raises(ModelNotFound, match="model 'ME/tiny:latest' not found"):
        ask(store, ModelName.parse("ME/tiny"))


@pytest.mark.parametrize("kind", ["model", "projector", "adapter", "draft", "template", "params"])
def test_a_missing_blob_says_which_and_what_to_do(store, tmp_path, kind):
    by_hand(tmp_path, "registry.ollama.ai/library/tiny/latest", [(kind, b"{}")])
    digest = f"sha256:{hashlib.sha256(b'{}').hexdigest()}"
    store.blobs.delete(digest)
    with pytest.raises(StoreFailed, match=f"'tiny:latest' is incomplete: blob {digest} is missing; pull it"):
        store.get(ModelName.parse("tiny"))


@pytest.mark.parametrize(
    ("layers", "config", "words"),
    [
        ([], b"{", "corrupt"),
        ([], b'{"model_family":7}', "model_family"),
        ([("params", b"[]")], CONFIG_JSON, "corrupt"),
        ([("messages", b'{"role":"user"}')], CONFIG_JSON, "corrupt"),
        ([("template", b"x" * 101)], b"{}", "text of more than 100 B"),
    ],
)
def test_layers_that_cannot_be_read_are_one_clear_error(store, tmp_path, monkeypatch, layers, config, words):
    monkeypatch.setattr(models, "MAX_TEXT_BYTES", 100 if config == b"{}" else 1000)
    by_hand(tmp_path, "registry.ollama.ai/library/tiny/latest", layers, config)
    with pytest.raises(StoreFailed, match=f"(?s)'tiny:latest'.*{words}"):
        store.get(ModelName.parse("tiny"))


def test_a_layer_without_a_digest_is_a_missing_blob(store):
    store.replace(ModelName.parse("odd"), Manifest(Layer("", "", 0), (Layer(MODEL, "", 5),)))
    with pytest.raises(StoreFailed, match=f"blob of its {MODEL} layer is missing"):
        store.get(ModelName.parse("odd"))


def test_a_model_that_is_damaged_has_an_outline(store, tmp_path):
    manifest = by_hand(tmp_path, "registry.ollama.ai/library/broken/latest", [("params", b"?")])
    outline = store.outline(ModelName.parse("BROKEN"))
    assert (outline.name.display, outline.digest) == ("broken:latest", hashlib.sha256(manifest).hexdigest())
    assert (outline.config.model_family, outline.model_path, outline.parameters) == ("llama", None, {})
    for blob in (tmp_path / "blobs").iterdir():
        blob.unlink()
    assert store.outline(ModelName.parse("broken")).config == Config()


# The cache


def test_a_warm_get_reads_no_file(store, monkeypatch):
    name = ModelName.parse("tiny")
    tiny(store, "tiny")
    first = store.get(name)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", None)
        patch.setattr(os, "scandir", None)
        patch.setattr(os, "listdir", None)
        assert store.get(name) is first


def test_a_model_that_somebody_else_changed_is_read_again(store, tmp_path):
    name = ModelName.parse("tiny")
    for text in (b"one", b"two"):
        by_hand(tmp_path, "registry.ollama.ai/library/tiny/latest", [("system", text)])
        os.utime(store.manifests.path(name), ns=(0, text[0]))
        assert store.get(name).system == text.decode()
    store.manifests.path(name).unlink()
    with pytest.raises(ModelNotFound):
        store.get(name)


# Writing


def test_we_write_what_ollama_writes(store, tmp_path):
    name = ModelName.parse("tiny")
    manifest = store.write(
        name, CONFIG, [store.add_layer(SYSTEM, "Be <b>."), store.add_layer(TEMPLATE, b"{{.Prompt}}")]
    )
    assert store.blobs.path(manifest.config.digest).read_bytes() == CONFIG_JSON
    (tmp_path / "ollama").mkdir()
    theirs = by_hand(tmp_path / "ollama", "m", [("system", b"Be <b>."), ("template", b"{{.Prompt}}")])
    assert store.manifests.path(name).read_bytes() == theirs
    assert store.get(name).system == "Be <b>."


def test_a_full_config_has_ollamas_order_of_keys():
    config = Config(
        renderer="r",
        parser="p",
        requires="0.1.0",
        remote_host="h",
        remote_model="m",
        capabilities=("tools",),
        context_length=4096,
        embedding_length=64,
        base_name="b<",
        draft=Draft(architecture="llama"),
    )
    assert config.encode() == (
        b'{"model_format":"","model_family":"","model_families":null,"model_type":"","file_type":"","renderer":"r",'
        b'"parser":"p","requires":"0.1.0","remote_host":"h","remote_model":"m","capabilities":["tools"],'
        b'"context_length":4096,"embedding_length":64,"base_name":"b\\u003c","draft":{"architecture":"llama"},'
        b'"architecture":"amd64","os":"linux"}\n'
    )
    assert Config.decode(config.encode()) == config


ODD_CONFIGS = st.dictionaries(
    st.sampled_from(["draft", "capabilities", "context_length", "base_name"]),
    st.none() | st.integers() | st.text() | st.lists(st.text()),
)


@given(st.binary() | ODD_CONFIGS.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_config_or_one_clear_error(data):
    try:
        config = Config.decode(data)
    except InvalidRequest:
        return
    assert Config.decode(config.encode()) == config


def test_a_model_is_written_only_when_all_its_blobs_are_here(store):
    absent = Layer(MODEL, "sha256:" + "0" * 64, 5)
    with pytest.raises(BlobNotFound):
        store.write(ModelName.parse("tiny"), CONFIG, [absent])
    assert displayed(store) == []


def test_a_layer_that_is_here_already_is_touched(store):
    layer = store.add_layer(SYSTEM, "same")
    path = store.blobs.path(layer.digest)
    os.utime(path, (1, 1))
    assert store.add_layer(SYSTEM, b"same") == layer == Layer(SYSTEM, layer.digest, 4)
    assert path.stat().st_mtime > 1


def test_writing_over_a_model_takes_away_what_only_it_needed(store):
    tiny(store, "other", "shared")
    before = tiny(store, "tiny", "shared", "own")
    after = tiny(store, "TINY", "new")
    assert displayed(store).count("tiny:latest") == 1
    gone = before.digests - after.digests - store.manifests.referenced_digests()
    assert len(gone) == 2  # `own`, and the name as it was spelled first
    assert not any(map(store.blobs.has, gone))
    assert all(map(store.blobs.has, store.manifests.referenced_digests()))


def test_replace_says_what_went(store):
    before = tiny(store, "tiny", "own")
    after = Manifest(before.config, before.layers[:1])
    assert store.replace(ModelName.parse("tiny"), after) == {before.layers[1].digest}


def test_with_noprune_a_replaced_model_leaves_its_blobs(tmp_path):
    store = ModelStore(tmp_path, noprune=True)
    before = tiny(store, "tiny", "own")
    tiny(store, "tiny", "new")
    assert all(map(store.blobs.has, before.digests))


def test_a_corrupt_model_can_be_replaced(store, caplog):
    tiny(store, "tiny")
    store.manifests.path(ModelName.parse("tiny")).write_text("{")
    tiny(store, "tiny", "new")
    assert displayed(store) == ["tiny:latest"]
    assert "blobs of the replaced model tiny:latest stay" in caplog.text


# Copying and deleting


def test_a_copy_is_the_same_model_under_another_name(store):
    tiny(store, "tiny")
    store.copy(ModelName.parse("TINY"), ModelName.parse("me/copy:v1"))
    copy, original = store.get(ModelName.parse("me/copy:v1")), store.get(ModelName.parse("tiny"))
    assert copy.digest == original.digest
    assert copy.name.display == "me/copy:v1"


def test_a_copy_onto_itself_changes_nothing(store):
    tiny(store, "tiny")
    stamp = store.manifests.stamp(ModelName.parse("tiny"))
    store.copy(ModelName.parse("tiny"), ModelName.parse("Tiny"))
    assert store.manifests.stamp(ModelName.parse("tiny")) == stamp


def test_a_copy_replaces_the_model_of_that_name(store):
    tiny(store, "one", "1")
    tiny(store, "two", "2")
    assert store.get(ModelName.parse("two")).licenses == ("two", "2")
    store.copy(ModelName.parse("one"), ModelName.parse("TWO"))
    assert store.get(ModelName.parse("two")).licenses == ("one", "1")
    assert sorted(displayed(store)) == ["one:latest", "two:latest"]


def test_delete_takes_the_blobs_that_no_other_model_needs(store):
    kept = tiny(store, "kept", "shared")
    gone = tiny(store, "gone", "shared", "own")
    store.delete(ModelName.parse("GONE"))
    assert displayed(store) == ["kept:latest"]
    assert set(store.blobs.digests()) == kept.digests
    assert gone.digests - kept.digests
    store.delete(ModelName.parse("kept"))
    assert store.blobs.digests() == []


def test_delete_leaves_pinned_blobs_and_minds_no_missing_ones(store):
    manifest = tiny(store, "tiny", "own")
    store.blobs.delete(manifest.config.digest)
    with store.blobs.pin([manifest.layers[1].digest]):
        store.delete(ModelName.parse("tiny"))
    assert store.blobs.digests() == [manifest.layers[1].digest]


def test_a_corrupt_model_is_not_deleted_blindly(store):
    path = store.manifests.path(ModelName.parse("tiny"))
    tiny(store, "tiny")
    path.write_text("{")
    with pytest.raises(StoreFailed, match="corrupt"):
        store.delete(ModelName.parse("tiny"))
    assert path.exists()


def test_models_that_come_and_go_at_once_never_lose_a_blob_they_share(store):
    """Each thread makes, checks and deletes its own model of the same blobs."""
    failures = []

    def come_and_go(number):
        try:
            for _ in range(5):
                with store.blobs.pin([store.add_layer(LICENSE, "shared").digest]):
                    layer = store.add_layer(LICENSE, "shared")
                    store.write(ModelName.parse(f"m{number}"), CONFIG, [layer])
                assert store.get(ModelName.parse(f"m{number}")).licenses == ("shared",)
                store.delete(ModelName.parse(f"m{number}"))
        except Exception as exc:
            failures.append(exc)

    threads = [threading.Thread(target=come_and_go, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert displayed(store) == []
