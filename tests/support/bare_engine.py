"""The engine with nothing of ours around it: `python bare_engine.py MODEL PROJECTOR < requests`.

Reads a JSON list of bodies for llama.cpp's chat completions, and writes the list of the texts that it answers.
"""

import json
import sys

import xllamacpp


def main(model: str, projector: str) -> None:
    params = xllamacpp.CommonParams()
    params.model.path, params.mmproj.path = model, projector
    params.n_ctx, params.n_parallel = 2048, 1
    params.port = 0  # it listens, though nobody comes
    params.verbosity = 0
    server = xllamacpp.Server(params)
    replies = (server.handle_chat_completions(body) for body in json.load(sys.stdin))
    json.dump([reply["choices"][0]["message"]["content"] for reply in replies], sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
