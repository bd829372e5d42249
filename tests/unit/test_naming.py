"""Names in requests: what each endpoint takes them for, and its words when it takes them for nothing."""

import pytest

from a3s_power.api.errors import CloudDisabled, status_of
from a3s_power.api.ollama.naming import WORDS, UnknownModel, checked_name, said_by
from a3s_power.errors import AppError, InvalidRequest, ModelNotFound

NO_CLOUD = "ollama cloud is disabled: remote model is unavailable"
NO_CLOUD_DETAILS = "ollama cloud is disabled: remote model details are unavailable"
INFERENCE = ("generate", "chat", "embed", "embeddings")
LOOKING_UP = (*INFERENCE, "show", "pull", "delete", "from")
ENTRIES = ("create", "source", "destination", "push")


def refusal(text, endpoint):
    with pytest.raises(AppError) as caught:
        checked_name(text, endpoint)
    return status_of(caught.value), str(caught.value)


def test_every_endpoint_is_tried_below():
    assert {*LOOKING_UP, *ENTRIES} == set(WORDS)


@pytest.mark.parametrize(
    ("endpoint", "empty", "invalid", "unknown"),
    [
        ("generate", (404, "model '' not found"), "invalid model name", "model 'X' not found"),
        ("chat", (400, "model is required"), "invalid model name", "model 'X' not found"),
        ("embed", (404, "model '' not found"), "invalid model name", 'model "X" not found, try pulling it first'),
        ("embeddings", (400, "model is required"), "invalid model name", 'model "X" not found, try pulling it first'),
        ("show", (400, "model is required"), "invalid model name", "model 'X' not found"),
        ("pull", (400, "invalid model name"), "invalid model name", None),
        ("push", (400, "model is required"), "unqualified name: a b", None),
        ("delete", (400, "model is required"), 'name "a b" is invalid', "model 'X' not found"),
        ("source", (400, 'source "" is invalid'), 'source "a b" is invalid', 'model "X" not found'),
        ("destination", (400, 'destination "" is invalid'), 'destination "a b" is invalid', None),
        ("create", (400, "invalid model name"), "invalid model name", None),
        ("from", (400, "invalid model name"), "invalid model name", None),
    ],
)  # fmt: skip
def test_each_endpoint_has_its_own_words(endpoint, empty, invalid, unknown):
    assert refusal("", endpoint) == empty
    assert refusal("a b", endpoint) == (400, invalid)
    if unknown is not None:
        with pytest.raises(UnknownModel) as caught, said_by(endpoint, "X"):
            raise ModelNotFound("another spelling")
        assert (status_of(caught.value), str(caught.value)) == (404, unknown)


def test_an_empty_name_keeps_its_words_inside_said_by():
    with pytest.raises(UnknownModel, match=r"^model '' not found$"), said_by("embed", ""):
        checked_name("", "embed")


@pytest.mark.parametrize(
    ("text", "display"),
    [
        ("foo", "foo:latest"),
        ("foo:7b", "foo:7b"),
        (" foo ", "foo:latest"),                                # spaces are no part of it
        ("foo:local", "foo:latest"),                            # the model that is here
        ("foo:7b:local", "foo:7b"),
        ("foo:LOCAL ", "foo:latest"),
        ("foo: local", "foo:latest"),
        ("localhost:5000/ns/foo:local", "localhost:5000/ns/foo:latest"),
        ("local", "local:latest"),                              # names that only look like it
        ("foo:a-local", "foo:a-local"),
        ("cloud", "cloud:latest"),
        ("my-cloud", "my-cloud:latest"),
        ("my-cloud-model", "my-cloud-model:latest"),
        ("foo:cloudy", "foo:cloudy"),
        ("foo:cloud-7b", "foo:cloud-7b"),
        ("host:80/ns/my-cloud", "host:80/ns/my-cloud:latest"),  # this colon is a port's
    ],
)  # fmt: skip
@pytest.mark.parametrize("endpoint", LOOKING_UP)
def test_a_name_means_a_model_that_is_here(endpoint, text, display):
    assert checked_name(text, endpoint).display == display


@pytest.mark.parametrize(
    "text", ["foo:cloud", "foo:7b:cloud", "foo:7b-cloud", "foo:CLOUD", "ns/foo:7B-Cloud", " foo:cloud "]
)
@pytest.mark.parametrize(
    ("endpoint", "message"),
    [*((endpoint, NO_CLOUD) for endpoint in (*INFERENCE, "pull", "from")), ("show", NO_CLOUD_DETAILS)],
)  # fmt: skip
def test_a_model_of_the_cloud_is_out_of_reach(endpoint, message, text):
    assert refusal(text, endpoint) == (403, message)
    with pytest.raises(CloudDisabled):
        checked_name(text, endpoint)


@pytest.mark.parametrize("text", ["foo:cloud:local", "foo:local:cloud", "foo:7b-cloud:local", " foo:cloud:Local "])
@pytest.mark.parametrize("endpoint", LOOKING_UP)
def test_no_model_is_in_two_places(endpoint, text):
    assert refusal(text, endpoint) == (400, f'use either :local or :cloud, not both: "{text.strip()}"')


@pytest.mark.parametrize("text", [":local", ":cloud", "foo bar:cloud", "foo bar:7b-cloud", "a//b:local"])
@pytest.mark.parametrize("endpoint", LOOKING_UP)
def test_what_is_left_must_be_a_name(endpoint, text):
    """A malformed name is told so, before it is told that there is no cloud."""
    with pytest.raises(InvalidRequest, match=r"invalid"):
        checked_name(text, endpoint)


@pytest.mark.parametrize(("text", "tag"), [("foo:cloud", "cloud"), ("foo:7b-cloud", "7b-cloud")])
@pytest.mark.parametrize("endpoint", [*ENTRIES, "delete"])
def test_an_entry_that_a_cloud_model_left_in_the_store_can_be_handled(endpoint, text, tag):
    assert checked_name(text, endpoint).tag == tag


@pytest.mark.parametrize("endpoint", ENTRIES)
def test_names_that_are_given_are_taken_at_their_word(endpoint):
    """`a3s-power cp m backup:local` must not overwrite `backup:latest`."""
    assert checked_name("backup:local", endpoint).tag == "local"
