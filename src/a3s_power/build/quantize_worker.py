"""The main of a process that packs weights: `python -m a3s_power.build.quantize_worker FILE TARGET NUMBER COUNT`.

Of all blocks of the model it packs each COUNT-th, from the NUMBER-th on, and writes them to its standard output.
It ends when there is nobody to read them. Imports little: one starts for each core.
"""

import os
import signal
import sys
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import libgguf
import numpy as np

from a3s_power.build.packing import UNUSABLE, Block, Packing
from a3s_power.gguf import read_gguf

_NICENESS = 10  # models that answer go first

Weights: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.float32]]"


class Unpackable(Exception):
    """A weight is no number, or too large for its type's scales: what is packed with it would be lost."""


def packed(data: bytes, block: Block) -> bytes:
    """The block's bytes as its type has them."""
    weights = _unpacked(data, block.tensor.type)
    largest = np.finfo(np.float32 if block.type in {"F32", "BF16"} else np.float16).max
    if not (np.abs(weights) <= largest).all():
        raise Unpackable(f"tensor '{block.tensor.name}' has weights that {block.type} cannot hold")
    rows = libgguf.quantize_rows(weights.reshape(1, -1), libgguf.GGMLQuantizationType[block.type])
    return bytes(rows)


def _unpacked(data: bytes, type_: str) -> Weights:
    match type_:
        case "F16":
            return np.frombuffer(data, "<f2").astype(np.float32)
        case "BF16":
            return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, "<f4")


def main(file: str, target: str, number: str, count: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; who started us decides
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # nobody reads any more
    with suppress(AttributeError, OSError):
        os.nice(_NICENESS)
    path = Path(file)
    blocks = islice(Packing(read_gguf(path), target).blocks(), int(number), None, int(count))
    with path.open("rb") as source, os.fdopen(sys.stdout.fileno(), "wb", buffering=0, closefd=False) as output:
        for block in blocks:
            source.seek(block.source.offset)
            rest = memoryview(packed(source.read(block.source.size_bytes), block))
            while rest:
                rest = rest[output.write(rest) :]


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Unpackable as exc:
        print(exc, file=sys.stderr)
        sys.exit(UNUSABLE)
    except Exception as exc:
        sys.exit(str(exc) or repr(exc))
