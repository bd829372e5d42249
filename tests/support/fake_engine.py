#!/usr/bin/env python3
"""A stand-in for `llama-server`: a real process that speaks its API on a Unix socket and does as it is told.

How it starts is told by JSON in the environment variable LLAMA_ARG_FAKE (an allow-listed prefix):
    load_s        seconds until it is healthy
    stuck         never becomes healthy
    last_words    writes this to stderr and exits with status 1
    ignore_term   ignores SIGTERM
What it answers is told by the prompt (the last message of a chat):
    say:a|b|c     three tokens, then the end            chunks:N    N tokens as fast as they go
    paced:N:R     N tokens, R of them a second          die:N       N tokens, then SIGKILL to itself
    forever       tokens without end
    stall:N       N tokens, then nothing more             drip:MS:a|b  two tokens, after MS milliseconds each
    refuse:418    HTTP status 418 before any token      break:N     N tokens, then an error in the stream
    long:N        refused: N tokens do not fit
    raw:<json>    these server-sent events, a JSON list of objects, as they are
    deaf:N        a token, then busy, whoever has left, until /slots was asked N times
    unheard       no answer at all, not even a status, and no slot
    hangup:N      N tokens, then the connection breaks
    hold:F:a|b    two tokens, as soon as there is a file F
Tokens are words with the blanks before them. A prompt of tokens goes on with what is behind its first words, so
that a reply can be continued from its own.
Texts to be embedded give (characters or tokens, 3, 4), but for
    forever       no answer                             die         SIGKILL to itself
    refuse:418    HTTP status 418 for all of them       nan         a vector of no numbers
Run it with `--host /path/to.sock`; all other arguments are ignored, `--parallel` bounds nothing.
"""

import asyncio
import base64
import json
import os
import re
import signal
import struct
import sys
import time
from collections.abc import Iterator
from itertools import count, islice

SWITCHES = json.loads(os.environ.get("LLAMA_ARG_FAKE", "{}"))


def reply(status: int, body: object) -> bytes:
    data = json.dumps(body).encode()
    return b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        status,
        len(data),
        data,
    )


def event(body: object) -> bytes:
    data = b"data: " + (body if isinstance(body, bytes) else json.dumps(body).encode()) + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


def error(status: int, message: str, **more: object) -> dict:
    return {"error": {"code": status, "message": message, "type": "server_error", **more}}


def tokens_of(prompt: str) -> Iterator[str]:
    verb, _, rest = prompt.partition(":")
    if verb == "say":
        yield from rest.split("|")
    elif verb in {"drip", "hold"}:
        yield from rest.partition(":")[2].split("|")
    elif verb in {"chunks", "die", "break", "paced", "stall", "hangup"}:
        yield from (f" tok{i}" for i in range(int(rest.partition(":")[0])))
    elif verb == "forever":
        for n in count():
            yield f" tick{n}"
    else:
        yield prompt


class Vocabulary:
    """Every word that was seen, numbered as they come. What the engine says has numbers apart from what it is told."""

    SAID = 1 << 20

    def __init__(self) -> None:
        self.words: dict[str, int] = {}

    def number(self, word: str) -> int:
        return self.words.setdefault(word, len(self.words))

    def tokens(self, text: str) -> list[int]:
        return [self.number(word) for word in re.findall(r"\s*\S+", text)]

    def script(self, tokens: list[int]) -> tuple[str, int]:
        """What the engine was told in a prompt, and how many tokens of the reply to it are there."""
        words = list(self.words)
        told = [words[token] for token in tokens if token < self.SAID]
        return "".join(told), len(tokens) - len(told)


def timings(count: int) -> dict:
    return {"cache_n": 2, "prompt_n": 5, "prompt_ms": 1.5, "predicted_n": count, "predicted_ms": 2.5}


def vector(item: str | list[int]) -> str:
    first = float("nan") if item == "nan" else len(item)
    return base64.b64encode(struct.pack("<3f", first, 3, 4)).decode()


