"""Merging the shards of a split GGUF: which belong together, and that not a byte is lost.

The same model is written whole and in shards, by code that the merge does not share: what must come out is known
to the last byte.
"""

import random
import struct
import tracemalloc
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader
from hypothesis import given, settings
from hypothesis import strategies as st

from a3s_power.build import merge
from a3s_power.build.merge import Merge, SplitName, is_shard, split_models, split_name
from a3s_power.errors import InvalidGGUF, StoreFailed
from a3s_power.gguf import read_gguf
from a3s_power.store.blobs import BlobStore
from a3s_power.units import MIB
from tests.support import gguf_files as files
from tests.support.gguf_files import TensorSpec, Typed, TypedArray, gguf_bytes, header_bytes

METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "general.name": b"not \xff utf-8",
    "llama.block_count": Typed(files.UINT64, 2),
    "llama.rope.freq_base": 1e-5,
    "tokenizer.ggml.tokens": ["<s>", "a", "é"],
    "tokenizer.ggml.scores": TypedArray(files.FLOAT32, [0.0, -1.5]),
    "splitting.is": True,
}
TENSORS = {
    "token_embd.weight": TensorSpec((64, 3), files.Q8_0),
    "output_norm.weight": TensorSpec((5,)),
    "blk.0.attn_q.weight": TensorSpec((256, 2), files.Q4_K),
    "blk.0.attn_norm.weight": TensorSpec((7, 3)),
}


@dataclass(frozen=True)
class Model:
    """A model of random bytes, as one file or as several."""

    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorSpec]
    alignment: int = 32

    def whole(self) -> bytes:
        return self._file(self.metadata, list(self.tensors), self.alignment)

    def shards(self, *cuts: int) -> list[bytes]:
        """The tensors cut before those numbers. As llama.cpp does, only the first shard gets the metadata."""
        bounds = [0, *cuts, len(self.tensors)]
        shards = []
        for number, (start, stop) in enumerate(pairwise(bounds)):
            split = split_keys(number, len(bounds) - 1, len(self.tensors))
            metadata = {**self.metadata, **split} if number == 0 else split
            alignment = self.alignment if number == 0 else 32
            shards.append(self._file(metadata, list(self.tensors)[start:stop], alignment))
        return shards

    def _file(self, metadata: Mapping[str, Any], names: list[str], alignment: int) -> bytes:
        data = b""
        for name in names:
            data += random_bytes(name, files._size_bytes(self.tensors[name]))
            data += bytes(-len(data) % alignment)
        zeros = gguf_bytes(metadata, {name: self.tensors[name] for name in names}, alignment=alignment)
        return zeros[: len(zeros) - len(data)] + data


def split_keys(number: int, count: int, tensors: int) -> dict[str, Any]:
    """What llama.cpp writes into each shard, in its types."""
    return {
        "split.no": Typed(files.UINT16, number),
        "split.count": Typed(files.UINT16, count),
        "split.tensors.count": Typed(files.INT32, tensors),
    }


def random_bytes(seed: str, size_bytes: int) -> bytes:
    return random.Random(seed).randbytes(size_bytes)


MODEL = Model(METADATA, TENSORS)


def save(folder: Path, shards: list[bytes], prefix: str = "m") -> dict[str, Path]:
    """The shards by the names llama.cpp gives them, in files that are called as blobs are."""
    saved = {}
    for number, data in enumerate(shards, 1):
        name = f"{prefix}-{number:05}-of-{len(shards):05}.gguf"
        saved[name] = folder / f"sha256-{len(saved)}-of-{prefix}-{len(shards)}"
        saved[name].write_bytes(data)
    return saved


def merged(saved: Mapping[str, Path]) -> bytes:
    (shards,) = split_models(saved)
    result = Merge(shards)
    pieces: list[bytes] = []
    result.write_to(pieces.append)
    assert max(map(len, pieces)) <= MIB
    assert sum(map(len, pieces)) == result.size_bytes
    return b"".join(pieces)


# Names


