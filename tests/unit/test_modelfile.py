"""Modelfiles read and written as Ollama reads and writes them."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a3s_power import modelfile
from a3s_power.errors import InvalidModelfile
from a3s_power.modelfile import Command, describe, parse, parse_parameters, serialise

ANY_COMMAND = (
    'command must be one of "from", "license", "template", "system", "adapter", "draft", "renderer", "parser", '
    '"parameter", "message", or "requires"'
)
ANY_ROLE = 'message role must be one of "system", "user", or "assistant"'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM x", [("model", "x")]),
        ("from  x \t\n", [("model", "x")]),
        ("FROM a\nFROM b\n", [("model", "a"), ("model", "b")]),
        ("FROM x\r\nSYSTEM hi\r\n", [("model", "x"), ("system", "hi")]),
        ("# a comment\n \t#another\rFROM x # no comment", [("model", "x # no comment")]),
        ("FROM x\nPARAMETER Top_P 0.9", [("model", "x"), ("Top_P", "0.9")]),
        ("FROM x\nPARAMETER  top_p", [("model", "x"), ("", "top_p")]),
        ("FROM x\nMESSAGE user hi: you", [("model", "x"), ("message", "user: hi: you")]),
        ("FROM x\nSYSTEM \nLICENSE y", [("model", "x"), ("system", ""), ("license", "y")]),
        ("PARAMETER model x", [("model", "x")]),
    ],
)
def test_commands(text, expected):
    assert parse(text) == tuple(Command(*command) for command in expected)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('"a b"', "a b"),
        ('" a "', " a "),
        ('""', ""),
        ('""""""', ""),
        ('"""a"""', "a"),
        ('"""a\nb\n"""', "a\nb\n"),
        ('"""\r\na\r\n"""', "\r\na\r\n"),
        ('"""a "b" c"""  ', 'a "b" c'),
        ('"""a""" b\n"""', 'a""" b\n'),
        ('"""""\n"""', '""\n'),  # five quotes are an opening and two more
        ('"a\n\n  b"\t', "a\n\n  b"),
        ('"a" b\nc"', 'a" b\nc'),
        ('a "b"', 'a "b"'),
        ("'a'", "'a'"),
        (r'"a\"', "a\\"),
        ("a#b", "a#b"),
        ("a\u200db\u00a0c\u3000d\x00", "abcd"),
        ('"\u200b""a\u200b"""', "a"),
        ("a\tb", "a\tb"),
        ("é🙂\ufffd", "é🙂\ufffd"),
    ],
)
def test_values(value, expected):
    assert parse(f"FROM x\nSYSTEM {value}\nLICENSE end") == (
        Command("model", "x"),
        Command("system", expected),
        Command("license", "end"),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no FROM line"),
        ("SYSTEM x", "no FROM line"),
        ("FROM x\nBAD y", f"(line 2): {ANY_COMMAND}"),
        ("FROM x\nSYSTEM\n", f"(line 3): {ANY_COMMAND}"),
        ("FROM x\r\nBAD y", f"(line 3): {ANY_COMMAND}"),
        ("FROM x\n4", "unexpected EOF"),
        ("FR0M x", f"(line 1): {ANY_COMMAND}"),
        ("FROM", "unexpected EOF"),
        ("PARAMETER ", "unexpected EOF"),
        ("PARAMETER top-p 1", "unexpected EOF: top"),
        ("PARAMETER top\n", "unexpected EOF: top"),
        ("FROM x\nMESSAGE robot hi", f"(line 2): {ANY_ROLE}"),
        ("FROM x\nMESSAGE User hi", f"(line 2): {ANY_ROLE}"),
        ("FROM x\nMESSAGE  hi", f"(line 2): {ANY_ROLE}"),
        ("MESSAGE user1 hi", "unexpected EOF: user"),
        ('FROM x\nSYSTEM "open', "unexpected EOF"),
        ('FROM x\nSYSTEM """open"', "unexpected EOF"),
        ('FROM x\nSYSTEM """""\n', "unexpected EOF"),
    ],
)
def test_mistakes(text, message):
    with pytest.raises(InvalidModelfile) as caught:
        parse(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\xef\xbb\xbfFROM x", "x"),
        ("\ufeffFROM é".encode("utf-16-le"), "é"),
        ("\ufeffFROM é".encode("utf-16-be"), "é"),
        (b"FROM a\xffb", "a\ufffdb"),
        ("\ufeffFROM x", "x"),
    ],
)
def test_encodings(data, expected):
    assert parse(data) == (Command("model", expected),)


def test_a_huge_file_is_refused_without_reading_it(monkeypatch):
    monkeypatch.setattr(modelfile, "MAX_SIZE", 10)
    with pytest.raises(InvalidModelfile, match="too large: 11 bytes, at most 10"):
        parse(b"FROM " + b"x" * 6)


