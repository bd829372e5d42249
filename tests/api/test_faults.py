"""Clients that leave, engines that die, servers that are told to end or killed: what each of them leaves behind."""

import json
import os
import select
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import anyio
import httpx2
import psutil
import pytest

from a3s_power.runner.link import LinkBroken, exchange
from a3s_power.service.suspects import KILLS
from tests.support.api import PATIENCE_S, send_request, until
from tests.support.engines import family_of, wait_until_gone

ENDLESS = {"model": "m", "prompt": "forever"}


def told_by_engine(api) -> dict:
    """What the scripted engine tells of itself, asked on its own socket."""

    async def ask():
        async for socket in anyio.Path(api.runtime_dir).glob("*/s.sock"):
            with suppress(LinkBroken):  # of an engine that is just gone, or not yet there
                async with exchange(str(socket), "/open-streams") as reply:
                    return json.loads(await reply.read())
        return {"count": 0, "streams": 0, "tokenized": 0}

    return anyio.run(ask)


def open_streams(api) -> int:
    """What the scripted engine is busy with."""
    return told_by_engine(api)["count"]


def runner_pid(api) -> int:
    """The runner of a server with one model loaded."""
    (child,) = until(psutil.Process(api.server.process.pid).children)
    return child.pid


# ---- the client leaves ----


