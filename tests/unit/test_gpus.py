"""What the driver tells of GPUs: a fake NVML with the cards, processes and failures of each case."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import pynvml
import pytest

from a3s_power import gpus
from a3s_power.gpus import GPU, gpu_memory_of, present_gpus

GB = 10**9
BROKEN = pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
UNKNOWN = pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
TOO_OLD = pynvml.NVMLLibraryMismatchError("the driver does not know this question")


@dataclass
class Card:
    """A GPU, or an instance of one. An error in place of an answer is raised."""

    bus_id: object = "00000000:01:00.0"
    name: object = "NVIDIA H100"
    memory: object = field(default_factory=lambda: SimpleNamespace(total=80 * GB, free=79 * GB, used=GB))
    compute: object = ()
    graphics: object = ()
    instances: object = None
    """None is a GPU without MIG, or with it turned off."""


def process(pid, used):
    return SimpleNamespace(pid=pid, usedGpuMemory=used)


def told(answer):
    if isinstance(answer, Exception):
        raise answer
    return answer


class FakeNVML:
    """The questions that `gpus` asks of pynvml, answered from a table of cards; an error in it has no handle."""

    NVMLError = pynvml.NVMLError
    NVMLLibraryMismatchError = pynvml.NVMLLibraryMismatchError
    NVML_DEVICE_MIG_DISABLE = pynvml.NVML_DEVICE_MIG_DISABLE
    NVML_DEVICE_MIG_ENABLE = pynvml.NVML_DEVICE_MIG_ENABLE

    def __init__(self, cards):
        self.cards = cards
        self.starts = 0

    def nvmlInit(self):  # noqa: N802  pynvml's name, as those below
        self.starts += 1
        if isinstance(self.cards, Exception):
            raise self.cards

    def __getattr__(self, name):
        return {
            "nvmlDeviceGetCount": lambda: len(self.cards),
            "nvmlDeviceGetHandleByIndex": lambda index: told(self.cards[index]),
            "nvmlDeviceGetName": lambda card: told(card.name),
            "nvmlDeviceGetMemoryInfo": lambda card: told(card.memory),
            "nvmlDeviceGetPciInfo": lambda card: SimpleNamespace(busId=told(card.bus_id)),
            "nvmlDeviceGetComputeRunningProcesses": lambda card: told(card.compute),
            "nvmlDeviceGetGraphicsRunningProcesses": lambda card: told(card.graphics),
            "nvmlDeviceGetMigMode": self._mig_mode,
            "nvmlDeviceGetMaxMigDeviceCount": lambda card: 7,
            "nvmlDeviceGetMigDeviceHandleByIndex": self._instance,
        }[name]

    def _mig_mode(self, card):
        if card.instances is None:
            raise UNKNOWN
        return [self.NVML_DEVICE_MIG_ENABLE if card.instances else self.NVML_DEVICE_MIG_DISABLE, 0]

    def _instance(self, card, index):
        if index >= len(card.instances):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return card.instances[index]


@pytest.fixture
def nvml(monkeypatch):
    """Puts a machine with these cards, or one whose NVML does not start, under the module."""

    def _nvml(cards):
        fake = FakeNVML(cards)
        monkeypatch.setattr(gpus, "pynvml", fake)
        return fake

    gpus._has_driver.cache_clear()
    yield _nvml
    gpus._has_driver.cache_clear()


# ---- what is there ----


@pytest.mark.parametrize(
    ("card", "gpu"),
    [
        (Card(), GPU("NVIDIA H100", "0000:01:00.0", 80 * GB, 79 * GB)),
        (Card(bus_id="00000000:AF:00.0"), GPU("NVIDIA H100", "0000:af:00.0", 80 * GB, 79 * GB)),
        (Card(bus_id="00010000:01:00.0"), GPU("NVIDIA H100", "10000:01:00.0", 80 * GB, 79 * GB)),  # behind a VMD
        (Card(name="NVIDIA GB10", memory=UNKNOWN), GPU("NVIDIA GB10", "0000:01:00.0", 0, 0)),  # the host's memory
        (Card(name=UNKNOWN), GPU("NVIDIA GPU", "0000:01:00.0", 80 * GB, 79 * GB)),
    ],
)
def test_a_gpu_is_known_by_its_place_on_the_bus(nvml, card, gpu):
    nvml([card])
    assert present_gpus() == (gpu,)


@pytest.mark.parametrize("broken", [BROKEN, Card(bus_id=BROKEN)])
def test_a_gpu_that_is_lost_does_not_hide_the_others(nvml, broken):
    nvml([Card(), broken, Card(bus_id="00000000:02:00.0", compute=[process(1, 5)])])
    assert [gpu.bus_id for gpu in present_gpus()] == ["0000:01:00.0", "0000:02:00.0"]
    assert gpu_memory_of([1]) == {"0000:02:00.0": 5}


@pytest.mark.parametrize(
    "failure",
    [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
     pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, pynvml.NVML_ERROR_UNKNOWN],
)  # fmt: skip
def test_without_a_driver_there_is_nothing_and_it_is_looked_for_once(nvml, failure):
    fake = nvml(pynvml.NVMLError(failure))
    assert [present_gpus(), gpu_memory_of([1]), present_gpus()] == [(), {}, ()]
    assert fake.starts == 1


def test_nvml_starts_with_the_first_question(nvml):
    fake = nvml([Card()])
    assert fake.starts == 0
    present_gpus()
    gpu_memory_of([1])
    assert fake.starts == 1


def test_this_machine_answers_whatever_it_has():
    gpus._has_driver.cache_clear()
    assert all(gpu.name and gpu.free <= gpu.total for gpu in present_gpus())
    assert gpu_memory_of([]) == {}


# ---- what processes hold ----


@pytest.mark.parametrize(
    ("card", "held"),
    [
        (Card(compute=[process(1, 5), process(2, 7), process(3, 11)]), 12),       # 3 is none of ours
        (Card(compute=[process(1, 5)], graphics=[process(2, 7)]), 12),
        (Card(compute=[process(1, 5)], graphics=[process(1, 5)]), 5),             # computes and draws
        (Card(compute=[process(1, None), process(2, 7)]), 7),                     # not available
        (Card(compute=[process(1, None)]), None),
        (Card(compute=[process(3, 11)]), None),
        (Card(), None),
        (Card(compute=[process(1, 5)], graphics=UNKNOWN), 5),
        (Card(compute=TOO_OLD, graphics=TOO_OLD), None),
        (Card(compute=[process(1, 5)], instances=[]), 5),                         # MIG is turned off
        (Card(compute=[process(1, 99)], instances=[Card(compute=[process(1, 5)]), Card(compute=[process(2, 7)])]), 12),
        (Card(instances=[Card(compute=[process(1, None)]), Card(compute=UNKNOWN)]), None),
    ],
)  # fmt: skip
def test_what_our_processes_hold_of_a_gpu(nvml, card, held):
    nvml([card])
    assert gpu_memory_of([1, 2]) == ({} if held is None else {"0000:01:00.0": held})


def test_each_gpu_has_its_own_sum(nvml):
    places = [f"00000000:{number:02X}:00.0" for number in range(8)]
    nvml([Card(bus_id=place, compute=[process(1, 10 + n)]) for n, place in enumerate(places)])
    assert gpu_memory_of({1}) == {f"0000:{n:02x}:00.0": 10 + n for n in range(8)}
