"""Memory of this machine, and what one process holds of it."""

from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """Bytes in memory. `reclaimable` ones are mapped from files: the system counts them as available."""

    resident: int
    reclaimable: int


def available_memory() -> int:
    """Bytes that new work can have without swapping, clean file pages included."""
    return int(psutil.virtual_memory().available)


def memory_of(pid: int) -> ProcessMemory:
    """What a process and its children hold; zeros once it is gone."""
    try:
        root = psutil.Process(pid)
        infos = [process.memory_info() for process in (root, *root.children(recursive=True))]
    except psutil.Error:
        return ProcessMemory(0, 0)
    return ProcessMemory(
        resident=sum(info.rss for info in infos),
        reclaimable=sum(getattr(info, "shared", 0) for info in infos),  # Linux only
    )


def physical_cores() -> int:
    """Cores that this process may use, hyper-threads not counted twice."""
    logical = psutil.cpu_count() or 1
    physical = psutil.cpu_count(logical=False) or logical
    try:
        usable = len(psutil.Process().cpu_affinity() or ())
    except AttributeError:  # macOS
        usable = logical
    return max(1, min(usable, physical))