@pytest.mark.parametrize(
    ("file_name", "expected"),
    [
        ("m-00001-of-00003.gguf", SplitName("m", 0, 3)),
        ("m-00003-of-00003.gguf", SplitName("m", 2, 3)),
        ("a/b/m-00012-of-99999.gguf", SplitName("m", 11, 99999)),
        ("m-Q4_K_M-00001-of-00002.gguf", SplitName("m-Q4_K_M", 0, 2)),
        ("m-00001-of-00002-00002-of-00003.gguf", SplitName("m-00001-of-00002", 1, 3)),
        ("-00001-of-00002.gguf", SplitName("", 0, 2)),
        ("m-00000-of-00003.gguf", None),
        ("m-1-of-3.gguf", None),
        ("m-000001-of-000003.gguf", None),
        ("m-00001-of-00003.GGUF", None),
        ("m-00001-of-00003.gguf.part", None),
        ("m-٠٠٠٠١-of-٠٠٠٠٣.gguf", None),
        ("m.gguf", None),
        ("", None),
    ],
)
def test_a_shards_name_says_which_it_is(file_name: str, expected: SplitName | None) -> None:
    assert split_name(file_name) == expected


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"split.count": 2}, True),
        ({"general.architecture": "llama", "llama.split.count": 2}, True),
        ({"split.count": 1}, False),
        ({"split.count": 0}, False),
        ({"split.count": "2"}, False),
        ({"split.count": True}, False),
        ({"general.architecture": "llama", "qwen.split.count": 2}, False),
        ({}, False),
    ],
)
def test_a_shard_is_known_by_its_metadata(tmp_path: Path, metadata: dict[str, Any], expected: bool) -> None:
    assert is_shard(read_gguf(files.write_gguf(tmp_path / "x", metadata))) is expected


# Which belong together


def test_shards_are_ordered_by_their_index_in_whatever_order_they_come(tmp_path: Path) -> None:
    saved = save(tmp_path, MODEL.shards(1, 2))
    (shards,) = split_models(dict(reversed(saved.items())))
    assert [shard.name for shard in shards] == list(saved)
    assert [shard.path for shard in shards] == list(saved.values())


def test_several_models_are_told_apart_by_prefix_and_count(tmp_path: Path) -> None:
    saved = {
        **save(tmp_path, MODEL.shards(1), "m"),
        **save(tmp_path, MODEL.shards(1, 2), "m"),
        **save(tmp_path, MODEL.shards(2), "mmproj"),
    }
    assert [[shard.name for shard in shards] for shards in split_models(saved)] == [
        ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"],
        ["m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"],
        ["mmproj-00001-of-00002.gguf", "mmproj-00002-of-00002.gguf"],
    ]


def test_the_keys_may_bear_the_architectures_name(tmp_path: Path) -> None:
    arch = {"general.architecture": "llama"}
    shards = [gguf_bytes({**arch, "llama.split.no": number, "llama.split.count": 2}) for number in range(2)]
    assert merged(save(tmp_path, shards)) == padded(gguf_bytes(arch))


def shard(**changes: Any) -> bytes:
    keys = {"no": 0, "count": 2, **changes}
    return gguf_bytes({f"split.{key}": value for key, value in keys.items() if value is not None})


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        ({"m.gguf": shard()}, 'split GGUF "m.gguf" must use llama.cpp split filename pattern'),
        ({'a/"ü\n".gguf': shard()}, r'split GGUF "a/\"ü\n\".gguf" must use llama.cpp split filename pattern'),
        (
            {"m-00001-of-00003.gguf": shard()},
            'split GGUF "m-00001-of-00003.gguf" filename count 3 does not match metadata count 2',
        ),
        (
            {"m-00001-of-00003.gguf": shard(count=None)},
            'split GGUF "m-00001-of-00003.gguf" filename count 3 does not match metadata count 0',
        ),
        ({"m-00003-of-00002.gguf": shard(no=2)}, 'split GGUF "m-00003-of-00002.gguf" has invalid shard index 2'),
        *(
            ({"m-00001-of-00002.gguf": shard(no=number)}, message)
            for number, message in [
                (None, 'split GGUF "m-00001-of-00002.gguf" is missing split.no metadata'),
                (False, 'split GGUF "m-00001-of-00002.gguf" is missing split.no metadata'),
                ("0", 'split GGUF "m-00001-of-00002.gguf" is missing split.no metadata'),
                (1, 'split GGUF "m-00001-of-00002.gguf" filename index 0 does not match metadata index 1'),
                (-1, 'split GGUF "m-00001-of-00002.gguf" filename index 0 does not match metadata index -1'),
            ]
        ),
        (
            {"m-00002-of-00002.gguf": shard(no=1)},
            'split GGUF "m-00002-of-00002.gguf" has 1 shards, expected 2',
        ),
        (
            {"a-00001-of-00002.gguf": shard(), "b-00002-of-00002.gguf": shard(no=1)},
            'split GGUF "a-00001-of-00002.gguf" has 1 shards, expected 2',
        ),
        (
            {"a/m-00002-of-00002.gguf": shard(no=1), "b/m-00002-of-00002.gguf": shard(no=1)},
            "split GGUF has duplicate shard index 1",
        ),
        (
            {"a/m-00001-of-00002.gguf": b"PK"},
            'a/m-00001-of-00002.gguf: not a GGUF file: it does not begin with "GGUF"',
        ),
    ],
)
def test_files_that_make_no_model_are_refused(tmp_path: Path, shards: dict[str, bytes], message: str) -> None:
    saved = {name: tmp_path / str(number) for number, name in enumerate(shards)}
    for name, path in saved.items():
        path.write_bytes(shards[name])
    with pytest.raises(InvalidGGUF) as caught:
        split_models(saved)
    assert str(caught.value) == message


