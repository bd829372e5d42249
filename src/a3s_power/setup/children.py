"""Programs that a set-up runs, one after the other: said line by line, and gone when we are interrupted."""

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from a3s_power.setup.errors import SetupFailed, failure

Say = Callable[[str], None]


def run(
    what: str, argv: Sequence[str], environ: Mapping[str, str], say: Say, *, keep_open: int | None = None
) -> str:
    """Run to the end and return what it wrote. Raises SetupFailed when it fails; `what` names it there.

    The child and its own children inherit `keep_open`, a lock: if we are killed, it is held until they are gone.
    There is no deadline: a download takes what it takes, the user sees its lines and can interrupt us.
    """
    lines = []
    with _started(what, argv, environ, () if keep_open is None else (keep_open,)) as child:
        assert child.stdout, "it is a pipe"
        try:
            for line in child.stdout:
                lines.append(line)
                say(line.rstrip())
            child.wait()
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            raise
    output = "".join(lines)
    if child.returncode:
        raise failure(what, output, child.returncode)
    return output


def _started(
    what: str, argv: Sequence[str], environ: Mapping[str, str], descriptors: tuple[int, ...]
) -> subprocess.Popen[str]:
    try:
        return subprocess.Popen(
            argv,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # so that we can end its children with it: venv runs pip
            pass_fds=descriptors,
        )
    except OSError as exc:
        raise SetupFailed(f"{what} could not be started: {exc}") from exc
