"""Which way of using the cores is chosen: one model keeps its speed, two of them share well."""

import pytest

from a3s_power.devices import logical_cores, physical_cores
from a3s_power.runner.cores import SPINS, Choice, Cores, Measured, candidates, choose

MUCH, MORE, SOME, LITTLE = (Cores(2, spin) for spin in SPINS)


def measured(cores, speed, at_once, decode=None):
    """`speed` in tokens per second, of prefill and decode alike unless that is told."""
    return Measured(cores, speed, speed if decode is None else decode, at_once)


@pytest.mark.parametrize(
    ("figures", "expected", "is_good"),
    [
        # Of those that keep the speed, the one that shares best.
        ([measured(MUCH, 100, 3.0), measured(MORE, 98, 1.3), measured(LITTLE, 83, 0.8)], MORE, True),
        ([measured(MUCH, 100, 1.4), measured(MORE, 98, 1.3), measured(SOME, 96, 1.1)], SOME, True),
        ([measured(MORE, 100, 1.2), measured(LITTLE, 94, 0.8)], MORE, True),
        # Speed is that of prefill and that of decode.
        ([measured(MORE, 100, 1.4), measured(LITTLE, 100, 0.8, decode=80)], MORE, True),
        ([measured(MORE, 100, 1.4, decode=80), measured(LITTLE, 80, 0.8, decode=100)], LITTLE, False),
        # None keeps both promises: what misses them least, counted in parts of each.
        ([measured(MUCH, 100, 3.0), measured(MORE, 90, 1.4), measured(LITTLE, 80, 0.8)], MORE, False),
        ([measured(MORE, 100, 1.6), measured(LITTLE, 50, 0.8)], MORE, False),
        # Without limit is what the others are measured by, however well it did.
        ([measured(MUCH, 100, 1.2), measured(LITTLE, 90, 0.8)], LITTLE, False),
        # At the limits, and where there is nothing to choose.
        ([measured(MORE, 100, 1.5), measured(SOME, 95, 1.5)], MORE, True),
        ([measured(MUCH, 100, 9.0)], MUCH, False),
    ],
)
def test_a_model_alone_keeps_its_speed_and_two_share_well(figures, expected, is_good):
    choice = choose(figures)
    assert (choice.cores, choice.is_good) == (expected, is_good)


def test_a_choice_tells_what_it_is_worth():
    assert str(Choice(MORE, 0.98, 1.34)) == (
        "2 threads, spin 2000: 0.98 of the best speed alone, "
        "two models at once in 1.34 times the time of one after the other"
    )
    assert "compromise" in str(Choice(MORE, 0.98, 1.6))


def test_tried_are_threads_for_physical_cores_and_for_all():
    assert {cores.threads for cores in candidates()} == {physical_cores(), logical_cores()}
    assert {cores.spin for cores in candidates()} == set(SPINS)
    assert Cores.default() in candidates()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Cores(0, 2000),
        lambda: Cores(2, -1),
        lambda: measured(MUCH, 0, 1.0),
        lambda: measured(MUCH, 100, 0),
        lambda: measured(MUCH, float("nan"), 1.0),
    ],
)
def test_what_makes_no_sense_cannot_be_said(make):
    with pytest.raises(ValueError, match="no "):
        make()
