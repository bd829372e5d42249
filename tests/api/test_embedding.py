"""POST /api/embed and /api/embeddings, from outside: with real models, and with an engine that does as it is told."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import ollama
import pytest

from a3s_power.runner.link import LinkBroken
from tests.api.test_faults import open_streams, send_request
from tests.support.api import tiny_gguf, until

TOO_LONG = "the input length exceeds the context length"
NOTHING_LEFT = "input after truncation exceeds maximum context length"
SIZE = 384
NEARLY = 1e-3
"""What one text's numbers differ by when the engine computes it together with others: it rounds to float16."""
TEXTS = ["The cat sat on the mat.", "Stock markets fell sharply today.", "Ein Satz auf Deutsch."]
ODD_TEXTS = {
    "accents": "héllo wörld",
    "japanese": "日本語のテキスト",
    "emoji": "🙂🙃👩‍👩‍👧",
    "combining": "\u0344" * 50,
    "ligatures": "\ufdfa" * 50,
    "nul": "a\u0000b",
    "blank": "\n\t ",
    "special tokens": "[CLS][SEP]<|im_end|>",
    "hangul": "가각힣" * 20,
}


@pytest.fixture(scope="module")
def embedder(real, minilm_gguf):
    """A server with the models `minilm` and `smollm2`."""
    real.create("minilm", minilm_gguf)
    yield real
    real.sdk.embed("minilm", "", keep_alive=0)
    until(lambda: "minilm:latest" not in real.loaded())
    real.sdk.delete("minilm")


@pytest.fixture
def scripted_embedder(scripted, tmp_path):
    """Makes servers whose engine does as the texts say that the model `words` is to embed."""

    def make(**settings):
        api = scripted(**settings)
        # of a tokenizer that need not be asked: the engine gets short texts as they are
        api.create("words", tiny_gguf(tmp_path / "words.gguf", **{"tokenizer.ggml.model": "gpt2"}))
        return api

    return make


def embed(api, given, **fields):
    response = api.post("/api/embed", {"model": "minilm", "input": given, **fields})
    assert response.status_code == 200, response.text
    return response.json()


def vectors(api, given, **fields):
    return np.array(embed(api, given, **fields)["embeddings"])


def old(api, prompt, **fields):
    return api.post("/api/embeddings", {"model": "minilm", "prompt": prompt, **fields})


def is_embedding(api) -> bool:
    """Whether the scripted engine is up, and busy with a text."""
    try:
        return open_streams(api) == 1
    except LinkBroken:
        return False


def lengths(rows):
    return np.linalg.norm(rows, axis=1)


# ---- vectors ----


def test_every_text_gets_its_vector_in_order(embedder):
    reply = embed(embedder, TEXTS)
    assert list(reply) == ["model", "embeddings", "total_duration", "load_duration", "prompt_eval_count"]
    alone = [embed(embedder, text) for text in TEXTS]
    assert reply["prompt_eval_count"] == sum(one["prompt_eval_count"] for one in alone)
    rows = np.array(reply["embeddings"])
    assert rows.shape == (3, SIZE)
    np.testing.assert_allclose(lengths(rows), 1, atol=1e-6)
    np.testing.assert_allclose(rows, [one["embeddings"][0] for one in alone], atol=NEARLY)
    assert reply["total_duration"] >= reply["load_duration"] > 0


def test_a_paraphrase_is_nearer_than_something_else(embedder):
    dog, puppy, taxes = vectors(
        embedder, ["A dog runs through the park.", "A puppy is running in the park.", "How do I file my taxes?"]
    )
    assert dog @ puppy > 0.7 > 0.3 > dog @ taxes


def test_a_batch_of_many_keeps_its_order(embedder):
    texts = [f"{number} is a number" for number in range(100)]
    rows = vectors(embedder, texts)
    for number in (0, 15, 16, 17, 99):  # on both sides of where groups meet
        assert np.argmax(rows @ vectors(embedder, texts[number])[0]) == number


