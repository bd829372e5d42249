"""The small real model with another chat template in its file, as if it had been trained for it."""

from pathlib import Path

import gguf
from gguf.scripts import gguf_new_metadata


def with_chat_template(source: Path, target: Path, jinja: str) -> Path:
    """A copy of a GGUF file whose `tokenizer.chat_template` is `jinja`; takes seconds."""
    reader = gguf.GGUFReader(source)
    architecture = reader.get_field("general.architecture").contents()
    writer = gguf.GGUFWriter(target, architecture)
    template = gguf_new_metadata.MetadataDetails(gguf.GGUFValueType.STRING, jinja)
    gguf_new_metadata.copy_with_new_metadata(reader, writer, {gguf.Keys.Tokenizer.CHAT_TEMPLATE: template}, [])
    return target
