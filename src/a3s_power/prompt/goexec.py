"""Runs a parsed Go template over values, within bounds on time and memory.

gotpl parses; it does not execute, for three reasons found by trying: its machine has no bound on template calls
nor on the size of intermediate strings, it prints every map in Go's `map[…]` notation where Ollama's print as
JSON, and it fails on `eq` between a string and nil. The semantics are those of Go's `text/template/exec.go` with
the option `missingkey=zero`. Templates come with models that nobody has read, so each step and each character
counts against a budget.
"""

from collections.abc import Iterable, Mapping
from typing import NoReturn

from gotpl.parse.nodes import (
    ActionNode,
    BlockNode,
    BoolNode,
    BreakNode,
    CharacterNode,
    CommandNode,
    ComplexNode,
    ContinueNode,
    DotNode,
    FieldNode,
    IdentifierNode,
    IfNode,
    ListNode,
    NilNode,
    NumberNode,
    ParenthesizedNode,
    PipeNode,
    RangeNode,
    StringNode,
    TemplateCallNode,
    TemplateNode,
    TermNode,
    TextNode,
    VariableNode,
    WithNode,
)
from gotpl.runtime.values import number_value

from a3s_power.errors import InvalidTemplate, NestsTooDeeply
from a3s_power.prompt.gofuncs import Function
from a3s_power.prompt.goprintf import CallFailed, go_type
from a3s_power.prompt.govalues import NO_VALUE, Struct, is_true, show

MAX_STEPS = 2_000_000
"""Nodes visited and values computed, some seconds. A long conversation takes about 50 a message."""
MAX_CHARS = 1 << 24
"""Characters of the result and of all strings made on the way."""
_CHARS_READ_PER_STEP = 1 << 10

_ABSENT = object()
"""No value was piped into this command; None would be Go's nil."""


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


def execute(
    runs: Iterable[tuple[ListNode, Mapping[str, object]]],
    definitions: Mapping[str, ListNode],
    functions: Mapping[str, Function],
) -> str:
    """The text that templates make of their data, one run after the other, all within one budget.

    `definitions` are the templates that may be called by name. Raises InvalidTemplate if a template fails on
    these values or takes too long.
    """
    execution = _Execution(definitions, functions)
    try:
        for tree, data in runs:
            execution.run(tree, data)
    except RecursionError:
        raise NestsTooDeeply("the template, or a value that it prints, nests too deeply") from None
    return "".join(execution.output)


