"""Where a model of some name may be had: its own registry, then a small catalogue, then Hugging Face.

Only names without a host have more than one place; a host says where a model is.
"""

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from a3s_power.errors import InvalidRequest
from a3s_power.names import DEFAULT_HOST, DEFAULT_NAMESPACE, DEFAULT_TAG, ModelName
from a3s_power.registry.auth import is_hugging_face

_HUGGING_FACE = "hf.co"


@dataclass(frozen=True, slots=True)
class Place:
    """A repository's tag, wherever it is: `hf.co`, `Qwen/Qwen3-8B-GGUF`, `Q4_K_M`."""

    host: str
    repository: str
    tag: str

    def __str__(self) -> str:
        return f"{self.host}/{self.repository}:{self.tag}"


CATALOGUE = {
    "all-minilm": "second-state/All-MiniLM-L6-v2-Embedding-GGUF:Q8_0",
    "deepseek-r1:7b": "bartowski/DeepSeek-R1-Distill-Qwen-7B-GGUF:Q4_K_M",
    "gemma3": "ggml-org/gemma-3-4b-it-GGUF:Q4_K_M",
    "gemma3:1b": "ggml-org/gemma-3-1b-it-GGUF:Q4_K_M",
    "gemma3:4b": "ggml-org/gemma-3-4b-it-GGUF:Q4_K_M",
    "gemma3:12b": "ggml-org/gemma-3-12b-it-GGUF:Q4_K_M",
    "gemma3:27b": "ggml-org/gemma-3-27b-it-GGUF:Q4_K_M",
    "gpt-oss": "ggml-org/gpt-oss-20b-GGUF:latest",
    "gpt-oss:20b": "ggml-org/gpt-oss-20b-GGUF:latest",
    "gpt-oss:120b": "ggml-org/gpt-oss-120b-GGUF:latest",
    "llama3.1": "bartowski/Meta-Llama-3.1-8B-Instruct-GGUF:Q4_K_M",
    "llama3.1:8b": "bartowski/Meta-Llama-3.1-8B-Instruct-GGUF:Q4_K_M",
    "llama3.2": "bartowski/Llama-3.2-3B-Instruct-GGUF:Q4_K_M",
    "llama3.2:1b": "bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M",
    "llama3.2:3b": "bartowski/Llama-3.2-3B-Instruct-GGUF:Q4_K_M",
    "mistral": "bartowski/Mistral-7B-Instruct-v0.3-GGUF:Q4_K_M",
    "mistral:7b": "bartowski/Mistral-7B-Instruct-v0.3-GGUF:Q4_K_M",
    "nomic-embed-text": "nomic-ai/nomic-embed-text-v1.5-GGUF:F16",
    "qwen2.5": "Qwen/Qwen2.5-7B-Instruct-GGUF:Q4_K_M",
    "qwen2.5:0.5b": "Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_K_M",
    "qwen2.5:1.5b": "Qwen/Qwen2.5-1.5B-Instruct-GGUF:Q4_K_M",
    "qwen2.5:3b": "Qwen/Qwen2.5-3B-Instruct-GGUF:Q4_K_M",
    "qwen2.5:7b": "Qwen/Qwen2.5-7B-Instruct-GGUF:Q4_K_M",
    "qwen2.5-coder": "Qwen/Qwen2.5-Coder-7B-Instruct-GGUF:Q4_K_M",
    "qwen2.5-coder:7b": "Qwen/Qwen2.5-Coder-7B-Instruct-GGUF:Q4_K_M",
    "qwen3": "Qwen/Qwen3-8B-GGUF:Q4_K_M",
    "qwen3:0.6b": "Qwen/Qwen3-0.6B-GGUF:Q8_0",
    "qwen3:1.7b": "Qwen/Qwen3-1.7B-GGUF:Q8_0",
    "qwen3:4b": "Qwen/Qwen3-4B-GGUF:Q4_K_M",
    "qwen3:8b": "Qwen/Qwen3-8B-GGUF:Q4_K_M",
    "qwen3:14b": "Qwen/Qwen3-14B-GGUF:Q4_K_M",
    "qwen3:32b": "Qwen/Qwen3-32B-GGUF:Q4_K_M",
    "smollm2": "HuggingFaceTB/SmolLM2-1.7B-Instruct-GGUF:Q4_K_M",
    "smollm2:135m": "bartowski/SmolLM2-135M-Instruct-GGUF:Q8_0",
    "smollm2:360m": "bartowski/SmolLM2-360M-Instruct-GGUF:Q8_0",
    "smollm2:1.7b": "HuggingFaceTB/SmolLM2-1.7B-Instruct-GGUF:Q4_K_M",
}
"""Well-known names as Ollama's library spells them → the same model on Hugging Face, from its makers if they
publish it. For machines that may not ask Ollama's registry, and for the day it has lost one."""


