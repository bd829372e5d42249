"""Pictures, from a client to the model's answer: a small real model that sees colours and shapes."""

import base64
import io
import json
import os
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor

import anthropic
import openai
import pytest
from PIL import Image

from tests.support.engines import BARE_ENGINE, family_of
from tests.support.pictures import (
    PROJECTOR,
    TOKENS,
    Drawing,
    base64_of,
    encoded,
    fresh_drawings,
    unload,
)

COLOR = "What color is the shape?"
DESCRIBE = "Describe the picture."
BACKGROUND = "What color is the background?"
BRIEF = {"temperature": 0, "num_predict": 8}
"""Enough for what is asked: `The picture shows a red circle on a`."""

RED = Drawing("red", "circle")
BLUE = Drawing("blue", "square")
GREEN = Drawing("green", "triangle")
YELLOW = Drawing("yellow", "circle", background="blue")

TURNS = "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
TOOLS = "{{ if .Tools }}<|im_start|>system\n{{ json .Tools }}<|im_end|>\n{{ end }}"
CALLS = "{{ if .ToolCalls }}<tool_call>{{ range .ToolCalls }}{{ json .Function }}{{ end }}</tool_call>{{ end }}"
TEMPLATES = {"see-go": TURNS, "see-tools": TOOLS + TURNS.replace("{{ .Content }}", "{{ .Content }}" + CALLS)}

BOTH = pytest.mark.parametrize("model", ["see", "see-go"])
"""The engine's own template, and a Go template."""


@pytest.fixture(scope="module")
def api(seeing):
    """A server with `see` and its likes, which have Go templates. They share one engine."""
    for name, template in TEMPLATES.items():
        body = {"model": name, "from": "see", "template": template, "stream": False}
        assert seeing.post("/api/create", body).status_code == 200
    yield seeing
    for name in TEMPLATES:
        seeing.sdk.delete(name)


def user(content, *pictures):
    return {"role": "user", "content": content, "images": [base64_of(picture) for picture in pictures]}


def chat(api, *messages, model="see", **more):
    """The reply."""
    body = {"model": model, "messages": messages, "stream": False, "options": BRIEF, **more}
    response = api.post("/api/chat", body)
    assert response.status_code == 200, response.text
    return response.json()


def answer(api, *messages, **more):
    return chat(api, *messages, **more)["message"]["content"]


def generate(api, prompt, *pictures, model="see", **more):
    """The response, whatever it is."""
    images = [base64_of(picture) for picture in pictures]
    body = {"model": model, "prompt": prompt, "images": images, "stream": False, "options": BRIEF, **more}
    return api.post("/api/generate", body)


# ---- what is seen ----


def bare_answers(drawings, smollm2_gguf):
    """What the engine says to the same, asked by itself."""
    urls = (f"data:image/png;base64,{base64_of(drawing.png)}" for drawing in drawings)
    contents = [
        [{"type": "text", "text": DESCRIBE}, {"type": "image_url", "image_url": {"url": url}}] for url in urls
    ]
    bodies = [
        {"model": "x", "messages": [{"role": "user", "content": content}], "temperature": 0, "max_tokens": 8}
        for content in contents
    ]
    told = subprocess.run(
        [sys.executable, BARE_ENGINE, str(smollm2_gguf), str(PROJECTOR)],
        input=json.dumps(bodies),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "GOMP_SPINCOUNT": "2000"},
    )
    return json.loads(told.stdout)


def test_what_is_in_fresh_pictures_is_told_as_by_the_engine_itself(api, smollm2_gguf):
    drawings = list(fresh_drawings(seed=20261123))

    def told_by_both(drawing):
        messages = [{"role": "user", "content": DESCRIBE, "images": [drawing.png]}]
        in_chat = api.sdk.chat("see", messages, options=BRIEF).message.content
        return in_chat, api.sdk.generate("see", DESCRIBE, images=[drawing.png], options=BRIEF).response

    with ThreadPoolExecutor(4) as clients:
        chats, responses = map(list, zip(*clients.map(told_by_both, drawings), strict=True))
    unload(api, "see")
    assert chats == responses == bare_answers(drawings, smollm2_gguf)
    seen = [told.removesuffix(" on a").split() for told in chats]
    assert len(drawings) == 48
    assert sum(drawing.color in words for drawing, words in zip(drawings, seen, strict=True)) >= 0.95 * 48
    assert sum(drawing.shape in words for drawing, words in zip(drawings, seen, strict=True)) >= 0.85 * 48