@pytest.mark.parametrize(
    "path, body",
    [
        ("/api/generate", ENDLESS),
        ("/api/chat", {"model": "m", "messages": [{"role": "user", "content": "forever"}]}),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_stops_the_engine(scripted, path, body, stream):
    api = scripted()
    connection = send_request(api, path, {**body, "stream": stream})
    if stream:
        until(lambda: b"tick" in connection.recv(1 << 16))  # after the first token
    until(lambda: api.loaded() and open_streams(api) == 1)
    connection.close()
    until(lambda: open_streams(api) == 0)
    assert (
        api.post("/api/generate", {"model": "m", "prompt": "say:still here", "stream": False}).json()["response"]
        == "still here"
    )


def test_a_client_that_leaves_while_its_model_loads_ends_the_load(scripted):
    api = scripted(switches={"stuck": True})
    connection = send_request(api, "/api/generate", ENDLESS)
    until(api.loaded)
    family = family_of(runner_pid(api))
    connection.close()
    assert wait_until_gone(family) == []
    until(lambda: api.loaded() == [])


def test_a_client_that_leaves_the_queue_frees_its_place(scripted):
    api = scripted(OLLAMA_NUM_PARALLEL="1", OLLAMA_MAX_QUEUE="1")
    running = send_request(api, "/api/generate", ENDLESS)
    until(lambda: b"tick" in running.recv(1 << 16))
    both = [send_request(api, "/api/generate", ENDLESS) for _ in range(2)]
    (refused,), _, _ = select.select(both, [], [], PATIENCE_S)  # one waits, and the other is told at once
    answer = ""
    while not answer.endswith("}"):
        answer += refused.recv(1 << 16).decode()
    assert answer.startswith("HTTP/1.1 503 ")
    assert "\r\nretry-after: 1\r\n" in answer
    assert answer.endswith('{"error":"server busy, please try again.  maximum pending requests exceeded"}')
    for connection in (*both, running):
        connection.close()
    until(
        lambda: api.post("/api/generate", {"model": "m", "prompt": "say:free", "stream": False}).status_code == 200
    )


# ---- the engine fails ----


def test_a_runner_that_dies_fails_its_request_and_the_next_one_gets_another(scripted):
    api = scripted()
    lines = api.lines("/api/generate", {"model": "m", "prompt": "die:3"})
    assert [line["response"] for line in lines[:-1]] == [" tok0", " tok1", " tok2"]
    assert lines[-1]["error"].startswith("model runner has unexpectedly stopped")
    whole = api.post("/api/generate", {"model": "m", "prompt": "die:3", "stream": False})
    assert whole.status_code == 500
    assert (
        api.post("/api/generate", {"model": "m", "prompt": "say:anew", "stream": False}).json()["response"]
        == "anew"
    )


def lose_a_runner_while_one_waits(api, held_by) -> str:
    """The answer to the request that waited for room, until its runner was killed."""

    def begin(prompt, **fields):
        return send_request(
            api, "/api/chat", {"model": "m", "messages": [{"role": "user", "content": prompt}], **fields}
        )

    holder = begin(held_by)
    until(lambda: b"tok" in holder.recv(1 << 16))
    waiting = begin("say:hi", stream=False)
    until(lambda: told_by_engine(api)["tokenized"] == 2)
    os.killpg(runner_pid(api), signal.SIGKILL)
    answer = ""
    while not answer.endswith("}"):
        answer += waiting.recv(1 << 16).decode()
    for connection in (holder, waiting):
        connection.close()
    return answer


def test_requests_that_waited_for_room_have_no_part_in_a_runner_s_end(scripted):
    """They are tried on the next runner, however often: only what was begun may have been the reason."""
    api = scripted(OLLAMA_CONTEXT_LENGTH="64", A3S_POWER_KV_POOL="64")
    for death in range(1, KILLS + 2):
        answer = lose_a_runner_while_one_waits(api, held_by=f"stall:{death}")
        assert answer.startswith("HTTP/1.1 200 "), answer
        api.sdk.generate("m", keep_alive=0)
        until(lambda: api.loaded() == [])


def generated(api, prompt):
    return api.post("/api/generate", {"model": "m", "prompt": prompt, "stream": False})


def test_a_runner_that_is_lost_before_the_first_word_is_replaced_and_nobody_notices(scripted):
    api = scripted()
    connection = send_request(api, "/api/generate", {"model": "m", "prompt": "stall:0", "stream": False})
    until(lambda: api.loaded() and open_streams(api) == 1)
    os.killpg(runner_pid(api), signal.SIGKILL)
    until(lambda: "tried again on another runner" in api.server.log.read_text())
    until(lambda: open_streams(api) == 1)
    connection.close()


def test_a_request_that_ends_runners_is_tried_twice_and_then_no_more(scripted):
    api = scripted()
    lost = generated(api, "die:0")
    assert (lost.status_code, lost.json()["error"][:22]) == (500, "model runner has unexp")
    assert api.server.log.read_text().count("runner died") == 2
    refused = generated(api, "die:0")
    assert refused.status_code == 400
    assert refused.json()["error"].startswith("this request has ended the model's runner 2 times")
    assert api.server.log.read_text().count("runner died") == 2
    assert generated(api, "say:others are served").json()["response"] == "others are served"
    assert generated(api, "die:1").status_code == 500  # another one, which had told a word: not tried again
    assert api.server.log.read_text().count("runner died") == 3


def test_only_the_request_that_ends_runners_fails(scripted, tmp_path):
    """Those that were beside it are tried again one after the other, and it alone when they have passed or wait."""
    api = scripted()
    prompts = [f"hold:{tmp_path / 'go'}:{number}|!" for number in range(3)]
    with ThreadPoolExecutor() as pool:
        beside = [pool.submit(generated, api, prompt) for prompt in prompts]
        until(lambda: api.loaded() and open_streams(api) == len(prompts))
        lost = pool.submit(generated, api, "die:0")
        until(lambda: api.server.log.read_text().count("tried again on another runner") == len(prompts) + 1)
        (tmp_path / "go").touch()
        assert [answer.result().json()["response"] for answer in beside] == ["0!", "1!", "2!"]
    assert lost.result().status_code == 500
    assert [generated(api, prompt).status_code for prompt in (*prompts, "die:0")] == [200, 200, 200, 400]
    assert api.server.log.read_text().count("runner died") == 2


def test_a_connection_that_breaks_costs_nobody_else_the_runner(scripted):
    api = scripted()
    neighbour = send_request(api, "/api/generate", {"model": "m", "prompt": "stall:0", "stream": False})
    until(lambda: api.loaded() and open_streams(api) == 1)
    pid = runner_pid(api)
    for _ in range(KILLS + 1):
        broken = generated(api, "hangup:1")
        assert (broken.status_code, broken.json()["error"][:31]) == (500, "the connection to the engine br")
    assert open_streams(api) == 1
    assert runner_pid(api) == pid
    neighbour.close()


@pytest.mark.parametrize("tokens", [0, 2])
def test_a_runner_that_stands_still_is_ended_and_its_requests_are_told(scripted, tokens):
    api = scripted(A3S_POWER_STALL_TIMEOUT="1s")
    reply = api.post("/api/generate", {"model": "m", "prompt": f"stall:{tokens}"})
    last = reply.json() if not tokens else json.loads(reply.text.splitlines()[-1])
    assert last["error"].endswith("it made no progress for 1 s")
    assert generated(api, "say:anew").json()["response"] == "anew"


def test_a_runner_that_hangs_is_ended_even_if_its_clients_have_given_up(scripted):
    api = scripted(A3S_POWER_STALL_TIMEOUT="1s")
    assert generated(api, "say:hi").status_code == 200
    os.killpg(runner_pid(api), signal.SIGSTOP)
    send_request(api, "/api/generate", {"model": "m", "prompt": "say:nobody waits"}).close()
    until(lambda: api.loaded() == [])
    assert "runner stands still" in api.server.log.read_text()
    assert generated(api, "say:anew").json()["response"] == "anew"


def test_a_runner_that_owes_nothing_may_stand_still(scripted):
    api = scripted(A3S_POWER_STALL_TIMEOUT="0.2s")
    pid = runner_pid(api) if generated(api, "say:hi").status_code == 200 else 0
    slow = list(api.stream("/api/generate", {"model": "m", "prompt": "paced:20:20"}))  # a second, a word at a time
    assert slow[-1]["done"]
    assert runner_pid(api) == pid


def test_a_runner_that_is_killed_is_noticed_by_all_it_served(scripted):
    api = scripted()
    streams = [api.stream("/api/generate", ENDLESS) for _ in range(3)]
    assert all(next(stream)["response"].startswith(" tick") for stream in streams)
    os.killpg(runner_pid(api), signal.SIGKILL)
    for stream in streams:
        assert "unexpectedly stopped" in list(stream)[-1]["error"]
    until(lambda: api.loaded() == [])


def test_an_error_before_the_first_token_has_a_status_and_one_after_it_a_line(scripted):
    api = scripted()
    refused = api.post("/api/generate", {"model": "m", "prompt": "refuse:418"})
    assert (refused.status_code, refused.json()) == (418, {"error": "refused as told"})
    assert api.lines("/api/generate", {"model": "m", "prompt": "break:1"})[-1] == {"error": "broke as told"}


def test_an_engine_that_never_starts_is_given_up(scripted):
    api = scripted(switches={"stuck": True}, OLLAMA_LOAD_TIMEOUT="1s")
    response = api.post("/api/generate", {"model": "m", "prompt": "Hi"})
    assert response.status_code == 500
    assert response.json()["error"].startswith("timed out waiting for the engine to start")
    assert psutil.Process(api.server.process.pid).children() == []


# ---- the server ends ----


def test_streams_drain_when_the_server_is_told_to_end(scripted):
    api = scripted(A3S_POWER_DRAIN_TIMEOUT="60")
    stream = api.stream("/api/generate", {"model": "m", "prompt": "chunks:20000"})
    next(stream)
    family = family_of(api.server.process.pid)
    api.server.process.send_signal(signal.SIGTERM)
    lines = list(stream)
    assert lines[-1]["done_reason"] == "stop"
    assert len(lines) == 20000
    assert wait_until_gone(family) == []
    assert api.server.process.wait() == 0


def test_a_stream_that_does_not_end_is_ended_with_a_word(scripted):
    api = scripted(A3S_POWER_DRAIN_TIMEOUT="1")
    stream = api.stream("/api/generate", ENDLESS)
    next(stream)
    family = family_of(api.server.process.pid)
    api.server.process.send_signal(signal.SIGTERM)
    *_, last = stream
    assert last == {"error": "the server is shutting down"}
    assert wait_until_gone(family) == []
    assert api.server.process.wait() == 0


@pytest.mark.parametrize("body", [ENDLESS, {**ENDLESS, "stream": False}])
def test_a_request_that_has_no_answer_yet_when_the_server_ends_is_told_so(scripted, body):
    api = scripted(OLLAMA_NUM_PARALLEL="1", A3S_POWER_DRAIN_TIMEOUT="0")
    running = api.stream("/api/generate", ENDLESS)
    next(running)
    waiting = send_request(api, "/api/generate", body)
    assert api.http.get("/health").status_code == 200  # it has been read by now: the loop is one
    api.server.process.send_signal(signal.SIGTERM)
    with waiting:
        answer = b"".join(iter(lambda: waiting.recv(1 << 16), b"")).decode()
    assert answer.startswith("HTTP/1.1 503 ")
    assert answer.endswith('{"error":"the server is shutting down"}')
    running.close()
    assert api.server.process.wait() == 0
    assert "Traceback" not in api.server.log.read_text()


def test_a_client_that_leaves_in_the_middle_of_its_request_is_no_error(scripted):
    api = scripted()
    for path in ("/api/chat", "/api/create"):
        with api.connect() as connection:
            connection.sendall(
                f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{{".encode()
            )
    until(lambda: api.server.log.read_text().count("status=499") == 2)
    assert "Traceback" not in api.server.log.read_text()


def test_a_server_that_ends_takes_no_new_requests(scripted):
    api = scripted()
    stream = api.stream("/api/generate", ENDLESS)
    next(stream)
    api.server.process.send_signal(signal.SIGTERM)

    def is_refused():
        try:
            httpx2.get(f"{api.server.url}/", trust_env=False)
        except httpx2.TransportError:
            return True
        return False

    until(is_refused)
    stream.close()


def test_a_killed_server_leaves_no_process_and_no_socket(scripted):
    api = scripted()
    stream = api.stream("/api/generate", ENDLESS)
    next(stream)
    family = family_of(api.server.process.pid)
    assert len(family) == 3  # the server, the host, the engine
    api.server.process.kill()
    with pytest.raises(httpx2.RemoteProtocolError):
        list(stream)
    assert wait_until_gone(family) == []
    until(lambda: not os.listdir(api.runtime_dir))


def test_a_taken_port_is_said_to_be_so(scripted, tmp_path):
    from demo.server import CannotStart, running_server

    address = scripted().server.environment["OLLAMA_HOST"]
    with pytest.raises(CannotStart, match=f"Error: listen tcp {address}: bind: address already in use"):
        with running_server(tmp_path / "second", OLLAMA_HOST=address):
            pass
