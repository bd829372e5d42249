"""How much memory a model is estimated to take, and how large a context is chosen for it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a3s_power.gguf import read_gguf
from a3s_power.runner.base import LoadSpec
from a3s_power.scheduler.memory import (
    COMFORTABLE_CTX,
    DEFAULT_MAX_CTX,
    FALLBACK_CTX,
    MIN_CTX,
    Footprint,
    comfortable,
    estimate,
    largest,
)
from a3s_power.units import MIB
from tests.support.gguf_files import Q8_0, TensorSpec, write_gguf

GIB = 1024 * MIB
SPEC = LoadSpec("m", num_ctx=4096, slots=1, num_batch=512, kv_cache_type="f16")
LLAMA = {  # 2 layers, 4 heads of 16, all of them with keys and values
    "general.architecture": "llama",
    "llama.context_length": 32768,
    "llama.embedding_length": 64,
    "llama.feed_forward_length": 256,
    "llama.block_count": 2,
    "llama.attention.head_count": 4,
    "tokenizer.ggml.tokens": ["a", "b", "c"],
}
WEIGHTS = {"token_embd.weight": TensorSpec((64, 3)), "output.weight": TensorSpec((64, 32), Q8_0)}
WEIGHTS_BYTES = 64 * 3 * 4 + 64 * 32 // 32 * 34


@pytest.fixture(scope="session")
def footprint(tmp_path_factory):
    """Of a header with these keys over LLAMA's; None takes a key away."""

    def _footprint(**changes):
        metadata = LLAMA | {f"llama.{key.replace('__', '.')}": value for key, value in changes.items()}
        metadata = {key: value for key, value in metadata.items() if value is not None}
        path = write_gguf(tmp_path_factory.mktemp("gguf") / "m.gguf", metadata, WEIGHTS)
        return Footprint.of(read_gguf(path))

    return _footprint


@pytest.fixture(scope="session")
def llama(footprint):
    return footprint()


def estimated(model, **changes):
    return estimate(model, replace(SPEC, **changes))


@pytest.mark.parametrize(
    ("changes", "elements"),
    [  # keys and values that one token leaves
        ({}, 2 * 4 * (16 + 16)),
        ({"block_count": 5}, 5 * 4 * (16 + 16)),
        ({"attention__head_count_kv": 1}, 2 * 1 * (16 + 16)),                       # grouped queries
        ({"attention__head_count_kv": [4, 1]}, (4 + 1) * (16 + 16)),                # a count for each layer
        ({"attention__head_count_kv": [0, 2]}, 2 * (16 + 16)),                      # a layer that keeps nothing
        ({"attention__key_length": 32}, 2 * 4 * (32 + 16)),
        ({"attention__key_length": 32, "attention__value_length": 8}, 2 * 4 * (32 + 8)),
        ({"attention__key_length": 32, "attention__value_length": 8, "embedding_length": 640}, 2 * 4 * (32 + 8)),
        ({"attention__head_count_kv": [4, 1], "attention__key_length": 8}, (4 + 1) * (8 + 16)),
        ({"embedding_length": 128}, 2 * 4 * (32 + 32)),
        ({"attention__head_count": None}, 2 * 1 * (64 + 64)),
        ({"attention__head_count": 0}, 2 * 1 * (64 + 64)),                          # and no division by zero
        ({"attention__head_count_kv": "four"}, 2 * 4 * (16 + 16)),                  # nonsense is as good as absent
        ({"block_count": None}, 0),
        ({"block_count": "two", "embedding_length": 0.5}, 0),
    ],
)  # fmt: skip
def test_the_kv_cache_is_counted_by_heads_layers_and_lengths(footprint, changes, elements):
    assert footprint(**changes).kv_elements == elements


@pytest.mark.parametrize(
    ("kv_cache_type", "bits"),
    [("f32", 32), ("f16", 16), ("bf16", 16), ("q8_0", 8.5), ("q5_1", 6), ("q5_0", 5.5), ("q4_1", 5), ("q4_0", 4.5),
     ("iq4_nl", 4.5), ("who knows", 16)],
)  # fmt: skip
def test_a_quantised_cache_takes_less(llama, kv_cache_type, bits):
    one, two = (estimated(llama, num_ctx=num_ctx, kv_cache_type=kv_cache_type) for num_ctx in (1, 2))
    assert two - one == 2 * 4 * (16 + 16) * bits / 8