@BOTH
def test_every_picture_of_a_message_takes_its_tokens(api, model):
    blind, one, two = (
        chat(api, user(COLOR, *[drawing.png for drawing in drawings]), model=model)
        for drawings in ([], [RED], [RED, BLUE])
    )
    assert one["message"]["content"] == "The shape is red."
    assert one["prompt_eval_count"] == blind["prompt_eval_count"] + TOKENS
    assert two["prompt_eval_count"] == blind["prompt_eval_count"] + 2 * TOKENS


@BOTH
@pytest.mark.parametrize("drawing", [RED, BLUE])
def test_a_picture_of_an_earlier_turn_is_still_seen(api, model, drawing):
    said = [user("Look at this.", drawing.png), {"role": "assistant", "content": "I do."}, user(COLOR)]
    assert answer(api, *said, model=model) == f"The shape is {drawing.color}."


def test_the_picture_of_the_last_turn_is_the_one_that_is_asked_about(api):
    said = [user(COLOR, RED.png), {"role": "assistant", "content": "The shape is red."}, user(COLOR, BLUE.png)]
    assert answer(api, *said) == "The shape is blue."


def test_a_picture_without_a_word_is_described(api):
    described = "The picture shows a blue square on a white background."
    assert answer(api, user("", BLUE.png), options={"temperature": 0, "num_predict": 16}) == described


@BOTH
def test_a_stream_tells_the_same(api, model):
    body = {"model": model, "messages": [user(COLOR, GREEN.png)], "options": BRIEF}
    *lines, last = api.lines("/api/chat", body)
    assert "".join(line["message"]["content"] for line in lines) == "The shape is green."
    assert last["prompt_eval_count"] > TOKENS


def test_four_clients_at_once_are_told_of_their_own_pictures(api):
    drawings = [RED, BLUE, GREEN, YELLOW] * 2
    with ThreadPoolExecutor(4) as clients:
        told = list(clients.map(lambda drawing: answer(api, user(COLOR, drawing.png)), drawings))
    assert told == [f"The shape is {drawing.color}." for drawing in drawings]


def test_logprobs_are_of_what_is_said(api):
    reply = chat(api, user(COLOR, GREEN.png), logprobs=True)
    assert "".join(token["token"] for token in reply["logprobs"]) == reply["message"]["content"]
    assert reply["message"]["content"] == "The shape is green."


COLORS = {"type": "object", "properties": {"color": {"enum": ["red", "blue", "green"]}}, "required": ["color"]}


@BOTH
@pytest.mark.parametrize("drawing", [RED, GREEN])
def test_an_answer_about_a_picture_may_have_a_format(api, model, drawing):
    options = {"temperature": 0, "num_predict": 40}
    told = answer(api, user(COLOR, drawing.png), model=model, format=COLORS, options=options)
    assert json.loads(told) == {"color": drawing.color}


TELL = {"type": "function", "function": {"name": "tell", "description": "Tell a color", "parameters": COLORS}}


