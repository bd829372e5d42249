"""Which type each tensor of a model gets when it is quantised. Pure.

The rules are llama.cpp's (`src/llama-quant.cpp`), for the types that Ollama makes, and Ollama's own exceptions for
some architectures (`server/quantization.go`). That they are kept to the byte is proved by `tests/data/quantize`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from a3s_power.ggml_types import TENSOR_TYPES
from a3s_power.gguf import GGUF, Tensor

SOURCES = ("F32", "F16", "BF16")
"""Types of whole weights, which can be quantised."""

FILE_TYPES = {"F32": 0, "F16": 1, "Q8_0": 7, "Q4_K_S": 14, "Q4_K_M": 15, "BF16": 32}
"""What can be made → its number as `general.file_type`."""

ELEMENTS = {type_.name: type_.block_elements for type_ in TENSOR_TYPES.values()}
"""Type → neighbours in a row that are packed together: a row is a multiple of it."""

_SMALL = (
    "_norm.weight", "ffn_gate_inp.weight", "altup", "laurel", "per_layer_model_proj", "ssm_conv1d",
    "shortconv.conv.weight", "attn_rel_b.weight", "time_mix_first.weight", "time_mix_w0.weight",
    "time_mix_w1.weight", "time_mix_w2.weight", "time_mix_v0.weight", "time_mix_v1.weight", "time_mix_v2.weight",
    "time_mix_a0.weight", "time_mix_a1.weight", "time_mix_a2.weight", "time_mix_g1.weight", "time_mix_g2.weight",
    "time_mix_decay_w1.weight", "time_mix_decay_w2.weight", "time_mix_lerp_fused.weight",
    "indexer.k_proj.weight", "indexer.q_proj.weight", "ffn_gate_tid2eid.weight", ".position_embd", ".patch_embd",
    ".patch_merger", "sam.pos_embd", "sam.neck.", "sam.net_", ".rel_pos",
)  # fmt: skip
"""In the names of tensors that are worth little room, and much to the model."""
_KEPT = ("position_embd.weight", "token_types.weight")
EMBEDDED = ("a.", "mm.", "mtp.", "s.", "v.")
"""Towers and drafts in one file with the model, as Ollama has them; llama-quantize would drop them."""

_FALLBACKS = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
"""For rows that are no multiple of the type's elements."""

_ATTN_V = ("attn_v.weight", "attn_qkv.weight", "attn_kv_b.weight")
_EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")
_OUTPUT = "output.weight"
_70B = {"llama": 80, "llama-embed": 80, "deci": 80, "qwen2": 80, "olmo": 80, "jais2": 68}
"""Architecture → layers by which llama.cpp knows its model of 70B, where eight heads share each attn_v."""
_65B = {"llama", "llama-embed"}
"""Those with as many layers in an older model, whose heads share nothing."""

_EH_PROJ = (re.compile(r"^blk\.\d+\.nextn\.eh_proj\.weight$"), "Q8_0")
_MLA = (re.compile(r"attn_(k_b|q_a|q_b|v_b|kv_a_mqa)\.weight$"), "Q8_0")
_ENDS = (re.compile(r"^(token_embd|output)\.weight$"), "F16")
_FORCED = {
    "qwen35": _EH_PROJ,
    "qwen35moe": _EH_PROJ,
    "gemma3n": (re.compile(r"^per_layer_token_embd\.weight$"), "F16"),
    "deepseek2": _MLA,
    "glmocr": _ENDS,
    "glm4": _ENDS,
}
"""Architecture → tensors whose type is settled, for Q4_K_S and Q4_K_M."""

_BLOCK = re.compile(r"blk\.(\d+)\.")


def tensor_types(gguf: GGUF, target: str) -> dict[str, str]:
    """Tensor → its type in a file of the `target` type, a key of FILE_TYPES. Those not named stay as they are."""
    tensors = [tensor for tensor in gguf.tensors if _is_changed(tensor)]
    if target in SOURCES:
        return {tensor.name: target for tensor in tensors}
    mix = _Mix.of(gguf, target)
    forced = _FORCED.get(gguf.architecture) if target != "Q8_0" else None
    types = {}
    for tensor in sorted(tensors, key=_place):  # counters go in this order
        type_ = forced[1] if forced and forced[0].search(tensor.name) else mix.type_of(tensor)
        types[tensor.name] = _fitting(type_, tensor.shape[0])
    return types


