"""Which type each tensor gets: llama.cpp's rules, laid side by side. `test_quantize_reference` has its own verdicts."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a3s_power.build.tensor_types import ELEMENTS, FILE_TYPES, SOURCES, tensor_types
from a3s_power.gguf import GGUF, Tensor

Shape = tuple[int, ...]
MATRIX = (256, 2)
OUTPUT = {"output.weight": MATRIX}


def model(tensors: Mapping[str, Shape], arch: str = "llama", type_: str = "F16", **settings: Any) -> GGUF:
    """A header; `block_count=2` is `llama.block_count`."""
    metadata = {"general.architecture": arch, **{f"{arch}.{key}": value for key, value in settings.items()}}
    infos = tuple(Tensor(name, type_, shape, 0, math.prod(shape) * 2) for name, shape in tensors.items())
    return GGUF(3, metadata, infos, 0, 0)


def layers(count: int, *names: str, shape: Shape = MATRIX) -> dict[str, Shape]:
    return {f"blk.{i}.{name}.weight": shape for i in range(count) for name in names}


def of_layers(types: Mapping[str, str], name: str) -> dict[str, list[int]]:
    """Type → the layers that have it."""
    found: dict[str, list[int]] = {}
    for number in range(sum(f".{name}." in tensor for tensor in types)):
        found.setdefault(types[f"blk.{number}.{name}.weight"], []).append(number)
    return found


# What is left as it is


@pytest.mark.parametrize("target", FILE_TYPES)
@pytest.mark.parametrize(
    "name, shape",
    [
        ("output_norm.weight", (256,)),
        ("blk.0.attn_q.weight", (256, 1)),                # a matrix of one row is a vector
        ("blk.0.attn_q.bias", MATRIX),
        ("blk.0.attn_q_norm.weight", MATRIX),
        ("blk.0.ffn_gate_inp.weight", MATRIX),
        ("blk.0.ssm_conv1d.weight", MATRIX),
        ("blk.0.altup_router.weight", MATRIX),
        ("position_embd.weight", MATRIX),
        ("token_types.weight", MATRIX),
        ("v.blk.0.attn_v.weight", MATRIX),                # the model's eyes, in one file with it
        ("mm.input_projection.weight", MATRIX),
        ("a.conv1d.weight", MATRIX),
        ("s.proj.weight", MATRIX),
        ("mtp.fc.weight", MATRIX),
    ],
)  # fmt: skip
def test_tensors_that_are_small_or_not_the_models_own_are_left_as_they_are(name, shape, target):
    assert tensor_types(model({name: shape, **OUTPUT}), target).keys() == {"output.weight"}


@pytest.mark.parametrize("type_", ["Q8_0", "MXFP4", "I32", "F64"])
def test_what_is_no_whole_weight_is_left_as_it_is(type_):
    assert tensor_types(model(OUTPUT, type_=type_), "Q4_K_M") == {}


@pytest.mark.parametrize("target", SOURCES)
def test_a_target_of_whole_weights_is_everybodys(target):
    tensors = {**OUTPUT, "token_embd.weight": (48, 2), **layers(1, "ffn_down", shape=(7, 3, 2))}
    assert tensor_types(model(tensors, "glm4"), target) == dict.fromkeys(tensors, target)


# Output and embeddings


@pytest.mark.parametrize(
    "arch, tensors, expected",
    [
        ("llama", {"output.weight": (256, 2), "token_embd.weight": (256, 2)}, ["Q6_K", "Q4_K"]),
        ("llama", {"token_embd.weight": (256, 2)}, ["Q6_K"]),                      # it is the output too
        ("gemma3n", {"token_embd.weight": (256, 2), "per_layer_token_embd.weight": (256, 2)}, ["Q6_K", "F16"]),
        ("llama", {"output.weight": (96, 2)}, ["Q8_0"]),
        ("llama", {"output.weight": (48, 2)}, ["F16"]),
        ("falcon", {"output.weight": (256, 2)}, ["Q8_0"]),
        ("glm4", {"output.weight": (256, 2), "token_embd.weight": (256, 2)}, ["F16", "F16"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("target", ["Q4_K_S", "Q4_K_M"])
def test_the_output_gets_more_bits_than_the_rest(arch, tensors, expected, target):
    types = tensor_types(model(tensors, arch), target)
    assert [types[name] for name in tensors] == expected


# Attention


def test_of_Q4_K_S_the_first_four_values_get_more_bits():  # noqa: N802
    types = tensor_types(model(layers(6, "attn_v"), block_count=6), "Q4_K_S")
    assert of_layers(types, "attn_v") == {"Q5_K": [0, 1, 2, 3], "Q4_K": [4, 5]}


def test_of_Q4_K_M_the_first_eighth_the_last_and_every_third_get_more_bits():  # noqa: N802
    types = tensor_types(model(layers(16, "attn_v", "ffn_down"), block_count=16), "Q4_K_M")
    more = [0, 1, 4, 7, 10, 13, 14, 15]
    less = [2, 3, 5, 6, 8, 9, 11, 12]
    assert of_layers(types, "attn_v") == of_layers(types, "ffn_down") == {"Q6_K": more, "Q4_K": less}


def test_layers_are_counted_by_their_number_wherever_they_stand_in_the_file():
    backwards = dict(reversed(layers(11, "attn_v").items()))
    assert tensor_types(model(backwards, block_count=11), "Q4_K_S")["blk.10.attn_v.weight"] == "Q4_K"


def test_the_values_of_embedded_towers_are_not_counted():
    plain = layers(16, "attn_v")
    eyes = {f"v.{name}": MATRIX for name in plain}
    assert tensor_types(model(plain | eyes), "Q4_K_M") == tensor_types(model(plain), "Q4_K_M")


@pytest.mark.parametrize(
    "arch, count, settings, is_70b",
    [
        ("llama", 80, {"attention.head_count": 64, "attention.head_count_kv": 8}, True),
        ("llama", 80, {"attention.head_count": 64, "attention.head_count_kv": 64}, False),   # the first 65B
        ("llama", 80, {"attention.head_count": 64}, False),
        ("llama", 79, {"attention.head_count": 64, "attention.head_count_kv": 8}, False),
        ("llama-embed", 80, {"attention.head_count": 64, "attention.head_count_kv": 8}, True),
        ("qwen2", 80, {"attention.head_count": 64, "attention.head_count_kv": 64}, True),
        ("olmo", 80, {}, True),
        ("deci", 80, {}, True),
        ("jais2", 68, {}, True),
        ("gemma2", 80, {}, False),
    ],
)  # fmt: skip
def test_a_model_of_70b_has_no_values_of_four_bits(arch, count, settings, is_70b):
    types = tensor_types(model(layers(count, "attn_v"), arch, block_count=count, **settings), "Q4_K_M")
    assert set(of_layers(types, "attn_v")) == {"Q6_K", "Q5_K" if is_70b else "Q4_K"}


@pytest.mark.parametrize("target", ["Q4_K_S", "Q4_K_M"])
@pytest.mark.parametrize(
    "arch, experts, expected",
    [
        ("llama", 8, {"attn_v": "Q8_0", "attn_k": "Q8_0", "attn_output": "Q5_K", "attn_q": "Q4_K"}),
        ("llama", 7, {"attn_k": "Q4_K", "attn_output": "Q4_K", "attn_q": "Q4_K"}),
        ("falcon", 8, {"attn_v": "Q8_0", "attn_k": "Q8_0", "attn_output": "Q4_K", "attn_q": "Q4_K"}),
    ],
)
def test_eight_experts_are_worth_a_better_attention(arch, experts, expected, target):
    types = tensor_types(model(layers(1, *expected), arch, block_count=1, expert_count=experts), target)
    assert {name: types[f"blk.0.{name}.weight"] for name in expected} == expected


# Feed forward


@pytest.mark.parametrize(
    "arch, target, expected",
    [
        ("llama", "Q4_K_S", {"Q5_K": [0, 1, 2, 3], "Q4_K": [*range(4, 32)]}),
        ("falcon", "Q4_K_S", {"Q4_K": [*range(32)]}),
        ("falcon", "Q4_K_M", {
            "Q6_K": [0, 1], "Q5_K": [2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31],
            "Q4_K": [4, 5, 7, 8, 10, 11, 13, 14, 16, 17, 19, 20, 22, 23, 25, 26],
        }),
        ("falcon", "Q8_0", {"Q8_0": [*range(32)]}),
    ],
)  # fmt: skip
def test_the_way_down_by_architecture(arch, target, expected):
    types = tensor_types(model(layers(32, "ffn_down"), arch, block_count=32), target)
    assert of_layers(types, "ffn_down") == expected


def test_with_experts_the_layer_is_in_the_name():
    """Of which there may be several tensors a layer: counting them would lead astray."""
    tensors = layers(8, *(f"ffn_down.{expert}" for expert in range(4)))
    types = tensor_types(model(tensors, block_count=8, expert_count=4), "Q4_K_M")
    better = {name.split(".")[1] for name, type_ in types.items() if type_ == "Q6_K"}
    assert better == {"0", "3", "6", "7"}


# Types that Ollama settles


@pytest.mark.parametrize(
    "arch, name, type_",
    [
        ("qwen35", "blk.1.nextn.eh_proj.weight", "Q8_0"),
        ("qwen35moe", "blk.1.nextn.eh_proj.weight", "Q8_0"),
        ("qwen3", "blk.1.nextn.eh_proj.weight", "Q4_K"),
        ("deepseek2", "blk.1.attn_q_a.weight", "Q8_0"),
        ("deepseek2", "blk.1.attn_kv_a_mqa.weight", "Q8_0"),
        ("deepseek2", "blk.1.attn_q.weight", "Q4_K"),
        ("glm4", "token_embd.weight", "F16"),
        ("glmocr", "token_embd.weight", "F16"),
        ("glm4", "blk.1.attn_output.weight", "Q4_K"),     # its name ends in that of the output
        ("glm4", "per_layer_token_embd.weight", "Q4_K"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("target", ["Q4_K_S", "Q4_K_M"])
def test_some_tensors_of_some_architectures_have_a_settled_type(arch, name, type_, target):
    gguf = model({**OUTPUT, name: MATRIX}, arch, block_count=2)
    assert tensor_types(gguf, target)[name] == type_
    assert tensor_types(gguf, "Q8_0")[name] == "Q8_0"


# Shapes


@pytest.mark.parametrize(
    "width, expected",
    [(256, ["Q4_K", "Q5_K", "Q6_K"]), (96, ["Q5_0", "Q5_1", "Q8_0"]), (48, ["F16", "F16", "F16"])],
)
def test_rows_that_fit_no_block_get_the_next_best_type(width, expected):
    small = tensor_types(model(layers(1, "attn_q", "attn_v", shape=(width, 2)) | OUTPUT), "Q4_K_S")
    medium = tensor_types(model(layers(1, "attn_v", shape=(width, 2)) | OUTPUT), "Q4_K_M")
    found = [small["blk.0.attn_q.weight"], small["blk.0.attn_v.weight"], medium["blk.0.attn_v.weight"]]
    assert found == expected


NAMES = st.from_regex(
    r"(blk\.[0-9]{1,3}\.)?(attn_(q|k|v|qkv|output)|ffn_(up|down|down_exps)|output)\.weight", fullmatch=True
)


@given(
    tensors=st.dictionaries(NAMES, st.tuples(st.integers(1, 600), st.integers(2, 9)), max_size=40),
    arch=st.sampled_from(["llama", "falcon", "deepseek2", "glm4", ""]),
    settings=st.fixed_dictionaries(
        {}, optional={"block_count": st.one_of(st.integers(0, 100), st.text()), "expert_count": st.integers(0, 16)}
    ),
    target=st.sampled_from(sorted(FILE_TYPES)),
)
def test_every_type_fits_its_rows_and_the_order_in_the_file_is_all_the_same(tensors, arch, settings, target):
    types = tensor_types(model(tensors, arch, **settings), target)
    assert all(tensors[name][0] % ELEMENTS[type_] == 0 for name, type_ in types.items())
    backwards = dict(reversed(tensors.items()))
    assert tensor_types(model(backwards, arch, **settings), target) == types
