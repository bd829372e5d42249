"""What a request does next, as a table."""

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a3s_power.runner.base import LoadSpec
from a3s_power.scheduler.placement import Capacity
from a3s_power.scheduler.policy import Load, Refuse, Use, Wait, decide

GB = 10**9


@dataclass(frozen=True)
class Wanted:
    """At ease in `need` bytes, and content with `least`."""

    spec: LoadSpec
    need: int = 4 * GB
    least: int = 0

    def is_at_ease(self, free: Capacity) -> bool:
        return self.need <= free.host

    def fits(self, free: Capacity) -> bool:
        return self.least <= free.host


@dataclass(frozen=True)
class Place:
    spec: LoadSpec
    leases: int = 0
    held: Capacity = field(default_factory=lambda: Capacity(4 * GB))
    idle_since: float = 0.0
    is_pinned: bool = False
    is_leaving: bool = False


def spec(model: str, **options: object) -> LoadSpec:
    return replace(LoadSpec(model, num_ctx=4096, slots=2), **options)


def place(model: str, **fields: object) -> Place:
    options = {name: fields.pop(name) for name in ("num_ctx", "num_gpu", "adapter_paths") if name in fields}
    return Place(spec(model, **options), **fields)


FULL = place("a", leases=2)
SMALL = place("a", num_ctx=2048)
ADAPTED = place("a", adapter_paths=("/l",))
OLD, NEW = place("b", idle_since=1), place("c", idle_since=9)
BUSY = place("b", leases=1)
PINNED = place("p", is_pinned=True)
LEAVING = place("b", is_leaving=True)


@pytest.mark.parametrize(
    ("slots", "free", "expected"),
    [
        # loaded already, with a slot to spare
        ([place("a")], 0, Use(place("a"))),
        ([place("a", leases=1)], 0, Use(place("a", leases=1))),
        ([place("a", num_ctx=8192)], 0, Use(place("a", num_ctx=8192))),  # a larger context does
        ([FULL], 99 * GB, Wait("every slot of its runner is taken")),
        # the same model, loaded otherwise
        ([SMALL], 0, Load((SMALL,))),
        ([place("a", num_gpu=0)], 0, Use(place("a", num_gpu=0))),  # whoever names no layers takes any
        ([replace(SMALL, leases=1)], 99 * GB,
         Wait("the same model is busy with other load options", (replace(SMALL, leases=1),))),
        # another model on the same weights
        ([ADAPTED], 8 * GB, Load(())),
        ([replace(ADAPTED, leases=1)], 8 * GB, Load(())),
        ([ADAPTED], 0, Load((ADAPTED,))),
        # not loaded
        ([], 8 * GB, Load(())),
        ([], 0, Load(())),                                  # not at ease, but alone
        ([OLD], 8 * GB, Load(())),                          # beside another
        ([NEW, OLD], 0, Load((OLD,))),                      # the least recently used one goes
        ([NEW, OLD], -4 * GB, Load((OLD, NEW))),
        ([PINNED, NEW], 0, Load((NEW,))),                   # a pinned one goes last
        ([PINNED], 0, Load((PINNED,))),
        ([BUSY], 0, Wait("every runner that could make room is busy", (BUSY,), needs_room=True)),
        ([BUSY, OLD], 0, Load((OLD,))),
        # one is on its way out
        ([LEAVING], 0, Wait("a runner is still leaving", needs_room=True)),
        ([LEAVING], 8 * GB, Load(())),
        ([place("a", is_leaving=True)], 8 * GB, Load(())),  # what leaves cannot be joined
    ],
)  # fmt: skip
def test_a_request_takes_the_cheapest_way_to_its_runner(slots, free, expected):
    assert decide(Wanted(spec("a")), slots, Capacity(free), max_loaded=9) == expected


@pytest.mark.parametrize(
    ("slots", "expected"),
    [
        ([OLD], Load((OLD,))),
        ([BUSY], Wait("every runner that could make room is busy", (BUSY,), needs_room=True)),
        ([LEAVING], Wait("a runner is still leaving", needs_room=True)),
    ],
)
def test_the_number_of_loaded_models_is_bounded_however_much_memory_there_is(slots, expected):
    assert decide(Wanted(spec("a"), 1), slots, Capacity(99 * GB), max_loaded=1) == expected


def test_nobody_joins_a_runner_that_drains_for_an_earlier_request():
    runner = place("a", leases=1)
    assert decide(Wanted(spec("a"), 1), [runner], Capacity(99 * GB), 9, closed=[runner]) == Wait(
        "every slot of its runner is taken"
    )


places = st.builds(
    Place,
    spec=st.builds(spec, st.sampled_from("abc"), num_ctx=st.sampled_from([2048, 4096])),
    leases=st.integers(0, 2),
    held=st.builds(Capacity, st.integers(0, 8 * GB)),
    idle_since=st.floats(0, 9),
    is_pinned=st.booleans(),
)


@given(
    st.lists(places, max_size=4, unique_by=lambda p: p.spec.model_path),
    st.integers(-GB, 8 * GB),
    st.integers(1, 3),
    st.integers(0, 16 * GB),
)
def test_no_decision_hurts_a_busy_runner_or_overfills_one(slots, free, max_loaded, least):
    match decide(Wanted(spec("a"), least=least), slots, Capacity(free), max_loaded):
        case Use(slot):
            assert slot.leases < slot.spec.slots
            assert slot.spec.num_ctx >= 4096
        case Load(evict):
            assert all(slot.leases == 0 for slot in evict)
            staying = [slot for slot in slots if slot not in evict]
            assert not staying or (
                free + sum(slot.held.host for slot in evict) >= 4 * GB and len(staying) < max_loaded
            )
        case Wait(_, drains):
            assert all(slot.leases for slot in drains)
            assert any(slot.leases for slot in slots)  # or it would wait for ever
        case Refuse(most):
            assert most.host == free + sum(slot.held.host for slot in slots) < least


@pytest.mark.parametrize("slots", [[], [OLD], [BUSY], [LEAVING], [OLD, BUSY, LEAVING]])
def test_what_would_not_fit_alone_is_refused_before_anybody_is_evicted_for_it(slots):
    there_is = 8 * GB + sum(slot.held.host for slot in slots)
    assert decide(Wanted(spec("a"), 99 * GB, there_is + 1), slots, Capacity(8 * GB), 9) == Refuse(
        Capacity(there_is)
    )
    assert not isinstance(decide(Wanted(spec("a"), 99 * GB, there_is), slots, Capacity(8 * GB), 9), Refuse)
