"""What the command line prints, to the byte: people parse it with awk."""

import io
from datetime import UTC, datetime, timedelta

import pytest

from a3s_power.cli import output
from a3s_power.cli.progress import reporting, spinner
from a3s_power.cli.reply import ReplyPrinter, Wrapper, timings
from a3s_power.wire.ollama import (
    GenerateReply,
    ListedModel,
    ModelDetails,
    RunningModel,
    ShowReply,
    TensorReply,
    ToolCallFunctionReply,
    ToolCallReply,
)

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
DETAILS = ModelDetails(
    parent_model="",
    format="gguf",
    family="llama",
    families=["llama"],
    parameter_size="7B",
    quantization_level="Q8_0",
)


def listed(name, size=1024, digest="abc123def456789", modified_at="2026-04-30T12:00:00Z"):
    return ListedModel(
        name=name, model=name, modified_at=modified_at, size=size, digest=digest, details=DETAILS, capabilities=[]
    )


def running(name, size, size_vram, expires_at):
    return RunningModel(
        name=name,
        model=name,
        size=size,
        digest="0123456789abcdef",
        details=DETAILS,
        expires_at=expires_at,
        size_vram=size_vram,
        context_length=4096,
    )


def shown(**fields):
    defaults = {"modelfile": "", "template": "", "details": DETAILS, "model_info": {}, "modified_at": ""}
    return ShowReply(**defaults | fields)


def lines(text):
    """A block with `·` for a space, as the specification writes it."""
    return text.replace("·", " ")


def test_a_list_of_models():
    assert output.list_table([listed("model1", digest="sha256:abc12345")], NOW) == lines(
        "NAME······ID··············SIZE······MODIFIED·····\nmodel1····sha256:abc12····1.0·KB····24·hours·ago····\n"
    )


def test_an_empty_list_is_its_header():
    assert output.list_table([], NOW) == "NAME    ID    SIZE    MODIFIED \n"


def test_wide_names_are_measured_in_columns():
    table = output.table(("A", "B"), [("模型", "x"), ("é", "y")])
    assert table == "A       B \n模型    x    \né       y    \n"


def test_running_models():
    models = [
        running("a:latest", 4_700_000_000, 4_700_000_000, "2026-05-01T12:04:59.123456789+00:00"),
        running("b", 10, 0, "2318-08-11T11:47:16Z"),
        running("c", 10, 5, "2026-05-01T11:00:00Z"),
    ]
    assert output.running_table(models, NOW) == lines(
        "NAME········ID··············SIZE······PROCESSOR··········CONTEXT····UNTIL··············\n"
        "a:latest····0123456789ab····4.7·GB····100%·GPU···········4096·······4·minutes·from·now····\n"
        "b···········0123456789ab····10·B······100%·CPU···········4096·······Forever···············\n"
        "c···········0123456789ab····10·B······50%/50%·CPU/GPU····4096·······Stopping...···········\n"
    )


@pytest.mark.parametrize(
    ("size", "size_vram", "expected"),
    [
        (100, 0, "100% CPU"),
        (100, 100, "100% GPU"),
        (100, 101, "Unknown"),
        (0, 1, "Unknown"),
        (100, 52, "48%/52% CPU/GPU"),
        (1000, 999, "0%/100% CPU/GPU"),
    ],
)
def test_where_a_model_lies(size, size_vram, expected):
    assert output.processor(size, size_vram) == expected


@pytest.mark.parametrize(
    ("timestamp", "expected"),
    [("0001-01-01T00:00:00Z", "Never"), ((NOW - timedelta(minutes=5)).isoformat(), "5 minutes ago")],
)
def test_when(timestamp, expected):
    assert output.when(timestamp, NOW) == expected


def test_show():
    reply = shown(
        model_info={
            "general.architecture": "llama",
            "llama.context_length": 131072,
            "llama.embedding_length": 4096,
        },
        capabilities=["completion", "tools"],
        parameters='stop                           "<|end|>"\ntemperature                    0.7',
        system="You\n\n are \nbrief",
        license="MIT",
    )
    assert output.show_text(reply) == lines(
        "··Model\n"
        "····architecture········llama·····\n"
        "····parameters··········7B········\n"
        "····context·length······131072····\n"
        "····embedding·length····4096······\n"
        "····quantization········Q8_0······\n"
        "\n"
        "··Capabilities\n"
        "····completion····\n"
        "····tools·········\n"
        "\n"
        "··Parameters\n"
        '····stop···········"<|end|>"····\n'
        "····temperature····0.7··········\n"
        "\n"
        "··System\n"
        "····You····\n"
        "····are····\n"
        "····...····\n"
        "\n"
        "··License\n"
        "····MIT····\n"
        "\n"
    )


def test_show_verbose_adds_metadata_and_tensors():
    reply = shown(
        model_info={"b": 1048576, "a": [1, 2, 3, 4, 5, 6], "c": None, "d": True},
        tensors=[TensorReply("output.weight", "Q4_K", [8, 16])],
    )
    text = output.show_text(reply, verbose=True)
    assert text[text.index("  Metadata") :] == lines(
        "··Metadata\n"
        "····a····[1·2·3·...+3·more]····\n"
        "····b····1.048576e+06··········\n"
        "····c····<nil>·················\n"
        "····d····true··················\n"
        "\n"
        "··Tensors\n"
        "····output.weight····Q4_K····[8·16]····\n"
        "\n"
    )


