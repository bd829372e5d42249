"""The public sites that models come from, played back on this machine under their real names.

A proxy sends every `CONNECT name:443` to one TLS server here, which answers by the `Host` it is asked for. What
Hugging Face says was recorded: `tests/data/huggingface/README.md`.
"""

import asyncio
import contextlib
import hashlib
import json
import re
import secrets
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote

import trustme
import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

_REFUSALS = json.loads((Path(__file__).parent.parent / "data/huggingface/refusals.json").read_text())

WORDINGS = tuple(name for name in _REFUSALS if name != "any")
"""The ages of Hugging Face's words about split GGUFs, oldest first."""

HUGGING_FACE_CDN = "cas-bridge.xethub.hf.co"
OLLAMA_CDN = "dd20bb891979d25aebc8bec07b2b3bbc.r2.cloudflarestorage.com"
HOSTS = (
    "huggingface.co",
    "hf.co",
    HUGGING_FACE_CDN,
    "registry.ollama.ai",
    "ollama.com",
    OLLAMA_CDN,
    "files.example",
    "other.example",
)
"""The names that the certificate has."""

_MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that came. Names of headers are in lower case."""

    method: str
    host: str
    path: str
    query: str
    headers: Mapping[str, str]


class Sites:
    """All of them, as one ASGI app.

    `files` are those of every other site, by URL; their server knows ranges unless `accepts_ranges` is False.
    `connects` are the names that the proxy was asked for. `on_answer` may put another answer in the place of one
    (`tests/support/answers.py`).
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)
        self.requests: list[Seen] = []
        self.connects: list[str] = []
        self.cdn = CDN()
        self.hugging_face = HuggingFace(self.cdn)
        self.ollama = Ollama(self.cdn)
        self.files: dict[str, bytes] = {}
        self.accepts_ranges = True
        self.on_answer: Callable[[Seen, Response], ASGIApp] = lambda seen, response: response

    async def __call__(self, scope, receive, send):
        request = Request(scope)
        query, headers = request.url.query, dict(request.headers)
        seen = Seen(request.method, _host(request), scope["path"], query, headers)
        self.requests.append(seen)
        response = self._answer(request) if request.method in {"GET", "HEAD"} else Response(status_code=405)
        await self.on_answer(seen, response)(scope, receive, send)

    def _answer(self, request):
        match _host(request):
            case "huggingface.co":
                return self.hugging_face.answer(request)
            case "hf.co":
                return Response(status_code=307, headers={"location": f"https://huggingface.co{_target(request)}"})
            case "registry.ollama.ai" | "ollama.com":
                return self.ollama.answer(request)
            case host if host in {HUGGING_FACE_CDN, OLLAMA_CDN}:
                return self.cdn.answer(request)
            case host:
                return self._file(request, self.files.get(f"https://{host}{request.scope['path']}"))

    def _file(self, request, data):
        if data is None:
            return Response("Not Found", 404)
        headers = {"etag": f'"{_sha256(data)[:32]}"'}
        if not self.accepts_ranges:
            return Response(data, headers=headers)
        return _ranged(request, data, headers)


class CDN:
    """Storages that other sites redirect to, by URLs whose signature is all that they ask for.

    `authorizations` are the `Authorization` headers that came here, where none should.
    """

    def __init__(self) -> None:
        self.authorizations: list[str] = []
        self._files: dict[str, tuple[bytes, str]] = {}
        self._signature = secrets.token_hex(32)

    def link(self, host, path, data, etag):
        """A signed URL of these bytes."""
        self._files[f"{host}{path}"] = data, etag
        return f"https://{host}{path}?X-Amz-Expires=3600&X-Amz-Signature={self._signature}&X-Xet-Cas-Uid=public"

    def expire(self):
        """Let every URL that was given away so far be too old."""
        self._signature = secrets.token_hex(32)

    def answer(self, request):
        if authorization := request.headers.get("authorization"):
            self.authorizations.append(authorization)
        if request.query_params.get("X-Amz-Signature") != self._signature:
            text = "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
            return Response(text, 403, media_type="application/xml")
        data, etag = self._files[f"{_host(request)}{request.scope['path']}"]
        return _ranged(request, data, {"etag": f'"{etag}"', "cache-control": "public, max-age=31536000"})


