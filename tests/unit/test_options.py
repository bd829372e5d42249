"""Options: whose value counts, what is taken for what, and which kind each of them is."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a3s_power.errors import InvalidOption
from a3s_power.options import KINDS, LOAD_KINDS, SAMPLING_KINDS, LoadOptions, SamplingOptions, merge

HUGE = 10**400

SPEC_TABLE = {  # Ollama: name → type, default
    "num_keep": (int, 4), "seed": (int, -1), "num_predict": (int, -1), "top_k": (int, 40), "top_p": (float, 0.9),
    "min_p": (float, 0.0), "typical_p": (float, 1.0), "repeat_last_n": (int, 64), "temperature": (float, 0.8),
    "repeat_penalty": (float, 1.0), "presence_penalty": (float, 0.0), "frequency_penalty": (float, 0.0),
    "stop": (tuple, ()), "num_ctx": (int, None), "num_batch": (int, 512), "num_gpu": (int, -1), "main_gpu": (int, None),
    "use_mmap": (bool, None), "num_thread": (int, 0), "draft_num_predict": (int, 4),
}  # fmt: skip
LOADED_WITH = {"num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict"}


def option(name: str, *layers: dict) -> object:
    """What an option comes to."""
    load, sampling = merge(layers)
    return getattr(load if name in LOAD_KINDS else sampling, name)


def test_the_two_kinds_of_options_are_those_of_the_specification():
    assert set(LOAD_KINDS) == LOADED_WITH
    assert set(LOAD_KINDS) | set(SAMPLING_KINDS) == set(SPEC_TABLE)
    assert not set(LOAD_KINDS) & set(SAMPLING_KINDS)


@pytest.mark.parametrize("name", sorted(SPEC_TABLE))
def test_types_and_defaults_are_those_of_the_specification(name):
    assert (KINDS[name], option(name)) == SPEC_TABLE[name]


@pytest.mark.parametrize(
    ("name", "layers", "expected"),
    [
        ("top_k", [{"top_k": 1}], 1),
        ("top_k", [{"top_k": 1}, {"top_k": 2}], 2),                      # a later layer wins
        ("top_k", [{"top_k": 1}, {}], 1),
        ("top_k", [{"top_k": 1}, {"top_k": None}], 1),                   # null is no value
        ("top_k", [{"top_k": None}], 40),
        ("top_k", [{"top_k": 1}, {"top_k": 0}], 0),                      # nor is zero the same as none
        ("use_mmap", [{"use_mmap": True}, {"use_mmap": False}], False),
        ("main_gpu", [{"main_gpu": 0}], 0),
        ("stop", [{"stop": ["a", "b"]}, {"stop": ["c"]}], ("c",)),       # lists replace, they do not grow
        ("stop", [{"stop": ["a"]}, {"stop": []}], ()),
        ("stop", [{"stop": ("a",)}], ("a",)),
        ("num_ctx", [{"num_ctx": 8192.9}], 8192),                        # cut towards zero
        ("num_gpu", [{"num_gpu": -0.9}], 0),
        ("seed", [{"seed": -1.9}], -1),
        ("temperature", [{"temperature": 1}], 1.0),
        ("temperature", [{"temperature": -0.5}], -0.5),
        ("top_k", [{"top_k": 1e300}], 2**31 - 1),                        # as many as there are
        ("num_predict", [{"num_predict": -(10**400)}], -(2**31)),
        ("seed", [{"seed": 2**40}], 2**40),                              # seeds have no size
        ("top_k", [{"mirostat": 1, "nonsense": {}, "num_gqa": "x"}], 40),  # unknown ones do no harm
    ],
)  # fmt: skip
def test_each_layer_overlays_the_one_before(name, layers, expected):
    value = option(name, *layers)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("num_ctx", "4096", 'option "num_ctx" must be of type integer'),
        ("num_ctx", True, 'option "num_ctx" must be of type integer'),
        ("num_ctx", [1], 'option "num_ctx" must be of type integer'),
        ("num_ctx", float("inf"), 'option "num_ctx" must be of type integer'),      # JSON's 1e400
        ("temperature", "hot", 'option "temperature" must be of type float32'),
        ("temperature", False, 'option "temperature" must be of type float32'),
        ("temperature", {}, 'option "temperature" must be of type float32'),
        pytest.param("temperature", HUGE, 'option "temperature" must be of type float32', id="temperature-huge"),
        ("use_mmap", 1, 'option "use_mmap" must be of type boolean'),
        ("use_mmap", "true", 'option "use_mmap" must be of type boolean'),
        ("stop", "END", 'option "stop" must be of type array'),
        ("stop", {"a": 1}, 'option "stop" must be of type array'),
        ("stop", ["a", 1], 'option "stop" must be of an array of strings'),
        ("stop", [None], 'option "stop" must be of an array of strings'),
    ],
)  # fmt: skip
def test_a_wrong_type_is_refused_by_the_name_of_its_option(name, value, complaint):
    with pytest.raises(InvalidOption) as refused:
        merge([{name: value}])
    assert str(refused.value) == complaint
    assert refused.value.name == name


def test_a_layer_that_is_overlaid_is_checked_all_the_same():
    with pytest.raises(InvalidOption):
        merge([{"top_k": "many"}, {"top_k": 1}])


json_values = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text() | st.integers())
)


@given(st.lists(st.dictionaries(st.sampled_from(sorted(KINDS)) | st.text(), json_values), max_size=3))
def test_whatever_comes_out_is_of_the_right_type(layers):
    try:
        load, sampling = merge(layers)
    except InvalidOption as exc:
        assert exc.name in KINDS  # noqa: PT017
        return
    for options, kinds in ((load, LOAD_KINDS), (sampling, SAMPLING_KINDS)):
        for field in dataclasses.fields(options):
            value = getattr(options, field.name)
            assert value == field.default or type(value) is kinds[field.name]
    assert isinstance(load, LoadOptions)
    assert isinstance(sampling, SamplingOptions)
