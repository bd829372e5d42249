"""A GGUF with one more key, and everything else as it was."""

import struct
from pathlib import Path

from a3s_power.build.copying import Original, Write, padding, preamble
from a3s_power.gguf import Layout, Span, ValueType


def text_value(key: str, text: str) -> bytes:
    """A key and its text, as metadata have them."""
    return _string(key) + struct.pack("<I", ValueType.STRING) + _string(text)


def number_value(key: str, number: int) -> bytes:
    """A key and its number, an unsigned one of 32 bits."""
    return _string(key) + struct.pack("<II", ValueType.UINT32, number)


class WithKey:
    """The GGUF at `path`, about to be written (version 3) with a text added to its metadata."""

    def __init__(self, path: Path, layout: Layout, key: str, text: str) -> None:
        gguf = layout.gguf
        self._original = Original("the file", path, layout)
        self._preamble = preamble(len(gguf.tensors), len(layout.key_values) + 1)
        self._added = text_value(key, text)
        spans = (*layout.key_values.values(), *layout.tensors.values())
        header_bytes = len(self._preamble) + len(self._added) + sum(span.size_bytes for span in spans)
        self._padding = padding(header_bytes, gguf.alignment)
        self._data = Span(gguf.data_offset, gguf.file_size - gguf.data_offset)
        self.size_bytes = header_bytes + len(self._padding) + self._data.size_bytes

    def write_to(self, write: Write) -> None:
        """Give `write` the file's `size_bytes` bytes. Raises as `Original.opened`; stops if `write` raises."""
        layout = self._original.layout
        with self._original.opened() as original:
            write(self._preamble)
            for span in layout.key_values.values():
                original.copy(span, write)
            write(self._added)
            for span in layout.tensors.values():
                original.copy(span, write)
            write(self._padding)
            original.copy(self._data, write)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data
