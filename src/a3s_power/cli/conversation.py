"""One conversation with one model at a time: its messages, and what the user wants of the replies."""

import shutil
from contextlib import suppress
from dataclasses import replace
from typing import TextIO

from a3s_power.cli.attachments import attach
from a3s_power.cli.progress import spinner
from a3s_power.cli.reply import ReplyPrinter, timings
from a3s_power.cli.wishes import Wishes, inferred_think
from a3s_power.client import Client, ClientError
from a3s_power.errors import InvalidName
from a3s_power.names import ModelName
from a3s_power.wire.ollama import ChatReply, ChatRequest, CreateRequest, Message, ShowReply, ShowRequest


class Conversation:
    """Keeps the state that `/set` and `/load` change. Replies go to `out` as they come, the rest to `err`."""

    def __init__(self, client: Client, wishes: Wishes, shown: ShowReply, out: TextIO, err: TextIO) -> None:
        self.client = client
        self.wishes = wishes
        self.shown = shown
        self._chose_think = wishes.think is not None
        if not self._chose_think:
            self.wishes = replace(wishes, think=inferred_think(shown.capabilities))
        self._out = out
        self._err = err
        self._messages = [Message(role="system", content=wishes.system)] if wishes.system else []

    @property
    def is_multimodal(self) -> bool:
        return not {"vision", "audio"}.isdisjoint(self.shown.capabilities)

    @property
    def can_think(self) -> bool:
        return "thinking" in self.shown.capabilities

    @property
    def model_messages(self) -> list[Message]:
        """Those that the model comes with; the server puts them before ours."""
        return [Message(role=message.role, content=message.content) for message in self.shown.messages]

    def load(self) -> None:
        """Bring the model into memory, with a sign that this takes time."""
        with spinner(self._err):
            self.client.load(self.wishes.load_request)

    def switch(self, name: str) -> None:
        """Begin anew with another model. After a ClientError all is as it was."""
        shown = self.client.show(ShowRequest(model=name))
        think = self.wishes.think if self._chose_think else inferred_think(shown.capabilities)
        before, self.wishes = self.wishes, replace(self.wishes, model=name, think=think)
        try:
            self.load()
        except BaseException:
            self.wishes = before
            raise
        self.shown, self._messages = shown, []

    def set_think(self, think: bool | str) -> None:
        """What the user says about thinking holds for models loaded later, too."""
        self.wishes = replace(self.wishes, think=think)
        self._chose_think = True

    def set_system(self, text: str) -> None:
        """The message goes where the conversation is now; one that nothing has followed yet is replaced."""
        self.wishes = replace(self.wishes, system=text)
        if self._messages and self._messages[-1].role == "system":
            self._messages.pop()
        self._messages.append(Message(role="system", content=text))

    def clear(self) -> None:
        """Forget all but the system message."""
        system = self.wishes.system
        self._messages = [Message(role="system", content=system)] if system else []

    def save(self, name: str) -> None:
        """Make a model of what has been said and set."""
        parent = self.shown.details.parent_model
        request = CreateRequest(
            model=name,
            from_=parent if _is_name(parent) else self.wishes.model,
            system=self.wishes.system or None,
            parameters=dict(self.wishes.options) or None,
            messages=self.model_messages + self._messages or None,
        )
        with self.client.create(request) as steps:
            for _ in steps:
                pass

    def send(self, text: str) -> None:
        """Say `text` and print the reply. A KeyboardInterrupt while it comes in cancels the reply only.

        Raises InvalidRequest for a bad attachment, and ClientError; what was said is then forgotten.
        """
        images: list[str] = []
        if self.is_multimodal:
            attached = attach(text)
            self._err.writelines(f"{note}\n" for note in attached.notes)
            text, images = attached.text, list(attached.contents)
        self._messages.append(Message(role="user", content=text, images=images or None))
        try:
            answer = self._reply()
        except ClientError:
            self._messages.pop()
            raise
        if answer:
            self._messages.append(answer)

    def _reply(self) -> Message | None:
        """The model's turn, printed as it comes; None if it was cancelled."""
        content, thinking = [], []
        last: ChatReply | None = None
        printer = self._printer()
        try:
            with spinner(self._err) as waiting, self.client.chat(self._request()) as replies:
                for last in replies:
                    message = last.message
                    if message.content or message.tool_calls or not self.wishes.hide_thinking:
                        waiting.stop()
                    printer.thinking(message.thinking)
                    printer.text(message.content)
                    printer.tool_calls(message.tool_calls)
                    thinking.append(message.thinking)
                    content.append(message.content)
        except KeyboardInterrupt:
            self._out.write("\n\n")
            return None
        self._out.write("\n\n")
        if self.wishes.verbose and last:
            self._err.write(timings(last))
        return Message(role="assistant", content="".join(content), thinking="".join(thinking) or None)

    def _printer(self) -> ReplyPrinter:
        width = shutil.get_terminal_size().columns if self.wishes.word_wrap else 0
        return ReplyPrinter(self._out, width=width, hide_thinking=self.wishes.hide_thinking)

    def _request(self) -> ChatRequest:
        return ChatRequest(
            model=self.wishes.model,
            messages=list(self._messages),
            format=self.wishes.format,
            options=dict(self.wishes.options) or None,
            think=self.wishes.think,
            keep_alive=self.wishes.keep_alive,
        )


def _is_name(text: str) -> bool:
    with suppress(InvalidName):
        return bool(ModelName.parse(text))
    return False
