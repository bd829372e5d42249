"""Manifests and blobs, to and from a real registry; and what a hostile one gets to hear."""

import asyncio
import contextlib
import hashlib
import json
import shutil
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import httpx2
import pytest
import trustme

from a3s_power.registry.auth import Keychain
from a3s_power.registry.client import MANIFEST_TYPE, MAX_MANIFEST, RegistryClient
from a3s_power.registry.errors import (
    BadReply,
    InsecureRegistry,
    RegistryFailed,
    RegistryRefused,
    RegistryUnreachable,
    RemoteNotFound,
)
from a3s_power.registry.files import Source
from a3s_power.registry.session import Site, open_session
from tests.support.registry import BINARY, blob, running_registry

pytestmark = pytest.mark.anyio
needs_registry = pytest.mark.skipif(shutil.which(BINARY) is None, reason="this machine has no docker-registry")

NO_KEYS = Keychain(Path("/nowhere/id_ed25519"), None)
DATA = bytes(range(256)) * 4000
DIGEST = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
ABSENT = f"sha256:{'0' * 64}"
MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            "digest": DIGEST,
            "size": len(DATA),
        },
        "layers": [],
    }
).encode()


@asynccontextmanager
async def opened(host, path="library/m", *, insecure=True, transport=None):
    site = Site(host, insecure)
    async with open_session(site, keychain=NO_KEYS, user_agent="tests/1", transport=transport) as session:
        yield RegistryClient(session, path)


async def pieces(data, size=100_000):
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def push(client, data=DATA, digest=DIGEST):
    url = await client.begin_upload(digest, None)
    url = await client.upload(url, 0, pieces(data), len(data))
    await client.finish_upload(url, digest)


async def read(client, source, start, end):
    async with blob(client, DIGEST).read(source, start, end) as chunks:
        return b"".join([chunk async for chunk in chunks])


# ---- a real registry ----


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    with running_registry(tmp_path_factory.mktemp("plain")) as registry:
        yield registry


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory, authority):
    with running_registry(
        tmp_path_factory.mktemp("tls"), certificate=authority.issue_cert("127.0.0.1")
    ) as registry:
        yield registry


@needs_registry
async def test_a_blob_goes_up_in_parts_and_comes_down_in_ranges(plain):
    async with opened(plain.host, "up/down") as client:
        assert await client.blob_size(DIGEST) is None
        url = await client.begin_upload(DIGEST, None)
        assert await client.upload_offset(url) == 0
        url = await client.upload(url, 0, pieces(DATA[:600_000]), 600_000)
        assert await client.upload_offset(url) == 600_000
        url = await client.upload(url, 600_000, pieces(DATA[600_000:]), len(DATA) - 600_000)
        await client.finish_upload(url, DIGEST)

        assert await client.blob_size(DIGEST) == len(DATA)
        source = await blob(client, DIGEST).source()
        assert (source.size, source.accepts_ranges) == (len(DATA), True)
        assert await read(client, source, 0, len(DATA)) == DATA
        assert await read(client, source, 1, 2) == DATA[1:2]
        assert await read(client, source, 700_001, len(DATA)) == DATA[700_001:]


@needs_registry
async def test_a_manifest_comes_back_byte_for_byte(plain):
    async with opened(plain.host, "manifest/round") as client:
        with pytest.raises(RemoteNotFound, match=r"^file does not exist$"):
            await client.manifest("v1")
        await push(client)
        await client.put_manifest("v1", MANIFEST)
        assert await client.manifest("v1") == MANIFEST


@needs_registry
async def test_a_blob_of_another_repository_is_mounted(plain):
    async with opened(plain.host, "mount/from") as client:
        await push(client)
    async with opened(plain.host, "mount/to") as client:
        assert await client.begin_upload(DIGEST, "mount/from") is None
        assert await client.blob_size(DIGEST) == len(DATA)
        assert await client.begin_upload(ABSENT, "mount/from") is not None


@needs_registry
async def test_what_is_not_there_is_said_to_be_missing(plain):
    async with opened(plain.host) as client:
        assert await client.blob_size(ABSENT) is None
        with pytest.raises(RemoteNotFound):
            await blob(client, ABSENT).source()
        url = await client.begin_upload(DIGEST, None)
        with pytest.raises(RemoteNotFound):
            await client.upload_offset(url.replace("/uploads/", "/uploads/0"))


