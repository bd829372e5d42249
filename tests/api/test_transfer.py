"""POST /api/pull and /api/push against a real registry, by the official client, by hand and by the command line."""

import hashlib
import json
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2
import pytest

from demo.server import running_server
from tests.support.api import API, tiny_gguf, until
from tests.support.registry import running_registry

pytestmark = pytest.mark.skipif(
    shutil.which("docker-registry") is None, reason="this machine has no docker-registry"
)


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """A registry over plain http; `host` is its address."""
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def api(scripted):
    return scripted()


def blobs(api):
    return {path.name: path.stat().st_size for path in (store_of(api) / "blobs").iterdir()}


def store_of(api):
    return Path(api.server.environment["OLLAMA_MODELS"])


def manifest_of(api, host, path):
    return (store_of(api) / "manifests" / host / path).read_bytes()


def named(registry, name):
    """`localhost:5000/test/name:v1`"""
    return f"{registry.host}/test/{name}:v1"


def pushed(api, registry, name, **fields):
    """A model that is in the registry and nowhere else; its manifest."""
    full = named(registry, name)
    api.create(full, tiny_gguf(store_of(api).parent / f"{name}.gguf", **{"general.name": name}), **fields)
    manifest = manifest_of(api, registry.host, f"test/{name}/v1")
    assert api.lines("/api/push", {"model": full, "insecure": True})[-1] == {"status": "success"}
    api.sdk.delete(full)
    return manifest


def test_a_model_goes_to_a_registry_and_comes_back_byte_for_byte(api, registry):
    manifest = pushed(api, registry, "round", system="You are round.")
    full = named(registry, "round")
    lines = api.lines("/api/pull", {"model": full, "insecure": True})
    statuses = [line["status"] for line in lines]
    assert statuses[0] == "pulling manifest"
    assert statuses[-3:] == ["verifying sha256 digest", "writing manifest", "success"]
    for layer in json.loads(manifest)["layers"]:
        mine = [line for line in lines if line.get("digest") == layer["digest"]]
        assert mine[-1] == {
            "status": f"pulling {layer['digest'][7:19]}", "digest": layer["digest"],
            "total": layer["size"], "completed": layer["size"],
        }  # fmt: skip
    assert manifest_of(api, registry.host, "test/round/v1") == manifest
    assert api.sdk.show(full).modelfile.count("You are round.") == 1
    for name in blobs(api):
        data = (store_of(api) / "blobs" / name).read_bytes()
        assert name == f"sha256-{hashlib.sha256(data).hexdigest()}"
    assert api.sdk.generate(full, "say:hello").response == "hello"


def test_the_official_client_pushes_and_pulls(api, registry):
    full = named(registry, "official")
    api.create(full, tiny_gguf(store_of(api).parent / "official.gguf"))
    assert api.sdk.push(full, insecure=True).status == "success"
    api.sdk.delete(full)
    assert [part.status for part in api.sdk.pull(full, insecure=True, stream=True)][-1] == "success"
    assert full in [model.model for model in api.sdk.list().models]


def test_what_is_there_already_is_neither_sent_nor_fetched_again(api, registry):
    pushed(api, registry, "twice")
    full = named(registry, "twice")
    for _ in range(2):
        lines = api.lines("/api/pull", {"model": full, "insecure": True})
    by_digest = {}
    for line in lines:
        if "digest" in line:
            by_digest.setdefault(line["digest"], []).append(line)
    assert all(len(told) == 1 and told[0]["completed"] == told[0]["total"] for told in by_digest.values())
    again = api.lines("/api/push", {"model": full, "insecure": True})
    assert again[-1] == {"status": "success"}


def test_a_layer_of_another_model_is_taken_over_from_its_repository(api, registry):
    base, derived = named(registry, "base"), named(registry, "derived")
    path = tiny_gguf(store_of(api).parent / "base.gguf", **{"general.name": "mounted"})
    api.create(base, path)
    api.lines("/api/push", {"model": base, "insecure": True})
    api.post("/api/create", {"model": derived, "from": base, "system": "Mounted.", "stream": False})
    assert api.lines("/api/push", {"model": derived, "insecure": True})[-1] == {"status": "success"}
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    log = (registry.data.parent / "log").read_text()
    assert f"mount=sha256%3A{digest}" in log
    assert f"/v2/test/derived/blobs/sha256:{digest}" in log  # asked for,
    assert f"digest=sha256%3A{digest}" not in log.partition("mount=")[2]  # but not sent again


def test_several_clients_share_one_download(api, registry):
    pushed(api, registry, "shared")
    body = {"model": named(registry, "shared"), "insecure": True}
    with ThreadPoolExecutor(6) as pool:
        every = list(pool.map(lambda _: api.lines("/api/pull", body), range(6)))
    assert all(lines[-1] == {"status": "success"} for lines in every)
    assert not list(store_of(api).glob(".a3s-power/parts/*"))


def test_a_push_may_go_elsewhere(api, registry):
    api.sdk.copy("m", "me/mine:v2")
    body = {"model": "me/mine:v2", "destination": f"http://{registry.host}", "stream": False}
    response = api.post("/api/push", body)
    assert (response.json(), response.headers["content-type"]) == ({"status": "success"}, "application/json")
    pulled = api.post("/api/pull", {"model": f"{registry.host}/me/mine:v2", "insecure": True, "stream": False})
    assert pulled.json() == {"status": "success"}