def places(name: ModelName) -> list[Place]:
    """In the order they are tried."""
    own = Place(name.host, f"{name.namespace}/{name.model}", name.tag)
    if name.host != DEFAULT_HOST:
        return [own]
    if name.namespace != DEFAULT_NAMESPACE:
        return [own, Place(_HUGGING_FACE, own.repository, name.tag)]
    known = CATALOGUE.get(name.model if name.tag == DEFAULT_TAG else f"{name.model}:{name.tag}")
    if known is None:
        return [own]
    repository, _, tag = known.partition(":")
    return [own, Place(_HUGGING_FACE, repository, tag)]


# ---- URLs ----

_PARTS = re.compile(r"-00001-of-(\d{5})(?=\.gguf$)", re.IGNORECASE | re.ASCII)
_MAX_PARTS = 1000
_MODEL_LENGTH = 80


@dataclass(frozen=True, slots=True)
class FileURL:
    """A GGUF on some site; `paths` are those of all its parts, with the query."""

    scheme: str
    host: str
    paths: tuple[str, ...]
    name: ModelName
    """What the model is called: the file's stem."""


def file_url(text: str) -> FileURL | None:
    """`https://host/path/to/file.gguf`; the first of several parts stands for all. None for anything else.

    Raises InvalidRequest for a URL that cannot be asked.
    """
    try:
        url = urlsplit(text.strip())
    except ValueError as exc:
        raise InvalidRequest(f"{text!r}: no URL: {exc}") from exc
    if url.scheme.lower() not in {"http", "https"} or not url.path.lower().endswith(".gguf"):
        return None
    if "@" in url.netloc or not url.hostname:
        raise InvalidRequest(f"{text!r}: expected https://host/path/file.gguf, without a user or a password")
    path = _file_itself(url.path) if is_hugging_face(url.hostname) else url.path
    query = f"?{url.query}" if url.query else ""
    paths = tuple(f"{part}{query}" for part in _all_parts(path))
    stem = unquote(_PARTS.sub("", path).rpartition("/")[2])[: -len(".gguf")]
    model = re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).lstrip(".-")[:_MODEL_LENGTH]
    if not model:
        raise InvalidRequest(f"{text!r}: the file has no name that a model could have")
    return FileURL(
        url.scheme.lower(), url.netloc, paths, ModelName(DEFAULT_HOST, DEFAULT_NAMESPACE, model, DEFAULT_TAG)
    )


def _file_itself(path: str) -> str:
    """Hugging Face shows a page about a file where a browser's address line says `blob`."""
    return re.sub(r"^(/[^/]+/[^/]+)/blob/", r"\1/resolve/", path)


def _all_parts(path: str) -> list[str]:
    match = _PARTS.search(path)
    if match is None:
        return [path]
    count = int(match[1])
    if not 0 < count <= _MAX_PARTS:
        raise InvalidRequest(f"a file in {count} parts; at most {_MAX_PARTS} are taken")
    return [
        f"{path[: match.start()]}-{index:05}-of-{match[1]}{path[match.end() :]}" for index in range(1, count + 1)
    ]
