"""Paths, methods and redirects on a server without models; P and B ids are those of the conformance cases."""

import http.client

import httpx2
import pytest

from demo.server import running_server
from tests.support.api import API

ROUTES = {
    "/": "HEAD, GET",
    "/health": "GET",
    "/api/version": "HEAD, GET",
    "/api/status": "GET",
    "/api/tags": "HEAD, GET",
    "/api/ps": "GET",
    "/api/show": "POST",
    "/api/generate": "POST",
    "/api/chat": "POST",
    "/api/embed": "POST",
    "/api/embeddings": "POST",
    "/api/create": "POST",
    "/api/pull": "POST",
    "/api/push": "POST",
    "/api/copy": "POST",
    "/api/delete": "DELETE",
    "/api/blobs/sha256:00": "HEAD, GET, POST, DELETE",
    "/api/df": "GET",
    "/api/prune": "POST",
    "/api/me": "POST",
    "/api/signout": "POST",
    "/api/user/keys/AAAA": "DELETE",
    "/api/experimental/web_search": "POST",
    "/api/experimental/web_fetch": "POST",
    "/api/experimental/model-recommendations": "GET",
}
"""Path → what `Allow` says of it."""
METHODS = ("HEAD", "GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND")
NOT_FOUND = (404, "text/plain", "404 page not found")


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    with running_server(tmp_path_factory.mktemp("plumbing")) as server:
        api = API(server)
        yield api
        api.close()


def ask(api, method, target):
    """Ask for a target exactly as it is spelled; clients would tidy it up."""
    url = httpx2.URL(api.server.url)
    connection = http.client.HTTPConnection(url.host, url.port, timeout=60)
    try:
        connection.request(method, target)
        response = connection.getresponse()
        return response.status, response.headers, response.read().decode()
    finally:
        connection.close()


# ---- what is there ----


@pytest.mark.parametrize(
    ("method", "path", "status", "content_type", "text"),
    [
        pytest.param("GET", "/", 200, "text/plain; charset=utf-8", "Ollama is running", id="P1"),
        pytest.param("HEAD", "/", 200, "text/plain; charset=utf-8", "", id="P2"),
        pytest.param(
            "GET", "/api/status", 200, "application/json; charset=utf-8",
            '{"cloud":{"disabled":true,"source":"env"}}', id="P5",
        ),
        pytest.param("GET", "/nope", *NOT_FOUND, id="P6"),
        pytest.param("GET", "/api/show", 405, "text/plain", "405 method not allowed", id="P7"),
        pytest.param("HEAD", "/api/ps", 405, "text/plain", "", id="P9"),
    ],
)  # fmt: skip
def test_plain_answers(api, method, path, status, content_type, text):
    response = api.http.request(method, path)
    assert (response.status_code, response.headers["content-type"], response.text) == (status, content_type, text)


def test_head_tells_the_length_of_what_get_would_send(api):
    assert api.http.head("/").headers["content-length"] == str(len("Ollama is running"))
    for path in ("/api/version", "/api/tags"):
        assert api.http.head(path).headers["content-length"] == api.http.get(path).headers["content-length"]


@pytest.mark.parametrize(("path", "allow"), ROUTES.items())
def test_a_path_names_the_methods_it_takes(api, path, allow):
    for method in set(METHODS) - set(allow.split(", ")):
        response = api.http.request(method, path)
        assert (response.status_code, response.headers["allow"]) == (405, allow), method
        assert response.headers["content-type"] == "text/plain"
        assert response.text == ("" if method == "HEAD" else "405 method not allowed")


