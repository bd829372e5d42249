"""The HTTP client of our own server: what it sends, and how failures reach the person at the terminal."""

import os
import socket

import httpx2
import msgspec
import pytest

from a3s_power.client import Client, ClientError, ServerUnreachable
from a3s_power.wire.ollama import ChatRequest, CreateRequest, GenerateRequest, Message

CHAT_LINE = b'{"model":"m","created_at":"","message":{"role":"assistant","content":"%s"},"done":false,"new":1}\n'


def client_of(handler):
    return Client("http://test", transport=httpx2.MockTransport(handler))


def answering(*args, **kwargs):
    return client_of(lambda request: httpx2.Response(*args, **kwargs))


def test_a_stream_is_read_line_by_line_wherever_it_is_cut():
    body = CHAT_LINE % "a\u0085\u2028b".encode() + CHAT_LINE % b"c"
    chunks = [body[start : start + 7] for start in range(0, len(body), 7)]
    with answering(200, content=iter(chunks)) as client, client.chat(ChatRequest(model="m")) as replies:
        assert [reply.message.content for reply in replies] == ["a\u0085\u2028b", "c"]


def test_an_error_line_ends_a_stream():
    body = CHAT_LINE % b"a" + b'{"error":"the runner died"}\n'
    with answering(200, content=body) as client, client.chat(ChatRequest(model="m")) as replies:
        assert next(replies).message.content == "a"
        with pytest.raises(ClientError, match="the runner died") as caught:
            next(replies)
    assert caught.value.status is None


def test_leaving_a_stream_closes_the_connection():
    closed = []

    class Endless(httpx2.SyncByteStream):
        def __iter__(self):
            while True:
                yield CHAT_LINE % b"a"

        def close(self):
            closed.append(True)

    with answering(200, stream=Endless()) as client, pytest.raises(KeyboardInterrupt):
        with client.chat(ChatRequest(model="m")) as replies:
            next(replies)
            raise KeyboardInterrupt
    assert closed


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error":"model \'x\' not found"}', "model 'x' not found"),
        (b"404 page not found", "404 page not found"),
        (b"", "404 Not Found"),
    ],
)
@pytest.mark.parametrize("streams", [True, False])
def test_a_refusal_is_told_in_the_servers_words(body, message, streams):
    with answering(404, content=body) as client, pytest.raises(ClientError) as caught:
        if streams:
            with client.create(CreateRequest(model="x")):
                pass
        else:
            client.unload("x")
    assert (str(caught.value), caught.value.status) == (message, 404)
    assert caught.value.is_not_found


def test_a_reply_that_makes_no_sense():
    with answering(200, content=b"<html>") as client, pytest.raises(ClientError, match="something unexpected"):
        client.list()


def test_nobody_listens():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: connecting is refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with Client(url) as client, pytest.raises(ServerUnreachable, match="run 'a3s-power serve' to start it"):
            client.heartbeat()


def test_an_address_that_is_none():
    with pytest.raises(ClientError, match="http://a b"):
        Client("http://a b:1\x00")


@pytest.mark.parametrize(("status", "expected"), [(200, True), (404, False)])
def test_has_blob(status, expected):
    with answering(status) as client:
        assert client.has_blob("sha256:00") is expected


def test_a_blob_is_sent_with_its_length(tmp_path):
    path = tmp_path / "blob"
    path.write_bytes(b"x" * (3 * 2**20 + 1))
    sent = []

    def receive(request):
        sent.append((request.url.path, request.headers["Content-Length"], len(request.read())))
        return httpx2.Response(201)

    progress = []
    with client_of(receive) as client:
        client.upload_blob(path, "sha256:00", progress.append)
    assert sent == [("/api/blobs/sha256:00", str(3 * 2**20 + 1), 3 * 2**20 + 1)]
    assert progress == [2**20, 2 * 2**20, 3 * 2**20, 3 * 2**20 + 1]


@pytest.mark.parametrize("size_then", [3 * 2**20, 2**20])
def test_an_upload_is_as_long_as_it_was_announced(size_then, tmp_path):
    """What a file has grown by is not sent; one that became shorter is told of."""
    path = tmp_path / "model.gguf"
    path.write_bytes(bytes(2 * 2**20))
    sent = []

    def receive(request):
        sent.append(len(request.read()))
        return httpx2.Response(201)

    with client_of(receive) as client:
        if size_then < 2 * 2**20:
            with pytest.raises(ClientError, match=r"model\.gguf became shorter while it was sent"):
                client.upload_blob(path, "sha256:00", lambda _sent: os.truncate(path, size_then))
        else:
            client.upload_blob(path, "sha256:00", lambda _sent: os.truncate(path, size_then))
            assert sent == [2 * 2**20]


def test_requests_carry_what_is_set_and_nothing_else():
    bodies = []

    def receive(request):
        bodies.append((request.method, request.url.path, msgspec.json.decode(request.content)))
        return httpx2.Response(200, content=b'{"model":"m","created_at":"","response":"","done":true}')

    with client_of(receive) as client:
        client.delete("m")
        client.copy("a", "b")
        client.unload("m")
        with client.generate(GenerateRequest(model="m", think=False)):
            pass
        with client.chat(ChatRequest(model="m", messages=[Message(role="user", content="hi")])):
            pass
    assert bodies == [
        ("DELETE", "/api/delete", {"model": "m"}),
        ("POST", "/api/copy", {"source": "a", "destination": "b"}),
        ("POST", "/api/generate", {"model": "m", "keep_alive": 0, "stream": False}),
        ("POST", "/api/generate", {"model": "m", "think": False}),
        ("POST", "/api/chat", {"model": "m", "messages": [{"role": "user", "content": "hi"}]}),
    ]