@pytest.mark.parametrize("line", ["a", '"', '""', "a\u200d", "", '""" b'])
def test_time_grows_with_the_size_only(line):
    count = 100_000  # quadratic time would take minutes
    command = parse(f'FROM x\nSYSTEM """\n{(line + chr(10)) * count}"""')[1]
    assert command.args.count("\n") == count + 1


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (Command("model", " x "), "FROM  x \n"),
        (Command("system", "plain text"), "SYSTEM plain text\n"),
        (Command("template", "a\nb"), 'TEMPLATE "a\nb"\n'),
        (Command("template", 'say "hi"\n'), 'TEMPLATE """say "hi"\n"""\n'),
        (Command("license", " x"), 'LICENSE " x"\n'),
        (Command("message", "user: hi: you "), 'MESSAGE user "hi: you "\n'),
        (Command("stop", "<|end|>"), "PARAMETER stop <|end|>\n"),
        (Command("stop", '"'), 'PARAMETER stop """""""\n'),
        (Command("system", "say\rFROM other"), 'SYSTEM "say\rFROM other"\n'),
        (Command("system", "tab\t"), 'SYSTEM "tab\t"\n'),
    ],
)
def test_serialise(command, expected):
    assert serialise([command]) == expected


texts = st.text(string.ascii_letters + " \t\r\n:#é{}'\"", max_size=40).filter(lambda text: '"""' not in text)
commands = st.one_of(
    st.builds(Command, st.sampled_from(["system", "template", "license", "stop", "top_k"]), texts),
    st.builds(
        lambda role, text: Command("message", f"{role}: {text}"),
        st.sampled_from(modelfile.ROLES),
        texts,
    ),
    st.builds(
        lambda before, after: Command("template", f"{before}x\n{after}"),
        texts.map(lambda text: f'{text} "quoted" '),
        texts,
    ),
)


@given(st.lists(commands, max_size=6))
def test_what_is_written_reads_back(written):
    written = [Command("model", "x"), *written]
    assert parse(serialise(written)) == tuple(written)


hostile = st.lists(
    st.one_of(
        st.sampled_from(["FROM ", "PARAMETER ", "MESSAGE user ", '"""', '"', "\n", "\r", "\t", "#"]), st.text()
    )
)


@given(st.one_of(st.text(), st.binary(), hostile.map("".join)))
def test_anything_parses_or_is_refused(data):
    try:
        parsed = parse(data)
    except InvalidModelfile:
        return
    assert any(command.name == "model" for command in parsed)


# ---- parameters ----


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ([("num_ctx", ["4096"])], {"num_ctx": 4096}),
        ([("seed", ["-1"]), ("seed", ["+7"])], {"seed": 7}),
        ([("temperature", [".5"])], {"temperature": 0.5}),
        ([("top_p", ["1e-1"])], {"top_p": 0.1}),
        ([("use_mmap", ["T"])], {"use_mmap": True}),
        ([("use_mmap", ["0"])], {"use_mmap": False}),
        ([("stop", ["a", "b"]), ("stop", ["c"])], {"stop": ["a", "b", "c"]}),
        ([("draft_num_predict", ["4"])], {"draft_num_predict": 4}),
    ],
)
def test_parameters_are_typed(given_, expected):
    assert parse_parameters(given_).values == expected


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("", ["1"], "unknown parameter ''"),
        ("Top_P", ["1"], "unknown parameter 'Top_P'"),
        ("num_ctx", ["4.5"], "invalid int value [4.5]"),
        ("num_ctx", ["1_0"], "invalid int value [1_0]"),
        ("num_ctx", ["9223372036854775808"], "invalid int value [9223372036854775808]"),
        ("top_p", ["hot", "cold"], "invalid float value [hot cold]"),
        ("top_p", ["inf"], "invalid float value [inf]"),
        ("top_p", ["1e999"], "invalid float value [1e999]"),
        ("top_p", ["-3.4028236e38"], "invalid float value [-3.4028236e38]"),
        ("use_mmap", ["yes"], "invalid bool value [yes]"),
    ],
)
def test_parameters_of_the_wrong_type(name, values, message):
    with pytest.raises(InvalidModelfile) as caught:
        parse_parameters([(name, values)])
    assert str(caught.value) == message


def test_deprecated_parameters_are_dropped_with_a_warning():
    parameters = parse_parameters([("mirostat", ["1"]), ("top_k", ["3"])])
    assert parameters.values == {"top_k": 3}
    assert parameters.warnings == ["warning: parameter mirostat is deprecated"]


@pytest.mark.parametrize("version", ["1", "0.14", "1.2.3", "v1.2.3", "1.2.3-rc.1", "1.2.3-0a.-", "1.2.3-a+b.01"])
def test_required_versions_are_semantic_ones(version):
    assert describe(parse(f"FROM a\nREQUIRES {version}")).requires == version.removeprefix("v")


@pytest.mark.parametrize(
    "version", ["one", "01", "1.2.3.4", "1-rc", "1.2.3-", "1.2.3-01", "1.2.3-a..b", "1.2.3+", "1.2.3+a..b", "vv1"]
)
def test_other_required_versions_are_refused(version):
    with pytest.raises(InvalidModelfile, match=r"requires must be a valid semver \(e\.g\. 0\.14\.0\)"):
        describe(parse(f"FROM a\nREQUIRES {version}"))
