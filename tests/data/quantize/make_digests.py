"""Writes `digests.json`: what llama.cpp's own quantiser makes of `tests/support/quantize_sources.py`.

Run it from the repository's root with the folder of llama.cpp's libraries: `README.md` beside it says which.
"""

import ctypes
import json
import sys
import tempfile
from pathlib import Path

from tests.support.quantize_sources import CASES, SOURCES, digests

FILE_TYPES = {"F32": 0, "F16": 1, "Q8_0": 7, "Q4_K_S": 14, "Q4_K_M": 15, "BF16": 32}
_F16, _Q8_0 = 1, 8

FORCED = {
    "qwen35": [(r"^blk\.[0-9]+\.nextn\.eh_proj\.weight$", _Q8_0)],
    "gemma3n": [(r"^per_layer_token_embd\.weight$", _F16)],
    "deepseek2": [
        (rf"{name}\.weight$", _Q8_0) for name in ("attn_k_b", "attn_q_a", "attn_q_b", "attn_v_b", "attn_kv_a_mqa")
    ],
    "glm4": [(r"^token_embd\.weight$", _F16), (r"^output\.weight$", _F16)],
}
"""What Ollama gives the tool as `--tensor-type` for Q4_K_S and Q4_K_M, by architecture (`server/quantization.go`)."""


class _TensorType(ctypes.Structure):
    _fields_ = (("pattern", ctypes.c_char_p), ("type", ctypes.c_int))


class _Params(ctypes.Structure):
    """`llama_model_quantize_params` of `llama.h`."""

    _fields_ = (
        ("nthread", ctypes.c_int32),
        ("ftype", ctypes.c_int),
        ("output_tensor_type", ctypes.c_int),
        ("token_embedding_type", ctypes.c_int),
        ("allow_requantize", ctypes.c_bool),
        ("quantize_output_tensor", ctypes.c_bool),
        ("only_copy", ctypes.c_bool),
        ("pure", ctypes.c_bool),
        ("keep_split", ctypes.c_bool),
        ("dry_run", ctypes.c_bool),
        ("imatrix", ctypes.c_void_p),
        ("kv_overrides", ctypes.c_void_p),
        ("tt_overrides", ctypes.POINTER(_TensorType)),
        ("prune_layers", ctypes.c_void_p),
    )


class LlamaCpp:
    """The quantiser in llama.cpp's libraries, which the program `llama-quantize` is a command line for."""

    def __init__(self, folder: Path) -> None:
        base = ctypes.CDLL(str(folder / "libggml-base.so"), mode=ctypes.RTLD_GLOBAL)
        base.ggml_version.restype = base.ggml_commit.restype = ctypes.c_char_p
        self.version = f"ggml {base.ggml_version().decode()}, commit {base.ggml_commit().decode()}"
        self._library = ctypes.CDLL(str(next(folder.glob("libllama.*so*"))))
        self._library.llama_model_quantize_default_params.restype = _Params
        self._library.llama_model_quantize.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(_Params))
        self._log: list[str] = []
        receiver = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
        self._receive = receiver(lambda _level, text, _data: self._log.append(text.decode()))
        self._library.llama_log_set(self._receive, None)
        self._library.llama_backend_init()

    def quantize(self, source: Path, made: Path, target: str, forced: list[tuple[str, int]]) -> str:
        """Quantise one file into another. What it says went wrong, "" if nothing did."""
        params = self._library.llama_model_quantize_default_params()
        assert (params.ftype, params.quantize_output_tensor, params.dry_run) == (7, True, False), "another llama.h"
        params.ftype = FILE_TYPES[target]
        params.allow_requantize = True  # as Ollama calls it
        rows = [*(_TensorType(pattern.encode(), type_) for pattern, type_ in forced), _TensorType(None, 0)]
        params.tt_overrides = (_TensorType * len(rows))(*rows)
        self._log.clear()
        failed = self._library.llama_model_quantize(bytes(source), bytes(made), ctypes.byref(params))
        return "".join(self._log).rpartition("failed to quantize: ")[2].strip() if failed else ""


def reference(llama_cpp: LlamaCpp, folder: Path) -> dict[str, dict[str, str]]:
    """What every case makes, by its name."""
    found = {}
    for case in CASES:
        source = SOURCES[case.source]
        original = source.write(folder / "original.gguf", case.type)
        forced = FORCED.get(source.arch, []) if case.target.startswith("Q4_K") else []
        error = llama_cpp.quantize(original, folder / "made.gguf", case.target, forced)
        found[str(case)] = {"error": error} if error else digests(folder / "made.gguf")
    return found


if __name__ == "__main__":
    llama_cpp = LlamaCpp(Path(sys.argv[1]).resolve())
    with tempfile.TemporaryDirectory() as made:
        document = {"made by": llama_cpp.version, "cases": reference(llama_cpp, Path(made))}
    Path(__file__).with_name("digests.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
