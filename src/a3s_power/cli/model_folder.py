"""`FROM` a folder: which files in it make the model."""

from collections.abc import Sequence
from os.path import realpath
from pathlib import Path

from a3s_power.cli.gguf_sets import sort_out
from a3s_power.errors import InvalidModelfile

TO_CONVERT = "has to be converted to GGUF first, with llama.cpp's convert_hf_to_gguf.py for example"

_GROUPS = (  # the first that is there is the model, by Ollama's rules (`parser/parser.go`); which of them are GGUF
    (("model*.safetensors", "*/model*.safetensors"), False),
    (("consolidated*.safetensors",), False),
    (("pytorch_model*.bin",), False),
    (("consolidated*.pth",), False),
    (("*.gguf",), True),
    (("*.bin",), True),
)
_LOCAL_DIR = "\n\nUse --local-dir <dir> when downloading model to disable caching"


def files_of(folder: Path) -> list[Path]:
    """The model's GGUF files, its projector and adapters among them. Blocks: it reads their headers.

    Raises InvalidModelfile if there is no model, if there are several, or for one of another format.
    """
    for patterns, is_gguf in _GROUPS:
        paths = sorted(path for pattern in patterns for path in folder.glob(pattern))
        if paths and not is_gguf:
            raise InvalidModelfile(f"{paths[0]} {TO_CONVERT}")
        if paths:
            return _one_model([_inside(folder, path) for path in paths], folder)
    raise InvalidModelfile(f"no Modelfile, GGUF or safetensors files found in {folder}")


def _one_model(paths: Sequence[Path], folder: Path) -> list[Path]:
    found = sort_out(paths, folder)
    if found.problems:
        raise InvalidModelfile(str(found.problems[0]))
    if len(found.models) != 1:
        several = ", ".join(model.parts[0].path.name for model in found.models)
        raise InvalidModelfile(
            f"{folder} holds several models, name one of them: {several}" if several else f"no model in {folder}"
        )
    return [file.path for file in (*found.models[0].files, *found.adapters)]


def _inside(folder: Path, path: Path) -> Path:
    """A path that does not lead out of the folder: a Modelfile of others' must not send just any file."""
    target = Path(realpath(path))  # unlike resolve(), no exception for a link to itself
    if not target.is_relative_to(realpath(folder)):
        hint = _LOCAL_DIR if ".cache" in target.parts else ""
        raise InvalidModelfile(f"insecure path: {path.relative_to(folder)}{hint}")
    return path
