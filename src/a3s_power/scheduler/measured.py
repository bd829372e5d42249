"""What runners really took: once a model has been loaded, this decides in place of an estimate."""

import logging
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Annotated, Literal

import msgspec

from a3s_power.files import write_whole
from a3s_power.runner.base import LoadSpec
from a3s_power.scheduler.placement import Need
from a3s_power.units import MIB

LAST_LOADS = 5
"""Loads that count: the largest of them decides, and one that leaked is forgotten after so many others."""
MAX_SPECS = 512
"""Different things loaded that are remembered; the one loaded longest ago goes."""
MAX_FILE_BYTES = 4 * MIB
"""Ten times what that many take."""

_BLOB_NAME = re.compile(r"sha256-[0-9a-fA-F]{64}", re.ASCII)

log = logging.getLogger(__name__)


_Natural = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class _Load(msgspec.Struct, frozen=True):
    pool: _Natural
    host: _Natural
    gpus: _Natural


_Loads = tuple[_Load, ...]
_Key = tuple[str, LoadSpec]  # the engine, and `_without_pool` of what it loaded


class _Row(msgspec.Struct):
    engine: str
    spec: LoadSpec
    loads: Annotated[_Loads, msgspec.Meta(min_length=1, max_length=LAST_LOADS)]


class _File(msgspec.Struct):
    version: Literal[1]
    rows: Annotated[list[_Row], msgspec.Meta(max_length=MAX_SPECS)]


class Measurements:
    """What runners really took, by what was loaded; kept in a file so that it outlives the server.

    A model is known by its blobs' names, so a store that moves keeps its figures; of files under other names,
    whose bytes may change, nothing is remembered. `engine` is its build and version: what another one took does
    not count. Only `save` may be called on another thread.
    """

    def __init__(self, path: Path | None, engine: str) -> None:
        """Reads the file. None keeps nothing; a file that is not ours is passed over with a warning."""
        self._path, self._engine = path, engine
        # The one loaded longest ago first. Replaced and never changed, for `save` reads it on another thread.
        self._seen: Mapping[_Key, _Loads] = {} if path is None else _read(path)
        self._saving = threading.Lock()
        self._has_warned = False

    def of(self, spec: LoadSpec) -> Need | None:
        """The most that it took in the last loads with a pool of just this size; None if there were none."""
        return _largest(load for load in self._loads(spec) if load.pool == spec.pool)

    def scaled(self, spec: LoadSpec, estimate: Callable[[LoadSpec], Need]) -> Need | None:
        """`of` for the nearest pool that was seen, and what `estimate` says that the pools differ by.

        So of an estimate that is wrong by some hundred MB only its slope remains. None if no pool was seen.
        """
        pools = (load.pool for load in self._loads(spec))
        near = replace(spec, kv_pool=min(pools, key=lambda pool: abs(pool - spec.pool), default=spec.pool))
        if (seen := self.of(near)) is None:
            return None
        before, after = estimate(near), estimate(spec)
        return Need(
            max(0, seen.host + after.host - before.host),
            max(0, seen.gpu + after.gpu - before.gpu),
        )

    def record(self, spec: LoadSpec, held: Need) -> bool:
        """Remember the most that one load took; once for each load. True if that is worth a `save`."""
        is_gone = held.host == 0  # a process that has ended holds nothing: this was no measurement
        if is_gone or not _is_all_blobs(spec):
            return False
        key, before = self._key(spec), self._loads(spec)
        loads = (*before, _Load(spec.pool, held.host, held.gpu))[-LAST_LOADS:]
        others = [item for item in self._seen.items() if item[0] != key]
        self._seen = dict([*others, (key, loads)][-MAX_SPECS:])
        return loads != before

    def save(self) -> None:
        """Write the file, whole or not at all. What fails is said once in the log. Not for the event loop."""
        if self._path is None:
            return
        with self._saving:  # else of two saves at once the older one might be the last
            rows = [_Row(engine, spec, loads) for (engine, spec), loads in self._seen.items()]
            try:
                write_whole(self._path, msgspec.json.encode(_File(1, rows)))
            except OSError as exc:
                self._warn_once(exc)

    def _key(self, spec: LoadSpec) -> _Key:
        return self._engine, _without_pool(spec)

    def _loads(self, spec: LoadSpec) -> _Loads:
        return self._seen.get(self._key(spec), ())

    def _warn_once(self, exc: OSError) -> None:
        if not self._has_warned:
            log.warning("cannot keep what runners took", extra={"path": self._path, "error": exc})
        self._has_warned = True


def _without_pool(spec: LoadSpec) -> LoadSpec:
    """What is loaded, but for the pool, for all that takes no memory, and for the folders the files lie in.

    `num_ctx` is among these: it bounds one request, and the engine allocates the pool.
    """
    return replace(
        spec,
        model_path=PurePath(spec.model_path).name,
        projector_paths=tuple(PurePath(path).name for path in spec.projector_paths),
        adapter_paths=tuple(PurePath(path).name for path in spec.adapter_paths),
        draft_path=spec.draft_path and PurePath(spec.draft_path).name,
        num_ctx=0,
        is_ctx_automatic=False,
        kv_pool=0,
        devices=(),
        num_thread=0,
    )


def _is_all_blobs(spec: LoadSpec) -> bool:
    paths = (spec.model_path, *spec.projector_paths, *spec.adapter_paths, *filter(None, (spec.draft_path,)))
    return all(_BLOB_NAME.fullmatch(PurePath(path).name) for path in paths)


def _largest(loads: Iterable[_Load]) -> Need | None:
    """Host and GPUs each by itself: room must be found in both."""
    seen = list(loads)
    return Need(max(load.host for load in seen), max(load.gpus for load in seen)) if seen else None


# ---- the file ----


def _read(path: Path) -> Mapping[_Key, _Loads]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise ValueError(f"larger than {MAX_FILE_BYTES} bytes")
        rows = msgspec.json.decode(data, type=_File).rows
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, msgspec.DecodeError, RecursionError) as exc:
        log.warning("passing over what runners took", extra={"path": path, "error": exc})
        return {}
    return {(row.engine, row.spec): row.loads for row in rows}
