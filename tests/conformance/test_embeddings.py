"""8.5 POST /api/embed and its elder, POST /api/embeddings."""

import math

import pytest

from tests.conformance.cases import EMBED, EMBEDDINGS, GENERATE, Case, ask, cases, g

SIZE = 384
TOO_LONG = "the input length exceeds the context length"
LONG = "word " * 40
NOTHING = {"model": "e", "embeddings": []}
SHORT_CTX = {"num_ctx": 10}


def em(text, **fields) -> dict:
    return {"model": "e", "input": text, **fields}


def norm(vector) -> float:
    return math.hypot(*vector)


def cosine(a, b) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / norm(a) / norm(b)


def vectors(api, text, **fields) -> list[list[float]]:
    return ask(api, EMBED, em(text, **fields))["embeddings"]


def near(vector):
    return pytest.approx(vector, abs=1e-4)


@cases(
    Case("E3", EMBED, em(""), reply=NOTHING),
    Case("E3 list", EMBED, em([]), reply=NOTHING),
    Case("E3 absent", EMBED, {"model": "e"}, reply=NOTHING),
    Case("E4", EMBED, em([""]), check=lambda reply: [len(vector) for vector in reply["embeddings"]] == [SIZE]),
    Case("E8", EMBED, em(LONG, truncate=False, options=SHORT_CTX), status=400, error=TOO_LONG),
    Case("E10", EMBED, em("Hi", options={"num_ctx": 1}), status=400, error="input after truncation exceeds maximum context length"),
    Case("E11", EMBED, em(["Hi", LONG, "Ho"], truncate=False, options=SHORT_CTX), status=400, error=TOO_LONG),
    # What the client did wrong is no 5xx with us; Ollama answers 500.
    Case("E14", EMBEDDINGS, {"model": "e", "prompt": "word " * 600}, status=400, error=TOO_LONG),
)  # fmt: skip
def test_embeddings(with_e, case):
    case.run(with_e)


def test_e2_a_vector_for_each_text_in_their_order(with_e):
    texts = ["One", "Two and a half", "Three"]
    reply = ask(with_e, EMBED, em(texts))
    alone = [ask(with_e, EMBED, em(text)) for text in texts]
    assert [*reply] == ["model", "embeddings", "total_duration", "load_duration", "prompt_eval_count"]
    assert reply["prompt_eval_count"] == sum(each["prompt_eval_count"] for each in alone)
    for vector, each in zip(reply["embeddings"], alone, strict=True):
        assert norm(vector) == pytest.approx(1, abs=1e-5)
        assert vector == near(each["embeddings"][0])


def test_e6_the_first_dimensions_are_scaled_anew(with_e):
    (whole,) = vectors(with_e, "Hi")
    (short,) = vectors(with_e, "Hi", dimensions=64)
    assert len(short) == 64
    assert norm(short) == pytest.approx(1, abs=1e-5)
    assert short == near([value / norm(whole[:64]) for value in whole[:64]])


@pytest.mark.parametrize("dimensions", [100_000, -5])
def test_e7_dimensions_that_the_model_has_not_are_ignored(with_e, dimensions):
    (vector,) = vectors(with_e, "Hi", dimensions=dimensions)
    assert len(vector) == SIZE


def test_e12_the_elder_has_one_vector_and_nothing_else(with_e):
    reply = ask(with_e, EMBEDDINGS, {"model": "e", "prompt": "Hi"})
    assert [*reply] == ["embedding"]
    (same,) = vectors(with_e, "Hi")
    assert cosine(reply["embedding"], same) == pytest.approx(1, abs=1e-4)


def test_e15_what_means_the_same_lies_close(with_e):
    a, paraphrase, unrelated = vectors(
        with_e, ["A cat sits on the mat.", "There is a cat on a rug.", "Shares fell sharply on Monday."]
    )
    assert cosine(a, paraphrase) > cosine(a, unrelated)


# Ollama answers that the model cannot; ours embeds with any model, and goes on writing with it.
def test_e22_a_model_that_only_writes_embeds_too(server):
    (vector,) = ask(server, EMBED, {"model": "m", "input": "Hi"})["embeddings"]
    assert len(vector) == 576
    assert ask(server, GENERATE, g())["response"]
