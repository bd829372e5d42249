"""A model in the words of /api/show: numbers as Go prints them, a Modelfile that makes the model again."""

import math
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a3s_power.api.ollama.describe import details, effective_template, go_number, listed, modelfile, parameters
from a3s_power.gguf import GGUF
from a3s_power.messages import Message
from a3s_power.modelfile import Command, parse, parse_parameters
from a3s_power.names import ModelName
from a3s_power.prompt.reading import Markup
from a3s_power.prompt.template import GoTemplate
from a3s_power.scheduler.memory import Footprint
from a3s_power.service.cards import ModelCard
from a3s_power.store.models import Config, Model

NOW = datetime(2026, 5, 17, 12, 30, tzinfo=UTC)


def card(*, config=None, gguf=None, **model):
    """A card of a model that exists nowhere."""
    fields = {
        "name": ModelName.parse("m"), "digest": "d" * 64, "size_bytes": 123, "modified_at": NOW,
        "config": Config(**{"model_format": "gguf", **(config or {})}), "model_path": Path("/blobs/sha256-1"),
        "parent_model": "", "projector_paths": (), "adapter_paths": (), "draft_path": None, "template": None, "system": "",
        "parameters": {}, "messages": (), "licenses": (),
    }  # fmt: skip
    of_file = GGUF(3, {"general.architecture": "llama", **(gguf or {})}, (), 0, 0)
    template = GoTemplate.parse(model["template"]) if "template" in model else None
    return ModelCard(
        Model(**{**fields, **model}), of_file, (), template, Markup(), ("completion",), Footprint.of(of_file)
    )


# ---- numbers ----


@pytest.mark.parametrize(
    ("value", "text"),
    [  # fmt.Sprintf("%g", value)
        (0, "0"), (0.0, "0"), (-0.0, "-0"), (1, "1"), (42, "42"), (-1, "-1"), (0.9, "0.9"), (-0.5, "-0.5"), (1.0, "1"),
        (0.1, "0.1"), (1 / 3, "0.3333333333333333"), (64.0, "64"), (262144, "262144"), (999999, "999999"),
        (999999.5, "999999.5"), (123456.789, "123456.789"),
        (1e6, "1e+06"), (1_048_576, "1.048576e+06"), (-1_048_576, "-1.048576e+06"), (1234567.5, "1.2345675e+06"),
        (1e20, "1e+20"), (1e21, "1e+21"), (1.5e100, "1.5e+100"), (2**53, "9.007199254740992e+15"),
        (0.0001, "0.0001"), (0.00012, "0.00012"), (0.00001, "1e-05"), (1.5e-7, "1.5e-07"), (-1e-5, "-1e-05"),
        (9.999e-5, "9.999e-05"), (5e-324, "5e-324"), (1e-100, "1e-100"), (1.7976931348623157e308, "1.7976931348623157e+308"),
    ],
)  # fmt: skip
def test_a_number_is_printed_as_go_prints_it(value, text):
    assert go_number(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_printed_number_reads_back_to_the_bit(value):
    text = go_number(value)
    assert float(text) == value
    assert math.copysign(1, float(text)) == math.copysign(1, value)
    assert ("e" in text) == (value != 0 and not 1e-4 <= abs(value) < 1e6)


# ---- parameters ----


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, ""),
        ({"seed": 42}, "seed                           42"),
        ({"stop": ["<|im_end|>"]}, 'stop                           "<|im_end|>"'),
        ({"stop": ["foo", "bar"], "seed": 42, "top_p": 0.9},
         'seed                           42\nstop                           "foo"\nstop                           "bar"\n'
         "top_p                          0.9"),
        ({"num_ctx": 1_048_576}, "num_ctx                        1.048576e+06"),
        ({"use_mmap": False}, "use_mmap                       false"),
        ({"stop": ['say "hi"\\\n\t\r']}, 'stop                           "say \\"hi\\"\\\\\\n\\t\\r"'),
        ({"stop": []}, ""),
        ({"a_name_of_more_than_thirty_columns": 1}, "a_name_of_more_than_thirty_columns 1"),
    ],
)  # fmt: skip
def test_parameters_stand_one_a_line_with_the_value_in_column_32(values, text):
    assert parameters(values) == text


# ---- details ----


@pytest.mark.parametrize(
    ("config", "gguf", "quantization"),
    [
        ({"file_type": "Q4_K_M"}, {"general.file_type": 7}, "Q4_K_M"),
        ({"file_type": ""}, {"general.file_type": 7}, "Q8_0"),          # the file knows better than nobody
        ({"file_type": "unknown"}, {"general.file_type": 15}, "Q4_K_M"),
        ({}, {}, "unknown"),
    ],
)  # fmt: skip
def test_the_quantisation_is_the_configs_or_the_files(config, gguf, quantization):
    assert details(card(config=config, gguf=gguf)).quantization_level == quantization


def test_families_are_a_list_or_nothing():
    assert details(card(config={"model_families": ("llama", "clip")})).families == ["llama", "clip"]
    assert details(card()).families is None


