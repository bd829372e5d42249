"""Who sends a request and how urgently, as it is read and as it arrives where it matters."""

from contextlib import asynccontextmanager
from types import SimpleNamespace

import httpx2
import numpy as np
import pytest
from starlette.requests import Request

from a3s_power.api.access import Access
from a3s_power.api.app import Application, Services
from a3s_power.api.openapi import document
from a3s_power.api.requesters import InvalidPriority, client_of, requester_of
from a3s_power.generation import Done, FinishReason, Text
from a3s_power.requester import Priority, Requester
from a3s_power.service.chat import Preview
from a3s_power.service.embed import Embedded

ADDRESS = "192.0.2.7"
SECRET = b"s" * 32
KEY = "sk-of-ann"
BEARER = {"authorization": f"Bearer {KEY}"}


# ---- the client ----


def client(address=ADDRESS, headers=BEARER, secret=SECRET):
    return client_of(address, headers, secret)


@pytest.mark.parametrize(
    "address, expected",
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),                  # on a listener for IPv4 and IPv6
        ("2001:db8:1:2:aaaa::1", "2001:db8:1:2::/64"),      # its next address is in the same network
        ("2001:db8:1:2:bbbb::9", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("::1", "::/64"),
        ("fe80::1%eth0", "fe80::1%eth0"),                   # all neighbours are in that network
        ("", ""),                                           # a Unix socket
        ("testclient", ""),
    ],
)  # fmt: skip
def test_without_a_key_the_address_is_the_client(address, expected):
    assert client(address, {}) == expected


def test_a_key_at_an_address_is_one_client():
    assert client() == client()
    assert client().startswith(f"{ADDRESS}#")
    assert client("2001:db8::1") == client("2001:db8::2")


@pytest.mark.parametrize(
    "other",
    [
        client(headers={"authorization": "Bearer sk-of-bob"}),
        client("192.0.2.8"),
        client(headers={}),
        client(""),
    ],
    ids=["another key", "another address", "no key", "no address"],
)
def test_whoever_differs_in_one_of_them_is_another(other):
    assert other != client()


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"bearer   {KEY} "},
        {"x-api-key": KEY},
        {**BEARER, "x-api-key": "sk-of-bob"},
    ],
)
def test_it_does_not_matter_how_a_key_is_sent(headers):
    assert client(headers=headers) == client()


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": f"Basic {KEY}"},
        {"x-api-key": ""},
        {"x-forwarded-for": "203.0.113.9"},
        {"x-real-ip": "203.0.113.9"},
        {"forwarded": "for=203.0.113.9"},
        {"cf-connecting-ip": "203.0.113.9"},
    ],
)
def test_what_is_no_key_changes_nothing(headers):
    assert client(headers=headers) == ADDRESS


def test_a_key_cannot_be_told_from_its_digest():
    assert KEY not in client()
    assert client(secret=b"t" * 32) != client()


# ---- the priority ----


def request_with(headers):
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": raw, "client": (ADDRESS, 1234)})


@pytest.mark.parametrize(
    "headers, priority, expected",
    [
        ({}, None, Priority.INTERACTIVE),
        ({}, "interactive", Priority.INTERACTIVE),
        ({}, "batch", Priority.BATCH),
        ({"X-Priority": "batch"}, None, Priority.BATCH),
        ({"X-Priority": "batch"}, "interactive", Priority.INTERACTIVE),  # the body wins
        ({"X-Priority": "nonsense"}, "batch", Priority.BATCH),
    ],
)
def test_the_body_tells_the_priority_or_else_the_header(headers, priority, expected):
    assert requester_of(request_with(headers), priority) == Requester(ADDRESS, expected)


WRONG = ("", "Batch", " batch", "urgent", "flex", 0, 1, True, False, 1.5, [], ["batch"], {}, {"batch": 1})


@pytest.mark.parametrize(
    "headers, priority",
    [
        *(({"X-Priority": "batch"}, wrong) for wrong in WRONG),
        ({"X-Priority": "Batch"}, None),
        ({"X-Priority": ""}, None),
    ],
)
def test_any_other_priority_is_refused(headers, priority):
    with pytest.raises(InvalidPriority, match=r'^priority must be "interactive" or "batch"$'):
        requester_of(request_with(headers), priority)


