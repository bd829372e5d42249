"""The disk under the models, on a real server: df, prune, and blobs as files."""

import hashlib
import os
import time
from pathlib import Path

import psutil
import pytest

from tests.support.api import until

HOUR, DAY = 3600, 24 * 3600
CONTENT = b"0123456789"
ZEROS = f"sha256:{'0' * 64}"


@pytest.fixture
def api(scripted):
    api = scripted()
    api.models = Path(api.server.environment["OLLAMA_MODELS"])
    return api


def digest_of(content):
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def blob(api, content=CONTENT, age_s=0.0):
    """Upload a file that no model needs; its digest."""
    digest = digest_of(content)
    api.http.post(f"/api/blobs/{digest}", content=content)
    aged(file_of(api, digest), age_s)
    return digest


def file_of(api, digest):
    return api.models / "blobs" / digest.replace(":", "-")


def aged(path, age_s):
    then = time.time() - age_s
    os.utime(path, (then, then))
    return path


def leftover(api, name, age_s, content=b"begun"):
    """A file as a transfer leaves it that broke off."""
    path = api.models / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return aged(path, age_s)


def df(api):
    return api.http.get("/api/df").json()


def prune(api, **body):
    return api.post("/api/prune", body).json()


# ---- df ----


def test_a_copy_takes_nothing_more(api):
    before = df(api)
    (model,) = before["models"]
    assert model["name"] == "m:latest"
    assert (model["size"], model["shared"]) == (model["unique"], 0)
    assert model["size"] == before["blobs"]["size"] == before["total"]
    assert before["free"] > 0
    api.sdk.copy("m", "me/copy")
    after = df(api)
    assert [(row["name"], row["shared"], row["unique"]) for row in after["models"]] == [
        ("m:latest", model["size"], 0),
        ("me/copy:latest", model["size"], 0),
    ]
    assert (after["blobs"], after["total"]) == (before["blobs"], before["total"])


def test_what_lies_beside_the_models_is_told_apart(api):
    before = df(api)
    blob(api)
    leftover(api, f".a3s-power/parts/{'a' * 64}.part", 0)
    leftover(api, f"blobs/sha256-{'b' * 64}-partial", 0, b"Ollama's")
    after = df(api)
    assert after["models"] == before["models"]
    assert after["blobs"] == {
        "count": before["blobs"]["count"] + 1,
        "size": before["blobs"]["size"] + 10,
        "unused_count": 1,
        "unused_size": 10,
    }
    assert after["partial"] == {"count": 2, "size": 5 + 8}
    assert after["total"] == before["total"] + 10 + 5 + 8


# ---- prune ----


def test_prune_takes_what_is_old_and_nobodys(api):
    needed = [aged(path, 100 * DAY) for path in (api.models / "blobs").iterdir()]
    going = [
        file_of(api, blob(api, b"old", HOUR + 60)),
        leftover(api, f".a3s-power/parts/{'a' * 64}.part", 15 * DAY),
    ]
    staying = [
        *needed,
        file_of(api, blob(api, b"young", HOUR - 60)),
        leftover(api, f".a3s-power/parts/{'b' * 64}.part", 13 * DAY),
        leftover(api, f"blobs/sha256-{'c' * 64}-partial", 100 * DAY),
        leftover(api, f"blobs/sha256-{'c' * 64}-partial-0", 100 * DAY),
        leftover(api, "blobs/sha256-1234567890", 100 * DAY),
    ]
    assert prune(api, dry_run=True) == {"removed": 2, "freed": 3 + 5}
    assert all(path.exists() for path in going + staying)
    assert prune(api) == {"removed": 2, "freed": 3 + 5}
    assert not any(path.exists() for path in going)
    assert all(path.exists() for path in staying)
    assert prune(api) == {"removed": 0, "freed": 0}


def test_noprune_is_about_the_start_only(scripted, api):
    unpruned = scripted(OLLAMA_NOPRUNE="1", OLLAMA_MODELS=str(api.models))
    unpruned.models = api.models
    blob(unpruned, b"old", HOUR + 60)
    assert prune(unpruned) == {"removed": 1, "freed": 3}


