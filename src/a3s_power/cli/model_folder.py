"""What `FROM` and `ADAPTER` name: which files of a folder, or beside a file, make the model."""

from collections.abc import Sequence
from os.path import realpath
from pathlib import Path

from a3s_power.cli.gguf_sets import Sorted, parts_beside, sort_out
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
_FEW = 20  # names in one message
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
            return _one_model(_sorted(paths, folder), folder)
    raise InvalidModelfile(f"no Modelfile, GGUF or safetensors files found in {folder}")


def adapters_of(folder: Path) -> list[Path]:
    """The GGUF adapters in it, whatever else there is. Raises InvalidModelfile if there are none."""
    if paths := sorted(folder.glob("*.gguf")):
        if adapters := _sorted(paths, folder).adapters:
            return [file.path for file in adapters]
    elif paths := sorted(folder.glob("*.safetensors")):
        raise InvalidModelfile(f"{paths[0]} {TO_CONVERT}")
    raise InvalidModelfile(f"no adapter in {folder}")


def parts_of(path: Path) -> list[Path]:
    """A GGUF file; if it is one part of a model, all of them, which lie beside it. Raises InvalidModelfile."""
    if parts := parts_beside(path):
        _sorted(parts, path.parent)
    return parts or [path]


def _one_model(found: Sorted, folder: Path) -> list[Path]:
    """The projectors alone where there is nothing else: another FROM names their model."""
    if found.projectors and not (found.models or found.adapters):
        return [file.path for file in found.projectors]
    if len(found.models) != 1:
        names = [model.parts[0].path.name for model in found.models]
        several = ", ".join(names[:_FEW]) + (", …" if len(names) > _FEW else "")
        raise InvalidModelfile(
            f"{folder} holds several models, name one of them: {several}" if several else f"no model in {folder}"
        )
    if found.projectors and not found.models[0].projector:
        projector, model = found.projectors[0].path, found.models[0].parts[0].path
        raise InvalidModelfile(f"{projector.name} in {folder} is not for {model.name}: their widths differ")
    return [file.path for file in (*found.models[0].files, *found.adapters)]


def _sorted(paths: Sequence[Path], folder: Path) -> Sorted:
    found = sort_out([_inside(folder, path) for path in paths], folder)
    if found.problems:
        raise InvalidModelfile(str(found.problems[0]))
    return found


def _inside(folder: Path, path: Path) -> Path:
    """A path that does not lead out of the folder: a Modelfile of others' must not send just any file."""
    target = Path(realpath(path))  # unlike resolve(), no exception for a link to itself
    if not target.is_relative_to(realpath(folder)):
        hint = _LOCAL_DIR if ".cache" in target.parts else ""
        raise InvalidModelfile(f"insecure path: {path.relative_to(folder)}{hint}")
    return path
