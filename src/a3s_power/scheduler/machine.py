"""What this machine has, as the scheduler sees it: the host's memory, and that of GPUs by the engine's names."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from a3s_power.devices import ProcessMemory, available_memory, family, memory_of
from a3s_power.gpus import gpu_memory_of, present_gpus
from a3s_power.scheduler.placement import Capacity


@dataclass(frozen=True, slots=True)
class EngineGPU:
    """A GPU with memory of its own that the engine can use."""

    name: str
    """The engine's."""
    bus_id: str
    """The driver's; "" if nobody knows it."""
    free: int
    """Bytes, before any runner of ours was started."""


@dataclass(frozen=True, slots=True)
class Memory:
    """The machine's memory. `overhead` bytes of each GPU stay free."""

    gpus: Sequence[EngineGPU] = ()
    overhead: int = 0

    def available(self) -> Capacity:
        """What new work can have. GPUs that nobody can ask count as they were at the start."""
        now = {gpu.bus_id: gpu.free for gpu in present_gpus()} if self.gpus else {}
        free = {gpu.name: now.get(gpu.bus_id, gpu.free) for gpu in self.gpus}
        return Capacity(available_memory(), {name: max(0, size - self.overhead) for name, size in free.items()})

    def of(self, pid: int) -> ProcessMemory:
        """What a process and its children hold."""
        memory = memory_of(pid)
        if not self.gpus or not all(gpu.bus_id for gpu in self.gpus):
            return memory
        held = gpu_memory_of(set(family(pid)))
        return replace(memory, gpus={gpu.name: held.get(gpu.bus_id, 0) for gpu in self.gpus} if held else None)
