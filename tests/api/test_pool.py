"""Requests that share fewer cells than they could fill: none is lost, whatever the load."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from demo.server import running_server
from tests.api.test_faults import told_by_engine
from tests.api.test_prompt_paths import FORCED_THINKING
from tests.support.api import API, send_request
from tests.support.pictures import COLORS, Drawing, base64_of, seeing_model
from tests.support.templates import with_chat_template

NUM_CTX, POOL = 512, 768
PLAIN = {"raw": True, "options": {"temperature": 0, "num_ctx": NUM_CTX}}
COUNTING = "Once upon a time there was a little girl who counted: one, two, three, four, five,"
SMILES = "List: 1 😀 2 😁 3 🐶 4 😀 5 🐱 6 😀 7 😁 8 😀 9 🐶 10 😀 11 😁 12 😀 13"
BEGINS_MESSAGE = 1
"""SmolLM2's <|im_start|>: no text, and no end."""


@pytest.fixture(scope="module")
def pooled(tmp_path_factory, smollm2_gguf):
    """A server whose model has four slots of 512 tokens on 768 cells."""
    with running_server(
        tmp_path_factory.mktemp("pool"), OLLAMA_CONTEXT_LENGTH=str(NUM_CTX), A3S_POWER_KV_POOL=str(POOL)
    ) as server:
        api = API(server)
        api.create("smollm2", smollm2_gguf)
        yield api
        api.close()


def generate(api, prompt, **options):
    body = {**PLAIN, "options": {**PLAIN["options"], **options}}
    return api.sdk.generate("smollm2", prompt, raw=True, options=body["options"])


def chat(api, words, **options):
    return api.sdk.chat("smollm2", [{"role": "user", "content": words}], options={"temperature": 0, **options})


def together(*calls):
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


def test_the_runner_has_as_many_cells_as_the_operator_wants(pooled):
    generate(pooled, "Hi", num_predict=1)
    assert f"num_ctx={NUM_CTX} slots=4 pool={POOL}" in pooled.server.log.read_text()


def test_replies_that_together_outgrow_the_pool_are_all_whole(pooled):
    """The engine would fail all of them: six of 300 tokens and more, in 768 cells."""
    replies = together(
        *[lambda n=n: generate(pooled, f"{n} {COUNTING}", num_predict=300, stop=["@@"]) for n in range(6)]
    )
    for reply in replies:
        assert (reply.done_reason, reply.eval_count) in {("length", 300), ("stop", reply.eval_count)}
        assert reply.prompt_eval_count > 15


def test_open_ended_ones_too_be_they_set_aside_or_not(pooled):
    replies = together(*[lambda n=n: generate(pooled, f"{n} {COUNTING}") for n in range(5)])
    for reply in replies:
        assert reply.done_reason == "stop" or reply.prompt_eval_count + reply.eval_count == NUM_CTX


def test_a_conversation_reserves_all_that_it_may_take(pooled):
    """Its parser's state is the engine's, so it cannot be set aside."""
    replies = together(
        *[lambda n=n: chat(pooled, f"Count to {n} hundred.", num_predict=200) for n in range(1, 5)],
        lambda: generate(pooled, COUNTING, num_predict=300),
    )
    assert all(reply.done_reason in {"length", "stop"} for reply in replies)


def test_a_reply_in_steps_is_the_same_as_one_in_one_go(pooled, real):
    """Each alone at its engine: there the numerics are the same."""
    whole, stepped = (generate(api, COUNTING, num_predict=400) for api in (real, pooled))
    assert whole.response == stepped.response
    assert (whole.eval_count, whole.done_reason) == (stepped.eval_count, stepped.done_reason)
    assert whole.prompt_eval_count == stepped.prompt_eval_count


def test_a_reply_goes_on_behind_each_step_with_what_comes_then(scripted):
    api = scripted(OLLAMA_CONTEXT_LENGTH="1024", A3S_POWER_KV_POOL="1024")
    body = {"model": "m", "prompt": "chunks:900", "raw": True, "stream": False}
    for reply in together(*[lambda: api.post("/api/generate", body).json()] * 3):
        assert reply["response"] == "".join(f" tok{n}" for n in range(900))
        assert (reply["eval_count"], reply["done_reason"]) == (900, "stop")