def test_nothing_goes_while_a_manifest_cannot_be_read(scripted, api):
    digest = blob(api, b"old", HOUR + 60)
    (api.models / "manifests/registry.ollama.ai/library/m/latest").write_text("{")
    for response in (api.post("/api/prune", {}), api.http.delete(f"/api/blobs/{digest}")):
        assert response.status_code == 500
        assert "library/m/latest is corrupt" in response.json()["error"]
    scripted(OLLAMA_MODELS=str(api.models))  # it is no reason not to start
    assert file_of(api, digest).exists()


# ---- blobs as files ----


def test_a_blob_is_downloaded_as_it_is(api):
    digest = blob(api)
    response = api.http.get(f"/api/blobs/{digest.replace(':', '-')}")
    assert (response.status_code, response.content) == (200, CONTENT)
    headers = ("content-type", "content-length", "accept-ranges", "etag")
    assert [response.headers[name] for name in headers] == [
        "application/octet-stream",
        "10",
        "bytes",
        f'"{digest}"',
    ]


@pytest.mark.parametrize(
    ("asked", "status", "content", "told"),
    [
        ("bytes=0-0", 206, b"0", "bytes 0-0/10"),
        ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=-2", 206, b"89", "bytes 8-9/10"),
        ("bytes=5-99", 206, b"56789", "bytes 5-9/10"),
        ("bytes=-99", 206, CONTENT, "bytes 0-9/10"),
        ("bytes=10-", 416, b"", "bytes */10"),
        ("bytes=99-100", 416, b"", "bytes */10"),
    ],
)
def test_a_range_of_it_is_enough(api, asked, status, content, told):
    response = api.http.get(f"/api/blobs/{blob(api)}", headers={"Range": asked})
    assert (response.status_code, response.content) == (status, content)
    assert response.headers["content-range"] == told
    assert response.headers["content-length"] == str(len(content))


def test_a_range_of_something_else_is_the_whole(api):
    digest = blob(api)
    for version, status in ((digest, 206), (ZEROS, 200)):
        headers = {"Range": "bytes=2-4", "If-Range": f'"{version}"'}
        assert api.http.get(f"/api/blobs/{digest}", headers=headers).status_code == status


def test_head_still_tells_whether_it_is_here(api):
    response = api.http.head(f"/api/blobs/{blob(api)}")
    assert (response.status_code, response.headers["content-length"]) == (200, "0")
    assert api.http.head(f"/api/blobs/{ZEROS}").status_code == 404


def test_a_client_that_leaves_closes_the_file(api):
    """What the client has not read keeps the server from sending on."""
    path = api.models / "blobs" / f"sha256-{'d' * 64}"
    with path.open("wb") as file:
        file.truncate(1 << 32)
    server = psutil.Process(api.server.process.pid)

    def is_open():
        return str(path) in [file.path for file in server.open_files()]

    with api.connect() as connection:
        connection.sendall(f"GET /api/blobs/sha256:{'d' * 64} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert connection.recv(12) == b"HTTP/1.1 200"
        until(is_open)
    until(lambda: not is_open())


def test_a_blob_that_nothing_needs_can_be_removed(api):
    digest = blob(api)
    response = api.http.delete(f"/api/blobs/{digest}")
    assert (response.status_code, response.content) == (200, b"")
    response = api.http.delete(f"/api/blobs/{digest}")
    assert (response.status_code, response.json()) == (404, {"error": f'blob "{digest}" not found'})
    assert api.http.get(f"/api/blobs/{digest}").json() == {"error": f'blob "{digest}" not found'}


def test_a_blob_of_a_model_goes_with_the_model_only(api):
    digest = digest_of((api.models.parent.parent / "tiny.gguf").read_bytes())
    response = api.http.delete(f"/api/blobs/{digest}")
    assert response.status_code == 409
    assert response.json() == {"error": f"blob \"{digest}\" is in use by model 'm:latest'"}
    assert api.http.head(f"/api/blobs/{digest}").status_code == 200
    api.sdk.delete("m")
    assert api.http.delete(f"/api/blobs/{digest}").status_code == 404


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_what_is_no_digest_is_refused(api, method):
    response = api.http.request(method, "/api/blobs/sha256:00")
    assert (response.status_code, response.json()) == (400, {"error": "invalid digest format"})
