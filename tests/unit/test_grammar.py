"""Grammars in GBNF: text up to a tag, patterns, ranges of numbers, sets of words. Each is read in one way."""

import json
import re
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from a3s_power.errors import InvalidRequest
from a3s_power.grammar.automaton import Until, none_of, one_of, write
from a3s_power.grammar.formats import FORMATS
from a3s_power.grammar.gbnf import Grammar, ThinkingFrame, char_class, chars, complement, literal
from a3s_power.grammar.patterns import matching_string
from a3s_power.grammar.ranges import Bound, Range, number_in
from a3s_power.grammar.schema import AnswerGrammar
from tests.support import gbnf


def answer_grammar(output_format, thinking=None):
    return AnswerGrammar.of(output_format).text(thinking)


THINK = ThinkingFrame("<think>", "</think>")
HARMONY = ThinkingFrame(
    "<|channel|>analysis<|message|>",
    "<|end|><|start|>assistant<|channel|>final<|message|>",
    answer="<|channel|>final<|message|>",
)


def grammar_of(make):
    """The grammar whose root is what `make` returns."""
    grammar = Grammar()
    return gbnf.Grammar(grammar.text(make(grammar)))


def pattern(expression, **lengths):
    return grammar_of(lambda grammar: matching_string(grammar, expression, "$", **lengths))


def numbers(low=None, high=None, *, low_open=False, high_open=False, is_integer=False):
    bounds = Range(
        None if low is None else Bound(Fraction(low), low_open),
        None if high is None else Bound(Fraction(high), high_open),
    )
    return grammar_of(lambda grammar: number_in(grammar, bounds, is_integer, "$"))


@given(st.text())
@example('"\\[]-^\n\x00\x7f\u2028\U0001f600')
def test_a_literal_allows_its_text_and_a_class_its_characters(text):
    assert gbnf.Grammar(f"root ::= {literal(text)}").allows(text)
    if text:
        only = gbnf.Grammar(f"root ::= {char_class(chars(text))}*")
        assert only.allows(text)
        assert only.allows("Ω") == ("Ω" in text)


@pytest.mark.parametrize("closing", ["</think>", "aab", "abab", "</t</t>", HARMONY.closing])
@given(st.data())
def test_text_until_a_tag_ends_with_the_first_one(closing, data):
    until = grammar_of(lambda grammar: write(grammar, Until(closing)))
    pieces = st.sampled_from([closing, closing[:-1], closing[:2], *closing, "x", "\n"])
    text = "".join(data.draw(st.lists(pieces, max_size=12)))
    ends_once = text.endswith(closing) and text.index(closing) == len(text) - len(closing)
    assert until.most_readings(text) == (1 if ends_once else 0)


@pytest.mark.parametrize(
    "frame, text, allowed",
    [
        (None, "{}", True),
        (None, ' {"a": 1}', True),
        (None, "Sure: {}", False),
        (None, "{} ", False),
        (THINK, "<think>\nHmm, {}</th\n</think>\n\n{}", True),
        (THINK, "\n<think></think>{}", True),
        (THINK, "{}", True),
        (THINK, "<think>{}", False),
        (THINK, "<think></think>well</think>{}", False),
        (THINK, "</think>{}", False),
        (ThinkingFrame("<think>", "</think>", is_inside=True), "Hmm.</think>\n{}", True),
        (ThinkingFrame("<think>", "</think>", is_inside=True), "{}", False),
        (HARMONY, f"{HARMONY.opening}Hmm{HARMONY.closing}{{}}", True),
        (HARMONY, f"{HARMONY.answer}{{}}", True),
        (HARMONY, "{}", False),
    ],
)
def test_a_model_thinks_before_its_answer(frame, text, allowed):
    assert gbnf.Grammar(answer_grammar("json", frame)).allows(text) == allowed


