"""Tiny models to quantise, each there for some of llama.cpp's rules: the same bytes on every machine.

Only their names, shapes and settings count: none would run. What llama.cpp makes of them is in `tests/data/quantize`.
"""

import hashlib
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np

from tests.support.gguf_files import F16, F32, header_bytes, key_value_bytes, tensor_bytes

MIXES = ("Q4_K_S", "Q4_K_M")
PACKED = ("Q8_0", *MIXES)
ALL = ("F32", "F16", "BF16", *PACKED)
DIGEST_LETTERS = 16
"""Of a SHA-256 in hexadecimal: enough to tell a mistake, few enough to keep a file of thousands small."""

_ALIGNMENT = 32
_BF16 = 30
_TYPES = {"F32": F32, "F16": F16, "BF16": _BF16}
_FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32}

Shape = tuple[int, ...]


class Case(NamedTuple):
    """One quantisation: of a source with its matrices in one type, to a target."""

    source: str
    type: str
    target: str

    def __str__(self) -> str:
        return f"{self.source}, {self.type} to {self.target}"


@dataclass(frozen=True, slots=True)
class Source:
    """A model that is not quantised yet. Shapes are in GGUF's order, a row's width first."""

    arch: str
    tensors: Mapping[str, Shape]
    settings: dict[str, Any] = field(default_factory=dict)
    """Metadata beside `_SETTINGS` and over them, without the architecture's prefix. None is left out."""
    types: tuple[str, ...] = ("F16",)
    targets: tuple[str, ...] = MIXES

    @property
    def block_count(self) -> int:
        return 1 + max(int(number) for name in self.tensors for number in re.findall(r"blk\.(\d+)", name))

    def write(self, path: Path, type_: str) -> Path:
        """Write the model to `path`, its matrices as `type_`: F32, F16 or BF16. Vectors are always F32."""
        infos, data = [], b""
        for name, shape in self.tensors.items():
            stored_as = _TYPES[type_] if len(shape) > 1 else F32
            infos.append(tensor_bytes(name, shape, stored_as, len(data)))
            data += _padded(_stored(_weights(name, shape), stored_as))
        settings = _SETTINGS | {"block_count": self.block_count} | self.settings
        metadata = {"general.architecture": self.arch, "general.file_type": _FILE_TYPES[type_]}
        metadata |= {f"{self.arch}.{key}": value for key, value in settings.items() if value is not None}
        key_values = [key_value_bytes(key, value) for key, value in metadata.items()]
        path.write_bytes(_padded(header_bytes(key_values, infos)) + data)
        return path


def digests(path: Path) -> dict[str, str]:
    """Each tensor's type and the beginning of its SHA-256, in the file's order; then what quantising notes down."""
    reader = gguf.GGUFReader(path)
    found = {
        tensor.name: f"{tensor.tensor_type.name} {hashlib.sha256(tensor.data.tobytes()).hexdigest()[:DIGEST_LETTERS]}"
        for tensor in reader.tensors
    }
    notes = ("general.file_type", "general.quantization_version")
    return found | {key: str(entry.contents()) for key in notes if (entry := reader.get_field(key))}


def _weights(name: str, shape: Shape) -> np.ndarray:
    """A tensor's values in float32. By whole numbers alone, which no platform rounds in its own way."""
    seed = zlib.crc32(name.encode())
    rows = np.prod(shape[1:], dtype=int)
    draws = np.random.RandomState(seed).randint(-(2**15), 2**15, size=(3, rows, shape[0]))
    values = (draws.sum(axis=0) * 2.0**-20).astype(np.float32)  # a bell, about ±0.05 wide
    for row in range(rows):
        values[row] = _KINDS[(seed + row) % len(_KINDS)](values[row])
    return values


def _with_outliers(row: np.ndarray) -> np.ndarray:
    return np.where(np.arange(len(row)) % 96 == 7, row * 256, row)


_KINDS = (
    lambda row: row,
    _with_outliers,
    lambda row: row * 0,  # minus zeros among them
    lambda row: row * 2.0**-19,  # subnormal numbers in float16
    lambda row: row * 2.0**-110,  # zeros in float16, and so is their scale
    abs,
    lambda row: row - 0.5,
    lambda row: np.full_like(row, 0.01171875),
    lambda row: np.round(row * 64) / 64,  # many of one value: the best scale is a tie
)
"""What rows are like, in turn."""


def _stored(values: np.ndarray, type_: int) -> bytes:
    if type_ == _BF16:
        return (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    return values.astype("<f4" if type_ == F32 else "<f2").tobytes()


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNMENT)