# ---- registry.ollama.ai ----


class Ollama:
    """Its registry, where everyone may read everything."""

    def __init__(self, cdn: CDN) -> None:
        self._cdn = cdn
        self._manifests: dict[tuple[str, str], bytes] = {}
        self._blobs: dict[tuple[str, str], bytes] = {}

    def add(self, name: str, manifest: bytes, blobs: Iterable[bytes]) -> None:
        """Have `smollm2`, `smollm2:135m` or `user/model:tag`."""
        path, _, tag = name.partition(":")
        repository = path if "/" in path else f"library/{path}"
        self._manifests[repository, tag or "latest"] = manifest
        self._blobs |= {(repository, f"sha256:{_sha256(blob)}"): blob for blob in blobs}

    def answer(self, request):
        match = re.fullmatch(r"/v2/([^/]+/[^/]+)/(manifests|blobs)/([^/]+)", request.scope["path"])
        if match is None:
            return Response("404 page not found", 404)
        repository, kind, name = match.groups()
        if kind == "blobs":
            return self._blob(request, name, self._blobs.get((repository, name)))
        if (repository, name) not in self._manifests:
            return _oci_error("MANIFEST_UNKNOWN", "manifest unknown", {"Tag": name})
        return Response(self._manifests[repository, name], media_type="text/plain; charset=utf-8")  # as it says

    def _blob(self, request, digest, data):
        if data is None:
            return _oci_error("BLOB_UNKNOWN", "blob unknown to registry", digest)
        if request.method == "HEAD":
            return Response(data, media_type="application/octet-stream")
        path = f"/ollama/docker/registry/v2/blobs/sha256/{digest[7:9]}/{digest[7:]}/data"
        url = self._cdn.link(OLLAMA_CDN, path, data, hashlib.md5(data).hexdigest())
        return Response(status_code=307, headers={"location": url})


def _oci_error(code, message, detail):
    return JSONResponse({"errors": [{"code": code, "message": message, "detail": detail}]}, 404)


# ---- huggingface.co ----


class _Refused(Exception):
    """By its name in `refusals.json`."""


@dataclass(frozen=True, slots=True)
class _Repository:
    name: str
    files: Mapping[str, bytes]
    token: str | None

    @property
    def commit(self):
        return hashlib.sha1("".join([self.name, *map(_oid, self.files.values())]).encode()).hexdigest()


