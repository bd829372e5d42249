"""What `pattern` and `format` ask of a string, as grammar rules.

The automaton is Glushkov's, with integers as sets: every character class of the expression is a position, and a
state is the set of positions that may come next.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from a3s_power.grammar.automaton import write
from a3s_power.grammar.gbnf import TEXT, Grammar, Ranges, any_of, char_class, chars, complement, unfit, union
from a3s_power.grammar.regex import END, START, Chain, Chars, Choice, Node, Repeat, Unsupported, parse

MAX_POSITIONS = 4000
"""Characters and classes in an expression whose repetitions are written out."""

_DONE: Ranges = ((0x110002, 0x110002),)
_ANY = Repeat(Chars(TEXT), 0, None)


def matching_string(
    grammar: Grammar, pattern: str, where: str, *, min_length: int = 0, max_length: int | None = None
) -> str:
    """The name of a rule for the JSON strings whose decoded text has a match for `pattern`, and that length.

    Raises InvalidRequest, naming the place, for an expression that we cannot follow and one that nothing matches.
    """
    try:
        automaton = _Search(pattern, min_length, max_length, grammar.spend)
    except Unsupported as exc:
        raise unfit(f'"pattern" at {where} cannot be expressed: it {exc}') from exc
    rest = write(grammar, automaton, '"\\""', json_chars)
    if rest is None:
        raise unfit(f'"pattern" at {where} matches no text of the length asked for')
    return grammar.define(f'"\\"" {rest}')


_SHORT_ESCAPES = {'"': '"', "\\": "\\", "\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"}
_ESCAPED = union([(0, 0x1F), *chars('"\\')])


def json_chars(ranges: Ranges) -> str:
    """The characters of a set as a JSON string holds them. Each is written in one way, and so read in one."""
    special = [code for lo, hi in _common(ranges, _ESCAPED) for code in range(lo, hi + 1)]
    short = "".join(_SHORT_ESCAPES[chr(code)] for code in special if chr(code) in _SHORT_ESCAPES)
    long = [code for code in special if chr(code) not in _SHORT_ESCAPES]
    low = "".join(f"{code:x}" for code in long if code < 0x10)
    high = "".join(f"{code - 0x10:x}" for code in long if code >= 0x10)
    raw = complement(_ESCAPED, ranges)
    ways = [char_class(raw)] if raw else []
    ways += [f'"\\\\" {char_class(chars(short))}'] if short else []
    ways += [f'"\\\\u000" {char_class(chars(low))}'] if low else []
    ways += [f'"\\\\u001" {char_class(chars(high))}'] if high else []
    return ways[0] if len(ways) == 1 else f"( {any_of(ways)} )"


def _common(one: Ranges, other: Ranges) -> Ranges:
    return complement(complement(other), one)


@dataclass(frozen=True, slots=True)
class _Part:
    """What a part of the expression begins and ends with: sets of positions."""

    first: int = 0
    last: int = 0
    may_be_empty: bool = True


@dataclass
class _Positions:
    """The class of each position, and which may follow it."""

    classes: list[Ranges] = field(default_factory=list)
    follow: list[int] = field(default_factory=list)

    def build(self, node: Node) -> _Part:
        """Add the positions of a part."""
        match node:
            case Chars(ranges):
                return self._position(ranges)
            case Chain(nodes):
                whole = _Part()
                for inner in reversed(nodes):
                    whole = self._then(self.build(inner), whole)
                return whole
            case Choice(nodes):
                return _either([self.build(inner) for inner in nodes])
            case Repeat(inner, low, high):
                return self._endless(inner, low) if high is None else self._counted(inner, low, high)

    def _position(self, ranges: Ranges) -> _Part:
        if len(self.classes) == MAX_POSITIONS:
            raise Unsupported("is too long when its repetitions are written out")
        bit = 1 << len(self.classes)
        self.classes.append(ranges)
        self.follow.append(0)
        return _Part(bit, bit, may_be_empty=False)

    def _then(self, head: _Part, tail: _Part) -> _Part:
        # Built from the end, so that `head` is small: the cost is in its last positions.
        for position in _bits(head.last):
            self.follow[position] |= tail.first
        return _Part(
            head.first | tail.first if head.may_be_empty else head.first,
            head.last | tail.last if tail.may_be_empty else tail.last,
            head.may_be_empty and tail.may_be_empty,
        )

    def _endless(self, node: Node, low: int) -> _Part:
        """`x{3,}` as `xxx+`."""
        item = self.build(node)
        for position in _bits(item.last):
            self.follow[position] |= item.first
        whole = _Part(item.first, item.last, item.may_be_empty or not low)
        for _ in range(low - 1 if item.first else 0):
            whole = self._then(self.build(node), whole)
        return whole

    def _counted(self, node: Node, low: int, high: int) -> _Part:
        """`x{2,4}` as `xx(x(x)?)?`."""
        whole = _Part()
        for n in range(high):
            whole = self._then(self.build(node), whole)
            if not whole.first:
                break  # an empty group, however often
            if n < high - low:
                whole = _Part(whole.first, whole.last)
        return whole


def _either(parts: list[_Part]) -> _Part:
    first = last = 0
    for part in parts:
        first, last = first | part.first, last | part.last
    return _Part(first, last, any(part.may_be_empty for part in parts))


def _bits(positions: int) -> Iterator[int]:
    while positions:
        lowest = positions & -positions
        yield lowest.bit_length() - 1
        positions ^= lowest


class _Search:
    """Texts in which an expression matches somewhere. A state: the positions that may come next, the length.

    `^` and `$` are characters here, the first and the last of every text; a match may begin and end anywhere.
    """

    def __init__(
        self, pattern: str, min_length: int, max_length: int | None, spend: Callable[[int], None]
    ) -> None:
        before = Repeat(Chain((Chars(START), _ANY)), 0, 1)
        after = Repeat(Chain((_ANY, Chars(END))), 0, 1)
        self._positions = _Positions()
        whole = self._positions.build(Chain((before, parse(pattern), after, Chars(_DONE))))
        spend(len(self._positions.classes))
        self._done = whole.last
        self._min_length, self._max_length = min_length, max_length
        self._spend = spend
        self.start = (self._after(whole.first, START), 0)

    def edges(self, state: tuple[int, int]) -> Iterable[tuple[Ranges, tuple[int, int]]]:
        """See `Automaton`."""
        positions, length = state
        if length == self._max_length:
            return
        length = min(length + 1, self._max_length or self._min_length)
        reached: dict[Ranges, int] = {TEXT: 0}
        for position in _bits(positions):
            ranges = self._positions.classes[position]
            reached[ranges] = reached.get(ranges, 0) | self._positions.follow[position]
        targets: dict[int, list[tuple[int, int]]] = {}
        for interval, target in self._intervals(reached):
            targets.setdefault(target, []).append(interval)
        self._spend(positions.bit_count())
        yield from ((union(points), (target, length)) for target, points in targets.items())

    def accepts(self, state: tuple[int, int]) -> bool:
        """See `Automaton`."""
        positions, length = state
        return length >= self._min_length and bool(self._after(positions, END) & self._done)

    def _intervals(self, reached: dict[Ranges, int]) -> Iterator[tuple[tuple[int, int], int]]:
        """Each stretch of characters that all lead to the same positions, and those; none that lead nowhere."""
        bounds = sorted({bound for ranges in reached for lo, hi in ranges for bound in (lo, hi + 1)})
        self._spend(len(bounds) * len(reached))
        for lo, beyond in pairwise(bounds):
            if not _holds(TEXT, lo):
                continue
            target = 0
            for ranges, positions in reached.items():
                if _holds(ranges, lo):
                    target |= positions
            if target:
                yield (lo, beyond - 1), target

    def _after(self, positions: int, mark: Ranges) -> int:
        target = 0
        for position in _bits(positions):
            if self._positions.classes[position] == mark:
                target |= self._positions.follow[position]
        return target


def _holds(ranges: Ranges, code: int) -> bool:
    return any(lo <= code <= hi for lo, hi in ranges)