class _Execution:
    def __init__(self, definitions: Mapping[str, ListNode], functions: Mapping[str, Function]) -> None:
        self.output: list[str] = []
        self._definitions = definitions
        self._functions = functions
        self._variables: list[tuple[str, object]] = []
        self._steps = MAX_STEPS
        self._chars = MAX_CHARS

    def run(self, tree: ListNode, data: object) -> None:
        """Execute one template: the root, or one that is called; it sees its own variables only."""
        outer, self._variables = self._variables, [("$", data)]
        self._list(tree, data)
        self._variables = outer

    def _list(self, tree: ListNode, dot: object) -> None:
        for node in tree.nodes:
            self._node(node, dot)

    def _node(self, node: TemplateNode, dot: object) -> None:
        self._spend()
        match node:
            case TextNode():
                self._write(node.text)
            case ActionNode():
                value = self._pipeline(node.pipeline, dot)
                if not node.pipeline.declarations:
                    self._write(show(value, nil=NO_VALUE))
            case IfNode() | WithNode():
                self._branch(node, dot)
            case RangeNode():
                self._range(node, dot)
            case TemplateCallNode() | BlockNode():
                self._template(node.name, node.pipeline, dot)
            case BreakNode():
                raise _Break
            case ContinueNode():
                raise _Continue

    def _branch(self, node: IfNode | WithNode, dot: object) -> None:
        mark = len(self._variables)
        value = self._pipeline(node.pipeline, dot)
        if is_true(value):
            self._list(node.body, value if isinstance(node, WithNode) else dot)
        elif node.else_body is not None:
            self._list(node.else_body, dot)
        del self._variables[mark:]

    def _range(self, node: RangeNode, dot: object) -> None:
        mark = len(self._variables)
        value = self._pipeline(node.pipeline, dot)
        names = [variable.name for variable in node.pipeline.declarations]
        inner = len(self._variables)
        ran = False
        for key, item in _entries(value, len(names)):
            ran = True
            self._spend()
            for name, bound in zip(reversed(names), (item, key), strict=False):  # a single one is the item
                self._assign(name, bound)
            try:
                self._list(node.body, item)
            except _Break:
                break
            except _Continue:
                pass
            finally:
                del self._variables[inner:]
        if not ran and node.else_body is not None:
            self._list(node.else_body, dot)
        del self._variables[mark:]

    def _template(self, name: str, pipeline: PipeNode | None, dot: object) -> None:
        if name not in self._definitions:
            raise InvalidTemplate(f'template "{name}" not defined')
        self.run(self._definitions[name], None if pipeline is None else self._pipeline(pipeline, dot))

    def _pipeline(self, pipeline: PipeNode, dot: object) -> object:
        value = _ABSENT
        for command in pipeline.commands:
            value = self._command(command, dot, value)
        for variable in pipeline.declarations:
            if pipeline.is_assignment:
                self._assign(variable.name, value)
            else:
                self._variables.append((variable.name, value))
        return value

    def _command(self, command: CommandNode, dot: object, piped: object) -> object:
        first, *others = command.arguments
        match first:
            case IdentifierNode():
                return self._call(first.name, others, dot, piped)
            case NilNode():
                raise InvalidTemplate("nil is not a command")
        value = self._term(first, dot)
        if others or piped is not _ABSENT:
            raise InvalidTemplate(f"can't give an argument to a non-function of type {go_type(value)}")
        return value

    def _term(self, term: TermNode, dot: object) -> object:
        self._spend()
        match term:
            case FieldNode():
                return _fields(dot, term.fields)
            case VariableNode():
                return _fields(self._variable(term.name), term.fields)
            case StringNode() | BoolNode():
                return term.value
            case ParenthesizedNode():
                return _fields(self._pipeline(term.pipeline, dot), term.fields)
            case DotNode():
                return dot
            case NumberNode():
                return number_value(term.text, is_complex=False)
            case ComplexNode():
                return number_value(term.text, is_complex=True)
            case CharacterNode():
                return ord(term.value)
            case IdentifierNode():
                return self._call(term.name, (), dot, _ABSENT)
            case NilNode():
                return None

    def _call(self, name: str, terms: Iterable[TermNode], dot: object, piped: object) -> object:
        if name in ("and", "or"):
            return self._and_or(name, terms, dot, piped)
        arguments = [self._term(term, dot) for term in terms]
        if piped is not _ABSENT:
            arguments.append(piped)
        least, most, run = self._functions[name]
        if len(arguments) < least or (most is not None and len(arguments) > most):
            raise InvalidTemplate(f"wrong number of args for {name}: got {len(arguments)}")
        read = sum(len(value) for value in arguments if isinstance(value, str | list | bytes))
        self._spend(1 + read // _CHARS_READ_PER_STEP)
        try:
            value = run(*arguments)
        except CallFailed as exc:
            raise InvalidTemplate(f"error calling {name}: {exc}") from exc
        if isinstance(value, str):
            self._spend_chars(len(value))
        return value

    def _and_or(self, name: str, terms: Iterable[TermNode], dot: object, piped: object) -> object:
        value = _ABSENT
        for term in terms:
            value = self._term(term, dot)
            if is_true(value) == (name == "or"):
                return value
        if piped is not _ABSENT:
            return piped
        if value is _ABSENT:
            raise InvalidTemplate(f"wrong number of args for {name}: want at least 1 got 0")
        return value

    def _variable(self, name: str) -> object:
        for known, value in reversed(self._variables):
            if known == name:
                return value
        return _undefined(name)

    def _assign(self, name: str, value: object) -> None:
        for i in range(len(self._variables) - 1, -1, -1):
            if self._variables[i][0] == name:
                self._variables[i] = (name, value)
                return
        _undefined(name)

    def _write(self, text: str) -> None:
        self._spend_chars(len(text))
        self.output.append(text)

    def _spend(self, steps: int = 1) -> None:
        self._steps -= steps
        if self._steps < 0:
            raise InvalidTemplate(f"the template takes more than {MAX_STEPS} steps")

    def _spend_chars(self, count: int) -> None:
        self._chars -= count
        if self._chars < 0:
            raise InvalidTemplate(f"the template makes more than {MAX_CHARS} characters")


def _undefined(name: str) -> NoReturn:
    raise InvalidTemplate(f"undefined variable: {name}")


def _entries(value: object, variables: int) -> Iterable[tuple[object, object]]:
    match value:
        case None:
            return ()
        case Mapping():
            return [(key, value[key]) for key in sorted(value)]
        case list() | tuple() | bytes():
            return enumerate(value)
        case int() if not isinstance(value, bool):
            if variables > 1:
                raise InvalidTemplate(f"can't use {value} to iterate over more than one variable")
            return ((i, i) for i in range(value))
    raise InvalidTemplate(f"range can't iterate over {show(value)[:80]}")


def _fields(value: object, names: tuple[str, ...]) -> object:
    """Follow `.A.B.C`. Of nil itself every field is nil; a nil on the way there is an error."""
    if value is None:
        return None
    for name in names:
        match value:
            case Struct() if name in value.fields:
                value = value.fields[name]
            case Mapping():
                value = value.get(name)
            case None:
                raise InvalidTemplate(f"nil pointer evaluating interface {{}}.{name}")
            case _:
                raise InvalidTemplate(f"can't evaluate field {name} in type {go_type(value)}")
    return value
