"""Writes tiny GGUF files (version 3, little endian), well-formed or wrong in just the way a test needs.

It shares nothing with `a3s_power.gguf`, so that a mistake there cannot hide here.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

UINT8, INT8, UINT16, INT16, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64, INT64, FLOAT64 = range(13)
F32, F16, Q4_0, Q8_0, Q4_K = 0, 1, 2, 8, 12

_LETTERS = {
    UINT8: "B", INT8: "b", UINT16: "H", INT16: "h", UINT32: "I", INT32: "i", FLOAT32: "f", BOOL: "?",
    UINT64: "Q", INT64: "q", FLOAT64: "d",
}  # fmt: skip
_BLOCKS = {F32: (1, 4), F16: (1, 2), Q4_0: (32, 18), Q8_0: (32, 34), Q4_K: (256, 144)}


@dataclass(frozen=True, slots=True)
class Typed:
    """A metadata value of an explicit type: `Typed(UINT8, 7)`. For ARRAY, a list of one inferred type."""

    type: int
    value: Any


@dataclass(frozen=True, slots=True)
class TypedArray:
    """An array of an explicit element type, which even an empty one needs. `length` may lie."""

    element_type: int
    values: list[Any]
    length: int | None = None


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor. Its data are zeros; `offset` and `size_bytes` are computed unless they are to be wrong."""

    shape: tuple[int, ...]
    type: int = F32
    offset: int | None = None
    size_bytes: int | None = None


def write_gguf(path: Path, *args: Any, **kwargs: Any) -> Path:
    """Write `gguf_bytes(...)` to `path` and return it."""
    path.write_bytes(gguf_bytes(*args, **kwargs))
    return path


def gguf_bytes(
    metadata: Mapping[str, Any] | None = None,
    tensors: Mapping[str, TensorSpec] | None = None,
    *,
    alignment: int = 32,
    **header: Any,
) -> bytes:
    """A whole file. `header` goes to `header_bytes`; `alignment` is not written into the metadata."""
    infos, data = [], b""
    for name, spec in (tensors or {}).items():
        offset = len(data) if spec.offset is None else spec.offset
        infos.append(tensor_bytes(name, spec.shape, spec.type, offset))
        size_bytes = _size_bytes(spec) if spec.size_bytes is None else spec.size_bytes
        data += bytes(_padded(size_bytes, alignment))
    key_values = [key_value_bytes(key, value) for key, value in (metadata or {}).items()]
    head = header_bytes(key_values, infos, **header)
    return head + bytes(_padded(len(head), alignment) - len(head)) + data if infos else head


def header_bytes(
    key_values: list[bytes],
    tensors: list[bytes],
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    key_count: int | None = None,
    tensor_count: int | None = None,
) -> bytes:
    """A header of ready-made parts, whose counts may lie."""
    counts = (
        len(tensors) if tensor_count is None else tensor_count,
        len(key_values) if key_count is None else key_count,
    )
    return magic + struct.pack("<IQQ", version, *counts) + b"".join(key_values) + b"".join(tensors)


def key_value_bytes(key: str, value: Any) -> bytes:
    """`bool`, `int`, `float`, `str` and lists get the type a converter would choose."""
    return string_bytes(key) + struct.pack("<I", type_of(value)) + value_bytes(value)


def tensor_bytes(name: str, shape: tuple[int, ...], type_: int, offset: int) -> bytes:
    """One entry of the tensor index."""
    numbers = struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, type_, offset)
    return string_bytes(name) + numbers


def string_bytes(text: str | bytes, length: int | None = None) -> bytes:
    """A length-prefixed string. `length` may lie."""
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(data) if length is None else length) + data


def value_bytes(value: Any) -> bytes:
    """A value without its type."""
    match value:
        case Typed(type=type_, value=inner) if type_ in _LETTERS:
            return struct.pack("<" + _LETTERS[type_], inner)
        case Typed(value=inner):
            return value_bytes(inner)
        case TypedArray():
            length = len(value.values) if value.length is None else value.length
            body = (value_bytes(_as(value.element_type, item)) for item in value.values)
            return struct.pack("<IQ", value.element_type, length) + b"".join(body)
        case list():
            return value_bytes(TypedArray(type_of(value[0]) if value else STRING, value))
        case str() | bytes():
            return string_bytes(value)
        case _:
            return struct.pack("<" + _LETTERS[type_of(value)], value)


def type_of(value: Any) -> int:
    """The number of the type that `value` is written as."""
    match value:
        case Typed():
            return value.type
        case list() | TypedArray():
            return ARRAY
        case str() | bytes():
            return STRING
        case bool():
            return BOOL
        case float():
            return FLOAT32
        case int():
            return UINT32 if 0 <= value < 2**32 else UINT64 if value > 0 else INT64
    raise TypeError(value)


def _as(element_type: int, item: Any) -> Any:
    return Typed(element_type, item) if element_type in _LETTERS else item


def _size_bytes(spec: TensorSpec) -> int:
    elements, size = _BLOCKS[spec.type]
    count = 1
    for dimension in spec.shape:
        count *= dimension
    return count // elements * size


def _padded(size_bytes: int, alignment: int) -> int:
    return -(-size_bytes // alignment) * alignment
