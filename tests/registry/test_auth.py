"""Who we say we are: to whom, and with what. Nothing that identifies us goes anywhere but to the registry itself."""

import base64
import hashlib
import json
import shutil
import stat
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_ssh_public_key,
)

from a3s_power.registry.auth import Keychain, docker_config_path
from a3s_power.registry.challenge import Basic, Bearer, parse_challenges, parse_token, signed_text, token_url
from a3s_power.registry.client import RegistryClient
from a3s_power.registry.errors import (
    BadReply,
    KeychainFailed,
    RegistryFailed,
    RegistryRefused,
    RemoteNotFound,
    Unauthorized,
)
from a3s_power.registry.files import Source
from a3s_power.registry.session import Site, open_session
from tests.support.registry import BINARY, blob, running_gate, running_registry

needs_registry = pytest.mark.skipif(shutil.which(BINARY) is None, reason="this machine has no docker-registry")

DATA = b"some weights" * 1000
DIGEST = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
PASSWORD = base64.b64encode(b"me:s3:cret").decode()


def docker_config(folder, host, auth=PASSWORD):
    path = folder / "config.json"
    path.write_text(json.dumps({"auths": {host: {"auth": auth}}, "credsStore": "desktop"}))
    return path


@asynccontextmanager
async def opened(host, keychain, *, insecure=True, transport=None, path="library/m"):
    site = Site(host, insecure)
    async with open_session(site, keychain=keychain, user_agent="tests/1", transport=transport) as session:
        yield RegistryClient(session, path)


async def pieces(data):
    yield data


# ---- the key ----


def test_a_key_is_made_when_it_is_first_needed_and_then_kept(tmp_path):
    path = tmp_path / "home" / "id_ed25519"
    keychain = Keychain(path, None)
    assert not path.parent.exists()

    public, signature = keychain.sign(b"text").split(":")
    load_ssh_public_key(f"ssh-ed25519 {public}".encode()).verify(base64.b64decode(signature), b"text")
    assert path.read_text().startswith("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Path(f"{path}.pub").read_text() == f"ssh-ed25519 {public}\n"
    assert sorted(file.name for file in path.parent.iterdir()) == ["id_ed25519", "id_ed25519.pub"]

    made = path.read_bytes()
    assert Keychain(path, None).sign(b"text") == f"{public}:{signature}"
    assert path.read_bytes() == made


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="this machine has no ssh-keygen")
def test_keys_are_those_of_ssh_keygen(tmp_path):
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", theirs], check=True)
    assert Keychain(theirs, None).sign(b"").split(":")[0] == theirs.with_suffix(".pub").read_text().split()[1]
    public = Keychain(ours, None).sign(b"").split(":")[0]
    told = subprocess.run(["ssh-keygen", "-y", "-f", ours], check=True, capture_output=True, text=True).stdout
    assert told.split()[:2] == ["ssh-ed25519", public]


EC_KEY = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


