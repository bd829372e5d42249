"""How much memory a model will take, before anyone has seen it loaded; and how large a context fits."""

import math

from a3s_power.gguf import GGUF, Array
from a3s_power.units import MIB

DEFAULT_MAX_CTX = 32768
"""The largest context window nobody asked for, in tokens."""
MIN_CTX = 2048
FALLBACK_CTX = 4096

_KV_BYTES = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32,
             "q4_1": 20 / 32, "q4_0": 18 / 32, "iq4_nl": 18 / 32}  # fmt: skip
"""Bytes per element of a KV cache type: bytes of a block over its 32 elements (ggml-common.h)."""

_PROCESS_BYTES = 64 * MIB
"""The interpreter and the engine's code."""


def estimate(gguf: GGUF, *, num_ctx: int, slots: int, num_batch: int, kv_cache_type: str) -> int:
    """Bytes a runner of this model will hold: weights, KV cells, compute buffers, the process itself."""
    return (
        _PROCESS_BYTES
        + gguf.weights_bytes
        + num_ctx * slots * kv_bytes_per_token(gguf, kv_cache_type)
        + _compute_bytes(gguf, num_batch)
    )


def kv_bytes_per_token(gguf: GGUF, kv_cache_type: str) -> int:
    """Bytes of keys and values that one token leaves in all layers together."""
    layers = _int(gguf, "block_count", 0)
    heads = max(1, _int(gguf, "attention.head_count", 1))
    head_size = _int(gguf, "embedding_length", 0) // heads
    kv_heads = gguf.arch("attention.head_count_kv", heads)
    if isinstance(kv_heads, Array):  # one count for each layer
        total_heads = sum(count for count in kv_heads if isinstance(count, int))
    else:
        total_heads = layers * (kv_heads if isinstance(kv_heads, int) else heads)
    per_head = _int(gguf, "attention.key_length", head_size) + _int(gguf, "attention.value_length", head_size)
    return math.ceil(total_heads * per_head * _KV_BYTES.get(kv_cache_type, 2.0))


def _compute_bytes(gguf: GGUF, num_batch: int) -> int:
    """Activations of one batch: measured on small models to be about the widest layer, in float32, twice."""
    vocabulary = gguf.metadata.get("tokenizer.ggml.tokens")
    n_vocab = len(vocabulary) if isinstance(vocabulary, Array) else 0
    widest = max(_int(gguf, "embedding_length", 0), _int(gguf, "feed_forward_length", 0))
    return 4 * (n_vocab + 2 * num_batch * widest)


def default_ctx(gguf: GGUF, *, slots: int, num_batch: int, kv_cache_type: str, free: int) -> int:
    """The largest of the model's own context, up to 32k, that fits into `free` bytes; at least 2048 or its own."""
    num_ctx = min(gguf.context_length or FALLBACK_CTX, DEFAULT_MAX_CTX)
    while num_ctx > MIN_CTX and free < estimate(
        gguf, num_ctx=num_ctx, slots=slots, num_batch=num_batch, kv_cache_type=kv_cache_type
    ):
        num_ctx //= 2
    return num_ctx


def _int(gguf: GGUF, key: str, default: int) -> int:
    value = gguf.arch(key, default)
    return value if isinstance(value, int) else default