@pytest.mark.parametrize(
    "path, body, status, said",
    [
        ("/api/pull", {}, 400, "invalid model name"),
        ("/api/push", {}, 400, "model is required"),
        ("/api/pull", {"model": "a b"}, 400, "invalid model name"),
        ("/api/pull", b"", 400, "missing request body"),
        ("/api/push", b"", 400, "missing request body"),
        ("/api/pull", {"model": "x:cloud"}, 403, "ollama cloud is disabled: remote model is unavailable"),
        ("/api/push", {"model": "m", "destination": "ftp://x"}, 400, "destination 'ftp://x' is no registry"),
        (
            "/api/push",
            {"model": "m", "destination": "http://[::1"},
            400,
            "destination 'http://[::1' is no registry",
        ),
        (
            "/api/push",
            {"model": "m", "destination": "https://a@b/c?d"},
            400,
            "destination 'https://a@b/c?d' is no",
        ),
        ("/api/pull", {"model": "127.0.0.1:9/test/x", "stream": False}, 500, "pull model manifest: "),
        ("/api/push", {"model": "nope/nope", "stream": False}, 404, "model 'nope/nope:latest' not found"),
    ],
)
def test_mistakes_have_an_answer(api, path, body, status, said):
    response = api.post(path, body)
    assert response.status_code == status
    assert response.json()["error"].startswith(said)


def test_a_model_that_the_registry_has_not_is_said_to_be_missing(api, registry):
    body = {"model": named(registry, "absent"), "insecure": True}
    assert api.lines("/api/pull", body) == [
        {"status": "pulling manifest"},
        {"error": "pull model manifest: file does not exist"},
    ]
    whole = api.post("/api/pull", body | {"stream": False})
    assert (whole.status_code, whole.headers["content-type"]) == (500, "application/json")


def test_plain_http_needs_to_be_asked_for(api, registry):
    pushed(api, registry, "plain")
    response = api.post("/api/pull", {"model": named(registry, "plain"), "stream": False})
    assert response.status_code == 500
    assert "insecure" in response.json()["error"]


def test_only_registries_that_are_allowed_are_asked(scripted, registry):
    api = scripted(A3S_POWER_REGISTRIES="registry.ollama.ai")
    response = api.post("/api/pull", {"model": named(registry, "any"), "insecure": True, "stream": False})
    assert response.status_code == 400
    assert "A3S_POWER_REGISTRIES" in response.json()["error"]


def test_a_replaced_model_leaves_no_layers_behind(scripted, registry):
    here, elsewhere = scripted(), scripted()
    body = {"model": named(registry, "moving"), "insecure": True}
    pushed(elsewhere, registry, "moving", system="The first.")
    here.lines("/api/pull", body)
    first = f"sha256-{hashlib.sha256(b'The first.').hexdigest()}"
    assert first in blobs(here)
    pushed(elsewhere, registry, "moving", system="The second.")
    statuses = [line["status"] for line in here.lines("/api/pull", body)]
    assert statuses[-3:] == ["writing manifest", "removing unused layers", "success"]
    assert first not in blobs(here)
    assert here.sdk.show(body["model"]).modelfile.count("The second.") == 1


def test_after_a_client_has_left_the_next_pull_makes_it_whole(api, registry):
    full = named(registry, "large")
    path = tiny_gguf(store_of(api).parent / "large.gguf")
    path.write_bytes(path.read_bytes() + bytes(64 << 20))
    api.create(full, path)
    api.lines("/api/push", {"model": full, "insecure": True})
    api.sdk.delete(full)
    lines = api.stream("/api/pull", {"model": full, "insecure": True})
    assert next(line for line in lines if "total" in line)
    lines.close()
    until(lambda: "path=/api/pull" in api.server.log.read_text())
    assert api.lines("/api/pull", {"model": full, "insecure": True})[-1] == {"status": "success"}
    assert not list(store_of(api).glob(".a3s-power/parts/*"))


def test_a_server_that_is_killed_loses_next_to_nothing(registry, tmp_path):
    """Twenty times, at any moment: the pull goes on from what is there, and what comes of it is right."""
    size = 200 << 20
    path = tiny_gguf(tmp_path / "killed.gguf")
    path.write_bytes(path.read_bytes() + random.Random(1).randbytes(size))
    body = {"model": named(registry, "killed"), "insecure": True}
    with serving(tmp_path / "maker") as maker:
        maker.create(body["model"], path)
        assert maker.lines("/api/push", body)[-1] == {"status": "success"}
    held, lost, moments = 0, 0, random.Random(2)
    for _ in range(20):
        with serving(tmp_path / "server") as api:
            amounts = pulled_amounts(api, body, more_than=size // 2)
            first = next(amounts, held)
            lost += max(0, held - first)
            enough = first + (moments.randint(1, 9) << 20)
            held = next((amount for amount in amounts if amount > enough), first)
            api.server.process.kill()
    assert lost <= size // 10
    with serving(tmp_path / "server") as api:
        assert next(pulled_amounts(api, body, more_than=size // 2)) > held - size // 10
        assert api.lines("/api/pull", body)[-1] == {"status": "success"}
        with path.open("rb") as file:
            name = f"sha256-{hashlib.file_digest(file, 'sha256').hexdigest()}"
        assert (store_of(api) / "blobs" / name).read_bytes() == path.read_bytes()
        assert not list(store_of(api).glob(".a3s-power/parts/*"))


@contextmanager
def serving(folder):
    """A server that may be killed within the block."""
    with running_server(folder) as server:
        api = API(server)
        yield api
        api.close()


def pulled_amounts(api, body, *, more_than):
    """How much of the large blob is there, again and again, until the server is no more."""
    with suppress(httpx2.HTTPError):
        for line in api.stream("/api/pull", body):
            if line.get("total", 0) > more_than:
                yield line.get("completed", 0)
