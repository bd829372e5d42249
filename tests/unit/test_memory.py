"""How much memory a model is estimated to take, by its header and by what is asked for."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a3s_power.gguf import read_gguf
from a3s_power.runner.base import LoadSpec
from a3s_power.scheduler.memory import Footprint, estimate
from a3s_power.scheduler.placement import Need
from a3s_power.units import MIB
from tests.support.gguf_files import Q8_0, TensorSpec, write_gguf

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
PER_TOKEN = 2 * 4 * (16 + 16)  # elements of keys and values


@pytest.fixture(scope="session")
def header(tmp_path_factory):
    """A header with these keys over LLAMA's; None takes a key away."""

    def _header(architecture="llama", **changes):
        changed = {f"llama.{key.replace('__', '.')}": value for key, value in changes.items()}
        metadata = LLAMA | {"general.architecture": architecture} | changed
        renamed = {key.replace("llama.", f"{architecture}."): value for key, value in metadata.items()}
        known = {key: value for key, value in renamed.items() if value is not None}
        return read_gguf(write_gguf(tmp_path_factory.mktemp("gguf") / "m.gguf", known, WEIGHTS))

    return _header


@pytest.fixture(scope="session")
def footprint(header):
    def _footprint(architecture="llama", **changes):
        return Footprint.of(header(architecture, **changes))

    return _footprint


@pytest.fixture(scope="session")
def llama(footprint):
    return footprint()


def estimated(model, **changes):
    """Bytes in all."""
    need = estimate(model, replace(SPEC, **changes))
    return need.host + need.gpu


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
        ({"block_count": -2}, 0),
        ({"attention__head_count_kv": -4}, 0),
        ({"attention__head_count_kv": [-9, 4]}, 0),
        ({"attention__head_count": -4, "attention__key_length": -1}, 2 * 1 * (64 + 64)),
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
    one, two = (estimated(llama, kv_pool=pool, kv_cache_type=kv_cache_type) for pool in (1, 2))
    assert two - one == PER_TOKEN * bits / 8


@pytest.mark.parametrize(
    ("changes", "cells"),
    [
        ({}, 4096),
        ({"slots": 3}, 3 * 4096),
        ({"slots": 3, "kv_pool": 5000}, 5000),                                      # a pool they share
        ({"slots": 3, "kv_pool": 5000, "num_ctx": 2000}, 5000),                     # what one may see is no matter
        ({"slots": 3, "kv_pool": 4096}, 4096),
    ],
)  # fmt: skip
def test_cells_are_counted_by_the_pool(llama, changes, cells):
    assert estimated(llama, **changes) - estimated(llama, kv_pool=1) == (cells - 1) * PER_TOKEN * 2


def test_the_estimate_is_the_sum_of_its_parts(llama):
    kv = 4096 * 3 * 2 * PER_TOKEN
    compute = 4 * (3 + 2 * 512 * 256)  # logits of three tokens, activations of the widest layer
    assert estimate(llama, replace(SPEC, slots=3)) == Need(64 * MIB, WEIGHTS_BYTES + kv + compute)


def test_a_header_that_says_nothing_still_has_an_estimate(tmp_path):
    bare = read_gguf(write_gguf(tmp_path / "m.gguf", {}, {}))
    assert estimate(Footprint.of(bare), SPEC) == Need(64 * MIB, 0)


@pytest.mark.parametrize("projectors", [0, 1, 2])
def test_what_lets_it_see_is_loaded_too(header, llama, projectors):
    model = Footprint.of(header(), [header(block_count=99)] * projectors)
    assert model == replace(llama, weights=(1 + projectors) * WEIGHTS_BYTES)


@pytest.mark.parametrize(
    "changes", [{}, {"slots": 3, "kv_pool": 5000}, {"kv_cache_type": "q8_0", "num_batch": 32}]
)
def test_a_draft_takes_weights_cells_and_buffers_of_its_own_where_it_is_loaded(header, llama, footprint, changes):
    drafted, draft = Footprint.of(header(), draft=header(block_count=1)), footprint(block_count=1)
    assert estimated(drafted, **changes) == estimated(llama, **changes)
    whole = estimated(llama, **changes) + estimated(draft, **changes) - 64 * MIB  # of one process
    assert estimated(drafted, draft_path="/d", draft_num_predict=4, **changes) == whole


