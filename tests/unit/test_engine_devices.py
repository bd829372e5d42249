"""Which GPUs an engine can use, read from what engines print; and that asking leaves no process behind."""

import json
import os
import sys

import anyio
import msgspec
import psutil
import pytest

from a3s_power.gpus import GPU
from a3s_power.runner import devices
from a3s_power.runner.devices import (
    Device,
    binary_devices,
    idle_gpus,
    library_devices,
    listed_by_binary,
    listed_by_library,
)
from a3s_power.units import MIB

GIB = 1024 * MIB
CPU, GPU_KIND, INTEGRATED, ACCELERATOR = "CPU", "GPU", "IGPU", "ACCEL"

# ---- the library ----


def row(name, kind=GPU_KIND, *, description="A GPU", device_id=""):
    return {"name": name, "description": description, "memory_total": 8 * GIB, "memory_free": 7 * GIB,
            "device_id": device_id, "type": f"GGML_BACKEND_DEVICE_TYPE_{kind}"}  # fmt: skip


def listed(rows, log=""):
    return listed_by_library(f"{log}{json.dumps(rows)}\n")


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], []),
        ([row("CPU", CPU)], []),
        ([row("BLAS", ACCELERATOR), row("CUDA0"), row("CPU", CPU)], ["CUDA0"]),
        ([row(f"CUDA{n}") for n in range(8)], [f"CUDA{n}" for n in range(8)]),
        ([row("Vulkan0", INTEGRATED), row("CPU", CPU)], []),
        ([row("Vulkan0", INTEGRATED), row("Vulkan1")], ["Vulkan1"]),      # an integrated one beside a card
        ([row("SYCL0", INTEGRATED), row("ROCm0", INTEGRATED)], []),
        ([row("CUDA0", INTEGRATED)], ["CUDA0"]),                          # Jetson, GB10
        ([row("CUDA0", INTEGRATED), row("CUDA1")], ["CUDA1"]),            # llama.cpp would not use both either
        ([row("MTL0", description="Apple M3 Max")], ["MTL0"]),
    ],
)  # fmt: skip
def test_the_usable_gpus_of_the_library(rows, expected):
    assert [device.name for device in listed(rows)] == expected


ROCM_LOG = """ggml_cuda_init: found 2 ROCm devices:
  Device 0: AMD Radeon Graphics, gfx1036 (0x1036), VMM: no, Wave Size: 32, VRAM: 512 MiB
  Device 1: AMD Radeon 8060S Graphics, gfx1151 (0x1151), VMM: no, Wave Size: 32, VRAM: 98304 MiB
"""


@pytest.mark.parametrize(("name", "is_usable"), [("ROCm0", False), ("ROCm1", True), ("Vulkan1", False)])
def test_one_integrated_gpu_of_amd_is_worth_it(name, is_usable):
    assert [device.name for device in listed([row(name, INTEGRATED)], ROCM_LOG)] == [name] * is_usable


def test_all_that_the_library_says_of_a_device():
    rows = [row("CUDA0", description="NVIDIA H100", device_id="0000:AF:00.0")]
    assert listed(rows) == (Device("CUDA0", "NVIDIA H100", 8 * GIB, 7 * GIB, False, "0000:af:00.0"),)


@pytest.mark.parametrize(
    ("row", "is_integrated"),
    [
        (row("CUDA0"), False),
        (row("CUDA0", INTEGRATED), True),
        (row("MTL0", description="Apple M1"), True),  # "GPU" to Metal
        (row("MTL0", description="AMD Radeon Pro 5500M"), False),
    ],
)
def test_whose_memory_a_device_has(row, is_integrated):
    assert [device.is_integrated for device in listed([row])] == [is_integrated]


def test_a_backends_own_lines_do_not_disturb():
    said = f"waking up\n{json.dumps([row('CUDA0')])}\ngoodbye\n"
    assert [device.name for device in listed_by_library(said)] == ["CUDA0"]


@pytest.mark.parametrize("said", ["", "\n", "nothing", "{}", '[{"name": "CUDA0"}]', "[1]"])
def test_an_answer_that_cannot_be_read(said):
    with pytest.raises(msgspec.DecodeError):
        listed_by_library(said)


# ---- the binary ----

CUDA_LOG = """ggml_cuda_init: found 1 CUDA devices:
  Device 0: NVIDIA GeForce RTX 4060 Ti, compute capability 8.9, VMM: yes, VRAM: 16379 MiB
Available devices:
  CUDA0: NVIDIA GeForce RTX 4060 Ti (16379 MiB, 14900 MiB free)
"""
VULKAN_LOG = """ggml_vulkan: Found 2 Vulkan devices:
ggml_vulkan: 0 = Intel(R) Graphics (Intel open-source Mesa driver) | uma: 1 | fp16: 1 | bf16: 0 | warp size: 32
ggml_vulkan: 1 = NVIDIA GeForce RTX 4080 Laptop GPU (NVIDIA) | uma: 0 | fp16: 1 | bf16: 0 | warp size: 32
"""
INTEL = "  Vulkan0: Intel(R) Graphics (16384 MiB, 12288 MiB free)\n"
NVIDIA = "  Vulkan1: NVIDIA GeForce RTX 4080 Laptop GPU (12282 MiB, 11000 MiB free)\n"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("", ()),
        ("Available devices:\n", ()),
        ("Available devices:\n  BLAS: OpenBLAS (0 MiB, 0 MiB free)\n", ()),
        (CUDA_LOG, (Device("CUDA0", "NVIDIA GeForce RTX 4060 Ti", 16379 * MIB, 14900 * MIB),)),
        (
            "  ROCm0: AMD Radeon Pro (R9) (16368 MiB, 16342 MiB free)\r\n",
            (Device("ROCm0", "AMD Radeon Pro (R9)", 16368 * MIB, 16342 * MIB),),
        ),
        (
            "  Metal: Apple M3 Max (98304 MiB, 98303 MiB free)\n",
            (Device("Metal", "Apple M3 Max", 98304 * MIB, 98303 * MIB, True),),
        ),
        (VULKAN_LOG + INTEL, ()),
        (
            VULKAN_LOG + INTEL + NVIDIA,
            (Device("Vulkan1", "NVIDIA GeForce RTX 4080 Laptop GPU", 12282 * MIB, 11000 * MIB),),
        ),
    ],
)
def test_the_usable_gpus_of_a_llama_server(said, expected):
    assert listed_by_binary(said) == expected


