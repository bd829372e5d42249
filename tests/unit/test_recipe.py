"""What a model is made of, as far as it is wrong before any file is looked at."""

import pytest

from a3s_power.build.recipe import Recipe, Remote
from a3s_power.errors import InvalidRequest
from a3s_power.names import ModelName

NAME = ModelName.parse("m")
DIGEST = "sha256:" + "0" * 64


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
    ],
)
def test_what_cannot_be_meant_is_refused(fields, error):
    with pytest.raises(InvalidRequest, match=f"^{error}"):
        Recipe(NAME, **fields)