@pytest.mark.parametrize(
    "options, is_stepped",
    [({}, True), ({"seed": -1}, True), ({"seed": 7}, False), ({"seed": -2}, False), ({"seed": 7, "temperature": 0}, True)],
)  # fmt: skip
def test_dice_that_must_fall_as_they_did_are_cast_in_one_go(scripted, options, is_stepped):
    api = scripted(OLLAMA_CONTEXT_LENGTH="1024", A3S_POWER_KV_POOL="1024")
    body = {"model": "m", "prompt": "chunks:900", "raw": True, "stream": False, "options": options}
    assert api.post("/api/generate", body).json()["eval_count"] == 900
    assert (told_by_engine(api)["streams"] > 1) == is_stepped


@pytest.mark.parametrize("options", [{}, {"stop": ["😀@@"]}])
def test_it_has_no_more_tokens_for_characters_of_several(pooled, options):
    reply = generate(pooled, SMILES, num_predict=400, **options)
    assert "😀" in reply.response
    assert (reply.eval_count, reply.done_reason) == (400, "length")


def test_a_reply_of_tokens_without_text_ends_at_its_limit(pooled):
    reply = pooled.post("/v1/completions", {
        "model": "smollm2", "prompt": COUNTING, "max_tokens": 450, "logit_bias": {str(BEGINS_MESSAGE): 100},
    }).json()  # fmt: skip
    assert (reply["choices"][0]["text"], reply["choices"][0]["finish_reason"]) == ("", "length")
    assert reply["usage"]["completion_tokens"] == 450


def test_thoughts_that_have_had_their_budget_make_room_for_the_answer(pooled, smollm2_gguf, tmp_path):
    """The prompt goes out again behind them, and both together would not fit."""
    pooled.create("thinks", with_chat_template(smollm2_gguf, tmp_path / "thinks.gguf", FORCED_THINKING))
    reply = pooled.post("/v1/messages", {
        "model": "thinks",
        "messages": [{"role": "user", "content": " ".join(str(n) for n in range(60, 158))}],
        "tools": [{"name": "tell", "input_schema": {"type": "object", "properties": {"story": {"type": "string"}}}}],
        "tool_choice": {"type": "any"}, "thinking": {"type": "enabled", "budget_tokens": 20}, "max_tokens": 60,
    })  # fmt: skip
    pooled.sdk.delete("thinks")
    assert reply.status_code == 200, reply.text
    usage = reply.json()["usage"]
    assert usage["output_tokens"] > 20
    assert 2 * usage["input_tokens"] + usage["output_tokens"] > POOL


def test_pictures_take_what_they_take(pooled, smollm2_gguf):
    """Nobody knows it before the engine does, so such a request reserves its whole context."""
    pictures = [base64_of(Drawing(color).png) for color in COLORS[:3]]
    question = [{"role": "user", "content": "Look", "images": pictures}]
    with seeing_model(pooled, "see", smollm2_gguf):
        reply = pooled.post(
            "/api/chat", {"model": "see", "stream": False, "messages": question, "options": {"num_predict": 4}}
        )
    assert reply.status_code == 200, reply.text
    assert reply.json()["eval_count"] <= 4


def test_what_is_too_long_alone_is_refused_and_nobody_waits_for_it(pooled):
    reply = pooled.post("/api/generate", {"model": "smollm2", "prompt": "word " * 600, **PLAIN})
    assert reply.status_code == 400
    assert "longer than the context length" in reply.json()["error"]


@pytest.mark.parametrize("path, body", [
    ("/api/generate", {"prompt": COUNTING, **PLAIN}),
    ("/api/chat", {"messages": [{"role": "user", "content": COUNTING}]}),
])  # fmt: skip
def test_a_client_that_leaves_gives_its_cells_back(pooled, path, body):
    for _ in range(4):  # each of them could fill two thirds of the pool
        stream = pooled.stream(
            path, {"model": "smollm2", **body, "options": {"num_predict": 450, "num_ctx": NUM_CTX}}
        )
        next(stream)
        stream.close()
    assert generate(pooled, COUNTING, num_predict=400).eval_count > 0


def test_a_client_that_leaves_while_it_waits_for_cells_leaves_nothing_behind(pooled):
    holder = pooled.stream("/api/chat", {
        "model": "smollm2", "messages": [{"role": "user", "content": COUNTING}],
        "options": {"num_predict": 400, "num_ctx": NUM_CTX},
    })  # fmt: skip
    next(holder)
    waiting = send_request(pooled, "/api/generate", {"model": "smollm2", "prompt": COUNTING, **PLAIN})
    assert pooled.http.get("/health").status_code == 200  # it has been read by now: the loop is one
    waiting.close()
    holder.close()
    assert generate(pooled, COUNTING, num_predict=400).eval_count > 0
