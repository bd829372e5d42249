"""Whose turn it is: tables of who comes next, and what holds whatever happens."""

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a3s_power.requester import Priority, Requester
from a3s_power.scheduler.fairness import MOST_REMEMBERED, FairShare

BATCH = Priority.BATCH


@dataclass(frozen=True, eq=False)
class Ask:
    """A request that takes `tokens` in truth; by default what was expected."""

    client: str
    cost: int = 100
    priority: Priority = Priority.INTERACTIVE
    actual: int | None = None

    @property
    def requester(self) -> Requester:
        return Requester(self.client, self.priority)

    @property
    def tokens(self) -> int:
        return self.cost if self.actual is None else self.actual


@dataclass
class Server:
    """One runner with some slots: it grants what it can whenever something changes, as the scheduler does."""

    slots: int = 1
    fair: FairShare = field(default_factory=FairShare)
    queue: list[Ask] = field(default_factory=list)
    running: list[Ask] = field(default_factory=list)
    granted: list[Ask] = field(default_factory=list)
    """All that were ever granted, in that order."""
    finished: list[Ask] = field(default_factory=list)

    def arrive(self, *asks: Ask) -> None:
        for ask in asks:
            self.fair.arrived(ask)
            self.queue.append(ask)
            self.dispatch()

    def withdraw(self, ask: Ask) -> None:
        self.queue.remove(ask)
        self.fair.withdrew(ask)

    def finish(self, ask: Ask) -> None:
        self.running.remove(ask)
        self.fair.finished(ask, ask.tokens)
        self.finished.append(ask)
        self.dispatch()

    def dispatch(self) -> None:
        for ask in self.fair.ordered(tuple(self.queue)):
            if len(self.running) == self.slots:
                break
            self.queue.remove(ask)
            self.fair.started(ask)
            self.running.append(ask)
            self.granted.append(ask)

    def finish_all(self) -> None:
        while self.running:
            self.finish(self.running[0])

    def order(self) -> list[Ask]:
        return list(self.fair.ordered(self.queue))


def clients(asks: list[Ask]) -> str:
    return "".join(ask.client for ask in asks)


def remembered(fair: FairShare) -> list[object]:
    """All that a queue keeps of anybody."""
    return [
        state for queue in fair._queues.values() for state in (queue._active, queue._gone, queue._floor) if state
    ]


# ---- who comes next ----


@pytest.mark.parametrize(
    ("arrivals", "served"),
    [
        ("aaa", "aaa"),
        ("abc", "abc"),                                            # all alike: first come first served
        ("aaaabb", "ababaa"),                                      # in turns
        ("aaaab", "abaaa"),                                        # who comes last need not be last
        (("a", "a", "a", ("b", 300), "b", "c"), "abcaab"),         # a long request counts for more
        ((("a", 300), "a", "b", "b", "b", "b"), "abbbab"),         # and so does one that went before
        ((("a", 100, BATCH), ("a", 100, BATCH), "b", "b"), "abba"),   # whoever runs is not interrupted
        ((("a", 900), ("b", 1, BATCH), "a"), "aab"),               # batch waits, however little it asks for
        (("a", "a", ("a", 100, BATCH), "b", ("b", 100, BATCH)), "abaab"),
    ],
)  # fmt: skip
def test_requests_are_served_in_turns_weighted_by_tokens(arrivals, served):
    server = Server()
    server.arrive(*(Ask(*(arrival if isinstance(arrival, tuple) else (arrival,))) for arrival in arrivals))
    server.finish_all()
    assert clients(server.granted) == served


@pytest.mark.parametrize("actual", [100, 1, 5000])
def test_a_light_client_comes_next_however_much_a_heavy_one_has_waiting(actual):
    """Nor does it matter how far off the expectations are that the heavy one's running requests count with."""
    server = Server(slots=4)
    server.arrive(*(Ask("h", 1000, actual=actual) for _ in range(100)))
    for _ in range(20):
        server.finish(server.running[0])
    server.arrive(Ask("l"))
    server.finish(server.running[0])
    assert clients(server.granted[-1:]) == "l"


def test_clients_get_equal_tokens_not_equal_requests():
    server = Server()
    server.arrive(*(Ask("l", 300) for _ in range(400)), *(Ask("s", 100) for _ in range(400)))
    while len(server.granted) < 401:
        server.finish(server.running[0])
    assert Counter(clients(server.granted)) == {"l": 101, "s": 300}


