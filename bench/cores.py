"""What spinning threads are worth and what they cost: `python -m bench.cores`.

Engines differ in nothing but how long their threads spin. All figures are ratios to the same run: alone, to
spinning without limit; two at once, to one after the other; beside a busy process, to the same engine alone, next
to the share of the cores that is fair.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from statistics import median

import anyio

from a3s_power.devices import logical_cores, physical_cores
from a3s_power.errors import RunnerFailed
from a3s_power.runner.base import LoadSpec, Runner
from a3s_power.runner.calibration import answer, time_at_once
from a3s_power.runner.cores import SPINS, UNLIMITED, Cores
from a3s_power.runner.llamacpp import LlamaCppEngine
from demo import smollm2

ROUNDS = 3
PATIENCE = 5.0
"""Times as long as one after the other that two at once are waited for."""
BUSY = "import os, sys\nwhile os.getppid() == int(sys.argv[1]): pass"
NAMES = {0: "0 (passive)", UNLIMITED: "unlimited"}


def engine_with(cores: Cores, folder: str) -> LlamaCppEngine:
    return LlamaCppEngine(Path(folder), load_timeout_s=60, environ=os.environ, cores=lambda: cores)


@contextmanager
def busy_process() -> Iterator[None]:
    """One that keeps one core at work, and leaves when we do."""
    process = subprocess.Popen([sys.executable, "-c", BUSY, str(os.getpid())])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def fair_share() -> float:
    """Of its speed alone, for an engine beside one busy process: the cores, shared equally by all threads."""
    return min(1.0, logical_cores() / (physical_cores() + 1))


async def speeds(runners: Mapping[int, Runner]) -> dict[int, tuple[float, float]]:
    """Prefill and decode of each."""
    return {spin: await speed(runner) for spin, runner in runners.items()}


async def speed(runner: Runner) -> tuple[float, float]:
    """Prefill and decode; zeros for one that collapses: it is hung up on, and measured no more."""
    try:
        answers = [await answer(runner) for _ in range(ROUNDS)]
    except RunnerFailed:
        return 0.0, 0.0
    return median(each.prefill for each in answers), median(each.decode for each in answers)


async def two_at_once(runner: Runner, neighbour: Runner) -> float:
    ratios = [await time_at_once(runner, neighbour, PATIENCE)]
    while len(ratios) < ROUNDS and ratios[-1] < PATIENCE:  # what is hung up on is at it for a while yet
        ratios.append(await time_at_once(runner, neighbour, PATIENCE))
    return max(ratios) if ratios[-1] == PATIENCE else median(ratios)


async def curve(spec: LoadSpec, folder: str) -> None:
    async with AsyncExitStack() as engines:
        ways = {spin: engine_with(Cores(physical_cores(), spin), folder) for spin in sorted({0, *SPINS})}
        runners = {spin: await engines.enter_async_context(way.start(spec)) for spin, way in ways.items()}
        alone = await speeds(runners)
        with busy_process():
            beside = await speeds(runners)
        print(f"  {'spin':12} {'alone':>16} {'beside a busy one':>20} {'two at once':>14}")
        for spin, runner in runners.items():
            async with ways[spin].start(spec) as neighbour:
                at_once = await two_at_once(runner, neighbour)
            await answer(runner)
            print_row(spin, ratio(alone[spin], alone[UNLIMITED]), ratio(beside[spin], alone[spin]), at_once)


def ratio(figures: tuple[float, float], base: tuple[float, float]) -> tuple[float, float]:
    return figures[0] / base[0], figures[1] / base[1]


def print_row(spin: int, alone: tuple[float, float], beside: tuple[float, float], at_once: float) -> None:
    more = "> " if at_once == PATIENCE else ""
    print(f"  {NAMES.get(spin, spin):<12} {pair(alone):>16} {pair(beside):>20} {more + f'{at_once:.2f}':>14}")


def pair(figures: tuple[float, float]) -> str:
    return " / ".join(f"{figure:.2f}" for figure in figures)


def main() -> None:
    threads, cores = physical_cores(), logical_cores()
    print(f"{cores} cores, {threads} threads an engine; SmolLM2-135M Q4_1, {ROUNDS} rounds, prefill / decode")
    print(f"fair share beside one busy process: {fair_share():.2f}")
    spec = LoadSpec(str(smollm2.model_path()), num_ctx=512, num_gpu=0)
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        anyio.run(curve, spec, folder)


if __name__ == "__main__":
    main()
