"""Manifests: read as tolerantly as Ollama reads them, written byte for byte as it writes them."""

import hashlib
import json
import logging
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a3s_power.errors import InvalidName, InvalidRequest, ModelNotFound, StoreFailed
from a3s_power.names import ModelName
from a3s_power.store.manifests import (
    CONFIG,
    LICENSE,
    MAX_LAYERS,
    MAX_MANIFEST_BYTES,
    MODEL,
    TENSOR,
    Layer,
    Manifest,
    ManifestStore,
    decode,
    encode,
)

A, B, C = (f"sha256:{letter * 64}" for letter in "abc")
MANIFEST = Manifest(Layer(CONFIG, A, 7), (Layer(MODEL, B, 100), Layer(LICENSE, C, 20)))

OLLAMA_WROTE = (
    '{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json",'
    '"config":{"mediaType":"application/vnd.docker.container.image.v1+json","digest":"' + A + '","size":7},'
    '"layers":[{"mediaType":"application/vnd.ollama.image.model","digest":"' + B + '","size":100,'
    '"from":"/tmp/a\\u003cb\\u003e\\u0026c\\u2028é.gguf"},'
    '{"mediaType":"application/vnd.ollama.image.tensor","digest":"' + C + '","size":20,"name":"blk.0"}]}\n'
).encode()
READ = Manifest(
    Layer(CONFIG, A, 7),
    (Layer(MODEL, B, 100, from_="/tmp/a<b>&c\u2028é.gguf"), Layer(TENSOR, C, 20, name="blk.0")),
)


@pytest.fixture
def store(tmp_path):
    return ManifestStore(tmp_path)


def put(store: ManifestStore, path: str, data: bytes = OLLAMA_WROTE) -> Path:
    """Lay a manifest out by hand."""
    file = store.root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


def test_we_write_what_ollama_writes_and_read_it_back():
    assert encode(READ) == OLLAMA_WROTE
    assert decode(OLLAMA_WROTE) == READ


def test_sizes_count_a_blob_twice_that_is_there_twice():
    assert Manifest(MANIFEST.config, MANIFEST.layers * 2).size_bytes == 7 + 2 * 120
    assert MANIFEST.digests == {A, B, C}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"config":{}}', Manifest(Layer("", "", 0), ())),
        ('{"layers":[]}', Manifest(Layer("", "", 0), ())),
        ('{"config":{"digest":"","size":0},"layers":null}', Manifest(Layer("", "", 0), ())),
        ('{"config":{"digest":null,"from":null,"x":[1,{}]},"y":null}', Manifest(Layer("", "", 0), ())),
        ('{"layers":[{"digest":"' + A.replace(":", "-") + '"}]}', Manifest(Layer("", "", 0), (Layer("", A, 0),))),
        (' {"config":{"from":""}}\n\n', Manifest(Layer("", "", 0), ())),
    ],
)
def test_what_is_absent_null_or_unknown_does_not_matter(text, expected):
    assert decode(text.encode()) == expected


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "manifest"),
        (b"[]", "manifest"),
        (b"null", "manifest"),
        (b"{}", "neither config nor layers"),
        (b'{"manifests":[]}', "neither config nor layers"),
        (OLLAMA_WROTE[:-9], "manifest"),
        (b'{"config":{"size":-1}}', "size"),
        (b'{"config":{"size":9223372036854775808}}', "size"),
        (b'{"config":{"size":"7"}}', "size"),
        (b'{"config":{"digest":"sha256:12"}}', r"invalid digest format: 'sha256:12'"),
        (b'{"layers":[{"digest":"sha256:../../../../etc/passwd"}]}', "invalid digest format"),
        (b'{"config":{"digest":"\xff"}}', "manifest"),
        (b'{"config":' + b"[" * 100_000, "manifest"),
        (b'{"layers":[' + b"{}," * MAX_LAYERS + b"{}]}", "length"),
        (b" " * MAX_MANIFEST_BYTES + b"{}", "larger than"),
    ],
)
def test_what_is_no_manifest_is_one_clear_error(data, words):
    with pytest.raises(InvalidRequest, match=words):
        decode(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([A, MODEL]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["config", "layers", "digest", "size", "mediaType", "from", "name"]) | st.text(), inner
        )
    ),
)


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_manifest_or_one_clear_error(data):
    try:
        manifest = decode(data)
    except InvalidRequest:
        return
    assert decode(encode(manifest)) == manifest