def test_a_request_counts_with_what_it_took_in_the_end():
    server = Server()
    server.arrive(*(Ask("m", 500, actual=10) for _ in range(200)), *(Ask("t", 10) for _ in range(200)))
    for _ in range(200):
        server.finish(server.running[0])
    assert Counter(clients(server.finished)) == {"m": 100, "t": 100}


def test_a_newcomer_is_not_put_behind_what_others_were_wrongly_expected_to_take():
    server = Server(slots=2)
    server.arrive(huge := Ask("h", 1000, actual=1), *(Ask("h", 10) for _ in range(20)))
    server.finish(server.running[1])
    server.arrive(Ask("l"))
    server.finish(huge)
    assert clients(server.granted[-1:]) == "l"


def test_one_long_request_after_the_other_does_not_come_in_fresh_each_time():
    server = Server()
    server.arrive(Ask("h", 1000), *(Ask("l", 100) for _ in range(100)))
    while len(server.granted) < 33:
        done = server.running[0]
        server.finish(done)
        if done.client == "h":
            server.arrive(Ask("h", 1000))  # it never has two at a time
    assert Counter(clients(server.granted)) == {"h": 3, "l": 30}


def test_a_client_that_comes_back_gets_nothing_for_the_time_it_was_away():
    server = Server()
    server.arrive(Ask("b"), *(Ask("a") for _ in range(100)))
    for _ in range(50):
        server.finish(server.running[0])
    server.arrive(*(Ask("b") for _ in range(5)))
    before = len(server.granted)
    server.finish_all()
    assert clients(server.granted[before:]).startswith("bababababaaa")


def test_a_client_that_uses_little_builds_up_no_claim_though_it_is_never_quite_away():
    """One request of it always runs, so that it is never idle; but nor does it wait for anything."""
    server = Server(slots=2)
    server.arrive(Ask("b"), *(Ask("a") for _ in range(100)))
    for _ in range(50):
        server.finish(next(ask for ask in server.running if ask.client == "a"))
    assert clients(server.running) == "ba"
    server.arrive(*(Ask("b") for _ in range(5)))
    before = len(server.granted)
    server.finish_all()
    assert "bbb" not in clients(server.granted[before:])


def test_a_long_request_is_counted_once_though_others_are_served_meanwhile():
    server = Server(slots=2)
    server.arrive(long := Ask("b", 5000), *(Ask("a") for _ in range(200)))
    for _ in range(50):
        server.finish(next(ask for ask in server.running if ask.client == "a"))
    server.arrive(*(Ask("b") for _ in range(10)))  # both had 5000 by now
    server.finish(long)
    before = len(server.granted)
    for _ in range(10):
        server.finish(server.running[0])
    assert Counter(clients(server.granted[before:])) == {"a": 5, "b": 5}


def test_nor_does_anybody_inherit_a_claim_from_one_whose_long_request_is_yet_to_be_counted():
    server = Server(slots=2)
    server.arrive(Ask("l", 1000), *(Ask("a") for _ in range(100)))
    for _ in range(50):
        server.finish(next(ask for ask in server.running if ask.client == "a"))
    server.arrive(Ask("l"))
    server.finish(server.running[1])
    server.arrive(*(Ask("n") for _ in range(10)))
    before = len(server.granted)
    for _ in range(10):
        server.finish(server.running[-1])
    assert "nnn" not in clients(server.granted[before:])


def test_what_nobody_else_wanted_costs_nothing():
    server = Server()
    server.arrive(Ask("a", 10_000))
    server.finish_all()
    server.arrive(Ask("c"), Ask("a"), Ask("b"))
    server.finish_all()
    assert clients(server.granted) == "acab"


def test_what_was_taken_as_batch_is_not_held_against_interactive_requests():
    server = Server()
    server.arrive(Ask("a", 10_000, BATCH), Ask("a"), Ask("b"), Ask("a"), Ask("b"))
    server.finish_all()
    assert clients(server.granted) == "aabab"


def test_the_last_in_the_order_is_the_newest_of_whoever_asks_for_most():
    server = Server()
    server.arrive(Ask("r"), *(Ask("h") for _ in range(5)), Ask("l"), newest := Ask("h"), Ask("m"))
    assert server.order()[-1] is newest


