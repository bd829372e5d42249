"""A GGUF with its weights packed smaller: what llama.cpp's `llama-quantize` makes of it, tensor for tensor.

The work is that of processes, one for each core: the packing holds Python's lock. They and we know the same list
of blocks; each packs its share of them, in order, into its pipe, and we read the pipes in turn. Nothing is queued,
nothing is told: memory is bounded by what pipes hold, and a worker whose reader is gone, killed or not, ends by
itself.
"""

import fcntl
import os
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from io import FileIO
from itertools import cycle
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from typing import IO, Self

from a3s_power.build.copying import Opened, Original, Write, padding, preamble
from a3s_power.build.packing import UNUSABLE, Packing
from a3s_power.build.rewrite import number_value
from a3s_power.build.tensor_types import EMBEDDED, FILE_TYPES, SOURCES
from a3s_power.build.weights import are_finite
from a3s_power.devices import logical_cores
from a3s_power.environment import child_environment
from a3s_power.errors import InvalidGGUF, InvalidRequest, QuantizationFailed
from a3s_power.ggml_types import TENSOR_TYPES
from a3s_power.gguf import GGUF, Layout, Span, Tensor

_TYPE_AND_OFFSET = struct.Struct("<IQ")  # how an entry of the index ends
_NUMBERS = {type_.name: number for number, type_ in reversed(TENSOR_TYPES.items())}  # the first of two counts
_VERSION = 2  # GGML_QNT_VERSION of ggml.h
_PIPE_BYTES = 2**20  # most blocks fit in: their worker goes on with the next one meanwhile
_LAST_WORDS = 500  # characters
_PATIENCE_S = 0.25  # cancellation comes out of `write`, which a worker that has no core must not hold up
_WORKER = "a3s_power.build.quantize_worker"
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1"}  # numpy would start a thread for each core in each worker


def target_type(text: str) -> str:
    """`Q4_K_M` of `q4_k_m`, and of `q4_k`. Raises InvalidRequest."""
    type_ = text.upper()
    if type_ == "Q4_K":
        return "Q4_K_M"
    if type_ not in FILE_TYPES:
        raise InvalidRequest(
            f"unsupported quantization type {type_} - supported types are F32, F16, Q4_K_S, Q4_K_M, Q8_0"
        )
    return type_


class Quantization:
    """The GGUF at `path`, about to be written (version 3) with weights of the `target` type, a key of FILE_TYPES.

    Metadata are copied byte for byte and in order; those on the type are new, and those on splits go.
    Raises InvalidRequest unless its weights are whole ones: F32, F16 or BF16.
    """

    def __init__(self, path: Path, layout: Layout, target: str) -> None:
        gguf = layout.gguf
        self.source_type = _source_type(gguf)
        self.target_type = target
        if self.source_type not in SOURCES:
            raise InvalidRequest("quantization is only supported for F16, BF16 and F32 models")
        self._original = Original("the model", path, layout)
        self._packing = Packing(gguf, target)
        notes = {"general.file_type": FILE_TYPES[target], "general.quantization_version": _VERSION}
        gone = ("split.", f"{gguf.architecture}.split.")
        self._kept = [
            span for key, span in layout.key_values.items() if key not in notes and not key.startswith(gone)
        ]
        self._preamble = preamble(len(gguf.tensors), len(self._kept) + len(notes))
        self._notes = b"".join(number_value(key, value) for key, value in notes.items())
        spans = (*self._kept, *layout.tensors.values())
        header_bytes = len(self._preamble) + len(self._notes) + sum(span.size_bytes for span in spans)
        self._header_padding = padding(header_bytes, gguf.alignment)
        self.size_bytes = header_bytes + len(self._header_padding)
        self._offsets = {}
        start = self.size_bytes
        for tensor in gguf.tensors:
            self._offsets[tensor.name] = self.size_bytes - start
            size_bytes = self._packing.size_of(tensor)
            self.size_bytes += size_bytes + len(padding(size_bytes, gguf.alignment))

    def write_to(self, write: Write, workers: int | None = None) -> None:
        """Give `write` the file's `size_bytes` bytes, in pieces of some MiB. Blocks; stops if `write` raises.
        While it waits for its workers it gives `write` nothing, a few times a second.

        On so many processes, by default one for each core; none is left when this returns or raises. Raises
        QuantizationFailed if one of them could not do its part, StoreFailed if the file cannot be read.
        """
        with self._original.opened() as original:
            self._write_header(original, write)
            self._write_tensors(original, write, workers or logical_cores())

    def _write_header(self, original: Opened, write: Write) -> None:
        layout = self._original.layout
        write(self._preamble)
        for span in self._kept:
            original.copy(span, write)
        write(self._notes)
        for tensor in layout.gguf.tensors:  # a name need not be UTF-8: the entry's beginning is copied
            offset, size_bytes = layout.tensors[tensor.name]
            original.copy(Span(offset, size_bytes - _TYPE_AND_OFFSET.size), write)
            write(_TYPE_AND_OFFSET.pack(_NUMBERS[self._packing.type_of(tensor)], self._offsets[tensor.name]))
        write(self._header_padding)

    def _write_tensors(self, original: Opened, write: Write, workers: int) -> None:
        gguf = self._original.layout.gguf
        count = min(workers, sum(1 for _ in self._packing.blocks()))
        with _Crew(self._original.path, self.target_type, count) as crew:
            for tensor in gguf.tensors:
                if self._packing.type_of(tensor) == tensor.type:
                    span = Span(gguf.data_offset + tensor.offset, tensor.size_bytes)
                    original.copy(span, _checked(tensor, write))
                for block in self._packing.blocks_of(tensor):
                    write(crew.packed(block.size_bytes, lambda: write(b"")))
                write(padding(self._packing.size_of(tensor), gguf.alignment))


