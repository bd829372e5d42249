"""Thoughts and answer are parted by the tags around the thoughts, wherever the text is cut."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a3s_power.generation import Text, Thinking
from a3s_power.prompt.thinking import ThinkingSplitter

TAGS = ("<think>", "</think>")


def split(*pieces, tags=TAGS, is_inside=False):
    """One list of events for each piece, and one for the end."""
    splitter = ThinkingSplitter(*tags, is_inside=is_inside)
    return [*(splitter.feed(piece) for piece in pieces), splitter.finish()]


def joined(lists):
    """All thoughts, then all of the answer."""
    events = list(itertools.chain(*lists))
    assert all(event.text for event in events)
    assert events == sorted(events, key=lambda event: isinstance(event, Text))  # thoughts come first
    return tuple("".join(event.text for event in events if type(event) is kind) for kind in (Thinking, Text))


@pytest.mark.parametrize(
    ("text", "thoughts", "answer"),
    [
        ("", "", ""),
        ("Hello", "", "Hello"),
        ("<think>Hm.</think>Yes", "Hm.", "Yes"),
        ("\n <think>\n Hm. \n</think>\n\n Yes\n ", "Hm. \n", "Yes\n "),  # blanks go behind the tags only
        ("<think>\n\n</think>\n\nYes", "", "Yes"),
        ("<think></think>Yes", "", "Yes"),
        ("<think></think>", "", ""),
        ("<think>", "", ""),
        ("<think> \n", "", ""),
        ("<think>Hm.</think>", "Hm.", ""),
        ("<think>Hm.", "Hm.", ""),
        ("<think>Hm.</thi", "Hm.</thi", ""),
        ("<think>a </b> < c</think>Yes", "a </b> < c", "Yes"),
        ("<think><think>Hm.</think>Yes", "<think>Hm.", "Yes"),
        ("<think>Hm.</think>Yes<think>No</think>", "Hm.", "Yes<think>No</think>"),
        ("<thin air", "", "<thin air"),
        (" \n<thin", "", " \n<thin"),
        (" \n", "", " \n"),
        ("  Yes <think>Hm.</think>", "", "  Yes <think>Hm.</think>"),
        ("</think>Yes", "", "</think>Yes"),
    ],
)
def test_thoughts_stand_at_the_beginning_or_nowhere(text, thoughts, answer):
    assert joined(split(text)) == (thoughts, answer)
    assert joined(split(*text)) == (thoughts, answer)


@pytest.mark.parametrize(
    ("text", "thoughts", "answer"),
    [
        ("\n Hm.\n</think>\n\nYes", "Hm.\n", "Yes"),
        ("</think>\n\nYes", "", "Yes"),
        ("\n</think>Yes", "", "Yes"),
        ("Hm.", "Hm.", ""),
        ("Hm.<", "Hm.<", ""),
        ("", "", ""),
    ],
)
def test_a_prompt_that_ends_in_the_opening_tag_has_opened_it(text, thoughts, answer):
    assert joined(split(text, is_inside=True)) == (thoughts, answer)
    assert joined(split(*text, is_inside=True)) == (thoughts, answer)


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (
            ["<think>", "Hm", ".", "</think>", "Yes"],
            [[], [Thinking("Hm")], [Thinking(".")], [], [Text("Yes")], []],
        ),
        ([" <th", "ink>Hm.</think> Yes"], [[], [Thinking("Hm."), Text("Yes")], []]),
        ([" <th", "en"], [[], [Text(" <then")], []]),
        (["<think>a", "<", "/b", "</thi", "nk>"], [[Thinking("a")], [], [Thinking("</b")], [], [], []]),
        (["Yes", "<", "think>"], [[Text("Yes")], [Text("<")], [Text("think>")], []]),
    ],
)
def test_only_what_could_be_a_tag_is_held_back(pieces, expected):
    assert split(*pieces) == expected


@pytest.mark.parametrize("tags", [TAGS, ("[THINK]", "[/THINK]"), ("|", "|"), ("<|channel>thought", "<channel|>")])
@given(data=st.data(), is_inside=st.booleans())
def test_any_way_to_cut_a_text_reads_the_same(tags, data, is_inside):
    words = st.sampled_from([*tags, tags[0][:3], tags[1][:3], " ", "\n", "a", "<", "é"])
    pieces = data.draw(st.lists(words | st.text(max_size=5), max_size=12))
    text = "".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    cut = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    thoughts, answer = joined(split(text, tags=tags, is_inside=is_inside))
    assert joined(split(*cut, tags=tags, is_inside=is_inside)) == (thoughts, answer)
    assert tags[1] not in thoughts
    if thoughts:
        assert answer == "" or (thoughts + tags[1]) in text


def test_many_blanks_before_the_tag_are_read_once():
    blanks = " " * 200_000
    assert joined(split(*blanks, "<think>Hm.</think>Yes")) == ("Hm.", "Yes")
    assert joined(split(*blanks, "Yes")) == ("", blanks + "Yes")
