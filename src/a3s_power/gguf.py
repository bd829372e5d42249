"""The header of a GGUF file: its metadata and the index of its tensors, never the weights.

The format is ggml's `docs/gguf.md`, versions 2 and 3, little endian; the numbers of value types are those of
llama.cpp's `gguf.h`. Whoever made the file is not trusted: every count, length and offset is checked
against a named bound and against the bytes that are left before anything is looped over or allocated.
"""

import math
import os
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple, TypeAlias, TypeVar

from a3s_power.errors import InvalidGGUF
from a3s_power.ggml_types import FILE_TYPES, TENSOR_TYPES, TensorType

MAX_HEADER_BYTES = 128 * 2**20  # a vocabulary of 256k tokens and its merges make 11 MiB
MAX_STRING_BYTES = 64 * 2**20  # one value: some files embed a whole tokenizer.json
MAX_KEY_BYTES = 2**16 - 1  # the format's own limit
MAX_TENSOR_NAME_BYTES = 63  # GGML_MAX_NAME less its NUL: llama.cpp loads no longer one
MAX_METADATA = 2**16  # keys
MAX_TENSORS = 2**16
MAX_DIMENSIONS = 4  # GGML_MAX_DIMS
MAX_ARRAY_ELEMENTS = 2**23  # all arrays of a file together
MAX_NESTED_ARRAYS = 2**12  # arrays inside arrays, all of a file together; llama.cpp takes none
MAX_ARRAY_DEPTH = 4
MAX_ALIGNMENT = 2**16  # bytes
DEFAULT_ALIGNMENT = 32

_T = TypeVar("_T")

_INT64_MAX = 2**63 - 1
_SPLIT_NAME = re.compile(r"(.*)-([0-9]{5})-of-([0-9]{5})\.gguf")
_WINDOW_BYTES = 2**18
_SMALLEST_NORMAL_FLOAT32 = 2.0**-126