class _Crew:
    """The workers, whose blocks are taken in turn."""

    def __init__(self, path: Path, target: str, count: int) -> None:
        self._commands = [
            [sys.executable, "-P", "-m", _WORKER, str(path), target, str(number), str(count)]
            for number in range(count)
        ]
        self._owned = ExitStack()

    def __enter__(self) -> Self:
        with self._owned as owned:
            workers = [owned.enter_context(_Worker(command)) for command in self._commands]
            self._turns = cycle(workers)
            self._owned = owned.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._owned.close()

    def packed(self, size_bytes: int, wait: Callable[[], object]) -> bytearray:
        """The next block; `wait` is called now and then until it is there. Raises QuantizationFailed."""
        return next(self._turns).read(size_bytes, wait)


class _Worker:
    """One process; killed and reaped when it is left."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command

    def __enter__(self) -> Self:
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                bufsize=0,
                stderr=subprocess.PIPE,
                env=child_environment(os.environ, _ENVIRONMENT),
                start_new_session=True,
            )
        except OSError as exc:
            raise QuantizationFailed(f"quantization could not be started: {exc}") from exc
        assert isinstance(self._process.stdout, FileIO), "it is a pipe without a buffer"
        assert self._process.stderr, "it is a pipe"
        self._output, self._errors = self._process.stdout, self._process.stderr
        _widen(self._output)
        self._ready = DefaultSelector()
        self._ready.register(self._output, EVENT_READ)
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.wait()
        self._ready.close()
        self._output.close()
        self._errors.close()

    def read(self, size_bytes: int, wait: Callable[[], object]) -> bytearray:
        data = bytearray(size_bytes)
        rest = memoryview(
            data
        )  # filled in place: to copy what comes would take this process as long as to read it
        while rest:
            while not self._ready.select(_PATIENCE_S):
                wait()
            if not (count := self._output.readinto(rest)):
                raise self._failure()
            rest = rest[count:]
        return data

    def _failure(self) -> InvalidGGUF | QuantizationFailed:
        words = self._errors.read().decode(errors="replace").strip()[-_LAST_WORDS:]
        if (status := self._process.wait()) == UNUSABLE:
            return InvalidGGUF(words)
        return QuantizationFailed(f"quantization failed: {words or f'a worker ended with status {status}'}")


def _source_type(gguf: GGUF) -> str:
    """What the file says it is; of one that says nothing, the type of most weights in matrices."""
    if "general.file_type" in gguf.metadata:
        return gguf.file_type_name
    counts: Counter[str] = Counter()
    for tensor in gguf.tensors:
        counts[tensor.type] += tensor.element_count if len(tensor.shape) > 1 else 0
    return counts.most_common(1)[0][0] if counts else "unknown"


def _checked(tensor: Tensor, write: Write) -> Write:
    """`write`, for a tensor that is copied: InvalidGGUF if llama.cpp refuses it. Embedded ones it never sees."""
    if tensor.type not in SOURCES or tensor.name.startswith(EMBEDDED):
        return write

    def check(piece: bytes | bytearray) -> None:
        if not are_finite(piece, tensor.type):
            raise InvalidGGUF(f"tensor '{tensor.name}' has invalid data: weights that are no finite numbers")
        write(piece)

    return check


def _widen(pipe: IO[bytes]) -> None:
    if hasattr(fcntl, "F_SETPIPE_SZ"):  # elsewhere pipes have one size
        with suppress(OSError):  # beyond what its user may have
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
