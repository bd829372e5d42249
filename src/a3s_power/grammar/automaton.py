"""Deterministic automata as grammar rules: wherever the engine stands in such a text, there is one way to read it.

A rule for each state, `state ::= [a-z] state | end`. Patterns, ranges of numbers and sets of words become automata
because written as plain alternatives they can be read in more ways than the engine can follow.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from a3s_power.grammar.gbnf import Grammar, Ranges, any_of, char_class, chars, complement, literal, union

State = TypeVar("State")


class Automaton(Protocol[State]):
    """States are hashable. The edges of one state are disjoint sets of characters."""

    @property
    def start(self) -> State:
        """Where a text begins."""

    def edges(self, state: State) -> Iterable[tuple[Ranges, State]]:
        """What may come next, and where it leads."""

    def accepts(self, state: State) -> bool:
        """Whether the text may end here."""


def write(
    grammar: Grammar,
    automaton: Automaton[State],
    end: str = '""',
    spell: Callable[[Ranges], str] = char_class,
) -> str | None:
    """The name of a rule for the automaton's texts, each followed by the body `end`; None if there is no text.

    `spell` writes a set of characters. Raises InvalidRequest when the automaton is too large.
    """
    edges = _explore(grammar, automaton)
    live = _live(edges, [state for state in edges if automaton.accepts(state)])
    if automaton.start not in live:
        return None
    names = {state: grammar.reserve("s") for state in edges if state in live}
    for state, name in names.items():
        ways = [f"{spell(ranges)} {names[target]}" for ranges, target in edges[state] if target in live]
        grammar.fill(name, any_of([*ways, end] if automaton.accepts(state) else ways))
    return names[automaton.start]


def _explore(grammar: Grammar, automaton: Automaton[State]) -> dict[State, list[tuple[Ranges, State]]]:
    edges: dict[State, list[tuple[Ranges, State]]] = {}
    todo = [automaton.start]
    while todo:
        state = todo.pop()
        if state not in edges:
            edges[state] = list(automaton.edges(state))
            grammar.spend(8 + len(edges[state]))
            todo.extend(target for _, target in edges[state])
    return edges


def _live(edges: dict[State, list[tuple[Ranges, State]]], accepting: list[State]) -> set[State]:
    """The states from which an end can be reached; in any other a model would be stuck."""
    sources: dict[State, list[State]] = {}
    for state, ways in edges.items():
        for _, target in ways:
            sources.setdefault(target, []).append(state)
    live = set(accepting)
    todo = list(accepting)
    while todo:
        for source in sources.get(todo.pop(), ()):
            if source not in live:
                live.add(source)
                todo.append(source)
    return live


@dataclass(frozen=True)
class Until:
    """Texts that end with the first `closing` in them. A state is how much of it was just read."""

    closing: str
    start: int = 0

    def edges(self, state: int) -> Iterable[tuple[Ranges, int]]:
        """See `Automaton`."""
        if self.accepts(state):
            return
        targets: dict[int, str] = {}
        for char in sorted(set(self.closing)):
            reached = self._overlap(self.closing[:state] + char)
            targets[reached] = targets.get(reached, "") + char
        others = union([*complement(chars(self.closing)), *chars(targets.pop(0, ""))])
        yield others, 0
        yield from ((chars(text), target) for target, text in targets.items())

    def accepts(self, state: int) -> bool:
        """See `Automaton`."""
        return state == len(self.closing)

    def _overlap(self, text: str) -> int:
        """The length of the longest beginning of `closing` that `text` ends with."""
        return next(n for n in range(len(text), -1, -1) if self.closing.startswith(text[len(text) - n :]))


def one_of(grammar: Grammar, words: Iterable[str], behind: Mapping[str, str] | None = None) -> str:
    """The name of a rule for a set of literals. What several begin with is written once.

    `behind`: word → the name of a rule for what follows it.
    """
    root = grammar.reserve("w")
    todo: list[tuple[str, Sequence[str], int]] = [(root, sorted(set(words)), 0)]
    while todo:
        name, group, at = todo.pop()
        ways = []
        for branch in _branches(group, at):
            shared = _shared(branch)
            if len(branch) == 1:
                ways.append(
                    f"{literal(branch[0][at:])} {behind[branch[0]]}" if behind else literal(branch[0][at:])
                )
            else:
                child = grammar.reserve("w")
                todo.append((child, branch, shared))
                ways.append(f"{literal(branch[0][at:shared])} {child}")
        grammar.fill(name, any_of(ways))
    return root


def _branches(group: Sequence[str], at: int) -> list[list[str]]:
    """Sorted words, grouped by their character at one place; a word that ends there is a group of its own."""
    branches: dict[str, list[str]] = {}
    for word in group:
        branches.setdefault(word[at : at + 1], []).append(word)
    return list(branches.values())


def _shared(words: Sequence[str]) -> int:
    """How many characters sorted words have in common: as many as the first and the last."""
    first, last = words[0], words[-1]
    return next((n for n, char in enumerate(first) if char != last[n : n + 1]), len(first))


def none_of(grammar: Grammar, words: Iterable[str], within: Ranges, end: str) -> str | None:
    """The name of a rule for texts of characters `within` that are none of the words."""
    possible = [word for word in words if not complement(within, chars(word))]
    return write(grammar, _Unlike.of(possible, within), end)


@dataclass(frozen=True)
class _Unlike:
    """A state is a node of the words' trie as long as a word begins so, then None."""

    children: list[dict[str, int]]
    words: set[int]
    within: Ranges
    start: int | None = 0

    @classmethod
    def of(cls, words: Iterable[str], within: Ranges) -> "_Unlike":
        children: list[dict[str, int]] = [{}]
        ends = set()
        for word in words:
            node = 0
            for char in word:
                if char not in children[node]:
                    children[node][char] = len(children)
                    children.append({})
                node = children[node][char]
            ends.add(node)
        return cls(children, ends, within)

    def edges(self, state: int | None) -> Iterable[tuple[Ranges, int | None]]:
        """See `Automaton`."""
        known = {} if state is None else self.children[state]
        yield complement(chars("".join(known)), self.within), None
        yield from ((chars(char), node) for char, node in known.items())

    def accepts(self, state: int | None) -> bool:
        """See `Automaton`."""
        return state not in self.words