def test_a_listed_model_shows_its_context_and_its_name_with_the_tag():
    row = listed(card(gguf={"llama.context_length": 2048, "llama.embedding_length": 64}))
    assert (row.name, row.model, row.size, row.digest) == ("m:latest", "m:latest", 123, "d" * 64)
    assert (row.details.context_length, row.details.embedding_length) == (2048, 64)
    assert row.modified_at == "2026-05-17T12:30:00Z"


@pytest.mark.parametrize(
    ("fields", "template"),
    [
        ({}, "{{ .Prompt }}"),
        ({"gguf": {"tokenizer.chat_template": "{% jinja %}"}}, "{% jinja %}"),
        ({"template": "{{ .System }}"}, "{{ .System }}"),
        ({"template": "{{ .System }}", "gguf": {"tokenizer.chat_template": "{% jinja %}"}}, "{{ .System }}"),
    ],
)
def test_the_template_shown_is_the_one_in_effect(fields, template):
    assert effective_template(card(**fields)) == template


# ---- the Modelfile ----

HEADER = """\
# Modelfile generated by "ollama show"
# To build a new Modelfile based on this, replace FROM with:
# FROM m:latest

FROM /blobs/sha256-1
"""
RICH = {
    "template": "{{ .System }}\n{{ .Prompt }}",
    "system": ' You say "no".',
    "config": {"renderer": "r", "parser": "p"},
    "adapter_paths": (Path("/blobs/adapter"),),
    "draft_path": Path("/blobs/draft"),
    "projector_paths": (Path("/blobs/projector"),),
    "parameters": {"temperature": 0.5, "num_ctx": 4096, "stop": ["a b", "<|end|>"], "use_mmap": True},
    "licenses": ("MIT\n\nDo as you like.", "Apache"),
    "messages": (Message("user", "Hi: there"), Message("assistant", 'two\n"lines"')),
}
RICH_COMMANDS = (
    ("model", "/blobs/sha256-1"), ("adapter", "/blobs/adapter"), ("draft", "/blobs/draft"), ("model", "/blobs/projector"),
    ("template", "{{ .System }}\n{{ .Prompt }}"), ("system", ' You say "no".'), ("renderer", "r"), ("parser", "p"),
    ("num_ctx", "4096"), ("stop", "a b"), ("stop", "<|end|>"), ("temperature", "0.5"), ("use_mmap", "true"),
    ("license", "MIT\n\nDo as you like."), ("license", "Apache"),
    ("message", "user: Hi: there"), ("message", 'assistant: two\n"lines"'),
)  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, HEADER + "TEMPLATE {{ .Prompt }}\n"),
        ({"template": "{{ .System }}", "system": "Be nice."}, HEADER + "TEMPLATE {{ .System }}\nSYSTEM Be nice.\n"),
        ({"system": "two\nlines"}, HEADER + 'TEMPLATE {{ .Prompt }}\nSYSTEM "two\nlines"\n'),
        ({"system": 'two\n"lines"'}, HEADER + 'TEMPLATE {{ .Prompt }}\nSYSTEM """two\n"lines""""\n'),
        ({"parameters": {"stop": ["x", " y"], "seed": 1}},
         HEADER + 'TEMPLATE {{ .Prompt }}\nPARAMETER seed 1\nPARAMETER stop x\nPARAMETER stop " y"\n'),
        ({"messages": (Message("user", "Hi"),)}, HEADER + "TEMPLATE {{ .Prompt }}\nMESSAGE user Hi\n"),
    ],
)  # fmt: skip
def test_a_modelfile_is_written_command_by_command(fields, text):
    assert modelfile(card(**fields)) == text


def test_a_modelfile_reads_back_as_all_that_the_model_is_made_of():
    assert parse(modelfile(card(**RICH))) == tuple(Command(*pair) for pair in RICH_COMMANDS)


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": 0.5, "num_ctx": 4096, "stop": ["a b", "<|end|>"], "use_mmap": True},
        {"seed": -1, "top_p": 1e-05, "repeat_penalty": 1.0},
        {"num_ctx": 1_048_576},
    ],
)  # fmt: skip
def test_its_parameters_read_back_as_the_same_values(values):
    commands = parse(modelfile(card(parameters=values)))
    given_ = [(command.name, [command.args]) for command in commands if command.name in values]
    assert parse_parameters(given_).values == values


texts = st.text(alphabet="ab \n\"'{}é", min_size=1, max_size=20)
plain_texts = texts.filter(
    lambda text: (
        not text.startswith('"')
        and not text.endswith('"')
        and text.strip(" \n")
        and not re.search(r'"""[ ]*\n', text)  # which the format cannot hold: a quote ends at a line's end
    )
)


@given(system=plain_texts, content=plain_texts, stop=plain_texts)
def test_texts_of_any_shape_read_back(system, content, stop):
    of_model = card(system=system, messages=(Message("user", content),), parameters={"stop": [stop]})
    commands = parse(modelfile(of_model))[2:]
    assert commands == (
        Command("system", system),
        Command("stop", stop),
        Command("message", f"user: {content}"),
    )