class HuggingFace:
    """Its repositories: their files, and the manifests that its registry makes of them.

    `tokens` are those that belong to someone: any other is refused, even for what is public. `wording` is one
    of `WORDINGS`.
    """

    def __init__(self, cdn: CDN) -> None:
        self.tokens: set[str] = set()
        self.wording = WORDINGS[-1]
        self._cdn = cdn
        self._repositories: dict[str, _Repository] = {}

    def add(self, repo: str, files: Mapping[str, bytes], token: str | None = None) -> None:
        """Have `user/repo`; private if it takes a token to read."""
        self._repositories[repo] = _Repository(repo, dict(files), token)
        self.tokens |= {token} - {None}

    def answer(self, request):
        for pattern, respond in _ROUTES.items():
            if match := re.fullmatch(pattern, request.scope["path"]):
                repository = match["repo"]
                try:
                    return respond(self, request, self._readable(request, repository), *match.groups()[1:])
                except _Refused as refusal:
                    return self._refuse(request, repository, str(refusal))
        return Response("Not Found", 404)

    def _readable(self, request, name):
        shown = request.headers.get("authorization", "").removeprefix("Bearer ")
        if shown and shown not in self.tokens:
            raise _Refused("bad_token")
        repository = self._repositories.get(name)
        if repository is None or repository.token not in {None, shown}:
            raise _Refused("no_repository" if shown else "no_token")
        return repository

    def _refuse(self, request, repository, name):
        refusal = (_REFUSALS["any"] | _REFUSALS[self.wording])[name]
        headers = {"x-error-message": refusal["error"]} if refusal["status"] != 400 else {}
        if code := refusal.get("code"):
            headers["x-error-code"] = code
        path = request.scope["path"]
        if refusal["status"] == 401:
            headers["www-authenticate"] = (
                _V2_CHALLENGE.format(repository) if path.startswith("/v2/") else _CHALLENGE
            )
        if path.startswith(("/v2/", "/api/models/")):
            return JSONResponse({"error": refusal["error"]}, refusal["status"], headers)
        return Response(refusal["error"], refusal["status"], headers)

    # ---- the registry ----

    def _manifest(self, request, repository, tag):
        return JSONResponse(_manifest(_layers(repository.files, _model(repository.files, tag))))

    def _blob(self, request, repository, digest):
        files = {f"sha256:{_sha256(data)}": path for path, data in repository.files.items()}
        if path := files.get(digest):
            if path.endswith(".gguf"):
                location = f"/{repository.name}/resolve/main/{quote(path)}"
                return Response(status_code=307, headers={"location": location})
            return _small(repository.files[path])
        for model in (path for path in repository.files if path.endswith(".gguf")):
            config = _config(_layers(repository.files, model))
            if digest == f"sha256:{_sha256(config)}":
                return _small(config)
        return _oci_error("BLOB_UNKNOWN", "blob unknown to registry", digest)

    # ---- the files ----

    def _tree(self, request, repository, revision):
        if revision not in {"main", repository.commit}:
            raise _Refused("no_revision")
        folders = {str(folder) for path in repository.files for folder in PurePosixPath(path).parents} - {"."}
        entries = [_folder_entry(path) for path in sorted(folders)]
        entries += [_file_entry(path, data) for path, data in sorted(repository.files.items())]
        if request.query_params.get("recursive") != "true":
            entries = [entry for entry in entries if "/" not in entry["path"]]
        return JSONResponse(entries)

    def _resolve(self, request, repository, revision, path):
        if revision not in {"main", repository.commit}:
            raise _Refused("no_revision")
        commit = {"x-repo-commit": repository.commit, "accept-ranges": "bytes"}
        if path not in repository.files:
            headers = commit | {"x-error-code": "EntryNotFound", "x-error-message": "Entry not found"}
            return Response("Entry not found", 404, headers)
        if path.endswith(".gguf"):
            return self._redirect_to_cdn(request, repository, path, commit)
        etag = f'"{_oid(repository.files[path])}"'
        location = f"/api/resolve-cache/models/{repository.name}/{repository.commit}/{quote(path)}"
        return Response(
            status_code=307, headers=commit | {"location": f"{location}?etag={quote(etag)}", "x-linked-etag": etag}
        )

    def _redirect_to_cdn(self, request, repository, path, headers):
        data = repository.files[path]
        folder = f"/xet-bridge-us/{hashlib.sha1(repository.name.encode()).hexdigest()[:24]}"
        location = self._cdn.link(HUGGING_FACE_CDN, f"{folder}/{_xet_hash(data)}", data, _xet_hash(data))
        headers = headers | {
            "location": location,
            "x-linked-size": str(len(data)),
            "x-linked-etag": f'"{_sha256(data)}"',
            "x-xet-hash": _xet_hash(data),
            "cache-control": "no-store",
        }
        status = 307 if request.headers.get("user-agent", "").startswith("ollama/") else 302
        return Response(f"Found. Redirecting to {location}", status, headers)  # its length is not the file's

    def _resolve_cache(self, request, repository, commit, path):
        data = repository.files[path]
        return _ranged(request, data, {"etag": f'"{_oid(data)}"', "x-repo-commit": commit})


