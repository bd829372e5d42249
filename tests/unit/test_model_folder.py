"""`FROM` a folder: which of its files are the model."""

import pytest

from a3s_power.cli.model_folder import files_of
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
    ],
)
def test_a_folder_is_one_model(files, chosen, tmp_path):
    assert files_of(filled(tmp_path, *files)) == [tmp_path / name for name in chosen]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["README.md", "sub/m.gguf"], "no Modelfile, GGUF or safetensors files found in "),
        (["a.gguf", "b.gguf", "mmproj.gguf"], "holds several models, name one of them: a.gguf, b.gguf"),
        (["mmproj.gguf"], "no model in "),
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
