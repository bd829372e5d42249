"""Whose turn it is: the order in which waiting requests are served.

Every client has a clock that counts the tokens it was served, and whoever's clock is furthest behind goes next.
This is start-time fair queueing (Goyal, Vin, Cheng, 1996) with tokens for packets, as in the virtual token counter
(Sheng et al., "Fairness in Serving Large Language Models", 2024). A request counts from the moment it is granted:
with what it is expected to take, and once it has ended with what it took.

Three rules keep the clocks honest:

- A client that does not wait builds up no claim: at each arrival its clock is put forward to the *floor*, the
  least that anybody who waits has been served. Expectations stay out of the floor, for they are often far too
  high, and would put a newcomer behind those who already run.
- A client that goes is remembered while others still lag behind it. Otherwise whoever sends one long request after
  the other would come in fresh each time, and be served request for request instead of token for token.
- When nobody waits or runs, all is forgotten: tokens that nobody else wanted cost nothing.

Interactive and batch requests are two such queues: what a client took while nobody was in a hurry is not held
against it when it is. All clients of a queue share its clocks, whatever model they want, since models compete for
memory too; tokens of different models count alike.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heapreplace
from typing import Protocol, TypeVar

from a3s_power.requester import Priority, Requester

MOST_REMEMBERED = 1024
"""Clients that have gone, in each queue. The one that left first is forgotten first."""


class Request(Protocol):
    """What fairness needs to know of a request; it stays the same for the request's whole life."""

    @property
    def requester(self) -> Requester:
        """Whose it is."""

    @property
    def cost(self) -> int:
        """Tokens that it is expected to take, prompt and answer together: at least 1."""


R = TypeVar("R", bound=Request)


class FairShare:
    """Is told once each, of every request: `arrived`, then either `withdrew`, or `started` and `finished`."""

    def __init__(self) -> None:
        self._queues = {priority: _Queue() for priority in Priority}

    def arrived(self, request: Request) -> None:
        """It waits."""
        self._queue_of(request).arrived(request.requester.client)

    def withdrew(self, request: Request) -> None:
        """It waits no more, and was never started."""
        self._queue_of(request).withdrew(request.requester.client)

    def started(self, request: Request) -> None:
        """It was granted what it waited for. Does not disturb an iterator that `ordered` gave."""
        self._queue_of(request).started(request.requester.client, request.cost)

    def finished(self, request: Request, tokens: int) -> None:
        """It has ended, well or not, and took so many tokens in truth."""
        self._queue_of(request).finished(request.requester.client, request.cost, tokens)

    def ordered(self, waiting: Iterable[R]) -> Iterator[R]:
        """The same requests, all of which have arrived, in the order in which to serve them; given oldest first.

        Each client's come in the order given, and each counts with those of its client before it, be they granted
        or passed over. The last one is the one to turn away when there are too many.
        """
        by_priority: dict[Priority, list[R]] = {priority: [] for priority in Priority}
        for request in waiting:
            by_priority[request.requester.priority].append(request)
        for priority, queue in self._queues.items():
            yield from queue.ordered(by_priority[priority])

    def _queue_of(self, request: Request) -> "_Queue":
        return self._queues[request.requester.priority]


@dataclass(slots=True)
class _Account:
    """A client that has requests waiting or running."""

    served: int
    """Tokens that its finished requests took, and that it was put forward by."""
    expected: int = 0
    """Tokens that its running requests count for until they finish."""
    waiting: int = 0
    running: int = 0

    @property
    def clock(self) -> int:
        return self.served + self.expected


class _Queue:
    """The clients of one priority."""

    def __init__(self) -> None:
        self._active: dict[str, _Account] = {}
        self._gone: dict[str, int] = {}  # client → tokens served, in the order in which they left
        self._floor = 0  # never falls while anybody is active

    def arrived(self, client: str) -> None:
        account = self._active.get(client)
        if account is None:
            account = self._active[client] = _Account(self._gone.pop(client, 0))
        account.served = max(account.served, self._floor - account.expected)
        account.waiting += 1

    def withdrew(self, client: str) -> None:
        self._active[client].waiting -= 1
        self._settle(client)

    def started(self, client: str, cost: int) -> None:
        least = min(account.served for account in self._active.values() if account.waiting)
        self._floor = max(self._floor, least)
        account = self._active[client]
        account.waiting -= 1
        account.running += 1
        account.expected += cost

    def finished(self, client: str, cost: int, tokens: int) -> None:
        account = self._active[client]
        account.running -= 1
        account.expected -= cost
        account.served += tokens
        self._settle(client)

    def ordered(self, waiting: Iterable[R]) -> Iterator[R]:
        lines: dict[str, deque[tuple[int, R]]] = defaultdict(deque)
        for arrival, request in enumerate(waiting):
            lines[request.requester.client].append((arrival, request))
        # Whose clock is behind, then who came first: no two came at once, so lines are never compared.
        turns = [(self._active[client].clock, line[0][0], line) for client, line in lines.items()]
        heapify(turns)
        while turns:
            clock, _, line = turns[0]
            _, request = line.popleft()
            if line:
                heapreplace(turns, (clock + request.cost, line[0][0], line))
            else:
                heappop(turns)
            yield request

    def _settle(self, client: str) -> None:
        """Take a client off the books if nothing of it is left; close them if it was the last."""
        account = self._active[client]
        if account.waiting or account.running:
            return
        del self._active[client]
        if account.served > self._floor:
            self._gone[client] = account.served
        if len(self._gone) > MOST_REMEMBERED:
            del self._gone[next(iter(self._gone))]
        if not self._active:
            self._gone.clear()
            self._floor = 0