@pytest.mark.parametrize(
    ("dimensions", "expected"),
    [(64, 64), (1, 1), (SIZE, SIZE), (0, SIZE), (100000, SIZE), (-5, SIZE), (None, SIZE)],
)
def test_dimensions_cut_a_vector_and_make_it_whole_again(embedder, dimensions, expected):
    rows = vectors(embedder, TEXTS, dimensions=dimensions)
    assert rows.shape == (3, expected)
    np.testing.assert_allclose(lengths(rows), 1, atol=1e-6)
    whole = vectors(embedder, TEXTS)[:, :expected]
    np.testing.assert_allclose(rows, whole / lengths(whole)[:, None], atol=NEARLY)


def test_numbers_are_written_as_short_as_a_float32_can_be_told(embedder):
    text = embedder.post("/api/embed", {"model": "minilm", "input": "Hi"}).text
    numbers = text.partition("[[")[2].partition("]]")[0].split(",")
    assert all(len(number.lstrip("-0.")) <= 9 for number in numbers if "e" not in number)


def test_the_older_endpoint_tells_what_the_model_made(embedder):
    reply = old(embedder, TEXTS[0])
    assert list(reply.json()) == ["embedding"]
    raw = np.array(reply.json()["embedding"])
    assert raw.shape == (SIZE,)
    assert np.linalg.norm(raw) > 2  # as it left the pooling
    np.testing.assert_allclose(raw / np.linalg.norm(raw), vectors(embedder, TEXTS[0])[0], atol=NEARLY)
    np.testing.assert_array_equal(raw, raw.astype(np.float32))


@pytest.mark.parametrize("text", ODD_TEXTS.values(), ids=ODD_TEXTS)
@pytest.mark.parametrize("model", ["minilm", "smollm2"])
def test_any_text_can_be_embedded_and_has_no_more_tokens_than_bytes(embedder, model, text):
    reply = embedder.post("/api/embed", {"model": model, "input": text}).json()
    assert lengths(np.array(reply["embeddings"])) == pytest.approx(1, abs=1e-5)
    assert reply["prompt_eval_count"] <= len(text.encode()) + 3


# ---- no text ----


@pytest.mark.parametrize("body", [{}, {"input": None}, {"input": ""}, {"input": []}])
def test_without_a_text_the_model_is_loaded(embedder, body):
    response = embedder.post("/api/embed", {"model": "minilm", **body})
    assert response.text == '{"model":"minilm","embeddings":[]}'
    assert "minilm:latest" in embedder.loaded()


def test_the_older_endpoint_loads_a_model_too_and_lets_it_go(embedder):
    assert old(embedder, "").text == '{"embedding":[]}'
    assert "minilm:latest" in embedder.loaded()
    assert embedder.post("/api/embeddings", {"model": "minilm", "keep_alive": 0}).text == '{"embedding":[]}'
    until(lambda: "minilm:latest" not in embedder.loaded())


def test_keep_alive_zero_unloads_after_the_vectors(embedder):
    assert len(embed(embedder, TEXTS, keep_alive=0)["embeddings"]) == 3
    until(lambda: "minilm:latest" not in embedder.loaded())


def test_an_empty_text_in_a_list_is_a_text(embedder):
    assert vectors(embedder, [""]).shape == (1, SIZE)
    assert vectors(embedder, ["", "a", ""]).shape == (3, SIZE)


# ---- length ----


def test_a_long_text_loses_its_end(embedder):
    start = "The cat sat on the mat. " * 200
    reply = embed(embedder, [start + "One end.", start + "Quite another end of it."])
    assert reply["prompt_eval_count"] == 2 * 512
    one, other = np.array(reply["embeddings"])
    np.testing.assert_allclose(one, other, atol=NEARLY)


def test_a_request_has_the_context_it_asked_for(embedder):
    words = "one two three four five six seven eight nine ten eleven twelve"
    reply = embed(embedder, ["one two", words], options={"num_ctx": 10})
    assert reply["prompt_eval_count"] == 4 + 10
    as_cut = vectors(embedder, "one two three four five six seven eight")
    np.testing.assert_allclose(reply["embeddings"][1], as_cut[0], atol=NEARLY)


