"""Web pages from elsewhere, and names that were bent to point here; the ids are those of the conformance cases."""

import pytest

CHAT = {"model": "nope", "messages": []}


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        pytest.param("GET", "/", {"Origin": "https://evil.example"}, 403, id="P13"),
        pytest.param("GET", "/", {"Origin": "http://localhost.evil.example"}, 403, id="P14"),
        pytest.param("GET", "/", {"Origin": "app://anything"}, 200, id="P15"),
        pytest.param("GET", "/", {"Origin": "http://localhost:3000"}, 200, id="a page of this machine"),
        pytest.param("POST", "/api/chat", {"Origin": "null"}, 403, id="a page without an origin"),
        pytest.param("GET", "/nope", {"Origin": "https://evil.example"}, 403, id="before everything else"),
        pytest.param("OPTIONS", "/api/chat", {"Origin": "http://127.0.0.1:5173"}, 204, id="P17"),
        pytest.param("OPTIONS", "/api/chat", {"Host": "localhost:11434"}, 204, id="P18"),
        pytest.param("OPTIONS", "/api/chat", {"Host": "127.0.0.1:11434"}, 405, id="P19"),
        pytest.param("GET", "/", {"Host": "foo.local"}, 200, id="P21"),
        pytest.param("GET", "/", {"Host": "[::1]:11434"}, 200, id="an IPv6 address"),
        pytest.param("GET", "/", {"Host": "192.168.1.7"}, 200, id="an address at home"),
        pytest.param("GET", "/", {"Host": "evil.example:11434"}, 403, id="a name bent to point here"),
        pytest.param("GET", "/", {"Host": "93.184.216.34"}, 403, id="somebody else's address"),
    ],
)
def test_who_is_let_in(real, method, path, headers, status):
    response = real.http.request(method, path, headers=headers)
    assert response.status_code == status
    if status in {204, 403}:
        assert response.content == b""


def test_a_preflight_tells_what_is_allowed(real):
    headers = real.http.options("/api/chat", headers={"Origin": "http://127.0.0.1:5173"}).headers
    assert headers["access-control-allow-origin"] == "http://127.0.0.1:5173"
    assert headers["access-control-allow-methods"] == "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"
    assert "Authorization" in headers["access-control-allow-headers"]
    assert headers["access-control-max-age"] == "43200"


def test_a_page_that_is_let_in_may_read_even_an_error(real):
    response = real.post("/api/chat", CHAT, headers={"Origin": "http://localhost:3000"})
    assert response.status_code == 404
    assert response.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert response.headers["vary"] == "Origin"


def test_a_refused_page_changes_nothing(real):
    body = {"model": "smollm2"}
    response = real.http.request("DELETE", "/api/delete", json=body, headers={"Origin": "https://evil.example"})
    assert response.status_code == 403
    assert real.post("/api/show", body).status_code == 200


def test_the_operator_decides(scripted):
    api = scripted(OLLAMA_ORIGINS="https://*.chat.example, https://other.example")
    for origin, status in (
        ("https://a.chat.example", 200),
        ("https://other.example", 200),
        ("https://chat.example.evil", 403),
        ("http://other.example", 403),
    ):
        assert api.http.get("/", headers={"Origin": origin}).status_code == status
    everyone = scripted(OLLAMA_ORIGINS="*")
    response = everyone.http.get("/", headers={"Origin": "https://evil.example"})
    assert (response.status_code, response.headers["access-control-allow-origin"]) == (200, "*")
    assert "vary" not in response.headers


def test_on_all_interfaces_any_name_will_do(scripted):
    api = scripted(OLLAMA_HOST="0.0.0.0:0")
    assert api.http.get("/", headers={"Host": "evil.example"}).status_code == 200
