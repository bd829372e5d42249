"""Numbers between bounds, as grammar rules that compare digit by digit.

Bounded numbers are written without an exponent. An automaton reads a magnitude: how many digits are to come before
the point, and whether what was read is still equal to the beginning of a bound.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil, floor

from a3s_power.grammar.automaton import write
from a3s_power.grammar.gbnf import Grammar, Ranges, any_of, chars, literal, unfit

MAX_DIGITS = 20
"""Before the point of a bound, and after it: enough for all 64-bit integers."""
USUAL_DIGITS = 15
"""What a double tells apart. Nothing longer is written unless a bound is longer: 99.9999999999999999 is 100."""


@dataclass(frozen=True, slots=True)
class Bound:
    """An end of a range. `is_open`: the value itself is not in the range."""

    value: Fraction
    is_open: bool = False


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from `low` to `high`; None means without end."""

    low: Bound | None = None
    high: Bound | None = None

    @property
    def is_empty(self) -> bool:
        """Whether no real number is in it."""
        if self.low is None or self.high is None:
            return False
        is_open = self.low.is_open or self.high.is_open
        return self.low.value > self.high.value or (is_open and self.low.value == self.high.value)

    def meet(self, other: "Range") -> "Range":
        """The numbers that are in both."""
        lows = [bound for bound in (self.low, other.low) if bound]
        highs = [bound for bound in (self.high, other.high) if bound]
        return Range(
            max(lows, key=lambda bound: (bound.value, bound.is_open), default=None),
            min(highs, key=lambda bound: (bound.value, not bound.is_open), default=None),
        )

    def integers(self) -> "Range":
        """The range from its least integer to its greatest."""
        low, high = self.low, self.high
        if low is not None:
            low = Bound(Fraction(floor(low.value) + 1 if low.is_open else ceil(low.value)))
        if high is not None:
            high = Bound(Fraction(ceil(high.value) - 1 if high.is_open else floor(high.value)))
        return Range(low, high)

    def negated(self) -> "Range":
        """The numbers whose negatives are in the range."""
        return Range(_negative(self.high), _negative(self.low))


def _negative(bound: Bound | None) -> Bound | None:
    return None if bound is None else Bound(-bound.value, bound.is_open)


_ALL, _ZERO = Range(), Bound(Fraction(0))
_POSITIVE = Range(low=Bound(Fraction(0), is_open=True))


def number_in(grammar: Grammar, numbers: Range, is_integer: bool, where: str) -> str:
    """The body for JSON numbers in a range. Raises InvalidRequest, naming the place, when there is none."""
    numbers = numbers.integers() if is_integer else numbers
    if numbers == _ALL:
        return "integer" if is_integer else "number"
    bodies = []
    for sign, part in (("-", numbers.negated().meet(_POSITIVE)), ("", numbers.meet(Range(low=_ZERO)))):
        if not part.is_empty and (name := _magnitude(grammar, part, where, is_integer=is_integer)):
            bodies.append(f"{literal(sign)} {name}" if sign else name)
    if not bodies:
        raise unfit(f"no {'integer' if is_integer else 'number'} is within the bounds at {where}")
    return any_of(bodies)


def _magnitude(grammar: Grammar, numbers: Range, where: str, *, is_integer: bool) -> str | None:
    low, high = numbers.low or _ZERO, numbers.high
    if high is not None and high.value >= 10**MAX_DIGITS:
        high = None
    scale = max(_places(low, where), _places(high, where) if high else 0)
    if low.value >= 10**MAX_DIGITS:
        raise unfit(f"the bounds at {where} have more than {MAX_DIGITS} digits")
    return write(grammar, _Magnitude(low, high, scale, is_integer, grammar))


def _places(bound: Bound, where: str) -> int:
    """The decimal places of a bound."""
    places = next((n for n in range(MAX_DIGITS + 1) if (bound.value * 10**n).denominator == 1), None)
    if places is None:
        raise unfit(f"the bounds at {where} have more than {MAX_DIGITS} decimal places")
    return places