def test_texts_of_all_lengths_go_together(embedder):
    texts = ["word " * count for count in (1, 400, 0, 900, 3, 5000, 510, 511, 1)]
    reply = embed(embedder, texts)
    assert reply["prompt_eval_count"] == 3 + 402 + 2 + 512 + 5 + 512 + 512 + 512 + 3
    rows = np.array(reply["embeddings"])
    np.testing.assert_allclose(rows[0], rows[8], atol=NEARLY)
    np.testing.assert_allclose(rows[3], rows[5], atol=NEARLY)


@pytest.mark.parametrize("text", ["word " * 10**6, " " * 10**6 + "word", "x" * 10**6])
def test_a_huge_text_is_no_trouble(embedder, text):
    assert 3 <= embed(embedder, text)["prompt_eval_count"] <= 512


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("embed", {"input": "word " * 20, "truncate": False, "options": {"num_ctx": 10}}, 400, TOO_LONG),
        ("embed", {"input": "word " * 600, "truncate": False}, 400, TOO_LONG),
        ("embed", {"input": ["a", "word " * 600, "b"], "truncate": False}, 400, TOO_LONG),  # all or nothing
        ("embed", {"input": "a", "options": {"num_ctx": 1}}, 400, NOTHING_LEFT),
        ("embed", {"input": "", "truncate": False, "options": {"num_ctx": 1}}, 200, None),
        ("embed", {"input": [""], "options": {"num_ctx": -3}}, 400, NOTHING_LEFT),
        ("embed", {"input": ["a", "b"], "options": {"num_ctx": 2}}, 400, NOTHING_LEFT),
        ("embed", {"input": "a", "truncate": False, "options": {"num_ctx": 3}}, 200, None),
        ("embeddings", {"prompt": "word " * 600}, 400, TOO_LONG),
        ("embeddings", {"prompt": "a", "options": {"num_ctx": 1}}, 400, TOO_LONG),
    ],
)  # fmt: skip
def test_a_limit_on_length_is_kept(embedder, path, body, status, message):
    response = embedder.post(f"/api/{path}", {"model": "minilm", **body})
    assert response.status_code == status
    assert message is None or response.json() == {"error": message}


# ---- mistakes ----


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("embed", "", 400, "missing request body"),
        ("embeddings", "", 400, "missing request body"),
        ("embed", '{"model":', 400, "unexpected EOF"),
        ("embed", {}, 404, "model '' not found"),
        ("embeddings", {}, 400, "model is required"),
        ("embed", {"model": "nope", "input": "x"}, 404, 'model "nope" not found, try pulling it first'),
        ("embed", {"model": "nope"}, 404, 'model "nope" not found, try pulling it first'),
        ("embeddings", {"model": "nope"}, 404, 'model "nope" not found, try pulling it first'),
        ("embed", {"model": "bad name!", "input": "x"}, 400, "invalid model name"),
        ("embeddings", {"model": "bad name!"}, 400, "invalid model name"),
        ("embed", {"model": "nope", "input": 5}, 400, "invalid input type"),
        ("embed", {"model": "nope", "input": ["a", 5]}, 400, "invalid input type"),
        ("embed", {"model": "nope", "input": ["a", None]}, 400, "invalid input type"),
        ("embed", {"model": "nope", "input": {"text": "a"}}, 400, "invalid input type"),
        ("embed", {"model": "nope", "input": True}, 400, "invalid input type"),
        ("embed", {"model": "minilm", "input": "x", "dimensions": "many"}, 400,
         "json: cannot unmarshal string into Go struct field EmbedRequest.dimensions of type int"),
        ("embeddings", {"model": "minilm", "prompt": ["x"]}, 400,
         "json: cannot unmarshal array into Go struct field EmbeddingRequest.prompt of type string"),
        ("embed", {"model": "minilm", "input": "x", "options": {"num_ctx": "x"}}, 400,
         'option "num_ctx" must be of type integer'),
        ("embeddings", {"model": "minilm", "prompt": "x", "options": {"use_mmap": 1}}, 400,
         'option "use_mmap" must be of type boolean'),
        ("embed", {"model": "minilm", "input": "x", "keep_alive": "5"}, 400, 'time: missing unit in duration "5"'),
    ],
)  # fmt: skip
def test_mistakes_have_an_answer(embedder, path, body, status, message):
    response = embedder.post(f"/api/{path}", body)
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    assert (response.status_code, response.json()) == (status, {"error": message})


