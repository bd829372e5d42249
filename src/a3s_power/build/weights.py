"""Weights as bytes of one type or another, in memory: what a quantised model's tensors are made of."""

from typing import TypeAlias

import libgguf
import numpy as np

from a3s_power.ggml_types import TENSOR_TYPES

Weights: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.float32]]"

_SCALES = {"Q8_0": (0,), "Q5_0": (0,), "Q5_1": (0, 2), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
"""Type → where the float16 scales of a block are, in bytes from its beginning (`ggml-common.h`)."""

_BLOCK_BYTES = {type_.name: type_.block_bytes for type_ in TENSOR_TYPES.values()}
_INFINITY = {"F16": 0x7C00, "BF16": 0x7F80}
"""Types of two bytes → from where on their bits, but for the sign, are no finite number."""


def packed(data: bytes, source: str, target: str) -> bytes:
    """Weights of one type as another has them, block for block as llama.cpp makes them."""
    weights = _unpacked(data, source)
    return bytes(libgguf.quantize_rows(weights.reshape(1, -1), libgguf.GGMLQuantizationType[target]))


def are_finite(data: bytes | bytearray, type_: str) -> bool:
    """Whether no weight, and no scale of one, is infinite or no number: llama.cpp's `ggml_validate_row_data`."""
    match type_:
        case "F32":
            return bool(np.isfinite(np.frombuffer(data, "<f4")).all())
        case "F16" | "BF16":  # as integers: numpy's isfinite takes 15 times as long for these
            return bool((np.frombuffer(data, "<u2") & 0x7FFF).max(initial=0) < _INFINITY[type_])
    blocks = np.frombuffer(data, np.uint8).reshape(-1, _BLOCK_BYTES[type_])
    scales = [np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2") for at in _SCALES[type_]]
    return all(bool(np.isfinite(each).all()) for each in scales)


def _unpacked(data: bytes, type_: str) -> Weights:
    match type_:
        case "F16":
            return np.frombuffer(data, "<f2").astype(np.float32)
        case "BF16":
            return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, "<f4")
