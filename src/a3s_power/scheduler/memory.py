"""How much memory a model will take, before anyone has seen it loaded; and how large a context fits."""

import math
from dataclasses import dataclass, replace
from typing import Self

from a3s_power.gguf import GGUF, Array
from a3s_power.runner.base import LoadSpec
from a3s_power.units import MIB

DEFAULT_MAX_CTX = 32768
"""The largest context window nobody asked for, in tokens."""
COMFORTABLE_CTX = 8192
MIN_CTX = 2048
FALLBACK_CTX = 4096

_KV_BYTES = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32,
             "q4_1": 20 / 32, "q4_0": 18 / 32, "iq4_nl": 18 / 32}  # fmt: skip
"""Bytes per element of a KV cache type: bytes of a block over its 32 elements (ggml-common.h)."""

_PROCESS_BYTES = 64 * MIB
"""The interpreter and the engine's code."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """What of a model's header decides how much memory it takes; made once for each model."""

    weights: int
    """Bytes."""
    kv_elements: int
    """Elements of keys and values that one token leaves, in all layers together."""
    vocabulary: int
    width: int
    """Elements of the widest activation of one token."""
    trained_ctx: int | None
    """Tokens the model was trained to see."""

    @classmethod
    def of(cls, gguf: GGUF) -> Self:
        """Reads the file if its layers differ, so not for the event loop."""
        tokens = gguf.metadata.get("tokenizer.ggml.tokens")
        return cls(
            weights=gguf.weights_bytes,
            kv_elements=_kv_elements(gguf),
            vocabulary=len(tokens) if isinstance(tokens, Array) else 0,
            width=max(_int(gguf, "embedding_length", 0), _int(gguf, "feed_forward_length", 0)),
            trained_ctx=gguf.context_length if (gguf.context_length or 0) > 0 else None,
        )


def estimate(model: Footprint, spec: LoadSpec) -> int:
    """Bytes a runner will hold: weights, KV cells, compute buffers, the process itself.

    The buffers were measured on small models to be about the widest activation of a batch, in float32, twice.
    """
    kv_bytes = math.ceil(model.kv_elements * _KV_BYTES.get(spec.kv_cache_type, 2.0))
    compute_bytes = 4 * (model.vocabulary + 2 * spec.num_batch * model.width)
    return _PROCESS_BYTES + model.weights + spec.num_ctx * spec.slots * kv_bytes + compute_bytes


def comfortable(model: Footprint, spec: LoadSpec) -> LoadSpec:
    """The context for which an unasked load makes room, if need be at the cost of idle runners."""
    return replace(spec, num_ctx=min(model.trained_ctx or COMFORTABLE_CTX, COMFORTABLE_CTX))


def largest(model: Footprint, spec: LoadSpec, free: int) -> LoadSpec:
    """With the largest context of the model's own, up to 32k, that fits into `free` bytes; at least 2048."""
    num_ctx = min(model.trained_ctx or FALLBACK_CTX, DEFAULT_MAX_CTX)
    while num_ctx > MIN_CTX and free < estimate(model, replace(spec, num_ctx=num_ctx)):
        num_ctx = max(MIN_CTX, num_ctx // 2)
    return replace(spec, num_ctx=num_ctx)


def _kv_elements(gguf: GGUF) -> int:
    layers = _int(gguf, "block_count", 0)
    heads = max(1, _int(gguf, "attention.head_count", 1))
    head_size = _int(gguf, "embedding_length", 0) // heads
    kv_heads = gguf.arch("attention.head_count_kv", heads)
    if isinstance(kv_heads, Array):  # one count for each layer
        total_heads = sum(count for count in kv_heads if isinstance(count, int))
    else:
        total_heads = layers * (kv_heads if isinstance(kv_heads, int) else heads)
    per_head = _int(gguf, "attention.key_length", head_size) + _int(gguf, "attention.value_length", head_size)
    return total_heads * per_head


def _int(gguf: GGUF, key: str, default: int) -> int:
    value = gguf.arch(key, default)
    return value if isinstance(value, int) else default
