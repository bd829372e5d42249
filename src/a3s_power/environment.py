"""What the programs that we start get to see of our environment."""

from collections.abc import Mapping

_INHERITED = {"PATH", "HOME", "TMPDIR", "LANG", "LD_LIBRARY_PATH"}
_INHERITED_PREFIXES = ("DYLD_", "CUDA_", "NVIDIA_", "HIP_", "ROCR_", "HSA_", "GGML_", "VK_", "LLAMA_ARG_")


def child_environment(environ: Mapping[str, str], extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a child gets to see: an allow-list of ours, and `extra`. Never a key or a token."""
    kept = {k: v for k, v in environ.items() if k in _INHERITED or k.startswith(_INHERITED_PREFIXES)}
    return kept | dict(extra or {})