@pytest.mark.parametrize(
    "expression, matching, others",
    [
        ("^ab+$", ["ab", "abbb"], ["a", "xab", "abx", ""]),
        ("ab", ["ab", "xxabyy", '"ab\\'], ["a b", ""]),
        ("^a", ["a", "ab"], ["ba"]),
        ("a$", ["a", "ba"], ["ab"]),
        ("(^|,)a(,|$)", ["a", "x,a", "a,x", "x,a,x"], ["ba", "xa,x"]),
        ("^(?:a|bc){2}$", ["aa", "abc", "bcbc"], ["a", "aaa"]),
        ("^a{2,3}$", ["aa", "aaa"], ["a", "aaaa"]),
        ("^a{2,}$", ["aa", "aaaaa"], ["a"]),
        ("^a{0}b?$", ["", "b"], ["a", "ab"]),
        (r"^\d{3}-\w+\s\S$", ["012-a_Z x", "999-q\t."], ["12-a x", "١٢٣-a x"]),
        (r"^[^\d\s]+$", ["ab", "é\U0001f600"], ["a1", "a b", ""]),
        (r'^["\\\n\x01/]+$', ['"', "\\", "\n", "\x01", "/", '"\\"'], ["n", "a"]),
        ("^.$", ["a", '"', "\t", "\x1f", "\U0001f600"], ["\n", "", "aa"]),
        (r"^[\w.-]+@[a-z-]+$", ["a.b-c@x-y"], ["@x", "a@X"]),
        (r"^(?<year>\d{4})$", ["2024"], ["24"]),
        ("^a.*?b$", ["ab", "axxb"], ["a"]),
        ("^(a*)*b$", ["b", "aaab"], ["aaa"]),
        (r"^\u00e9\u{1F600}[\x41-\x43]$", ["é\U0001f600B"], ["é\U0001f600D"]),
        ("^a{,2}$", ["a{,2}"], ["aa"]),
        ("^$", [""], ["a"]),
        ("", ["", "a"], []),
    ],
)
def test_a_pattern_speaks_of_the_decoded_text(expression, matching, others):
    grammar = pattern(expression)
    assert [text for text in matching if grammar.most_readings(json.dumps(text, ensure_ascii=False)) == 0] == []
    assert [text for text in others if grammar.allows(json.dumps(text, ensure_ascii=False))] == []


@pytest.mark.parametrize(
    "expression, lengths, matching, others",
    [
        ("^[ab]*$", {"min_length": 2}, ["ab", "abab"], ["", "a"]),
        ("^[ab]*$", {"max_length": 2}, ["", "ab"], ["aba"]),
        ("b", {"min_length": 2, "max_length": 3}, ["ab", "abx"], ["b", "abxx", "xx"]),
    ],
)
def test_a_pattern_and_a_length_hold_together(expression, lengths, matching, others):
    grammar = pattern(expression, **lengths)
    assert all(grammar.allows(json.dumps(text)) for text in matching)
    assert not any(grammar.allows(json.dumps(text)) for text in others)


@pytest.mark.parametrize(
    "expression",
    ["(?=a)", "(?!a)", "(?<=a)", "(?<!a)", r"\bword", r"\B", r"(a)\1", r"\p{L}", "(", ")", "a)", "[a", "[]", "[b-a]",
     "*a", "a**", "a{3,2}", "a{5000}", "(a{1000}){1000}", "(" * 100 + ")" * 100, "\\", r"\ud800", r"[\d-z]", "(?i)a",
     ".*a.{20}", "^(a?){500}a{500}$", "((a{30}){30}){30}", "((){1000}){1000}a{4000}", "a^", "[^\\s\\S]"],
)  # fmt: skip
def test_a_pattern_that_cannot_be_followed_is_refused(expression):
    with pytest.raises(InvalidRequest, match=r"^invalid format: "):
        pattern(expression)


ASCII = st.characters(codec="ascii")  # elsewhere `\\d` and `.` mean more to Python


@pytest.mark.parametrize("expression", [r"^[a-c]{2,4}\d?$", "(x+x+)+y", "a.c|b+$", r"^(?:[^\"]|\\.)*$"])
@given(st.data())
def test_a_pattern_matches_what_python_says(expression, data):
    grammar = pattern(expression)
    text = data.draw(st.text(alphabet='abcxy1"\\.', max_size=8) | st.from_regex(expression, alphabet=ASCII))
    if not set("\n\r") & set(text):  # Python's `$` matches before a last newline, and its `.` takes a `\r`
        assert grammar.allows(json.dumps(text, ensure_ascii=False)) == bool(re.search(expression, text))


