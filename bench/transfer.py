"""Pulling and pushing a large blob, as ratios to `curl`: `python -m bench.transfer [MiB]`.

A real registry (Debian's `docker-registry`) on the loopback interface. A pull is compared with `curl` piped
through `sha256sum`, a push with `sha256sum` and then `curl` putting the same file up in one piece (our store knows
the digest already); in turn. The target is 0.8.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

import psutil

from demo.server import running_server
from tests.support.api import API, tiny_gguf
from tests.support.registry import Registry, running_registry

ROUNDS = 3
TARGET = 0.8


def main(mib: int = 1024) -> None:
    if shutil.which("docker-registry") is None:
        return print("transfers: not measured, this machine has no docker-registry")
    with tempfile.TemporaryDirectory() as name, running_registry(Path(name) / "registry") as registry:
        folder = Path(name)
        path = folder / "large.gguf"
        tiny_gguf(path)
        with path.open("ab") as file, Path("/dev/urandom").open("rb") as noise:
            for _ in range(mib):
                file.write(noise.read(1 << 20))
        with running_server(folder / "server") as server:
            compare(API(server), registry, path, mib)


def compare(api: API, registry: Registry, path: Path, mib: int) -> None:
    model = f"{registry.host}/bench/large:v1"
    api.create(model, path)
    process = psutil.Process(api.server.process.pid)
    idle, rows = process.memory_info().rss, {"push": [], "pull": []}
    for n in range(ROUNDS):
        sent = timed(lambda n=n: push(api, model, f"{registry.host}/bench/large{n}:v1"))
        put = timed(lambda n=n: curl_put(registry, path, n))
        rows["push"].append(put / sent)
    digest = pushed_digest(api, model)
    push(api, model, model)
    for _ in range(ROUNDS):
        api.sdk.delete(model)
        forget_copies(api)
        got = timed(lambda: api.sdk.pull(model, insecure=True))
        bare = timed(lambda: curl_get(registry, digest))
        rows["pull"].append(bare / got)
    print(f"{mib} MiB over loopback, {ROUNDS} rounds; target {TARGET}")
    for what, ratios in rows.items():
        print(f"  {what}: {median(ratios):.2f} of curl's speed ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"  server memory: {idle / 2**20:.0f} MiB before, {process.memory_info().rss / 2**20:.0f} MiB after")
    api.close()


def timed(work) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start


def push(api: API, model: str, target: str) -> None:
    if target != model:
        api.sdk.copy(model, target)
    api.sdk.push(target, insecure=True)


def forget_copies(api: API) -> None:
    """Every other name of the blob, or it would still be here."""
    for row in api.sdk.list().models:
        api.sdk.delete(row.model)


def pushed_digest(api: API, model: str) -> str:
    host, _, rest = model.partition("/")
    models = Path(api.server.environment["OLLAMA_MODELS"])
    manifest = json.loads((models / "manifests" / host / rest.replace(":", "/")).read_text())
    return next(layer["digest"] for layer in manifest["layers"] if layer["mediaType"].endswith("image.model"))


def curl_get(registry: Registry, digest: str) -> None:
    url = f"http://{registry.host}/v2/bench/large/blobs/{digest}"
    subprocess.run(f"curl -sf {url} | sha256sum", shell=True, check=True, stdout=subprocess.DEVNULL)


def curl_put(registry: Registry, path: Path, n: int) -> None:
    """Hash the file and put it up, under a repository that has not seen it."""
    base = f"http://{registry.host}/v2/bench/curl{n}"
    digest = subprocess.run(["sha256sum", path], check=True, capture_output=True, text=True).stdout.split()[0]
    head = subprocess.run(
        ["curl", "-sf", "-D-", "-XPOST", f"{base}/blobs/uploads/"], check=True, capture_output=True
    )
    location = next(
        line.split(": ", 1)[1] for line in head.stdout.decode().splitlines() if line.lower().startswith("location")
    )
    url = f"{location}{'&' if '?' in location else '?'}digest=sha256:{digest}"
    argv = ["curl", "-sf", "-T", str(path), "-H", "Content-Type: application/octet-stream", url]
    subprocess.run(argv, check=True, capture_output=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
