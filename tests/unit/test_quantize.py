"""Quantising as work: what is refused, what ends it, and what it leaves. That the numbers are right: `test_quantize_reference`."""

import subprocess
import sys

import numpy as np
import psutil
import pytest

from a3s_power.build.quantize import Quantization, target_type
from a3s_power.build.rewrite import WithKey
from a3s_power.errors import InvalidGGUF, InvalidRequest, QuantizationFailed
from a3s_power.gguf import read_gguf, read_layout
from tests.support.gguf_files import F16, F32, Q8_0, TensorSpec, write_gguf

WIDTH = 512


def source(path, rows=64, type_=F32, values=None, **metadata):
    metadata = {"general.architecture": "llama", "general.file_type": {F32: 0, F16: 1}.get(type_, 7)} | metadata
    tensors = {"output.weight": TensorSpec((WIDTH, rows), type_), "output_norm.weight": TensorSpec((WIDTH,))}
    write_gguf(path, metadata, tensors)
    if type_ in {F32, F16}:
        values = np.random.RandomState(0).randn(rows, WIDTH) if values is None else values
        data = bytearray(path.read_bytes())
        start = read_gguf(path).data_offset
        weights = values.astype({F32: "<f4", F16: "<f2"}[type_]).tobytes()
        data[start : start + len(weights)] = weights
        path.write_bytes(data)
    return path


def quantization(path, target="Q4_K_M"):
    return Quantization(path, read_layout(path), target)


def workers():
    return [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("q8_0", "Q8_0"), ("Q4_K", "Q4_K_M"), ("q4_k_s", "Q4_K_S"), ("bf16", "BF16"), ("F32", "F32"), ("f16", "F16")],
)
def test_types_are_named_in_any_case(text, expected):
    assert target_type(text) == expected


@pytest.mark.parametrize("text", ["Q9", "", "Q4_0", "Q4_K_L", "IQ4_NL"])
def test_other_types_are_refused(text):
    with pytest.raises(InvalidRequest, match=r"^unsupported quantization type .* - supported types are F32, F16, "):
        target_type(text)


@pytest.mark.parametrize("metadata", [{"general.file_type": 2}, {"general.file_type": 999}, {}])
def test_what_is_quantised_already_is_not_quantised_again(tmp_path, metadata):
    path = source(tmp_path / "m.gguf", type_=Q8_0, **metadata)
    with pytest.raises(InvalidRequest, match=r"^quantization is only supported for F16, BF16 and F32 models$"):
        quantization(path)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_it_is_the_same_file_on_any_number_of_workers(tmp_path, count):
    path = source(tmp_path / "m.gguf", rows=5000, type_=F16)  # in three blocks, of which one is short
    pieces, alone = [], []
    quantization(path).write_to(pieces.append, count)
    quantization(path).write_to(alone.append, 1)
    data = b"".join(pieces)
    assert data == b"".join(alone)
    assert len(data) == quantization(path).size_bytes
    (tmp_path / "q.gguf").write_bytes(data)
    result = read_gguf(tmp_path / "q.gguf")
    assert (result.file_type_name, result.metadata["general.quantization_version"]) == ("Q4_K_M", 2)
    assert [tensor.type for tensor in result.tensors] == ["Q6_K", "F32"]


def test_metadata_are_kept_but_for_those_on_type_and_split(tmp_path):
    metadata = {"a": "text", "split.count": 1, "general.quantization_version": 1, "z": ["x", "y"]}
    path = source(tmp_path / "m.gguf", **metadata)
    pieces = []
    quantization(path, "Q8_0").write_to(pieces.append)
    (tmp_path / "q.gguf").write_bytes(b"".join(pieces))
    result = read_gguf(tmp_path / "q.gguf").metadata
    assert list(result) == ["general.architecture", "a", "z", "general.file_type", "general.quantization_version"]
    assert (result["a"], list(result["z"]), result["general.file_type"]) == ("text", ["x", "y"], 7)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1e6])
@pytest.mark.parametrize("target", ["F16", "Q8_0", "Q4_K_M"])
def test_weights_that_no_scale_can_hold_are_refused_by_the_name_of_their_tensor(tmp_path, wrong, target):
    values = np.zeros((64, WIDTH))
    values[63, WIDTH - 1] = wrong
    path = source(tmp_path / "m.gguf", values=values)
    with pytest.raises(InvalidGGUF, match=r"^tensor 'output\.weight' has weights that \w+ cannot hold$"):
        quantization(path, target).write_to(lambda piece: None)
    assert workers() == []


def test_a_file_that_shrinks_meanwhile_is_told(tmp_path):
    path = source(tmp_path / "m.gguf", rows=5000)
    work = quantization(path)
    with path.open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(InvalidGGUF, match="changed while it was read"):
        work.write_to(lambda piece: None)
    assert workers() == []


class Enough(Exception):
    pass


def test_who_has_enough_leaves_no_worker(tmp_path):
    path = source(tmp_path / "m.gguf", rows=20_000)
    seen = []

    def write(piece):
        if workers():
            seen.extend(workers())
            raise Enough

    with pytest.raises(Enough):
        quantization(path).write_to(write)
    assert seen
    assert not any(worker.is_running() for worker in seen)


def test_a_worker_that_is_killed_is_told(tmp_path):
    path = source(tmp_path / "m.gguf", rows=20_000)

    def write(piece):
        for worker in workers():
            worker.kill()

    with pytest.raises(QuantizationFailed, match=r"^quantization failed: a worker ended with status -9$"):
        quantization(path).write_to(write)


def test_a_worker_ends_when_nobody_reads(tmp_path):
    path = source(tmp_path / "m.gguf", rows=20_000)
    argv = [sys.executable, "-m", "a3s_power.build.quantize_worker", path, "Q4_K_M", "0", "1"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as worker:
        assert worker.stdout.read(1)
        worker.stdout.close()
        assert worker.wait(20) != 0
        assert worker.stderr.read() == b""


def test_a_key_can_be_added_to_a_file(tmp_path):
    path = source(tmp_path / "m.gguf", **{"clip.has_vision_encoder": True})
    before = read_layout(path)
    work = WithKey(path, before, "clip.projector_type", "mlp")
    pieces = []
    work.write_to(pieces.append)
    data = b"".join(pieces)
    assert len(data) == work.size_bytes
    (tmp_path / "n.gguf").write_bytes(data)
    after = read_gguf(tmp_path / "n.gguf")
    assert after.metadata == {**before.gguf.metadata, "clip.projector_type": "mlp"}
    assert after.tensors == before.gguf.tensors
    assert data[after.data_offset :] == path.read_bytes()[before.gguf.data_offset :]