def test_a_truncated_shard_is_refused_by_name(tmp_path: Path) -> None:
    first, second = MODEL.shards(2)
    with pytest.raises(InvalidGGUF, match=r"^m-00002-of-00002\.gguf: the tensor data is truncated"):
        split_models(save(tmp_path, [first, second[:-40]]))


def test_a_shard_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreFailed, match=r"^cannot read m-00001-of-00002\.gguf: No such file"):
        split_models({"m-00001-of-00002.gguf": tmp_path / "x"})


TINY = Model({"general.architecture": "llama"}, {"a": TensorSpec((4,)), "b": TensorSpec((4,))})


def second_shard(keys: Mapping[str, Any] | None = None, tensors: Mapping[str, TensorSpec] | None = None) -> bytes:
    tensors = {"b": TensorSpec((4,))} if tensors is None else tensors
    return gguf_bytes({**split_keys(1, 2, 2), **(keys or {})}, tensors)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (
            second_shard(tensors={"a": TensorSpec((4,))}),
            'split GGUF "m-00002-of-00002.gguf" contains duplicate tensor "a"',
        ),
        (
            second_shard({"general.architecture": "qwen2"}),
            'split GGUF "m-00002-of-00002.gguf" architecture does not match "m-00001-of-00002.gguf"',
        ),
        (second_shard(tensors={}), 'split GGUF "m-00001-of-00002.gguf" has 1 tensors, expected 2'),
        (
            second_shard({"split.tensors.count": 7}),
            'split GGUF "m-00001-of-00002.gguf" has 2 tensors, expected 7',
        ),
    ],
)
def test_shards_that_do_not_belong_together_are_refused(tmp_path: Path, second: bytes, message: str) -> None:
    (shards,) = split_models(save(tmp_path, [TINY.shards(1)[0], second]))
    with pytest.raises(InvalidGGUF) as caught:
        Merge(shards)
    assert str(caught.value) == message


