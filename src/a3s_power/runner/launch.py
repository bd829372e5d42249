"""What starts a llama.cpp engine for a LoadSpec: one table for the library, one for the binary.

Parameters are named as in `xllamacpp.CommonParams` (llama.cpp's `common_params`), arguments as in `llama-server`.
"""

import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace

from a3s_power.runner.base import Drafting, LoadSpec, Pooling
from a3s_power.runner.cores import Cores

VERBOSITY = 2
"""Warnings and errors: what the engine says lies in memory as long as it runs."""

Params = dict[str, object]

_POOLING_PARAMS: Mapping[Pooling, Params] = {
    Pooling.FILE: {},
    Pooling.LAST: {"pooling_type": "LLAMA_POOLING_TYPE_LAST"},
}
_POOLING_ARGV: Mapping[Pooling, list[str]] = {Pooling.FILE: [], Pooling.LAST: ["--pooling", "last"]}
_SPECULATION: Mapping[Drafting, str] = {
    Drafting.MODEL: "draft-simple",
    Drafting.MTP: "draft-mtp",
    Drafting.EAGLE3: "draft-eagle3",
    Drafting.DFLASH: "draft-dflash",
}
"""As `--spec-type` calls them."""

LIBRARY: Mapping[str, Callable[[LoadSpec], Params]] = {
    "model_path": lambda s: {"model.path": s.model_path},
    "projector_paths": lambda s: {"mmproj.path": s.projector_paths[0]} if s.projector_paths else {},
    "adapter_paths": lambda s: {"lora_adapters": list(s.adapter_paths)} if s.adapter_paths else {},
    "num_ctx": lambda s: {"kv_unified_per_slot": s.num_ctx},
    "slots": lambda s: {"n_parallel": s.slots, "kv_unified": True, "n_threads_http": s.slots + 4},
    "kv_pool": lambda s: {"n_ctx": s.pool},
    "num_batch": lambda s: {"n_batch": s.num_batch, "n_ubatch": s.num_batch},
    "num_gpu": lambda s: {"n_gpu_layers": s.num_gpu, "fit_params": s.num_gpu < 0},
    "main_gpu": lambda s: {} if s.main_gpu is None or s.devices else _on_one_gpu(s.main_gpu),
    # Several are all that there are: the library has no list of them, and takes all by itself.
    "devices": lambda s: _on_one_gpu(_device_number(s.devices[0])) if len(s.devices) == 1 else {},
    "use_mmap": lambda s: {"load_mode": "LLAMA_LOAD_MODE_NONE"} if s.use_mmap is False else {},
    "num_thread": lambda s: {"cpuparams.n_threads": s.num_thread, "cpuparams_batch.n_threads": s.num_thread},
    "kv_cache_type": lambda s: {
        name: f"GGML_TYPE_{s.kv_cache_type.upper()}" for name in ("cache_type_k", "cache_type_v")
    },
    "flash_attention": lambda s: {
        "flash_attn_type": f"LLAMA_FLASH_ATTN_TYPE_{_on_off_auto(s.flash_attention, 'ENABLED', 'DISABLED')}"
    },
    "pooling": lambda s: {} if s.pooling is None else {"embedding": True, **_POOLING_PARAMS[s.pooling]},
    "draft_path": lambda s: _draft_params(s, s.draft_path) if s.draft_path else {},
    "draft_num_predict": lambda s: {"speculative.draft.n_max": s.draft_num_predict} if s.draft_path else {},
    "drafting": lambda s: {"speculative.types": [_speculation_type(s.drafting)]} if s.draft_path else {},
}
"""LoadSpec field → parameters of the engine inside `runner.host`."""

BINARY: Mapping[str, Callable[[LoadSpec], list[str]]] = {
    "model_path": lambda s: ["--model", s.model_path],
    "projector_paths": lambda s: ["--mmproj", s.projector_paths[0]] if s.projector_paths else [],
    "adapter_paths": lambda s: [arg for path in s.adapter_paths for arg in ("--lora", path)],
    "num_ctx": lambda _: [],  # of a pool for all, no argument keeps a slot from taking more: requests are bounded
    "slots": lambda s: ["--parallel", str(s.slots), "--threads-http", str(s.slots + 4)],
    # Not unified where each slot can have its own num_ctx cells, so that none can take another's.
    "kv_pool": lambda s: ["--ctx-size", str(s.pool), "--kv-unified" if s.is_pool_short else "--no-kv-unified"],
    "num_batch": lambda s: ["--batch-size", str(s.num_batch), "--ubatch-size", str(s.num_batch)],
    "num_gpu": lambda s: ["--n-gpu-layers", str(s.num_gpu)] if s.num_gpu >= 0 else [],
    "main_gpu": lambda s: (  # counts the chosen devices, of which there is one where it was heeded
        [] if s.main_gpu is None or s.devices else ["--main-gpu", str(s.main_gpu), "--split-mode", "none"]
    ),
    "devices": lambda s: ["--device", ",".join(s.devices)] if s.devices else [],
    "use_mmap": lambda s: ["--no-mmap"] if s.use_mmap is False else [],
    "num_thread": lambda s: ["--threads", str(s.num_thread)],
    "kv_cache_type": lambda s: ["--cache-type-k", s.kv_cache_type, "--cache-type-v", s.kv_cache_type],
    "flash_attention": lambda s: ["--flash-attn", _on_off_auto(s.flash_attention, "on", "off").lower()],
    "pooling": lambda s: [] if s.pooling is None else ["--embedding", *_POOLING_ARGV[s.pooling]],
    "draft_path": lambda s: _draft_argv(s, s.draft_path) if s.draft_path else [],
    "draft_num_predict": lambda s: ["--spec-draft-n-max", str(s.draft_num_predict)] if s.draft_path else [],
    "drafting": lambda s: ["--spec-type", _SPECULATION[s.drafting]] if s.draft_path else [],
}
"""LoadSpec field → arguments of a `llama-server` binary."""


