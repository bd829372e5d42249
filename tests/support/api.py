"""Talking to a real server of our own, as a client would."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import ollama

from demo.server import OwnServer
from demo.smollm2 import sha256_of
from tests.support.gguf_files import TensorSpec, write_gguf

METRICS = {
    "total_duration",
    "load_duration",
    "prompt_eval_count",
    "prompt_eval_duration",
    "eval_count",
    "eval_duration",
}
"""Keys of the last line of a generation, and of no other."""

CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


PATIENCE_S = 20


def until(condition: Callable[[], Any]) -> Any:
    """Wait for something that another process does; nothing here depends on how long it takes."""
    deadline = time.monotonic() + PATIENCE_S
    while not (outcome := condition()):
        assert time.monotonic() < deadline, "it never happened"
    return outcome


class API:
    """One server's API; `sdk` is the official client."""

    def __init__(self, server: OwnServer) -> None:
        self.server = server
        self.http = httpx2.Client(base_url=server.url, timeout=120, trust_env=False)
        self.sdk = ollama.Client(host=server.url)

    def post(self, path: str, body: Any = None, **more: Any) -> httpx2.Response:
        content = body if isinstance(body, bytes | str) else json.dumps(body)
        return self.http.post(path, content=content, **more)

    def lines(self, path: str, body: Any) -> list[dict]:
        response = self.post(path, body)
        assert response.status_code == 200, response.text
        return [json.loads(line) for line in response.text.splitlines()]

    def stream(self, path: str, body: Any) -> Iterator[dict]:
        """Lines as they arrive; closing the iterator hangs up."""
        with self.http.stream("POST", path, content=json.dumps(body)) as response:
            for line in response.iter_lines():
                yield json.loads(line)

    def upload(self, path: Path) -> str:
        digest = f"sha256:{sha256_of(path)}"
        assert self.http.post(f"/api/blobs/{digest}", content=path.read_bytes()).status_code in {200, 201}
        return digest

    def create(self, name: str, gguf: Path, **fields: Any) -> None:
        body = {"model": name, "files": {"model.gguf": self.upload(gguf)}, "stream": False, **fields}
        response = self.post("/api/create", body)
        assert response.status_code == 200, response.text

    def loaded(self) -> list[str]:
        return [row["name"] for row in self.http.get("/api/ps").json()["models"]]

    def connect(self) -> socket.socket:
        """A bare connection, for impolite clients."""
        url = httpx2.URL(self.server.url)
        return socket.create_connection((url.host, url.port), timeout=60)

    def close(self) -> None:
        self.http.close()
        self.sdk._client.close()


def send_request(api: API, path: str, body: Any) -> socket.socket:
    """Send a whole request on a bare connection, and return the connection."""
    connection = api.connect()
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n"
    connection.sendall(head.encode() + content)
    return connection


TINY_WIDTH = 32


def tiny_projector(path: Path) -> Path:
    """One that a model of `tiny_gguf` sees with, as far as headers tell."""
    metadata = {"general.architecture": "clip", "clip.has_vision_encoder": True}
    return write_gguf(path, metadata, {"mm.0.weight": TensorSpec((TINY_WIDTH, TINY_WIDTH))})


def tiny_gguf(
    path: Path, *, architecture: str = "llama", chat_template: str | None = CHAT_TEMPLATE, **more: Any
) -> Path:
    """A well-formed model file of a few hundred bytes, for engines that do not look into it."""
    metadata: dict[str, Any] = {
        "general.architecture": architecture,
        "general.file_type": 0,
        f"{architecture}.context_length": 2048,
        f"{architecture}.embedding_length": TINY_WIDTH,
        f"{architecture}.block_count": 1,
        f"{architecture}.attention.head_count": 4,
        "tokenizer.ggml.tokens": ["a", "b", "c"],
    }
    if chat_template is not None:
        metadata["tokenizer.chat_template"] = chat_template
    return write_gguf(path, metadata | more, {"token_embd.weight": TensorSpec((TINY_WIDTH, 3))})
