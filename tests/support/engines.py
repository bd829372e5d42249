"""Engines for tests: the real one, and the real runner driving a fake `llama-server`."""

import json
import os
from pathlib import Path

import psutil

from a3s_power.runner.llamacpp import LlamaCppEngine

FAKE_BINARY = str(Path(__file__).with_name("fake_engine.py"))
BARE_ENGINE = str(Path(__file__).with_name("bare_engine.py"))


def real_engine(runtime_dir: Path) -> LlamaCppEngine:
    return LlamaCppEngine(runtime_dir=runtime_dir, load_timeout_s=60, environ=os.environ)


def fake_engine(runtime_dir: Path, *, load_timeout_s: float = 60, **switches: object) -> LlamaCppEngine:
    """Switches as in `fake_engine.py`."""
    environ = {**os.environ, "LLAMA_ARG_FAKE": json.dumps(switches)}
    return LlamaCppEngine(
        runtime_dir=runtime_dir, load_timeout_s=load_timeout_s, environ=environ, llama_server=FAKE_BINARY
    )


def family_of(pid: int) -> list[psutil.Process]:
    """A process and all below it."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def wait_until_gone(processes: list[psutil.Process], timeout_s: float = 20) -> list[psutil.Process]:
    """Those that are still there after the time given; nobody should be."""
    _, alive = psutil.wait_procs(processes, timeout_s)
    return alive