def test_a_model_with_tools_sees_as_well(api):
    told = answer(api, user(COLOR, BLUE.png), model="see-tools", tools=[TELL])
    assert told == "The shape is blue."
    body = {
        "model": "see-tools",
        "messages": [{"role": "user", "content": [text_part(COLOR), picture_part(BLUE.png)]}],
        "tools": [TELL],
        "tool_choice": "required",
        "temperature": 0,
        "max_tokens": 60,
    }
    (call,) = api.post("/v1/chat/completions", body).json()["choices"][0]["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"color": "blue"}


def test_what_sees_says_so(api):
    assert api.sdk.show("see").capabilities == ["completion", "vision"]
    rows = {row["name"]: row["capabilities"] for row in api.http.get("/api/tags").json()["models"]}
    assert rows["see:latest"] == ["completion", "vision"]
    assert rows["see-tools:latest"] == ["completion", "vision", "tools"]
    assert rows["smollm2:latest"] == ["completion"]


# ---- what is sent ----


def with_orientation(image, orientation):
    """A JPEG that says how it is to be turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, "JPEG", quality=95, exif=exif)


def animated(*images):
    return encoded(images[0], "GIF", save_all=True, append_images=images[1:], duration=100)


@pytest.mark.parametrize(
    "picture",
    [
        pytest.param(RED.png, id="PNG"),
        pytest.param(encoded(RED.image, "JPEG"), id="JPEG"),
        pytest.param(encoded(RED.image, "JPEG", progressive=True), id="progressive JPEG"),
        pytest.param(encoded(RED.image.convert("CMYK"), "JPEG"), id="JPEG in CMYK"),
        pytest.param(encoded(RED.image, "WEBP"), id="WebP"),
        pytest.param(encoded(RED.image, "WEBP", lossless=True), id="lossless WebP"),
        pytest.param(encoded(RED.image, "GIF"), id="GIF"),
        pytest.param(animated(RED.image, BLUE.image), id="the first frame of a GIF"),
        pytest.param(encoded(RED.image, "BMP"), id="BMP"),
        pytest.param(encoded(RED.image.convert("P")), id="PNG with a palette"),
        pytest.param(encoded(RED.image.convert("RGBA")), id="PNG with an alpha channel"),
        pytest.param(encoded(RED.image.resize((3000, 2000)), "JPEG"), id="6 megapixels"),
    ],
)
def test_every_format_is_seen(api, picture):
    assert answer(api, user(COLOR, picture)) == "The shape is red."


def test_what_is_transparent_is_white_whatever_is_hidden_there(api):
    hidden = Drawing("red", "circle", background="green").image
    mask = Drawing("white", "circle", background="black").image.convert("L")
    hidden.putalpha(mask.point(lambda value: 255 * (value > 128)))
    assert answer(api, user(BACKGROUND, encoded(hidden))) == "The background is white."
    assert answer(api, user(BACKGROUND, encoded(hidden.convert("RGB")))) == "The background is green."


def test_a_picture_that_says_it_lies_on_its_side_is_seen_upright(api):
    """By how sure the model is of each token, to which a picture turned by 90 degrees makes a difference."""

    def certainty(picture):
        return [token["logprob"] for token in chat(api, user(DESCRIBE, picture), logprobs=True)["logprobs"]]

    image = Drawing("blue", "triangle", x=0.4, y=0.45).image
    lying = image.transpose(Image.Transpose.ROTATE_90)
    upright = pytest.approx(certainty(encoded(image, "JPEG", quality=95)), abs=0.02)
    assert certainty(with_orientation(lying, 6)) == upright
    assert certainty(with_orientation(lying, 1)) != upright


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,", "data:;base64,", "data:image/gif;base64,"])
def test_base64_may_have_the_prefix_of_a_data_url(api, prefix):
    message = {"role": "user", "content": COLOR, "images": [prefix + base64_of(RED.png)]}
    assert answer(api, message) == "The shape is red."
    body = {"model": "see", "prompt": COLOR, "images": message["images"], "stream": False, "options": BRIEF}
    assert api.post("/api/generate", body).json()["response"] == "The shape is red."


# ---- where pictures stand in a prompt ----

RAW = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


def test_a_raw_prompt_says_where_its_picture_stands(api):
    inside = generate(api, RAW.format("[img]" + COLOR), RED.png, raw=True).json()
    without = generate(api, RAW.format(COLOR), raw=True).json()
    assert inside["response"] == "The shape is red."
    assert inside["prompt_eval_count"] == without["prompt_eval_count"] + TOKENS
    before = generate(api, RAW.format(COLOR), RED.png, raw=True).json()  # as Ollama: before all else
    assert before["prompt_eval_count"] == inside["prompt_eval_count"]


def test_a_template_of_the_request_s_own_takes_pictures(api):
    told = generate(api, COLOR, RED.png, template=RAW.format("{{ .Prompt }}"))
    assert told.json()["response"] == "The shape is red."


@pytest.mark.parametrize("template, places", [("Hi", 0), ("{{ .Prompt }} {{ .Prompt }}", 2)])
def test_a_template_that_loses_a_picture_is_refused(api, template, places):
    refused = generate(api, COLOR, RED.png, template=template)
    assert refused.status_code == 400
    assert refused.json() == {"error": f"the template has {places} places for 1 images"}


def test_a_context_brings_no_pictures_and_takes_new_ones(api):
    first = generate(api, COLOR, RED.png).json()
    again = generate(api, COLOR, BLUE.png, context=first["context"])
    assert again.json()["response"] == "The shape is blue."
    # Nor does it bring what marks their places: some 35 tokens, which nobody may know.
    assert len(first["context"]) <= first["prompt_eval_count"] - TOKENS + first["eval_count"] + 1


@BOTH
def test_what_the_model_would_see_can_be_looked_at(api, model):
    messages = [user(COLOR, RED.png), {"role": "assistant", "content": "Yes."}, user(COLOR, GREEN.png)]
    shown = chat(api, *messages, model=model, _debug_render_only=True)["_debug_info"]
    first, between, second = map(shown["rendered_template"].index, ("[img-0]", "Yes.", "[img-1]"))
    assert first < between < second
    assert shown["image_count"] == 2
    assert "media" not in shown["rendered_template"]


@BOTH
@pytest.mark.parametrize("words", ["<__media__>", f"<__media_{'0' * 32}__>", "[img-0]", "<image>"])
def test_what_looks_like_the_place_of_a_picture_is_text(api, model, words):
    without = chat(api, user(f"{words} {COLOR}"), model=model)
    with_one = chat(api, user(f"{words} {COLOR}", RED.png), model=model)
    assert with_one["prompt_eval_count"] == without["prompt_eval_count"] + TOKENS
    assert with_one["message"]["content"] == "The shape is red."


@BOTH
def test_a_conversation_that_is_too_long_loses_whole_turns_with_their_pictures(api, model):
    filling = "Look at this picture closely. " * 60
    turns = [
        message
        for drawing in (GREEN, BLUE, YELLOW, GREEN, BLUE, YELLOW)
        for message in (user(filling, drawing.png), {"role": "assistant", "content": "I do."})
    ]
    asked = [*turns, user(COLOR, RED.png)]
    shown = chat(api, *asked, model=model, _debug_render_only=True)["_debug_info"]
    kept = shown["rendered_template"].count("<|im_start|>user")
    assert 0 < shown["image_count"] == kept < 7
    reply = chat(api, *asked, model=model)
    assert reply["truncated"] is True
    assert reply["message"]["content"] == "The shape is red."
    whole = chat(api, *asked[-2 * kept + 1 :], model=model)
    assert reply["prompt_eval_count"] == whole["prompt_eval_count"]
    refused = api.post("/api/chat", {"model": model, "messages": asked, "truncate": False})
    assert refused.status_code == 400
    assert "2048 available" in refused.json()["error"]


# ---- OpenAI and Anthropic ----


def text_part(text):
    return {"type": "text", "text": text}


def picture_part(png):
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64_of(png)}"}}


def block(png):
    return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": base64_of(png)}}


@pytest.fixture
def openai_client(api):
    with openai.OpenAI(base_url=f"{api.server.url}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture
def anthropic_client(api):
    with anthropic.Anthropic(base_url=api.server.url, api_key="any", max_retries=0) as client:
        yield client


def test_openai_s_client_is_told_what_is_seen(openai_client):
    messages = [{"role": "user", "content": [picture_part(YELLOW.png), text_part(COLOR)]}]
    create = openai_client.chat.completions.create
    whole = create(model="see", messages=messages, temperature=0, max_tokens=8)
    assert whole.choices[0].message.content == "The shape is yellow."
    assert whole.usage.prompt_tokens > TOKENS
    with create(model="see", messages=messages, temperature=0, max_tokens=8, stream=True) as chunks:
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "The shape is yellow."


def test_a_turn_that_repeats_a_picture_finds_it_in_the_cache(openai_client):
    def ask(*messages):
        return openai_client.chat.completions.create(model="see", messages=messages, temperature=0, max_tokens=8)

    first = {"role": "user", "content": [text_part(COLOR), picture_part(GREEN.png)]}
    reply = ask(first)
    said = {"role": "assistant", "content": reply.choices[0].message.content}
    second = ask(first, said, {"role": "user", "content": "What shape is in the picture?"})
    assert second.usage.prompt_tokens_details.cached_tokens >= reply.usage.prompt_tokens
    other = {"role": "user", "content": [text_part(COLOR), picture_part(BLUE.png)]}
    changed = ask(other, said, {"role": "user", "content": "What shape is in the picture?"})
    assert changed.usage.prompt_tokens_details.cached_tokens < reply.usage.prompt_tokens - TOKENS


def test_anthropic_s_client_is_told_what_is_seen(anthropic_client):
    asked = {"model": "see", "messages": [{"role": "user", "content": [block(YELLOW.png), text_part(COLOR)]}]}
    whole = anthropic_client.messages.create(**asked, max_tokens=8, extra_body={"temperature": 0})
    assert whole.content[0].text == "The shape is yellow."
    assert whole.usage.input_tokens > TOKENS
    with anthropic_client.messages.stream(**asked, max_tokens=8, extra_body={"temperature": 0}) as events:
        assert "".join(events.text_stream) == "The shape is yellow."


def test_what_a_tool_shows_is_seen(anthropic_client):
    use = {"type": "tool_use", "id": "call_1", "name": "look", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "call_1", "content": [block(BLUE.png)]}
    messages = [
        {"role": "user", "content": "Take a picture."},
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [result, text_part(COLOR)]},
    ]
    reply = anthropic_client.messages.create(
        model="see-tools", messages=messages, max_tokens=8, extra_body={"temperature": 0}
    )
    assert "blue" in reply.content[0].text


# ---- a model that cannot see ----

BLIND = {"model": "smollm2"}
NOT_SEEN = "registry.ollama.ai/library/smollm2:latest does not support vision"


@pytest.mark.parametrize("more", [{}, {"stream": False}, {"_debug_render_only": True}])
@pytest.mark.parametrize(
    "path, body",
    [
        ("/api/chat", {"messages": [user(COLOR, RED.png)]}),
        ("/api/chat", {"messages": [user("Hi", RED.png), user(COLOR)]}),
        ("/api/generate", {"prompt": COLOR, "images": [base64_of(RED.png)]}),
        ("/api/generate", {"prompt": "[img]", "raw": True, "images": [base64_of(RED.png)]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [picture_part(RED.png)]}]}),
        ("/v1/messages", {"max_tokens": 8, "messages": [{"role": "user", "content": [block(RED.png)]}]}),
        ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": [block(RED.png)]}]}),
    ],
)
def test_a_model_that_cannot_see_says_so(real, path, body, more):
    refused = real.post(path, BLIND | body | more)
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert (error if isinstance(error, str) else error["message"]) == NOT_SEEN


# ---- pictures by URL ----


@pytest.mark.parametrize(
    "path, part, told",
    [
        ("/v1/chat/completions", {"type": "image_url", "image_url": {"url": "http://localhost/a.png"}},
         "image URLs are not currently supported, please use base64 encoded data instead"),
        ("/v1/messages", {"type": "image", "source": {"type": "url", "url": "http://localhost/a.png"}},
         "invalid image source type: url. Only base64 images are supported."),
    ],
)  # fmt: skip
def test_urls_are_fetched_where_they_may_be_and_never_from_this_machine(scripted, path, part, told):
    body = {"model": "m", "max_tokens": 8, "messages": [{"role": "user", "content": [part]}]}
    switched_off = scripted().post(path, body)
    assert (switched_off.status_code, switched_off.json()["error"]["message"]) == (400, told)
    refused = scripted(A3S_POWER_IMAGE_URLS="localhost,images.example").post(path, body)
    assert refused.status_code == 400
    assert refused.json()["error"]["message"] == "cannot fetch a picture: localhost has no public address"


# ---- hostile files ----


def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_of(width, height, packed, *, bits=8):
    """With whatever stands for its pixels."""
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def zeros(megabytes):
    """Packed a thousandfold."""
    packer, out = zlib.compressobj(9), io.BytesIO()
    for _ in range(megabytes):
        out.write(packer.compress(bytes(2**20)))
    return out.getvalue() + packer.flush()


NO_PICTURE = {
    "a PNG cut short": (RED.png[:-100], "PNG picture is damaged or incomplete"),
    "a JPEG cut short": (encoded(RED.image, "JPEG")[:-200], "JPEG picture is damaged or incomplete"),
    "a WebP cut short": (encoded(RED.image, "WEBP")[:-20], "WebP picture is damaged or incomplete"),
    "a PNG's first bytes": (b"\x89PNG\r\n\x1a\n", "PNG picture is damaged or incomplete"),
    "400 megapixels in 50 kB": (png_of(20000, 20000, zeros(48), bits=1), "20000×20000 pixels|too many pixels"),
    "four billion pixels": (png_of(65535, 65535, b""), "65535×65535 pixels, more than"),
    "a GIF of as many": (b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2\0;", "65535|too many pixels"),
    "a line": (encoded(Image.new("L", (1, 100000))), "one side may be at most 200 times the other"),
    "HTML": (b"<!DOCTYPE html><html><img src=x></html>", "an HTML page, not a picture"),
    "HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC pictures are not supported; send PNG, JPEG, GIF"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG pictures are not supported"),
    "nothing": (b"", "the picture is empty"),
    "33 MiB": (RED.png + bytes(33 * 2**20), "larger than the 32 MiB allowed"),
}


@pytest.mark.parametrize("data, message", NO_PICTURE.values(), ids=NO_PICTURE)
def test_what_is_no_picture_is_told_which_and_why(api, data, message):
    response = api.post("/api/chat", {"model": "see", "messages": [user(COLOR, RED.png, data)], "stream": False})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error.startswith("image 2 of 2: ")
    assert any(words in error for words in message.split("|")), error


@pytest.mark.parametrize(
    "text, message",
    [
        ("!!!", "illegal base64 data at input byte 0"),
        ("iVBORw0K\0", "illegal base64 data at input byte 8"),
        ("abc", "illegal base64 data at input byte 3"),
        ("data:image/png;base64,%%%", "illegal base64 data at input byte 22"),
        (base64.b85encode(RED.png).decode(), "illegal base64 data at input byte"),
        ("http://images.example/a.png", "illegal base64 data at input byte 4"),
    ],
)
def test_what_is_no_base64_is_refused(api, text, message):
    messages = [{"role": "user", "content": COLOR, "images": [text]}]
    response = api.post("/api/chat", {"model": "see", "messages": messages})
    assert (response.status_code, response.json()["error"][: len(message)]) == (400, message)


def memory(api):
    """Of the server and its engines, in MiB."""
    return sum(process.memory_info().rss for process in family_of(api.server.process.pid)) / 2**20


def test_hostile_files_leave_the_server_as_it_was(api):
    """Some of these are pictures, if odd ones. What the first round takes for good, the second must not take again."""
    bomb = png_of(8, 8, zeros(256))  # 256 MiB in 250 kB, of which 72 bytes are wanted
    largest = png_of(8192, 6144, zeros(49))
    requests = [[data] for data, _ in NO_PICTURE.values()]
    requests += [[bomb], [largest], [RED.png] * 100, [bomb] * 10]

    def status(pictures):
        body = {"model": "see", "messages": [user(COLOR, *pictures)], "options": BRIEF, "stream": False}
        return api.post("/api/chat", body).status_code

    def one_round():
        with ThreadPoolExecutor(4) as clients:
            assert set(clients.map(status, requests)) == {200, 400}
        return [process.pid for process in family_of(api.server.process.pid)], memory(api)

    processes, before = one_round()
    still_there, after = one_round()
    assert still_there == processes
    assert after < before + 128
    assert answer(api, user(COLOR, BLUE.png)) == "The shape is blue."


def test_more_pictures_than_the_context_has_room_for_are_refused(api):
    refused = api.post("/api/chat", {"model": "see", "messages": [user(COLOR, *[RED.png] * 100)]})
    assert refused.status_code == 400
    assert "2048 available" in refused.json()["error"]
    assert answer(api, user(COLOR, BLUE.png)) == "The shape is blue."