@pytest.mark.parametrize(
    ("trained", "tokens"),
    [(512, 512), (131072, 131072), (None, None), (0, None), (-1, None), ("many", None)],
)
def test_the_context_it_was_trained_for_is_a_positive_number_or_unknown(footprint, trained, tokens):
    assert footprint(context_length=trained).trained_ctx == tokens


# ---- layers that keep only a window ----


@pytest.mark.parametrize(
    ("architecture", "keys", "every_token", "in_window"),
    [  # of 12 layers: how many keep what
        ("gemma2", {"sliding_window": 4096}, 6, 6),
        ("gemma3", {"sliding_window": 1024}, 2, 10),
        ("gpt-oss", {"sliding_window": 128}, 6, 6),
        ("cohere2", {"sliding_window": 4096}, 3, 9),
        ("gemma3", {}, 12, 0),                                                      # the header knows of no window
        ("gemma3", {"sliding_window": 0}, 12, 0),
        ("gemma3", {"sliding_window": -1}, 12, 0),
        ("gemma3", {"sliding_window": "wide"}, 12, 0),
        ("llama", {"sliding_window": 4096}, 12, 0),                                 # all its layers see everything
        ("unheard-of", {"sliding_window": 4096}, 12, 0),                            # too much rather than too little
    ],
)  # fmt: skip
def test_some_layers_keep_only_a_window(footprint, architecture, keys, every_token, in_window):
    changes = {f"attention__{key}": value for key, value in keys.items()}
    model = footprint(architecture, block_count=12, **changes)
    of_layer = PER_TOKEN // 2
    assert (model.kv_elements, model.window_elements) == (every_token * of_layer, in_window * of_layer)


@pytest.mark.parametrize(
    ("changes", "cells"),
    [  # of those layers, with a window of 1024 and batches of 512
        ({"num_ctx": 32768}, 1024 + 512),
        ({"num_ctx": 32768, "slots": 4}, 4 * 1024 + 512),  # a window for each request
        ({"num_ctx": 32768, "slots": 4, "kv_pool": 40000}, 4 * 1024 + 512),
        ({"num_ctx": 32768, "slots": 4, "num_batch": 2048}, 4 * 1024 + 2048),
        ({"num_ctx": 1000, "slots": 4}, 4000),  # never more than the others
        ({"num_ctx": 1000}, 1000),
    ],
)
def test_a_window_has_cells_for_itself_and_a_batch(llama, changes, cells):
    windowed = replace(llama, window=1024, window_elements=100)
    assert estimated(windowed, **changes) - estimated(llama, **changes) == cells * 100 * 2


# ---- for every model ----

models = st.builds(
    Footprint,
    weights=st.integers(0, 10**12),
    kv_elements=st.integers(0, 10**7),
    vocabulary=st.integers(0, 10**6),
    width=st.integers(0, 10**6),
    trained_ctx=st.none() | st.integers(1, 10**6),
    window_elements=st.integers(0, 10**7),
    window=st.integers(0, 10**5),
)
specs = st.builds(
    LoadSpec,
    model_path=st.just("m"),
    num_ctx=st.integers(4, 10**6),
    slots=st.integers(1, 64),
    kv_pool=st.integers(0, 10**6),
    num_batch=st.integers(1, 2**14),
    kv_cache_type=st.sampled_from(["f16", "q8_0", "q4_0"]),
)


@given(models, specs, st.integers(0, 10**6))
def test_a_larger_pool_a_larger_batch_or_finer_cells_never_take_less(model, spec, more):
    plain = estimate(model, spec).gpu
    assert plain <= estimate(model, replace(spec, kv_pool=spec.pool + more)).gpu
    assert plain <= estimate(model, replace(spec, num_batch=spec.num_batch + more)).gpu
    assert plain <= estimate(model, replace(spec, kv_cache_type="f32")).gpu


@given(models, specs, st.integers(0, 10**6))
def test_of_cells_for_all_more_context_and_more_slots_never_take_less(model, spec, more):
    spec = replace(spec, kv_pool=0)
    plain = estimate(model, spec).gpu
    assert plain <= estimate(model, replace(spec, num_ctx=spec.num_ctx + more)).gpu
    assert plain <= estimate(model, replace(spec, slots=spec.slots + more)).gpu


@given(models, specs)
def test_a_model_takes_at_least_its_weights_of_gpus_and_the_process_of_the_host(model, spec):
    need = estimate(model, spec)
    assert need.host == 64 * MIB
    assert need.gpu >= model.weights
