"""A real registry, Debian's `docker-registry`, and a gate of ours before it that wants Ollama's signed tokens.

Each listens on a free port of this machine and is gone when its `with` block ends.
"""

import base64
import json
import secrets
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

import bcrypt
import httpx2
import trustme
import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from a3s_power.registry.client import RegistryClient, blob_path
from a3s_power.registry.files import RemoteFile

BINARY = "docker-registry"
HASH_OF_NOTHING = b"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
START_S = 20.0


@dataclass(frozen=True)
class Registry:
    """`host` is `127.0.0.1:port`; `data` the folder that it keeps everything in."""

    host: str
    data: Path


def blob(client: RegistryClient, digest: str) -> RemoteFile:
    """A blob of the client's repository, to be read."""
    url = client.session.base.join(blob_path(client.repository, digest))
    return RemoteFile(client.session, url, has_digest=True)


@contextmanager
def running_registry(
    folder: Path, *, certificate: trustme.LeafCert | None = None, users: Mapping[str, str] | None = None
) -> Iterator[Registry]:
    """A registry over plain http, or over https with a certificate; for everyone, or for `users` (name → password)."""
    folder.mkdir(parents=True, exist_ok=True)
    config, log = folder / "config.json", folder / "log"  # JSON is YAML
    config.write_text(json.dumps(_config(folder, certificate, users)))
    with log.open("wb") as output:
        process = subprocess.Popen([BINARY, "serve", config], stdout=output, stderr=output)
    try:
        yield Registry(f"127.0.0.1:{_port(process, log)}", folder / "data")
    finally:
        process.kill()
        process.wait()


def _config(folder, certificate, users):
    http = {"addr": "127.0.0.1:0", "secret": "so that it need not make one"}
    if certificate:
        key, chain = folder / "key.pem", folder / "chain.pem"
        certificate.private_key_pem.write_to_path(key)
        for pem in certificate.cert_chain_pems:
            pem.write_to_path(chain, append=True)
        http["tls"] = {"certificate": str(chain), "key": str(key)}
    config = {
        "version": 0.1,
        "log": {"level": "info", "formatter": "json", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}, "delete": {"enabled": True}},
        "http": http,
    }
    if users:
        passwords = folder / "htpasswd"
        passwords.write_text("".join(f"{name}:{_hashed(password)}\n" for name, password in users.items()))
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(passwords)}}
    return config


def _hashed(password):
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()


def _port(process, log):
    """Read from its log: a port that is free now may not be when the registry takes it."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        for line in log.read_text().splitlines():
            if '"msg":"listening on ' in line:
                return int(json.loads(line)["msg"].partition(",")[0].rpartition(":")[2])
        threading.Event().wait(0.01)
    raise TimeoutError(log.read_text())


class TokenGate:
    """An ASGI app: the registry behind it, for those who hold a token that it gave for a signature.

    `issued` are the scopes it gave tokens for, in order. `is_shut` makes it refuse even good tokens.
    """

    def __init__(self, registry: Registry) -> None:
        self.host = ""
        self.issued: list[str] = []
        self.is_shut = False
        self._upstream = f"http://{registry.host}"
        self._scopes: dict[str, set[str]] = {}
        self._nonces: set[str] = set()

    def expire_tokens(self):
        self._scopes.clear()

    async def __call__(self, scope, receive, send):
        assert scope["type"] == "http"
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        if scope["path"] == "/token":
            return await self._give_token(scope["query_string"].decode(), headers.get("authorization", ""), send)
        if not self._may(wanted := _wanted(scope["method"], scope["path"]), headers.get("authorization", "")):
            challenge = f'Bearer realm="http://{self.host}/token",service="{self.host}",scope="{wanted}"'
            return await _answer(send, 401, b"", {"www-authenticate": challenge})
        await self._pass_on(scope, headers, receive, send)

    def _may(self, wanted, authorization):
        scopes = self._scopes.get(authorization.removeprefix("Bearer "), set())
        return wanted in scopes and not self.is_shut

    async def _give_token(self, query, authorization, send):
        try:
            self._check_signature(query, authorization)
        except Exception as exc:
            return await _answer(send, 403, f"no token: {exc!r}".encode(), {})
        token = secrets.token_urlsafe()
        scopes = [value for name, value in parse_qsl(query) if name == "scope"]
        self._scopes[token] = set(scopes)
        self.issued += scopes
        await _answer(send, 200, json.dumps({"token": token}).encode(), {"content-type": "application/json"})

    def _check_signature(self, query, authorization):
        public, signature = authorization.split(":")
        key = load_ssh_public_key(f"ssh-ed25519 {public}".encode())
        assert isinstance(key, Ed25519PublicKey)
        text = f"GET,http://{self.host}/token?{query},{base64.b64encode(HASH_OF_NOTHING).decode()}"
        key.verify(base64.b64decode(signature, validate=True), text.encode())
        parameters = dict(parse_qsl(query))
        assert [name for name, _ in parse_qsl(query)] == ["nonce", "scope", "service", "ts"]
        assert parameters["service"] == self.host
        assert abs(time.time() - int(parameters["ts"])) < 60
        assert len(base64.urlsafe_b64decode(parameters["nonce"] + "==")) == 16
        assert parameters["nonce"] not in self._nonces
        self._nonces.add(parameters["nonce"])

    async def _pass_on(self, scope, headers, receive, send):
        url = f"{self._upstream}{scope['raw_path'].decode()}?{scope['query_string'].decode()}".rstrip("?")
        del headers["authorization"]
        has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:
            content = _body(receive) if has_body else None
            async with http.stream(scope["method"], url, headers=headers, content=content) as response:
                await send(
                    {
                        "type": "http.response.start",
                        "status": response.status_code,
                        "headers": response.headers.raw,
                    }
                )
                async for chunk in response.aiter_raw():
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def _wanted(method, path):
    repository = path.removeprefix("/v2/").partition("/blobs/")[0].partition("/manifests/")[0]
    return f"repository:{repository}:{'pull' if method in {'GET', 'HEAD'} else 'pull,push'}"


async def _body(receive):
    while True:
        message = await receive()
        yield message.get("body", b"")
        if not message.get("more_body"):
            return


async def _answer(send, status, body, headers):
    raw = [
        (name.encode(), value.encode()) for name, value in {**headers, "content-length": str(len(body))}.items()
    ]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def running_gate(registry: Registry) -> Iterator[TokenGate]:
    """The gate, on a port of its own: the only address at which its clients know the registry."""
    gate = TokenGate(registry)
    server = uvicorn.Server(uvicorn.Config(gate, lifespan="off", ws="none", log_level="error"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        gate.host = f"127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield gate
        finally:
            server.should_exit = True
            thread.join()
