"""`FROM` a folder: which of its files are the model."""

import pytest

from a3s_power.cli.model_folder import adapters_of, files_of, parts_of
from a3s_power.errors import InvalidModelfile
from tests.support.api import tiny_gguf
from tests.support.gguf_files import write_gguf


def filled(folder, *names):
    """Files by their names: those with `lora` and `mmproj` are such, those with `.gguf` models, others are text."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not name.endswith((".gguf", "ggml.bin")):
            path.write_text("text")
        elif "lora" in name:
            write_gguf(path, {"general.architecture": "llama", "general.type": "adapter"})
        else:
            tiny_gguf(path)
    return folder


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        (["m.gguf", "config.json", "README.md"], ["m.gguf"]),
        (["m-00002-of-00002.gguf", "m-00001-of-00002.gguf"], ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]),
        (["m.gguf", "mmproj-m.gguf"], ["m.gguf", "mmproj-m.gguf"]),
        (["m.gguf", "a-lora.gguf"], ["m.gguf", "a-lora.gguf"]),
        (["m.gguf", "other.bin", "sub/other.gguf"], ["m.gguf"]),
        (["ggml.bin"], ["ggml.bin"]),
        (["mmproj.gguf", "README.md"], ["mmproj.gguf"]),
    ],
)
def test_a_folder_is_one_model(files, chosen, tmp_path):
    assert files_of(filled(tmp_path, *files)) == [tmp_path / name for name in chosen]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["README.md", "sub/m.gguf"], "no Modelfile, GGUF or safetensors files found in "),
        (["a.gguf", "b.gguf", "mmproj.gguf"], "holds several models, name one of them: a.gguf, b.gguf"),
        (["a-lora.gguf"], "no model in "),
        (["mmproj.gguf", "a-lora.gguf"], "no model in "),
        ([f"{n}.gguf" for n in range(30)], r"name one of them: 0.gguf, .*, 26.gguf, …$"),
        (["m-00001-of-00002.gguf"], "m: only 1 of its 2 parts are here"),
        (["pytorch.bin"], "pytorch.bin: not a GGUF file"),
        (["model.safetensors", "m.gguf"], "model.safetensors has to be converted to GGUF first"),
        (["sub/model-00001-of-00002.safetensors"], "has to be converted"),
        (["consolidated.safetensors"], "has to be converted"),
        (["pytorch_model.bin"], "has to be converted"),
        (["consolidated.00.pth"], "has to be converted"),
    ],
)
def test_what_is_no_model_is_told(files, message, tmp_path):
    with pytest.raises(InvalidModelfile, match=message):
        files_of(filled(tmp_path, *files))


def test_a_projector_for_another_model_is_not_left_out_in_silence(tmp_path):
    tiny_gguf(tmp_path / "m.gguf", **{"llama.embedding_length": 64})
    tiny_gguf(tmp_path / "mmproj.gguf")
    with pytest.raises(InvalidModelfile, match=r"mmproj\.gguf in .* is not for m\.gguf: their widths differ"):
        files_of(tmp_path)


def test_a_folder_of_adapters_needs_no_model(tmp_path):
    assert adapters_of(filled(tmp_path, "m.gguf", "a-lora.gguf")) == [tmp_path / "a-lora.gguf"]
    assert adapters_of(filled(tmp_path / "alone", "b-lora.gguf")) == [tmp_path / "alone/b-lora.gguf"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "no adapter in "),
        (["m.gguf", "adapter_model.safetensors"], "no adapter in "),
        (["adapter_model.safetensors"], r"adapter_model\.safetensors has to be converted to GGUF first"),
        (["lora-00001-of-00002.gguf"], "lora: only 1 of its 2 parts are here"),
    ],
)
def test_a_folder_without_adapters_is_told(files, message, tmp_path):
    with pytest.raises(InvalidModelfile, match=message):
        adapters_of(filled(tmp_path, *files))


def test_one_part_stands_for_all(tmp_path):
    filled(tmp_path, "m-00002-of-00002.gguf", "m-00001-of-00002.gguf", "n.gguf")
    assert parts_of(tmp_path / "m-00001-of-00002.gguf") == [
        tmp_path / "m-00001-of-00002.gguf",
        tmp_path / "m-00002-of-00002.gguf",
    ]
    assert parts_of(tmp_path / "n.gguf") == [tmp_path / "n.gguf"]


def test_a_part_without_the_others_is_told(tmp_path):
    filled(tmp_path, "m-00001-of-00003.gguf", "m-00003-of-00003.gguf")
    with pytest.raises(InvalidModelfile, match="m: only 2 of its 3 parts are here"):
        parts_of(tmp_path / "m-00001-of-00003.gguf")
    with pytest.raises(InvalidModelfile, match="n: only 1 of its 2 parts are here"):
        parts_of(filled(tmp_path, "n-00002-of-00002.gguf") / "n-00002-of-00002.gguf")


def test_a_folder_does_not_bring_in_files_from_outside(tmp_path):
    folder, outside = tmp_path / "model", filled(tmp_path / ".cache" / "hub", "m.gguf")
    filled(folder, "real/m.gguf")
    (folder / "m.gguf").symlink_to("real/m.gguf")
    assert files_of(folder) == [folder / "m.gguf"]
    (folder / "n.gguf").symlink_to(outside / "m.gguf")
    with pytest.raises(InvalidModelfile) as caught:
        files_of(folder)
    assert str(caught.value) == (
        "insecure path: n.gguf\n\nUse --local-dir <dir> when downloading model to disable caching"
    )
    (folder / "n.gguf").unlink()
    (folder / "n.gguf").symlink_to(tmp_path / "elsewhere.gguf")
    with pytest.raises(InvalidModelfile, match=r"insecure path: n\.gguf$"):
        files_of(folder)


def test_a_link_to_itself_is_told(tmp_path):
    (tmp_path / "m.gguf").symlink_to("m.gguf")
    with pytest.raises(InvalidModelfile, match=r"m\.gguf: Too many levels of symbolic links"):
        files_of(tmp_path)
