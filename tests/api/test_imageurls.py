"""Pictures by URL, fetched from servers on this machine that stand for those of the Internet, friendly and hostile."""

import asyncio
import gc
import socket
import ssl
import threading
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from ipaddress import ip_address

import anyio
import anyio.lowlevel
import pytest
import trustme

from a3s_power.errors import AppError, InvalidRequest
from a3s_power.service.imageurls import Bounds, ImageUrls, is_public

pytestmark = pytest.mark.anyio

LOOPBACK = ip_address("127.0.0.1")
PUBLIC = ip_address("93.184.215.14")
PRIVATE = ip_address("10.0.0.7")
METADATA = ip_address("169.254.169.254")
PICTURE = bytes(range(256)) * 1000
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(PICTURE), PICTURE)
ANY = Bounds()
BRIEF = Bounds(total_s=0.2)


class Names:
    """A name server of a test's own: each host has a list of answers, the last of which it gives for ever."""

    def __init__(self, **answers):
        self.asked = []
        self._answers = {f"{name}.example": list(each) for name, each in answers.items()}

    async def __call__(self, host):
        self.asked.append(host)
        answers = self._answers[host]
        return answers.pop(0) if len(answers) > 1 else answers[0]


def loopback_too(address):
    """Servers of tests are on loopback; all else is as it is."""
    return address == LOOPBACK or is_public(address)


def fetcher(port, names=None, *, bounds=ANY, accepts=loopback_too):
    hosts = [f"*.example:{port}", f"[::1]:{port}", f"127.0.0.1:{port}"]
    return ImageUrls(hosts, "tests/1", bounds=bounds, resolve=names or Names(images=[[LOOPBACK]]), accepts=accepts)


class Site:
    """A server with an answer for each request, the last of which it gives for ever; with none it is silent.

    `requests` are what it was asked, `connections` counts who is there, `reached` is set by the first.
    """

    def __init__(self, answers):
        self.requests = []
        self.connections = 0
        self.reached = asyncio.Event()
        self.port = 0
        self._answers = list(answers)

    async def handle(self, reader, writer):
        self.connections += 1
        self.reached.set()
        try:
            if not self._answers:
                await reader.read()
            while self._answers:
                self.requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
                await self._say(writer, self._answers.pop(0) if len(self._answers) > 1 else self._answers[0])
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # they left
        finally:
            self.connections -= 1
            writer.transport.abort()

    async def _say(self, writer, answer):
        if callable(answer):
            await answer(writer)
        else:
            writer.write(answer.replace(b"{port}", b"%d" % self.port))
            await writer.drain()


@asynccontextmanager
async def running(*answers, tls=None):
    """A site. When the block has ended, nobody may be connected any more, by no grace of the garbage collector."""
    site = Site(answers)
    gc.disable()
    try:
        async with await asyncio.start_server(site.handle, "127.0.0.1", 0, ssl=tls) as server:
            site.port = server.sockets[0].getsockname()[1]
            yield site
            with anyio.fail_after(5):
                while site.connections:
                    await anyio.lowlevel.checkpoint()
    finally:
        gc.enable()


def redirect(location, status=302):
    return f"HTTP/1.1 {status} Away\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()


def said(head, body=b""):
    return f"HTTP/1.1 {head}\r\n\r\n".encode() + body


# ---- what is asked, and of whom ----


async def test_a_picture_is_what_the_url_says():
    async with running(WHOLE) as site:
        assert await fetcher(site.port).fetch(f"http://images.example:{site.port}/a/b%20c.png?d=e#f") == PICTURE
    line, *headers = site.requests[0].split("\r\n")
    assert line == "GET /a/b%20c.png?d=e HTTP/1.1"
    assert sorted(filter(None, headers)) == [
        "Accept-Encoding: identity",
        "Accept: image/*",
        f"Host: images.example:{site.port}",
        "User-Agent: tests/1",
    ]


