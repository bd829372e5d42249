"""Where a model is looked for, and what a URL of a GGUF file means."""

import pytest

from a3s_power.errors import InvalidRequest
from a3s_power.names import ModelName
from a3s_power.service.places import CATALOGUE, FileURL, Place, file_url, places

HF = "https://huggingface.co"


def paths(text):
    return file_url(text).paths


def model(text):
    return file_url(text).name.display


# ---- names ----


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nobody-knows-it", ["registry.ollama.ai/library/nobody-knows-it:latest"]),
        ("qwen3:8b", ["registry.ollama.ai/library/qwen3:8b", "hf.co/Qwen/Qwen3-8B-GGUF:Q4_K_M"]),
        ("qwen3", ["registry.ollama.ai/library/qwen3:latest", "hf.co/Qwen/Qwen3-8B-GGUF:Q4_K_M"]),
        ("qwen3:no-such-tag", ["registry.ollama.ai/library/qwen3:no-such-tag"]),
        ("user/qwen3:8b", ["registry.ollama.ai/user/qwen3:8b", "hf.co/user/qwen3:8b"]),
        ("hf.co/user/qwen3:8b", ["hf.co/user/qwen3:8b"]),
        ("huggingface.co/user/repo", ["huggingface.co/user/repo:latest"]),
        ("localhost:5000/library/qwen3:8b", ["localhost:5000/library/qwen3:8b"]),
    ],
)
def test_only_a_name_without_a_host_has_more_than_one_place(name, expected):
    assert [str(place) for place in places(ModelName.parse(name))] == expected


@pytest.mark.parametrize("known", CATALOGUE)
def test_every_entry_of_the_catalogue_is_a_name_and_leads_to_hugging_face(known):
    place = places(ModelName.parse(known))[1]
    there = ModelName.parse(f"hf.co/{CATALOGUE[known]}")
    assert place == Place("hf.co", f"{there.namespace}/{there.model}", there.tag)
    assert there.tag == CATALOGUE[known].rpartition(":")[2]


def test_an_entry_without_a_tag_is_one_of_those_with_a_tag():
    for name, repository in CATALOGUE.items():
        sizes = [CATALOGUE[known] for known in CATALOGUE if known.startswith(f"{name}:")]
        assert ":" in name or not sizes or repository in sizes


# ---- URLs ----


@pytest.mark.parametrize(
    "text",
    ["", "llama3.2", "hf.co/user/m.gguf", "http://localhost:5000/ns/model", "https://h/m.safetensors", "ftp://h/m.gguf",
     "file:///etc/m.gguf", "https://h/?m.gguf", "https://h/#m.gguf", "https://h.gguf", "m.gguf"],
)  # fmt: skip
def test_anything_else_is_no_files_url(text):
    assert file_url(text) is None


def test_a_url_is_taken_apart():
    name = ModelName.parse("m")
    assert file_url(" HTTPS://Files.example:8443/a/m.gguf?x=1&y=2#page ") == FileURL(
        "https", "Files.example:8443", ("/a/m.gguf?x=1&y=2",), name
    )
    assert file_url("http://[::1]:80/m.gguf") == FileURL("http", "[::1]:80", ("/m.gguf",), name)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("https://user:secret@h/m.gguf", "without a user or a password"),
        ("https://token@huggingface.co/m.gguf", "without a user or a password"),
        ("https:///m.gguf", "expected https://host/path/file.gguf"),
        ("https://:443/m.gguf", "expected https://host/path/file.gguf"),
        ("https://[::1/m.gguf", "no URL"),
        ("https://exa℀mple/m.gguf", "no URL"),
        ("https://h/.gguf", "no name that a model could have"),
        ("https://h/..gguf", "no name that a model could have"),
        ("https://h/%E4%BD%A0.gguf", "no name that a model could have"),
        ("https://h/m-00001-of-00000.gguf", "a file in 0 parts"),
        ("https://h/m-00001-of-01001.gguf", "a file in 1001 parts; at most 1000"),
    ],
)
def test_a_url_that_cannot_be_asked_is_refused(text, words):
    with pytest.raises(InvalidRequest, match=words):
        file_url(text)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (f"{HF}/user/repo/blob/main/m.gguf", "/user/repo/resolve/main/m.gguf"),
        ("https://HF.co/user/repo/blob/main/a/m.gguf?x=1", "/user/repo/resolve/main/a/m.gguf?x=1"),
        (f"{HF}/user/repo/resolve/main/m.gguf", "/user/repo/resolve/main/m.gguf"),
        (f"{HF}/user/repo/resolve/main/blob/m.gguf", "/user/repo/resolve/main/blob/m.gguf"),
        ("https://files.example/user/repo/blob/main/m.gguf", "/user/repo/blob/main/m.gguf"),
    ],
)
def test_hugging_faces_page_about_a_file_means_the_file(text, path):
    assert paths(text) == (path,)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://h/m-00001-of-00001.gguf", ("/m-00001-of-00001.gguf",)),
        ("https://h/a/m-00001-of-00002.GGUF?x", ("/a/m-00001-of-00002.GGUF?x", "/a/m-00002-of-00002.GGUF?x")),
        ("https://h/m-00002-of-00003.gguf", ("/m-00002-of-00003.gguf",)),
        ("https://h/m-0001-of-0002.gguf", ("/m-0001-of-0002.gguf",)),
        ("https://h/m-٠٠٠٠١-of-00002.gguf", ("/m-٠٠٠٠١-of-00002.gguf",)),
        ("https://h/x-00001-of-00002.gguf/m.gguf", ("/x-00001-of-00002.gguf/m.gguf",)),
    ],
)
def test_the_first_of_several_parts_stands_for_all(text, expected):
    assert paths(text) == expected


def test_as_many_parts_as_are_taken():
    assert paths("https://h/m-00001-of-01000.gguf")[-1] == "/m-01000-of-01000.gguf"


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("SmolLM2-135M.Q4_1.gguf", "SmolLM2-135M.Q4_1:latest"),
        ("m.GGUF", "m:latest"),
        ("m.Gguf", "m:latest"),
        ("m.gguf.gguf", "m.gguf:latest"),
        ("m-Q8_0-00001-of-00002.gguf", "m-Q8_0:latest"),
        ("my%20own%20%2Fmodel.gguf", "my-own-model:latest"),
        ("a:b@c$d.gguf", "a-b-c-d:latest"),
        ("--..x.gguf", "x:latest"),
        ("%2e%2e%2f%2e%2e%2fetc.gguf", "etc:latest"),
        ("naïve.gguf", "na-ve:latest"),
        (f"{'x' * 200}.gguf", f"{'x' * 80}:latest"),
    ],
)
def test_a_model_is_called_after_the_file_as_far_as_a_name_can_be(file, name):
    assert model(f"https://h/folder/{file}") == name
    assert ModelName.parse(name) == file_url(f"https://h/folder/{file}").name
