"""The engine's builds for GPUs: which there are, and which of them suits this machine.

Names and needs as the README of xllamacpp has them (October 2026). A CUDA build carries code that the driver
compiles at first use, for which the driver must be as new as the build. ROCm is compatible within a major version.
"""

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from a3s_power.setup.errors import SetupFailed

Version = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Build:
    """One wheel index: `cu128`, for a driver that knows CUDA 12.8 or newer."""

    name: str
    needs: Version = ()


BUILDS = {
    "cuda": (Build("cu132", (13, 2)), Build("cu128", (12, 8))),
    "rocm": (Build("rocm-7.2.4", (7,)), Build("rocm-6.4.1", (6,))),
    "vulkan": (Build("vulkan"),),
}
"""Backend → its builds, the newest first."""


def choose_build(backend: str, found: Version | None, wanted: str | None = None) -> Build:
    """The newest build that works with what was `found` on the machine, the newest of all if that is unknown.

    `wanted` is taken as it is, for the index may have builds that we do not know. Raises SetupFailed if what
    was found is too old for all of them.
    """
    builds = BUILDS[backend]
    if wanted is not None:
        return _named(backend, wanted)
    fitting = [build for build in builds if found is None or build.needs <= found]
    if not fitting:
        assert found, "nothing found fits all"
        raise SetupFailed(
            f"this machine has {backend.upper()} {_dotted(found)}, and the oldest build, {builds[-1].name}, needs "
            f"{_dotted(builds[-1].needs)}: update it, or insist on a build with --build"
        )
    return fitting[0]


def found_version(backend: str, environ: Mapping[str, str]) -> Version | None:
    """What this machine has for a backend; None where that does not matter or cannot be told."""
    match backend:
        case "cuda":
            return _cuda_of_driver()
        case "rocm":
            return _rocm_in(Path(environ.get("ROCM_PATH") or "/opt/rocm"))
    return None


def _named(backend: str, name: str) -> Build:
    if not re.fullmatch(rf"{backend[:2]}[a-z0-9.-]+", name):  # cu, ro, vu; it becomes part of a URL
        known = ", ".join(build.name for build in BUILDS[backend])
        raise SetupFailed(f"{name!r} is no build for {backend}: {known}")
    return Build(name)


def _cuda_of_driver() -> Version | None:
    """The newest CUDA that the NVIDIA driver knows, such as (12, 8)."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
        try:
            version = int(nvml.nvmlSystemGetCudaDriverVersion_v2())  # 12080
        finally:
            nvml.nvmlShutdown()
    except nvml.NVMLError:  # no driver
        return None
    return version // 1000, version % 1000 // 10


def _rocm_in(folder: Path) -> Version | None:
    """The version that ROCm's packages leave behind, `7.2.4-43`, as (7, 2)."""
    try:
        text = (folder / ".info" / "version").read_text(encoding="utf-8")
    except OSError:
        return None
    parts = re.match(r"(\d+)\.(\d+)", text)
    return (int(parts[1]), int(parts[2])) if parts else None


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))
