"""How much memory a model will take, before anyone has seen it loaded."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from a3s_power.gguf import GGUF, Array
from a3s_power.runner.base import LoadSpec
from a3s_power.scheduler.placement import Need
from a3s_power.units import MIB

_KV_BYTES = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32,
             "q4_1": 20 / 32, "q4_0": 18 / 32, "iq4_nl": 18 / 32}  # fmt: skip
"""Bytes per element of a KV cache type: bytes of a block over its 32 elements (ggml-common.h)."""

_PROCESS_BYTES = 64 * MIB
"""The interpreter and the engine's code."""

_SWA_PERIOD = {"gemma2": 2, "gemma3": 6, "gemma3n": 5, "gpt-oss": 2, "cohere2": 4, "exaone4": 4, "olmo2": 4,
               "smallthinker": 4, "llama4": 4, "plamo3": 8}  # fmt: skip
"""Architectures of which only one layer in so many sees more than a window (llama.cpp, `set_swa_pattern`)."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """What of a model's header decides how much memory it takes; made once for each model."""

    weights: int
    """Bytes."""
    kv_elements: int
    """Elements of keys and values that one token leaves, in all layers that keep every token."""
    vocabulary: int
    width: int
    """Elements of the widest activation of one token."""
    trained_ctx: int | None
    """Tokens the model was trained to see."""
    window_elements: int = 0
    """As `kv_elements`, in layers that keep only a window."""
    window: int = 0
    """Tokens."""
    draft: "Footprint | None" = None
    """Of the model that drafts for it."""

    @classmethod
    def of(cls, gguf: GGUF, projectors: Sequence[GGUF] = (), draft: GGUF | None = None) -> Self:
        """Reads the file if its layers differ, so not for the event loop."""
        kv_elements, window = _kv_elements(gguf), _int(gguf, "attention.sliding_window", 0)
        windowed = kv_elements - kv_elements // _SWA_PERIOD.get(gguf.architecture, 1) if window > 0 else 0
        tokens = gguf.metadata.get("tokenizer.ggml.tokens")
        return cls(
            weights=gguf.weights_bytes + sum(projector.weights_bytes for projector in projectors),
            kv_elements=kv_elements - windowed,
            vocabulary=len(tokens) if isinstance(tokens, Array) else 0,
            width=max(_int(gguf, "embedding_length", 0), _int(gguf, "feed_forward_length", 0)),
            trained_ctx=gguf.context_length if (gguf.context_length or 0) > 0 else None,
            window_elements=windowed,
            window=window,
            draft=None if draft is None else cls.of(draft),
        )


def estimate(model: Footprint, spec: LoadSpec) -> Need:
    """What a runner will hold: weights, KV cells, compute buffers, the process itself.

    A draft has a cell for each of the model's, and buffers of its own.
    """
    loaded = [model] if spec.draft_path is None or model.draft is None else [model, model.draft]
    return Need(_PROCESS_BYTES, sum(_held(part, spec) for part in loaded))


def _held(model: Footprint, spec: LoadSpec) -> int:
    """Bytes of one model's weights, cells and buffers.

    The buffers were measured on small models to be about the widest activation of a batch, in float32, twice.
    """
    bytes_each = _KV_BYTES.get(spec.kv_cache_type, 2.0)
    in_window = min(spec.pool, model.window * spec.slots + spec.num_batch)
    kv_bytes = math.ceil((spec.pool * model.kv_elements + in_window * model.window_elements) * bytes_each)
    compute_bytes = 4 * (model.vocabulary + 2 * spec.num_batch * model.width)
    return model.weights + kv_bytes + compute_bytes


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
    return max(0, total_heads * per_head)


def _int(gguf: GGUF, key: str, default: int) -> int:
    value = gguf.arch(key, default)
    return value if isinstance(value, int) and value >= 0 else default
