"""A process that owns a runner and gets killed.

    python -m tests.support.owner real|fake MODEL FOLDER loading|loaded

Prints the runner's pid as soon as it is in the state asked for, then waits for its end.
"""

import os
import sys
from pathlib import Path

import anyio

from a3s_power.runner.base import LoadSpec
from tests.support.engines import fake_engine, real_engine


async def own(kind: str, model: str, folder: str, state: str) -> None:
    engine = real_engine(Path(folder)) if kind == "real" else fake_engine(Path(folder))
    spec = LoadSpec(model, num_ctx=8192, slots=8)  # a pool that takes seconds to clear

    def on_progress(resident: int) -> None:
        if state == "loading" and resident > 100 << 20:
            children = [
                int(pid) for pid in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
            ]
            print(*children, flush=True)

    async with engine.start(spec, on_progress) as runner:
        print(runner.pid, flush=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(own, *sys.argv[1:])