@needs_registry
async def test_the_registry_checks_what_it_was_sent(plain):
    async with opened(plain.host) as client:
        with pytest.raises(RegistryRefused, match=r"^400: .*DIGEST_INVALID") as refusal:
            await push(client, digest=ABSENT)
        assert (refusal.value.status, refusal.value.is_transient) == (400, False)


@needs_registry
async def test_reading_may_end_in_the_middle(plain):
    async with opened(plain.host, "left/early") as client:
        await push(client)
        source = await blob(client, DIGEST).source()
        async with blob(client, DIGEST).read(source, 0, len(DATA)) as chunks:
            assert await anext(chunks)
        assert await read(client, source, 0, 10) == DATA[:10]


# ---- http and https ----


@needs_registry
@pytest.mark.parametrize("kind", ["plain", "encrypted"])
async def test_without_insecure_an_untrusted_registry_is_refused_by_the_name_of_the_flag(kind, request):
    registry = request.getfixturevalue(kind)
    async with opened(registry.host, insecure=False) as client:
        with pytest.raises(InsecureRegistry, match=f"^{registry.host}: .*--insecure"):
            await client.manifest("v1")


@needs_registry
@pytest.mark.parametrize("kind", ["plain", "encrypted"])
async def test_with_insecure_both_work(kind, request):
    async with opened(request.getfixturevalue(kind).host, "in/secure") as client:
        await push(client)
        source = await blob(client, DIGEST).source()
        assert source.url.startswith({"plain": "http:", "encrypted": "https:"}[kind])
        assert await read(client, source, 5, 9) == DATA[5:9]


@needs_registry
async def test_a_private_authority_is_trusted_when_the_environment_says_so(
    encrypted, authority, monkeypatch, tmp_path
):
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    async with opened(encrypted.host, insecure=False) as client:
        assert await client.blob_size(ABSENT) is None


@pytest.mark.parametrize("insecure", [True, False])
async def test_nobody_there(insecure, unused_port):
    with pytest.raises(RegistryUnreachable if insecure else InsecureRegistry, match=f"127.0.0.1:{unused_port}"):
        async with opened(f"127.0.0.1:{unused_port}", insecure=insecure) as client:
            await client.manifest("v1")


@pytest.mark.parametrize("insecure", [True, False])
async def test_a_server_that_hangs_up_on_a_handshake_is_no_https(insecure):
    hellos = []

    async def handle(reader, writer):
        hellos.append(await reader.read(1))
        writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(RegistryUnreachable if insecure else InsecureRegistry):
            async with opened(host, insecure=insecure) as client:
                await client.manifest("v1")
    assert hellos == ([b"\x16", b"G"] if insecure else [b"\x16"])  # a TLS handshake; GET


