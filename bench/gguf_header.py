"""How long the header of a model with a 256k-token vocabulary takes: `python -m bench.gguf_header [runs]`.

The target is 100 ms. The ratio is to reading the same bytes and doing nothing with them.
"""

import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

from a3s_power.gguf import Array, read_gguf
from tests.support.gguf_files import FLOAT32, INT32, TensorSpec, TypedArray, gguf_bytes

TOKENS, MERGES, TENSORS = 256_000, 250_000, 400
TARGET_MS = 100


def main(runs: int = 15) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large-vocabulary.gguf"
        path.write_bytes(synthetic())
        array = read_gguf(path).metadata["tokenizer.ggml.tokens"]
        assert isinstance(array, Array)
        raw_ms = median_ms(path.read_bytes, runs)
        parse_ms = median_ms(lambda: read_gguf(path), runs)
        decode_ms = median_ms(array.decode, runs)
        size_mib = path.stat().st_size / 2**20
    print(f"{TOKENS} tokens, scores, types, {MERGES} merges, {TENSORS} tensors; {size_mib:.1f} MiB; {runs} runs")
    print(f"read raw       {raw_ms:7.1f} ms")
    print(f"parse header   {parse_ms:7.1f} ms   {parse_ms / raw_ms:.0f}x raw   target {TARGET_MS} ms")
    print(f"decode tokens  {decode_ms:7.1f} ms")


def synthetic() -> bytes:
    """A GGUF whose strings are about as long as those of a large BPE vocabulary. Always the same bytes."""
    source = random.Random(0)
    words = ["x" * max(1, round(source.gauss(7, 3))) for _ in range(TOKENS)]
    metadata = {
        "general.architecture": "llama",
        "tokenizer.ggml.tokens": words,
        "tokenizer.ggml.scores": TypedArray(FLOAT32, [-1000.0] * TOKENS),
        "tokenizer.ggml.token_type": TypedArray(INT32, [1] * TOKENS),
        "tokenizer.ggml.merges": [f"{left} {right}" for left, right in zip(words, words[6000:], strict=False)],
    }
    return gguf_bytes(metadata, {f"blk.{i}.attn_q.weight": TensorSpec((32,)) for i in range(TENSORS)})


def median_ms(work: Callable[[], object], runs: int) -> float:
    took_s = []
    for _ in range(runs):
        start = perf_counter()
        work()
        took_s.append(perf_counter() - start)
    return median(took_s) * 1e3


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
