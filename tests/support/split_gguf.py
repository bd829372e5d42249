"""Models in parts, as llama.cpp's `gguf-split` leaves them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf

from tests.support.gguf_files import INT32, UINT16, TensorSpec, Typed, gguf_bytes

MIB = 1 << 20


def whole_file(metadata: Mapping[str, Any], tensors: Mapping[str, bytes]) -> bytes:
    """A model in one file; tensors of 32-bit floats, each a multiple of 32 bytes long."""
    specs = {name: TensorSpec((len(data) // 4,)) for name, data in tensors.items()}
    data = b"".join(tensors.values())
    zeros = gguf_bytes(metadata, specs)
    return zeros[: len(zeros) - len(data)] + data


def part_files(prefix: str, metadata: Mapping[str, Any], tensors: Mapping[str, bytes]) -> dict[str, bytes]:
    """The same model in as many files as it has tensors, by their names; the first one has the metadata."""
    files = {}
    for number, (name, data) in enumerate(tensors.items()):
        split = {
            "split.no": Typed(UINT16, number),
            "split.count": Typed(UINT16, len(tensors)),
            "split.tensors.count": Typed(INT32, len(tensors)),
        }
        path = f"{prefix}-{number + 1:05}-of-{len(tensors):05}.gguf"
        files[path] = whole_file({**metadata, **split} if number == 0 else split, {name: data})
    return files


def split_file(path: Path, folder: Path, part_mib: int) -> dict[str, bytes]:
    """The parts of a real model, none much longer than that; by llama.cpp's own writer."""
    reader = gguf.GGUFReader(path)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(folder / path.name, architecture, split_max_size=part_mib * MIB)
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            writer.add_key_value(field.name, field.contents(), field.types[0], field.types[-1])
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {part.name: part.read_bytes() for part in sorted(folder.iterdir())}