@pytest.fixture
def unused_port():
    with socket.socket() as held:  # bound, but it does not listen
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@needs_registry
@pytest.mark.parametrize("variable", ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"])
async def test_no_proxy_stands_before_this_machine(plain, monkeypatch, unused_port, variable):
    monkeypatch.setenv(variable, f"http://127.0.0.1:{unused_port}")
    async with opened(plain.host) as client:
        assert await client.blob_size(ABSENT) is None


async def test_other_registries_are_reached_through_the_proxy(monkeypatch, unused_port):
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{unused_port}")
    async with opened("registry.invalid", insecure=False) as client:
        with pytest.raises(InsecureRegistry, match="All connection attempts failed"):  # there, not to the registry
            await client.manifest("v1")


@pytest.mark.parametrize("host", ["a:b:c", "a:99999", "localhost:"])
async def test_a_host_that_is_no_address(host):
    with pytest.raises(RegistryFailed):
        async with opened(host, insecure=False, transport=answering(Answer(404))) as client:
            await client.manifest("v1")


# ---- a hostile registry, at https://r.example ----


class Pieces(httpx2.AsyncByteStream):
    """A body in pieces of any size."""

    def __init__(self, data, size=7919):
        self._data = data
        self._size = size

    async def __aiter__(self):
        for start in range(0, len(self._data), self._size):
            yield self._data[start : start + self._size]


@dataclass(frozen=True)
class Answer:
    """What a hostile registry says, as often as it is asked."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: httpx2.AsyncByteStream = field(default_factory=lambda: Pieces(b""))


def answering(*responses):
    """Gives each answer once, in turn; the last for ever. `seen` are the requests."""
    left = list(responses)
    seen = []

    def answer(request):
        seen.append(request)
        said = left.pop(0) if len(left) > 1 else left[0]
        return httpx2.Response(said.status, headers=said.headers, stream=said.body)

    transport = httpx2.MockTransport(answer)
    transport.seen = seen
    return transport


def hostile(*responses):
    return opened("r.example", insecure=False, transport=answering(*responses))


def redirect(target, status=307):
    return Answer(status, headers={"Location": target})


class Endless(httpx2.AsyncByteStream):
    """A body without end, which counts what was taken of it."""

    def __init__(self, piece=b"x" * 65536):
        self.taken = 0
        self._piece = piece

    async def __aiter__(self):
        while True:
            self.taken += len(self._piece)
            yield self._piece


SOURCE = Source("https://r.example/v2/library/m/blobs/x", 100, accepts_ranges=True)


async def test_a_manifest_without_end_is_cut_off():
    body = Endless()
    async with hostile(Answer(200, body=body)) as client:
        with pytest.raises(BadReply, match=f"more than {MAX_MANIFEST} bytes"):
            await client.manifest("v1")
    assert body.taken < MAX_MANIFEST + 2**20


async def test_a_manifest_may_be_as_large_as_the_limit():
    async with hostile(Answer(200, body=Pieces(b"x" * MAX_MANIFEST))) as client:
        assert len(await client.manifest("v1")) == MAX_MANIFEST


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip"])
async def test_nothing_compressed_is_asked_for_or_unpacked(encoding):
    body = Endless()
    transport = answering(Answer(200, headers={"Content-Encoding": encoding}, body=body))
    async with opened("r.example", insecure=False, transport=transport) as client:
        with pytest.raises(BadReply, match="which nobody asked for"):
            await client.manifest("v1")
        with pytest.raises(BadReply, match="which nobody asked for"):
            await read(client, SOURCE, 0, 100)
    assert {request.headers["Accept-Encoding"] for request in transport.seen} == {"identity"}
    assert body.taken == 0


@pytest.mark.parametrize(
    "status, headers, length, error",
    [
        (206, {"Content-Range": "bytes 10-19/100"}, 10, None),
        (206, {"Content-Range": "bytes 10-19/*"}, 10, None),
        (206, {"Content-Range": "bytes 10-19/101"}, 10, BadReply),             # another blob
        (206, {"Content-Range": "bytes 0-9/100"}, 10, BadReply),               # from the beginning instead
        (206, {"Content-Range": "bytes 10-99/100"}, 90, BadReply),             # all the rest
        (206, {"Content-Range": "bytes 10-18/100"}, 9, BadReply),              # less
        (206, {"Content-Range": "bytes ١٠-١٩/١٠٠".encode()}, 10, BadReply),
        (206, {"Content-Range": "bytes 10-19"}, 10, BadReply),
        (206, {}, 10, BadReply),
        (200, {"Content-Length": "100"}, 100, BadReply),                       # the whole, again
        (200, {"Content-Length": "10"}, 10, BadReply),
        (206, {"Content-Range": "bytes 10-19/100"}, 11, BadReply),             # it says one thing and sends another
        (206, {"Content-Range": "bytes 10-19/100"}, 9, RegistryUnreachable),   # or breaks off
        (206, {"Content-Range": "bytes 10-19/100"}, 0, RegistryUnreachable),
        (416, {"Content-Range": "bytes */5"}, 0, RegistryRefused),
        (304, {}, 0, RegistryRefused),
    ],
)  # fmt: skip
async def test_a_part_has_to_be_the_one_that_was_asked_for(status, headers, length, error):
    async with hostile(Answer(status, headers=headers, body=Pieces(b"x" * length))) as client:
        if error is None:
            assert await read(client, SOURCE, 10, 20) == b"x" * 10
        else:
            with pytest.raises(error):
                await read(client, SOURCE, 10, 20)


@pytest.mark.parametrize("headers", [{}, {"Content-Length": "100"}])
async def test_a_server_without_ranges_may_send_the_whole_when_it_is_wanted(headers):
    async with hostile(Answer(200, headers=headers, body=Pieces(b"x" * 100))) as client:
        assert await blob(client, "x").source() == Source(
            SOURCE.url, int(headers.get("Content-Length", 0)) or None, False
        )
    async with hostile(Answer(200, headers=headers, body=Pieces(b"x" * 100))) as client:
        assert await read(client, SOURCE, 0, 100) == b"x" * 100


@pytest.mark.parametrize("length", ["", "-1", "1e3", "9" * 30, "ten"])
async def test_a_size_is_a_number(length):
    async with hostile(Answer(200, headers={"Content-Length": length})) as client:
        with pytest.raises(BadReply, match="does not tell the size of x"):
            await client.blob_size("x")


@pytest.mark.parametrize("text", ["", "10", "5-10", "bytes 0-10", "0-" + "9" * 30])
async def test_an_upload_offset_is_a_range_from_the_beginning(text):
    async with hostile(Answer(204, headers={"Range": text})) as client:
        with pytest.raises(BadReply, match="does not tell how far"):
            await client.upload_offset(SOURCE.url)


@pytest.mark.parametrize(
    "ask", [lambda client: client.blob_size("../../x"), lambda client: client.manifest("../../../x?y#z")]
)
async def test_names_stay_within_their_repository(ask):
    transport = answering(Answer(404))
    async with opened("r.example", insecure=False, transport=transport) as client:
        with contextlib.suppress(RemoteNotFound):
            await ask(client)
    assert transport.seen[0].url.raw_path.startswith(b"/v2/library/m/")
    assert b".." not in transport.seen[0].url.raw_path.split(b"/")


@pytest.mark.parametrize(
    "status, body, text",
    [
        (500, b"", "500"),
        (500, b"oh\r\n\tno", "500: oh no"),
        (403, b"\x1b[2J\xff\x00", "403: \ufffd[2J\ufffd\ufffd"),
        (429, b"x" * 5000, "429: " + "x" * 1000),
    ],
)
async def test_an_error_is_its_status_and_its_body(status, body, text):
    async with hostile(Answer(status, body=Pieces(body))) as client:
        with pytest.raises(RegistryRefused) as refusal:
            await client.manifest("v1")
    assert str(refusal.value) == text
    assert refusal.value.is_transient == (status != 403)


async def test_an_error_without_end_is_cut_off():
    body = Endless()
    async with hostile(Answer(500, body=body)) as client:
        with pytest.raises(RegistryRefused, match=r"^500$"):
            await client.manifest("v1")
    assert body.taken < 2**20


@pytest.mark.parametrize(
    "failure", [httpx2.ConnectTimeout, httpx2.ReadTimeout, httpx2.ReadError, httpx2.RemoteProtocolError]
)
async def test_silence_and_broken_connections_are_worth_another_try(failure):
    class Breaking(httpx2.AsyncByteStream):
        async def __aiter__(self):
            yield b"x"
            raise failure("broken")

    def fail(request):
        raise failure("broken")

    part = Answer(206, headers={"Content-Range": "bytes 0-9/100"}, body=Breaking())
    async with hostile(part) as client:
        with pytest.raises(RegistryUnreachable, match=r"^r\.example: ") as at_once:
            await read(client, SOURCE, 0, 10)
    async with opened("r.example", insecure=False, transport=httpx2.MockTransport(fail)) as client:
        with pytest.raises(RegistryUnreachable, match=r"^r\.example: ") as in_the_middle:
            await client.manifest("v1")
    assert at_once.value.is_transient
    assert in_the_middle.value.is_transient


async def test_a_read_that_is_cancelled_hangs_up():
    class Stalling(httpx2.AsyncByteStream):
        is_closed = False

        async def __aiter__(self):
            yield b"x"
            leaving.cancel()
            await anyio.sleep_forever()

        async def aclose(self):
            self.is_closed = True

    body = Stalling()
    async with hostile(Answer(206, headers={"Content-Range": "bytes 0-9/100"}, body=body)) as client:
        with anyio.CancelScope() as leaving:
            await read(client, SOURCE, 0, 10)
    assert leaving.cancelled_caught
    assert body.is_closed


# ---- redirects ----


async def test_a_blob_is_read_where_the_registry_sends_us():
    part = Answer(206, headers={"Content-Range": "bytes 0-0/100"}, body=Pieces(b"x"))
    async with hostile(redirect("/elsewhere"), redirect("https://cdn.example/b?signed=1%2F2"), part) as client:
        assert await blob(client, "x").source() == Source(
            "https://cdn.example/b?signed=1%2F2", 100, accepts_ranges=True
        )


@pytest.mark.parametrize(
    "target", ["http://r.example/x", "http://cdn.example/x", "file:///etc/passwd", "ftp://r.example/"]
)
async def test_no_redirect_leads_away_from_https(target):
    async with hostile(redirect(target)) as client:
        with pytest.raises(BadReply, match=r"redirects from https to .*, which is not followed"):
            await blob(client, "x").source()


@pytest.mark.parametrize("target", ["http://[", "https://r.example:port/", "https://r.example:70000/"])
async def test_a_redirect_to_nowhere(target):
    async with hostile(redirect(target)) as client:
        with pytest.raises(RegistryFailed):
            await blob(client, "x").source()


async def test_redirects_come_to_an_end():
    transport = answering(redirect("/round"))
    async with opened("r.example", insecure=False, transport=transport) as client:
        with pytest.raises(BadReply, match=r"^maximum redirects exceeded \(10\)$"):
            await blob(client, "x").source()
    assert len(transport.seen) == 11


OTHERS = ["https://other.example/x", "https://r.example:444/x"]


@pytest.mark.parametrize("target", OTHERS)
async def test_only_blobs_may_be_elsewhere(target):
    transport = answering(redirect(target))
    async with opened("r.example", insecure=False, transport=transport) as client:
        with pytest.raises(BadReply, match="redirects to another host"):
            await client.manifest("v1")
        with pytest.raises(BadReply, match="redirects to another host"):
            await client.upload_offset(SOURCE.url)
    assert {str(request.url.host) for request in transport.seen} == {"r.example"}


async def test_what_is_sent_is_not_sent_elsewhere():
    transport = answering(redirect("/x"))
    async with opened("r.example", insecure=False, transport=transport) as client:
        for sending in (
            client.begin_upload("x", None),
            client.upload(SOURCE.url, 0, pieces(b"abc"), 3),
            client.finish_upload(SOURCE.url, "x"),
            client.put_manifest("v1", b"{}"),
        ):
            with pytest.raises(BadReply, match=r"redirects a P[A-Z]*, which is not followed"):
                await sending
    assert len(transport.seen) == 4


@pytest.mark.parametrize("target", [*OTHERS, "http://r.example/x"])
async def test_uploads_go_to_the_registry_itself(target):
    async with hostile(Answer(202, headers={"Location": target})) as client:
        with pytest.raises(BadReply, match="wants uploads at another host"):
            await client.begin_upload("x", None)


async def test_an_upload_goes_on_where_the_registry_says():
    async with hostile(Answer(202, headers={"Location": "/a", "Docker-Upload-Location": "/b?c=d%3D"})) as client:
        assert await client.begin_upload("x", None) == "https://r.example/b?c=d%3D"
    transport = answering(Answer(202))
    async with opened("r.example", insecure=False, transport=transport) as client:
        with pytest.raises(BadReply, match="does not tell where to upload to"):
            await client.begin_upload("sha256:1", "library/n")
        await client.finish_upload("https://r.example/b?c=d%3D", "sha256:1")
    assert [(request.method, request.url.raw_path) for request in transport.seen] == [
        ("POST", b"/v2/library/m/blobs/uploads/?mount=sha256%3A1&from=library%2Fn"),
        ("PUT", b"/b?c=d%3D&digest=sha256%3A1"),
    ]


async def test_a_storage_that_refuses_an_old_url_is_worth_another_try():
    for status in (401, 403, 404):
        async with hostile(redirect("https://cdn.example/b"), Answer(status)) as client:
            with pytest.raises(RegistryRefused) as refusal:
                await blob(client, "x").source()
        assert refusal.value.is_transient
