"""8.9 Scheduling: whose turn it is, and who has to go."""

import json
import select
from concurrent.futures import ThreadPoolExecutor

from tests.conformance.cases import GENERATE, PS, ask, g, say
from tests.support.api import PATIENCE_S, tiny_gguf, until

BUSY = '{"error":"server busy, please try again.  maximum pending requests exceeded"}'


def create_others(api, folder, *names: str) -> None:
    """Models that share no file with `m`, nor with each other."""
    for name in names:
        api.create(name, tiny_gguf(folder / f"{name}.gguf", **{"general.basename": name}))


def begin(api, **fields):
    """Send a request on a connection of its own, which is returned, and read nothing."""
    connection = api.connect()
    content = json.dumps(g(**fields)).encode()
    head = f"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n"
    connection.sendall(head.encode() + content)
    return connection


def check_is_busy(connection) -> None:
    answer = ""
    while not answer.endswith("}"):
        received = connection.recv(1 << 16).decode()
        assert received, answer
        answer += received
    assert answer.startswith("HTTP/1.1 503 ")
    assert "\r\nretry-after: " in answer.lower()
    assert answer.endswith(f"\r\n\r\n{BUSY}")


def test_s1_one_model_makes_room_for_another(scripted, tmp_path):
    api = scripted(OLLAMA_MAX_LOADED_MODELS="1")
    create_others(api, tmp_path, "b")
    for model in ("m", "b", "m"):
        assert ask(api, GENERATE, say("yes", model=model))["response"] == "yes"
        assert api.loaded() == [f"{model}:latest"]


# Ours has one bound on everything that waits, whether its model is loaded or not, and says when to come again.
def test_s2_no_more_wait_than_may(scripted, tmp_path):
    api = scripted(switches={"stuck": True}, OLLAMA_MAX_QUEUE="1", OLLAMA_MAX_LOADED_MODELS="1")
    create_others(api, tmp_path, "b", "c")
    waiting = [begin(api, model=model) for model in ("m", "b", "c", "b", "c")]
    (refused, *_), _, _ = select.select(waiting, [], [], PATIENCE_S)
    check_is_busy(refused)
    for connection in waiting:
        connection.close()


def test_s2_nor_for_a_model_that_is_loaded(scripted):
    api = scripted(OLLAMA_MAX_QUEUE="1", OLLAMA_NUM_PARALLEL="1")
    running = begin(api, prompt="forever", options={}, stream=True)
    until(lambda: b"tick" in running.recv(1 << 16))
    waiting = [begin(api, prompt="say:yes") for _ in range(3)]
    (refused, *_), _, _ = select.select(waiting, [], [], PATIENCE_S)
    check_is_busy(refused)
    for connection in (*waiting, running):
        connection.close()


def test_s3_all_are_served_in_turn(server):
    ask(server, GENERATE, g())
    with ThreadPoolExecutor(12) as pool:
        replies = list(pool.map(lambda n: ask(server, GENERATE, g(prompt=f"Count to {n}.")), range(12)))
    assert all(reply["response"] and reply["done"] for reply in replies)


# Ours reloads only for more: a context that is large enough serves the smaller one too.
def test_s5_another_context_is_another_runner(unloaded):
    for num_ctx, loaded_ctx in ((256, 256), (320, 320), (256, 320)):
        ask(unloaded, GENERATE, g(options={"num_ctx": num_ctx, "num_predict": 1}))
        (row,) = ask(unloaded, PS)["models"]
        assert row["context_length"] == loaded_ctx


def test_s6_an_idle_model_leaves_in_time(scripted):
    api = scripted()
    ask(api, GENERATE, say("yes", keep_alive="1s"))
    assert api.loaded() == ["m:latest"]
    until(lambda: api.loaded() == [])


def test_s7_no_model_stays_when_none_is_to_be_kept(scripted):
    api = scripted(OLLAMA_KEEP_ALIVE="0")
    for _ in range(2):
        assert ask(api, GENERATE, say("yes"))["response"] == "yes"
        until(lambda: api.loaded() == [])