def library_params(spec: LoadSpec, cores: Cores) -> Params:
    """All parameters of the engine as a library."""
    spec = with_threads(spec, cores)
    params: Params = {
        "verbosity": VERBOSITY,
        "cache_ram_mib": 0,  # the prompt cache in host memory: no memory is taken that no one has counted
        "ui": False,
        "offline": True,
        "video_ffmpeg_bin_dir": NO_FFMPEG,
    }
    for of_field in LIBRARY.values():
        params |= of_field(spec)
    return params


def binary_argv(spec: LoadSpec, socket: str, cores: Cores) -> list[str]:
    """All arguments of the engine as a program."""
    spec = with_threads(spec, cores)
    argv = ["--host", socket, "--offline", "--no-webui", "--jinja", "--cache-ram", "0"]
    argv += ["--log-verbosity", str(VERBOSITY)]
    for of_field in BINARY.values():
        argv += of_field(spec)
    return argv


NO_FFMPEG = os.devnull
"""No folder: what the engine cannot decode it would hand to an `ffprobe` that it finds in PATH."""
MEDIA_MARKER = "LLAMA_MEDIA_MARKER"
"""The variable that tells the engine what stands in prompts for pictures."""


def engine_environment(cores: Cores) -> dict[str, str]:
    """What the engine needs in its environment."""
    return {
        "GOMP_SPINCOUNT": str(cores.spin),
        # Unguessable, so that no client's text can pass for the place of a picture.
        "LLAMA_ARG_VIDEO_FFMPEG_DIR": NO_FFMPEG,  # for a binary, which may be older than the argument
        MEDIA_MARKER: f"<__media_{secrets.token_hex(16)}__>",
    }


def with_threads(spec: LoadSpec, cores: Cores) -> LoadSpec:
    """With compute threads as asked for, else as the machine has them shared."""
    return spec if spec.num_thread else replace(spec, num_thread=cores.threads)


def _draft_params(spec: LoadSpec, path: str) -> Params:
    """Where and how the draft lies: as the model, which the engine's parser of arguments would see to."""
    draft = "speculative.draft"
    return {
        f"{draft}.mparams.path": path,
        f"{draft}.n_gpu_layers": spec.num_gpu,
        f"{draft}.cpuparams.n_threads": spec.num_thread,
        f"{draft}.cpuparams_batch.n_threads": spec.num_thread,
        f"{draft}.cache_type_k": f"GGML_TYPE_{spec.kv_cache_type.upper()}",
        f"{draft}.cache_type_v": f"GGML_TYPE_{spec.kv_cache_type.upper()}",
    }


def _draft_argv(spec: LoadSpec, path: str) -> list[str]:
    """As `_draft_params`; its threads are the model's unless told."""
    argv = ["--spec-draft-model", path]
    argv += ["--spec-draft-type-k", spec.kv_cache_type, "--spec-draft-type-v", spec.kv_cache_type]
    if spec.num_gpu >= 0:
        argv += ["--spec-draft-ngl", str(spec.num_gpu)]
    if spec.devices:
        argv += ["--spec-draft-device", ",".join(spec.devices)]
    return argv


def _speculation_type(drafting: Drafting) -> str:
    return f"COMMON_SPECULATIVE_TYPE_{_SPECULATION[drafting].replace('-', '_').upper()}"


def _on_one_gpu(number: int) -> Params:
    return {"main_gpu": number, "split_mode": "LLAMA_SPLIT_MODE_NONE"}


def _device_number(name: str) -> int:
    """1 of CUDA1. The library counts the GPUs it uses, of which a build has one backend's."""
    return int(name[len(name.rstrip("0123456789")) :] or "0")


def _on_off_auto(choice: bool | None, on: str, off: str) -> str:
    return "AUTO" if choice is None else on if choice else off