def test_cells_wrap_at_spaces():
    text = output.section("Capabilities", [["one two three four five six seven", "x"]])
    assert text == lines(
        "··Capabilities\n····one·two·three·four·five·six····x····\n····seven·······························\n\n"
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0"),
        (4096, "4096"),
        (100, "100"),
        (0.7, "0.7"),
        (1e6, "1e+06"),
        (999999, "999999"),
        (123456789, "1.23456789e+08"),
        (-2.5, "-2.5"),
        (0.0001, "0.0001"),
        (1e-5, "1e-05"),
        (-1e-5, "-1e-05"),
    ],
)
def test_numbers_as_go_prints_them(value, expected):
    assert output.go_number(value) == expected


# ---- replies ----


class Terminal(io.StringIO):
    def isatty(self):
        return True


def seen(text):
    """What a terminal shows of text with the two escape codes that we use."""
    screen = [""]
    parts = text.split("\x1b[")
    screen[0] += parts[0]
    for part in parts[1:]:
        count, code = (int(part.split("D")[0]), "D") if part[0].isdigit() else (0, "K")
        rest = part[part.index(code) + 1 :]
        if code == "D":
            screen[-1] = screen[-1][:-count]
        screen[-1] += rest
    return "".join(screen)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("short", "short"),
        ("one two three", "one two \nthree"),
        ("one twoxyz three", "one twoxyz\nthree"),  # no space begins a line
        ("one two\nthree fours", "one two\nthree \nfours"),
        ("abcdefghijklmnop", "abcdefghij\nklmnop"),  # moving it down would not help
        ("模型模型模型", "模型模型模\n型"),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 100])
def test_lines_break_between_words(text, expected, size):
    wrapper = Wrapper(width=15)  # ten columns of text
    written = "".join(wrapper.feed(text[start : start + size]) for start in range(0, len(text), size))
    assert seen(written) == expected


@pytest.mark.parametrize(
    ("hide", "expected"),
    [
        (False, "Thinking...\nwell, yes\n...done thinking.\n\nThe answer"),
        (True, "The answer"),
    ],
)
def test_thinking_is_set_apart(hide, expected):
    out = io.StringIO()
    printer = ReplyPrinter(out, width=20, hide_thinking=hide)
    for thought in ("well, ", "yes"):
        printer.thinking(thought)
    for text in ("The ", "", "answer"):
        printer.text(text)
    assert out.getvalue() == expected


def test_a_terminal_gets_colours_and_wrapping_and_a_pipe_plain_text():
    terminal, pipe = Terminal(), io.StringIO()
    for out in (terminal, pipe):
        printer = ReplyPrinter(out, width=15)
        printer.thinking("hm")
        printer.text("one two three")
    assert pipe.getvalue() == "Thinking...\nhm\n...done thinking.\n\none two three"
    assert terminal.getvalue().startswith("\x1b[38;5;245m\x1b[1mThinking...\x1b[0m\n\x1b[38;5;245mhm")
    assert terminal.getvalue().endswith("one two th\x1b[2D\x1b[K\nthree")


def test_tool_calls_are_told():
    out = io.StringIO()
    calls = [ToolCallReply(function=ToolCallFunctionReply(index=0, name="f", arguments={"a": 1}))]
    ReplyPrinter(out).tool_calls(calls)
    assert out.getvalue() == "  Model called a non-existent function 'f()' with arguments: {\"a\":1}"


def test_timings():
    reply = GenerateReply(
        model="m",
        created_at="",
        response="",
        done=True,
        total_duration=1_234_567_000,
        load_duration=0,
        prompt_eval_count=26,
        prompt_eval_duration=130_000_000,
        eval_count=10,
        eval_duration=812_500_000,
    )
    assert timings(reply) == (
        "total duration:       1.234567s\n"
        "prompt eval count:    26 token(s)\n"
        "prompt eval duration: 130ms\n"
        "prompt eval rate:     200.00 tokens/s\n"
        "eval count:           10 token(s)\n"
        "eval duration:        812.5ms\n"
        "eval rate:            12.31 tokens/s\n"
    )


# ---- progress ----


def test_a_log_gets_a_line_for_each_step():
    err = io.StringIO()
    with reporting(err) as steps:
        steps.status("gathering")
        for done in (1, 2):
            steps.amount("copying", done, 2)
        steps.status("success")
    assert err.getvalue() == "gathering\ncopying\nsuccess\n"


def test_a_terminal_gets_bars(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    err = Terminal()
    with reporting(err) as steps:
        steps.status("gathering")
        for done in (1, 2):
            steps.amount("copying file sha256:" + "0" * 64, done, 2)
        steps.status("success")
    first, *bars, last = err.getvalue().splitlines()
    assert (first, last[-7:]) == ("gathering", "success")
    assert "copying file" in bars[-1]
    assert "2/2" in bars[-1]


def test_a_spinner_makes_room_for_output():
    err = Terminal()
    with spinner(err) as waiting:
        waiting.stop()
        err.truncate(0)
    assert err.getvalue() == ""