def test_many_shards_make_no_more_tensors_than_one_file_may_have(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (shards,) = split_models(save(tmp_path, TINY.shards(1)))
    monkeypatch.setattr(merge, "MAX_TENSORS", 1)
    with pytest.raises(InvalidGGUF, match="has 2 tensors, at most 1 are allowed"):
        Merge(shards)


# Not a byte is lost


def padded(header: bytes, alignment: int = 32) -> bytes:
    return header + bytes(-len(header) % alignment)


@pytest.mark.parametrize("cuts", [(), (1,), (2,), (1, 2, 3), (0,), (4,), (0, 2, 2)])
def test_shards_become_the_file_they_came_from(tmp_path: Path, cuts: tuple[int, ...]) -> None:
    assert merged(save(tmp_path, MODEL.shards(*cuts))) == MODEL.whole()


@pytest.mark.parametrize("alignment", [8, 32, 128, 4096])
def test_the_alignment_is_the_first_shards(tmp_path: Path, alignment: int) -> None:
    model = Model({**METADATA, "general.alignment": alignment}, TENSORS, alignment)
    assert merged(save(tmp_path, model.shards(1, 3))) == model.whole()


def test_every_key_on_the_split_goes_and_no_other(tmp_path: Path) -> None:
    of_split = {"split.other": 1, "llama.split.count": 7, "llama.split.x.y": "z"}
    shards = Model({**of_split, **METADATA}, TENSORS).shards(2)
    assert merged(save(tmp_path, shards)) == MODEL.whole()


def test_what_later_shards_say_of_the_model_is_left_out(tmp_path: Path) -> None:
    second = second_shard({"general.architecture": "llama", "general.name": "another"})
    result = tmp_path / "merged"
    result.write_bytes(merged(save(tmp_path, [TINY.shards(1)[0], second])))
    assert read_gguf(result).metadata == {"general.architecture": "llama"}


def test_shards_of_version_2_become_one_of_version_3(tmp_path: Path) -> None:
    shards = [data[:4] + struct.pack("<I", 2) + data[8:] for data in MODEL.shards(2)]
    assert merged(save(tmp_path, shards)) == MODEL.whole()


def test_data_in_another_order_than_the_index_are_put_into_its_order(tmp_path: Path) -> None:
    index = [files.tensor_bytes("a", (4,), files.F32, 32), files.tensor_bytes("b", (4,), files.F32, 0)]
    keys = [files.key_value_bytes(key, value) for key, value in split_keys(0, 1, 2).items()]
    a, b = random_bytes("a", 16), random_bytes("b", 16)
    result = tmp_path / "merged"
    result.write_bytes(merged(save(tmp_path, [padded(header_bytes(keys, index)) + b + bytes(16) + a])))
    header = read_gguf(result)
    assert [(tensor.name, tensor.offset) for tensor in header.tensors] == [("a", 0), ("b", 32)]
    assert result.read_bytes()[header.data_offset :] == a + bytes(16) + b + bytes(16)


def test_names_that_are_not_utf_8_and_retired_type_numbers_stay_as_they_are(tmp_path: Path) -> None:
    entry = files.string_bytes(b"\xff" * 63) + struct.pack("<IQIQ", 1, 32, 4, 0)
    keys = [files.key_value_bytes(key, value) for key, value in split_keys(0, 1, 1).items()]
    data = random_bytes("w", 17) + bytes(15)
    result = merged(save(tmp_path, [padded(header_bytes(keys, [entry])) + data]))
    assert result == padded(header_bytes([], [entry])) + data


@st.composite
def models(draw: st.DrawFn) -> tuple[Model, list[int]]:
    shapes = st.sampled_from([(files.F32, ()), (files.F32, (0, 3)), (files.Q8_0, (32, 5))]) | st.tuples(
        st.sampled_from([files.F32, files.F16]), st.lists(st.integers(1, 9), max_size=4).map(tuple)
    )
    tensors = {
        f"t{number}": TensorSpec(shape, type_) for number, (type_, shape) in enumerate(draw(st.lists(shapes)))
    }
    alignment = draw(st.sampled_from([None, 8, 32, 256]))
    keys = draw(st.permutations([*METADATA, *([] if alignment is None else ["general.alignment"])]))
    metadata = {key: METADATA.get(key, alignment) for key in keys}
    cuts = sorted(draw(st.lists(st.integers(0, len(tensors)), max_size=5)))
    return Model(metadata, tensors, alignment or 32), cuts


@settings(max_examples=100, deadline=None)
@given(models())
def test_any_model_cut_anywhere_is_merged_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, drawn: tuple[Model, list[int]]
) -> None:
    model, cuts = drawn
    whole = model.whole()
    assert merged(save(tmp_path_factory.mktemp("m"), model.shards(*cuts))) == padded(whole, model.alignment)


def test_another_reader_finds_the_same_weights(tmp_path: Path) -> None:
    result = tmp_path / "merged.gguf"
    metadata = {key: value for key, value in METADATA.items() if key != "general.name"}
    result.write_bytes(merged(save(tmp_path, replace(MODEL, metadata=metadata).shards(1, 3))))
    reader = GGUFReader(result)
    assert not [key for key in reader.fields if key.startswith("split.")]
    assert reader.fields["tokenizer.ggml.tokens"].contents() == ["<s>", "a", "é"]
    assert {tensor.name: tensor.data.tobytes() for tensor in reader.tensors} == {
        name: random_bytes(name, files._size_bytes(spec)) for name, spec in TENSORS.items()
    }


def test_a_real_model_survives(tmp_path: Path, smollm2_gguf: Path) -> None:
    shards = split_real(smollm2_gguf, tmp_path, 0, 1, 200)
    (ordered,) = split_models(shards)
    result = tmp_path / "merged.gguf"
    with result.open("wb") as file:
        Merge(ordered).write_to(file.write)
    assert result.read_bytes() == smollm2_gguf.read_bytes()


