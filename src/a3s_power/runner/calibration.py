"""Calibrates a machine, once: measures how engines share its cores best.

Engines with a small model are started in every way and asked in turn, so that what disturbs one of them, on
machines that others use too, disturbs the next as well.
"""

import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from secrets import token_hex
from statistics import median
from time import perf_counter

import anyio
import msgspec
import psutil
from anyio import to_thread

from a3s_power.devices import logical_cores, physical_cores
from a3s_power.errors import RunnerFailed
from a3s_power.files import write_whole
from a3s_power.generation import Done
from a3s_power.options import SamplingOptions
from a3s_power.runner.base import Engine, LoadSpec, Runner, Sampling
from a3s_power.runner.calibration_model import token_of, write_model
from a3s_power.runner.cores import Calibration, Cores, Machine, Measured, candidates

Tell = Callable[[str], None]
EngineWith = Callable[[Cores], Engine]
"""Makes engines that use the cores in this way."""

ROUNDS = 5
BUDGET_S = 25.0
"""After which no further round begins; each of the two parts has one."""
ANSWER_TIMEOUT_S = 60.0
"""For what takes a second on two cores."""
PATIENCE = 3.0
"""Times as long as one after the other that two at once are waited for: who needs more is not chosen anyway."""

MOST_OTHERS = 0.15
"""Share of the cores that other work may have while they are calibrated."""

PROMPT_LETTERS = 256
SAMPLING = Sampling(
    SamplingOptions(temperature=0.0), max_tokens=48, logit_bias={token_of("a"): 100.0}
)  # else it would be up to the engine which of equal logits wins: the one that ends the reply, say


@dataclass(frozen=True, slots=True)
class Answered:
    """One request: tokens per second, and the seconds that both parts of it took the engine."""

    prefill: float
    decode: float
    took_s: float


def this_machine(llama_server: str | None = None) -> Machine:
    """The one we are on, with the engine that comes with us or the program named."""
    return Machine(_cpu(), logical_cores(), physical_cores(), llama_server or f"xllamacpp {version('xllamacpp')}")


def share_at_work() -> float:
    """The share of all cores that is at work, looking for half a second."""
    return psutil.cpu_percent(0.5) / 100


async def calibrated(
    path: Path,
    machine: Machine,
    engine_with: EngineWith,
    tell: Tell,
    others: Callable[[], float] = share_at_work,
) -> Calibration:
    """What `path` holds for this machine, else what is measured now.

    That is kept there, unless other work went on before or after: no engine was alone then. Measuring takes about
    a minute, in which engines use all cores; `tell` gets a line for each step. Cancelling it leaves neither a
    process nor a file. Raises LoadFailed or RunnerFailed when an engine does not work, OSError when the file
    cannot be written.
    """
    if (kept := kept_in(path, machine)) is not None:
        return kept
    before = await to_thread.run_sync(others)
    calibration = Calibration(machine, await measure(candidates(), engine_with, tell))
    share = max(before, await to_thread.run_sync(others))
    tell(f"chosen: {calibration.choice}")
    if share <= MOST_OTHERS:
        await to_thread.run_sync(write_whole, path, encoded(calibration))
    else:
        tell(f"not kept: other work had {share:.0%} of the cores; calibrate again when the machine is idle")
    return calibration


# ---- the file ----


def kept_in(path: Path, machine: Machine) -> Calibration | None:
    """None unless the file is there, can be read and is about this machine."""
    try:
        calibration = msgspec.json.decode(path.read_bytes(), type=Calibration)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    return calibration if calibration.machine == machine else None


def encoded(calibration: Calibration) -> bytes:
    """What `kept_in` reads."""
    return msgspec.json.format(msgspec.json.encode(calibration)) + b"\n"


