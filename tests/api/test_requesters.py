"""The priority of a request, told from outside: what every API takes, and how each refuses what there is not."""

import anthropic
import ollama
import openai
import pytest

from tests.conftest import ServerMaker

MESSAGE = 'priority must be "interactive" or "batch"'
HEADER = {"X-Priority": "batch"}
SAY = [{"role": "user", "content": "say:a|b"}]

NATIVE = {
    "/api/chat": {"messages": SAY, "stream": False},
    "/api/generate": {"prompt": "say:a|b", "stream": False},
    "/api/embed": {"input": "Hi"},
    "/api/embeddings": {"prompt": "Hi"},
}
OPENAI = {
    "/v1/chat/completions": {"messages": SAY},
    "/v1/completions": {"prompt": "say:a|b"},
    "/v1/embeddings": {"input": "Hi"},
}
ANTHROPIC = {
    "/v1/messages": {"messages": SAY, "max_tokens": 9},
    "/v1/messages/count_tokens": {"messages": SAY},
}
EVERYWHERE = NATIVE | OPENAI | ANTHROPIC


@pytest.fixture(scope="module")
def puppet(tmp_path_factory):
    """A server whose engine does as the last message says."""
    with ServerMaker(tmp_path_factory.mktemp("puppet")) as make:
        yield make()


def ask(api, path, headers=None, **fields):
    return api.post(path, {"model": "m", **EVERYWHERE[path], **fields}, headers=headers or {})


# ---- what is taken ----


@pytest.mark.parametrize(
    "fields, headers",
    [
        ({"priority": "batch"}, {}),
        ({"priority": "interactive"}, {}),
        ({"priority": None}, {}),
        ({"PRIORITY": "batch"}, {}),
        ({}, HEADER),
        ({"priority": "batch"}, {"X-Priority": "nonsense"}),  # the body wins
    ],
)
@pytest.mark.parametrize("path", EVERYWHERE)
def test_a_priority_is_taken_on_every_path_that_uses_a_model(puppet, path, fields, headers):
    assert ask(puppet, path, headers, **fields).status_code == 200


@pytest.mark.parametrize("more", [{"extra_body": {"priority": "batch"}}, {"extra_headers": HEADER}])
def test_openais_client_can_tell_it(puppet, more):
    with openai.OpenAI(base_url=f"{puppet.server.url}/v1", api_key="any", max_retries=0) as client:
        chat = client.chat.completions.create(model="m", messages=SAY, n=2, **more)
        assert [choice.message.content for choice in chat.choices] == ["ab", "ab"]
        assert client.completions.create(model="m", prompt="say:a|b", **more).choices[0].text == "ab"
        assert client.embeddings.create(model="m", input=["Hi"], **more).data[0].embedding


@pytest.mark.parametrize("tier", ["flex", "auto", "default", "priority"])
def test_openais_service_tiers_are_all_taken(puppet, tier):
    with openai.OpenAI(base_url=f"{puppet.server.url}/v1", api_key="any", max_retries=0) as client:
        chat = client.chat.completions.create(model="m", messages=SAY, service_tier=tier)
        assert chat.choices[0].message.content == "ab"


@pytest.mark.parametrize("more", [{"extra_body": {"priority": "batch"}}, {"extra_headers": HEADER}])
def test_anthropics_client_can_tell_it(puppet, more):
    with anthropic.Anthropic(base_url=puppet.server.url, api_key="any", max_retries=0) as client:
        assert client.messages.create(model="m", max_tokens=9, messages=SAY, **more).content[0].text == "ab"
        assert client.messages.count_tokens(model="m", messages=SAY, **more).input_tokens
        with client.messages.stream(model="m", max_tokens=9, messages=SAY, **more) as stream:
            assert stream.get_final_text() == "ab"


def test_ollamas_client_can_tell_it(puppet):
    with ollama.Client(host=puppet.server.url, headers=HEADER) as client:
        assert client.generate("m", "say:a|b").response == "ab"
        assert client.embed("m", ["Hi"]).embeddings


# ---- what is refused ----


@pytest.mark.parametrize(
    "fields, headers",
    [
        ({"priority": "urgent"}, {}),
        ({"priority": ""}, HEADER),
        ({"priority": 1}, {}),
        ({}, {"X-Priority": "urgent"}),
    ],
)
class TestAnyOtherIsRefused:
    @pytest.mark.parametrize("path", NATIVE)
    def test_in_ollamas_words(self, puppet, path, fields, headers):
        response = ask(puppet, path, headers, **fields)
        assert (response.status_code, response.json()) == (400, {"error": MESSAGE})

    @pytest.mark.parametrize("path", OPENAI)
    def test_in_openais_words(self, puppet, path, fields, headers):
        response = ask(puppet, path, headers, **fields)
        told = {"message": MESSAGE, "type": "invalid_request_error", "param": "priority", "code": None}
        assert (response.status_code, response.json()) == (400, {"error": told})

    @pytest.mark.parametrize("path", ANTHROPIC)
    def test_in_anthropics_words(self, puppet, path, fields, headers):
        response = ask(puppet, path, headers, **fields)
        told = response.json()
        assert response.status_code == 400
        assert told["error"] == {"type": "invalid_request_error", "message": MESSAGE}
        assert told["request_id"] == response.headers["request-id"]


def test_it_is_refused_before_a_stream_begins(puppet):
    for path in ("/api/chat", "/v1/chat/completions", "/v1/messages"):
        assert ask(puppet, path, stream=True, priority="urgent").status_code == 400


def test_clients_raise_it_as_a_bad_request(puppet):
    wrong = {"extra_body": {"priority": "urgent"}}
    with openai.OpenAI(base_url=f"{puppet.server.url}/v1", api_key="any", max_retries=0) as client:
        with pytest.raises(openai.BadRequestError, match=MESSAGE) as caught:
            client.chat.completions.create(model="m", messages=SAY, **wrong)
        assert caught.value.param == "priority"
    with anthropic.Anthropic(base_url=puppet.server.url, api_key="any", max_retries=0) as client:
        with pytest.raises(anthropic.BadRequestError, match=MESSAGE):
            client.messages.create(model="m", max_tokens=9, messages=SAY, **wrong)
