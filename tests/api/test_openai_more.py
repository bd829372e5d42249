"""OpenAI's API but for chats: texts that go on, embeddings, models, audio, with the official client and by hand."""

import json
from base64 import b64decode
from urllib.parse import quote

import numpy as np
import openai
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from a3s_power.api.openai.audio import MAX_BODY_BYTES, MAX_FIELDS, MAX_FILE_BYTES
from tests.api.test_embedding import NEARLY
from tests.api.test_faults import open_streams, send_request
from tests.conformance.conftest import THOUGHTS, last_message
from tests.support.api import tiny_gguf, until

COMPLETIONS, EMBEDDINGS, TRANSCRIPTIONS = "/v1/completions", "/v1/embeddings", "/v1/audio/transcriptions"
ONCE = {"model": "smollm2", "prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}
TEXTS = ["The cat sat on the mat.", "Stock markets fell sharply today.", ""]
WAV = ("a.wav", b"RIFF\0\0\0\0WAVE")
INSERT = "{{ if .Suffix }}say:{{ .Prompt }}|[{{ .Suffix }}]{{ else }}{{ .Prompt }}{{ end }}"


def official(api) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{api.server.url}/v1", api_key="unused", max_retries=0)


@pytest.fixture(scope="module")
def sdk(real):
    with official(real) as client:
        yield client


@pytest.fixture(scope="module")
def embedder(real, minilm_gguf):
    """A server with the models `mini` and `smollm2`."""
    real.create("mini", minilm_gguf)
    yield real
    real.sdk.embed("mini", "", keep_alive=0)
    until(lambda: "mini:latest" not in real.loaded())
    real.sdk.delete("mini")


@pytest.fixture
def puppet(scripted):
    """A server whose engine does as the prompt says."""
    return scripted()


def said(api, prompt, **fields):
    """The reply to a request that succeeds."""
    response = api.post(COMPLETIONS, {"model": "m", "prompt": prompt, **fields})
    assert response.status_code == 200, response.text
    return response.json()


def events(api, prompt, **fields):
    """The same for a stream: what its frames hold, all but the last of them."""
    response = api.post(COMPLETIONS, {"model": "m", "prompt": prompt, "stream": True, **fields})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/event-stream"
    *frames, done, after = response.text.split("\n\n")
    assert (done, after) == ("data: [DONE]", "")
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]


def error_of(response):
    (error,) = response.json().values()
    assert list(error) == ["message", "type", "param", "code"]
    return error


# ---- texts: what is told ----


def test_the_official_client_has_a_text_go_on(sdk):
    first, again = (sdk.completions.create(**ONCE) for _ in range(2))
    (choice,) = first.choices
    assert choice.text == again.choices[0].text != ""
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "length", None)
    assert (first.object, first.model, first.system_fingerprint) == ("text_completion", "smollm2", "fp_ollama")
    assert first.usage.completion_tokens == 8
    assert first.usage.total_tokens == first.usage.prompt_tokens + 8
    assert again.usage.prompt_tokens_details.cached_tokens == first.usage.prompt_tokens - 1