@pytest.mark.parametrize(
    "fields, expected",
    [
        ({"service_tier": "flex"}, Priority.BATCH),
        ({"service_tier": "flex", "priority": "interactive"}, Priority.INTERACTIVE),
        ({"service_tier": "flex", "priority": None}, Priority.BATCH),
        *(
            ({"service_tier": tier}, Priority.INTERACTIVE)
            for tier in ("auto", "default", "priority", "new", 7, [1], None)
        ),
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"])
@pytest.mark.anyio
async def test_openais_flex_is_batch(path, fields, expected):
    assert await priorities(path, fields) == {expected}


@pytest.mark.anyio
async def test_openais_flex_is_the_bodys_word_and_goes_before_the_header():
    headers = {"X-Priority": "interactive"}
    assert await priorities("/v1/completions", {"service_tier": "flex"}, headers) == {Priority.BATCH}
    assert await priorities("/v1/completions", {"service_tier": "auto"}, {"X-Priority": "batch"}) == {
        Priority.BATCH
    }


async def priorities(path, fields, headers=None):
    services = StubServices()
    await services.post(path, {**BODIES[path], **fields}, headers or {})
    return {requester.priority for requester in services.seen}


# ---- where it arrives ----

HI = [{"role": "user", "content": "Hi"}]
PICTURE = {"type": "image_url", "image_url": {"url": "https://pictures.example/a.png"}}
SOURCE = {"type": "image", "source": {"type": "url", "url": "https://pictures.example/a.png"}}
BODIES = {
    "/api/chat": {"model": "m", "messages": HI},
    "/api/generate": {"model": "m", "prompt": "Hi"},
    "/api/embed": {"model": "m", "input": "Hi"},
    "/api/embeddings": {"model": "m", "prompt": "Hi"},
    "/v1/chat/completions": {"model": "m", "messages": HI},
    "/v1/completions": {"model": "m", "prompt": "Hi"},
    "/v1/embeddings": {"model": "m", "input": "Hi"},
    "/v1/messages": {"model": "m", "max_tokens": 9, "messages": HI},
    "/v1/messages/count_tokens": {"model": "m", "messages": HI},
}
"""Every path that uses a model, and a request for it."""


class StubServices:
    """In place of all that the routes lead to: says `ok` to everyone, and keeps who it was."""

    is_on = True

    def __init__(self):
        self.seen = []
        everything = {"chat": self, "embed": self.Embed(self), "image_urls": self}
        self._app = Application(
            Services(**dict.fromkeys(Services.__slots__) | everything), Access(guards_host=False)
        )

    class Embed:
        def __init__(self, services):
            self._services = services

        async def embed(self, request):
            self._services.seen.append(request.requester)
            return Embedded(np.ones((len(request.inputs), 3), "<f4"), 1, 0)

        async def load(self, request):
            self._services.seen.append(request.requester)

    async def post(self, path, body, headers):
        transport = httpx2.ASGITransport(self._app, client=(ADDRESS, 1234))
        async with httpx2.AsyncClient(transport=transport, base_url="http://server") as http:
            response = await http.post(path, json=body, headers=headers)
        assert response.status_code == 200, response.text

    @asynccontextmanager
    async def open(self, request):
        self.seen.append(request.requester)
        yield SimpleNamespace(events=self._events(), load_ns=0, is_truncated=False, context=self._context)

    async def preview(self, request):
        self.seen.append(request.requester)
        return Preview("", 0)

    async def count(self, request):
        self.seen.append(request.requester)
        return 1

    async def load(self, request):
        self.seen.append(request.requester)

    async def unload(self, request):
        self.seen.append(request.requester)

    async def capabilities(self, request):
        return ()

    async def fetch(self, url):
        return b"\x89PNG"

    async def _context(self):
        return ()

    @staticmethod
    async def _events():
        yield Text("ok")
        yield Done(FinishReason.STOP)


@pytest.mark.parametrize(
    "path, fields, count",
    [
        *((path, {}, 1) for path in BODIES),
        *((path, {"stream": True}, 1) for path in BODIES if "embed" not in path and "count" not in path),
        ("/api/chat", {"messages": []}, 1),
        ("/api/chat", {"messages": [], "keep_alive": 0}, 1),
        ("/api/chat", {"_debug_render_only": True}, 1),
        ("/api/generate", {"prompt": ""}, 1),
        ("/api/generate", {"_debug_render_only": True}, 1),
        ("/api/embed", {"input": []}, 1),
        ("/api/embeddings", {"prompt": ""}, 1),
        ("/v1/chat/completions", {"n": 3}, 3),
        ("/v1/chat/completions", {"n": 3, "seed": 1}, 3),
        ("/v1/chat/completions", {"_debug_render_only": True}, 1),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [PICTURE]}]}, 1),
        ("/v1/completions", {"prompt": ["a", "b"], "n": 2}, 4),
        ("/v1/completions", {"prompt": ""}, 1),
        ("/v1/completions", {"_debug_render_only": True}, 1),
        ("/v1/messages", {"messages": [{"role": "user", "content": [SOURCE]}]}, 1),
        ("/v1/messages", {"thinking": {"type": "enabled"}}, 1),
        ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": [SOURCE]}]}, 1),
    ],
)
@pytest.mark.anyio
async def test_it_comes_with_all_that_a_request_leads_to(path, fields, count):
    services = StubServices()
    await services.post(path, {**BODIES[path], **fields, "priority": "batch"}, BEARER)
    assert len(services.seen) == count
    (requester,) = set(services.seen)
    assert requester.priority is Priority.BATCH
    assert requester.client.startswith(f"{ADDRESS}#")


@pytest.mark.anyio
async def test_a_key_is_the_same_client_on_every_api():
    services = StubServices()
    for path, body in BODIES.items():
        await services.post(path, body, BEARER)
        await services.post(path, body, {"x-api-key": KEY})
    assert len(services.seen) == 2 * len(BODIES)
    assert len(set(services.seen)) == 1


# ---- what is said of it ----


def test_the_document_has_both_ways_to_tell_it_wherever_a_model_is_used():
    told = document()
    schemas = told["components"]["schemas"]
    known = [priority.value for priority in Priority]
    found = {}
    for path, methods in told["paths"].items():
        for operation in methods.values():
            headers = {
                row["name"]: row["schema"]["enum"]
                for row in operation.get("parameters", ())
                if row["in"] == "header"
            }
            ref = (
                operation.get("requestBody", {})
                .get("content", {})
                .get("application/json", {})
                .get("schema", {})
                .get("$ref", "/")
            )
            field = schemas.get(ref.rpartition("/")[2], {"properties": {}})["properties"].get("priority")
            if headers or field:
                found[path] = (headers, field["enum"])
    assert found == dict.fromkeys(BODIES, ({"X-Priority": known}, known))