@pytest.mark.parametrize(
    "answer",
    [
        said("200 OK\r\nTransfer-Encoding: chunked", b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"),
        said("200 OK\r\nContent-Length: 5\r\nContent-Encoding: identity", b"abcde"),
        said("200 OK\r\nContent-Length: 5\r\nContent-Type: text/html", b"abcde"),  # for the decoder to refuse
        said("100 Continue") + said("200 OK\r\nContent-Length: 5", b"abcde"),
    ],
)
async def test_a_body_may_come_in_any_way(answer):
    async with running(answer) as site:
        assert await fetcher(site.port).fetch(f"http://images.example:{site.port}/") == b"abcde"


async def test_proxies_and_passwords_of_the_environment_are_left_alone(monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine images.example login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    async with running() as proxy, running(WHOLE) as site:
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert await fetcher(site.port).fetch(f"http://images.example:{site.port}/") == PICTURE
    assert not proxy.reached.is_set()
    assert "authorization" not in site.requests[0].lower()


async def test_cookies_are_forgotten_at_once():
    biscuit = redirect("/there").replace(b"\r\nLocation", b"\r\nSet-Cookie: a=b; Path=/\r\nLocation")
    async with running(biscuit, WHOLE) as site:
        assert await fetcher(site.port).fetch(f"http://images.example:{site.port}/") == PICTURE
    assert [request.split(" ")[1] for request in site.requests] == ["/", "/there"]
    assert not any("cookie" in request.lower() for request in site.requests)


# ---- addresses ----


async def test_a_name_is_looked_up_once_so_that_it_cannot_change_its_mind():
    """DNS rebinding: the address that is checked is public, the next one would not be."""
    names = Names(images=[[LOOPBACK], [PRIVATE]])
    async with running(WHOLE) as site:
        assert await fetcher(site.port, names).fetch(f"http://images.example:{site.port}/") == PICTURE
    assert names.asked == ["images.example"]


async def test_a_name_that_has_changed_its_mind_is_refused_the_next_time():
    names = Names(images=[[LOOPBACK], [PRIVATE]])
    async with running(redirect("/again"), WHOLE) as site:
        with pytest.raises(InvalidRequest, match="has no public address"):
            await fetcher(site.port, names).fetch(f"http://images.example:{site.port}/")
    assert names.asked == ["images.example"] * 2
    assert len(site.requests) == 1


async def test_of_several_addresses_only_those_that_are_public_are_asked():
    async with running(WHOLE) as site:
        with pytest.raises(InvalidRequest, match="has no public address"):
            names = Names(images=[[PRIVATE, METADATA, LOOPBACK]])
            await fetcher(site.port, names, accepts=is_public).fetch(f"http://images.example:{site.port}/")
        assert not site.reached.is_set()
        names = Names(images=[[PRIVATE, METADATA, LOOPBACK]])
        assert await fetcher(site.port, names).fetch(f"http://images.example:{site.port}/") == PICTURE


async def test_an_address_where_nobody_is_gives_way_to_the_next():
    names = Names(images=[[ip_address("127.0.0.9"), LOOPBACK]])
    async with running(WHOLE) as site:
        pictures = fetcher(site.port, names, accepts=lambda address: True)
        assert await pictures.fetch(f"http://images.example:{site.port}/") == PICTURE


# ---- redirects ----


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "location", ["/there", "there", "//other.example:{port}/there", "http://other.example:{port}/there"]
)
async def test_redirects_are_followed(status, location):
    names = Names(images=[[LOOPBACK]], other=[[LOOPBACK]])
    async with running(redirect(location, status), WHOLE) as site:
        assert await fetcher(site.port, names).fetch(f"http://images.example:{site.port}/here") == PICTURE
    assert [request.split(" ")[1] for request in site.requests] == ["/here", "/there"]


@pytest.mark.parametrize("hops, is_enough", [(3, True), (4, False)])
async def test_redirects_are_followed_three_times(hops, is_enough):
    async with running(*[redirect("/on")] * hops, WHOLE) as site:
        url = f"http://images.example:{site.port}/"
        if is_enough:
            assert await fetcher(site.port).fetch(url) == PICTURE
        else:
            with pytest.raises(InvalidRequest, match=r"^cannot fetch a picture: more than 3 redirects$"):
                await fetcher(site.port).fetch(url)
    assert len(site.requests) == 4


@pytest.mark.parametrize(
    "location, error",
    [
        ("http://inside.example:{port}/", "inside.example:[0-9]+ has no public address"),
        ("http://metadata.example:{port}/latest/meta-data/", "metadata.example:[0-9]+ has no public address"),
        ("http://nowhere.example:{port}/", "nowhere.example:[0-9]+ has no public address"),
        ("http://localhost:{port}/", "localhost:[0-9]+ are not allowed here"),
        ("http://169.254.169.254/", "169.254.169.254 are not allowed here"),
        ("http://images.example/", "images.example are not allowed here"),  # another port
        ("file:///etc/passwd", "invalid picture URL"),
        ("ftp://images.example/", "invalid picture URL"),
        ("http://[::g]/", "leads to 'http://"),
        ("http://user:secret@other.test/", "pictures from other.test are not allowed here"),
    ],
)
async def test_a_redirect_is_checked_as_if_the_client_had_asked(location, error):
    names = Names(images=[[LOOPBACK]], inside=[[PRIVATE]], metadata=[[METADATA]], nowhere=[[]])
    async with running(redirect(location)) as site:
        with pytest.raises(InvalidRequest, match=error):
            await fetcher(site.port, names).fetch(f"http://images.example:{site.port}/")
    assert len(site.requests) == 1


async def test_the_body_of_a_redirect_is_not_read():
    async def endless(writer):
        writer.write(said("302 Found\r\nLocation: /there"))
        await endlessly(writer, b"x" * 65536)

    async with running(endless, WHOLE) as site:
        assert await fetcher(site.port).fetch(f"http://images.example:{site.port}/") == PICTURE


# ---- TLS ----


@pytest.fixture
def tls(monkeypatch, tmp_path):
    """A server's side of TLS, with a certificate for images.example that this machine trusts."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("images.example", "127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def greeted(tls):
    """The names that clients have put into their TLS greetings."""
    names = []
    tls.sni_callback = lambda connection, name, context: names.append(name)
    return names


async def test_https_speaks_to_the_address_by_its_name(tls, greeted):
    async with running(WHOLE, tls=tls) as site:
        assert await fetcher(site.port).fetch(f"https://images.example:{site.port}/") == PICTURE
    assert greeted == ["images.example"]
    assert f"\r\nHost: images.example:{site.port}\r\n" in site.requests[0]


async def test_https_of_an_address_has_a_certificate_of_that_address(tls):
    names = Names()
    names._answers["127.0.0.1"] = [[LOOPBACK]]
    async with running(WHOLE, tls=tls) as site:
        assert await fetcher(site.port, names).fetch(f"https://127.0.0.1:{site.port}/") == PICTURE


async def test_a_certificate_is_good_for_its_names_only(tls):
    names = Names(other=[[LOOPBACK]])
    async with running(WHOLE, tls=tls) as site:
        with pytest.raises(InvalidRequest, match=r"certificate is not valid for 'other\.example'"):
            await fetcher(site.port, names).fetch(f"https://other.example:{site.port}/")
    assert site.requests == []


async def test_a_redirect_to_another_name_at_the_same_address_needs_a_certificate_of_its_own(tls, greeted):
    names = Names(images=[[LOOPBACK]], other=[[LOOPBACK]])
    async with running(redirect("https://other.example:{port}/"), WHOLE, tls=tls) as site:
        with pytest.raises(InvalidRequest, match=r"certificate is not valid for 'other\.example'"):
            await fetcher(site.port, names).fetch(f"https://images.example:{site.port}/")
    assert greeted == ["images.example", "other.example"]
    assert len(site.requests) == 1


async def test_a_certificate_that_nobody_trusts_is_not_trusted(tls, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE")
    async with running(WHOLE, tls=tls) as site:
        with pytest.raises(InvalidRequest, match="certificate verify failed"):
            await fetcher(site.port).fetch(f"https://images.example:{site.port}/")


async def test_redirects_lead_up_to_https_and_never_down(tls):
    async with (
        running(WHOLE, tls=tls) as secure,
        running(redirect(f"https://images.example:{secure.port}/")) as plain,
    ):
        hosts = [f"images.example:{plain.port}", f"images.example:{secure.port}"]
        pictures = ImageUrls(hosts, "tests/1", resolve=Names(images=[[LOOPBACK]]), accepts=loopback_too)
        assert await pictures.fetch(f"http://images.example:{plain.port}/") == PICTURE
    async with running(redirect("http://images.example:{port}/"), tls=tls) as site:
        with pytest.raises(InvalidRequest, match="redirects from https to http"):
            await fetcher(site.port).fetch(f"https://images.example:{site.port}/")


async def test_certificates_that_are_none_are_the_operators_mistake(monkeypatch, tmp_path):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "absent.pem"))
    async with running() as site:
        with pytest.raises(AppError, match="this environment's certificates") as failed:
            await fetcher(site.port).fetch(f"http://images.example:{site.port}/")
    assert not isinstance(failed.value, InvalidRequest)


# ---- hostile servers ----


async def endlessly(writer, piece):
    while True:
        writer.write(piece)
        await writer.drain()
        await anyio.lowlevel.checkpoint()


def endless(head, piece):
    async def answer(writer):
        writer.write(f"HTTP/1.1 {head}\r\n".encode())
        await endlessly(writer, piece)

    return answer


async def hang_up(writer):
    writer.transport.abort()


@pytest.mark.parametrize(
    "answer, error",
    [
        (said("404 Not Found\r\nContent-Length: 0"), "images.example:[0-9]+ answers 404"),
        (said("500 No\r\nContent-Length: 6", b"secret"), "images.example:[0-9]+ answers 500"),
        (said("204 No Content"), "answers 204"),
        (said("206 Partial Content\r\nContent-Length: 1", b"x"), "answers 206"),
        (said("304 Not Modified"), "answers 304"),
        (said("302 Found\r\nContent-Length: 0"), "answers 302"),                       # to nowhere
        (said("401 No\r\nWWW-Authenticate: Basic\r\nContent-Length: 0"), "answers 401"),
        (said("200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1", b"x"), "'gzip' data, which nobody asked for"),
        (said("200 OK\r\nContent-Encoding: br, gzip\r\nContent-Length: 1", b"x"), "which nobody asked for"),
        (said("200 OK\r\nTransfer-Encoding: gzip"), "images.example:[0-9]+: "),
        (endless("200 OK\r\n", b"x" * 65536), "an answer of more than 20971520 bytes"),
        (endless("200 OK", b"X-Pad: " + b"x" * 65536 + b"\r\n"), "images.example:[0-9]+: "),
        (endless("200 OK\r\nTransfer-Encoding: chunked\r\n", b"10000\r\n" + b"x" * 65536 + b"\r\n"), "more than 20971520"),
        (b"<html>I am no HTTP server</html>\r\n\r\n", "images.example:[0-9]+: "),
        (hang_up, "images.example:[0-9]+: "),
    ],
)  # fmt: skip
async def test_an_answer_that_is_no_picture_is_refused(answer, error):
    async with running(answer) as site:
        with pytest.raises(InvalidRequest, match=f"^cannot fetch a picture: .*{error}"):
            await fetcher(site.port).fetch(f"http://images.example:{site.port}/a.png?signature=secret")


async def test_a_body_that_breaks_off_is_no_picture():
    async def broken(writer):
        writer.write(WHOLE[:-1])
        await writer.drain()
        writer.close()

    async with running(broken) as site:
        with pytest.raises(InvalidRequest, match=r"^cannot fetch a picture: "):
            await fetcher(site.port).fetch(f"http://images.example:{site.port}/")


@pytest.mark.parametrize("claimed", ["", "Content-Length: 1000000000000\r\n", "Transfer-Encoding: chunked\r\n"])
@pytest.mark.parametrize("extra", [0, 1])
async def test_bytes_are_counted_whatever_is_claimed(claimed, extra):
    data = b"x" * (1000 + extra)
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data) if "chunked" in claimed else data

    async def answer(writer):
        writer.write(said(f"200 OK\r\n{claimed}Connection: close", body))
        await writer.drain()
        writer.close()

    async with running(answer) as site:
        pictures = fetcher(site.port, bounds=Bounds(size_bytes=1000))
        if extra or "000" in claimed:
            with pytest.raises(
                InvalidRequest, match="more than 1000 bytes" if extra else "cannot fetch a picture: "
            ):
                await pictures.fetch(f"http://images.example:{site.port}/")
        else:
            assert await pictures.fetch(f"http://images.example:{site.port}/") == data


@pytest.mark.parametrize("answers", [[], [said("200 OK\r\nContent-Length: 10", b"x")]])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_server_that_falls_silent_is_left(answers, scheme, tls):
    """Without an answer, https falls silent in the middle of the TLS handshake."""
    async with running(*answers, tls=tls if scheme == "https" and answers else None) as site:
        with pytest.raises(
            InvalidRequest, match=r"^cannot fetch a picture: images.example:[0-9]+: no answer in time$"
        ):
            await fetcher(site.port, bounds=BRIEF).fetch(f"{scheme}://images.example:{site.port}/")
        assert site.reached.is_set()


@pytest.mark.parametrize(
    "head, piece",
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x"),           # one byte after the other
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),      # soon, soon
    ],
)  # fmt: skip
async def test_a_server_that_takes_its_time_is_left(head, piece):
    with dripping(head, piece) as port:
        with pytest.raises(
            InvalidRequest, match=r"^cannot fetch a picture: images.example:[0-9]+: no answer in time$"
        ):
            await fetcher(port, bounds=BRIEF).fetch(f"http://images.example:{port}/")


@contextmanager
def dripping(head, piece):
    """A server for one client, which has no end; in a thread, for one in our event loop would keep step with us."""

    def drip():
        with closing(listener.accept()[0]) as connection, suppress(ConnectionError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.recv(65536)
            connection.sendall(head)
            while True:
                connection.sendall(piece)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


async def test_a_name_server_that_takes_its_time_is_left():
    async def silence(host):
        await anyio.sleep_forever()

    with pytest.raises(InvalidRequest, match="no answer in time"):
        await fetcher(1, silence, bounds=BRIEF).fetch("http://images.example:1/")


async def test_nobody_is_at_the_address():
    async with running() as site:
        pass
    with pytest.raises(InvalidRequest, match=r"^cannot fetch a picture: images.example:[0-9]+: "):
        await fetcher(site.port).fetch(f"http://images.example:{site.port}/")


# ---- leaving ----


@pytest.mark.parametrize("answers", [[], [said("200 OK\r\nContent-Length: 10", b"x")], [redirect("/on")]])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_who_leaves_halfway_leaves_no_connection_behind(answers, scheme, tls):
    """`https` with no answers at all is cancelled in the middle of the TLS handshake."""
    async with running(*answers, tls=tls if scheme == "https" and answers else None) as site:
        async with anyio.create_task_group() as group:
            group.start_soon(
                fetcher(site.port, bounds=Bounds(redirects=10**9)).fetch, f"{scheme}://images.example:{site.port}/"
            )
            await site.reached.wait()
            if answers:
                while not site.requests:
                    await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
