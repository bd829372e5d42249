"""Texts become groups and vectors; one that is too long loses its end; who embeds needs which runner."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from a3s_power.errors import ContextExceeded, InvalidRequest, RunnerFailed
from a3s_power.names import ModelName
from a3s_power.runner import llamajson
from a3s_power.runner.base import Embeddings, LoadSpec, Pooling
from a3s_power.scheduler.measured import Measurements
from a3s_power.scheduler.plans import Sizing
from a3s_power.service.embed import (
    CHARS_PER_TOKEN,
    GROUP_CHARS,
    GROUP_TEXTS,
    EmbeddingFailed,
    EmbeddingRequest,
    Window,
    cut,
    groups,
    normalized,
    shaped,
)
from a3s_power.service.loading import LoadDefaults, Loader

CLS, SEP = 101, 102


def array(*rows):
    return np.array(rows, dtype=np.float32)


def wish(**fields):
    return EmbeddingRequest(ModelName.parse("m"), "m", ("a",), **fields)


# ---- groups ----


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([], []),
        ([1], [1]),
        ([1] * (GROUP_TEXTS + 1), [GROUP_TEXTS, 1]),
        ([GROUP_CHARS, 1], [1, 1]),
        ([GROUP_CHARS * 9, GROUP_CHARS * 9], [1, 1]),      # larger than a group: each alone
        ([1, GROUP_CHARS, 1], [1, 1, 1]),
        ([GROUP_CHARS // 2] * 3, [2, 1]),
        ([0] * GROUP_TEXTS, [GROUP_TEXTS]),
    ],
)  # fmt: skip
def test_texts_are_grouped_by_number_and_length(lengths, expected):
    texts = ["x" * length for length in lengths]
    assert [len(group) for group in groups(texts)] == expected


@given(st.lists(st.integers(0, 2 * GROUP_CHARS), max_size=60))
def test_groups_hold_every_text_in_its_order_and_no_more_than_allowed(lengths):
    texts = [chr(32 + i) * length for i, length in enumerate(lengths)]
    made = list(groups(texts))
    assert [text for group in made for text in group] == texts
    assert all(len(group) == 1 or sum(map(len, group)) <= GROUP_CHARS for group in made)
    assert all(0 < len(group) <= GROUP_TEXTS for group in made)


# ---- vectors ----


@pytest.mark.parametrize(
    ("raw", "fields", "expected"),
    [
        ([3, 4, 0], {}, [0.6, 0.8, 0]),
        ([3, 4, 12], {"dimensions": 2}, [0.6, 0.8]),        # cut, then normalised
        ([3, 4], {"dimensions": 2}, [0.6, 0.8]),
        ([3, 4], {"dimensions": 100000}, [0.6, 0.8]),
        ([3, 4], {"dimensions": -5}, [0.6, 0.8]),
        ([3, 4], {"normalize": False}, [3, 4]),
        ([0, 0], {}, [0, 0]),
        ([0, 5], {"dimensions": 1}, [0]),
        ([1e-20, 0], {}, [1e-8, 0]),                        # shorter than the least norm: not blown up
        ([3e38, 3e38], {}, [0.5**0.5, 0.5**0.5]),           # whose squares a float32 cannot hold
    ],
)  # fmt: skip
def test_a_vector_gets_the_shape_that_was_wanted(raw, fields, expected):
    made = shaped(array(raw), wish(**fields))
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, array(expected), rtol=1e-6)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused_wherever_it_stands(wrong):
    with pytest.raises(EmbeddingFailed, match=r"^embedding contains NaN or Inf values$"):
        shaped(array([1, 2], [1, wrong]), wish(dimensions=1))


@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=9))
def test_a_normalized_vector_has_length_one_or_none(values):
    length = float(np.linalg.norm(normalized(array(values))[0]))
    assert length == pytest.approx(1, abs=1e-5) or max(map(abs, values)) <= 1e-11


# ---- length ----


@pytest.mark.parametrize(
    ("tokens", "plain", "limit", "expected"),
    [
        ([CLS, 7, 8, 9, SEP], [7, 8, 9], 4, [CLS, 7, 8, SEP]),
        ([CLS, 7, 8, 9, SEP], [7, 8, 9], 3, [CLS, 7, SEP]),
        ([7, 8, 9], [7, 8, 9], 1, [7]),
        ([1, 7, 8], [7, 8], 2, [1, 7]),                      # only in front
        ([7, 8, 2], [7, 8], 2, [7, 2]),                      # only behind
        ([CLS, CLS, 7, SEP, SEP], [CLS, 7, SEP], 4, [CLS, CLS, 7, SEP]),  # a text that spells them itself
        ([CLS, 7, 8, SEP], [8, 7], 3, [CLS, 7, 8]),          # in the middle of nothing: what is in front stays
    ],
)  # fmt: skip
def test_the_end_of_a_text_is_cut_and_the_special_tokens_stay(tokens, plain, limit, expected):
    made = cut(tokens, plain, limit)
    assert len(made) <= limit
    assert made == expected


@pytest.mark.parametrize("limit", [2, 1, 0, -7])
def test_a_limit_that_leaves_nothing_is_an_error(limit):
    with pytest.raises(InvalidRequest, match=r"^input after truncation exceeds maximum context length$"):
        cut([CLS, 7, SEP], [7], limit)


class Words:
    """A runner whose tokens are words, between two special ones; it counts what it is asked."""

    def __init__(self):
        self.asked = []

    async def tokenize(self, text, *, special=False):
        self.asked.append(len(text))
        tokens = [len(word) for word in text.split()]
        return [CLS, *tokens, SEP] if special else tokens


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("text", "limit", "is_bytewise", "expected", "questions"),
    [
        ("abc", 6, True, "abc", 0),                          # three bytes and three more fit: nobody is asked
        ("abc", 5, True, [CLS, 3, SEP], 1),
        ("äh", 5, True, [CLS, 2, SEP], 1),                   # bytes count, not letters
        ("abc", 99, False, [CLS, 3, SEP], 1),                # a tokenizer that may make more of it
        ("", 3, True, "", 0),
        ("a bb ccc", 4, True, [CLS, 1, 2, SEP], 2),
        ("a bb ccc", 5, True, [CLS, 1, 2, 3, SEP], 1),
    ],
)  # fmt: skip
async def test_the_engine_is_asked_only_about_texts_that_may_be_too_long(
    text, limit, is_bytewise, expected, questions
):
    runner = Words()
    assert await Window(limit, is_bytewise, truncate=True).fit(text, runner) == expected
    assert len(runner.asked) == questions


@pytest.mark.anyio
@pytest.mark.parametrize("text", ["a b c", "a " * 10**6])
async def test_a_text_that_must_not_be_cut_is_refused(text):
    with pytest.raises(ContextExceeded):
        await Window(4, is_bytewise=True, truncate=False).fit(text, Words())


@pytest.mark.anyio
async def test_of_a_huge_text_only_a_beginning_is_looked_at():
    runner = Words()
    assert await Window(10, is_bytewise=True, truncate=True).fit("word " * 10**6, runner) == [CLS, *[4] * 8, SEP]
    assert runner.asked == [10 * CHARS_PER_TOKEN] * 2


@pytest.mark.anyio
async def test_a_beginning_of_few_tokens_is_not_the_whole_story():
    runner = Words()
    assert await Window(4, is_bytewise=True, truncate=True).fit(" " * 10**5 + "a b", runner) == [CLS, 1, 1, SEP]
    assert runner.asked[-1] == 10**5 + 3
    assert len(runner.asked) < 10


# ---- runners ----


@pytest.mark.parametrize(
    ("loaded", "wanted", "expected"),
    [
        (None, None, True),
        (Pooling.LAST, None, True),     # chat minds no runner that embeds
        (Pooling.FILE, None, True),
        (None, Pooling.LAST, False),
        (Pooling.LAST, Pooling.LAST, True),
        (Pooling.FILE, Pooling.LAST, False),
    ],
)  # fmt: skip
def test_who_wants_no_embedding_is_served_by_a_runner_that_embeds(loaded, wanted, expected):
    assert LoadSpec("/m", pooling=loaded).serves(LoadSpec("/m", pooling=wanted)) is expected


def card(trained_ctx=512):
    """As much of one as a plan needs."""
    model = SimpleNamespace(model_path="/m", projector_paths=(), adapter_paths=(), parameters={})
    footprint = SimpleNamespace(trained_ctx=trained_ctx, kv_elements=1, weights=1, vocabulary=1, width=1)
    return SimpleNamespace(model=model, capabilities=("embedding",), footprint=footprint, draft=None)


@pytest.mark.parametrize(
    ("trained_ctx", "options", "pooling", "expected"),
    [
        (512, {}, Pooling.FILE, 512),
        (8192, {}, Pooling.FILE, 2048),
        (None, {}, Pooling.FILE, 2048),
        (8192, {"num_ctx": 100}, Pooling.FILE, 2048),        # or a shorter text would need another runner
        (8192, {"num_batch": 4096}, Pooling.FILE, 4096),
        (8192, {"num_batch": 64}, Pooling.FILE, 2048),
        (8192, {}, Pooling.LAST, 512),
        (8192, {"num_batch": 64}, None, 64),
    ],
)  # fmt: skip
def test_an_embedding_model_gets_a_text_in_one_batch(trained_ctx, options, pooling, expected):
    plan, _ = Loader(None, LoadDefaults(), Sizing(Measurements(None, ""))).plan(
        card(trained_ctx), options, pooling
    )
    assert (plan.spec.num_batch, plan.spec.pooling) == (expected, pooling)


# ---- the engine's answers ----


def test_vectors_are_told_apart_by_their_index():
    body = b'{"data":[{"index":1,"embedding":"Yg=="},{"index":0,"embedding":"YQ=="}],"usage":{"prompt_tokens":7}}'
    assert llamajson.embeddings(body, 2) == Embeddings((b"a", b"b"), 7)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"data":[{"index":0,"embedding":[0.5]},{"index":1,"embedding":[1]}],"usage":{"prompt_tokens":7}}',
        b'{"data":[{"index":0,"embedding":"YQ=="}],"usage":{"prompt_tokens":7}}',
        b'{"data":[{"index":0,"embedding":"YQ=="},{"index":0,"embedding":"YQ=="}],"usage":{"prompt_tokens":7}}',
        b'{"data":[{"index":0,"embedding":"YQ=="},{"index":1,"embedding":"YWE="}],"usage":{"prompt_tokens":7}}',
        b'{"data":[{"index":0,"embedding":"YQ=="},{"index":1,"embedding":"YQ=="}]}',
    ],
)
def test_an_answer_that_is_not_one_vector_for_each_input_is_the_engine_s_failure(body):
    with pytest.raises(RunnerFailed, match="make no sense"):
        llamajson.embeddings(body, 2)