def test_the_official_client_streams_what_it_would_get_at_once(sdk):
    whole = sdk.completions.create(**ONCE)
    chunks = list(sdk.completions.create(**ONCE, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert {chunk.usage for chunk in chunks} == {None}


def test_usage_is_told_at_the_end_of_a_stream_and_nothing_before(puppet):
    *chunks, last = events(puppet, "say:a|b", stream_options={"include_usage": True})
    zeros = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    assert [(chunk["choices"][0]["text"], chunk["usage"]) for chunk in chunks] == [
        ("a", zeros),
        ("b", zeros),
        ("", zeros),
    ]
    assert last["choices"] == []
    spent = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
    assert last["usage"] == spent | {"prompt_tokens_details": {"cached_tokens": 2}}


def test_echo_puts_the_prompt_before_each_text(puppet):
    assert [choice["text"] for choice in said(puppet, "say:a|b", echo=True, n=2)["choices"]] == ["say:a|bab"] * 2
    pieces = events(puppet, "say:a|b", echo=True)
    assert [piece["choices"][0]["text"] for piece in pieces] == ["say:a|ba", "b", ""]


def test_thoughts_are_not_told(puppet, tmp_path):
    puppet.create("k", tiny_gguf(tmp_path / "k.gguf"), template=last_message(THOUGHTS + "{{ .Content }}"))
    prompt = "say:<think>|hm|</think>|yes"
    assert said(puppet, prompt, model="k")["choices"][0]["text"] == "yes"
    assert "".join(event["choices"][0]["text"] for event in events(puppet, prompt, model="k")) == "yes"


def test_without_a_prompt_the_model_is_loaded_or_let_go(puppet):
    (choice,) = said(puppet, "")["choices"]
    assert choice == {"text": "", "index": 0, "finish_reason": "load"}
    assert puppet.loaded() == ["m:latest"]
    (event,) = events(puppet, [], keep_alive=0)
    assert event["choices"] == [{"text": "", "index": 0, "finish_reason": "unload"}]
    until(lambda: puppet.loaded() == [])


def test_what_would_be_asked_can_be_tried(puppet):
    reply = said(puppet, "say:a|b", _debug_render_only=True)
    assert reply["choices"] == [{"text": "", "index": 0, "finish_reason": None}]


# ---- texts: how likely they were ----


def test_logprobs_are_rows_of_tokens(sdk):
    (choice,) = sdk.completions.create(**ONCE, logprobs=2).choices
    rows = choice.logprobs
    assert "".join(rows.tokens) == choice.text
    assert all(choice.text[at:].startswith(token) for token, at in zip(rows.tokens, rows.text_offset, strict=True))
    for token, logprob, top in zip(rows.tokens, rows.token_logprobs, rows.top_logprobs, strict=True):
        assert len(top) == 2
        assert top[token] == logprob == max(top.values())


def test_logprobs_are_the_same_in_a_stream(sdk):
    whole = sdk.completions.create(**ONCE, logprobs=1).choices[0].logprobs
    pieces = [chunk.choices[0].logprobs for chunk in sdk.completions.create(**ONCE, logprobs=1, stream=True)]
    told = [piece for piece in pieces if piece]
    assert [at for piece in told for at in piece.text_offset] == whole.text_offset
    assert [token for piece in told for token in piece.tokens] == whole.tokens


def test_logprobs_may_be_of_the_tokens_taken_alone(sdk):
    rows = sdk.completions.create(**ONCE, logprobs=0).choices[0].logprobs
    assert len(rows.token_logprobs) == 8
    assert rows.top_logprobs is None


def test_where_a_token_begins_is_told_in_characters(puppet):
    """A token may end in the middle of one."""
    tokens = [
        ("é", "é", b"\xc3\xa9"),
        ("", "\ufffd", b"\xf0\x9f"),
        ("🙂", "\ufffd", b"\x99\x82"),
        ("!", "!", b"!"),
    ]
    chunks = [
        {"content": text, "completion_probabilities": [{"token": token, "logprob": -1, "bytes": list(raw)}]}
        for text, token, raw in tokens
    ]
    prompt = f"raw:{json.dumps([*chunks, {'content': '', 'stop': True}])}"
    (choice,) = said(puppet, prompt, logprobs=0)["choices"]
    assert choice["text"] == "é🙂!"
    assert choice["logprobs"]["text_offset"] == [0, 1, 1, 2]


# ---- texts: several at once ----


def test_each_prompt_has_so_many_texts(puppet):
    reply = said(puppet, ["say:a", "say:b|c"], n=2)
    assert [(choice["index"], choice["text"]) for choice in reply["choices"]] == [
        (0, "a"),
        (1, "a"),
        (2, "bc"),
        (3, "bc"),
    ]
    assert reply["usage"] == {
        "prompt_tokens": 14,
        "completion_tokens": 6,
        "total_tokens": 20,
        "prompt_tokens_details": {"cached_tokens": 4},
    }


def test_texts_are_streamed_side_by_side(puppet):
    *pieces, last = events(puppet, ["say:a|b", "say:c|d"], n=2, stream_options={"include_usage": True})
    told = [event["choices"][0] for event in pieces]
    for index, text in enumerate(["ab", "ab", "cd", "cd"]):
        own = [choice for choice in told if choice["index"] == index]
        assert "".join(choice["text"] for choice in own) == text
        assert [choice["finish_reason"] for choice in own] == [None, None, "stop"]
    assert last["usage"]["completion_tokens"] == 8


def test_texts_of_one_seed_are_not_the_same(sdk):
    wild = ONCE | {"temperature": 1.5, "max_tokens": 16}
    assert len({choice.text for choice in sdk.completions.create(**wild, seed=7, n=3).choices}) == 3


# ---- texts: what is asked for ----


def test_a_stop_ends_the_text(puppet, sdk):
    whole = sdk.completions.create(**ONCE).choices[0].text
    word = whole.split()[2]
    for stop in (word, [word], ["", word]):
        (choice,) = sdk.completions.create(**ONCE, stop=stop).choices
        assert (choice.text, choice.finish_reason) == (whole.partition(word)[0], "stop")
    assert sdk.completions.create(**ONCE, stop="").choices[0].text == whole


def test_ollamas_options_hold_where_openais_fields_say_nothing(sdk):
    options = {"num_predict": 3, "temperature": 0, "stop": ["never said"]}
    asked = {"model": "smollm2", "prompt": ONCE["prompt"], "extra_body": {"options": options}}
    greedy = sdk.completions.create(**asked)
    assert greedy.usage.completion_tokens == 3
    assert greedy.choices[0].text == sdk.completions.create(**ONCE | {"max_tokens": 3}).choices[0].text
    assert sdk.completions.create(**asked, max_tokens=2).usage.completion_tokens == 2


def test_a_bias_decides_what_is_said(sdk):
    rare = sdk.completions.create(**ONCE, logit_bias={"57": 100})
    assert len(set(rare.choices[0].text)) == 1


def test_a_suffix_needs_a_model_that_fills_in(puppet, tmp_path):
    puppet.create("i", tiny_gguf(tmp_path / "i.gguf"), template=INSERT)
    assert said(puppet, "a", model="i", suffix="z")["choices"][0]["text"] == "a[z]"
    response = puppet.post(COMPLETIONS, {"model": "m", "prompt": "a", "suffix": "z"})
    assert error_of(response)["message"] == "registry.ollama.ai/library/m:latest does not support insert"


def test_a_body_may_be_compressed(puppet):
    body = zstandard.compress(json.dumps({"model": "m", "prompt": "say:a"}).encode())
    response = puppet.http.post(COMPLETIONS, content=body, headers={"Content-Encoding": "zstd"})
    assert response.json()["choices"][0]["text"] == "a"


GO = "json: cannot unmarshal {} into Go struct field CompletionRequest.{} of type {}"


@pytest.mark.parametrize(
    ("fields", "status", "message", "param"),
    [
        ({"model": None}, 404, "model '' not found", None),
        ({"model": "nope"}, 404, "model 'nope' not found", None),
        ({"model": "bad name!"}, 400, "invalid model name", None),
        ({"prompt": [1, 2]}, 400, GO.format("array", "prompt", "string"), None),
        ({"prompt": [[1, 2]]}, 400, GO.format("array", "prompt", "string"), None),
        ({"prompt": 5}, 400, GO.format("number", "prompt", "string"), None),
        ({"prompt": {"a": 1}}, 400, GO.format("object", "prompt", "string"), None),
        ({"max_tokens": "x"}, 400, GO.format("string", "max_tokens", "int"), None),
        ({"stop": [1]}, 400, "invalid type for 'stop' field: float64", "stop"),
        ({"stop": ["a", None]}, 400, "invalid type for 'stop' field: <nil>", "stop"),
        ({"stop": {}}, 400, "invalid type for 'stop' field: map[string]interface {}", "stop"),
        ({"logprobs": 21}, 400, "top_logprobs must be between 0 and 20", None),
        ({"logprobs": -1}, 400, "top_logprobs must be between 0 and 20", None),
        ({"echo": True, "logprobs": 0}, 400, "'echo' together with 'logprobs' is not supported by this server", "echo"),
        ({"n": 0}, 400, "n must be between 1 and 16", "n"),
        ({"n": 17}, 400, "n must be between 1 and 16", "n"),
        ({"prompt": ["x"] * 43, "n": 3}, 400, "prompt and n must not ask for more than 128 texts", "prompt"),
        ({"logit_bias": {"the": 1}}, 400, "logit_bias: 'the' is not the number of a token", "logit_bias"),
        ({"logit_bias": {"1": 101}}, 400, "logit_bias: 101 is not between -100 and 100", "logit_bias"),
        ({"options": {"num_ctx": "x"}}, 400, 'option "num_ctx" must be of type integer', None),
        ({"keep_alive": "5"}, 400, 'time: missing unit in duration "5"', None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [True, False])
def test_mistakes_have_an_answer(real, fields, status, message, param, stream):
    response = real.post(COMPLETIONS, {**ONCE, "stream": stream, **fields})
    assert response.status_code == status
    told = error_of(response)
    assert (told["message"], told["param"]) == (message, param)
    assert told["type"] == {400: "invalid_request_error", 404: "not_found_error"}[status]


def test_a_prompt_that_is_too_long_is_refused(sdk):
    for stream in (True, False):
        with pytest.raises(openai.BadRequestError, match="maximum context length is 512 tokens") as refused:
            sdk.completions.create(**ONCE | {"prompt": "word " * 600, "echo": True}, stream=stream)
        assert refused.value.code == "context_length_exceeded"


def test_what_fails_before_a_word_has_its_status(puppet):
    for stream in (True, False):
        response = puppet.post(COMPLETIONS, {"model": "m", "prompt": "refuse:418", "stream": stream, "n": 2})
        assert response.status_code == 418
        assert error_of(response)["message"] == "refused as told"


def test_what_fails_in_the_middle_ends_the_stream(puppet):
    frames = puppet.post(COMPLETIONS, {"model": "m", "prompt": "break:2", "stream": True}).text.split("\n\n")
    assert len(frames) == 4
    assert json.loads(frames[2].removeprefix("data: "))["error"]["message"] == "broke as told"
    with official(puppet) as client, pytest.raises(openai.APIError, match="broke as told"):
        list(client.completions.create(model="m", prompt="break:2", stream=True))


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_stops_all_its_texts(puppet, stream):
    body = {"model": "m", "prompt": ["forever"] * 3, "stream": stream}
    with send_request(puppet, COMPLETIONS, body):
        until(lambda: puppet.loaded() and open_streams(puppet) == 3)
    until(lambda: open_streams(puppet) == 0)
    assert said(puppet, "say:still here")["choices"][0]["text"] == "still here"


# ---- embeddings ----


@pytest.fixture
def scripted_embedder(puppet, tmp_path):
    """A server whose engine does as the texts say that the model `words` is to embed."""
    # of a tokenizer that need not be asked: the engine gets short texts as they are
    puppet.create("words", tiny_gguf(tmp_path / "words.gguf", **{"tokenizer.ggml.model": "gpt2"}))
    return puppet


def embedded(api, given, **fields):
    return api.post(EMBEDDINGS, {"model": "mini", "input": given, **fields})


def native(api, given, **fields):
    """What /api/embed says of the same."""
    return api.post("/api/embed", {"model": "mini", "input": given, **fields}).json()


def vectors(reply):
    """Of a reply in either format."""
    rows = [item["embedding"] for item in reply.json()["data"]]
    return np.array([np.frombuffer(b64decode(row), "<f4") if isinstance(row, str) else row for row in rows])


@pytest.mark.parametrize("fields", [{}, {"encoding_format": "Float"}, {"encoding_format": "base64"}])
@pytest.mark.parametrize("more", [{}, {"dimensions": 64}, {"dimensions": 10**6}, {"options": {"num_ctx": 6}}])
def test_vectors_are_those_of_ollamas_own_api(embedder, fields, more):
    expected = native(embedder, TEXTS, **more)
    response = embedded(embedder, TEXTS, **fields, **more)
    np.testing.assert_allclose(vectors(response), expected["embeddings"], atol=NEARLY)
    reply = response.json()
    assert list(reply) == ["object", "data", "model", "usage"]
    assert [list(item) for item in reply["data"]] == [["object", "embedding", "index"]] * 3
    assert [item["index"] for item in reply["data"]] == [0, 1, 2]
    assert (reply["object"], reply["model"]) == ("list", "mini")
    tokens = expected["prompt_eval_count"]
    assert reply["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}


@pytest.mark.parametrize("fields", [{}, {"encoding_format": "float"}, {"dimensions": 8}])
def test_the_official_client_embeds(embedder, fields):
    """It asks for base64 if it is not told otherwise, and reads it."""
    with official(embedder) as client:
        reply = client.embeddings.create(model="mini", input=TEXTS, **fields)
    more = {key: value for key, value in fields.items() if key == "dimensions"}
    rows = [item.embedding for item in reply.data]
    np.testing.assert_allclose(rows, native(embedder, TEXTS, **more)["embeddings"], atol=NEARLY)


@pytest.mark.parametrize(
    ("encoding", "first", "second"),
    [
        ("float", "[0.0,0.6,0.8]", "[0.62469506,0.4685213,0.62469506]"),
        ("base64", '"AAAAAJqZGT/NzEw/"', '"BOwfPwbi7z4E7B8/"'),
    ],
)
def test_numbers_are_told_to_the_last_digit(scripted_embedder, encoding, first, second):
    response = embedded(scripted_embedder, ["", "abcd"], model="words", encoding_format=encoding)
    assert response.text == (
        f'{{"object":"list","data":[{{"object":"embedding","embedding":{first},"index":0}},'
        f'{{"object":"embedding","embedding":{second},"index":1}}],'
        '"model":"words","usage":{"prompt_tokens":10,"total_tokens":10}}\n'
    )


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_a_reply_of_many_vectors_arrives_whole(scripted_embedder, encoding):
    """In several pieces: 30000 vectors of three numbers, in the order of their texts."""
    texts = ["x" * (number % 7) for number in range(30000)]
    response = embedded(scripted_embedder, texts, model="words", encoding_format=encoding)
    firsts = np.array([len(text) for text in texts])
    np.testing.assert_allclose(vectors(response)[:, 0], firsts / np.sqrt(firsts**2 + 25), atol=1e-6)
    assert [item["index"] for item in response.json()["data"]] == list(range(30000))


def test_an_empty_text_is_one(embedder):
    assert vectors(embedded(embedder, "")).shape == vectors(embedded(embedder, [""])).shape == (1, 384)


def test_a_long_text_loses_its_end(embedder):
    assert embedded(embedder, "word " * 600).json()["usage"]["prompt_tokens"] == 512


def test_a_compressed_list_of_texts_is_read(embedder):
    body = zstandard.compress(json.dumps({"model": "mini", "input": TEXTS}).encode())
    response = embedder.http.post(EMBEDDINGS, content=body, headers={"Content-Encoding": "zstd"})
    assert len(response.json()["data"]) == 3


FORMAT = "Invalid value for 'encoding_format' = hex. Supported values: ['float', 'base64']."


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({}, 400, "invalid input"),
        ({"input": None}, 400, "invalid input"),
        ({"input": []}, 400, "invalid input"),
        ({"input": 5}, 400, "invalid input type"),
        ({"input": [15339, 1917]}, 400, "invalid input type"),  # tokens of whom nobody knows
        ({"input": [[15339, 1917]]}, 400, "invalid input type"),
        ({"input": {"text": "a"}}, 400, "invalid input type"),
        ({"input": "a", "encoding_format": "hex"}, 400, FORMAT),
        ({"input": "a", "model": None}, 404, "model '' not found"),
        ({"input": "a", "model": "nope"}, 404, 'model "nope" not found, try pulling it first'),
        ({"input": "a", "model": "bad name!"}, 400, "invalid model name"),
        ({"input": "a", "options": {"num_ctx": 1}}, 400, "input after truncation exceeds maximum context length"),
        ({"input": "a", "dimensions": "many"}, 400,
         "json: cannot unmarshal string into Go struct field EmbeddingsRequest.dimensions of type int"),
    ],
)  # fmt: skip
def test_mistakes_about_embeddings_have_an_answer(embedder, body, status, message):
    response = embedder.post(EMBEDDINGS, {"model": "mini", **body})
    assert response.status_code == status
    assert error_of(response)["message"] == message


@pytest.mark.parametrize(
    ("text", "status", "message"),
    [
        ("refuse:418", 418, "refused as told"),
        ("nan", 400, "embedding contains NaN or Inf values"),
        ("die", 400, "model runner has unexpectedly stopped"),
    ],
)
def test_what_the_engine_has_against_one_text_fails_the_request(scripted_embedder, text, status, message):
    response = embedded(scripted_embedder, ["fine", text], model="words")
    assert response.status_code == status
    assert error_of(response)["message"].startswith(message)


def test_a_client_that_leaves_stops_the_embedding(scripted_embedder):
    with send_request(scripted_embedder, EMBEDDINGS, {"model": "words", "input": "forever"}):
        until(lambda: scripted_embedder.loaded() and open_streams(scripted_embedder) == 1)
    until(lambda: open_streams(scripted_embedder) == 0)


# ---- models ----


FAR = "hf.co/bartowski/Some_Model-GGUF:Q4_K_M"


def test_the_official_client_lists_models(puppet):
    puppet.sdk.copy("m", FAR)
    puppet.sdk.copy("m", "me/mine:v1")
    with official(puppet) as client:
        told = {model.id: model for model in client.models.list()}
    assert list(told) == [row["name"] for row in puppet.http.get("/api/tags").json()["models"]]
    owners = {name: model.owned_by for name, model in told.items()}
    assert owners == {"m:latest": "library", FAR: "bartowski", "me/mine:v1": "me"}
    assert {model.object for model in told.values()} == {"model"}


@pytest.mark.parametrize("name", ["m", "M:latest", "me/mine:v1", FAR, FAR.lower()])
def test_the_official_client_finds_a_model_by_its_name(puppet, name):
    puppet.sdk.copy("m", FAR)
    puppet.sdk.copy("m", "me/mine:v1")
    with official(puppet) as client:
        assert client.models.retrieve(name).id == name
    encoded = puppet.http.get(f"/v1/models/{quote(name, safe='')}")
    plain = puppet.http.get(f"/v1/models/{name}")
    assert encoded.json() == plain.json()
    assert list(plain.json()) == ["id", "object", "created", "owned_by"]


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("nope", 404, "model 'nope:latest' not found"),
        ("hf.co/a/b:c", 404, "model 'hf.co/a/b:c' not found"),
        ("hf.co%2Fa%2Fb%3Ac", 404, "model 'hf.co/a/b:c' not found"),
        ("a//b", 400, "invalid model name"),
        ("a/b/c/d", 400, "invalid model name"),
        ("%20", 400, "model is required"),
        ("m:cloud", 403, "ollama cloud is disabled: remote model details are unavailable"),
    ],
)
def test_a_model_that_is_not_here_is_not_found(real, path, status, message):
    response = real.http.get(f"/v1/models/{path}")
    assert response.status_code == status
    assert error_of(response)["message"] == message


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/m", "/v1/models/me/mine"])
def test_models_are_looked_at_and_nothing_else(real, path):
    redirected = real.http.get(f"{path}/?a=b")
    assert (redirected.status_code, redirected.headers["location"]) == (301, f"{path}?a=b")
    refused = real.http.delete(path)
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET")


# ---- audio ----


@pytest.fixture(scope="module")
def hearing(real, tmp_path_factory):
    """A server with the model `ears`, which says that it takes audio."""
    real.create("ears", tiny_gguf(tmp_path_factory.mktemp("ears") / "m.gguf", **{"llama.audio.block_count": 1}))
    yield real
    real.sdk.delete("ears")


def test_the_official_client_is_told_that_a_model_does_not_hear(sdk):
    message = "registry.ollama.ai/library/smollm2:latest does not support audio"
    for response_format in ("json", "text"):
        with pytest.raises(openai.BadRequestError, match=message):
            sdk.audio.transcriptions.create(model="smollm2", file=WAV, response_format=response_format)


@pytest.mark.parametrize(
    ("form", "status", "message"),
    [
        ({"model": (None, "ears"), "file": WAV}, 400,
         "registry.ollama.ai/library/ears:latest takes audio, but this version of the server gives it none"),
        ({"model": (None, "nope"), "file": WAV}, 404, "model 'nope' not found"),
        ({"model": (None, "bad name!"), "file": WAV}, 400, "invalid model name"),
        ({"file": WAV}, 400, "model is required"),
        ({"model": (None, ""), "file": WAV}, 400, "model is required"),
        ({"model": ("a.txt", b"ears"), "prompt": (None, "Hi")}, 400, "model is required"),
        ({"model": (None, "ears")}, 400, "file is required: http: no such file"),
        ({"model": (None, "ears"), "file": (None, "RIFF")}, 400, "file is required: http: no such file"),
        ({"model": (None, "ears"), "file": ("a.wav", b"")}, 400, "audio file is empty"),
        ({"model": (None, "ears"), "file": WAV, "more": WAV}, 400,
         "failed to parse multipart form: Too many files. Maximum number of files is 1."),
        ({"file": WAV} | {f"field{n}": (None, "") for n in range(MAX_FIELDS + 1)}, 400,
         f"failed to parse multipart form: Too many fields. Maximum number of fields is {MAX_FIELDS}."),
        ({"model": (None, "m" * (1 << 21)), "file": WAV}, 400,
         "failed to parse multipart form: Part exceeded maximum size of 1024KB."),
        ({"model": (None, "ears"), "file": ("a.wav", b"R" * (MAX_FILE_BYTES + 1))}, 400,
         f"audio file is too large: more than {MAX_FILE_BYTES} bytes"),
        ({"model": (None, "ears"), "file": ("a.wav", b"R" * MAX_BODY_BYTES)}, 400,
         f"audio file is too large: more than {MAX_FILE_BYTES} bytes"),
    ],
)  # fmt: skip
def test_a_form_is_looked_at(hearing, form, status, message):
    response = hearing.http.post(TRANSCRIPTIONS, files=form)
    assert response.status_code == status
    assert error_of(response)["message"] == message


MULTIPART = "multipart/form-data"


@pytest.mark.parametrize(
    ("content_type", "message"),
    [
        ("application/json", "request Content-Type isn't multipart/form-data"),
        ("application/x-www-form-urlencoded", "request Content-Type isn't multipart/form-data"),
        (MULTIPART, "Missing boundary in multipart."),
        (f"{MULTIPART}; boundary=x", "Invalid multipart data."),
    ],
)
def test_what_is_no_form_is_told_so(real, content_type, message):
    response = real.http.post(TRANSCRIPTIONS, content=b"model=m", headers={"Content-Type": content_type})
    assert response.status_code == 400
    assert error_of(response)["message"] == f"failed to parse multipart form: {message}"


PARTS = st.sampled_from(
    [b"--x\r\n", b"--x--", b"--", b"x", b"\r\n", b"\r\n\r\n", b"\n", b"Content-Disposition: form-data", b"; name=",
     b'"model"', b'"file"', b'; filename="a"', b"; filename*=utf-8''%ff", b":", b"smollm2", b"\xff\x00", b"Content-Type: "]
)  # fmt: skip


@given(st.lists(PARTS, max_size=30).map(b"".join), st.sampled_from(["x", '"x"', '""', "x" * 200, "\xff", "a b"]))
@settings(
    max_examples=300, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)
def test_no_form_is_too_odd_to_be_answered(real, content, boundary):
    headers = {"Content-Type": f"{MULTIPART}; boundary={boundary}".encode("latin-1")}
    response = real.http.post(TRANSCRIPTIONS, content=content, headers=headers)
    assert 400 <= response.status_code < 500
    assert error_of(response)["message"]


def test_a_compressed_body_may_come_in_several_frames(puppet):
    plain = json.dumps({"model": "m", "prompt": "say:hi"}).encode()
    body = zstandard.compress(plain[:10]) + zstandard.compress(plain[10:])
    response = puppet.http.post(COMPLETIONS, content=body, headers={"Content-Encoding": "zstd"})
    assert response.status_code == 200


def test_a_form_in_a_charset_that_is_none_is_the_clients_fault(puppet):
    headers = {"Content-Type": "multipart/form-data; boundary=X; charset=undefined"}
    part = b'--X\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--X--\r\n'
    response = puppet.http.post("/v1/audio/transcriptions", content=part, headers=headers)
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith("failed to parse multipart form: ")


def test_many_texts_take_turns_and_leave_the_queue_to_others(scripted):
    api = scripted(OLLAMA_NUM_PARALLEL="2", OLLAMA_MAX_QUEUE="4")
    body = {"model": "m", "messages": [{"role": "user", "content": "say:hi"}], "n": 16}
    response = api.post("/v1/chat/completions", body)
    assert response.status_code == 200
    assert len(response.json()["choices"]) == 16