_ROUTES: dict[str, Callable[..., Response]] = {
    r"/v2/(?P<repo>[^/]+/[^/]+)/manifests/([^/]+)": HuggingFace._manifest,
    r"/v2/(?P<repo>[^/]+/[^/]+)/blobs/([^/]+)": HuggingFace._blob,
    r"/api/models/(?P<repo>[^/]+/[^/]+)/tree/([^/]+)": HuggingFace._tree,
    r"/api/resolve-cache/models/(?P<repo>[^/]+/[^/]+)/([^/]+)/(.+)": HuggingFace._resolve_cache,
    r"/(?P<repo>[^/]+/[^/]+)/resolve/([^/]+)/(.+)": HuggingFace._resolve,
}

_CHALLENGE = 'Bearer realm="Authentication required", charset="UTF-8"'
_V2_CHALLENGE = 'Basic realm="https://huggingface.co/api/models/{}/ssh-auth"'
_PART = re.compile(r"(.+)-\d{5}-of-\d{5}")
_QUANTIZATION = re.compile(r"(UD-)?(I?Q\d|TQ\d|B?F16|F32|MXFP4)\w*", re.IGNORECASE)


def _model(paths, tag):
    """The file that a tag means: by the end of its name, in any case, or by its whole name."""
    models = [path for path in paths if path.endswith(".gguf") and "mmproj" not in path]
    whole = [path for path in models if not _PART.fullmatch(PurePosixPath(path).stem)]
    if not whole:
        raise _Refused("sharded_repository" if models else "no_gguf")
    if tag == "latest":
        return next((path for path in whole if _is_meant(path, "Q4_K_M")), whole[0])
    if path := next((path for path in whole if _is_meant(path, tag)), None):
        return path
    if any(_is_meant(path, tag) for path in models):
        raise _Refused("sharded_tag")
    raise _Refused("no_such_tag" if _QUANTIZATION.fullmatch(tag) else "no_quantization")


def _is_meant(path, tag):
    name, stem = PurePosixPath(path).name, PurePosixPath(path).stem
    if part := _PART.fullmatch(stem):
        stem = part[1]
    return tag.lower() == name.lower() or re.search(rf"[-._]{re.escape(tag)}$", stem, re.IGNORECASE) is not None


def _layers(files, model):
    """Media type and bytes of what one manifest names, in Hugging Face's order."""
    projector = next((path for path in sorted(files) if path.endswith(".gguf") and "mmproj" in path), None)
    kinds = {
        "model": model,
        "template": "template",
        "projector": projector,
        "system": "system",
        "params": "params",
    }
    return [(f"application/vnd.ollama.image.{kind}", files[path]) for kind, path in kinds.items() if path in files]


def _config(layers):
    config = {
        "model_format": "gguf",
        "model_family": "llama",
        "model_families": ["llama"],
        "architecture": "amd64",
    }
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{_sha256(data)}" for _, data in layers]}
    return json.dumps(config | {"os": "linux", "rootfs": rootfs}).encode()


def _manifest(layers):
    return {
        "schemaVersion": 2,
        "mediaType": _MANIFEST_TYPE,
        "config": _descriptor(_CONFIG_TYPE, _config(layers)),
        "layers": [_descriptor(*layer) for layer in layers],
    }


def _descriptor(media_type, data):
    return {"digest": f"sha256:{_sha256(data)}", "mediaType": media_type, "size": len(data)}


def _small(data):
    """A blob that Hugging Face sends itself; with a place to come back to, though it redirects nobody."""
    return Response(data, headers={"location": "?__sign=eyJ"}, media_type="application/octet-stream")