def split_real(path: Path, folder: Path, *cuts: int) -> dict[str, Path]:
    """Split a file that the `gguf` package can read as llama.cpp would."""
    reader = GGUFReader(path)
    fields = [field for key, field in reader.fields.items() if not key.startswith("GGUF.")]
    metadata = [b"".join(part.tobytes() for part in field.parts) for field in fields]
    saved = {}
    bounds = [0, *cuts, len(reader.tensors)]
    for number, (start, stop) in enumerate(pairwise(bounds)):
        keys = split_keys(number, len(bounds) - 1, len(reader.tensors)).items()
        split = [files.key_value_bytes(key, value) for key, value in keys]
        index, data = [], []
        offset = 0
        for tensor in reader.tensors[start:stop]:
            shape = tuple(int(length) for length in tensor.shape)
            index.append(files.tensor_bytes(tensor.name, shape, int(tensor.tensor_type), offset))
            data.append(padded(tensor.data.tobytes()))
            offset += len(data[-1])
        name = f"real-{number + 1:05}-of-{len(bounds) - 1:05}.gguf"
        saved[name] = folder / name
        header = header_bytes([*split, *(metadata if number == 0 else [])], index)
        saved[name].write_bytes(padded(header) + b"".join(data))
    return saved


# While it is written


LARGE = Model({}, {"a": TensorSpec((3 * 2**18,)), "b": TensorSpec((4 * 2**20,)), "c": TensorSpec((2**18 + 1,))})


def test_memory_stays_flat(tmp_path: Path) -> None:
    (shards,) = split_models(save(tmp_path, LARGE.shards(1)))
    tracemalloc.start()
    try:
        Merge(shards).write_to(len)
        assert tracemalloc.get_traced_memory()[1] < 3 * MIB
    finally:
        tracemalloc.stop()


class Stopped(Exception):
    """What a cancelled caller raises from within its `write`."""


@pytest.mark.parametrize("after_bytes", [0, 100, MIB, 10 * MIB])
def test_a_merge_into_the_store_can_be_stopped_anywhere_and_leaves_nothing(
    tmp_path: Path, after_bytes: int
) -> None:
    store = BlobStore(tmp_path / "home")
    (shards,) = split_models(save(tmp_path, LARGE.shards(1)))
    result = Merge(shards)
    with pytest.raises(Stopped), store.ingest(size=result.size_bytes) as ingest:

        def write(piece: bytes) -> None:
            if ingest.offset + len(piece) > after_bytes:
                raise Stopped
            ingest.write(piece)

        result.write_to(write)
    assert not store.digests()
    assert not [path for path in (tmp_path / "home").rglob("*") if path.is_file() and path.stat().st_size]


def test_a_merge_into_the_store_becomes_a_blob(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "home")
    (shards,) = split_models(save(tmp_path, LARGE.shards(1)))
    result = Merge(shards)
    with store.ingest(size=result.size_bytes) as ingest:
        result.write_to(ingest.write)
        digest = ingest.commit()
    assert store.path(digest).read_bytes() == LARGE.whole()


def longer(path: Path) -> None:
    with path.open("ab") as file:
        file.write(bytes(32))


def shorter(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 2 * MIB)


@pytest.mark.parametrize("change", [longer, shorter])
def test_a_shard_that_changed_before_it_was_copied_is_refused(tmp_path: Path, change: Any) -> None:
    (shards,) = split_models(save(tmp_path, LARGE.shards(1)))
    change(shards[1].path)
    with pytest.raises(InvalidGGUF, match=r'^split GGUF "m-00002-of-00002\.gguf" changed while it was read$'):
        Merge(shards).write_to(len)


def test_a_shard_cut_off_while_it_is_copied_is_refused(tmp_path: Path) -> None:
    (shards,) = split_models(save(tmp_path, LARGE.shards(1)))
    written = 0

    def write(piece: bytes) -> None:
        nonlocal written
        written += len(piece)
        if written > 6 * MIB:  # in the midst of the second shard
            shorter(shards[1].path)

    with pytest.raises(InvalidGGUF, match=r'^split GGUF "m-00002-of-00002\.gguf" changed while it was read$'):
        Merge(shards).write_to(write)


def test_a_shard_that_went_before_it_was_copied_is_named(tmp_path: Path) -> None:
    (shards,) = split_models(save(tmp_path, LARGE.shards(1)))
    shards[1].path.unlink()
    with pytest.raises(StoreFailed, match=r"^cannot read m-00002-of-00002\.gguf: No such file"):
        Merge(shards).write_to(len)
