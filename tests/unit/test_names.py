"""Model names: what parses, to what, and how it is shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a3s_power.errors import InvalidName
from a3s_power.names import ModelName

OLLAMA = "registry.ollama.ai"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("llama3.2", (OLLAMA, "library", "llama3.2", "latest")),
        ("llama3.2:1b", (OLLAMA, "library", "llama3.2", "1b")),
        ("user/model", (OLLAMA, "user", "model", "latest")),
        ("user/model:tag", (OLLAMA, "user", "model", "tag")),
        ("hf.co/user/repo:Q4_K_M", ("hf.co", "user", "repo", "Q4_K_M")),
        ("localhost:5000/a/b", ("localhost:5000", "a", "b", "latest")),         # a colon left of a slash is a port
        ("http://localhost:5000/a/b:c", ("localhost:5000", "a", "b", "c")),     # the scheme is dropped
        ("https://hf.co/a/b", ("hf.co", "a", "b", "latest")),
        ("  llama3.2 \n", (OLLAMA, "library", "llama3.2", "latest")),
        ("LLaMA:Q4", (OLLAMA, "library", "LLaMA", "Q4")),                       # each part keeps its case
        ("_m:_t", (OLLAMA, "library", "_m", "_t")),
        ("m-.-_", (OLLAMA, "library", "m-.-_", "latest")),
        ("m" * 80 + ":" + "t" * 80, (OLLAMA, "library", "m" * 80, "t" * 80)),
        ("h" * 350 + "/" + "n" * 80 + "/m", ("h" * 350, "n" * 80, "m", "latest")),
    ],
)  # fmt: skip
def test_absent_parts_take_their_defaults(text, parts):
    assert ModelName.parse(text).parts == parts


@pytest.mark.parametrize(
    "text",
    [
        "", " ", ":", "/", "x:", "/x", "x/", "a//b", ":tag", "h//m", "a/b/c/d",         # empty parts, too many parts
        "a b", "a\tb", "é", "a:é", "٣", "m\n:t", "a?b", "a\\b", "m:\0",                  # not ASCII letters or digits
        "m@sha256:0123", "user/m@sha256:abc",                                           # no digests
        "-m", ".m", "m:-t", "m:.t", "-n/m", ".h/n/m",                                   # first characters
        "na.mespace/m", "hf.co/na.me/m", "n:1/m", "a:b:c",                              # a dot, a colon out of place
        "..", "../m", "n/../m", "m:..", "../../etc/passwd",                             # nothing climbs out of a store
        "m" * 81, "m:" + "t" * 81, "n" * 81 + "/m", "h" * 351 + "/n/m",
        "http://m",
        "http://ns/m",
        "!?$ ://m",
        "h/n/a://m",
    ],
)  # fmt: skip
def test_what_is_no_name_is_refused(text):
    with pytest.raises(InvalidName):
        ModelName.parse(text)


@pytest.mark.parametrize(
    ("text", "display", "full"),
    [
        ("llama3.2", "llama3.2:latest", f"{OLLAMA}/library/llama3.2:latest"),
        ("library/m:t", "m:t", f"{OLLAMA}/library/m:t"),
        ("Library/m:t", "m:t", f"{OLLAMA}/Library/m:t"),
        ("user/m", "user/m:latest", f"{OLLAMA}/user/m:latest"),
        ("Registry.Ollama.AI/library/m", "m:latest", "Registry.Ollama.AI/library/m:latest"),
        ("registry.ollama.ai/user/m", "user/m:latest", f"{OLLAMA}/user/m:latest"),
        ("hf.co/user/m:q", "hf.co/user/m:q", "hf.co/user/m:q"),
        ("hf.co/library/m:q", "hf.co/library/m:q", "hf.co/library/m:q"),  # another host always shows its namespace
    ],
)
def test_people_see_no_default_host_and_namespace_but_always_the_tag(text, display, full):
    name = ModelName.parse(text)
    assert (name.display, str(name)) == (display, full)


@pytest.mark.parametrize(
    ("one", "other", "same"), [("m:T", "M:t", True), ("a/m", "A/M", True), ("m:a", "m:b", False)]
)
def test_names_that_differ_in_case_only_name_the_same_model(one, other, same):
    assert ModelName.parse(one).same_as(ModelName.parse(other)) is same


@given(st.text(max_size=30) | st.text(alphabet="aZ09_-.:/@ ", max_size=30))
def test_any_text_is_a_name_that_reads_back_or_is_refused(text):
    try:
        name = ModelName.parse(text)
    except InvalidName as exc:
        assert repr(text) in str(exc)  # noqa: PT017
    else:
        assert ModelName.parse(str(name)) == name
        assert ModelName.parse(name.display).same_as(name)
        assert not {"", ".", ".."} & set(name.parts)
        assert not any("/" in part or "\\" in part for part in name.parts)