def test_the_estimate_is_the_sum_of_its_parts(llama):
    kv = 4096 * 3 * 2 * 2 * 4 * (16 + 16)
    compute = 4 * (3 + 2 * 512 * 256)  # logits of three tokens, activations of the widest layer
    assert estimated(llama, slots=3) == 64 * MIB + WEIGHTS_BYTES + kv + compute


def test_a_header_that_says_nothing_still_has_an_estimate(tmp_path):
    bare = read_gguf(write_gguf(tmp_path / "m.gguf", {}, {}))
    assert estimated(Footprint.of(bare)) == 64 * MIB


@given(st.integers(4, 10**6), st.integers(0, 10**6), st.integers(1, 64), st.sampled_from(["f16", "q8_0", "q4_0"]))
def test_more_context_more_slots_or_a_larger_batch_never_take_less(llama, num_ctx, more, slots, kv_cache_type):
    plain = estimated(llama, num_ctx=num_ctx, slots=slots, kv_cache_type=kv_cache_type)
    assert plain <= estimated(llama, num_ctx=num_ctx + more, slots=slots, kv_cache_type=kv_cache_type)
    assert plain <= estimated(llama, num_ctx=num_ctx, slots=slots + more, kv_cache_type=kv_cache_type)
    assert plain <= estimated(
        llama, num_ctx=num_ctx, slots=slots, kv_cache_type=kv_cache_type, num_batch=512 + more
    )
    assert plain <= estimated(llama, num_ctx=num_ctx, slots=slots, kv_cache_type="f32")


# ---- the default context ----


def chosen(model, free, slots=4):
    return largest(model, replace(SPEC, slots=slots), free).num_ctx


def needed(model, num_ctx, slots=4):
    return estimated(model, num_ctx=num_ctx, slots=slots)


@pytest.mark.parametrize(
    ("trained", "num_ctx", "at_ease"),
    [(512, 512, 512), (8192, 8192, 8192), (32768, 32768, COMFORTABLE_CTX), (131072, DEFAULT_MAX_CTX, COMFORTABLE_CTX),
     (None, FALLBACK_CTX, COMFORTABLE_CTX), (0, FALLBACK_CTX, COMFORTABLE_CTX), ("many", FALLBACK_CTX, COMFORTABLE_CTX)],
)  # fmt: skip
def test_with_memory_to_spare_the_context_is_the_models_own_up_to_a_limit(footprint, trained, num_ctx, at_ease):
    model = footprint(context_length=trained)
    assert chosen(model, 1000 * GIB) == num_ctx
    assert comfortable(model, SPEC).num_ctx == at_ease


@pytest.mark.parametrize("num_ctx", [32768, 16384, 8192, 4096, MIN_CTX])
def test_it_is_halved_until_it_fits(llama, num_ctx):
    assert chosen(llama, needed(llama, num_ctx)) == num_ctx
    assert chosen(llama, needed(llama, num_ctx) - 1) == max(MIN_CTX, num_ctx // 2)


@pytest.mark.parametrize(
    ("trained", "num_ctx"), [(32768, MIN_CTX), (3000, MIN_CTX), (MIN_CTX, MIN_CTX), (512, 512)]
)
def test_where_nothing_fits_it_is_the_minimum_or_the_models_own(footprint, trained, num_ctx):
    assert chosen(footprint(context_length=trained), 0) == num_ctx


@given(st.integers(0, 2 * GIB), st.integers(1, 16))
def test_a_context_above_the_minimum_fits(llama, free, slots):
    num_ctx = chosen(llama, free, slots)
    assert MIN_CTX <= num_ctx <= DEFAULT_MAX_CTX
    assert num_ctx == MIN_CTX or needed(llama, num_ctx, slots) <= free


def test_nothing_but_the_context_is_chosen(llama):
    assert largest(llama, SPEC, 0) == replace(SPEC, num_ctx=MIN_CTX)
    assert comfortable(llama, SPEC) == replace(SPEC, num_ctx=COMFORTABLE_CTX)
