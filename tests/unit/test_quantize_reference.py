"""Our quantiser against llama.cpp's own, whose results `tests/data/quantize` keeps."""

import json
import platform
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from a3s_power.build.quantize import Quantization
from a3s_power.gguf import read_layout
from tests.support.quantize_sources import CASES, SOURCES, Case, digests

_FILE = Path(__file__).parents[1] / "data" / "quantize" / "digests.json"
REFERENCE: dict[str, dict[str, str]] = json.loads(_FILE.read_text(encoding="utf-8"))["cases"]

pytestmark = pytest.mark.skipif(
    platform.machine() not in {"x86_64", "AMD64"},
    reason="llama.cpp itself may round otherwise on other processors",
)

Original = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Original:
    """A source's file, its matrices in some type. Each is made once."""
    folder = tmp_path_factory.mktemp("sources")
    return cache(lambda name, type_: SOURCES[name].write(folder / f"{name}-{type_}.gguf", type_))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_tensor_is_what_llama_cpp_makes_of_it(case: Case, original: Original, tmp_path: Path):
    ours = _quantized(original(case.source, case.type), tmp_path / "ours.gguf", case.target)
    theirs = REFERENCE[str(case)]
    differences = [
        f"{name}: {ours.get(name)}, llama.cpp has {theirs.get(name)}"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]
    assert not differences, "\n" + "\n".join(differences)


@pytest.mark.parametrize("workers", [2, 3])
def test_as_many_processes_as_there_are_make_the_same(workers: int, original: Original, tmp_path: Path):
    ours = _quantized(original("llama", "F16"), tmp_path / "ours.gguf", "Q4_K_M", workers)
    assert ours == REFERENCE[str(Case("llama", "F16", "Q4_K_M"))]


def test_the_reference_has_every_case_and_no_other():
    assert set(REFERENCE) == set(map(str, CASES))


def _quantized(original: Path, made: Path, target: str, workers: int = 1) -> dict[str, str]:
    with made.open("wb") as file:
        Quantization(original, read_layout(original), target).write_to(file.write, workers)
    return digests(made)
