"""GGUF files that lie together: which of them are one model."""

import os

import pytest

from a3s_power.cli.gguf_sets import parts_beside, sort_out
from tests.support.gguf_files import TensorSpec, write_gguf

MODEL = {
    "general.architecture": "llama",
    "llama.block_count": 1,
    "llama.embedding_length": 64,
    "general.file_type": 7,
}
WIDER = MODEL | {"llama.embedding_length": 96}
EMBEDDER = {"general.architecture": "bert", "bert.embedding_length": 64, "bert.pooling_type": 1}
PROJECTOR = {"general.architecture": "clip", "clip.has_vision_encoder": True, "clip.vision.projection_dim": 96}
ADAPTER = {"general.architecture": "llama", "general.type": "adapter"}
TENSORS = {"v.blk.0.attn_q.weight": TensorSpec((96, 96)), "mm.2.weight": TensorSpec((32, 64))}
HALF, FULL = {"general.file_type": 1}, {"general.file_type": 0}


def sorted_out(tmp_path, files):
    """The models as file names, and the problems, of a folder with these files."""
    for name, metadata in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(metadata, bytes):
            (tmp_path / name).write_bytes(metadata)
        else:
            write_gguf(tmp_path / name, metadata, TENSORS)
    found = sort_out([tmp_path / name for name in files], tmp_path)
    models = [[str(file.path.relative_to(tmp_path)) for file in model.files] for model in found.models]
    return models, [str(problem).removeprefix(f"{tmp_path}/") for problem in found.problems]


PART = "m-Q8_0-0000{}-of-00002.gguf".format


@pytest.mark.parametrize(
    ("files", "models"),
    [
        ({"a.gguf": MODEL, "b.gguf": MODEL}, [["a.gguf"], ["b.gguf"]]),
        ({PART(2): {}, PART(1): MODEL}, [[PART(1), PART(2)]]),
        ({"m-00001-of-00001.gguf": MODEL}, [["m-00001-of-00001.gguf"]]),
        ({"a.gguf": MODEL, "p.gguf": PROJECTOR}, [["a.gguf", "p.gguf"]]),
        ({"a.gguf": MODEL, "mmproj-a.gguf": MODEL}, [["a.gguf", "mmproj-a.gguf"]]),  # its name says it too
        (
            {"a.gguf": MODEL, "b.gguf": MODEL, "p.gguf": PROJECTOR},
            [["a.gguf", "p.gguf"], ["b.gguf", "p.gguf"]],
        ),
        ({"a.gguf": MODEL, "p.gguf": PROJECTOR | FULL, "q.gguf": PROJECTOR | HALF}, [["a.gguf", "q.gguf"]]),
        ({"x/a.gguf": MODEL, "p.gguf": PROJECTOR}, [["x/a.gguf", "p.gguf"]]),
        ({"x/a.gguf": MODEL, "x/p.gguf": PROJECTOR, "q.gguf": PROJECTOR}, [["x/a.gguf", "x/p.gguf"]]),
        ({"x/a.gguf": MODEL, "y/p.gguf": PROJECTOR}, [["x/a.gguf"]]),
        ({"p.gguf": PROJECTOR, "l.gguf": ADAPTER}, []),
        (
            {"a.gguf": MODEL, "e.gguf": EMBEDDER, "p.gguf": PROJECTOR, "w.gguf": WIDER},
            [["a.gguf", "p.gguf"], ["e.gguf"], ["w.gguf"]],
        ),
        ({"x/a.gguf": WIDER, "p.gguf": PROJECTOR}, [["x/a.gguf"]]),
    ],
)
def test_what_belongs_together_is_one_model(files, models, tmp_path):
    assert sorted_out(tmp_path, files) == (models, [])


@pytest.mark.parametrize(
    ("files", "models", "problem"),
    [
        ({"a.gguf": MODEL, "b.gguf": b"version https://"}, [["a.gguf"]], "b.gguf: not a GGUF file"),
        ({PART(1): MODEL}, [], "m-Q8_0: only 1 of its 2 parts are here"),
        ({PART(1): MODEL, PART(3): {}}, [], "m-Q8_0: only 1 of its 2 parts are here"),
        ({PART(1): MODEL, PART(2): b"GGUF"}, [], f"{PART(2)}: the header is truncated"),
    ],
)
def test_what_is_damaged_or_incomplete_is_told_in_a_line(files, models, problem, tmp_path):
    found, problems = sorted_out(tmp_path, files)
    assert found == models
    assert len(problems) == 1
    assert problems[0].startswith(problem)


def test_the_parts_of_a_model_are_those_of_its_name(tmp_path):
    for name in [PART(1), PART(2), "m-Q8_0-00001-of-00003.gguf", "n-Q8_0-00002-of-00002.gguf", "m-Q8_0.gguf"]:
        (tmp_path / name).touch()
    assert parts_beside(tmp_path / PART(2)) == [tmp_path / PART(1), tmp_path / PART(2)]
    assert parts_beside(tmp_path / "m-Q8_0.gguf") == []


def test_what_cannot_be_opened_keeps_nobody_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.gguf")
    (tmp_path / "loop.gguf").symlink_to("loop.gguf")
    (tmp_path / "gone.gguf").symlink_to("nowhere")
    found = sort_out(tmp_path.iterdir(), tmp_path)
    assert found.models == ()
    assert [str(problem).removeprefix(f"{tmp_path}/") for problem in found.problems] == [
        "gone.gguf: No such file or directory",
        "loop.gguf: Too many levels of symbolic links",
        "pipe.gguf: it is no file",
    ]


@pytest.mark.parametrize(
    ("name", "stem"), [("m-Q8_0.gguf", "m-Q8_0"), ("M.GGUF", "M"), ("m-Q8_0-00001-of-00001.gguf", "m-Q8_0")]
)
def test_the_stem_is_the_name_without_what_makes_it_a_file(name, stem, tmp_path):
    write_gguf(tmp_path / name, MODEL)
    assert sort_out([tmp_path / name], tmp_path).models[0].stem == stem