@pytest.mark.parametrize(
    "target",
    [
        "/nope",
        "/api",
        "/v1",
        "/metrics",
        "/api/edit",
        "/api/tags/x",
        "/API/tags",             # paths have a case
        "/api/tags%20",
        "/api/tags%0A",          # nor do they end in a newline
        "/api/tags%00",
        "/api/tags%3Fa=1",       # this mark begins no query
        "/api/tags;a=1",
        "/api/../api/tags",      # dots are names like others
        "//api/tags",
        "/api//tags",
        "/api/blobs",
        "/api/blobs/",           # a parameter is never empty
        "/api/blobs/a%2Fb",      # decoded before it is split
        "/%ff",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
def test_all_else_is_unknown(api, method, target):
    status, headers, text = ask(api, method, target)
    assert (status, headers["Content-Type"], text) == NOT_FOUND


@pytest.mark.parametrize("target", ["/%61pi/tags", "/api%2Ftags", "/api/t%61gs?x=%0A"])
def test_a_path_is_decoded_first(api, target):
    assert ask(api, "GET", target)[::2] == (200, '{"models":[]}')


# ---- a slash too many ----


@pytest.mark.parametrize(
    ("method", "target", "status", "location"),
    [
        pytest.param("GET", "/api/tags/", 301, "/api/tags", id="P10"),
        pytest.param("POST", "/api/chat/", 307, "/api/chat", id="P11"),
        pytest.param("HEAD", "/api/tags/", 307, "/api/tags", id="only GET is moved for good"),
        pytest.param("DELETE", "/api/delete/", 307, "/api/delete", id="DELETE"),
        pytest.param("GET", "/api/tags/?a=1&b=%2F/", 301, "/api/tags?a=1&b=%2F/", id="the query stays"),
        pytest.param("GET", "/api/tags%2F", 301, "/api/tags", id="a slash in disguise"),
        pytest.param("GET", "//", 301, "/", id="the root"),
        pytest.param("HEAD", "/api/blobs/sha256:a%0D%0Ab%C3%A9/", 307, "/api/blobs/sha256:a%0D%0Ab%C3%A9", id="encoded again"),
    ],
)  # fmt: skip
def test_a_slash_too_many_redirects(api, method, target, status, location):
    got, headers, text = ask(api, method, target)
    assert (got, headers["Location"], text) == (status, location, "")


@pytest.mark.parametrize(("path", "allow"), list(ROUTES.items())[1:])
def test_only_a_method_that_is_at_home_is_redirected(api, path, allow):
    for method in METHODS:
        response = api.http.request(method, f"{path}/")
        if method in allow.split(", "):
            assert response.headers["location"] == path
            assert response.status_code == (301 if method == "GET" else 307)
        else:
            assert response.status_code == 404, method


@pytest.mark.parametrize(
    "target", ["/nope/", "/api/tags//", "/api/", "//evil.example/", "//evil.example/api/tags/"]
)
def test_a_redirect_leads_to_a_path_of_ours_or_nowhere(api, target):
    status, headers, _ = ask(api, "GET", target)
    assert (status, headers["Location"]) == (404, None)


def test_a_client_that_follows_keeps_its_body(api):
    response = api.post("/api/show/?a=1", {"model": "nope"}, follow_redirects=True)
    assert (response.status_code, response.json()) == (404, {"error": "model 'nope:latest' not found"})


# ---- Ollama's cloud, which is off ----


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "text"),
    [
        ("POST", "/api/me", "", 401, '{"error":"unauthorized"}'),
        ("POST", "/api/signout", "", 401, '{"error":"you are not currently signed in"}'),
        ("DELETE", "/api/user/keys/AAAA", "", 401, '{"error":"you are not currently signed in"}'),
        ("POST", "/api/experimental/web_search", "", 400, '{"error":"missing request body"}'),
        ("POST", "/api/experimental/web_fetch", " \n", 400, '{"error":"missing request body"}'),
        ("POST", "/api/experimental/web_search", '{"query":"x"}', 403,
         '{"error":"ollama cloud is disabled: web search is unavailable"}'),
        ("POST", "/api/experimental/web_fetch", "not even JSON", 403,
         '{"error":"ollama cloud is disabled: web fetch is unavailable"}'),
        ("GET", "/api/experimental/model-recommendations", "", 200, '{"recommendations":[]}'),
    ],
)  # fmt: skip
def test_what_the_cloud_would_do_is_not_done_here(api, method, path, body, status, text):
    response = api.http.request(method, path, content=body)
    assert (response.status_code, response.text) == (status, text)
    assert response.headers["content-type"] == "application/json; charset=utf-8"


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        pytest.param(
            "/api/chat", {"model": "foo:cloud:local", "messages": []}, 400,
            'use either :local or :cloud, not both: "foo:cloud:local"', id="B27",
        ),
        pytest.param(
            "/api/show", {"model": "foo:cloud"}, 403,
            "ollama cloud is disabled: remote model details are unavailable", id="B29",
        ),
        pytest.param(
            "/api/generate", {"model": "foo:7b-cloud", "prompt": "Hi"}, 403,
            "ollama cloud is disabled: remote model is unavailable", id="before anything is streamed",
        ),
        pytest.param("/api/generate", {"model": "my-cloud-model"}, 404, "model 'my-cloud-model' not found", id="no cloud's"),
    ],
)  # fmt: skip
def test_models_of_the_cloud(api, path, body, status, message):
    response = api.post(path, body)
    assert (response.status_code, response.json()) == (status, {"error": message})


@pytest.mark.parametrize("path", ["generate", "chat", "embed", "embeddings", "show", "create", "copy", "delete"])
def test_a_request_without_a_body_is_told_so(api, path):
    """B1, B2."""
    response = api.http.request(ROUTES[f"/api/{path}"], f"/api/{path}")
    assert (response.status_code, response.json()) == (400, {"error": "missing request body"})