# ---- asking ----


@pytest.fixture
def program(tmp_path):
    """A shell script in place of an engine."""

    def _program(text):
        path = tmp_path / "engine"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return str(path)

    return _program


@pytest.mark.anyio
async def test_the_engine_that_comes_with_us_answers(caplog):
    found = await library_devices(os.environ)
    assert all(device.total >= device.free >= 0 for device in found)
    assert caplog.records == []


@pytest.mark.anyio
async def test_a_binary_is_asked_for_its_devices_and_sees_no_secret(program):
    engine = program('[ "$1" = --list-devices ] && echo "  CUDA0: H100${HF_TOKEN} (8 MiB, 7 MiB free)"')
    environ = {"PATH": os.environ["PATH"], "HF_TOKEN": "secret"}
    assert await binary_devices(engine, environ) == (Device("CUDA0", "H100", 8 * MIB, 7 * MIB),)


@pytest.mark.anyio
async def test_another_environments_python_is_asked(program):
    said = json.dumps([row("CUDA3")])
    assert [device.name for device in await library_devices({}, program(f"echo '{said}'"))] == ["CUDA3"]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'ImportError: libgomp.so.1: cannot open shared object file' >&2; exit 1", "libgomp.so.1"),
        ("exit 3", "exit status 3"),
        ("kill -SEGV $$", "SIGSEGV"),
        ("echo nothing", "malformed"),
    ],
)
async def test_an_engine_that_does_not_tell_has_no_gpus_and_the_log_says_why(program, caplog, script, reason):
    assert await library_devices({"PATH": os.environ["PATH"]}, program(script)) == ()
    [record] = caplog.records
    assert reason in str(record.error)


@pytest.mark.anyio
async def test_an_engine_that_is_not_there(caplog, tmp_path):
    assert await binary_devices(str(tmp_path / "none"), {}) == ()
    assert "No such file" in str(caplog.records[0].error)


@pytest.mark.anyio
async def test_an_engine_that_hangs_is_ended(program, tmp_path, caplog, monkeypatch):
    """It waits for a writer that never comes."""
    monkeypatch.setattr(devices, "TIMEOUT_S", 0.01)
    os.mkfifo(tmp_path / "never")
    assert await binary_devices(program(f"read line < {tmp_path}/never"), dict(os.environ)) == ()
    assert "no answer" in str(caplog.records[0].error)


@pytest.mark.anyio
async def test_who_asks_and_is_cancelled_leaves_no_process(tmp_path):
    """The engine tells its number through one pipe, then waits at another for a writer that never comes."""
    os.mkfifo(tmp_path / "pid")
    os.mkfifo(tmp_path / "never")
    engine = tmp_path / "engine"
    engine.write_text(
        f"#!{sys.executable}\nimport os\nopen('{tmp_path}/pid', 'w').write(str(os.getpid()))\nopen('{tmp_path}/never')\n"
    )
    engine.chmod(0o755)
    async with anyio.create_task_group() as group:
        group.start_soon(binary_devices, str(engine), dict(os.environ))
        pid = int(await anyio.to_thread.run_sync((tmp_path / "pid").read_text))
        group.cancel_scope.cancel()
    assert not psutil.pid_exists(pid)


# ---- a GPU that lies idle ----

H100 = GPU("NVIDIA H100", "0000:01:00.0", 80 * GIB, 80 * GIB)
RTX = GPU("NVIDIA GeForce RTX 4090", "0000:02:00.0", 24 * GIB, 24 * GIB)


def device(name, bus_id):
    return Device(name, "any", 8 * GIB, 8 * GIB, bus_id=bus_id)


@pytest.mark.parametrize(
    ("present", "usable", "named"),
    [
        ([], [], None),
        ([], [device("CUDA0", H100.bus_id)], None),
        ([H100], [device("CUDA0", H100.bus_id)], None),
        ([H100, RTX], [device("CUDA0", RTX.bus_id)], None),       # CUDA_VISIBLE_DEVICES hides the other
        ([H100], [device("CUDA0", "")], None),                    # a binary does not say which it is
        ([H100], [], "NVIDIA H100"),
        ([H100], [device("ROCm0", "0000:09:00.0")], "NVIDIA H100"),
        ([H100, RTX], [], "NVIDIA H100, NVIDIA GeForce RTX 4090"),
        ([H100] * 8, [], "8 × NVIDIA H100"),
    ],
)  # fmt: skip
def test_a_gpu_that_the_engine_cannot_use_is_named_with_what_helps(present, usable, named):
    warning = idle_gpus(present, usable)
    if named is None:
        assert warning is None
    else:
        assert warning == f"the engine cannot use {named}; `a3s-power setup engine cuda` installs one that can"