def _is_changed(tensor: Tensor) -> bool:
    name = tensor.name
    return (
        tensor.type in SOURCES
        and any(size > 1 for size in tensor.shape[1:])
        and name.endswith("weight")
        and name not in _KEPT
        and not name.startswith(EMBEDDED)
        and not any(part in name for part in _SMALL)
    )


def _place(tensor: Tensor) -> tuple[int, str]:
    """Where llama.cpp comes to it: what is in no block first, then block by block, by name."""
    block = _block(tensor.name)
    return (-1 if block is None else block, tensor.name)


def _block(name: str) -> int | None:
    return int(match[1]) if (match := _BLOCK.match(name)) else None


def _fitting(type_: str, width: int) -> str:
    if width % ELEMENTS[type_]:
        type_ = _FALLBACKS.get(type_, type_)
    return "F16" if width % ELEMENTS[type_] else type_


@dataclass(slots=True)
class _Mix:
    """llama.cpp's choice for one model, tensor by tensor; counts those of which only some get more bits."""

    target: str
    architecture: str
    layers: int
    experts: int
    is_70b: bool
    has_output: bool
    attn_v_count: int
    attn_v: int = 0
    ffn_down: int = 0

    @classmethod
    def of(cls, gguf: GGUF, target: str) -> "_Mix":
        names = [tensor.name for tensor in gguf.tensors]
        layers = _int(gguf, "block_count")
        return cls(
            target,
            gguf.architecture,
            layers,
            experts=_int(gguf, "expert_count"),
            is_70b=layers == _70B.get(gguf.architecture) and not _is_65b(gguf),
            has_output=_OUTPUT in names,
            attn_v_count=sum(
                any(part in name for part in _ATTN_V) for name in names if not name.startswith(EMBEDDED)
            ),
        )

    def type_of(self, tensor: Tensor) -> str:
        name = tensor.name
        if name == _OUTPUT or (name in _EMBEDDINGS and not self.has_output):
            return self._of_output(tensor.shape[0])
        for part, choose in _RULES.items():
            if part in name:
                return choose(self, name)
        return self._default

    @property
    def _default(self) -> str:
        return "Q8_0" if self.target == "Q8_0" else "Q4_K"

    def _of_output(self, width: int) -> str:
        is_odd = self.architecture == "falcon" or width % ELEMENTS["Q6_K"]
        return "Q8_0" if is_odd or self.target == "Q8_0" else "Q6_K"

    def of_attn_v(self, _name: str) -> str:
        number, self.attn_v = self.attn_v, self.attn_v + 1
        type_ = self._default
        if self.target == "Q4_K_M" and _gets_more(number, self.attn_v_count):
            type_ = "Q6_K"
        elif self.target == "Q4_K_S" and number < 4:
            type_ = "Q5_K"
        if self.is_70b and type_ == "Q4_K":
            type_ = "Q5_K"
        return "Q8_0" if self.experts == 8 else type_

    def of_attn_k(self, _name: str) -> str:
        return "Q8_0" if self.experts == 8 else self._default

    def of_attn_output(self, _name: str) -> str:
        has_more = self.experts == 8 and self.architecture != "falcon" and self.target != "Q8_0"
        return "Q5_K" if has_more else self._default

    def of_ffn_down(self, name: str) -> str:
        number, self.ffn_down = self.ffn_down, self.ffn_down + 1
        if self.experts > 1:
            number = _block(name) or 0
        is_falcon = self.architecture == "falcon"
        match self.target:
            case "Q4_K_S" if number < self.layers // 8 and not is_falcon:
                return "Q5_K"
            case "Q4_K_M" if is_falcon and number < self.layers // 16:
                return "Q6_K"
            case "Q4_K_M" if _gets_more(number, self.layers):
                return "Q5_K" if is_falcon else "Q6_K"
        return self._default


_RULES: Mapping[str, Callable[[_Mix, str], str]] = {
    **dict.fromkeys(_ATTN_V, _Mix.of_attn_v),
    "attn_k.weight": _Mix.of_attn_k,
    "attn_output.weight": _Mix.of_attn_output,
    "ffn_down": _Mix.of_ffn_down,
}


def _is_65b(gguf: GGUF) -> bool:
    heads = gguf.arch("attention.head_count")
    return gguf.architecture in _65B and gguf.arch("attention.head_count_kv", heads) == heads


def _gets_more(number: int, count: int) -> bool:
    """Whether a layer is among those that get more bits: the first and last eighth, and every third between."""
    return number < count // 8 or number >= 7 * count // 8 or (number - count // 8) % 3 == 2


def _int(gguf: GGUF, key: str) -> int:
    value = gguf.arch(key, 0)
    return value if isinstance(value, int) else 0
