"""The GGUF header parser: what it reads, and how it says no."""

import math
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from a3s_power import gguf
from a3s_power.errors import InvalidGGUF
from a3s_power.gguf import Array, Tensor, ValueType, read_gguf, read_layout, shortest_float32
from tests.support import gguf_files as files
from tests.support.gguf_files import TensorSpec, Typed, TypedArray, gguf_bytes, header_bytes, write_gguf

TINY_METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "general.file_type": 15,
    "llama.context_length": 4096,
    "llama.embedding_length": 64,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "tokenizer.chat_template": "{{ messages }}",
    "tokenizer.ggml.tokens": ["<s>", "a", "é"],
    "tokenizer.ggml.scores": [0.0, -1.5, 0.1],
    "tokenizer.ggml.token_type": [3, 1, 1],
}
TINY_TENSORS = {
    "token_embd.weight": TensorSpec((64, 3), files.Q8_0),
    "output_norm.weight": TensorSpec((64,)),
    "blk.0.attn_q.weight": TensorSpec((256, 2), files.Q4_K),
}
TINY = gguf_bytes(TINY_METADATA, TINY_TENSORS)


def parse(path: Path, data: bytes) -> gguf.GGUF:
    path.write_bytes(data)
    return read_gguf(path)


def decoded(value: gguf.Value) -> Any:
    return value.decode() if isinstance(value, Array) else value


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file that each example of a hypothesis test writes anew."""
    return tmp_path_factory.mktemp("gguf") / "x.gguf"


# What it reads


def test_a_header_is_read_whole(scratch: Path) -> None:
    header = parse(scratch, TINY)
    assert {key: decoded(value) for key, value in header.metadata.items()} == TINY_METADATA
    assert header.tensors == (
        Tensor("token_embd.weight", "Q8_0", (64, 3), 0, 6 * 34),
        Tensor("output_norm.weight", "F32", (64,), 224, 256),
        Tensor("blk.0.attn_q.weight", "Q4_K", (256, 2), 480, 2 * 144),
    )
    assert (header.version, header.file_size) == (3, len(TINY))
    assert header.data_offset % 32 == 0
    assert header.data_offset + 480 + 288 == len(TINY)


def test_the_layout_says_where_each_entry_lies(scratch: Path) -> None:
    header = parse(scratch, TINY)
    layout = read_layout(scratch)
    assert layout.gguf == header
    entries = [files.key_value_bytes(key, value) for key, value in TINY_METADATA.items()]
    assert list(layout.key_values) == list(TINY_METADATA)
    assert [TINY[at : at + size] for at, size in layout.key_values.values()] == entries
    entries = [
        files.tensor_bytes(tensor.name, tensor.shape, TINY_TENSORS[tensor.name].type, tensor.offset)
        for tensor in header.tensors
    ]
    assert list(layout.tensors) == list(TINY_TENSORS)
    assert [TINY[at : at + size] for at, size in layout.tensors.values()] == entries


def test_the_questions_others_ask(scratch: Path) -> None:
    header = parse(scratch, TINY)
    assert header.architecture == "llama"
    assert header.arch("embedding_length") == header.embedding_length == 64
    assert header.arch("block_count") is None
    assert header.arch("block_count", 0) == 0
    assert header.context_length == 4096
    assert header.chat_template == "{{ messages }}"
    assert header.file_type_name == "Q4_K_M"
    assert header.parameter_count == 64 * 3 + 64 + 512
    assert header.weights_bytes == 6 * 34 + 256 + 288


def test_a_file_of_nothing_answers_too(scratch: Path) -> None:
    header = parse(scratch, gguf_bytes())
    assert (header.architecture, header.chat_template, header.context_length) == ("", None, None)
    assert (header.file_type_name, header.parameter_count, header.data_offset) == ("unknown", 0, 24)


@pytest.mark.parametrize("value", ["7", 7.0, True, [7]])
def test_a_known_key_of_the_wrong_type_counts_as_absent(scratch: Path, value: Any) -> None:
    metadata = {"general.architecture": 1, ".context_length": value, "general.file_type": value}
    header = parse(scratch, gguf_bytes(metadata))
    assert (header.architecture, header.context_length, header.file_type_name) == ("", None, "unknown")


@pytest.mark.parametrize(
    ("number", "name"),
    [(0, "F32"), (7, "Q8_0"), (15, "Q4_K_M"), (18, "Q6_K"), (32, "BF16"), (38, "MXFP4_MOE"), (33, "unknown")],
)  # fmt: skip
def test_file_types_have_llama_cpps_names(scratch: Path, number: int, name: str) -> None:
    assert parse(scratch, gguf_bytes({"general.file_type": number})).file_type_name == name


def test_version_2_is_laid_out_like_version_3(scratch: Path) -> None:
    assert parse(scratch, gguf_bytes(TINY_METADATA, TINY_TENSORS, version=2)).version == 2


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Typed(files.UINT8, 255), 255),
        (Typed(files.INT8, -128), -128),
        (Typed(files.UINT16, 65535), 65535),
        (Typed(files.INT16, -1), -1),
        (Typed(files.INT32, -1), -1),
        (Typed(files.UINT64, 2**64 - 1), 2**64 - 1),
        (Typed(files.INT64, -(2**63)), -(2**63)),
        (Typed(files.FLOAT64, 0.1), 0.1),
        (Typed(files.BOOL, True), True),
        (b"bad \xff utf-8", "bad \N{REPLACEMENT CHARACTER} utf-8"),
        (TypedArray(files.BOOL, [True, False]), [True, False]),
        (TypedArray(files.FLOAT64, [0.1]), [0.1]),
        (TypedArray(files.INT32, []), []),
        ([["a", "b"], [], ["c"]], [["a", "b"], [], ["c"]]),
        ([[[1], [2, 3]]], [[[1], [2, 3]]]),
    ],
)
def test_each_type_of_value(scratch: Path, value: Any, expected: Any) -> None:
    assert decoded(parse(scratch, gguf_bytes({"k": value})).metadata["k"]) == expected


@pytest.mark.parametrize(
    ("lengths", "why"),
    [
        ([7] * 50_000, "many short strings"),
        ([0] * 50_000, "many empty ones"),
        ([3, 1_000_000, 3, 300_000, 0], "some longer than a window"),
        ([2**18 - 8, 2**18 - 9, 2**18 - 7, 5], "ends near the end of a window"),
    ],
)
def test_string_arrays_longer_than_a_read_window(scratch: Path, lengths: list[int], why: str) -> None:
    strings = ["x" * length for length in lengths]
    header = parse(scratch, gguf_bytes({"tokens": strings, "after": 7}))
    array = header.metadata["tokens"]
    assert isinstance(array, Array)
    assert (len(array), array.element_type) == (len(strings), ValueType.STRING)
    assert list(array) == strings
    assert header.metadata["after"] == 7


def test_an_array_whose_file_has_changed_or_gone_says_so(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x.gguf", {"tokens": ["abc", "de"], "numbers": [1, 2, 3]})
    tokens, numbers = (value for value in read_gguf(path).metadata.values() if isinstance(value, Array))
    content = path.read_bytes()
    path.write_bytes(content[: tokens.offset] + struct.pack("<Q", 2**63) + content[tokens.offset + 8 :])
    with pytest.raises(InvalidGGUF, match="changed while it was read"):
        tokens.decode()
    path.write_bytes(content[:-1])
    with pytest.raises(InvalidGGUF, match="truncated"):
        numbers.decode()
    path.unlink()
    with pytest.raises(FileNotFoundError):
        numbers.decode()


@pytest.mark.parametrize("alignment", [8, 32, 4096])
def test_the_tensor_data_begin_at_the_files_own_alignment(scratch: Path, alignment: int) -> None:
    data = gguf_bytes({"general.alignment": alignment}, {"w": TensorSpec((4,))}, alignment=alignment)
    header = parse(scratch, data)
    assert header.alignment == alignment
    assert header.data_offset % alignment == 0


def test_tensors_may_be_empty_scalar_or_out_of_order(scratch: Path) -> None:
    tensors = {
        "last": TensorSpec((8,), offset=32),
        "first": TensorSpec((), offset=0),
        "none": TensorSpec((0, 5), offset=0),
    }
    header = parse(scratch, gguf_bytes(tensors=tensors))
    assert [(tensor.name, tensor.element_count) for tensor in header.tensors] == [
        ("last", 8),
        ("first", 1),
        ("none", 0),
    ]


@pytest.mark.parametrize(
    ("type_number", "name", "size_bytes"),
    [(0, "F32", 1024), (1, "F16", 512), (2, "Q4_0", 144), (3, "Q4_1", 160), (6, "Q5_0", 176),
     (8, "Q8_0", 272), (10, "Q2_K", 84), (11, "Q3_K", 110), (12, "Q4_K", 144), (13, "Q5_K", 176),
     (14, "Q6_K", 210), (20, "IQ4_NL", 144), (24, "I8", 256), (30, "BF16", 512), (35, "TQ2_0", 66),
     (39, "MXFP4", 136), (40, "NVFP4", 144)],
)  # fmt: skip
def test_a_row_of_256_elements_takes(scratch: Path, type_number: int, name: str, size_bytes: int) -> None:
    spec = TensorSpec((256,), type_number, size_bytes=size_bytes)
    (tensor,) = parse(scratch, gguf_bytes(tensors={"w": spec})).tensors
    assert (tensor.type, tensor.size_bytes) == (name, size_bytes)


def test_a_real_model(smollm2_gguf: Path) -> None:
    header = read_gguf(smollm2_gguf)
    assert (len(header.metadata), len(header.tensors), header.architecture) == (33, 272, "llama")
    assert (header.parameter_count, header.context_length, header.embedding_length) == (134515008, 8192, 576)
    assert header.data_offset + header.weights_bytes == header.file_size
    assert repr(header.arch("attention.layer_norm_rms_epsilon")) == "1e-05"
    tokens = header.metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, Array)
    assert len(tokens) == 49152
    assert tokens.decode()[:2] == ["<|endoftext|>", "<|im_start|>"]


# float32


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1e-5, "1e-05"),
        (0.1, "0.1"),
        (10000.0, "10000.0"),
        (-0.0, "-0.0"),
        (123456789.0, "123456790.0"),
        (1e20, "1e+20"),
        (1 / 3, "0.33333334"),
        (3.4028234663852886e38, "3.4028235e+38"),
        (1e-45, "1e-45"),
        (math.inf, "inf"),
        (math.nan, "nan"),
    ],
)
def test_a_float32_shows_its_shortest_decimal(value: float, shown: str) -> None:
    assert repr(shortest_float32(struct.unpack("<f", struct.pack("<f", value))[0])) == shown


@given(st.floats(width=32, allow_nan=False))
def test_the_shortest_decimal_is_the_same_float32(value: float) -> None:
    assert struct.pack("<f", shortest_float32(value)) == struct.pack("<f", value)


# How it says no


def with_tensor(*shape: int, type_: int = files.F32, offset: int = 0, name: str = "w") -> bytes:
    head = header_bytes([], [files.tensor_bytes(name, shape, type_, offset)])
    return head + bytes(-len(head) % 32 + 64)


def with_value(type_number: int, body: bytes) -> bytes:
    return header_bytes([files.string_bytes("k") + struct.pack("<I", type_number) + body], [])


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else [1]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a GGUF file"),
        (b"GGU", "not a GGUF file"),
        (b"PK\x03\x04" + bytes(64), "not a GGUF file"),
        (b"GGUF", "header is truncated: the version"),
        (gguf_bytes(version=1), "version 1 is no longer supported"),
        (gguf_bytes(version=4), "version 4 is not supported"),
        (gguf_bytes(version=0), "version 0 is not supported"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (b"GGUF" + struct.pack("<IQ", 3, 0), "header is truncated: the tensor and key counts"),
        (gguf_bytes(key_count=2**63), "claims 9223372036854775808 keys"),
        (gguf_bytes(tensor_count=2**64 - 1), "claims 18446744073709551615 tensors"),
        (gguf_bytes(key_count=1000), "header is truncated: 1000 keys"),
        (gguf_bytes(tensor_count=1000), "header is truncated: 1000 tensors"),
        (
            header_bytes([files.string_bytes("k", 2**63) + bytes(64)], []),
            "a metadata key has 9223372036854775808",
        ),
        (
            header_bytes([files.string_bytes("k", 60_000) + bytes(64)], []),
            "header is truncated: a metadata key",
        ),
        (gguf_bytes({"": 1}), "a metadata key is empty"),
        (header_bytes([files.key_value_bytes("k", 1)] * 2, []), "key 'k' appears twice"),
        (with_value(13, bytes(64)), "the value of 'k' has the unknown type 13"),
        (with_value(files.STRING, files.string_bytes("abc", 4)), "header is truncated: the value of 'k'"),
        (
            with_value(files.STRING, files.string_bytes("abc", 2**64 - 1)),
            "the value of 'k' has 18446744073709551615",
        ),
        (with_value(files.UINT64, b"1234"), "header is truncated: the value of 'k'"),
        (gguf_bytes({"k": TypedArray(99, [], 0)}), "the value of 'k' has the unknown type 99"),
        (gguf_bytes({"k": TypedArray(files.UINT8, [1], 2**64 - 1)}), "the value of 'k', an array of 1844"),
        (gguf_bytes({"k": TypedArray(files.UINT64, [1], 2)}), "the value of 'k', an array of 2 elements"),
        (
            gguf_bytes({"k": TypedArray(files.STRING, ["abcdefghij"], 2)}),
            "header is truncated: the value of 'k'",
        ),
        (with_value(files.ARRAY, struct.pack("<IQQ", files.STRING, 1, 2**64 - 1)), "header is truncated"),
        (with_value(files.ARRAY, struct.pack("<IQQQ", files.STRING, 2, 2**64 - 1, 0)), "header is truncated"),
        (gguf_bytes({"k": nested(4)}), "nests arrays more than 4 deep"),
        (gguf_bytes({"k": [[]] * 5000}), "nested arrays past 4096"),
        (gguf_bytes({"k": [TypedArray(files.ARRAY, [], 2**40)]}), "header is truncated"),
        (with_tensor(1, 1, 1, 1, 1), "'w' has 5 dimensions"),
        (with_tensor(8, type_=5), "'w' has the unknown type 5"),
        (with_tensor(33, type_=files.Q4_0), "'w' has rows of 33 elements, not a multiple of Q4_0's 32"),
        (with_tensor(type_=files.Q4_0), "'w' has rows of 1 elements"),
        (with_tensor(2**63), "'w' is too large"),
        (with_tensor(2**32, 2**31), "'w' is too large"),
        (with_tensor(2**61, 1), "'w' is too large"),
        (with_tensor(0, 2**63), "'w' is too large"),
        (with_tensor(8, name="n" * 64), "the name of tensor 0 has 64 bytes"),
        (with_tensor(8, offset=4), "'w' begins at 4, not a multiple of the alignment 32"),
        (with_tensor(8, offset=2**63), "tensor data is truncated: tensor 'w'"),
        (with_tensor(17), "tensor data is truncated: tensor 'w' ends at byte 68 of it, the file holds 64"),
        (header_bytes([], [files.tensor_bytes("w", (0,), 0, 0)]), "tensor data is truncated"),
        (TINY[:-1], "tensor data is truncated: tensor 'blk.0.attn_q.weight'"),
        (
            gguf_bytes(tensors={"a": TensorSpec((9,)), "b": TensorSpec((8,), offset=32)}),
            "'b' overlaps tensor 'a'",
        ),
        (gguf_bytes(tensors={"b": TensorSpec((8,)), "a": TensorSpec((8,), offset=0)}), "overlaps tensor"),
        (
            header_bytes([], [files.tensor_bytes("w", (8,), 0, 0)] * 2) + bytes(128),
            "tensor 'w' appears twice",
        ),
        *(
            (gguf_bytes({"general.alignment": value}), "general.alignment must be a power of two")
            for value in (0, 4, 12, 48, 2**17, -8, True, "32", [32])
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "file",
)
def test_a_bad_file_is_refused_with_the_reason(scratch: Path, data: bytes, message: str) -> None:
    with pytest.raises(InvalidGGUF, match=message) as caught:
        parse(scratch, data)
    assert str(scratch.parent) not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("bound", "limit", "metadata"),
    [
        ("MAX_HEADER_BYTES", 100, {"k": "x" * 80}),
        ("MAX_HEADER_BYTES", 100, {"k": TypedArray(files.UINT8, [0] * 80)}),
        ("MAX_STRING_BYTES", 9, {"k": "x" * 10}),
        ("MAX_METADATA", 1, {"a": 1, "b": 2}),
        ("MAX_ARRAY_ELEMENTS", 3, {"a": [1, 2], "b": ["c", "d"]}),
    ],
)
def test_each_bound_holds(
    monkeypatch: pytest.MonkeyPatch, scratch: Path, bound: str, limit: int, metadata: dict[str, Any]
) -> None:
    data = gguf_bytes(metadata)
    parse(scratch, data)
    monkeypatch.setattr(gguf, bound, limit)
    with pytest.raises(InvalidGGUF, match=f"past {limit}|passes byte {limit}|at most {limit}"):
        parse(scratch, data)


def test_a_hostile_key_is_quoted_in_part(scratch: Path) -> None:
    data = header_bytes([files.string_bytes("\x1b[2J" + "k" * 5000) + struct.pack("<I", 77)], [])
    with pytest.raises(InvalidGGUF) as caught:
        parse(scratch, data)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "data",
    [
        gguf_bytes(key_count=2**16) + bytes(2**20),
        gguf_bytes({"k": TypedArray(files.STRING, [], 2**16)}, key_count=2) + bytes(2**20),
        gguf_bytes({"k": TypedArray(files.ARRAY, [TypedArray(files.UINT8, [])] * 4096)}, key_count=2),
    ],
    ids=["keys", "strings", "arrays"],
)
def test_a_hostile_file_needs_little_memory(scratch: Path, data: bytes) -> None:
    scratch.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidGGUF):
            read_gguf(scratch)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


# Fuzzing


@settings(max_examples=300, deadline=None)
@given(
    edits=st.lists(st.tuples(st.integers(0, len(TINY) - 1), st.binary(min_size=1, max_size=8)), max_size=4),
    end=st.integers(0, len(TINY)) | st.just(len(TINY)),
)
def test_a_mutated_file_parses_or_is_refused(scratch: Path, edits: list[tuple[int, bytes]], end: int) -> None:
    data = bytearray(TINY)
    for at, patch in edits:
        data[at : at + len(patch)] = patch
    try:
        header = parse(scratch, bytes(data[:end]))
        for value in header.metadata.values():
            decoded(value)
    except InvalidGGUF:
        pass


def arrays(element_type: int, elements: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(elements, max_size=5).map(lambda values: TypedArray(element_type, values))


FLOATS = st.floats(width=32, allow_nan=False).map(shortest_float32)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = (
    st.booleans() | st.integers(-(2**63), 2**64 - 1) | FLOATS | TEXT
    | st.floats(allow_nan=False).map(lambda value: Typed(files.FLOAT64, value))
    | arrays(files.INT32, st.integers(-(2**31), 2**31 - 1)) | arrays(files.FLOAT32, FLOATS)
    | arrays(files.STRING, TEXT) | arrays(files.BOOL, st.booleans())
    | arrays(files.ARRAY, arrays(files.STRING, TEXT))
)  # fmt: skip


def plain(value: Any) -> Any:
    match value:
        case Typed():
            return value.value
        case TypedArray():
            return [plain(item) for item in value.values]
        case _:
            return value


@settings(max_examples=200, deadline=None)
@given(metadata=st.dictionaries(TEXT.filter(bool), VALUES, max_size=8))
def test_what_is_written_is_read(scratch: Path, metadata: dict[str, Any]) -> None:
    metadata.pop("general.alignment", None)
    header = parse(scratch, gguf_bytes(metadata))
    assert {key: decoded(value) for key, value in header.metadata.items()} == {
        key: plain(value) for key, value in metadata.items()
    }
