"""The playback of the public sites says what they say: shapes and words as recorded in `tests/data/huggingface`."""

import hashlib
import json
import socket
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.support.sites import HUGGING_FACE_CDN, OLLAMA_CDN, WORDINGS, running_sites

RECORDED = Path(__file__).parent.parent / "data" / "huggingface"
HF = "https://huggingface.co"
TOKEN = "hf_x"
MODEL = bytes(range(256)) * 400
PARTS = {f"BF16/m-BF16-0000{n}-of-00002.gguf": b"part %d" % n for n in (1, 2)}
FILES = {
    "m-Q8_0.gguf": b"eight bits",
    "m-Q4_K_M.gguf": MODEL,
    "mmproj-F16.gguf": b"eyes",
    "template": b"{{ .Prompt }}",
    "params": b"{}",
    **PARTS,
}


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    with running_sites(tmp_path_factory.mktemp("sites")) as sites:
        sites.hugging_face.add("user/repo", FILES)
        sites.hugging_face.add("user/private", {"m-Q4_0.gguf": MODEL}, token=TOKEN)
        sites.hugging_face.add("user/parts", PARTS)
        sites.hugging_face.add("user/other", {"model.safetensors": b""})
        yield sites


@pytest.fixture
def web(sites, monkeypatch):
    for name in ("https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in sites.environment.items():
        monkeypatch.setenv(name, value)
    with httpx2.Client() as web:
        yield web


def recorded(name):
    return json.loads((RECORDED / name).read_text())


def digest(data):
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def shape(value):
    """Its keys and the kinds of its values."""
    if isinstance(value, dict):
        return {key: shape(part) for key, part in value.items()}
    return [shape(part) for part in value] if isinstance(value, list) else type(value)


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


# ---- the way there ----


def test_requests_and_the_names_they_went_to_are_kept_in_order(sites, web):
    web.get("https://files.example/a?b=c", headers={"X-Some": "header"})
    web.head("https://ollama.com/d")
    first, second = sites.requests[-2:]
    assert (first.method, first.host, first.path, first.query) == ("GET", "files.example", "/a", "b=c")
    assert (second.method, second.host, second.path, second.query) == ("HEAD", "ollama.com", "/d", "")
    assert first.headers["x-some"] == "header"
    assert sites.connects[-2:] == ["files.example", "ollama.com"]
    assert sites.environment.keys() == {"HTTPS_PROXY", "SSL_CERT_FILE"}


@pytest.mark.parametrize("line", ["CONNECT files.example:80", "GET http://files.example/"])
def test_the_proxy_leads_to_no_other_port_and_nowhere_without_encryption(sites, line):
    before = list(sites.connects)
    proxy = urlsplit(sites.environment["HTTPS_PROXY"])
    with socket.create_connection((proxy.hostname, proxy.port)) as connection:
        connection.sendall(f"{line} HTTP/1.1\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 502 ")
    assert sites.connects == before


# ---- Hugging Face's registry ----


def test_a_manifest_has_the_recorded_shape(web):
    manifest = web.get(f"{HF}/v2/user/repo/manifests/Q4_K_M").json()
    model, template, projector, params = manifest["layers"]
    assert shape(manifest | {"layers": [model, template, params]}) == shape(recorded("manifest.json"))
    assert projector["mediaType"] == "application/vnd.ollama.image.projector"
    assert model == {
        "digest": digest(MODEL),
        "mediaType": "application/vnd.ollama.image.model",
        "size": len(MODEL),
    }


@pytest.mark.parametrize(
    "tag, file",
    [
        ("latest", "m-Q4_K_M.gguf"),
        ("q4_k_m", "m-Q4_K_M.gguf"),
        ("Q8_0", "m-Q8_0.gguf"),
        ("m-Q8_0.gguf", "m-Q8_0.gguf"),
    ],
)
def test_a_tag_is_a_quantization_or_a_file(web, tag, file):
    manifest = web.get(f"{HF}/v2/user/repo/manifests/{tag}").json()
    assert manifest["layers"][0]["digest"] == digest(FILES[file])


def test_without_q4_k_m_latest_is_the_first(sites, web):
    sites.hugging_face.add("user/few", {"m-Q8_0.gguf": b"8", "m-Q2_K.gguf": b"2"})
    assert web.get(f"{HF}/v2/user/few/manifests/latest").json()["layers"][0]["digest"] == digest(b"8")


@pytest.mark.parametrize("wording", WORDINGS)
@pytest.mark.parametrize(
    "path, refusal",
    [
        ("user/repo/manifests/BF16", "sharded_tag"),
        ("user/parts/manifests/latest", "sharded_repository"),
        ("user/repo/manifests/Q2_K", "no_such_tag"),
        ("user/repo/manifests/best", "no_quantization"),
        ("user/other/manifests/latest", "no_gguf"),
        ("user/private/manifests/latest", "no_token"),
        ("user/unknown/manifests/latest", "no_token"),
    ],
)
def test_refusals_are_in_the_recorded_words(sites, web, monkeypatch, wording, path, refusal):
    monkeypatch.setattr(sites.hugging_face, "wording", wording)
    expected = (recorded("refusals.json")["any"] | recorded("refusals.json")[wording])[refusal]
    response = web.get(f"{HF}/v2/{path}")
    assert (response.status_code, response.json()) == (expected["status"], {"error": expected["error"]})


@pytest.mark.parametrize(
    "token, repository, status",
    [
        (TOKEN, "user/private", 200),
        (TOKEN, "user/repo", 200),
        (TOKEN, "user/unknown", 404),
        ("hf_nobodys", "user/private", 401),
        ("hf_nobodys", "user/repo", 401),
    ],
)
def test_a_token_has_to_be_someones(web, token, repository, status):
    response = web.get(f"{HF}/v2/{repository}/manifests/latest", headers=bearer(token))
    assert response.status_code == status


def test_large_blobs_are_two_redirects_away_and_the_storage_learns_no_token(sites, web):
    before = list(sites.cdn.authorizations)
    url = f"{HF}/v2/user/private/blobs/{digest(MODEL)}"
    first = web.get(url, headers=bearer(TOKEN))
    assert (first.status_code, first.headers["Location"]) == (307, "/user/private/resolve/main/m-Q4_0.gguf")
    response = web.get(url, headers=bearer(TOKEN) | {"Range": "bytes=5-9"}, follow_redirects=True)
    assert (response.status_code, response.content, response.url.host) == (206, MODEL[5:10], HUGGING_FACE_CDN)
    assert sites.cdn.authorizations == before


def test_the_storage_tells_when_it_was_shown_a_token(sites, web):
    url = web.get(f"{HF}/user/repo/resolve/main/m-Q4_K_M.gguf").headers["Location"]
    assert web.get(url, headers=bearer(TOKEN)).content == MODEL
    assert sites.cdn.authorizations[-1:] == [f"Bearer {TOKEN}"]


def test_small_blobs_come_at_once(web):
    manifest = web.get(f"{HF}/v2/user/repo/manifests/latest").json()
    for blob in (manifest["config"], manifest["layers"][1]):
        response = web.get(f"{HF}/v2/user/repo/blobs/{blob['digest']}")
        assert (response.status_code, digest(response.content)) == (200, blob["digest"])


def test_signed_urls_expire(sites, web):
    url = web.get(f"{HF}/user/repo/resolve/main/m-Q4_K_M.gguf").headers["Location"]
    sites.cdn.expire()
    assert web.get(url).status_code == 403
    assert web.get(f"{HF}/user/repo/resolve/main/m-Q4_K_M.gguf", follow_redirects=True).content == MODEL


# ---- Hugging Face's files ----


def test_a_listing_has_the_recorded_shape(web):
    entries = web.get(f"{HF}/api/models/user/repo/tree/main", params={"recursive": "true"}).json()
    by_path = {entry["path"]: entry for entry in entries}
    assert by_path.keys() == {"BF16", *FILES}
    ours = [by_path["BF16"], by_path["params"], by_path["m-Q4_K_M.gguf"]]
    assert shape(ours) == shape(recorded("tree.json"))
    assert by_path["m-Q4_K_M.gguf"]["lfs"]["oid"] == hashlib.sha256(MODEL).hexdigest()


def test_a_listing_is_of_one_folder_unless_it_is_asked_for_all(web):
    entries = web.get(f"{HF}/api/models/user/repo/tree/main").json()
    assert {entry["path"] for entry in entries} == {"BF16", *FILES.keys() - PARTS.keys()}


@pytest.mark.parametrize("kind, path", [("large", "m-Q4_K_M.gguf"), ("small", "params"), ("missing", "no.gguf")])
def test_a_file_is_answered_with_the_recorded_headers(web, kind, path):
    response = web.head(f"{HF}/user/repo/resolve/main/{path}")
    expected = recorded("resolve.json")[kind]
    assert response.status_code == expected["status"]
    assert expected["headers"].keys() <= response.headers.keys()


@pytest.mark.parametrize("path", ["params", "m-Q4_K_M.gguf", "BF16/m-BF16-00001-of-00002.gguf"])
def test_a_file_is_at_the_end_of_its_redirects(web, path):
    assert web.get(f"{HF}/user/repo/resolve/main/{path}", follow_redirects=True).content == FILES[path]


@pytest.mark.parametrize("path", ["/user/private/resolve/main/m-Q4_0.gguf", "/api/models/user/private/tree/main"])
def test_a_private_repository_keeps_its_files_to_itself(web, path):
    refused = web.get(HF + path)
    assert (refused.status_code, refused.headers["X-Error-Message"]) == (401, "Invalid username or password.")
    assert web.get(HF + path, headers=bearer(TOKEN), follow_redirects=True).status_code == 200


@pytest.mark.parametrize(
    "path, challenge",
    [
        ("/v2/a/b/manifests/c", 'Basic realm="https://huggingface.co/api/models/a/b/ssh-auth"'),
        ("/a/b/resolve/main/c", 'Bearer realm="Authentication required", charset="UTF-8"'),  # which is no URL
    ],
)
def test_who_asks_for_nothing_that_is_there_is_asked_who_it_is(web, path, challenge):
    assert web.get(HF + path).headers["WWW-Authenticate"] == challenge


def test_the_short_name_leads_to_the_long_one(web):
    response = web.get("https://hf.co/v2/user/repo/manifests/Q8_0?a=b")
    assert (response.status_code, response.headers["Location"]) == (307, f"{HF}/v2/user/repo/manifests/Q8_0?a=b")


# ---- Ollama's registry ----


@pytest.mark.parametrize(
    "name, path",
    [("m", "library/m/manifests/latest"), ("m:1b", "library/m/manifests/1b"), ("u/m:q8", "u/m/manifests/q8")],
)
def test_ollamas_registry_has_what_was_added(sites, web, name, path):
    sites.ollama.add(name, b"{}", [MODEL])
    assert web.get(f"https://registry.ollama.ai/v2/{path}").content == b"{}"


def test_ollamas_blobs_come_from_a_storage(sites, web):
    sites.ollama.add("m", b"{}", [MODEL])
    url = f"https://registry.ollama.ai/v2/library/m/blobs/{digest(MODEL)}"
    assert web.head(url).headers["Content-Length"] == str(len(MODEL))
    response = web.get(url, follow_redirects=True)
    assert (response.content, response.url.host) == (MODEL, OLLAMA_CDN)


@pytest.mark.parametrize(
    "path, code", [("manifests/latest", "MANIFEST_UNKNOWN"), (f"blobs/{digest(b'')}", "BLOB_UNKNOWN")]
)
def test_what_ollamas_registry_has_not(web, path, code):
    response = web.get(f"https://registry.ollama.ai/v2/library/absent/{path}")
    assert (response.status_code, response.json()["errors"][0]["code"]) == (404, code)


# ---- plain files ----

URL = "https://files.example/x/model.gguf"


def test_a_file_has_its_length_and_a_version(sites, web):
    sites.files[URL] = MODEL
    before = web.head(URL).headers
    assert (before["Content-Length"], before["Accept-Ranges"]) == (str(len(MODEL)), "bytes")
    sites.files[URL] = b"another"
    assert web.head(URL).headers["ETag"] != before["ETag"]
    assert web.get("https://files.example/x/absent").status_code == 404


@pytest.mark.parametrize(
    "asked, status, told, body",
    [
        ("bytes=2-4", 206, "bytes 2-4/10", b"234"),
        ("bytes=7-", 206, "bytes 7-9/10", b"789"),
        ("bytes=7-99", 206, "bytes 7-9/10", b"789"),
        ("bytes=10-", 416, "bytes */10", b""),
        ("lines=1-2", 200, None, b"0123456789"),
    ],
)
def test_ranges_of_a_file(sites, web, asked, status, told, body):
    sites.files[URL] = b"0123456789"
    response = web.get(URL, headers={"Range": asked})
    assert (response.status_code, response.headers.get("Content-Range"), response.content) == (status, told, body)


def test_a_range_of_a_version_that_is_gone_is_all_of_the_new_one(sites, web):
    sites.files[URL] = b"0123456789"
    headers = {"Range": "bytes=2-4", "If-Range": web.head(URL).headers["ETag"]}
    assert web.get(URL, headers=headers).content == b"234"
    sites.files[URL] = b"abcdefghij"
    response = web.get(URL, headers=headers)
    assert (response.status_code, response.content) == (200, b"abcdefghij")


def test_a_server_without_ranges_sends_all(sites, web, monkeypatch):
    sites.files[URL] = b"0123456789"
    monkeypatch.setattr(sites, "accepts_ranges", False)
    response = web.get(URL, headers={"Range": "bytes=2-4"})
    assert (response.status_code, response.content) == (200, b"0123456789")
    assert "Accept-Ranges" not in response.headers