def _cpu() -> str:
    """`AMD EPYC 9654`; for ARM, which has no name there, the numbers of its parts."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # macOS
        return platform.processor()
    pairs = (line.partition(":") for line in lines)
    names = {value.strip() for key, _, value in pairs if key.strip() in {"model name", "CPU part"}}
    return ", ".join(sorted(names)) or platform.machine()


# ---- the figures ----


async def measure(ways: Sequence[Cores], engine_with: EngineWith, tell: Tell) -> tuple[Measured, ...]:
    """Figures of each way, in the same order. Owns all that it starts and writes."""
    with tempfile.TemporaryDirectory(prefix="a3s-cores-") as folder:
        model = Path(folder, "model.gguf")
        write_model(model)
        spec = LoadSpec(str(model), num_ctx=2 * PROMPT_LETTERS, num_gpu=0)
        async with AsyncExitStack() as engines:
            tell(f"starting {len(ways)} engines")
            runners = {cores: await engines.enter_async_context(engine_with(cores).start(spec)) for cores in ways}
            speeds = await _speeds(runners, tell)
            measured = []
            for cores, runner in runners.items():
                async with engine_with(cores).start(spec) as neighbour:
                    at_once = await _at_once(runner, neighbour, BUDGET_S / len(ways))
                await answer(runner)  # it may still be at what it was asked impatiently; then it is quiet
                tell(f"{cores}: two at once in {at_once:.2f} times the time of one after the other")
                measured.append(Measured(cores, *speeds[cores], at_once))
    return tuple(measured)


async def _speeds(runners: Mapping[Cores, Runner], tell: Tell) -> dict[Cores, tuple[float, float]]:
    """Tokens per second of prefill and of decode, each engine alone."""
    answers: dict[Cores, list[Answered]] = {cores: [] for cores in runners}
    for n in _rounds(BUDGET_S):
        tell(f"one at a time, round {n + 1} of {ROUNDS}")
        for cores, runner in runners.items():
            answers[cores].append(await answer(runner))
    return {
        cores: (median(each.prefill for each in given), median(each.decode for each in given))
        for cores, given in answers.items()
    }


async def _at_once(one: Runner, other: Runner, budget_s: float) -> float:
    ratios = []
    for _ in _rounds(budget_s):
        ratios.append(await time_at_once(one, other))
        if ratios[-1] == PATIENCE:
            return PATIENCE
    return median(ratios)


def _rounds(budget_s: float) -> Iterator[int]:
    start = perf_counter()
    for n in range(ROUNDS):
        if n == 0 or perf_counter() - start < budget_s:
            yield n


async def time_at_once(one: Runner, other: Runner, patience: float = PATIENCE) -> float:
    """Time that two engines take at once, divided by that in turn; `patience` at most: then it hangs up."""
    in_turn_s = (await answer(one)).took_s + (await answer(other)).took_s
    start = perf_counter()
    with anyio.move_on_after(patience * in_turn_s):
        try:
            async with anyio.create_task_group() as both:
                both.start_soon(answer, one)
                both.start_soon(answer, other)
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
    return min(patience, (perf_counter() - start) / in_turn_s)


async def answer(runner: Runner) -> Answered:
    """Let it continue a text that it has never seen, so that nothing of it is cached."""
    prompt = token_hex(PROMPT_LETTERS // 2)
    try:
        with anyio.fail_after(ANSWER_TIMEOUT_S):
            async with runner.complete(prompt, SAMPLING) as events:
                *_, last = [event async for event in events]
    except TimeoutError as exc:
        raise RunnerFailed(f"the engine took more than {ANSWER_TIMEOUT_S:.0f} s for a short text") from exc
    if not isinstance(last, Done) or not (last.timings.prompt_ns and last.timings.completion_ns):
        raise RunnerFailed("the engine does not tell how long it took")
    usage, prompt_s, completion_s = last.usage, last.timings.prompt_ns / 1e9, last.timings.completion_ns / 1e9
    return Answered(
        prefill=(usage.prompt_tokens - usage.cached_tokens) / prompt_s,
        decode=usage.completion_tokens / completion_s,
        took_s=prompt_s + completion_s,
    )
