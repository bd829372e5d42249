"""A model's Go template: parsed once, rendered for every request.

The rules are Ollama's (`template/template.go`): which values a template sees, how older ones that know only one
prompt and one response are fed a whole conversation, and what is left out before the answer.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from functools import lru_cache

from gotpl.parse.nodes import ListNode

from a3s_power.generation import JSON
from a3s_power.messages import Message
from a3s_power.prompt import goparse
from a3s_power.prompt.goexec import execute
from a3s_power.prompt.gofuncs import functions
from a3s_power.prompt.gotree import cut_from, identifiers
from a3s_power.prompt.govalues import message_value, tools_value


@dataclass(frozen=True, slots=True, eq=False)
class GoTemplate:
    """A template that parses. Shared between requests: nothing in it changes."""

    text: str
    """As it was given."""
    tree: ListNode
    """With `{{ .Response }}` appended if it was missing."""
    vars: tuple[str, ...]
    """Every name it reads, lower case and sorted: `("$m", "content", "messages", "role")`."""
    _before_response: ListNode
    _definitions: Mapping[str, ListNode]

    @classmethod
    def parse(cls, text: str) -> "GoTemplate":
        """Raises InvalidTemplate with the parser's words. The last few templates are remembered."""
        return _parse(text)

    def render_chat(
        self,
        messages: Sequence[Message],
        tools: Sequence[JSON] = (),
        think: bool | str | None = None,
        *,
        today: date | None = None,
    ) -> str:
        """The prompt for a conversation that the assistant continues. `think` None: nobody said anything.

        `today` is what `currentDate` tells, by default the local date. A template that does not read
        `.Messages` gets one prompt and response after the other, tool results left out. Raises InvalidTemplate.
        """
        turns = collate(messages)
        flags = _think_values(think)
        if "messages" not in self.vars:
            return self._render_legacy(turns, flags, today)
        values = {
            "System": "\n\n".join(turn.content for turn in turns if turn.role == "system"),
            "Messages": [message_value(turn) for turn in turns],
            "Tools": tools_value(tools),
            "Response": "",
        }
        return self._execute([(self.tree, flags | values)], today)

    def render_insert(
        self, prompt: str, suffix: str, think: bool | str | None = None, *, today: date | None = None
    ) -> str:
        """The prompt for text between `prompt` and `suffix`, neither of them empty. Raises InvalidTemplate."""
        values = {"Prompt": prompt, "Suffix": suffix, "Response": ""}
        return self._execute([(self.tree, values | _think_values(think))], today)

    def _render_legacy(self, turns: Sequence[Message], flags: dict[str, object], today: date | None) -> str:
        empty = {"System": "", "Prompt": "", "Response": ""}
        values, rounds = empty, []
        for turn in turns:
            match turn.role:
                case "system" if values["Prompt"] or values["Response"]:
                    rounds.append(values)
                    values = empty | {"System": turn.content}
                case "system":
                    values = values | {"System": turn.content}
                case "user" if values["Response"]:
                    rounds.append(values)
                    values = empty | {"Prompt": turn.content}
                case "user":
                    values = values | {"Prompt": turn.content}
                case "assistant":
                    values = values | {"Response": turn.content}
        runs = [(self.tree, {**flags, **values}) for values in rounds]
        last = (self._before_response, {**flags, **values, "Response": ""})
        return self._execute([*runs, last], today)

    def _execute(self, runs: Iterable[tuple[ListNode, Mapping[str, object]]], today: date | None) -> str:
        day = today or datetime.now().astimezone().date()
        return execute(runs, self._definitions, functions(day))


def collate(messages: Sequence[Message]) -> list[Message]:
    """Neighbours of one role become one message, their contents joined by a blank line; tool results never do.

    Of such a message the first one's images, thinking and tool calls remain, as in Ollama.
    """
    turns: list[Message] = []
    contents: list[list[str]] = []
    for message in messages:
        if turns and message.role != "tool" and turns[-1].role == message.role:
            contents[-1].append(message.content)
        else:
            turns.append(message)
            contents.append([message.content])
    return [
        replace(turn, content="\n\n".join(parts)) if len(parts) > 1 else turn
        for turn, parts in zip(turns, contents, strict=True)
    ]


@lru_cache(maxsize=32)
def _parse(text: str) -> GoTemplate:
    parsed = goparse.parse(text)
    tree = parsed.root
    definitions = {definition.name: definition.body for definition in parsed.definitions}
    names = {name.lower() for part in (tree, *definitions.values()) for name in identifiers(part)}
    if names.isdisjoint({"messages", "response"}):
        tree = ListNode(tree.nodes + goparse.parse("{{ .Response }}").root.nodes)
        names.add("response")
    return GoTemplate(text, tree, tuple(sorted(names)), cut_from(tree, "Response"), definitions)


def _think_values(think: bool | str | None) -> dict[str, object]:
    level = "medium" if think is True else think or ""
    return {"Think": bool(think), "ThinkLevel": level, "IsThinkSet": think is not None}