def _blocks(count: int, shapes: Mapping[str, Shape], prefix: str = "blk") -> dict[str, Shape]:
    return {f"{prefix}.{i}.{name}.weight": shape for i in range(count) for name, shape in shapes.items()}


def _shapes(*names: str) -> dict[str, Shape]:
    return dict.fromkeys(names, (256, 2))


def _moe(experts: int) -> dict[str, Shape]:
    shapes = {
        "ffn_gate_exps": (256, 2, experts),
        "ffn_up_exps": (256, 2, experts),
        "ffn_down_exps": (512, 1, experts),
    }
    return {"ffn_gate_inp": (256, experts), **shapes}


def _deep(arch: str, layers: int, **settings: Any) -> Source:
    """A model said to have so many layers, which is what counts; there are nine."""
    return Source(
        arch, _OUTPUT | _blocks(9, _shapes("attn_v")), {"block_count": layers, **settings}, targets=("Q4_K_M",)
    )


_SETTINGS = {
    "context_length": 64,
    "embedding_length": 256,
    "feed_forward_length": 512,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.layer_norm_epsilon": 1e-5,
    "attention.layer_norm_rms_epsilon": 1e-5,
}
_EVERY_HEAD_ITS_OWN = {"attention.head_count_kv": 4}
_EMBEDDINGS = {"token_embd.weight": (256, 9), "output_norm.weight": (256,)}
_OUTPUT = {"output.weight": (256, 9)}
_ATTENTION = _shapes("attn_q", "attn_k", "attn_v", "attn_output")
_DENSE = {**_ATTENTION, **_shapes("ffn_gate", "ffn_up"), "ffn_down": (512, 2), "attn_norm": (256,)}

