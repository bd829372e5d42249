"""The numbers ggml gives to tensor types, and llama.cpp to file types.

From `ggml.h` and `llama.h`; the block sizes from `ggml-common.h` and gguf-py's `constants.py`.
"""

from typing import NamedTuple


class TensorType(NamedTuple):
    """How weights are packed: `block_elements` neighbours along dimension 0 share `block_bytes` bytes."""

    name: str
    block_elements: int
    block_bytes: int


# fmt: off
TENSOR_TYPES = {
    type_number: TensorType(name, block_elements, block_bytes)
    for type_number, name, block_elements, block_bytes in (
        (0, "F32", 1, 4),         (1, "F16", 1, 2),         (30, "BF16", 1, 2),       (28, "F64", 1, 8),
        (24, "I8", 1, 1),         (25, "I16", 1, 2),        (26, "I32", 1, 4),        (27, "I64", 1, 8),
        (2, "Q4_0", 32, 18),      (3, "Q4_1", 32, 20),      (6, "Q5_0", 32, 22),      (7, "Q5_1", 32, 24),
        (8, "Q8_0", 32, 34),      (9, "Q8_1", 32, 36),      (10, "Q2_K", 256, 84),    (11, "Q3_K", 256, 110),
        (12, "Q4_K", 256, 144),   (13, "Q5_K", 256, 176),   (14, "Q6_K", 256, 210),   (15, "Q8_K", 256, 292),
        (19, "IQ1_S", 256, 50),   (29, "IQ1_M", 256, 56),   (16, "IQ2_XXS", 256, 66), (17, "IQ2_XS", 256, 74),
        (22, "IQ2_S", 256, 82),   (18, "IQ3_XXS", 256, 98), (21, "IQ3_S", 256, 110),  (20, "IQ4_NL", 32, 18),
        (23, "IQ4_XS", 256, 136), (34, "TQ1_0", 256, 54),   (35, "TQ2_0", 256, 66),   (39, "MXFP4", 32, 17),
        (40, "NVFP4", 64, 36),    (41, "Q1_0", 128, 18),    (42, "Q2_0", 64, 18),
        (4, "MXFP4", 32, 17),     # in the first gpt-oss files of Ollama; ggml retired the number before
    )
}
"""ggml's number of a tensor type -> its layout. gguf-py gives Q8_1 40 bytes: once its halves were floats."""

FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 21: "Q2_K_S",
    11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M",
    18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 28: "IQ2_S", 29: "IQ2_M", 22: "IQ3_XS", 23: "IQ3_XXS",
    26: "IQ3_S", 27: "IQ3_M", 24: "IQ1_S", 31: "IQ1_M", 25: "IQ4_NL", 30: "IQ4_XS", 32: "BF16",
    36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE", 39: "NVFP4", 40: "Q1_0", 41: "Q2_0",
    4: "MXFP4",  # Ollama's number, as above
}
# fmt: on
"""`general.file_type` -> its name."""
