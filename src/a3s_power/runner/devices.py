"""Which GPUs an engine can use: asked of the engine itself, in a process of its own that ends with the answer."""

import logging
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import msgspec
from anyio.abc import Process

from a3s_power.environment import child_environment
from a3s_power.errors import LoadFailed, LoadFailure
from a3s_power.gpus import GPU
from a3s_power.runner import failures
from a3s_power.runner.process import running
from a3s_power.units import MIB

TIMEOUT_S = 30.0
"""A GPU may have to wake up first, and its driver to compile what it has never run."""

_LIST_DEVICES = """
import json, xllamacpp
keys = "name", "description", "memory_total", "memory_free", "device_id"
print(json.dumps([{key: d[key] for key in keys} | {"type": d["type"].name} for d in xllamacpp.get_device_info()]))
"""
_INTEGRATED_BY_TYPE = {"GGML_BACKEND_DEVICE_TYPE_GPU": False, "GGML_BACKEND_DEVICE_TYPE_IGPU": True}

# What `llama-server --list-devices` prints: "  CUDA0: NVIDIA GeForce RTX 4060 Ti (16379 MiB, 14900 MiB free)".
_LINE = re.compile(r"^\s+(\w+): (.+) \((\d+) MiB, (\d+) MiB free\)\s*$", re.MULTILINE)
# What backends say when they start: "ggml_vulkan: 0 = Intel(R) Graphics (…) | uma: 1 | fp16: 1 …" and
# "  Device 0: AMD Radeon Graphics, gfx1151 (0x1151), VMM: no, …".
_UNIFIED_VULKAN = re.compile(r"^ggml_vulkan: (\d+) = .*\| uma: 1 \|", re.MULTILINE)
_GFX1151 = re.compile(r"^\s*Device (\d+): .*, gfx1151\b", re.MULTILINE)

_WORTHY_BACKENDS = ("CUDA", "MTL", "Metal")
"""Whose integrated GPUs are faster than the cores beside them: Jetson, GB10, Apple. Of ROCm's it is gfx1151."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU as the engine has it. Sizes in bytes, `free` at the time of asking."""

    name: str
    """The engine's own, backend and number: CUDA0, ROCm1, Vulkan0, MTL0."""
    description: str
    total: int
    free: int
    is_integrated: bool = False
    """Whether its memory is the host's."""
    bus_id: str = ""
    """As `gpus.GPU.bus_id`; "" where the engine does not say."""


class _Listed(msgspec.Struct):
    name: str
    description: str
    memory_total: int
    memory_free: int
    device_id: str
    type: str


async def library_devices(environ: Mapping[str, str], python: str = sys.executable) -> tuple[Device, ...]:
    """The usable GPUs of the engine that `python` imports, in its order; () and a line in the log if it fails."""
    return await _ask([python, "-P", "-c", _LIST_DEVICES], environ, listed_by_library)


async def binary_devices(binary: str, environ: Mapping[str, str]) -> tuple[Device, ...]:
    """The usable GPUs of a `llama-server`; as above."""
    return await _ask([binary, "--list-devices"], environ, listed_by_binary)


def idle_gpus(present: Sequence[GPU], devices: Sequence[Device]) -> str | None:
    """The warning that GPUs lie idle; None where there is no cause for it.

    An engine that uses one of them has the backend, and who hides the others from it knows. Of devices whose place
    on the bus is unknown none can say that they are not the same.
    """
    places = {device.bus_id for device in devices}
    if not present or "" in places or places & {gpu.bus_id for gpu in present}:
        return None
    counts = Counter(gpu.name for gpu in present)
    names = ", ".join(name if count == 1 else f"{count} × {name}" for name, count in counts.items())
    return f"the engine cannot use {names}; `a3s-power setup engine cuda` installs one that can"


def listed_by_library(said: str) -> tuple[Device, ...]:
    """What `_LIST_DEVICES` printed, among the lines of backends. Raises msgspec.DecodeError."""
    answer = next((line for line in reversed(said.splitlines()) if line.startswith("[")), said)
    rows = msgspec.json.decode(answer, type=list[_Listed])
    devices = [
        Device(
            row.name,
            row.description,
            row.memory_total,
            row.memory_free,
            is_integrated=_INTEGRATED_BY_TYPE[row.type] or _is_apple(row.description),
            bus_id=row.device_id.lower(),
        )
        for row in rows
        if row.type in _INTEGRATED_BY_TYPE
    ]
    return _usable(devices, said)


def listed_by_binary(said: str) -> tuple[Device, ...]:
    """What `llama-server --list-devices` printed; what has no memory there is a library of the CPU's."""
    unified = {f"Vulkan{number}" for number in _UNIFIED_VULKAN.findall(said)}
    devices = [
        Device(
            name,
            description,
            int(total) * MIB,
            int(free) * MIB,
            is_integrated=name in unified or _is_apple(description),
        )
        for name, description, total, free in _LINE.findall(said)
        if int(total)
    ]
    return _usable(devices, said)


def _is_apple(description: str) -> bool:
    """Metal calls them all GPUs, but Apple's own have the host's memory."""
    return description.startswith("Apple ")


def _usable(devices: Sequence[Device], said: str) -> tuple[Device, ...]:
    """Discrete ones; only without any, integrated ones that are worth it: llama.cpp does not mix them either."""
    worthy = {f"ROCm{number}" for number in _GFX1151.findall(said)}
    discrete = tuple(device for device in devices if not device.is_integrated)
    return discrete or tuple(
        device for device in devices if device.name in worthy or device.name.startswith(_WORTHY_BACKENDS)
    )


async def _ask(
    argv: Sequence[str], environ: Mapping[str, str], read: Callable[[str], tuple[Device, ...]]
) -> tuple[Device, ...]:
    try:
        return read(await _said(argv, environ))
    except (LoadFailed, msgspec.DecodeError) as exc:
        log.warning("the engine does not tell its GPUs, so none is used", extra={"engine": argv[0], "error": exc})
        return ()


async def _said(argv: Sequence[str], environ: Mapping[str, str]) -> str:
    """All that a program says until it ends. Raises LoadFailed if it does not end well, or in time."""
    with TemporaryDirectory(prefix="devices-", ignore_cleanup_errors=True) as folder:
        output = Path(folder, "output")
        async with running(argv, log=output, env=child_environment(environ), ready=_ended) as process:
            returncode = process.returncode
        said = await anyio.Path(output).read_text(errors="replace")
    if returncode:
        raise LoadFailed(failures.telling_line(said) or failures.ending(returncode), LoadFailure.OTHER)
    return said


async def _ended(process: Process) -> None:
    with anyio.move_on_after(TIMEOUT_S):
        await process.wait()
        return
    raise LoadFailed(f"no answer within {TIMEOUT_S:.0f} s", LoadFailure.TIMED_OUT)