@dataclass(frozen=True, slots=True)
class _Reading:
    """One way to understand the digits so far: they begin a number with `length` digits before the point."""

    length: int
    at: int = 0
    past_point: bool = False
    on_low: bool = False
    on_high: bool = False


Readings = frozenset[_Reading]


class _Magnitude:
    """Numbers from `low` to `high`, both not negative; `scale` is how many decimals these have."""

    def __init__(self, low: Bound, high: Bound | None, scale: int, is_integer: bool, grammar: Grammar) -> None:
        self._low, self._high = low, high
        self._scale = scale
        self._is_integer = is_integer
        self._spend = grammar.spend
        unit = 10**scale
        self._low_digits = str(int(low.value * unit))
        self._high_digits = str(int(high.value * unit)) if high else ""
        self.start: Readings = frozenset(self._starts())

    def _starts(self) -> Iterator[_Reading]:
        low_length = max(1, len(self._low_digits) - self._scale)
        high_length = max(1, len(self._high_digits) - self._scale)
        if self._high is None:
            high_length = max(USUAL_DIGITS, min(low_length + 1, MAX_DIGITS))
        for length in range(low_length, high_length + 1):
            on_high = self._high is not None and length == high_length
            yield self._settled(_Reading(length, on_low=length == low_length, on_high=on_high))

    def edges(self, state: Readings) -> Iterable[tuple[Ranges, Readings]]:
        """See `Automaton`."""
        self._spend(10 * len(state))
        targets: dict[Readings, str] = {}
        for digit in "0123456789":
            after = frozenset(step for reading in state if (step := self._step(reading, digit)))
            targets[after] = targets.get(after, "") + digit
        targets.pop(frozenset(), None)
        yield from ((chars(digits), target) for target, digits in targets.items())
        if pointed := frozenset(self._point(reading) for reading in state if self._may_point(reading)):
            yield chars("."), pointed

    def accepts(self, state: Readings) -> bool:
        """See `Automaton`."""
        return any(self._is_whole(reading) for reading in state)

    def _step(self, reading: _Reading, digit: str) -> _Reading | None:
        at, length = reading.at, reading.length
        if at >= (max(length + self._scale, USUAL_DIGITS) if reading.past_point else length):
            return None
        if at == 0 and digit == "0" and length > 1:
            return None
        low, high = self._digit(self._low_digits, reading), self._digit(self._high_digits, reading)
        if (reading.on_low and digit < low) or (reading.on_high and digit > high):
            return None
        on_low, on_high = reading.on_low and digit == low, reading.on_high and digit == high
        return self._settled(_Reading(length, at + 1, reading.past_point, on_low, on_high))

    def _settled(self, reading: _Reading) -> _Reading:
        """With nothing but zeros to come, a low bound that may be reached is no bound any more."""
        is_met = not self._low.is_open and not self._rest(self._low_digits, reading)
        return replace(reading, on_low=False) if is_met else reading

    def _digit(self, digits: str, reading: _Reading) -> str:
        """The bound's digit at a place; those it does not have are zeros."""
        return digits.zfill(reading.length + self._scale)[reading.at : reading.at + 1] or "0"

    def _may_point(self, reading: _Reading) -> bool:
        return reading.at == reading.length and not reading.past_point and not self._is_integer

    def _point(self, reading: _Reading) -> _Reading:
        return replace(reading, past_point=True)

    def _is_whole(self, reading: _Reading) -> bool:
        if reading.at < reading.length or (reading.past_point and reading.at == reading.length):
            return False
        if reading.on_low and (self._low.is_open or self._rest(self._low_digits, reading)):
            return False
        is_high = reading.on_high and not self._rest(self._high_digits, reading)
        return not (is_high and self._high is not None and self._high.is_open)

    def _rest(self, digits: str, reading: _Reading) -> str:
        """What a bound goes on with, but for zeros."""
        return digits.zfill(reading.length + self._scale)[reading.at :].strip("0")
