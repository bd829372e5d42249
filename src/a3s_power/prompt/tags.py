"""The tags a Go template puts around thinking, inferred from its text."""

from collections.abc import Iterator

from gotpl.parse.nodes import FieldNode, ListNode, RangeNode, TextNode, VariableNode

from a3s_power.prompt.gotree import fields_of, lists_of, mentions, pipeline_of


def thinking_tags(tree: ListNode) -> tuple[str, str] | None:
    """The texts around `.Thinking` in a loop over `.Messages`, `("<think>", "</think>")`; None if unclear."""
    opening = closing = ""
    for around in _lists_with_thinking(tree, in_messages=False):
        first, last = around.nodes[0], around.nodes[-1]
        if isinstance(first, TextNode):
            opening = first.text.strip()
        if isinstance(last, TextNode):
            closing = last.text.strip()
    return (opening, closing) if opening and closing else None


def _lists_with_thinking(tree: ListNode, *, in_messages: bool) -> Iterator[ListNode]:
    """The lists where `.Thinking` is read, by a node of theirs or by its condition."""
    for node in tree.nodes:
        pipeline = pipeline_of(node)
        inside = mentions(pipeline, "Messages") if isinstance(node, RangeNode) else in_messages
        if inside and pipeline and any(_is_thinking(field) for field in fields_of(pipeline)):
            yield tree
        for inner in lists_of(node):
            yield from _lists_with_thinking(inner, in_messages=inside)


def _is_thinking(field: FieldNode | VariableNode) -> bool:
    return isinstance(field, FieldNode) and field.fields[0] == "Thinking"