LAYERS = st.builds(
    Layer,
    st.text(),
    st.sampled_from([A, B, ""]),
    st.integers(0, 2**63 - 1),
    st.none() | st.text(min_size=1),
    st.none() | st.text(min_size=1),
)


@given(st.builds(Manifest, LAYERS, st.lists(LAYERS, max_size=3).map(tuple)))
def test_what_we_write_we_read_back(manifest):
    data = encode(manifest)
    assert decode(data) == manifest
    assert data.endswith(b"}\n")
    assert not any(char in data for char in b"<>&")


@given(st.text() | st.from_regex(r"([\w.:-]{0,9}/){0,3}[\w.:-]{0,9}", fullmatch=True))
def test_every_name_is_a_path_four_levels_below_the_root(text):
    try:
        name = ModelName.parse(text)
    except InvalidName:
        return
    path = ManifestStore(Path("/store")).path(name)
    assert Path(os.path.normpath(path)) == path
    assert path.parents[3] == Path("/store/manifests")


def test_a_manifest_is_read_with_what_its_file_says(store):
    path = put(store, "registry.ollama.ai/library/llama3.2/latest")
    os.utime(path, (1_700_000_000, 1_700_000_000))
    stored = store.read(ModelName.parse("llama3.2"))
    assert stored.manifest == READ
    assert stored.digest == hashlib.sha256(OLLAMA_WROTE).hexdigest()
    assert stored.size_bytes == 127
    assert stored.modified_at.timestamp() == 1_700_000_000
    assert stored.modified_at.tzinfo is not None


def test_a_manifest_lies_where_ollama_looks_for_it(store, tmp_path):
    store.write(ModelName.parse("localhost:5000/me/tiny:q4"), READ)
    path = tmp_path / "manifests" / "localhost:5000" / "me" / "tiny" / "q4"
    assert path.read_bytes() == OLLAMA_WROTE
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_bytes_from_a_registry_stay_as_they_are(store):
    name, pulled = ModelName.parse("tiny"), b'{ "config": {}, "annotations": {"x": 1} }'
    store.write(name, pulled)
    assert store.read_bytes(name) == pulled
    with pytest.raises(InvalidRequest):
        store.write(name, b"<html>")
    assert store.read_bytes(name) == pulled


@pytest.mark.parametrize("step", ["fsync", "replace", "fchmod"])
def test_a_failed_write_leaves_the_old_manifest_and_no_litter(store, tmp_path, monkeypatch, step):
    def fail(*args):
        raise OSError(28, "No space left on device")

    name = ModelName.parse("tiny")
    store.write(name, READ)
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(StoreFailed, match="the disk is full"):
        store.write(name, MANIFEST)
    assert store.read(name).manifest == READ
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files == [store.path(name)]


def test_a_temporary_file_never_looks_like_a_manifest(store, monkeypatch):
    """Ollama's glob takes everything four levels deep, dot files too."""
    seen = []
    monkeypatch.setattr(os, "fsync", lambda fd: seen.extend(store.root.glob("*/*/*/*")))
    store.write(ModelName.parse("tiny"), READ)
    assert {path.name for path in seen} <= {"latest"}


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("foo", "registry.ollama.ai/library/Foo:latest"),
        ("FOO:LATEST", "registry.ollama.ai/library/Foo:latest"),
        ("Foo", "registry.ollama.ai/library/Foo:latest"),
        ("bar", "registry.ollama.ai/library/bar:latest"),
        ("BAR", "registry.ollama.ai/library/Bar:latest"),  # the first in order
        ("Bar", "registry.ollama.ai/library/Bar:latest"),
        ("HF.co/Someone/REPO:q4", "hf.co/SomeOne/repo:Q4"),
        ("someone/new", "registry.ollama.ai/someone/new:latest"),  # that namespace is another host's
        ("HF.CO/someone/New", "hf.co/SomeOne/New:latest"),
        ("FOO:v2", "registry.ollama.ai/library/FOO:v2"),  # only hosts and namespaces are taken over
        ("elsewhere/Foo", "registry.ollama.ai/elsewhere/Foo:latest"),
    ],
)
def test_a_name_means_the_model_it_equals_but_for_case(store, asked, found):
    for path in (
        "registry.ollama.ai/library/Foo/latest",
        "registry.ollama.ai/library/bar/latest",
        "registry.ollama.ai/library/Bar/latest",
        "hf.co/SomeOne/repo/Q4",
    ):
        put(store, path)
    assert str(store.resolve(ModelName.parse(asked))) == found