def test_what_happens_during_a_walk_does_not_disturb_it():
    fair, asks = FairShare(), [Ask(client) for client in "aaabb"]
    for ask in asks:
        fair.arrived(ask)
    walked = []
    for ask in fair.ordered(asks):
        walked.append(ask)
        fair.started(ask)
    assert clients(walked) == "ababa"


@pytest.mark.parametrize(("tokens", "kept"), [(100, MOST_REMEMBERED), (0, 0)])
def test_a_million_addresses_do_not_fill_the_memory(tokens, kept):
    """And whoever took nothing is not remembered at all."""
    fair, busy = FairShare(), Ask("busy")
    fair.arrived(busy)
    for n in range(2 * MOST_REMEMBERED):
        ask = Ask(f"address {n}")
        fair.arrived(ask)
        fair.started(ask)
        fair.finished(ask, tokens)
    assert len(fair._queues[ask.priority]._gone) == kept


# ---- what holds whatever happens ----

LARGEST = 1000
SLOTS = st.integers(1, 4)
SIZES = st.integers(1, LARGEST)
ASKS = st.builds(Ask, st.sampled_from("abcd"), SIZES, st.sampled_from(Priority), st.none() | SIZES)
EXACT = st.builds(Ask, st.sampled_from("abcd"), SIZES)
FINISHES = st.tuples(st.just("finish"), st.integers(0, 99))
ENDS = FINISHES | st.tuples(st.just("withdraw"), st.integers(0, 99))


def play(server: Server, steps: list[object]) -> None:
    """What arrives, and which of those that run or wait are done: by their place, for as many as there are."""
    for step in steps:
        match step:
            case Ask():
                server.arrive(step)
            case "finish", place if server.running:
                server.finish(server.running[place % len(server.running)])
            case "withdraw", place if server.queue:
                server.withdraw(server.queue[place % len(server.queue)])


@given(SLOTS, st.lists(ASKS | ENDS))
def test_each_walk_has_everyone_once_with_the_interactive_first(slots, steps):
    server = Server(slots)
    for step in steps:
        play(server, [step])
        order = server.order()
        assert Counter(order) == Counter(server.queue)
        assert [ask.priority for ask in order] == sorted((ask.priority for ask in order), key=list(Priority).index)


@given(SLOTS, st.lists(ASKS | ENDS))
def test_first_come_first_served_within_a_client_and_priority(slots, steps):
    server = Server(slots)
    play(server, steps)
    server.finish_all()
    arrived = [step for step in steps if isinstance(step, Ask)]
    for requester in {ask.requester for ask in arrived}:
        granted = [ask for ask in server.granted if ask.requester == requester]
        assert granted == [ask for ask in arrived if ask in granted and ask.requester == requester]


@given(SLOTS, st.lists(ASKS | ENDS))
def test_nothing_is_kept_of_anybody_once_all_have_gone(slots, steps):
    server = Server(slots)
    play(server, steps)
    server.finish_all()
    assert server.queue == []
    assert remembered(server.fair) == []


@given(
    SLOTS,
    st.lists(st.tuples(SIZES, SIZES), min_size=1),
    st.lists(st.tuples(SIZES, SIZES), min_size=1),
    st.lists(st.integers(0, 3), max_size=100),
)
def test_two_who_always_wait_differ_by_no_more_than_one_largest_request_in_each_slot(slots, mine, yours, ends):
    """In tokens really served, however wrong the expectations are."""
    server = Server(slots)
    sizes = {"a": mine, "b": yours}
    server.arrive(*(Ask(client, 1) for client in "abab" for _ in range(slots)))
    for place in ends:
        server.finish(server.running[place % slots])
        for client in "ab":
            for cost, actual in sizes[client]:
                server.arrive(Ask(client, cost, actual=actual))
        served = {client: sum(ask.tokens for ask in server.finished if ask.client == client) for client in "ab"}
        assert abs(served["a"] - served["b"]) <= slots * LARGEST


@given(SLOTS, st.lists(EXACT | ENDS), st.lists(EXACT | FINISHES))
def test_nobody_is_served_twice_before_a_newcomer_is_once(slots, before, after):
    """With true expectations. So a newcomer waits for no more than one request of each client, whoever comes later."""
    server = Server(slots)
    play(server, before)
    already, newcomer = len(server.granted), Ask("new")
    server.arrive(newcomer)
    play(server, after)
    server.finish_all()
    overtaking = server.granted[already : server.granted.index(newcomer)]
    assert max(Counter(clients(overtaking)).values(), default=0) <= 1
