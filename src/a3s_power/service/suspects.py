"""Requests that have ended runners: remembered for a while, and not tried again."""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from a3s_power.errors import RunnerGone, RunnerLost, Suspected

KILLS = 2
"""Runners that a request may end; each time others lose theirs, too."""
REMEMBERED_S = 600.0
MOST = 1024


@dataclass(slots=True)
class _Kills:
    pids: set[int] = field(default_factory=set)
    """Of runners: several requests that are alike may have been at the same one."""
    last: float = 0.0


class Suspects:
    """What was asked of runners when they were lost.

    Nobody can tell which of the requests at a runner ended it, so all are suspected; not those that never got
    there. An innocent one has to meet a guilty one twice.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kills: OrderedDict[bytes, _Kills] = OrderedDict()  # by digest

    @contextmanager
    def watching(self, request: object) -> Iterator[None]:
        """Serve a request, whose `repr` is all that matters of it. Raises Suspected for one that is not served."""
        if self._kills:  # or nobody needs to look at it
            self._check(_digest(request))
        try:
            yield
        except RunnerGone:
            raise
        except RunnerLost as exc:
            self._blame(_digest(request), exc.pid)
            raise

    def _check(self, digest: bytes) -> None:
        kills = self._kills.get(digest)
        if kills is None:
            return
        if self._clock() - kills.last > REMEMBERED_S:
            del self._kills[digest]
        elif len(kills.pids) >= KILLS:
            raise Suspected(
                f"this request has ended the model's runner {len(kills.pids)} times and is not tried again for "
                f"{REMEMBERED_S / 60:.0f} minutes; a different prompt, context length or model may do"
            )

    def _blame(self, digest: bytes, pid: int) -> None:
        kills = self._kills.pop(digest, None) or _Kills()
        kills.pids.add(pid)
        kills.last = self._clock()
        self._kills[digest] = kills
        if len(self._kills) > MOST:
            self._kills.popitem(last=False)


def _digest(request: object) -> bytes:
    return hashlib.blake2b(repr(request).encode(errors="surrogatepass"), digest_size=16).digest()