def test_the_reply_names_the_model_as_the_client_did(embedder):
    response = embedder.post("/api/embed", '{"Model":"MiniLM","INPUT":"x","unknown":1}')
    assert response.json()["model"] == "MiniLM"


# ---- clients ----


def test_the_official_client_embeds(embedder):
    reply = embedder.sdk.embed("minilm", TEXTS, dimensions=8, truncate=True, keep_alive="1m")
    assert [len(row) for row in reply.embeddings] == [8, 8, 8]
    assert reply.prompt_eval_count == embed(embedder, TEXTS)["prompt_eval_count"]
    assert len(embedder.sdk.embeddings("minilm", TEXTS[0]).embedding) == SIZE
    with pytest.raises(ollama.ResponseError, match="try pulling it first") as failed:
        embedder.sdk.embed("nope", "x")
    assert failed.value.status_code == 404


def test_several_clients_at_once_get_their_own_vectors(embedder):
    def ask(client):
        return vectors(embedder, [f"client {client} wrote text {number}" for number in range(20)])

    alone = [ask(client) for client in range(8)]
    with ThreadPoolExecutor(8) as clients:
        together = list(clients.map(ask, range(8)))
    np.testing.assert_allclose(together, alone, atol=NEARLY)


# ---- models that are for chat ----


def test_a_chat_model_embeds_and_then_chats_on_the_same_runner(embedder):
    embedder.sdk.generate("smollm2", keep_alive=0)
    until(lambda: "smollm2:latest" not in embedder.loaded())
    before = embedder.server.log.read_text().count("msg=loaded model=smollm2")
    asked = {"model": "smollm2", "input": ["Hello there", "Hello here", "Taxes"]}
    rows = np.array(embedder.post("/api/embed", asked).json()["embeddings"])
    np.testing.assert_allclose(lengths(rows), 1, atol=1e-6)
    options = {"temperature": 0, "num_predict": 4}
    chatted = embedder.sdk.chat("smollm2", [{"role": "user", "content": "Hi"}], options=options)
    assert chatted.message.content
    assert chatted.eval_count == 4
    assert embedder.post("/api/embed", asked).status_code == 200
    assert embedder.server.log.read_text().count("msg=loaded model=smollm2") == before + 1


def test_who_wants_a_larger_context_and_who_wants_vectors_do_not_load_in_turns(embedder):
    embedder.sdk.generate("smollm2", keep_alive=0)
    until(lambda: "smollm2:latest" not in embedder.loaded())
    before = embedder.server.log.read_text().count("msg=loaded model=smollm2")
    for _ in range(3):
        options = {"num_ctx": 1024, "num_predict": 1}
        embedder.sdk.chat("smollm2", [{"role": "user", "content": "Hi"}], options=options)
        assert embedder.post("/api/embed", {"model": "smollm2", "input": "Hi"}).status_code == 200
    assert embedder.server.log.read_text().count("msg=loaded model=smollm2") == before + 2
    embedder.sdk.generate("smollm2", keep_alive=0)
    until(lambda: "smollm2:latest" not in embedder.loaded())


@pytest.mark.parametrize("options, tokens", [({}, 511), ({"num_ctx": 64}, 64)])
def test_a_long_text_loses_its_end_in_a_chat_model_too(embedder, options, tokens):
    embedder.post("/api/embed", {"model": "smollm2"})
    reply = embedder.post("/api/embed", {"model": "smollm2", "input": " a" * 600, "options": options})
    assert reply.json()["prompt_eval_count"] == tokens


