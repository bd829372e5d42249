"""NVIDIA GPUs of this machine and what processes hold on them, as the driver tells it (NVML).

Not read: GPUs of AMD, Intel and Apple, of which the engine alone knows (`runner.devices`). A driver that does not
know how much a process holds (Windows, most of MIG) or knows it under another number (in a container with
process numbers of its own) makes it hold nothing here. Calls take up to some milliseconds, the first one up to
seconds: not for the event loop.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import pynvml

_Handle = Any  # NVML's, of a GPU or of a part of one

_NO_ANSWER = (pynvml.NVMLError, pynvml.NVMLLibraryMismatchError)  # the latter of a driver older than the question
_PROCESS_LISTS = ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses")


@dataclass(frozen=True, slots=True)
class GPU:
    """One card. Sizes in bytes, both 0 where the memory is the host's."""

    name: str
    bus_id: str
    """Its place on the PCI bus, `0000:65:00.0`: ggml's devices have the same."""
    total: int
    free: int


def present_gpus() -> tuple[GPU, ...]:
    """Every GPU that the driver knows, in its order; () without a driver."""
    return tuple(
        GPU(
            name=_ask(pynvml.nvmlDeviceGetName, handle, otherwise="NVIDIA GPU"),
            bus_id=bus_id,
            total=memory.total if memory else 0,
            free=memory.free if memory else 0,
        )
        for bus_id, handle in _handles()
        for memory in [_ask(pynvml.nvmlDeviceGetMemoryInfo, handle, otherwise=None)]
    )


def gpu_memory_of(pids: Collection[int]) -> dict[str, int]:
    """Bytes that these processes hold together, by the `bus_id` of each GPU on which they hold any."""
    held = {bus_id: sum(_held(part, pids) for part in _parts(handle)) for bus_id, handle in _handles()}
    return {bus_id: size for bus_id, size in held.items() if size}


def _held(part: _Handle, pids: Collection[int]) -> int:
    """A process that computes and draws stands in both lists, with the same figure in each."""
    by_pid: dict[int, int] = {}
    for name in _PROCESS_LISTS:
        for process in _ask(getattr(pynvml, name), part, otherwise=()):
            if process.pid in pids:
                by_pid[process.pid] = max(by_pid.get(process.pid, 0), process.usedGpuMemory or 0)
    return sum(by_pid.values())


def _parts(handle: _Handle) -> list[_Handle]:
    """A divided GPU's instances (MIG), whose processes its own lists leave out; otherwise the GPU itself."""
    mode, _ = _ask(pynvml.nvmlDeviceGetMigMode, handle, otherwise=(pynvml.NVML_DEVICE_MIG_DISABLE, None))
    if mode != pynvml.NVML_DEVICE_MIG_ENABLE:
        return [handle]
    places = range(_ask(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle, otherwise=0))
    parts = [_ask(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, place, otherwise=None) for place in places]
    return [part for part in parts if part is not None]


def _handles() -> Iterator[tuple[str, _Handle]]:
    """`bus_id` and handle of each GPU. One that fell off the bus does not hide the others."""
    if not _has_driver():
        return
    for index in range(_ask(pynvml.nvmlDeviceGetCount, otherwise=0)):
        handle = _ask(pynvml.nvmlDeviceGetHandleByIndex, index, otherwise=None)
        pci = handle and _ask(pynvml.nvmlDeviceGetPciInfo, handle, otherwise=None)
        if pci:
            yield _bus_id(pci.busId), handle


def _bus_id(text: str) -> str:
    """NVML writes `00000000:65:00.0`, ggml the domain in as few digits as it needs, four at least."""
    domain, _, place = text.lower().partition(":")
    return f"{int(domain, 16):04x}:{place}"


@cache
def _has_driver() -> bool:
    """Asked once: without one, looking for it again each time would cost more than all the rest."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return False
    return True


def _ask(question: Callable[..., Any], *about: Any, otherwise: Any) -> Any:
    """The driver's answer, or `otherwise` where it has none."""
    try:
        return question(*about)
    except _NO_ANSWER:
        return otherwise