class Engine:
    def __init__(self) -> None:
        self.healthy = False
        self.open_streams = 0
        self.streams = 0
        """That there ever were."""
        self.vocabulary = Vocabulary()
        self.tokenized = 0
        self.looks = 0
        """How often /slots was asked."""
        self.looked = asyncio.Event()

    async def serve(self, path: str) -> None:
        server = await asyncio.start_unix_server(self.handle, path, limit=1 << 26)
        async with server:
            await asyncio.sleep(SWITCHES.get("load_s", 0))
            self.healthy = not SWITCHES.get("stuck")
            await server.serve_forever()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            path = head.split(" ")[1]
            lengths = [line[15:] for line in head.split("\r\n") if line.lower().startswith("content-length:")]
            body = json.loads(await reader.readexactly(int(lengths[0]))) if lengths else {}
            if path == "/v1/embeddings":
                await self.embed(body["input"], reader, writer)
            else:
                await self.answer(path, body, writer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def answer(self, path: str, body: dict, writer: asyncio.StreamWriter) -> None:
        if path == "/health":
            writer.write(reply(200, {"status": "ok"}) if self.healthy else reply(503, error(503, "Loading model")))
        elif path == "/apply-template":
            writer.write(reply(200, {"prompt": body["messages"][-1]["content"]}))
        elif path == "/tokenize":
            self.tokenized += 1
            writer.write(reply(200, {"tokens": self.vocabulary.tokens(body["content"])}))
        elif path == "/detokenize":
            writer.write(reply(200, {"content": " ".join(f"t{token}" for token in body["tokens"])}))
        elif path == "/slots":
            self.looks += 1
            self.looked.set()
            self.looked = asyncio.Event()
            writer.write(reply(200, [{"is_processing": True, "id_task": 1}] * self.open_streams))
        elif path == "/open-streams":
            seen = {"count": self.open_streams, "streams": self.streams, "tokenized": self.tokenized}
            writer.write(reply(200, seen))
        else:
            is_chat = "messages" in body
            prompt = body["messages"][-1]["content"] if is_chat else body["prompt"]
            await self.generate(prompt, body, is_chat, writer)

    async def embed(
        self, inputs: list[str | list[int]], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        for verb, _, rest in (item.partition(":") for item in inputs if isinstance(item, str)):
            if verb == "refuse":
                return writer.write(reply(int(rest), error(int(rest), "refused as told")))
            if verb == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if verb == "forever":
                self.open_streams += 1
                await reader.read()  # until the other side hangs up
                self.open_streams -= 1
        data = [{"index": index, "embedding": vector(item)} for index, item in enumerate(inputs)]
        return writer.write(reply(200, {"data": data, "usage": {"prompt_tokens": 5 * len(inputs)}}))

    async def generate(
        self, prompt: str | list[int], body: dict, is_chat: bool, writer: asyncio.StreamWriter
    ) -> None:
        said = 0
        if isinstance(prompt, list):
            prompt, said = self.vocabulary.script(prompt)
        verb, _, rest = prompt.partition(":")
        if verb == "unheard":
            await asyncio.Event().wait()
        if verb == "refuse":
            return writer.write(reply(int(rest), error(int(rest), "refused as told")))
        if verb == "long":
            more = {"type": "exceed_context_size_error", "n_prompt_tokens": int(rest), "n_ctx": 64}
            return writer.write(reply(400, error(400, "too long", **more)))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        if verb == "raw":
            writer.writelines(event(item) for item in json.loads(rest))
            return writer.write(b"0\r\n\r\n")
        self.open_streams += 1
        self.streams += 1
        try:
            await self.stream(prompt, body, is_chat, writer, said)
        finally:
            self.open_streams -= 1
        return None

    async def stream(
        self, prompt: str, body: dict, is_chat: bool, writer: asyncio.StreamWriter, said: int
    ) -> None:
        limit, count, verb = body.get("n_predict", -1), 0, prompt.partition(":")[0]
        start, rate = time.perf_counter(), int(prompt.split(":")[2]) if verb == "paced" else 0
        pause_s = int(prompt.split(":")[1]) / 1000 if verb == "drip" else 0
        while verb == "hold" and not os.access(prompt.split(":")[1], os.F_OK):
            await asyncio.sleep(0.01)
        for token in islice(tokens_of(prompt), said, None):
            if count == limit:
                break
            if pause_s:
                await asyncio.sleep(pause_s)
            count += 1
            delta = {"choices": [{"delta": {"content": token}, "finish_reason": None}]}
            piece = {"content": token, "stop": False}
            if body.get("return_tokens"):
                piece |= {"tokens": [Vocabulary.SAID + self.vocabulary.number(token)], "tokens_predicted": count}
            writer.write(event(delta if is_chat else piece))
            while rate and count > (time.perf_counter() - start) * rate:
                await asyncio.sleep(0)  # one write for each token, as an engine does
            if count % 64 == 0 or verb != "chunks":
                await writer.drain()
                await asyncio.sleep(0)
        if verb == "stall":
            await writer.drain()
            await asyncio.Event().wait()
        if verb == "deaf":
            await writer.drain()
            until = self.looks + int(prompt.partition(":")[2])
            while self.looks < until:
                await self.looked.wait()
        if verb == "die":
            await writer.drain()
            os.kill(os.getpid(), signal.SIGKILL)
        if verb == "hangup":
            await writer.drain()
            return writer.transport.abort()
        if verb == "break":
            return writer.write(event(error(500, "broke as told")) + b"0\r\n\r\n")
        stop = "limit" if count == limit else "eos"
        if is_chat:
            reason = "length" if stop == "limit" else "stop"
            writer.write(event({"choices": [{"delta": {}, "finish_reason": reason}]}))
            writer.write(event({"choices": [], "usage": {}, "timings": timings(count)}) + event(b"[DONE]"))
        else:
            writer.write(event({"content": "", "stop": True, "stop_type": stop, "timings": timings(count)}))
        return writer.write(b"0\r\n\r\n")


def main() -> None:
    if "--list-devices" in sys.argv:
        return print("Available devices:")
    if SWITCHES.get("ignore_term"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if words := SWITCHES.get("last_words"):
        sys.exit(words)
    return asyncio.run(Engine().serve(sys.argv[sys.argv.index("--host") + 1]))


if __name__ == "__main__":
    main()