def _folder_entry(path):
    return {"type": "directory", "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0, "path": path}


def _file_entry(path, data):
    if not path.endswith(".gguf"):
        return {"type": "file", "oid": _oid(data), "size": len(data), "path": path}
    pointer = (
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{_sha256(data)}\nsize {len(data)}\n".encode()
    )
    lfs = {"oid": _sha256(data), "size": len(data), "pointerSize": len(pointer)}
    entry = {"type": "file", "oid": _oid(pointer), "size": len(data), "lfs": lfs, "xetHash": _xet_hash(data)}
    return entry | {"path": path}


def _oid(data):
    """Git's name for a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _xet_hash(data):
    """As long as a sha256 and not one, which is what matters here."""
    return hashlib.blake2b(data, digest_size=32).hexdigest()


# ---- HTTP ----


def _host(request):
    return request.headers["host"].partition(":")[0]


def _target(request):
    query = request.scope["query_string"].decode()
    return request.scope["raw_path"].decode() + (f"?{query}" if query else "")


def _sha256(data):
    return hashlib.sha256(data).hexdigest()


def _ranged(request, data, headers):
    """All of it, or the one range that was asked for, if these are still the bytes it was asked of (RFC 9110)."""
    headers = headers | {"accept-ranges": "bytes"}
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    if asked is None or request.headers.get("if-range", headers["etag"]) != headers["etag"]:
        return Response(data, headers=headers, media_type="application/octet-stream")
    start, end = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
    if start >= len(data):
        return Response(status_code=416, headers=headers | {"content-range": f"bytes */{len(data)}"})
    headers |= {"content-range": f"bytes {start}-{end}/{len(data)}"}
    return Response(data[start : end + 1], 206, headers, media_type="application/octet-stream")


# ---- the machinery ----


@contextmanager
def running_sites(folder: Path) -> Iterator[Sites]:
    """Play them, for whoever takes over their `environment`; `folder` gets the certificates."""
    folder.mkdir(parents=True, exist_ok=True)
    trusted, own = folder / "authority.pem", folder / "sites.pem"
    authority = trustme.CA()
    authority.cert_pem.write_to_path(trusted)
    authority.issue_cert(*HOSTS).private_key_and_cert_chain_pem.write_to_path(own)
    with socket.create_server(("127.0.0.1", 0)) as tls, socket.create_server(("127.0.0.1", 0)) as proxy:
        sites = Sites({"HTTPS_PROXY": f"http://127.0.0.1:{proxy.getsockname()[1]}", "SSL_CERT_FILE": str(trusted)})
        server = _Server(sites, own)
        thread = threading.Thread(target=asyncio.run, args=(server.serve_both(tls, proxy),))
        thread.start()
        try:
            yield sites
        finally:
            server.should_exit = True
            thread.join()


class _Server(uvicorn.Server):
    """The TLS server and, before it, the proxy."""

    def __init__(self, sites: Sites, certificate: Path) -> None:
        super().__init__(
            uvicorn.Config(sites, lifespan="off", ws="none", log_level="critical", ssl_certfile=certificate)
        )
        self._connects = sites.connects
        self._clients: set[asyncio.StreamWriter] = set()
        self._address = ("", 0)

    async def serve_both(self, tls, proxy):
        self._address = tls.getsockname()
        async with await asyncio.start_server(self._handle, sock=proxy):
            await self.serve(sockets=[tls])

    async def shutdown(self, sockets=None):
        """Without waiting for clients that have stopped reading."""
        for client in self._clients:
            client.transport.abort()
        await super().shutdown(sockets)

    async def _handle(self, reader, writer):
        self._clients.add(writer)
        with contextlib.closing(writer), contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await self._connect(reader, writer)
        self._clients.remove(writer)

    async def _connect(self, reader, writer):
        asked = re.match(rb"CONNECT ([^: ]+):443 ", await reader.readuntil(b"\r\n\r\n"))
        if asked is None:
            return writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        self._connects.append(asked[1].decode())
        from_site, to_site = await asyncio.open_connection(*self._address)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(_pump(reader, to_site), _pump(from_site, writer))


async def _pump(source, sink):
    """Pass on until one side ends; closing the other makes the pump the other way end too."""
    with contextlib.suppress(ConnectionError):
        while data := await source.read(2**16):
            sink.write(data)
            await sink.drain()
    sink.close()