class ValueType(IntEnum):
    """The number of a metadata value's type in the file."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


# fmt: off
_FORMATS = {  # of the module `struct`
    ValueType.UINT8: "B", ValueType.UINT16: "H", ValueType.UINT32: "I", ValueType.UINT64: "Q",
    ValueType.INT8: "b",  ValueType.INT16: "h",  ValueType.INT32: "i",  ValueType.INT64: "q",
    ValueType.BOOL: "?",  ValueType.FLOAT32: "f", ValueType.FLOAT64: "d",
}
# fmt: on
_ELEMENT_BYTES = {  # at least, for strings and arrays
    **{type_: struct.calcsize("<" + letter) for type_, letter in _FORMATS.items()},
    ValueType.STRING: 8,
    ValueType.ARRAY: 12,
}
_MIN_KEY_VALUE_BYTES = 8 + 1 + 4 + 1
_MIN_TENSOR_BYTES = 8 + 4 + 4 + 8

Scalar: TypeAlias = bool | int | float | str
Element: TypeAlias = "Scalar | list[Element]"


@dataclass(frozen=True, slots=True)
class Array:
    """Where an array value lies in its file. `len()` is free; its elements are read when asked for.

    Only the place is kept: a vocabulary is megabytes that few callers look at, and reading them again is a
    small part of decoding them.
    """

    element_type: ValueType
    length: int
    path: Path = field(repr=False)
    offset: int  # bytes from the start of the file to the first element
    size_bytes: int

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Element]:
        return iter(self.decode())

    def decode(self) -> list[Element]:
        """The elements as Python values, inner arrays as lists. Blocks: it opens the file again.

        Raises InvalidGGUF if the file has changed since, OSError if it is gone.
        """
        with self.path.open("rb") as file:
            header = _Header(file, self.path, position=self.offset)
            if self.element_type is ValueType.ARRAY:
                return [header.array("an inner array", depth=1).decode() for _ in range(self.length)]
            data = header.take(self.size_bytes, "an array")
        if self.element_type is ValueType.STRING:
            return list(_strings(data, self.length))
        values = struct.unpack(f"<{self.length}{_FORMATS[self.element_type]}", data)
        if self.element_type is ValueType.FLOAT32:
            return [shortest_float32(value) for value in values]
        return list(values)


Value: TypeAlias = Scalar | Array


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor's entry in the index. `shape` is in GGUF's order: dimension 0 is contiguous in memory."""

    name: str
    type: str  # a name in TENSOR_TYPES, such as "Q4_K"
    shape: tuple[int, ...]
    offset: int  # bytes from GGUF.data_offset
    size_bytes: int

    @property
    def element_count(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class GGUF:
    """A whole and consistent header: every tensor named here lies inside the file and overlaps no other.

    A float32 in `metadata` is as `shortest_float32` makes it: its `repr` is what a float32 prints as.
    """

    version: int
    metadata: Mapping[str, Value]
    tensors: tuple[Tensor, ...]
    data_offset: int  # bytes from the start of the file to the tensor data
    file_size: int  # bytes

    def arch(self, key: str, default: Value | None = None) -> Value | None:
        """The value of `{architecture}.{key}`, for example `arch("block_count")`."""
        return self.metadata.get(f"{self.architecture}.{key}", default)

    @property
    def architecture(self) -> str:
        """`general.architecture`, such as "llama"; "" if there is none."""
        return _as_str(self.metadata.get("general.architecture")) or ""

    @property
    def alignment(self) -> int:
        """Bytes: the tensor data and each tensor in them begin at a multiple of it."""
        return _alignment(self.metadata)

    @property
    def chat_template(self) -> str | None:
        """The Jinja source of the model's own chat template."""
        return _as_str(self.metadata.get("tokenizer.chat_template"))

    @property
    def context_length(self) -> int | None:
        """The most tokens the model was trained to see at once."""
        return _as_int(self.arch("context_length"))

    @property
    def embedding_length(self) -> int | None:
        return _as_int(self.arch("embedding_length"))

    @property
    def file_type_name(self) -> str:
        """How most of the weights are quantised: "Q4_K_M"; "unknown" if the file does not say it clearly."""
        number = _as_int(self.metadata.get("general.file_type"))
        return "unknown" if number is None else FILE_TYPES.get(number, "unknown")

    @property
    def is_adapter(self) -> bool:
        """Whether these are changes to another model's weights."""
        return self.metadata.get("general.type") == "adapter"

    @property
    def is_aid(self) -> bool:
        """Whether it only helps to make or to steer a model: an importance matrix, a control vector."""
        return self.metadata.get("general.type") == "imatrix" or self.architecture == "controlvector"

    @property
    def is_projector(self) -> bool:
        """Whether it is the part of a model that sees or hears, by Ollama's rules (`server/create.go`)."""
        has_blocks = bool(self.arch("block_count"))
        encodes = any(self.arch(key) for key in ("has_vision_encoder", "has_audio_encoder"))
        return (
            self.metadata.get("general.type") in {"projector", "mmproj"}
            or (bool(self.arch("vision.block_count")) and not has_blocks)
            or (self.architecture == "clip" and not has_blocks and encodes)
        )

    @property
    def parameter_count(self) -> int:
        """Elements of all tensors together."""
        return sum(tensor.element_count for tensor in self.tensors)

    @property
    def weights_bytes(self) -> int:
        """Bytes of all tensors together, without padding."""
        return sum(tensor.size_bytes for tensor in self.tensors)


@dataclass(frozen=True, slots=True)
class SplitName:
    """A shard's file name taken apart. `index` is from 0, as everywhere but in the name."""

    prefix: str
    index: int
    count: int


def split_name(file_name: str) -> SplitName | None:
    """`SplitName("m", 0, 3)` of `m-00001-of-00003.gguf`, in whatever folder; None if it is no such name."""
    match = _SPLIT_NAME.fullmatch(PurePosixPath(file_name).name)
    if not match or not (number := int(match[2])):
        return None
    return SplitName(match[1], number - 1, int(match[3]))


class Span(NamedTuple):
    """A stretch of a file, in bytes from its start."""

    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Layout:
    """A header and where its entries lie in the file, for those who copy them byte for byte."""

    gguf: GGUF
    key_values: Mapping[str, Span]
    """By key; each with its key and type."""
    tensors: Mapping[str, Span]
    """By name: the entries of the index, each of which ends with the tensor's offset, a uint64."""


def read_gguf(path: Path) -> GGUF:
    """Read and check the header of the file at `path`. Blocks, so call it on a thread.

    Raises InvalidGGUF, in words that name the key or tensor at fault and never the path; OSError if the file
    cannot be read.
    """
    return read_layout(path).gguf


def read_layout(path: Path) -> Layout:
    """What `read_gguf` reads, and where it stood. Blocks and raises like it."""
    with path.open("rb") as file:
        header = _Header(file, path)
        version = _read_version(header)
        tensor_count, key_count = header.unpack("QQ", "the tensor and key counts")
        header.check_count(tensor_count, "tensors", MAX_TENSORS, _MIN_TENSOR_BYTES)
        header.check_count(key_count, "keys", MAX_METADATA, _MIN_KEY_VALUE_BYTES)
        metadata, key_values = _entries(header, (header.key_value() for _ in range(key_count)), "key")
        alignment = _alignment(metadata)
        index, entries = _entries(header, (header.tensor(number) for number in range(tensor_count)), "tensor")
    tensors = tuple(index.values())
    data_offset = -(-header.position // alignment) * alignment if tensors else header.position
    _check_layout(tensors, alignment, header.file_size - data_offset)
    return Layout(GGUF(version, metadata, tensors, data_offset, header.file_size), key_values, entries)


def shortest_float32(value: float) -> float:
    """The float that prints with the fewest digits among those that round to the same float32.

    `value` must be exactly a float32: 9.999999747378752e-06 gives 1e-05. NaN and infinities pass through.
    """
    if not math.isfinite(value) or (value.is_integer() and abs(value) < 2**24):
        return value
    # Six digits survive a trip through a float32 and "g" drops their zeros: only subnormals may need fewer.
    for digits in range(1 if abs(value) < _SMALLEST_NORMAL_FLOAT32 else 6, 9):
        candidate = float(f"{value:.{digits}g}")
        if struct.unpack("<f", struct.pack("<f", candidate))[0] == value:
            return candidate
    return float(f"{value:.9g}")


class _Header:
    """A cursor that only moves forward and checks each step against the end of the file.

    It reads through a window, not an mmap: truncating a mapped file would kill the process (SIGBUS).
    """

    def __init__(self, file: BinaryIO, path: Path, position: int = 0) -> None:
        self.file_size = os.fstat(file.fileno()).st_size
        self.position = position
        self._file = file
        self._path = path
        self._window = b""
        self._window_start = position
        self._elements = 0
        self._nested_arrays = 0

    def take(self, size_bytes: int, what: str) -> bytes:
        start = self._load(size_bytes, what)
        self.position += size_bytes
        return self._window[start : start + size_bytes]

    def unpack(self, letters: str, what: str) -> tuple[Any, ...]:
        layout = "<" + letters
        return struct.unpack(layout, self.take(struct.calcsize(layout), what))

    def text(self, limit_bytes: int, what: str) -> str:
        (length,) = self.unpack("Q", what)
        if length > limit_bytes:
            raise InvalidGGUF(f"{what} has {length} bytes, at most {limit_bytes} are allowed")
        return self.take(length, what).decode("utf-8", "replace")

    def check_count(self, count: int, what: str, limit: int, min_bytes: int) -> None:
        """Refuse a count that is over its bound or cannot fit what is left of the file."""
        if count > limit:
            raise InvalidGGUF(f"the file claims {count} {what}, at most {limit} are allowed")
        self._require(count * min_bytes, f"{count} {what}")

    def key_value(self) -> tuple[str, Value]:
        key = self.text(MAX_KEY_BYTES, "a metadata key")
        if not key:
            raise InvalidGGUF("a metadata key is empty")
        what = f"the value of {_quote(key)}"
        match self._value_type(what):
            case ValueType.STRING:
                return key, self.text(MAX_STRING_BYTES, what)
            case ValueType.ARRAY:
                return key, self.array(what, depth=1)
            case ValueType.FLOAT32:
                return key, shortest_float32(self.unpack("f", what)[0])
            case scalar:
                return key, self.unpack(_FORMATS[scalar], what)[0]

    def array(self, what: str, depth: int) -> Array:
        if depth > MAX_ARRAY_DEPTH:
            raise InvalidGGUF(f"{what} nests arrays more than {MAX_ARRAY_DEPTH} deep")
        element_type = self._value_type(what)
        (length,) = self.unpack("Q", what)
        self._require(length * _ELEMENT_BYTES[element_type], f"{what}, an array of {length} elements,")
        self._elements += length
        if self._elements > MAX_ARRAY_ELEMENTS:
            raise InvalidGGUF(f"{what} takes the file's arrays past {MAX_ARRAY_ELEMENTS} elements")
        offset = self.position
        match element_type:
            case ValueType.STRING:
                self._skip_strings(length, what)
            case ValueType.ARRAY:
                self._skip_arrays(length, what, depth + 1)
            case _:
                self.position += length * _ELEMENT_BYTES[element_type]
        return Array(element_type, length, self._path, offset, self.position - offset)

    def tensor(self, number: int) -> tuple[str, Tensor]:
        name = self.text(MAX_TENSOR_NAME_BYTES, f"the name of tensor {number}")
        what = f"tensor {_quote(name)}"
        (dimensions,) = self.unpack("I", what)
        if dimensions > MAX_DIMENSIONS:
            raise InvalidGGUF(f"{what} has {dimensions} dimensions, at most {MAX_DIMENSIONS} are allowed")
        *shape, type_number, offset = self.unpack(f"{dimensions}QIQ", what)
        if type_number not in TENSOR_TYPES:
            raise InvalidGGUF(f"{what} has the unknown type {type_number}")
        type_ = TENSOR_TYPES[type_number]
        return name, Tensor(name, type_.name, tuple(shape), offset, _tensor_bytes(what, shape, type_))

    def _value_type(self, what: str) -> ValueType:
        (number,) = self.unpack("I", what)
        try:
            return ValueType(number)
        except ValueError:
            raise InvalidGGUF(f"{what} has the unknown type {number}") from None

    def _skip_strings(self, count: int, what: str) -> None:
        """Step over `count` strings: a large vocabulary has half a million, at some 50 ns each."""
        length_at = struct.Struct("<Q").unpack_from
        while count:
            at = self._load(8, what)
            window = self._window
            try:
                for left in range(count, 0, -1):  # noqa: B007  (read when the loop breaks off)
                    at += 8 + length_at(window, at)[0]
                count = 0
            except (struct.error, OverflowError):  # the next string begins outside the window
                count = left
            self.position = self._window_start + at
        self._require(0, what)

    def _skip_arrays(self, count: int, what: str, depth: int) -> None:
        self._nested_arrays += count
        if self._nested_arrays > MAX_NESTED_ARRAYS:
            raise InvalidGGUF(f"{what} takes the file's nested arrays past {MAX_NESTED_ARRAYS}")
        for _ in range(count):
            self.array(what, depth)

    def _require(self, size_bytes: int, what: str) -> None:
        end = self.position + size_bytes
        if end > self.file_size:
            raise InvalidGGUF(
                f"the header is truncated: {what} should reach at least byte {end}, "
                f"the file ends at {self.file_size}"
            )
        if end > MAX_HEADER_BYTES:
            raise InvalidGGUF(f"the header is too large: {what} passes byte {MAX_HEADER_BYTES}")

    def _load(self, size_bytes: int, what: str) -> int:
        """Make sure that the window holds the next `size_bytes`; where in it they begin."""
        self._require(size_bytes, what)
        start = self.position - self._window_start
        if start + size_bytes <= len(self._window):
            return start
        self._file.seek(self.position)
        self._window = self._file.read(max(size_bytes, _WINDOW_BYTES))
        self._window_start = self.position
        if len(self._window) < size_bytes:
            raise InvalidGGUF(f"the file became shorter while {what} was read")
        return 0


def _read_version(header: _Header) -> int:
    if header.file_size < 4 or header.take(4, "the magic") != b"GGUF":
        raise InvalidGGUF('not a GGUF file: it does not begin with "GGUF"')
    version: int = header.unpack("I", "the version")[0]
    if version in (2, 3):
        return version
    if version and not version & 0xFFFF:
        raise InvalidGGUF("a big-endian GGUF file: only little-endian ones are supported")
    if version == 1:
        raise InvalidGGUF("GGUF version 1 is no longer supported, convert the model again")
    raise InvalidGGUF(f"GGUF version {version} is not supported, only 2 and 3 are")


def _alignment(metadata: Mapping[str, Value]) -> int:
    alignment = _as_int(metadata.get("general.alignment", DEFAULT_ALIGNMENT)) or 0
    if not 8 <= alignment <= MAX_ALIGNMENT or alignment.bit_count() != 1:
        raise InvalidGGUF(f"general.alignment must be a power of two from 8 to {MAX_ALIGNMENT}")
    return alignment


def _tensor_bytes(what: str, shape: Sequence[int], type_: TensorType) -> int:
    row = shape[0] if shape else 1
    if row % type_.block_elements:
        raise InvalidGGUF(
            f"{what} has rows of {row} elements, not a multiple of {type_.name}'s {type_.block_elements}"
        )
    size_bytes = math.prod(shape) // type_.block_elements * type_.block_bytes
    if max(size_bytes, math.prod(shape), *shape, 0) > _INT64_MAX:
        raise InvalidGGUF(f"{what} is too large: its shape is {list(shape)}")
    return size_bytes


def _check_layout(tensors: Iterable[Tensor], alignment: int, data_bytes: int) -> None:
    end, previous = 0, ""
    for tensor in sorted(tensors, key=lambda tensor: (tensor.offset, tensor.size_bytes)):
        what = f"tensor {_quote(tensor.name)}"
        if tensor.offset % alignment:
            raise InvalidGGUF(f"{what} begins at {tensor.offset}, not a multiple of the alignment {alignment}")
        if tensor.offset < end:
            raise InvalidGGUF(f"{what} overlaps tensor {_quote(previous)}")
        end, previous = tensor.offset + tensor.size_bytes, tensor.name
        if end > data_bytes:
            raise InvalidGGUF(
                f"the tensor data is truncated: {what} ends at byte {end} of it, "
                f"the file holds {max(data_bytes, 0)}"
            )


def _entries(
    header: _Header, entries: Iterable[tuple[str, _T]], what: str
) -> tuple[dict[str, _T], dict[str, Span]]:
    """What `entries` read from `header`, by name, and from where to where each reached."""
    found: dict[str, _T] = {}
    spans: dict[str, Span] = {}
    start = header.position
    for name, value in entries:
        if name in found:
            raise InvalidGGUF(f"{what} {_quote(name)} appears twice")
        found[name], spans[name] = value, Span(start, header.position - start)
        start = header.position
    return found, spans


def _strings(data: bytes, count: int) -> Iterator[str]:
    at = 0
    for _ in range(count):
        if at + 8 > len(data):
            raise InvalidGGUF("an array changed while it was read")
        start = at + 8
        at = start + int.from_bytes(data[at:start], "little")
        yield data[start:at].decode("utf-8", "replace")


def _quote(name: str) -> str:
    return repr(name if len(name) <= 80 else name[:80] + "…")


def _as_int(value: Value | None) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _as_str(value: Value | None) -> str | None:
    return value if isinstance(value, str) else None
