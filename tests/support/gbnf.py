"""A reader of GBNF for tests, from llama.cpp's description of it: does a grammar allow a text, and what does it allow?

Independent of the code that writes grammars. It follows a text as the engine does, with a set of stacks.
"""

import random
import re
from dataclasses import dataclass, field


@dataclass(eq=False)
class Chars:
    ranges: list
    negated: bool = False

    def holds(self, char):
        return any(lo <= ord(char) <= hi for lo, hi in self.ranges) != self.negated


@dataclass(eq=False)
class Ref:
    name: str


@dataclass(eq=False)
class Sequence:
    nodes: list


@dataclass(eq=False)
class Choice:
    nodes: list


@dataclass(frozen=True)
class Repeat:
    node: object
    low: int
    high: int | None


TOKEN = re.compile(
    r'\s*(?:("(?:\\.|[^"\\])*")|(\[(?:\\.|[^\]\\])*\])|([A-Za-z0-9-]+)|([()|*+?])|\{(\d+)(,?)(\d*)\})', re.DOTALL
)
CHAR = re.compile(r"\\x([0-9A-Fa-f]{2})|\\u([0-9A-Fa-f]{4})|\\U([0-9A-Fa-f]{8})|\\(.)|(.)", re.DOTALL)
NAMED = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", '"': '"', "[": "[", "]": "]", "-": "-"}
COUNTS = {"*": (0, None), "+": (1, None), "?": (0, 1)}


def codes(text):
    """(code point, whether it was escaped) of each character."""
    found = []
    for x, u, long, named, plain in CHAR.findall(text):
        code = int(x or u or long, 16) if x or u or long else ord(NAMED[named] if named else plain)
        found.append((code, not plain))
    return found


def class_of(text):
    negated = text.startswith("^")
    points, ranges = codes(text[negated:]), []
    while points:
        low = high = points.pop(0)[0]
        if len(points) > 1 and points[0] == (ord("-"), False):
            points.pop(0)
            high = points.pop(0)[0]
        assert low <= high
        ranges.append((low, high))
    return Chars(ranges, negated)


@dataclass
class Body:
    """One rule's body, read from the left."""

    text: str
    at: int = 0

    def choice(self):
        nodes = [self.sequence()]
        while self.peek() == "|":
            self.at += 1
            nodes.append(self.sequence())
        return nodes[0] if len(nodes) == 1 else Choice(nodes)

    def sequence(self):
        nodes = []
        while self.peek() not in ("", "|", ")"):
            quoted, cls, name, sign, low, comma, high = (found := TOKEN.match(self.text, self.at)).groups()
            self.at = found.end()
            if quoted:
                nodes.append(Sequence([Chars([(code, code)]) for code, _ in codes(quoted[1:-1])]))
            elif cls:
                nodes.append(class_of(cls[1:-1]))
            elif name:
                nodes.append(Ref(name))
            elif sign == "(":
                nodes.append(self.choice())
                assert self.peek() == ")"
                self.at += 1
            else:
                low, high = (
                    COUNTS[sign] if sign else (int(low), int(high) if high else (None if comma else int(low)))
                )
                nodes.append(Repeat(nodes.pop(), low, high))
        return Sequence(nodes)

    def peek(self):
        while self.text[self.at : self.at + 1].isspace():
            self.at += 1
        return self.text[self.at : self.at + 1]


@dataclass
class Grammar:
    rules: dict = field(default_factory=dict)

    def __init__(self, text):
        pairs = [line.split(" ::= ", 1) for line in text.split("\n") if line.strip()]
        self.rules = {name: Body(body).choice() for name, body in pairs}
        assert len(self.rules) == len(pairs), "a rule is defined twice"
        self.costs = None

    def ways(self, node):
        """What a node that is no character class may be replaced by: lists of nodes."""
        match node:
            case Ref(name):
                return [[self.rules[name]]]
            case Sequence(nodes):
                return [nodes]
            case Choice(nodes):
                return [[inner] for inner in nodes]
            case Repeat(inner, low, high):
                fewer = Repeat(inner, max(low - 1, 0), None if high is None else high - 1)
                return ([] if low else [[]]) + ([] if high == 0 else [[inner, fewer]])

    def _settled(self, stacks):
        """The stacks with a character class on top, or empty."""
        settled, seen, todo = [], set(), list(stacks)
        while todo:
            stack = todo.pop()
            if stack in seen:
                continue
            seen.add(stack)
            if stack is None or isinstance(stack[0], Chars):
                settled.append(stack)
                continue
            node, rest = stack
            for nodes in self.ways(node):
                way = rest
                for inner in reversed(nodes):
                    way = (inner, way)
                todo.append(way)
        return settled

    def most_readings(self, text):
        """In how many ways at most the text can be understood up to some character; 0 if it is not allowed."""
        stacks, most = self._settled([(Ref("root"), None)]), 1
        for char in text:
            readings = {stack[1] for stack in stacks if stack and stack[0].holds(char)}
            stacks, most = self._settled(readings), max(most, len(readings))
        return most if None in stacks else 0

    def allows(self, text):
        return self.most_readings(text) > 0

    def cost(self, node):
        """How many nodes its shortest text takes, roughly."""
        match node:
            case Chars():
                return 1
            case Ref(name):
                return self.costs[name] + 1
            case Sequence(nodes):
                return sum(map(self.cost, nodes))
            case Choice(nodes):
                return min(map(self.cost, nodes)) + 1
            case Repeat(inner, low, _):
                return low * self.cost(inner) + 1

    def sample(self, rng: random.Random, length=200):
        """A text that the grammar allows; after that many steps it takes the shortest way to an end."""
        self._measure()
        text, stack, steps = [], [Ref("root")], 0
        while stack:
            node, steps = stack.pop(), steps + 1
            if isinstance(node, Chars):
                text.append(self._char(node, rng))
                continue
            ways = self.ways(node)
            way = rng.choice(ways) if steps < length else min(ways, key=lambda nodes: sum(map(self.cost, nodes)))
            stack.extend(reversed(way))
        return "".join(text)

    def _measure(self):
        if self.costs is None:
            self.costs, changed = dict.fromkeys(self.rules, 10**9), True
            while changed:
                changed = False
                for name, body in reversed(self.rules.items()):
                    if (cost := self.cost(body)) < self.costs[name]:
                        self.costs[name], changed = cost, True

    @staticmethod
    def _char(node, rng):
        assert not node.negated
        lo, hi = rng.choice(node.ranges)
        return chr(rng.choice([lo, hi, rng.randint(lo, min(hi, lo + 40))]))
