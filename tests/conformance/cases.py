"""One row of the conformance table: a request, and what its reply must be; and the same by hand."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import httpx2
import pytest

from tests.conformance.shapes import check_shape
from tests.support.api import API

GENERATE, CHAT = "POST /api/generate", "POST /api/chat"
EMBED, EMBEDDINGS = "POST /api/embed", "POST /api/embeddings"
SHOW, CREATE, COPY, DELETE = "POST /api/show", "POST /api/create", "POST /api/copy", "DELETE /api/delete"
PULL, PUSH = "POST /api/pull", "POST /api/push"
TAGS, PS = "GET /api/tags", "GET /api/ps"

JSON = "application/json; charset=utf-8"
WORKER_JSON = "application/json"
"""Of create without a stream, and of errors from past the checks of a streaming request."""
NDJSON = "application/x-ndjson"
TEXT = "text/plain"

FEW = {"temperature": 0, "num_predict": 6}


def user(content: str, **more: Any) -> dict[str, Any]:
    """A user's message."""
    return {"role": "user", "content": content, **more}


def g(**fields: Any) -> dict[str, Any]:
    """A body for GENERATE, without a stream. A field that is None is as good as absent."""
    return {"model": "m", "prompt": "Hi", "stream": False, "options": FEW, **fields}


def ch(*messages: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    """A body for CHAT, without a stream."""
    return {"model": "m", "messages": messages or [user("Hi")], "stream": False, "options": FEW, **fields}


def say(*tokens: str, **fields: Any) -> dict[str, Any]:
    """A body for GENERATE that makes the scripted engine answer with these tokens."""
    return g(prompt="say:" + "|".join(tokens), options={}, **fields)


def say_in_chat(*tokens: str, **fields: Any) -> dict[str, Any]:
    """The same for CHAT."""
    return ch(user("say:" + "|".join(tokens)), options={}, **fields)


@dataclass(frozen=True, slots=True)
class Case:
    """A row. What it says nothing of may be anything; keys and their order are always looked at."""

    id: str
    """`"B6"`, or `"B2 chat"` for one of several rows of a case."""
    request: str
    body: Any = None
    """Bytes and text as they are, anything else but None as JSON."""
    sent: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    """Headers."""
    status: int = field(default=200, kw_only=True)
    type: str | None = field(default=JSON, kw_only=True)
    """None for a reply without a body."""
    headers: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    text: str | None = field(default=None, kw_only=True)
    """The whole body."""
    error: str | None = field(default=None, kw_only=True)
    """The whole body is `{"error": this}`."""
    reply: Mapping[str, Any] | None = field(default=None, kw_only=True)
    """The whole body but for `created_at`."""
    check: Callable[[Any], object] | None = field(default=None, kw_only=True)
    """What holds for the decoded body."""

    def run(self, api: API) -> None:
        """Send it and compare."""
        response = send(api, self.request, self.body, self.sent)
        assert response.status_code == self.status, response.text
        if self.type is None:
            assert response.content == b""
        else:
            assert response.headers["content-type"] == self.type
        assert {name: response.headers.get(name) for name in self.headers} == self.headers
        if self.text is not None:
            assert response.text == self.text
        if self.type in {JSON, WORKER_JSON}:
            self._compare(response)

    def _compare(self, response: httpx2.Response) -> None:
        decoded = response.json()
        assert not response.text.endswith("\n")
        check_shape(response.url.path, decoded)
        if self.error is not None:
            assert decoded == {"error": self.error}
        elif self.status >= 400:
            assert list(decoded) == ["error"]
        if self.reply is not None:
            assert {key: value for key, value in decoded.items() if key != "created_at"} == self.reply
        if self.check is not None:
            assert self.check(decoded), decoded


def cases(*rows: Case) -> pytest.MarkDecorator:
    """Run the test, which takes a `case`, for each row, under the row's id."""
    return pytest.mark.parametrize("case", rows, ids=attrgetter("id"))


def send(api: API, request: str, body: Any = None, headers: Mapping[str, str] | None = None) -> httpx2.Response:
    """Send a request by its short form."""
    method, path = request.split(" ")
    content = body if body is None or isinstance(body, bytes | str) else json.dumps(body)
    return api.http.request(method, path, content=content, headers=headers)


def ask(api: API, request: str, body: Any = None) -> dict[str, Any]:
    """The reply to a request that succeeds and does not stream."""
    response = send(api, request, body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == JSON
    check_shape(response.url.path, response.json())
    return response.json()


def stream(api: API, request: str, body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All lines of a stream."""
    response = send(api, request, {**body, "stream": True})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == NDJSON
    assert response.text.endswith("\n")
    lines = [json.loads(line) for line in response.text.splitlines()]
    for line in lines:
        check_shape(response.url.path, line)
    return lines
