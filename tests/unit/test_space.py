"""Who takes how much of the disk, and who keeps a blob from going."""

import pytest

from a3s_power.errors import BlobInUse, BlobNotFound, InvalidDigest, StoreFailed
from a3s_power.names import ModelName
from a3s_power.service.space import ModelSpace, Space, Tally, shares
from a3s_power.store.manifests import SYSTEM
from a3s_power.store.models import Config, ModelStore

SIZES = {"weights": 100, "more weights": 70, "text": 3}
MODEL = ModelName.parse("m")


@pytest.fixture
def store(tmp_path):
    return ModelStore(tmp_path / "models")


@pytest.mark.parametrize(
    ("needs", "expected"),
    [
        ({}, ()),
        ({"a": {"weights", "text"}}, (ModelSpace("a", 103, 0),)),
        ({"copy": {"weights"}, "a": {"weights"}}, (ModelSpace("a", 100, 100), ModelSpace("copy", 100, 100))),
        (
            {"a": {"text"}, "b": {"weights", "text"}, "c": {"more weights"}},
            (ModelSpace("b", 103, 3), ModelSpace("c", 70, 0), ModelSpace("a", 3, 3)),
        ),
        ({"damaged": {"weights", "gone"}}, (ModelSpace("damaged", 100, 0),)),
    ],
)
def test_what_several_models_need_is_shared(needs, expected):
    assert shares(needs, SIZES) == expected


def test_unique_is_what_would_go():
    assert ModelSpace("b", size_bytes=103, shared_bytes=3).unique_bytes == 100


@pytest.mark.anyio
async def test_a_store_that_is_yet_to_come_takes_nothing(store, tmp_path):
    use = await Space(store).use()
    assert (use.models, use.blobs, use.unused, use.partial) == ((), Tally(0, 0), Tally(0, 0), Tally(0, 0))
    assert use.free_bytes > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.anyio
async def test_a_part_takes_what_it_holds_and_not_what_it_will_be_long(store):
    store.add_layer(SYSTEM, "makes the folder")
    with (store.blobs.root / f"sha256-{'a' * 64}-partial").open("wb") as file:
        file.truncate(1 << 40)
    (store.blobs.root / f"sha256-{'a' * 64}-partial-0").write_text("{}")
    with store.blobs.ingest(f"sha256:{'b' * 64}") as ingest:
        ingest.write(b"begun")
    assert (await Space(store).use()).partial == Tally(2, 5)


@pytest.mark.anyio
async def test_a_blob_goes_when_nothing_needs_it(store):
    layer = store.add_layer(SYSTEM, "Be brief.")
    await Space(store).delete_blob(layer.digest.replace(":", "-"))
    assert not store.blobs.has(layer.digest)


@pytest.mark.anyio
async def test_a_blob_stays_while_it_is_needed(store):
    layer = store.add_layer(SYSTEM, "Be brief.")
    with store.blobs.pin([layer.digest]), pytest.raises(BlobInUse, match="under way"):
        await Space(store).delete_blob(layer.digest)
    store.write(MODEL, Config(), [layer])
    with pytest.raises(BlobInUse, match=r"in use by model 'm:latest'"):
        await Space(store).delete_blob(layer.digest)
    store.manifests.path(MODEL).write_text("{")
    with pytest.raises(StoreFailed, match="corrupt"):
        await Space(store).delete_blob(layer.digest)
    assert store.blobs.has(layer.digest)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("digest", "error"), [(f"sha256:{'0' * 64}", BlobNotFound), ("../../etc/passwd", InvalidDigest)]
)
async def test_what_is_no_blob_here(store, digest, error):
    for ask in (Space(store).delete_blob, Space(store).blob):
        with pytest.raises(error):
            await ask(digest)