def test_folders_whose_names_only_fold_to_ascii_match_nothing(store):
    put(store, "registry.ollama.ai/library/\u212aimi/latest")  # the Kelvin sign folds to k
    assert store.resolve(ModelName.parse("kimi")) == ModelName.parse("kimi")


def test_an_absent_model_is_named_as_people_see_it(store):
    name = ModelName.parse("me/tiny:q4")
    for ask in (store.read, store.read_bytes, store.delete, lambda name: store.copy(name, name)):
        with pytest.raises(ModelNotFound, match="model 'me/tiny:q4' not found"):
            ask(name)
    assert store.stamp(name) is None
    assert store.names() == []
    assert store.all() == []
    assert not store.root.exists()


def test_delete_takes_the_folders_it_empties_and_no_others(store):
    put(store, "registry.ollama.ai/library/a/latest")
    put(store, "registry.ollama.ai/me/a/latest")
    store.delete(ModelName.parse("me/a"))
    assert [path.name for path in (store.root / "registry.ollama.ai").iterdir()] == ["library"]
    store.delete(ModelName.parse("a"))
    assert list(store.root.iterdir()) == []


def test_copy_keeps_the_bytes(store):
    put(store, "registry.ollama.ai/library/a/latest", b'{"config":{},"more":1}')
    store.copy(ModelName.parse("a"), ModelName.parse("me/b:v1"))
    assert store.read_bytes(ModelName.parse("me/b:v1")) == b'{"config":{},"more":1}'


def untidy(store: ManifestStore) -> None:
    put(store, "registry.ollama.ai/library/good/latest")
    put(store, "registry.ollama.ai/library/corrupt/latest", b"{")
    put(store, "registry.ollama.ai/library/bad name/latest")
    put(store, "registry.ollama.ai/library/good/too/deep")
    put(store, "registry.ollama.ai/library/.DS_Store")
    (store.root / "registry.ollama.ai/library/good/gone").symlink_to("nowhere")


def test_listing_skips_what_is_no_manifest_and_says_so(store, caplog):
    untidy(store)
    with caplog.at_level(logging.WARNING):
        assert [stored.name.display for stored in store.all()] == ["good:latest"]
    assert [record.message.split("library/")[1].split()[0] for record in caplog.records] == [
        "bad",
        "corrupt/latest",
        "good/gone",
    ]
    assert store.referenced_digests() == {A, B, C}


@pytest.mark.parametrize("bad", ["corrupt/latest", "bad name/latest", "good/gone"])
def test_a_strict_listing_fails_on_any_of_them(store, bad):
    untidy(store)
    for path in {"corrupt/latest", "bad name/latest", "good/gone"} - {bad}:
        (store.root / "registry.ollama.ai/library" / path).unlink()
    with pytest.raises(StoreFailed, match=bad.split("/")[0]):
        store.referenced_digests(strict=True)


def test_a_corrupt_manifest_says_which_file_and_what_to_do(store):
    path = put(store, "registry.ollama.ai/library/a/latest", b"{")
    with pytest.raises(StoreFailed, match=f"{path} is corrupt .*pull the model again, or remove the file"):
        store.read(ModelName.parse("a"))


def test_linked_manifests_are_followed(store, tmp_path):
    elsewhere = ManifestStore(tmp_path / "elsewhere")
    put(elsewhere, "registry.ollama.ai/library/a/latest")
    store.root.mkdir()
    (store.root / "registry.ollama.ai").symlink_to(elsewhere.root / "registry.ollama.ai")
    assert [stored.manifest for stored in store.all()] == [READ]
    assert store.resolve(ModelName.parse("A")) == ModelName.parse("a")