SOURCES = {
    "llama": Source(
        "llama",
        {
            "token_embd.weight": (768, 1400),  # more than a million: long work, done in parts
            **_OUTPUT,
            **_blocks(2, {"attn_q": (512, 27), "attn_v": (256, 27), "ffn_down": (768, 27), "attn_norm": (256,)}),
        },
        types=("F32", "F16", "BF16"),
        targets=ALL,
    ),
    "llama-16-layers": Source("llama", _EMBEDDINGS | _OUTPUT | _blocks(16, _DENSE)),
    "llama-tied": Source("llama", _EMBEDDINGS | _blocks(3, _DENSE)),
    "llama-8-experts": Source(
        "llama",
        _EMBEDDINGS | _OUTPUT | _blocks(8, _ATTENTION | _moe(8)),
        {"expert_count": 8, "expert_used_count": 2},
        targets=PACKED,
    ),
    "llama-4-experts-apart": Source(
        "llama",
        _OUTPUT | _blocks(8, _shapes("attn_v", *(f"ffn_down.{expert}" for expert in range(4)))),
        {"expert_count": 4, "expert_used_count": 2},
    ),
    "llama-65b": _deep("llama", 80, **_EVERY_HEAD_ITS_OWN),
    "llama-65b-heads-unsaid": _deep("llama", 80, **{"attention.head_count_kv": None}),
    "llama-70b": _deep("llama", 80),
    "llama-70b-embedding": _deep("llama-embed", 80),
    "deci-70b": _deep("deci", 80, **_EVERY_HEAD_ITS_OWN),
    "jais2-70b": _deep("jais2", 68),
    "olmo-80-layers": _deep("olmo", 80, **_EVERY_HEAD_ITS_OWN),
    "qwen2-72b": _deep("qwen2", 80, **_EVERY_HEAD_ITS_OWN),
    "gemma2-80-layers": _deep("gemma2", 80),
    "falcon": Source(
        "falcon", _EMBEDDINGS | _OUTPUT | _blocks(32, _shapes("attn_qkv", "attn_output", "ffn_down"))
    ),
    "phi3": Source("phi3", _OUTPUT | _blocks(12, _shapes("attn_qkv", "ffn_up", "ffn_down"))),
    "t5": Source(
        "t5",
        {
            **_EMBEDDINGS,
            **_blocks(12, {"attn_rel_b": (4, 32), **_shapes("attn_v", "ffn_down")}, "enc.blk"),
            **_blocks(12, _shapes("attn_v", "cross_attn_v", "ffn_down"), "dec.blk"),
        },
        {"attention.relative_buckets_count": 32},
    ),
    "bert": Source(
        "bert",
        {
            **_EMBEDDINGS,
            **_shapes("position_embd.weight", "token_types.weight"),
            "token_embd_norm.weight": (256,),
            **_blocks(6, _ATTENTION | _shapes("ffn_up", "ffn_down")),
            "blk.0.attn_q.bias": (256,),
        },
        targets=ALL,
    ),
    "gemma3n": Source(
        "gemma3n",
        {
            **_EMBEDDINGS,
            **_shapes("per_layer_model_proj.weight"),
            "per_layer_token_embd.weight": (512, 9),
            "altup_proj.weight": (256, 2, 3),
            **_blocks(3, _DENSE | _shapes("laurel_l", "altup_router", "inp_gate")),
        },
        {"attention.sliding_window": 64},
        targets=PACKED,
    ),
    "deepseek2": Source(
        "deepseek2",
        {
            **_EMBEDDINGS,
            **_OUTPUT,
            **_blocks(9, _shapes("attn_q_a", "attn_q_b", "attn_kv_a_mqa", "attn_kv_b", "attn_output")),
            **_blocks(9, {"attn_k_b": (64, 2, 4), "attn_v_b": (256, 2, 4)}),
            **_blocks(9, _shapes("ffn_down_shexp") | _moe(10)),
        },
        {
            "leading_dense_block_count": 1,
            "expert_count": 10,
            "expert_used_count": 2,
            "expert_feed_forward_length": 64,
            "expert_shared_count": 1,
            "attention.q_lora_rank": 256,
            "attention.kv_lora_rank": 256,
        },
        targets=PACKED,
    ),
    "glm4": Source("glm4", _EMBEDDINGS | _OUTPUT | _blocks(3, _DENSE), targets=PACKED),
    "qwen35": Source(
        "qwen35",
        {
            **_EMBEDDINGS,
            **_OUTPUT,
            **_blocks(9, {**_DENSE, **_shapes("attn_qkv", "ssm_out"), "ssm_conv1d": (4, 64)}),
            "blk.8.nextn.eh_proj.weight": (512, 2),
        },
        {
            "nextn_predict_layers": 1,
            "ssm.conv_kernel": 4,
            "ssm.inner_size": 256,
            "ssm.state_size": 16,
            "ssm.time_step_rank": 16,
            "ssm.group_count": 1,
            "rope.dimension_sections": [8, 8, 8, 8],
        },
        targets=PACKED,
    ),
    "rows-of-96": Source(
        "llama",
        {"token_embd.weight": (96, 9), "output.weight": (96, 9), **_blocks(9, dict.fromkeys(_DENSE, (96, 9)))},
        types=("F32", "F16"),
        targets=PACKED,
    ),
    "rows-of-48": Source(
        "llama", _OUTPUT | _blocks(9, dict.fromkeys(_DENSE, (48, 9))), types=("F32", "F16"), targets=PACKED
    ),
    "output-rows-of-48": Source("llama", {"output.weight": (48, 9), **_blocks(1, _DENSE)}, targets=PACKED),
    "kept-as-they-are": Source(
        "llama",
        {
            **_OUTPUT,
            **_shapes("position_embd.weight", "token_types.weight", "cls.scale"),
            **_shapes("sam.pos_embd.weight", "sam.neck.0.weight", "sam.net_2.weight"),
            **_shapes("a.rvq.codebook.weight", "mm.a.code_embd.weight"),
            **_blocks(1, {"attn_q": (256, 1)}),  # of one row: a vector, to llama.cpp
            **_blocks(
                1, _shapes("attn_q_norm", "attn_rel_b", "position_embd", "patch_embd", "patch_merger", "rel_pos_h")
            ),
            **_blocks(1, _shapes("ffn_gate_inp", "ffn_gate_inp_shexp", "ffn_gate_tid2eid")),
            **_blocks(1, _shapes("shortconv.conv", "ssm_conv1d")),
            **_blocks(1, _shapes("indexer.k_proj", "indexer.q_proj", "indexer.attn_q_b")),
            **_blocks(1, _shapes(*(f"time_mix_{letter}{i}" for letter in "wvag" for i in range(3)))),
            **_blocks(1, _shapes("time_mix_first", "time_mix_key", "time_mix_decay_w1", "time_mix_decay_w2")),
            **_blocks(1, _shapes("time_mix_lerp_fused", "time_mix_lerp_k")),
        },
        targets=ALL,
    ),
}
"""What to quantise, by what it is there for."""

CASES = [
    Case(name, type_, target)
    for name, source in SOURCES.items()
    for type_ in source.types
    for target in source.targets
    if target != type_
]
