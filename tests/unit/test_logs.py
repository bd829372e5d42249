"""The log: one line for each record, readable by people and by `grep`."""

import logging
import sys

import pytest

from a3s_power.logs import KeyValueFormatter


def formatted(msg="loaded", *args, level=logging.INFO, exc_info=None, **extra):
    logger = logging.getLogger("test")
    record = logger.makeRecord(logger.name, level, __file__, 1, msg, args, exc_info, extra=extra)
    return KeyValueFormatter().format(record)


def after_the_time(line):
    time, _, rest = line.partition(" ")
    assert time.startswith("time=20")
    return rest


def test_a_line_tells_when_how_grave_what_and_then_the_extras_in_their_order():
    line = formatted("loaded", model="m:latest", took_s=0.6, attempt=2)
    assert after_the_time(line) == "level=INFO msg=loaded model=m:latest took_s=0.6 attempt=2"


def test_the_time_has_milliseconds_and_a_zone():
    assert formatted().split(" ")[0].count(".") == 1
    assert formatted().split(" ")[0][-6] in "+-"


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR])
def test_the_level_is_its_name(level):
    assert f" level={logging.getLevelName(level)} " in formatted(level=level)


def test_arguments_are_put_into_the_message():
    assert after_the_time(formatted("Listening on %s (version %s)", ":1", 2)) == (
        'level=INFO msg="Listening on :1 (version 2)"'
    )


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain", "plain"), (1.5, "1.5"), (None, "None"), ("a/b:c", "a/b:c"), ("back\\slash", "back\\slash"),
        ("two words", '"two words"'), ("a=b", '"a=b"'), ('say "hi"', '"say \\"hi\\""'),
        ("two\nlines", '"two\\nlines"'), ("tab\there", r'"tab\there"'), ("c:\\a b", '"c:\\\\a b"'), ("é", "é"),
    ],
)  # fmt: skip
def test_a_value_is_quoted_where_it_must_be(value, shown):
    assert after_the_time(formatted("m", key=value)) == f"level=INFO msg=m key={shown}"


def test_an_empty_extra_is_left_out():
    assert after_the_time(formatted("m", differs="", model="x")) == "level=INFO msg=m model=x"


@pytest.mark.parametrize(
    "char",
    [
        "\n",
        *"\r\v\f\x1c\x85\u2028\u2029\x1b",
    ],
)
def test_no_text_can_begin_a_line_of_its_own_or_steer_the_terminal(char):
    text = f"innocent{char}time=2026 level=ERROR msg=forged"
    assert char not in formatted(text, model=text)


def test_a_traceback_follows_on_lines_of_its_own():
    try:
        raise ValueError("no good")
    except ValueError:
        lines = formatted("failed", model="x", exc_info=sys.exc_info()).splitlines()
    assert after_the_time(lines[0]) == "level=INFO msg=failed model=x"
    assert lines[1] == "Traceback (most recent call last):"
    assert lines[-1] == "ValueError: no good"


def test_what_uvicorn_adds_to_its_records_is_no_field():
    assert after_the_time(formatted("m", color_message="\x1b[1mm")) == "level=INFO msg=m"
