"""The tags a Go template puts around thinking and tool calls, inferred from its text."""

import re
from collections.abc import Iterator

from gotpl.parse.nodes import ActionNode, FieldNode, IfNode, ListNode, RangeNode, TextNode, VariableNode

from a3s_power.prompt.gotree import fields_of, lists_of, mentions, pipeline_of, walk

NO_TOOL_TAG = "{"
"""What a call begins with if the template puts nothing before it."""

_MARKER = re.compile(r"<[^>]+>|\[[^\]]+\]")


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


def tool_tag(tree: ListNode) -> str:
    """What the template writes before tool calls: `<tool_call>`, `[TOOL_CALLS] [`; `{` if it shows nothing.

    That is the first text under the first `{{ if .ToolCalls }}`, up to the JSON (Ollama's `tools/template.go`).
    """
    branches = (node for node in walk(tree) if isinstance(node, IfNode) and mentions(node.pipeline, "ToolCalls"))
    branch = next(branches, None)
    text = _first_text(branch.body) if branch else ""
    return text.partition("{")[0].strip() or NO_TOOL_TAG


def preserved(tag: str) -> str | None:
    """The special token that a tag begins with: `[TOOL_CALLS]` of `[TOOL_CALLS] [`; None for `{` or `[`."""
    marker = _MARKER.match(tag)
    return marker[0] if marker else None


def overlap(text: str, tag: str) -> int:
    """How many characters at the end of `text` could begin `tag`: 2 for `a <t` and `<think>`."""
    longest = min(len(text), len(tag) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(tag[:size])), 0)


def _first_text(tree: ListNode) -> str:
    """The first text that is not blank. What follows a printed value in the same list is not before the calls."""
    for node in tree.nodes:
        match node:
            case TextNode() if node.text.strip():
                return node.text
            case ActionNode() if not node.pipeline.declarations:
                return ""
        for inner in lists_of(node):
            if text := _first_text(inner):
                return text
    return ""
