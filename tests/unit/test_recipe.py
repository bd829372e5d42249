"""What a model is made of, as far as it is wrong before any file is looked at."""

import pytest

from a3s_power.build.recipe import Recipe, Remote
from a3s_power.errors import InvalidRequest
from a3s_power.names import ModelName

NAME = ModelName.parse("m")
DIGEST = "sha256:" + "0" * 64


def nested(depth):
    """[[[…]]]"""
    value = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("ollama.com", "https://ollama.com:443"),
        ("example.com", "http://example.com:11434"),
        ("example.com:80", "http://example.com:80"),
        ("https://example.com", "https://example.com:11434"),
        ("https://example.com:8443/base/", "https://example.com:8443/base"),
        ("/v2", "http://localhost:11434/v2"),
        ("[::1]", "http://[::1]:11434"),
    ],
)
def test_a_host_is_completed_as_ollama_does(host, url):
    assert Remote(host, "m").url == url


@pytest.mark.parametrize("host", ["http://[", "http://", "example.com:port", "example.com:99999"])
def test_a_host_that_is_none_is_refused(host):
    with pytest.raises(InvalidRequest, match=r"^bad remote$"):
        Remote(host, "m")


@pytest.mark.parametrize("path", ["", "/a", "../a", "a/../b", "a//b", "./a", "a/", "a\\b"])
@pytest.mark.parametrize("field", ["files", "drafts"])
def test_files_have_clean_relative_paths(field, path):
    with pytest.raises(InvalidRequest, match=r"^file path must be relative$"):
        Recipe(NAME, **{field: {path: DIGEST}})


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"draft_quantize": "q8_0"}, "--draft-quantize requires a DRAFT model"),
        ({"drafts": {"d": DIGEST}, "draft_quantize": "q9"}, "unsupported quantization type Q9"),
        ({"quantize": "q9"}, "unsupported quantization type Q9"),
        ({"remote": Remote("h", "m"), "drafts": {"d": DIGEST}}, "DRAFT cannot be used with remote models"),
        ({"adapters": {"a": ""}}, "invalid digest format"),
        ({"parameters": {"seed": "x"}}, 'option "seed" must be of type integer'),
        ({"parameters": {"x": nested(200)}}, "parameters: nested deeper than 100 levels"),
        ({"licenses": ("MIT",) * 1001}, "1001 licenses, a model has at most 1000"),
    ],
)
def test_what_cannot_be_meant_is_refused(fields, error):
    with pytest.raises(InvalidRequest, match=f"^{error}"):
        Recipe(NAME, **fields)


def test_what_is_said_of_a_model_is_what_its_config_will_say():
    info = {
        "model_family": "llama",
        "parameter_size": "8B",
        "context_length": 4096.0,
        "capabilities": ["tools"],
        "x": 1,
    }
    assert Recipe(NAME, info=info).said == {
        "model_family": "llama", "model_families": ("llama",), "model_type": "8B", "context_length": 4096,
        "capabilities": ("tools",),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("info", "error"),
    [
        ({"model_family": 1}, 'info field "model_family" must be a string'),
        ({"capabilities": "tools"}, 'info field "capabilities" must be an array of strings'),
        ({"context_length": "1"}, 'info field "context_length" must be a number'),
        ({"context_length": True}, 'info field "context_length" must be a number'),
        ({"context_length": -1}, 'info field "context_length" must be a non-negative integer'),
        ({"context_length": 1.5}, 'info field "context_length" must be a non-negative integer'),
        ({"embedding_length": 2**63}, 'info field "embedding_length" must be a non-negative integer'),
        ({"embedding_length": 1e300}, 'info field "embedding_length" must be a non-negative integer'),
    ],
)
def test_what_cannot_be_said_of_a_model_is_refused(info, error):
    with pytest.raises(InvalidRequest, match=f"^{error}$"):
        _ = Recipe(NAME, info=info).said
