"""A small model without meaning, whose layers cost what those of a real one do.

A Llama of half a billion parameters with a third of its layers, so that it works fast and weighs little. With
narrower ones threads would wait for each other more than in the models that people use. All weights are zeros:
what an engine does, and how long that takes, does not depend on them. Format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, version 3.
"""

import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path

LAYERS, WIDTH, FEED_FORWARD, HEADS, KV_HEADS = 8, 1152, 3072, 18, 6

_UNKNOWN, _CONTROL, _BYTE = 2, 3, 6  # llama.cpp's types of tokens
_VOCABULARY = [("<unk>", _UNKNOWN), ("<s>", _CONTROL), ("</s>", _CONTROL)]
_VOCABULARY += [(f"<0x{byte:02X}>", _BYTE) for byte in range(256)]

_ALIGNMENT = 32
_UINT32, _INT32, _FLOAT32, _STRING, _ARRAY = 4, 5, 6, 8, 9
_F32, _Q8_0 = 0, 8
_BLOCKS = {_F32: (1, 4), _Q8_0: (32, 34)}
"""Type of a tensor → elements of a block, and its bytes."""

Value = int | float | str | Sequence[int] | Sequence[float] | Sequence[str]


def token_of(letter: str) -> int:
    """The token of one ASCII letter."""
    return [text for text, _ in _VOCABULARY].index(f"<0x{ord(letter):02X}>")


def write_model(path: Path) -> None:
    """Write about 120 MB; where the file system knows holes, they take no room on the disk."""
    metadata, tensors = _metadata(), dict(_tensors())
    index, size = b"", 0
    for name, (type_, shape) in tensors.items():
        index += _string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, type_, size)
        elements, block_bytes = _BLOCKS[type_]
        size += _aligned(prod(shape) // elements * block_bytes)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    head += b"".join(_string(key) + _typed(value) for key, value in metadata.items()) + index
    with path.open("wb") as file:
        file.write(head)
        os.truncate(file.fileno(), _aligned(len(head)) + size)


def _metadata() -> Mapping[str, Value]:
    return {
        "general.architecture": "llama",
        "llama.context_length": 2048,
        "llama.embedding_length": WIDTH,
        "llama.feed_forward_length": FEED_FORWARD,
        "llama.block_count": LAYERS,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV_HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [text for text, _ in _VOCABULARY],
        "tokenizer.ggml.scores": [0.0] * len(_VOCABULARY),
        "tokenizer.ggml.token_type": [type_ for _, type_ in _VOCABULARY],
    }


def _tensors() -> Iterator[tuple[str, tuple[int, tuple[int, ...]]]]:
    kv_width = WIDTH // HEADS * KV_HEADS
    yield "token_embd.weight", (_Q8_0, (WIDTH, len(_VOCABULARY)))
    for layer in range(LAYERS):
        for name, rows, columns in (
            ("attn_q", WIDTH, WIDTH),
            ("attn_k", WIDTH, kv_width),
            ("attn_v", WIDTH, kv_width),
            ("attn_output", WIDTH, WIDTH),
            ("ffn_gate", WIDTH, FEED_FORWARD),
            ("ffn_up", WIDTH, FEED_FORWARD),
            ("ffn_down", FEED_FORWARD, WIDTH),
        ):
            yield f"blk.{layer}.{name}.weight", (_Q8_0, (rows, columns))
        for name in ("attn_norm", "ffn_norm"):
            yield f"blk.{layer}.{name}.weight", (_F32, (WIDTH,))
    yield "output_norm.weight", (_F32, (WIDTH,))


def _typed(value: Value) -> bytes:
    match value:
        case str():
            return struct.pack("<I", _STRING) + _string(value)
        case int():
            return struct.pack("<II", _UINT32, value)
        case float():
            return struct.pack("<If", _FLOAT32, value)
    return struct.pack("<I", _ARRAY) + _array(value)


def _array(values: Sequence[int] | Sequence[float] | Sequence[str]) -> bytes:
    match values[0]:
        case str():
            type_, body = _STRING, b"".join(_string(str(text)) for text in values)
        case int():
            type_, body = _INT32, struct.pack(f"<{len(values)}i", *values)
        case _:
            type_, body = _FLOAT32, struct.pack(f"<{len(values)}f", *values)
    return struct.pack("<IQ", type_, len(values)) + body


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
