"""The main of a process that packs weights: `python -P -m a3s_power.build.quantize_worker FILE TARGET N COUNT`.

Of all blocks of the model it packs each COUNT-th, from the N-th on, and writes them to its standard output.
It ends when there is nobody to read them. Imports little: one starts for each core.
"""

import os
import signal
import sys
from contextlib import suppress
from itertools import islice
from pathlib import Path

from a3s_power.build.packing import UNUSABLE, Block, Packing
from a3s_power.build.weights import are_finite, packed
from a3s_power.gguf import read_gguf

_NICENESS = 10  # models that answer go first


class Unpackable(Exception):
    """A weight is infinite or no number, before or after: llama.cpp refuses the model too."""


def packed_block(data: bytes, block: Block) -> bytes:
    """The block's bytes as its type has them."""
    name = block.tensor.name
    if len(data) < block.source.size_bytes:
        raise Unpackable("the model changed while it was read")
    if not are_finite(data, block.tensor.type):
        raise Unpackable(f"tensor '{name}' has invalid data: weights that are no finite numbers")
    result = packed(data, block.tensor.type, block.type)
    if not are_finite(result, block.type):
        raise Unpackable(f"tensor '{name}' has weights too large for {block.type}")
    return result


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
            rest = memoryview(packed_block(source.read(block.source.size_bytes), block))
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