@pytest.mark.parametrize(
    "name, valid, invalid",
    [
        (
            "date",
            ["2024-02-29", "2000-02-29", "1999-12-31"],
            ["2023-02-29", "1900-02-29", "2024-04-31", "2024-13-01"],
        ),
        ("time", ["23:59:59Z", "00:00:00.5+02:00"], ["24:00:00Z", "12:00Z", "12:00:00"]),
        ("date-time", ["2024-02-29T00:00:00Z"], ["2024-02-29 00:00:00Z", "2024-02-29"]),
        ("duration", ["P1D", "PT5M", "P1Y2M3DT4H5M6S", "P3W"], ["P", "PT", "1D", "P1H"]),
        ("uuid", ["123e4567-e89b-12d3-a456-426614174000"], ["123e4567", "123e4567-e89b-12d3-a456-42661417400g"]),
        ("email", ["a.b+c@example.co.uk"], ["a@b", "a@@b.c", ".a@b.cc", "a b@c.dd"]),
        ("hostname", ["localhost", "a-b.example.com"], ["-a", "a..b", "a_b"]),
        ("ipv4", ["0.0.0.0", "255.249.199.9"], ["256.1.1.1", "1.1.1", "01.1.1.1"]),
        (
            "ipv6",
            ["::", "::1", "2001:db8::1", "1:2:3:4:5:6:7:8", "1::"],
            ["1:2", ":::", "1:2:3:4:5:6:7:8:9", "1::2::3"],
        ),
        ("uri", ["https://example.com/a?b=c#d", "ftp://host:21/%20"], ["example.com", "http://", "http://a b"]),
    ],
)
def test_a_format_is_a_pattern(name, valid, invalid):
    grammar = pattern(FORMATS[name])
    assert [text for text in valid if not grammar.allows(f'"{text}"')] == []
    assert [text for text in invalid if grammar.allows(f'"{text}"')] == []


def test_every_format_has_a_case_above():
    cases = test_a_format_is_a_pattern.pytestmark[0].args[1]
    assert {name for name, *_ in cases} == set(FORMATS)


@given(st.none() | st.integers(-2000, 2000), st.none() | st.integers(-2000, 2000), st.data())
@example(-(2**53) + 1, 2**53 - 1, None)
@example(-(2**63), 2**64 - 1, None)
def test_integers_are_exactly_those_between_the_bounds(low, high, data):
    if low is not None and high is not None and low > high:
        low, high = high, low
    grammar = numbers(low, high, is_integer=True)
    edges = [
        edge for bound in (low, high, 0, 999, -10) if bound is not None for edge in (bound - 1, bound, bound + 1)
    ]
    drawn = data.draw(st.lists(st.integers(-3000, 3000))) if data else []
    for number in edges + drawn:
        assert grammar.allows(str(number)) == ((low is None or low <= number) and (high is None or number <= high))
    assert not any(grammar.allows(text) for text in ("", "-", "007", "1.0", "1e3", "+1"))


decimals = st.decimals(-50, 50, places=3)


@given(decimals, decimals, st.booleans(), st.booleans(), st.lists(decimals, max_size=5))
def test_numbers_are_compared_digit_by_digit(one, other, low_open, high_open, more):
    low, high = sorted((one, other))
    is_open = low_open or high_open
    if low == high and is_open:
        return
    grammar = numbers(low, high, low_open=low_open, high_open=high_open)
    tiny = Fraction(1, 10**6)
    for number in {low, high, *more, low + 1, high - 1}:
        for value in (Fraction(number), Fraction(number) - tiny, Fraction(number) + tiny):
            is_in = low < value < high or (value == low and not low_open) or (value == high and not high_open)
            text = f"{float(value):.6f}"
            assert grammar.allows(text) == (is_in and not text.startswith("-0.000000")), text
            assert grammar.most_readings(text) <= 1


@pytest.mark.parametrize(
    "low, high, allowed, refused",
    [
        (0, 1, ["0", "1", "0.5", "1.000", "0.0"], ["-0", "1.1", "2", "1.", ".5", "00.5", "1e-1", "-0.5"]),
        ("0.5", "2.75", ["0.5", "0.50", "1", "2.7", "2.75", "2.7499"], ["0", "0.4", "0.49", "2.751", "2.8", "3"]),
        (None, -1, ["-1", "-1.5", "-200"], ["1", "0", "-0.9"]),
        (10, None, ["10", "99.5", "100000"], ["9", "9.99", "-10"]),
        (Fraction(1, 10**9), None, ["0.000000001", "1"], ["0", "0.0000000001"]),
    ],
)
def test_numbers_between_bounds(low, high, allowed, refused):
    grammar = numbers(low, high)
    assert [text for text in allowed if not grammar.allows(text)] == []
    assert [text for text in refused if grammar.allows(text)] == []


@given(st.lists(st.text('ab\\"', max_size=6), min_size=1, max_size=8), st.text('ab\\"', max_size=6))
def test_words_share_what_they_begin_with(words, other):
    grammar = grammar_of(lambda grammar: one_of(grammar, words))
    assert {grammar.most_readings(word) for word in words} == {1}
    assert grammar.allows(other) == (other in words)


@given(st.lists(st.text("ab!", max_size=4), max_size=8), st.text("abc", max_size=5))
def test_any_text_but_some_words(words, other):
    grammar = grammar_of(lambda grammar: none_of(grammar, words, complement(chars("!")), '"!"'))
    assert grammar.most_readings(f"{other}!") == (other not in words)