@pytest.mark.parametrize("content", [b"", b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n", b"\xff" * 100, EC_KEY])
def test_a_key_that_is_none_is_named_and_left_alone(content, tmp_path):
    path = tmp_path / "id_ed25519"
    path.write_bytes(content)
    with pytest.raises(KeychainFailed, match=str(path)):
        Keychain(path, None).sign(b"text")
    assert path.read_bytes() == content


def test_a_key_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(KeychainFailed, match="id_ed25519"):
        Keychain(tmp_path / "file" / "id_ed25519", None).sign(b"text")


# ---- Docker's passwords ----


@pytest.mark.parametrize(
    "name, host, found",
    [
        ("r.example", "r.example", True),
        ("R.example:5000", "r.example:5000", True),
        ("https://r.example/v1/", "r.example", True),
        ("http://r.example:5000", "r.example:5000", True),
        ("r.example", "r.example:5000", False),
        ("r.example:5000", "r.example", False),
        ("example", "r.example", False),
    ],
)
def test_a_password_is_for_one_host_and_port(name, host, found, tmp_path):
    keychain = Keychain(tmp_path / "key", docker_config(tmp_path, name))
    assert keychain.password(host) == (PASSWORD if found else None)


@pytest.mark.parametrize(
    "text, outcome",
    [
        ('{"auths": {"h": {"identitytoken": "x"}}}', None),
        ('{"auths": {"h": {}}}', None),
        ('{"credsStore": "desktop"}', None),
        ("{}", None),
        ("", KeychainFailed),
        ("[]", KeychainFailed),
        ('{"auths": {"h": {"auth": "a"}}}', KeychainFailed),
        ('{"auths": {"h": {"auth": 5}}}', KeychainFailed),
    ],
)
def test_dockers_configuration(text, outcome, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(text)
    if outcome is None:
        assert Keychain(tmp_path / "key", path).password("h") is None
    else:
        with pytest.raises(outcome, match=str(path)):
            Keychain(tmp_path / "key", path).password("h")


def test_there_may_be_no_such_configuration(tmp_path):
    assert Keychain(tmp_path / "key", None).password("h") is None
    assert Keychain(tmp_path / "key", tmp_path / "absent").password("h") is None


def test_dockers_configuration_is_where_docker_has_it():
    assert docker_config_path({}, Path("/home/me")) == Path("/home/me/.docker/config.json")
    assert docker_config_path({"DOCKER_CONFIG": "/etc/d"}, Path("/home/me")) == Path("/etc/d/config.json")


# ---- challenges ----


REALM = httpx2.URL("https://r.example/token")


@pytest.mark.parametrize(
    "headers, challenge",
    [
        ([], None),
        (["Negotiate"], None),
        (['Basic realm="x"'], Basic()),
        (['Basic realm="x"', 'Bearer realm="https://r.example/token"'], Bearer(REALM, "", "")),
        (['bearer realm="https://r.example/token", service="s", scope="a b"'], Bearer(REALM, "s", "a b")),
        (['Bearer realm="https://r.example/token",scope="repository:a/b:pull,push"'], Bearer(REALM, "", "repository:a/b:pull,push")),
        (['Bearer realm="https://me:pw@r.example/token#x",service="a "quoted" one"'], Bearer(REALM, 'a "quoted" one', "")),
    ],
)  # fmt: skip
def test_challenges(headers, challenge):
    assert parse_challenges(headers) == challenge


@pytest.mark.parametrize("realm", ["", "x", "/token", "file:///etc/passwd", "https://", "https://x:y"])
def test_a_realm_is_a_web_address(realm):
    with pytest.raises(BadReply, match="invalid realm"):
        parse_challenges([f'Bearer realm="{realm}"'])


def test_a_challenge_without_end_takes_no_time():
    assert parse_challenges(['Basic a="' * 100_000]) == Basic()
    with pytest.raises(BadReply):
        parse_challenges(['Bearer a="' + 'a="' * 100_000])


@pytest.mark.parametrize(
    "realm, service, scope, query",
    [
        ("https://r/t", "s", "a", "nonce=n&scope=a&service=s&ts=1"),
        ("https://r/t", "", "", "nonce=n&scope=&service=&ts=1"),
        ("https://r/t", "s p", "b:x,y a", "nonce=n&scope=b%3Ax%2Cy&scope=a&service=s+p&ts=1"),
        ("https://r/t?z=1&account=", "s", "a", "account=&nonce=n&scope=a&service=s&ts=1&z=1"),
    ],
)
def test_the_question_for_a_token_is_in_gos_order_and_spelling(realm, service, scope, query):
    url = token_url(Bearer(httpx2.URL(realm), service, scope), ts="1", nonce="n")
    assert str(url) == f"https://r/t?{query}"
    digest = "ZTNiMGM0NDI5OGZjMWMxNDlhZmJmNGM4OTk2ZmI5MjQyN2FlNDFlNDY0OWI5MzRjYTQ5NTk5MWI3ODUyYjg1NQ=="
    assert signed_text(url) == f"GET,https://r/t?{query},{digest}".encode()


@pytest.mark.parametrize(
    "body, token", [(b'{"token":"a.b"}', "a.b"), (b'{"access_token":"c","expires_in":1}', "c")]
)
def test_tokens(body, token):
    assert parse_token(body) == token


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"null", b'{"token":5}', b'{"token":"a b"}', b'{"token":"a\\r\\nX: y"}', b'{"token":"\xff"}', b"[" * 60_000],
)  # fmt: skip
def test_what_is_no_token(body):
    with pytest.raises(BadReply, match="the token service sent"):
        parse_token(body)


# ---- a registry that wants signed tokens ----


@pytest.fixture(scope="module")
def gated(tmp_path_factory):
    with running_registry(tmp_path_factory.mktemp("gated")) as registry, running_gate(registry) as gate:
        yield gate


@pytest.fixture
def gate(gated):
    gated.issued.clear()
    gated.expire_tokens()
    gated.is_shut = False
    return gated


@needs_registry
@pytest.mark.anyio
async def test_a_token_is_fetched_once_and_kept(gate, tmp_path):
    async with opened(gate.host, Keychain(tmp_path / "key", None), path="test/once") as client:
        assert await client.blob_size(DIGEST) is None
        url = await client.begin_upload(DIGEST, None)
        url = await client.upload(url, 0, pieces(DATA), len(DATA))
        await client.finish_upload(url, DIGEST)
        assert gate.issued == ["repository:test/once:pull", "repository:test/once:pull,push"]


@needs_registry
@pytest.mark.anyio
async def test_requests_at_the_same_time_share_a_token(gate, tmp_path):
    async with opened(gate.host, Keychain(tmp_path / "key", None), path="test/many") as client:
        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(client.blob_size, DIGEST)
    assert gate.issued == ["repository:test/many:pull"]


@needs_registry
@pytest.mark.anyio
async def test_an_expired_token_is_renewed(gate, tmp_path):
    async with opened(gate.host, Keychain(tmp_path / "key", None), path="test/old") as client:
        url = await client.begin_upload(DIGEST, None)
        gate.expire_tokens()
        with pytest.raises(RegistryRefused) as refusal:  # what was sent is spent; the caller has it, and goes on
            await client.upload(url, 0, pieces(DATA), len(DATA))
        assert refusal.value.is_transient
        await client.upload(url, 0, pieces(DATA), len(DATA))
        assert gate.issued == ["repository:test/old:pull,push"] * 2


@needs_registry
@pytest.mark.anyio
async def test_who_is_refused_with_a_fresh_token_has_no_access(gate, tmp_path):
    gate.is_shut = True
    async with opened(gate.host, Keychain(tmp_path / "key", None), path="test/shut") as client:
        with pytest.raises(Unauthorized, match=r"^unauthorized: access denied$"):
            await client.manifest("v1")
    assert gate.issued == ["repository:test/shut:pull"]


# ---- a registry that wants passwords ----


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    with running_registry(tmp_path_factory.mktemp("guarded"), users={"me": "s3:cret"}) as registry:
        yield registry


@needs_registry
@pytest.mark.anyio
async def test_a_password_opens_the_registry(guarded, tmp_path):
    async with opened(guarded.host, Keychain(tmp_path / "key", docker_config(tmp_path, guarded.host))) as client:
        with pytest.raises(RemoteNotFound):
            await client.manifest("v1")
    assert not (tmp_path / "key").exists()


@needs_registry
@pytest.mark.anyio
@pytest.mark.parametrize("auth", [None, base64.b64encode(b"me:wrong").decode()])
async def test_without_the_right_password_it_stays_closed(guarded, auth, tmp_path):
    config = docker_config(tmp_path, guarded.host, auth) if auth else None
    async with opened(guarded.host, Keychain(tmp_path / "key", config)) as client:
        with pytest.raises(Unauthorized, match=r"^unauthorized: access denied$"):
            await client.manifest("v1")


# ---- a registry that wants more than is its due ----


class Net:
    """All hosts: an Authorization of `Bearer good` is let in, everyone else gets the challenge. Remembers who saw what."""

    def __init__(self, challenge, token=None):
        self.shown = []  # (scheme and host, Authorization)
        self.urls = []
        self._challenge = challenge
        self._token = token or httpx2.Response(200, stream=httpx2.ByteStream(b'{"token":"good"}'))
        self.transport = httpx2.MockTransport(self._answer)

    def _answer(self, request):
        authorization = request.headers.get("Authorization")
        self.shown.append((f"{request.url.scheme}://{request.url.netloc.decode()}", authorization))
        self.urls.append(str(request.url))
        if request.url.path == "/token":
            return self._token
        if authorization != "Bearer good" and request.url.host == "r.example":
            return httpx2.Response(
                401, headers={"WWW-Authenticate": self._challenge}, stream=httpx2.ByteStream(b"")
            )
        if "blobs" in request.url.path:
            return httpx2.Response(
                307, headers={"Location": "https://cdn.example/b"}, stream=httpx2.ByteStream(b"")
            )
        headers = {"Content-Range": "bytes 0-0/1"} if request.url.host == "cdn.example" else {}
        return httpx2.Response(206, headers=headers, stream=httpx2.ByteStream(b"x"))

    def opened(self, folder, *, with_password):
        config = docker_config(folder, "r.example") if with_password else None
        return opened("r.example", Keychain(folder / "key", config), insecure=False, transport=self.transport)


def challenge(realm):
    return f'Bearer realm="{realm}",service="s",scope="a"'


@pytest.mark.anyio
async def test_a_signature_goes_to_a_realm_of_the_registry(tmp_path):
    net = Net(challenge("https://r.example/token"))
    async with net.opened(tmp_path, with_password=False) as client:
        assert await client.manifest("v1") == b"x"
    asked, signed, let_in = net.shown
    public = (tmp_path / "key.pub").read_text().split()[1]
    assert asked == ("https://r.example", None)
    assert signed[1].startswith(f"{public}:")
    assert let_in == ("https://r.example", "Bearer good")


@pytest.mark.anyio
async def test_a_password_goes_to_a_realm_of_the_registry(tmp_path):
    net = Net(challenge("https://r.example/token"))
    async with net.opened(tmp_path, with_password=True) as client:
        await client.manifest("v1")
    assert [shown for _, shown in net.shown] == [None, f"Basic {PASSWORD}", "Bearer good"]
    assert net.urls[1] == "https://r.example/token?scope=a&service=s"


@pytest.mark.anyio
@pytest.mark.parametrize("with_password", [True, False])
@pytest.mark.parametrize("realm", ["https://auth.example/token", "https://r.example:444/token"])
async def test_a_realm_elsewhere_is_asked_without_a_name(realm, with_password, tmp_path):
    net = Net(challenge(realm))
    async with net.opened(tmp_path, with_password=with_password) as client:
        await client.manifest("v1")
    assert [shown for _, shown in net.shown] == [None, None, "Bearer good"]
    assert net.urls[1] == f"{realm}?scope=a&service=s"
    assert not (tmp_path / "key").exists()


@pytest.mark.anyio
@pytest.mark.parametrize("with_password", [True, False])
@pytest.mark.parametrize(
    "realm", ["http://auth.example/token", "http://r.example/token", "http://r.example:443/token"]
)
async def test_a_realm_elsewhere_is_not_asked_in_the_clear(realm, with_password, tmp_path):
    net = Net(challenge(realm))
    async with net.opened(tmp_path, with_password=with_password) as client:
        with pytest.raises(Unauthorized, match=r'realm host ".*" does not match original host "r.example"'):
            await client.manifest("v1")
    assert net.shown == [("https://r.example", None)]


@pytest.mark.anyio
async def test_a_service_that_knows_no_signatures_gives_everyone_a_token(tmp_path):
    class Public(Net):
        def _answer(self, request):
            answer = super()._answer(request)
            is_signed = request.url.path == "/token" and "Authorization" in request.headers
            return httpx2.Response(400, stream=httpx2.ByteStream(b"what?")) if is_signed else answer

    net = Public(challenge("https://r.example/token"))
    async with net.opened(tmp_path, with_password=False) as client:
        assert await client.manifest("v1") == b"x"
    assert [shown is None for _, shown in net.shown] == [True, False, True, False]


@pytest.mark.anyio
async def test_a_refusal_by_the_token_service_is_told_in_its_words(tmp_path):
    refusal = httpx2.Response(403, stream=httpx2.ByteStream(b"no such user"))
    async with Net(challenge("https://r.example/token"), refusal).opened(tmp_path, with_password=True) as client:
        with pytest.raises(RegistryRefused, match=r"^403: no such user$"):
            await client.manifest("v1")


@pytest.mark.anyio
async def test_the_token_service_may_not_send_us_on(tmp_path):
    redirect = httpx2.Response(307, headers={"Location": "https://r.example/other"}, stream=httpx2.ByteStream(b""))
    net = Net(challenge("https://r.example/token"), redirect)
    async with net.opened(tmp_path, with_password=True) as client:
        with pytest.raises(RegistryFailed, match=r"^307"):
            await client.manifest("v1")
    assert len(net.shown) == 2


@pytest.mark.anyio
@pytest.mark.parametrize("with_password", [True, False])
async def test_a_storage_elsewhere_sees_no_token(with_password, tmp_path):
    net = Net(challenge("https://r.example/token"))
    async with net.opened(tmp_path, with_password=with_password) as client:
        source = await blob(client, "x").source()
        async with blob(client, "x").read(source, 0, 1) as chunks:
            assert [chunk async for chunk in chunks] == [b"x"]
    assert source == Source("https://cdn.example/b", 1, accepts_ranges=True)
    assert net.shown[-2:] == [("https://cdn.example", None)] * 2


@pytest.mark.anyio
@pytest.mark.parametrize("header", ["", "Negotiate", 'Digest realm="x"', 'Basic realm="x"'])
async def test_a_challenge_that_we_cannot_answer(header, tmp_path):
    net = Net(header)
    async with net.opened(tmp_path, with_password=False) as client:
        with pytest.raises(Unauthorized, match=r"^unauthorized: access denied$"):
            await client.manifest("v1")
    assert len(net.shown) == 1