def test_an_empty_text_is_one_in_a_chat_model_too(embedder):
    reply = embedder.post("/api/embed", {"model": "smollm2", "input": ["", "a"]}).json()
    assert [len(row) for row in reply["embeddings"]] == [576, 576]


def test_a_model_for_embedding_does_not_chat(embedder):
    response = embedder.post("/api/chat", {"model": "minilm", "messages": [{"role": "user", "content": "Hi"}]})
    assert response.status_code == 400
    assert response.json() == {"error": '"minilm" does not support chat'}


# ---- faults ----


@pytest.mark.parametrize(
    ("path", "text", "status", "message"),
    [
        ("embed", "refuse:501", 501, "refused as told"),
        ("embed", "refuse:418", 418, "refused as told"),
        ("embeddings", "refuse:418", 418, "refused as told"),
        ("embed", "nan", 400, "embedding contains NaN or Inf values"),
        ("embeddings", "nan", 500, "embedding contains NaN or Inf values"),
        ("embed", "die", 400, "model runner has unexpectedly stopped"),
        ("embeddings", "die", 500, "model runner has unexpectedly stopped"),
    ],
)  # fmt: skip
def test_what_the_engine_has_against_one_text_fails_the_request_and_no_other(
    scripted_embedder, path, text, status, message
):
    api = scripted_embedder()
    given = {"prompt": text} if path == "embeddings" else {"input": ["fine", text, "fine"]}
    response = api.post(f"/api/{path}", {"model": "words", **given})
    assert response.status_code == status
    assert response.json()["error"].startswith(message)
    assert api.post("/api/embed", {"model": "words", "input": "fine"}).json()["embeddings"]


def test_numbers_are_told_to_the_last_digit(scripted_embedder):
    api = scripted_embedder()
    reply = api.post("/api/embed", {"model": "words", "input": ["", "abcd"]}).json()
    assert (reply["embeddings"][0], reply["prompt_eval_count"]) == ([0.0, 0.6, 0.8], 10)
    assert api.post("/api/embeddings", {"model": "words", "prompt": "abcd"}).text == '{"embedding":[4,3,4]}'


def test_a_reply_of_many_vectors_arrives_whole(scripted_embedder):
    """In several pieces: 30000 vectors of three numbers, in the order of their texts."""
    texts = ["x" * (number % 7) for number in range(30000)]
    rows = np.array(
        scripted_embedder().post("/api/embed", {"model": "words", "input": texts}).json()["embeddings"]
    )
    firsts = np.array([len(text) for text in texts])
    np.testing.assert_allclose(rows[:, 0], firsts / np.sqrt(firsts**2 + 25), atol=1e-6)


@pytest.mark.parametrize(
    ("path", "given"),
    [("embed", {"input": [*["short"] * 1000, "forever"]}), ("embeddings", {"prompt": "forever"})],
    ids=["embed", "embeddings"],
)
def test_a_client_that_leaves_stops_the_work_and_gives_the_runner_back(scripted_embedder, path, given):
    api = scripted_embedder(OLLAMA_NUM_PARALLEL="1")
    with send_request(api, f"/api/{path}", {"model": "words", **given}):
        until(lambda: is_embedding(api))
    until(lambda: open_streams(api) == 0)
    assert len(api.post("/api/embed", {"model": "words", "input": "next"}).json()["embeddings"]) == 1


def test_a_server_that_ends_tells_who_waits_for_vectors(scripted_embedder):
    api = scripted_embedder(A3S_POWER_DRAIN_TIMEOUT="0")
    with send_request(api, "/api/embed", {"model": "words", "input": "forever"}) as waiting:
        until(lambda: is_embedding(api))
        api.server.process.terminate()
        answer = b"".join(iter(lambda: waiting.recv(1 << 16), b"")).decode()
    assert answer.startswith("HTTP/1.1 503 ")
    assert json.loads(answer.partition("\r\n\r\n")[2]) == {"error": "the server is shutting down"}
    assert api.server.process.wait() == 0
