"""Writing a quantised model: every byte in its place, and no process left, however it ends."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import libgguf
import numpy as np
import psutil
import pytest

from a3s_power.build.packing import BLOCK_ELEMENTS
from a3s_power.build.quantize import Quantization, target_type
from a3s_power.build.tensor_types import FILE_TYPES
from a3s_power.errors import InvalidGGUF, InvalidRequest, QuantizationFailed, StoreFailed
from a3s_power.gguf import read_gguf, read_layout
from tests.support.gguf_files import F16, F32, UINT16, Typed, header_bytes, key_value_bytes, tensor_bytes

BF16 = 30
METADATA = {"general.architecture": "llama", "general.file_type": 1, "llama.block_count": 1}
ONES = np.ones((2, 256), np.float32)

WorkersLeft = Callable[[], list[psutil.Process]]


def normal(*shape: int) -> np.ndarray:
    """Weights in numpy's order: a row's width last."""
    return (np.random.default_rng(0).standard_normal(shape) * 0.05).astype(np.float32)


TENSORS = {
    "output.weight": (F16, normal(4200, 256)),                        # just over a block
    "blk.0.ffn_down_exps.weight": (F16, normal(3, 700, 768)),
    "blk.0.attn_v.weight": (BF16, normal(9, 512)),
    "blk.0.attn_k.weight": (F32, normal(9, 96)),                       # fits no block of 256
    "blk.0.attn_q.weight": (F16, normal(BLOCK_ELEMENTS // 48 + 2, 48)),  # nor of 32; blocks end within its rows
    "output_norm.weight": (F32, normal(7)),
    "v.blk.0.attn_v.weight": (F16, normal(3, 256)),
}  # fmt: skip


def write_model(path: Path, tensors: Mapping[str, Any] = TENSORS, metadata: Mapping[str, Any] = METADATA) -> Path:
    infos, data = [], b""
    for name, (type_, weights) in tensors.items():
        infos.append(tensor_bytes(name, weights.shape[::-1], type_, len(data)))
        stored = (
            (weights.view("<u4") >> 16).astype("<u2")
            if type_ == BF16
            else weights.astype("<f2" if type_ == F16 else "<f4")
        )
        data += stored.tobytes() + bytes(-stored.nbytes % 32)
    header = header_bytes([key_value_bytes(key, value) for key, value in metadata.items()], infos)
    path.write_bytes(header + bytes(-len(header) % 32) + data)
    return path


def quantization(path: Path, target: str = "Q4_K_M") -> Quantization:
    return Quantization(path, read_layout(path), target)


def quantised(path: Path, target: str = "Q4_K_M", workers: int = 2) -> Path:
    work, pieces = quantization(path, target), list[bytes]()
    work.write_to(pieces.append, workers)
    assert sum(map(len, pieces)) == work.size_bytes
    assert max(map(len, pieces)) <= 4 * BLOCK_ELEMENTS
    made = path.with_name(f"{path.name}-{target}-{workers}")
    made.write_bytes(b"".join(pieces))
    return made


@pytest.fixture
def workers_left() -> WorkersLeft:
    """Tells those that have not been reaped, at work or not. What other tests have started runs on meanwhile."""
    others = set(psutil.Process().children())
    return lambda: [child for child in psutil.Process().children() if child not in others]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model.gguf")


# The name of a type


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("q4_k_m", "Q4_K_M"),
        ("Q4_K", "Q4_K_M"),
        ("q4_K_s", "Q4_K_S"),
        ("f16", "F16"),
        ("bf16", "BF16"),
        ("Q8_0", "Q8_0"),
    ],
)
def test_a_type_may_be_spelt_in_any_case(text: str, expected: str) -> None:
    assert target_type(text) == expected


@pytest.mark.parametrize("text", ["", "q4_0", "Q6_K", "q8", " f16", "int4"])
def test_what_ollama_does_not_make_is_refused_in_its_words(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        target_type(text)
    assert str(caught.value) == (
        f"unsupported quantization type {text.upper()} - supported types are F32, F16, Q4_K_S, Q4_K_M, Q8_0"
    )


# What may be quantised


@pytest.mark.parametrize(("file_type", "expected"), [(0, "F32"), (1, "F16"), (32, "BF16"), (None, "F16")])
def test_the_source_says_its_type_or_its_matrices_do(tmp_path: Path, file_type: int | None, expected: str) -> None:
    metadata = {
        key: value for key, value in (METADATA | {"general.file_type": file_type}).items() if value is not None
    }
    assert quantization(write_model(tmp_path / "m", metadata=metadata)).source_type == expected


@pytest.mark.parametrize("file_type", [7, 15, 999, "F16"])
def test_what_is_quantised_already_is_refused(tmp_path: Path, file_type: object) -> None:
    path = write_model(tmp_path / "m", metadata=METADATA | {"general.file_type": file_type})
    with pytest.raises(InvalidRequest, match=r"^quantization is only supported for F16, BF16 and F32 models$"):
        quantization(path)


# Every byte


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("target", FILE_TYPES)
def test_each_tensor_is_as_if_made_whole(model: Path, target: str, workers: int) -> None:
    before = {tensor.name: tensor for tensor in gguf.GGUFReader(model).tensors}
    after = gguf.GGUFReader(quantised(model, target, workers)).tensors
    assert [tensor.name for tensor in after] == list(before)
    for tensor in after:
        source = before[tensor.name]
        data = source.data.view(np.uint8) if source.tensor_type.name == "BF16" else source.data
        whole = gguf.quants.dequantize(data, source.tensor_type)
        same = tensor.tensor_type == source.tensor_type
        expected = source.data if same else libgguf.quantize_rows(whole, int(tensor.tensor_type))
        assert tensor.data.tobytes() == expected.tobytes(), tensor.name


def test_metadata_are_kept_in_order_but_for_type_and_split(tmp_path: Path) -> None:
    of_split = {"split.no": Typed(UINT16, 0), "split.count": Typed(UINT16, 1), "llama.split.count": 1}
    old = {
        "general.quantization_version": 1,
        "general.name": b"not \xff utf-8",
        "tokenizer.ggml.tokens": ["a", "é"],
    }
    made = read_gguf(quantised(write_model(tmp_path / "m", metadata=of_split | METADATA | old)))
    assert list(made.metadata) == [
        "general.architecture", "llama.block_count", "general.name", "tokenizer.ggml.tokens",
        "general.file_type", "general.quantization_version",
    ]  # fmt: skip
    assert (made.file_type_name, made.metadata["general.quantization_version"], made.version) == ("Q4_K_M", 2, 3)


# Weights that llama.cpp refuses too


@pytest.mark.parametrize(
    ("name", "value", "target", "message"),
    [
        *(("blk.0.ffn_up.weight", bad, target, "has invalid data") for bad in (np.nan, -np.inf) for target in FILE_TYPES if target != "F32"),
        ("v.blk.0.ffn_up.weight", np.nan, "Q8_0", None),
        ("output_norm.weight", np.nan, "Q8_0", "has invalid data"),
        ("blk.0.ffn_up.weight", 7e4, "F16", "has weights too large for F16"),
        ("blk.0.ffn_up.weight", 7e4, "Q8_0", None),
        ("blk.0.ffn_up.weight", 1e7, "Q8_0", "has weights too large for Q8_0"),
        ("blk.0.ffn_up.weight", 1e7, "Q4_K_M", None),
        ("blk.0.ffn_up.weight", 1e10, "Q4_K_M", "has weights too large for Q4_K"),
        ("blk.0.attn_v.weight", 1e10, "Q4_K_S", "has weights too large for Q5_K"),
        ("output.weight", 1e10, "Q4_K_S", "has weights too large for Q6_K"),
        ("blk.0.ffn_up.weight", 3.4028e38, "BF16", "has weights too large for BF16"),
        ("blk.0.ffn_up.weight", 3.38e38, "BF16", None),
    ],
)  # fmt: skip
def test_a_weight_that_would_be_lost_is_told_with_its_tensor(
    tmp_path: Path, name: str, value: float, target: str, message: str | None, workers_left: WorkersLeft
) -> None:
    bad = ONES.copy()
    bad[1, 3] = value
    path = write_model(
        tmp_path / "m", {"output.weight": (F32, ONES), name: (F32, bad)}, METADATA | {"general.file_type": 0}
    )
    if message is None:
        quantised(path, target)
    else:
        with pytest.raises(InvalidGGUF, match=f"^tensor '{name}' {message}"):
            quantised(path, target)
    assert not workers_left()


# How it ends


class Stopped(Exception):
    """What a cancelled request raises out of `write`."""


@pytest.mark.parametrize("after_bytes", [0, 1000, 600_000, 1_200_000])
def test_when_write_raises_no_worker_is_left(model: Path, after_bytes: int, workers_left: WorkersLeft) -> None:
    written = 0

    def write(piece: bytes) -> None:
        nonlocal written
        written += len(piece)
        if written > after_bytes:
            raise Stopped

    with pytest.raises(Stopped):
        quantization(model).write_to(write, 2)
    assert not workers_left()


def test_it_can_be_cancelled_while_a_worker_stands_still(model: Path, workers_left: WorkersLeft) -> None:
    pieces: list[bytes] = []

    def write(piece: bytes) -> None:
        for worker in workers_left():
            worker.suspend()
        pieces.append(piece)
        if pieces[-2:] == [b"", b""]:  # nothing, and again: it waits
            raise Stopped

    with pytest.raises(Stopped):
        quantization(model).write_to(write, 2)
    assert not workers_left()


def test_a_killed_worker_is_an_error_and_takes_the_others_along(model: Path, workers_left: WorkersLeft) -> None:
    def write(_piece: bytes) -> None:
        for worker in workers_left()[:1]:
            worker.send_signal(signal.SIGKILL)

    with pytest.raises(QuantizationFailed, match=r"^quantization failed: a worker ended with status -9$"):
        quantization(model).write_to(write, 2)
    assert not workers_left()


def test_a_model_that_went_is_told(model: Path) -> None:
    work = quantization(model)
    model.unlink()
    with pytest.raises(StoreFailed, match=r"^cannot read the model: No such file"):
        work.write_to(len)


def test_a_worker_whose_reader_is_gone_ends(model: Path) -> None:
    """As when the server is killed."""
    command = [sys.executable, "-P", "-m", "a3s_power.build.quantize_worker", str(model), "Q8_0", "0", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as worker:
        assert worker.stdout
        worker.stdout.read(1)
        worker.stdout.close()
        assert worker.wait(timeout=30) == -signal.SIGPIPE


def test_workers_import_nothing_from_the_folder_that_we_were_started_in(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('somebody else's code')")
    monkeypatch.chdir(tmp_path)
    quantised(model)


def test_no_more_workers_start_than_there_is_work(tmp_path: Path, workers_left: WorkersLeft) -> None:
    counts = []
    path = write_model(tmp_path / "m", {"output.weight": (F16, ONES), "blk.0.attn_q.weight": (F16, ONES)})
    quantization(path).write_to(lambda _piece: counts.append(len(workers_left())), 9)
    assert max(counts) == 2


def test_workers_see_no_secret(model: Path, monkeypatch: pytest.MonkeyPatch, workers_left: WorkersLeft) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    seen: list[Mapping[str, str]] = []

    def look(_piece: bytes) -> None:
        if not seen:  # the last ones may be ending
            seen.extend(each.environ() for each in workers_left())

    quantization(model).write_to(look, 1)
    assert seen
    assert not any("HF_TOKEN" in environ for environ in seen)
    assert "HF_TOKEN" in os.environ
