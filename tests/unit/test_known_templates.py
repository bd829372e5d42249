"""Chat formats: which template is which, and that ours write what the published ones write."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from a3s_power.build import known_templates
from a3s_power.build.known_templates import FAR, detect
from a3s_power.messages import Message
from a3s_power.prompt.template import GoTemplate

PUBLISHED = [
    pytest.param(known, id=f"{n}-{known.format.name}") for n, known in enumerate(known_templates._published())
]
FORMATS = {known.format.name: known.format for known in known_templates._published()}
NAMES = {
    "alfred", "alpaca", "chatml", "chatqa", "codellama-70b-instruct", "command-r", "falcon-instruct", "gemma-instruct",
    "gemma3-instruct", "granite-instruct", "llama2-chat", "llama3-instruct", "magicoder", "mistral-instruct", "openchat",
    "phi-3", "solar-instruct", "starcoder2-instruct", "zephyr",
}  # fmt: skip

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + "
    "'\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
QWEN2 = CHATML.replace(
    "{% for message in messages %}",
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}",
)
SMOLLM2 = QWEN2.replace(
    "You are a helpful assistant.", "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
)
ZEPHYR = next(known.jinja for known in known_templates._published() if known.format.name == "zephyr")
LLAMA2 = next(known.jinja for known in known_templates._published() if known.format.name == "llama2-chat")


def system(content):
    return Message("system", content)


def user(content):
    return Message("user", content)


def assistant(content):
    return Message("assistant", content)


TURNS = [user("Hello"), assistant("Hi."), user("Who are you?\n\nAnd why?")]
INSTRUCTED = [system("Be brief."), *TURNS]
EOS = {"magicoder": "<｜end▁of▁sentence｜>", "starcoder2-instruct": "<|endoftext|>"}


class Refused(Exception):
    """The template calls `raise_exception`."""


def published_prompt(known, messages):
    """What the Jinja template makes of a conversation, without the BOS token that the engine adds to all prompts."""

    def refuse(reason):
        raise Refused(reason)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    prompt = environment.from_string(known.jinja).render(
        messages=[{"role": message.role, "content": message.content} for message in messages],
        add_generation_prompt=True,
        bos_token="<s>",
        eos_token=EOS.get(known.format.name, "</s>"),
    )
    return prompt.removeprefix("<s>")


def our_prompt(known, messages):
    return GoTemplate.parse(known.template).render_chat(messages)


def test_there_is_a_format_for_every_name_of_ollamas():
    assert set(FORMATS) == NAMES
    assert FORMATS["chatml"].stops == ("<|im_start|>", "<|im_end|>")


@pytest.mark.parametrize("known", PUBLISHED)
def test_a_published_template_is_recognised(known):
    assert detect(known.jinja) == known.format


# Falcon's own template makes one newline of two; no Go template can.
@pytest.mark.parametrize("known", PUBLISHED)
@pytest.mark.parametrize("messages", [TURNS[:1], TURNS], ids=["one turn", "three turns"])
def test_our_template_writes_what_the_published_one_writes(known, messages):
    if known.format.name == "falcon-instruct":
        messages = [Message(message.role, message.content.replace("\n\n", "\n")) for message in messages]
    assert our_prompt(known.format, messages) == published_prompt(known, messages)


# Those that refuse a system message or drop it: where ours puts it.
INSTRUCTIONS = {
    "chatqa": "System: Be brief.\n\nUser: Hello\n\nAssistant:",
    "gemma-instruct": "<start_of_turn>user\nBe brief.\n\nHello<end_of_turn>\n<start_of_turn>model\n",
    "magicoder": "Be brief.\n\n@@ Instruction\nHello\n\n@@ Response\n",
    "mistral-instruct": "[INST] Be brief.\n\nHello [/INST]",
    "phi-3": "<|system|>\nBe brief.<|end|>\n<|user|>\nHello<|end|>\n<|assistant|>\n",
    "starcoder2-instruct": "Be brief.\n\n### Instruction\nHello\n\n### Response\n",
}


@pytest.mark.parametrize("known", PUBLISHED)
def test_a_system_message_is_written_as_published_or_where_the_format_has_room_for_it(known):
    try:
        expected = published_prompt(known, INSTRUCTED[:2])
    except Refused:
        expected = ""
    if "Be brief." not in expected:
        expected = INSTRUCTIONS[known.format.name]
    assert our_prompt(known.format, INSTRUCTED[:2]) == expected


@pytest.mark.parametrize("known", FORMATS.values(), ids=FORMATS)
def test_an_answer_that_has_begun_is_left_open(known):
    assert our_prompt(known, [*INSTRUCTED, assistant("Because")]).endswith("Because")


@pytest.mark.parametrize("known", FORMATS.values(), ids=FORMATS)
def test_every_message_is_in_the_prompt_once(known):
    prompt = our_prompt(known, INSTRUCTED)
    assert [prompt.count(message.content) for message in INSTRUCTED] == [1, 1, 1, 1]


@pytest.mark.parametrize("jinja, name", [
    (CHATML, "chatml"),
    (CHATML.replace("\\n", "\n"), "chatml"),                              # as JSON decodes it
    ("{{ bos_token }}" + CHATML, "chatml"),                               # internlm2, Nous-Hermes-2
    (CHATML.replace("'<|im_end|>' + '\\n'", "'<|im_end|>\\n'"), "chatml"),
    (CHATML.replace("message['content']", "message.content"), "chatml"),
    (CHATML.replace("{% for", "{# each of them #}{% for"), "chatml"),
    (CHATML + " " * (FAR - 1), "chatml"),
    (ZEPHYR.replace("\\n", "\n"), "zephyr"),                              # TinyLlama
    (LLAMA2.replace("content.strip()", "content | trim"), "llama2-chat"),  # CodeLlama
])  # fmt: skip
def test_a_template_that_says_the_same_in_other_words_is_recognised(jinja, name):
    assert detect(jinja) == FORMATS[name]


@pytest.mark.parametrize("jinja", [
    pytest.param("", id="nothing"),
    pytest.param("{% for message in messages %}{{ message['content'] }}{% endfor %}", id="no format"),
    pytest.param(CHATML + " " * FAR, id="too far"),
    pytest.param(CHATML * 100_000, id="far too long"),
    pytest.param(QWEN2, id="its own system message: Qwen2"),
    pytest.param(SMOLLM2, id="its own system message: SmolLM2"),
    pytest.param("<|im_start|>system\nYou are Bob.<|im_end|>\n" + CHATML, id="a system message outside of tags"),
    pytest.param(CHATML.replace("im_start", "user").replace("im_end", "end"), id="other markers"),
    pytest.param(
        CHATML.replace("'<|im_start|>'", "bos_token").replace("'<|im_end|>'", "eos_token").replace(
            "'<|im_start|>assistant", "bos_token + 'assistant"),
        id="no markers: AlphaMonarch",
    ),
    pytest.param(ZEPHYR.replace("user|", "prompt|").replace("assistant|", "answer|"), id="other markers: h2o-danube"),
    pytest.param(ZEPHYR.replace("<|user|>\\n", "<|user|>"), id="no newline"),
    pytest.param(ZEPHYR.replace(" + eos_token", ""), id="no end of turns: Tulu"),
    pytest.param("{{ bos_token }}" + LLAMA2.replace("bos_token + ", ""), id="one BOS for all turns: Bielik"),
])  # fmt: skip
def test_a_template_that_says_something_else_is_not(jinja):
    assert detect(jinja) is None


@pytest.mark.parametrize("known", PUBLISHED)
@pytest.mark.parametrize(
    "more", ["{{ 'Answer in rhyme.' }}", "Answer in rhyme.", "{{ tools }}", "{{ '<think>\\n' }}"]
)
def test_no_template_is_taken_for_one_that_says_less(known, more):
    assert detect(known.jinja + more) is None
    assert detect(more + known.jinja) is None


@given(st.text(max_size=80), st.sampled_from(["", CHATML, ZEPHYR]), st.integers(0, 300))
def test_any_text_has_an_answer(text, jinja, place):
    assert detect(jinja[:place] + text + jinja[place:]) in {None, FORMATS["chatml"], FORMATS["zephyr"]}
