"""Memory and cores of this machine, as far as they are ours, and what one process holds."""

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

_CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """Bytes in memory. `reclaimable` ones are mapped from files: the system counts them as available."""

    resident: int
    reclaimable: int
    gpus: Mapping[str, int] | None = None
    """Bytes by GPU; None where nobody can tell."""


def available_memory() -> int:
    """Bytes that new work can have without swapping, clean file pages included, a container's limit observed."""
    available = int(psutil.virtual_memory().available)
    for group in _own_cgroups():
        limit = _number(group / "memory.max")
        if limit is not None:
            available = min(available, limit - (_number(group / "memory.current") or 0) + _inactive_file(group))
    return max(0, available)


def memory_of(pid: int) -> ProcessMemory:
    """What a process and its children hold; zeros once it is gone."""
    resident = reclaimable = 0
    for member in family(pid):
        try:
            info = psutil.Process(member).memory_info()
        except psutil.Error:
            continue
        resident += info.rss
        reclaimable += getattr(info, "shared", 0)  # Linux only
    return ProcessMemory(resident, reclaimable)


def logical_cores() -> int:
    """Cores that this process may use, each hyper-thread counted, a container's quota observed."""
    try:
        usable = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        usable = os.cpu_count() or 1
    for group in _own_cgroups():
        quota, _, period = _text(group / "cpu.max").partition(" ")
        if quota.isdecimal() and period.isdecimal():
            usable = min(usable, math.ceil(int(quota) / int(period)))
    return max(1, usable)


def physical_cores() -> int:
    """As `logical_cores`, hyper-threads not counted twice."""
    return max(1, min(logical_cores(), psutil.cpu_count(logical=False) or 1))


def family(pid: int) -> Iterator[int]:
    """A process and all below it. Linux lists a thread's children, which spares a walk over all processes."""
    yield pid
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        try:
            children = [child.pid for child in psutil.Process(pid).children()]
        except psutil.Error:
            return
    for child in children:
        yield from family(child)


def _own_cgroups() -> Iterator[Path]:
    """Our control group (version 2) and those above it; none elsewhere."""
    for line in _text(Path("/proc/self/cgroup")).splitlines():
        if line.startswith("0::/"):
            group = _CGROUPS / line.removeprefix("0::/")
            yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(_CGROUPS))


def _inactive_file(group: Path) -> int:
    for line in _text(group / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name == "inactive_file":
            return int(value)
    return 0


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdecimal() else None  # "max" is no limit


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
