"""Every case of the table is here, or it says why it is not."""

import re
from importlib import import_module
from itertools import chain
from pathlib import Path

LISTED = {
    "P": (1, 2, 3, 5, 6, 7, 9, 10, 11, 13, 14, 15, 17, 18, 19, 21, 22, 23),
    "B": (1, 2, 3, 5, 6, 7, 9, 10, 11, 13, 14, 15, 17, 18, 19, 21, 22, 23, 25, 26, 27, 29, 30, 31, 33, 34),
    "G": (1, 3, 4, 5, 7, 8, 9, 11, 12, 13, 15, 16, 17, 19, 20, 21, 23, 24, 25, 27, 28, 29, 31, 32, 33, 35, 36, 37,
          39, 40, 41, 43, 44, 45, 47, 48, 49, 51),
    "C": (1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 16, 17, 18, 20, 21, 22, 24, 25, 26, 28, 29, 30, 32, 33, 34),
    "E": (2, 3, 4, 6, 7, 8, 10, 11, 12, 14, 15, 16, 18, 19, 20, 22),
    "M": (1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 16, 17, 18, 20, 21, 22, 24, 25, 26, 28, 29, 30, 32, 33, 34),
    "O": (1, 2, 3, 5, 6, 7, 9, 10, 11, 13, 14, 15, 17, 18, 19, 21, 22, 23, 25, 26, 27, 29, 30, 31, 33, 34, 35, 37,
          38, 39, 41, 42, 43, 45, 46, 47, 49, 50, 51, 53, 54, 55, 57),
    "A": (1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 16, 17, 18, 20, 21, 22),
    "S": (1, 2, 3, 5, 6, 7),
}  # fmt: skip
"""All ids of the groups on the APIs that are served. Not a gap: the numbers that the table itself skips."""

RESPONSES = "/v1/responses is not served yet"
SOUNDS = "needs a model that hears"

EXCLUDED = {
    "C30": SOUNDS,
    "O43": RESPONSES,
    "O45": RESPONSES,
    "O46": RESPONSES,
    "O47": RESPONSES,
    "O49": RESPONSES,
    "O50": RESPONSES,
    "O51": RESPONSES,
}
"""What is not tested here, and why; `"B2 pull"` is a part of a case of which others are."""


def covered() -> set[str]:
    """`"B2 chat"`, `"G37"`: the ids of all tests here, from their names and the names of their rows."""
    names = [path.stem for path in Path(__file__).parent.glob("test_*.py")]
    modules = [import_module(f"{__package__}.{name}") for name in names]
    tests = [item for module in modules for name, item in vars(module).items() if name.startswith("test_")]
    return set(chain.from_iterable(map(ids_of, tests)))


def ids_of(test) -> list[str]:
    if named := re.match(r"test_([a-z]\d+)_", test.__name__):
        return [named[1].upper()]
    return [identity for mark in getattr(test, "pytestmark", ()) for identity in row_ids(mark)]


def row_ids(mark) -> list[str]:
    """A row names itself (`Case.id`), or `pytest.param` does."""
    return [getattr(row, "id", "") for row in mark.args[1]]


def test_every_case_is_tested_or_excluded():
    listed = {f"{group}{number}" for group, numbers in LISTED.items() for number in numbers}
    assert {label.split()[0] for label in covered() | EXCLUDED.keys()} == listed


def test_no_case_is_both():
    assert not covered() & EXCLUDED.keys()
