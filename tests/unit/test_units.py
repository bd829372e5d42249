"""Durations as Go reads and prints them; sizes, counts and times as people do."""

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a3s_power.errors import InvalidRequest
from a3s_power.units import (
    GB,
    KB,
    MB,
    TB,
    format_duration,
    human_bytes,
    human_number,
    human_span,
    human_time,
    parse_duration,
)

MINUTE, HOUR, DAY = 60, 3600, 24 * 3600


@pytest.mark.parametrize(
    ("text", "seconds"),
    [  # most of them from Go's own time_test.go
        ("0", 0), ("-0", 0), ("+0", 0), ("0s", 0),
        ("5s", 5), ("30s", 30), ("1478s", 1478), ("-5s", -5), ("+5s", 5),
        ("5.0s", 5), ("5.6s", 5.6), ("5.s", 5), (".5s", 0.5), ("-.5s", -0.5), ("1.004s", 1.004), ("00100.50s", 100.5),
        ("10ns", 1e-8), ("11us", 1.1e-5), ("12µs", 1.2e-5), ("12μs", 1.2e-5), ("13ms", 0.013),
        ("14s", 14), ("15m", 15 * MINUTE), ("16h", 16 * HOUR),
        ("3h30m", 3.5 * HOUR), ("10.5s4m", 250.5), ("-2m3.4s", -123.4), ("1h2m3s4ms5us6ns", 3723.004005006),
        ("0.3333333333333333333h", 20 * MINUTE), ("5m", 300), ("1h30m", 5400), ("300ms", 0.3), ("-1m", -60),
    ],
)  # fmt: skip
def test_a_go_duration_is_so_many_seconds(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("5", 'time: missing unit in duration "5"'),
        ("-1", 'time: missing unit in duration "-1"'),
        ("1.5", 'time: missing unit in duration "1.5"'),
        ("1h30", 'time: missing unit in duration "1h30"'),
        ("1.5.5s", 'time: missing unit in duration "1.5.5s"'),
        ("1d", 'time: unknown unit "d" in duration "1d"'),
        ("5 s", 'time: unknown unit " s" in duration "5 s"'),
        ("1e3s", 'time: unknown unit "e" in duration "1e3s"'),
        ("1S", 'time: unknown unit "S" in duration "1S"'),
        ("", 'time: invalid duration ""'),
        ("-", 'time: invalid duration "-"'),
        ("--5s", 'time: invalid duration "--5s"'),
        ("s", 'time: invalid duration "s"'),
        (".", 'time: invalid duration "."'),
        (".s", 'time: invalid duration ".s"'),
        ("abc", 'time: invalid duration "abc"'),
        ("inf", 'time: invalid duration "inf"'),
        (" 5s", 'time: invalid duration " 5s"'),
        ("٣s", 'time: invalid duration "٣s"'),
        ("3000000h", 'time: invalid duration "3000000h"'),
        ("9" * 400 + "s", f'time: invalid duration "{"9" * 400}s"'),
    ],
)  # fmt: skip
def test_what_is_no_duration_is_refused_in_the_words_of_go(text, complaint):
    with pytest.raises(InvalidRequest) as refused:
        parse_duration(text)
    assert str(refused.value) == complaint


@pytest.mark.parametrize(
    ("seconds", "text"),
    [  # Go's own time_test.go, and the other way round
        (0, "0s"), (1e-9, "1ns"), (1.1e-6, "1.1µs"), (2.2e-3, "2.2ms"), (3.3, "3.3s"),
        (245, "4m5s"), (245.001, "4m5.001s"), (5 * HOUR + 6 * MINUTE + 7.001, "5h6m7.001s"), (480.000000001, "8m0.000000001s"),
        (999e-9, "999ns"), (1e-6, "1µs"), (999.999e-6, "999.999µs"), (1e-3, "1ms"), (0.8125, "812.5ms"), (1, "1s"),
        (60, "1m0s"), (90, "1m30s"), (HOUR, "1h0m0s"), (7200, "2h0m0s"), (100 * HOUR, "100h0m0s"),
        (-1.5, "-1.5s"), (-1e-9, "-1ns"), (-90, "-1m30s"), (1e-10, "0s"), (0.1 + 0.2, "300ms"),
    ],
)  # fmt: skip
def test_a_duration_is_printed_as_go_prints_it(seconds, text):
    assert format_duration(seconds) == text


@given(st.integers(-(10**15), 10**15))
def test_a_printed_duration_reads_back_to_the_nanosecond(nanoseconds):
    seconds = nanoseconds / 1e9
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=1e-12, abs=1e-9)


@given(st.text(alphabet="0123456789.hmsnuµd+- ", max_size=12) | st.text(max_size=20))
def test_any_text_is_a_finite_duration_or_refused(text):
    try:
        assert math.isfinite(parse_duration(text))
    except InvalidRequest as exc:
        assert str(exc).startswith("time: ")  # noqa: PT017  # noqa: PT017


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"), (512, "512 B"), (999, "999 B"),
        (KB, "1 KB"), (1500, "1.5 KB"), (9999, "10.0 KB"), (10 * KB, "10 KB"), (99_999, "99 KB"),
        (98 * MB, "98 MB"), (145_700_000, "145 MB"), (5 * GB, "5 GB"), (4_683_087_332, "4.7 GB"), (40 * GB, "40 GB"),
        (TB, "1 TB"), (1_250 * GB, "1.2 TB"), (1000 * TB, "1000 TB"),
    ],
)  # fmt: skip
def test_bytes_are_decimal_with_one_fraction_digit_below_ten(size_bytes, text):
    assert human_bytes(size_bytes) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"), (999, "999"), (1000, "1K"), (1499, "1K"), (12_345, "12K"), (10**6, "1M"), (134_515_008, "134.52M"),
        (7 * 10**9, "7B"), (7_241_732_096, "7.2B"), (8_030_261_248, "8.0B"), (70_553_706_496, "70.6B"),
    ],
)  # fmt: skip
def test_parameters_are_counted_in_thousands_millions_and_billions(count, text):
    assert human_number(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "Less than a second"), (0.99, "Less than a second"), (1, "1 second"), (1.9, "1 second"), (2, "2 seconds"),
        (59.9, "59 seconds"), (60, "About a minute"), (119, "About a minute"), (120, "2 minutes"), (3599, "59 minutes"),
        (HOUR, "About an hour"), (1.49 * HOUR, "About an hour"), (1.5 * HOUR, "2 hours"),
        (2.5 * HOUR, "3 hours"),
        (47.4 * HOUR, "47 hours"), (2 * DAY, "2 days"), (13.9 * DAY, "13 days"), (14 * DAY, "2 weeks"),
        (59.9 * DAY, "8 weeks"), (60 * DAY, "2 months"), (729 * DAY, "24 months"), (730 * DAY, "2 years"),
    ],
)  # fmt: skip
def test_a_span_of_time_is_told_roughly(seconds, text):
    assert human_span(seconds) == text


NOW = datetime(2026, 5, 17, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (NOW, "Less than a second ago"),
        (NOW - timedelta(minutes=3), "3 minutes ago"),
        (NOW + timedelta(minutes=4, seconds=30), "4 minutes from now"),
        (NOW - timedelta(days=1), "24 hours ago"),
        (NOW + timedelta(days=20 * 365), "20 years from now"),
        (NOW + timedelta(days=20 * 365 + 1), "Forever"),
    ],
)
def test_a_moment_is_told_from_now(moment, text):
    assert human_time(moment, NOW) == text
