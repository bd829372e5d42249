"""8.1 Plumbing: what is served where, and to whom."""

import re

from tests.conformance.cases import CHAT, JSON, TEXT, Case, cases

EVIL = "https://evil.example"
A_PAGE = "http://127.0.0.1:5173"
ROOT = {"type": f"{TEXT}; charset=utf-8", "text": "Ollama is running"}

PREFLIGHT = {
    "access-control-allow-origin": A_PAGE,
    "access-control-allow-methods": "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS",
    "access-control-allow-headers": "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,"
    "X-Stainless-Arch,X-Stainless-Async,X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,"
    "X-Stainless-Lang,X-Stainless-Os,X-Stainless-Package-Version,X-Stainless-Poll-Helper,X-Stainless-Retry-Count,"
    "X-Stainless-Runtime,X-Stainless-Runtime-Version,X-Stainless-Timeout",
    "access-control-max-age": "43200",
    "vary": "Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
}


@cases(
    Case("P1", "GET /", **ROOT),
    Case("P2", "HEAD /", type=f"{TEXT}; charset=utf-8", text="", headers={"content-length": "17"}),
    Case("P3", "GET /api/version", check=lambda reply: list(reply) == ["version"]),
    Case("P5", "GET /api/status", type=JSON, text='{"cloud":{"disabled":true,"source":"env"}}'),
    Case("P6", "GET /nope", status=404, type=TEXT, text="404 page not found"),
    Case("P7", "GET /api/show", status=405, type=TEXT, text="405 method not allowed", headers={"allow": "POST"}),
    Case("P7 tags", "POST /api/tags", status=405, type=TEXT, headers={"allow": "HEAD, GET"}),
    Case("P9", "HEAD /api/ps", status=405, type=TEXT, headers={"allow": "GET"}),
    Case("P13", "GET /", sent={"Origin": EVIL}, status=403, type=None),
    Case("P14", "GET /", sent={"Origin": "http://localhost.evil.example"}, status=403, type=None),
    Case("P15", "GET /", sent={"Origin": "app://anything"}, **ROOT, headers={"access-control-allow-origin": "app://anything"}),
    Case("P17", "OPTIONS /api/chat", sent={"Origin": A_PAGE}, status=204, type=None, headers=PREFLIGHT),
    Case("P18", "OPTIONS /api/chat", sent={"Host": "localhost:11434"}, status=204, type=None),
    Case("P19", "OPTIONS /api/chat", sent={"Host": "127.0.0.1:11434"}, status=405, type=TEXT, headers={"allow": "POST"}),
    Case("P21", "GET /", sent={"Host": "foo.local"}, **ROOT),
)  # fmt: skip
def test_plumbing(server, case):
    case.run(server)


def test_p3_the_version_is_all_there_is(server):
    assert re.fullmatch(r'\{"version":"\d+\.\d+\.\d+"\}', server.http.get("/api/version").text)


def test_p10_a_slash_too_many_is_redirected_for_good(server):
    response = server.http.get("/api/tags/?a=b")
    assert (response.status_code, response.headers["location"]) == (301, "/api/tags?a=b")


def test_p11_and_a_body_is_sent_again(server):
    response = server.post(f"{CHAT.split()[1]}/", {})
    assert (response.status_code, response.headers["location"]) == (307, "/api/chat")


def test_p22_on_all_interfaces_any_name_will_do(empty):
    Case("P22", "GET /", sent={"Host": "evil.example"}, **ROOT).run(empty(OLLAMA_HOST="0.0.0.0:0"))


def test_p23_the_operator_lets_everybody_in(empty):
    allowed = {"access-control-allow-origin": "*", "vary": None}
    Case("P23", "GET /", sent={"Origin": EVIL}, **ROOT, headers=allowed).run(empty(OLLAMA_ORIGINS="*"))
