"""Questions about a parsed Go template, and the one cut that legacy templates need."""

from collections.abc import Iterator
from dataclasses import replace

from gotpl.parse.nodes import (
    ActionNode,
    BlockNode,
    FieldNode,
    IfNode,
    ListNode,
    ParenthesizedNode,
    PipeNode,
    RangeNode,
    TemplateCallNode,
    TemplateNode,
    VariableNode,
    WithNode,
)

Branch = IfNode | WithNode | RangeNode


def pipeline_of(node: TemplateNode) -> PipeNode | None:
    """What the node prints, tests or loops over, if anything."""
    match node:
        case ActionNode() | IfNode() | WithNode() | RangeNode() | TemplateCallNode() | BlockNode():
            return node.pipeline
    return None


def lists_of(node: TemplateNode) -> tuple[ListNode, ...]:
    """The lists inside a branch, in order."""
    match node:
        case IfNode() | WithNode() | RangeNode():
            return (node.body,) if node.else_body is None else (node.body, node.else_body)
    return ()


def walk(tree: ListNode) -> Iterator[TemplateNode]:
    """Every node in document order, those inside branches after the branch itself."""
    for node in tree.nodes:
        yield node
        for inner in lists_of(node):
            yield from walk(inner)


def depth(tree: ListNode) -> int:
    """How many lists lie inside each other, itself included."""
    return 1 + max((depth(inner) for node in tree.nodes for inner in lists_of(node)), default=0)


def fields_of(pipeline: PipeNode) -> Iterator[FieldNode | VariableNode]:
    """Every field and variable that a pipeline reads."""
    for command in pipeline.commands:
        for term in command.arguments:
            match term:
                case FieldNode() | VariableNode():
                    yield term
                case ParenthesizedNode():
                    yield from fields_of(term.pipeline)


def identifiers(tree: ListNode) -> Iterator[str]:
    """Every name in every field and variable of the tree; `$m.ToolCalls` gives `$m` and `ToolCalls`."""
    for node in walk(tree):
        if pipeline := pipeline_of(node):
            for field in fields_of(pipeline):
                if isinstance(field, VariableNode):
                    yield field.name
                yield from field.fields


def mentions(pipeline: PipeNode | None, name: str) -> bool:
    """Whether the pipeline reads a field of that name, such as `Response`."""
    return pipeline is not None and any(name in field.fields for field in fields_of(pipeline))


def cut_from(tree: ListNode, name: str) -> ListNode:
    """The part of the template before the first node that mentions the field, inside branches too.

    Ollama ends a prompt there: what follows `.Response` belongs after the answer.
    """
    return _cut(tree, name)[0]


def _cut(tree: ListNode, name: str) -> tuple[ListNode, bool]:
    kept: list[TemplateNode] = []
    for node in tree.nodes:
        if mentions(pipeline_of(node), name):
            return ListNode(tuple(kept)), True
        match node:
            case IfNode() | WithNode() | RangeNode():
                branch, was_cut = _cut_branch(node, name)
                kept.append(branch)
                if was_cut:
                    return ListNode(tuple(kept)), True
            case _:
                kept.append(node)
    return ListNode(tuple(kept)), False


def _cut_branch(node: Branch, name: str) -> tuple[Branch, bool]:
    body, was_cut = _cut(node.body, name)
    if was_cut:
        return replace(node, body=body, else_body=None), True
    if node.else_body is None:
        return node, False
    else_body, was_cut = _cut(node.else_body, name)
    return replace(node, else_body=else_body), was_cut
