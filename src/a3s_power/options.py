"""Model options, split by kind: what a runner is loaded with, and what one request samples with.

Names, types and defaults are Ollama's (`api.Options` in `api/types.go`).
"""

import dataclasses
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args, get_origin, get_type_hints

from a3s_power.errors import InvalidOption


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What changes the loaded runner. None and the defaults leave the choice to us."""

    num_ctx: int | None = None
    """Context window of one request, in tokens."""
    num_batch: int = 512
    """Tokens evaluated at once in prefill; a client that leaves is noticed after one batch."""
    num_gpu: int = -1
    """Layers to offload; -1 decides by free memory, 0 keeps all of them on the CPU."""
    main_gpu: int | None = None
    use_mmap: bool | None = None
    num_thread: int = 0
    """Compute threads; 0 takes one for each physical core."""
    draft_num_predict: int = 4
    """Tokens that a model's draft guesses ahead, for it to check at once; 0 does without the draft."""


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """How one request picks its tokens, and when it ends."""

    num_keep: int = 4
    seed: int = -1
    """-1 draws a fresh one."""
    num_predict: int = -1
    """Most tokens to generate; negative is as many as fit."""
    top_k: int = 40
    top_p: float = 0.9
    min_p: float = 0.0
    typical_p: float = 1.0
    repeat_last_n: int = 64
    temperature: float = 0.8
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    stop: tuple[str, ...] = ()


_EXPECTED = {
    int: "type integer",
    float: "type float32",
    bool: "type boolean",
    tuple: "type array",
}


def _kind(hint: Any) -> type:
    """`int | None` → int, `tuple[str, ...]` → tuple."""
    if isinstance(hint, types.UnionType):
        hint = next(arg for arg in get_args(hint) if arg is not type(None))
    kind: type = get_origin(hint) or hint
    return kind


def _kinds(cls: type) -> dict[str, type]:
    return {name: _kind(hint) for name, hint in get_type_hints(cls).items()}


LOAD_KINDS = _kinds(LoadOptions)
SAMPLING_KINDS = _kinds(SamplingOptions)
KINDS = LOAD_KINDS | SAMPLING_KINDS
"""Every option we know → int, float, bool or tuple (of strings)."""


def merge(layers: Iterable[Mapping[str, object]]) -> tuple[LoadOptions, SamplingOptions]:
    """Defaults overlaid by each layer in turn: the model's PARAMETERs, then the request's `options`.

    Values are JSON values. Null is skipped, unknown names are ignored, fractions given for integers are
    cut towards zero. Raises InvalidOption for a wrong type.
    """
    values: dict[str, object] = {}
    for layer in layers:
        for name, value in layer.items():
            if name in KINDS and value is not None:
                values[name] = _coerce(name, KINDS[name], value)
    load = {name: value for name, value in values.items() if name in LOAD_KINDS}
    sampling = {name: value for name, value in values.items() if name in SAMPLING_KINDS}
    return (
        dataclasses.replace(LoadOptions(), **load),  # type: ignore[arg-type]
        dataclasses.replace(SamplingOptions(), **sampling),  # type: ignore[arg-type]
    )


def _within_int32(name: str, value: int) -> int:
    """The engine's integers have 32 bits: "as many as possible" is more than anyone has. Seeds wrap instead."""
    return value if name == "seed" else max(-(2**31), min(2**31 - 1, value))


def _coerce(name: str, kind: type, value: object) -> object:
    match kind, value:
        case (t, bool()) if t is bool:
            return value
        case (t, int() | float()) if t in (int, float) and not isinstance(value, bool):
            try:
                return kind(value) if kind is float else _within_int32(name, int(value))
            except (OverflowError, ValueError):  # infinite, or an integer of a thousand digits
                raise InvalidOption(name, _EXPECTED[kind]) from None
        case (t, list() | tuple()) if t is tuple:
            if all(isinstance(item, str) for item in value):
                return tuple(value)
            raise InvalidOption(name, "an array of strings")
    raise InvalidOption(name, _EXPECTED[kind])
