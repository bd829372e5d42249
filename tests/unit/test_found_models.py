"""The names under which found models come."""

from pathlib import Path

import pytest

from a3s_power.cli.found_models import Collection, Finds, named
from a3s_power.cli.gguf_sets import GGUFFile, GGUFSet, Kind
from a3s_power.cli.ollama_store import Blob, StoredModel
from a3s_power.cli.uploading import SourceFile
from a3s_power.names import ModelName


def collection(*files, publisher="", repository="", folder="/models/things", quantization="unknown"):
    models = []
    for file in files:
        path = Path(folder, file)
        models.append(GGUFSet((GGUFFile(path, Kind.MODEL, quantization, 1, identity=(0, hash(path))),)))
    return Collection("here", Path(folder), tuple(models), publisher, repository)


def stored_model(name, digest="sha256:1"):
    return StoredModel(ModelName.parse(name), (Blob("model", SourceFile(Path("/blobs"), digest), 1),))


def names_of(*collections, stored=()):
    models = tuple(("ollama", stored_model(*model.split("@"))) for model in stored)
    return [model.name.display for model in named(Finds(tuple(collections), models))]


@pytest.mark.parametrize(
    ("repository", "file", "name"),
    [
        ("Qwen2.5-7B-Instruct-GGUF", "Qwen2.5-7B-Instruct-Q4_K_M.gguf", "qwen2.5-7b-instruct:q4_k_m"),
        ("Qwen3-30B-A3B-GGUF", "Qwen3-30B-A3B-UD-Q4_K_XL.gguf", "qwen3-30b-a3b:ud-q4_k_xl"),
        ("gpt-oss-20b-GGUF", "gpt-oss-20b-mxfp4.gguf", "gpt-oss-20b:mxfp4"),
        ("Tiny_gguf", "tiny.fp16.gguf", "tiny:fp16"),
        ("GGUF-tests", "x.IQ4_XS-imat.gguf", "gguf-tests:iq4_xs"),
        ("Llama-f16-base", "Llama-F16-base-q8_0-00001-of-00002.gguf", "llama-f16-base:q8_0"),
        ("big", "q5_k_m.gguf", "big:q5_k_m"),
        ("Größe & mehr", "a.gguf", "gr-e-mehr:latest"),
        ("...", "Some Model.gguf", "some-model:latest"),
        ("数", "数.gguf", "things:latest"),
        ("x" * 100, "a-Q8_0.gguf", f"{'x' * 72}:q8_0"),
        ("a", f"a-Q8_{'0' * 100}.gguf", f"a:q8_{'0' * 69}"),
    ],
)
def test_a_model_of_a_repository_is_called_as_that_is(repository, file, name):
    assert names_of(collection(file, repository=repository)) == [name]
    ModelName.parse(name)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("SmolLM2-135M-Instruct-Q8_0.gguf", "smollm2-135m-instruct:q8_0"),
        ("stories.gguf", "stories:latest"),
        ("ggml-model-f16.gguf", "things:f16"),
        ("model.gguf", "things:latest"),
        ("Q4_0.gguf", "things:q4_0"),
    ],
)
def test_a_file_in_some_folder_has_its_own_name_or_the_folders(file, name):
    assert names_of(collection(file)) == [name]


def test_the_header_says_the_quantisation_where_the_name_does_not():
    assert names_of(collection("a.gguf", quantization="Q4_K_M")) == ["a:q4_k_m"]
    assert names_of(collection("a-q8_0.gguf", quantization="Q4_K_M")) == ["a:q8_0"]


def test_two_models_of_a_repository_are_told_apart_by_their_files():
    both = collection("tiny-Q8_0.gguf", "small-Q8_0.gguf", "large-F16.gguf", repository="Models")
    assert names_of(both) == ["models:f16", "small:q8_0", "tiny:q8_0"]


def test_the_same_model_of_two_publishers_is_told_apart_by_them():
    one = collection("m-Q8_0.gguf", repository="m-GGUF", publisher="ggml.org", folder="/a")
    two = collection("m-Q8_0.gguf", repository="M-GGUF", publisher="someone.else", folder="/b")
    three = collection("m-Q8_0.gguf", folder="/c")
    assert names_of(one, two) == ["m:q8_0", "someone-else/m:q8_0"]
    assert names_of(one, three) == ["m:q8_0", "m:q8_0-2"]
    assert names_of(three, two, two, one) == ["ggml-org/m:q8_0", "m:q8_0", "someone-else/m:q8_0"]


def test_a_name_that_a_store_has_given_is_kept():
    plain = collection("m.gguf")
    assert names_of(plain, stored=["m", "hf.co/user/m:Q8_0"]) == ["hf.co/user/m:Q8_0", "m:latest", "m:latest-2"]
    assert names_of(stored=["M", "m"]) == ["M:latest", "m:latest-2"]


def test_a_store_that_was_found_twice_holds_each_model_once():
    assert names_of(stored=["m", "n", "m", "m@sha256:2"]) == ["m:latest", "m:latest-2", "n:latest"]


def test_a_file_in_two_folders_is_one_model():
    file = collection("m.gguf")
    linked = GGUFSet((file.models[0].parts[0],))
    assert names_of(file, Collection("there", Path("/b"), (linked,), repository="other")) == ["m:latest"]
