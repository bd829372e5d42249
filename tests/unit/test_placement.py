"""Where a runner goes: the rules as tables, and what holds for every machine."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a3s_power.scheduler.placement import Capacity, Need, Placement, place

NONE: dict[str, int] = {}
ONE = {"CUDA0": 100}
UNEQUAL = {"CUDA0": 100, "CUDA1": 300}
EQUAL = {f"CUDA{number}": 100 for number in range(8)}
INTEGRATED = {"CUDA0": 60}  # shares the host's memory; to be placed on it is no different


def placed(need, gpus, host=1000, **wishes):
    return place(Need(*need), Capacity(host, gpus), **{"wants_gpu": True} | wishes)


def on(host=0, **gpus):
    """On these devices, with so much of each."""
    return Placement(tuple(gpus), Capacity(host, gpus))


@pytest.mark.parametrize(
    ("gpus", "need", "expected"),
    [  # need is (host, gpu)
        (NONE, (10, 500), on(510)),
        (NONE, (10, 990), on(1000)),
        (NONE, (10, 991), None),
        (ONE, (10, 80), on(10, CUDA0=80)),
        (ONE, (10, 81), on(10, CUDA0=81)),                       # not with ease, but there is no other
        (ONE, (10, 100), on(10, CUDA0=100)),
        (ONE, (10, 130), on(40, CUDA0=100)),                     # the rest is the host's
        (ONE, (10, 1090), on(1000, CUDA0=100)),
        (ONE, (10, 1091), None),
        (ONE, (1001, 10), None),                                 # what it takes of the host beside
        (ONE, (0, 0), on(0, CUDA0=0)),
        (INTEGRATED, (10, 40), on(10, CUDA0=40)),
        (UNEQUAL, (10, 80), on(10, CUDA1=80)),                   # the one with the most free, not the first that fits
        (UNEQUAL, (10, 240), on(10, CUDA1=240)),
        (UNEQUAL, (10, 241), on(10, CUDA0=60, CUDA1=181)),       # together, by what is free
        (UNEQUAL, (10, 400), on(10, CUDA0=100, CUDA1=300)),
        (UNEQUAL, (10, 450), on(60, CUDA0=100, CUDA1=300)),
        (EQUAL, (10, 80), on(10, CUDA0=80)),                     # the first of equals
        (EQUAL, (10, 160), on(10, **dict.fromkeys(EQUAL, 20))),
        (EQUAL, (10, 800), on(10, **EQUAL)),
        (EQUAL, (10, 1000), on(210, **EQUAL)),
        ({"CUDA0": 0, "CUDA1": 100}, (10, 90), on(10, CUDA0=0, CUDA1=90)),
        ({"CUDA0": -50, "CUDA1": 100}, (10, 90), on(10, CUDA0=0, CUDA1=90)),  # someone else took what was ours
        ({"CUDA0": 0}, (10, 90), on(100, CUDA0=0)),
    ],
)  # fmt: skip
def test_a_runner_goes_on_one_gpu_on_all_or_beside_them(gpus, need, expected):
    assert placed(need, gpus) == expected


@pytest.mark.parametrize(
    ("gpus", "wishes", "expected"),
    [  # of a runner that takes 10 of the host and 60 of GPUs
        (UNEQUAL, {"wants_gpu": False}, on(70)),
        (UNEQUAL, {"wants_gpu": False, "main_gpu": 1, "spread": True}, on(70)),
        (UNEQUAL, {"main_gpu": 0}, on(10, CUDA0=60)),
        (UNEQUAL, {"main_gpu": 1}, on(10, CUDA1=60)),
        (UNEQUAL, {"main_gpu": 2}, on(10, CUDA1=60)),            # there is none
        (UNEQUAL, {"main_gpu": -1}, on(10, CUDA1=60)),
        (UNEQUAL, {"main_gpu": 0, "spread": True}, on(10, CUDA0=60)),
        ({"CUDA0": 50, "CUDA1": 900}, {"main_gpu": 0}, on(20, CUDA0=50)),  # that one or the host, but no other
        (UNEQUAL, {"spread": True}, on(10, CUDA0=15, CUDA1=45)),
        (ONE, {"spread": True}, on(10, CUDA0=60)),
        (NONE, {"spread": True, "main_gpu": 0}, on(70)),
    ],
)  # fmt: skip
def test_a_wish_decides_where(gpus, wishes, expected):
    assert placed((10, 60), gpus, **wishes) == expected


# ---- for every machine ----

sizes = st.integers(0, 10**12)
devices = st.lists(sizes, max_size=9).map(lambda all_free: {f"GPU{n}": free for n, free in enumerate(all_free)})
capacities = st.builds(Capacity, sizes, devices)
needs = st.builds(Need, sizes, sizes)
wishes = st.fixed_dictionaries(
    {"wants_gpu": st.booleans(), "main_gpu": st.none() | st.integers(-1, 10), "spread": st.booleans()}
)


@given(needs, capacities, wishes)
def test_never_more_is_taken_than_is_free_and_never_less_than_is_needed(need, free, wishes):
    found = place(need, free, **wishes)
    if found is not None:
        taken = found.taken
        assert tuple(taken.gpus) == found.devices
        assert all(0 <= size <= free.gpus[name] for name, size in taken.gpus.items())
        assert need.host <= taken.host <= free.host
        assert taken.host + sum(taken.gpus.values()) == need.host + need.gpu


@given(needs, capacities, wishes)
def test_the_host_bears_only_what_the_chosen_gpus_lack(need, free, wishes):
    found = place(need, free, **wishes)
    if found is not None and found.taken.host > need.host:
        assert all(found.taken.gpus[name] == free.gpus[name] for name in found.devices)


@given(needs, capacities, wishes, st.data())
def test_more_free_memory_never_takes_a_place_away(need, free, wishes, data):
    more = Capacity(data.draw(sizes), {name: data.draw(sizes) for name in free.gpus})
    if place(need, free, **wishes) is not None:
        assert place(need, free + more, **wishes) is not None


@given(needs, capacities, wishes)
def test_the_same_question_has_the_same_answer(need, free, wishes):
    assert place(need, free, **wishes) == place(need, free, **wishes)


@given(needs, capacities, wishes)
def test_what_was_taken_can_be_given_back(need, free, wishes):
    found = place(need, free, **wishes)
    if found is not None:
        assert free - found.taken + found.taken == free


@pytest.mark.parametrize(
    ("total", "expected"),
    [
        (Capacity(1, {"a": 2}) + Capacity(10, {"b": 30}), Capacity(11, {"a": 2, "b": 30})),
        (Capacity(11, {"a": 2, "b": 30}) - Capacity(1, {"a": 2}), Capacity(10, {"a": 0, "b": 30})),
        (Capacity(1) - Capacity(2, {"gone": 3}), Capacity(-1, {"gone": -3})),
        (sum([Capacity(1, {"a": 1})] * 3, Capacity(0)), Capacity(3, {"a": 3})),
    ],
)
def test_capacities_add_up_by_device(total, expected):
    assert total == expected


def test_the_engines_order_of_gpus_is_kept():
    assert list((Capacity(0, {"CUDA0": 1, "CUDA1": 1}) - Capacity(0, {"CUDA1": 1, "CUDA0": 1})).gpus) == [
        "CUDA0",
        "CUDA1",
    ]
