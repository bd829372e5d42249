"""One operating-system process = one `async with`."""

import os
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
from anyio.abc import Process

from a3s_power.errors import LoadFailed, LoadFailure

LAST_WORDS_BYTES = 8192
GRACE_S = 5.0
"""Between SIGTERM and SIGKILL."""


@asynccontextmanager
async def running(
    argv: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str],
    ready: Callable[[Process], Awaitable[None]],
) -> AsyncIterator[Process]:
    """Own one process in a session of its own; gone, children included, when the block is left.

    `ready` is awaited before the body runs and raises what the caller should see when it never will be;
    its deadline is its own business. Output goes to the file `log`: nothing to drain or to fill up. The
    process's stdin is a pipe that we never write to: it should leave at end of file, which comes when we die.
    """
    try:
        with log.open("ab") as output:
            process = await anyio.open_process(
                argv, stdin=subprocess.PIPE, stdout=output, stderr=output, env=env, start_new_session=True
            )
    except OSError as exc:
        raise LoadFailed(f"the engine could not be started: {exc}", LoadFailure.OTHER) from exc
    try:
        await ready(process)
        yield process
    finally:
        with anyio.CancelScope(shield=True):  # cancellation must not skip the reaping
            await stop(process)


async def stop(process: Process) -> None:
    """SIGTERM, wait, SIGKILL, wait: to the process's whole group, whose number lasts as long as any of it."""
    if process.returncode is None:
        _signal_group(process, signal.SIGTERM)
        with anyio.move_on_after(GRACE_S):
            await process.wait()
    _signal_group(process, signal.SIGKILL)  # the leader, if it is still there, and whatever it left behind
    await process.wait()
    await process.aclose()


def _signal_group(process: Process, signum: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
        os.killpg(process.pid, signum)


def last_words(log: Path) -> str:
    """The end of what the process wrote."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LAST_WORDS_BYTES))
        return file.read().decode(errors="replace").strip()
