"""From uploaded files to the parts of a model: what each file is, shards put together, weights quantised."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from a3s_power.build.merge import Merge, is_shard, split_models
from a3s_power.build.quantize import Quantization, target_type
from a3s_power.build.rewrite import WithKey
from a3s_power.build.workbench import Part, Workbench
from a3s_power.errors import InvalidGGUF, InvalidRequest
from a3s_power.gguf import GGUF, read_gguf
from a3s_power.progress import Progress
from a3s_power.store import manifests as media
from a3s_power.store.blobs import check_digest
from a3s_power.store.manifests import Layer

_NO_DIGEST = "0" * 19
"""What Ollama's progress names where there is no digest yet; clients show a bar for steps with one."""


def parts_of(bench: Workbench, files: Mapping[str, str]) -> list[Part]:
    """The parts that the files (path in the client's folder → digest) make up, by path, merged ones last.

    Raises InvalidRequest for a file that is nothing a model can be made of, InvalidGGUF for a damaged one,
    BlobNotFound for one that was not uploaded.
    """
    if not files:
        raise InvalidRequest("unknown type")
    parts: list[Part] = []
    shards: dict[str, Path] = {}
    read: dict[str, Part] = {}  # by digest: headers can be large, and a file may have many names
    for path, digest in sorted(files.items()):
        bench.tell(Progress("parsing GGUF"))
        if digest not in read:
            read[digest] = _read(bench, path, digest)
        part = read[digest]
        if is_shard(part.gguf):
            shards[path] = bench.path(part)
        else:
            parts.append(_with_projector_type(bench, part))
    for model in split_models(shards):
        merge = Merge(model)
        step = Progress(f"merging {len(model)} parts", total=merge.size_bytes)
        parts.append(bench.make(merge, media.MODEL, step))
    return parts


def quantised(bench: Workbench, part: Part, target: str) -> Part:
    """The part with its weights as the `target` type; the part itself if they are that already.

    Raises InvalidRequest if they are of no type that may be quantised.
    """
    quantization = Quantization(bench.path(part), bench.layout(part), target_type(target))
    if quantization.source_type == quantization.target_type:
        return part
    status = f"quantizing {quantization.source_type} model to {quantization.target_type}"
    made = bench.make(
        quantization, part.layer.media_type, Progress(status, digest=_NO_DIGEST, total=part.layer.size)
    )
    bench.tell(Progress("verifying conversion"))
    return made


def only_model(parts: Sequence[Part]) -> Part:
    """The one model among the parts. Raises InvalidRequest if there is none, or more than one."""
    models = [part for part in parts if part.layer.media_type == media.MODEL]
    if not models:
        raise InvalidRequest("no base model was found")
    if len(models) > 1:
        raise InvalidRequest("more than one model file")
    if not models[0].gguf.architecture:
        raise InvalidRequest("the model's file does not say its architecture")
    return models[0]


def _read(bench: Workbench, path: str, digest: str) -> Part:
    digest, name = check_digest(digest), PurePosixPath(path).name
    blobs = bench.store.blobs
    size_bytes = blobs.size(digest)
    with blobs.open(digest) as file:
        if file.read(4) != b"GGUF":
            raise InvalidRequest(_not_gguf(name))
    try:
        gguf = read_gguf(blobs.path(digest))
    except InvalidGGUF as exc:
        raise InvalidGGUF(f"{name}: {exc}") from exc
    if gguf.is_aid:
        raise InvalidRequest(f"{name} is no part of a model")
    blobs.touch(digest)
    return Part(Layer(_media_type(gguf), digest, size_bytes), gguf)


def _not_gguf(name: str) -> str:
    match PurePosixPath(name).suffix:
        case ".gguf":
            return "supplied file was not in GGUF format"
        case ".safetensors":
            return "safetensors have to be converted to GGUF first, with llama.cpp's convert_hf_to_gguf.py say"
    return "unknown type"


def _with_projector_type(bench: Workbench, part: Part) -> Part:
    """Old projectors do not say what they are; llama.cpp wants to be told that it is LLaVA's two layers."""
    known = ("projector_type", "vision.projector_type")
    is_old = part.gguf.architecture == "clip" and part.gguf.arch("has_vision_encoder")
    if not is_old or any(part.gguf.arch(key) for key in known):
        return part
    rewrite = WithKey(bench.path(part), bench.layout(part), "clip.projector_type", "mlp")
    return bench.make(rewrite, part.layer.media_type, Progress("updating GGUF projector metadata"))


def _media_type(gguf: GGUF) -> str:
    if gguf.is_adapter:
        return media.ADAPTER
    return media.PROJECTOR if gguf.is_projector else media.MODEL
