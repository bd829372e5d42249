"""The child's main: one engine, serving on the Unix socket it is told, until its parent is gone.

    python -m a3s_power.runner.host '{"socket": "/run/…/s", "params": {"model.path": "/…/blob", "n_ctx": 8192}}'
    python -m a3s_power.runner.host '{"socket": "/run/…/s", "binary": "/usr/bin/llama-server", "argv": [...]}'

The first form runs the engine inside this process (`xllamacpp`), the second as a child of it. The parent holds the
other end of our stdin and never writes: end of file there means that it has ended, and so do we. What the engine
has to say goes to stderr. Imports nothing but what it must: this program starts each time a model loads.
"""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any


def main() -> None:
    """Read the one argument and serve."""
    request = json.loads(sys.argv[1])
    socket = Path(request["socket"])
    if "binary" in request:
        run_binary([request["binary"], *request["argv"]], socket)
    else:
        run_library(request["params"], socket)


def run_library(params: dict[str, Any], socket: Path) -> None:
    """Serve with the engine in this process. Ends by SIGTERM or at the end of stdin."""
    _die_with_parent_while_loading()
    import xllamacpp

    common = xllamacpp.CommonParams()
    common.hostnames = [str(socket)]
    adapters = params.pop("lora_adapters", [])
    common.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path=path) for path in adapters]
    for path, value in params.items():
        _assign(common, path, value)
    try:
        _server = xllamacpp.Server(common)  # returns when the model is loaded; holds the GIL until then
    except RuntimeError as exc:
        sys.exit(str(exc))  # the reason stands above, in the engine's own words
    if sys.platform == "linux":
        signal.signal(signal.SIGIO, signal.SIG_IGN)  # from here on a read tells us, and we can tidy up
    _wait_for_end_of_stdin()
    _remove(socket)
    os._exit(0)  # the engine's destructors would wait for open requests


def _assign(common: object, path: str, value: object) -> None:
    """Set `cpuparams.n_threads`; a string for an attribute that is an enum names one of its members.

    So does each of a list of strings, for an attribute that has enums in a list.
    """
    *parents, name = path.split(".")
    target = common
    for parent in parents:
        target = getattr(target, parent)
    current = getattr(target, name)
    if isinstance(value, str) and hasattr(type(current), "__members__"):
        value = type(current)[value]
    if isinstance(value, list) and current and hasattr(type(current[0]), "__members__"):
        value = [type(current[0])[member] for member in value]
    setattr(target, name, value)


def _die_with_parent_while_loading() -> None:
    """Have the kernel end us when stdin does: no thread of ours runs while the engine loads.

    SIGIO, which by default terminates on Linux, is sent when an asynchronous descriptor becomes readable.
    """
    if sys.platform != "linux":
        return
    import fcntl

    fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([0], [], [], 0)[0]:
        sys.exit("the parent is gone")  # before we could ask to be told


def _wait_for_end_of_stdin() -> None:
    while os.read(0, 4096):
        pass


def run_binary(argv: list[str], socket: Path) -> None:
    """Serve with a `llama-server` of the user's own; we end when it does, and it ends when we do."""
    child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, preexec_fn=_kill_when_parent_dies)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    is_orphan = threading.Event()
    threading.Thread(target=_end_with_stdin, args=(child, is_orphan), daemon=True).start()
    status = child.wait()
    if is_orphan.is_set():
        _remove(socket)
    if status < 0:  # die the same way: who looks at us wants to know how the engine ended
        with suppress(OSError):  # of SIGKILL, which is so already
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


def _end_with_stdin(child: subprocess.Popen[bytes], is_orphan: threading.Event) -> None:
    _wait_for_end_of_stdin()
    is_orphan.set()
    child.kill()


def _kill_when_parent_dies() -> None:
    """Linux: should we be killed, the kernel kills the engine. PR_SET_PDEATHSIG is 1 in <sys/prctl.h>."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _remove(socket: Path) -> None:
    """Take the private folder around the socket away; our parent cannot any more."""
    shutil.rmtree(socket.parent, ignore_errors=True)


if __name__ == "__main__":
    main()
