"""How fast models are quantised, on one core and on all: `python -m bench.quantize [MiB]`.

The source is one large F16 tensor of random weights. Speed is told of the source's bytes, and as a multiple of one
pass that reads the source and writes as many bytes as the result has.
"""

import os
import resource
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from a3s_power.build.quantize import Quantization
from a3s_power.devices import logical_cores
from a3s_power.gguf import read_layout
from a3s_power.units import MIB
from tests.support.gguf_files import F16, TensorSpec, write_gguf

TARGETS = ("Q8_0", "Q4_K_M")
ROUNDS = 3
WIDTH = 8192
SCALING_TARGET, MEMORY_TARGET_MIB = 1.8, 1536


def main(size_mib: int = 256) -> None:
    cores = logical_cores()
    print(f"{cores} cores; one F16 tensor of {size_mib} MiB; {ROUNDS} rounds")
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder, "source.gguf"), Path(folder, "result.gguf")
        write_source(source, size_mib)
        for target in TARGETS:
            quantization = Quantization(source, read_layout(source), target)
            one = seconds(partial(write, quantization, result, 1))
            many = seconds(partial(write, quantization, result, cores))
            copied = seconds(partial(copy, source, result, quantization.size_bytes))
            print(
                f"  {target:7} {size_mib / one:5.0f} MiB/s on one core, {one / many:.2f} times that on {cores} "
                f"(target {SCALING_TARGET}); reading and writing alone takes {copied / many:.2f} of the time"
            )
    ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * cores
    print(f"  most memory: {(ours + workers) // 1024} MiB with all workers (target {MEMORY_TARGET_MIB})")


def write_source(path: Path, size_mib: int) -> None:
    rows = size_mib * MIB // 2 // WIDTH
    metadata = {"general.architecture": "llama", "general.file_type": 1, "llama.block_count": 1}
    write_gguf(path, metadata, {"blk.0.attn_q.weight": TensorSpec((WIDTH, rows), F16, size_bytes=0)})
    source = np.random.default_rng(0)
    with path.open("ab") as file:
        for _ in range(rows // 32):
            file.write(source.standard_normal((32, WIDTH), np.float32).astype("<f2").tobytes())


def write(quantization: Quantization, path: Path, workers: int) -> None:
    with path.open("wb") as file:
        quantization.write_to(file.write, workers)
        os.fsync(file.fileno())


def copy(source: Path, target: Path, size_bytes: int) -> None:
    """Read all of the source, write so many bytes of it."""
    with source.open("rb") as reading, target.open("wb") as writing:
        while piece := reading.read(MIB):
            writing.write(piece[: max(0, size_bytes - writing.tell())])
        os.fsync(writing.fileno())


def seconds(work: Callable[[], object]) -> float:
    took = []
    for _ in range(ROUNDS):
        start = perf_counter()
        work()
        took.append(perf_counter() - start)
    return median(took)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
