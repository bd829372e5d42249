"""What is packed anew when a model is quantised, cut into blocks that each are a moment's work."""

from collections.abc import Iterator
from dataclasses import dataclass

from a3s_power.build.tensor_types import tensor_types
from a3s_power.ggml_types import TENSOR_TYPES
from a3s_power.gguf import GGUF, Span, Tensor

BLOCK_ELEMENTS = 2**20
"""A multiple of what any type packs together: nothing but these neighbours counts, wherever a row ends."""

UNUSABLE = 3
"""With which status a worker ends over a file that nobody can pack."""

_TYPES = {type_.name: type_ for type_ in TENSOR_TYPES.values()}


@dataclass(frozen=True, slots=True)
class Block:
    """Neighbouring weights of one tensor. `source` is where they are in the file."""

    tensor: Tensor
    type: str
    """What they become."""
    source: Span
    size_bytes: int
    """What they take then."""


def packed_bytes(type_: str, elements: int) -> int:
    """What so many weights take, as this type."""
    return elements // _TYPES[type_].block_elements * _TYPES[type_].block_bytes


class Packing:
    """A model's tensors with the types that they get, in the order of the file."""

    def __init__(self, gguf: GGUF, target: str) -> None:
        types = tensor_types(gguf, target)
        self._gguf = gguf
        self._types = {tensor.name: types.get(tensor.name, tensor.type) for tensor in gguf.tensors}

    def type_of(self, tensor: Tensor) -> str:
        return self._types[tensor.name]

    def size_of(self, tensor: Tensor) -> int:
        """Bytes that it takes in the end."""
        is_same = self.type_of(tensor) == tensor.type
        return tensor.size_bytes if is_same else packed_bytes(self.type_of(tensor), tensor.element_count)

    def blocks(self) -> Iterator[Block]:
        """All that is packed anew: the same list for everyone who asks."""
        return (block for tensor in self._gguf.tensors for block in self.blocks_of(tensor))

    def blocks_of(self, tensor: Tensor) -> Iterator[Block]:
        """None of a tensor that keeps its type."""
        type_ = self.type_of(tensor)
        if type_ == tensor.type:
            return
        start = self._gguf.data_offset + tensor.offset
        for first in range(0, tensor.element_count, BLOCK_ELEMENTS):
            elements = min(BLOCK_ELEMENTS, tensor.element_count - first)
            source = Span(start + packed_bytes(tensor.type, first), packed_bytes(tensor.type, elements))
            yield Block(tensor, type_, source, packed_bytes(type_, elements))
