"""The language of an interactive session: lines and slash commands go in, text comes out. Needs no terminal."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import Enum, auto
from typing import TextIO

from a3s_power.cli import output, session_help
from a3s_power.cli.attachments import find_paths
from a3s_power.cli.conversation import Conversation
from a3s_power.cli.models import listing
from a3s_power.cli.wishes import Wishes
from a3s_power.client import Client, ClientError
from a3s_power.errors import InvalidModelfile, InvalidRequest
from a3s_power.modelfile import parse_parameters
from a3s_power.wire.ollama import ShowReply, ShowRequest

_QUOTES = '"""'
_SWITCHES = {
    "wordwrap": {"word_wrap": True},
    "nowordwrap": {"word_wrap": False},
    "verbose": {"verbose": True},
    "quiet": {"verbose": False},
}
_CONTINUABLE = ("does not support thinking", "invalid think value")  # mistakes that `/set` can mend


class Next(Enum):
    """What a session wants next."""

    LINE = auto()
    MORE = auto()
    """The rest of a multi-line text."""
    END = auto()


class Session:
    """What one person types, and what becomes of it.

    `start` first, then `handle` for each line. Any failure that is not about what was typed, such as a server that
    has gone, rises as ClientError and is the session's end.
    """

    def __init__(self, client: Client, wishes: Wishes, shown: ShowReply, out: TextIO, err: TextIO) -> None:
        self._conversation = Conversation(client, wishes, shown, out, err)
        self._out = out
        self._err = err
        self._finish: Callable[[str], None] | None = None  # takes the multi-line text that is being entered
        self._entered = ""
        self.keeps_history = True
        """Whether lines are to be remembered for next time."""
        self._commands = {  # a line that begins with one of these is that command: `/setx` is `/set`
            "/list": self._list,
            "/load": self._load,
            "/save": self._save,
            "/clear": self._clear,
            "/set": self._set,
            "/show": self._show,
            "/help": self._help,
            "/?": self._help,
        }
        self._setters = {
            "history": self._set_history,
            "nohistory": self._set_nohistory,
            "think": self._set_think,
            "nothink": self._set_nothink,
            "format": self._set_format,
            "noformat": self._set_noformat,
            "parameter": self._set_parameter,
            "system": self._set_system,
        }
        self._views = {
            "info": self._show_info,
            "license": self._show_license,
            "modelfile": self._show_modelfile,
            "parameters": self._show_parameters,
            "system": self._show_system,
            "template": self._show_template,
        }

    def start(self) -> None:
        """Load the model and show the messages it comes with."""
        self._conversation.load()
        for message in self._conversation.model_messages:
            if message.role == "user":
                self._say(f">>> {message.content}")
            elif message.role == "assistant":
                self._say(f"{message.content}\n")

    def handle(self, line: str) -> Next:
        """Act on one line, or on several pasted at once, without the line end.

        A KeyboardInterrupt while a reply comes in cancels the reply only.
        """
        if self._finish:
            self._enter(line, self._finish)
        elif line.startswith(_QUOTES):
            self._enter(line.removeprefix(_QUOTES), self._send)
        elif line.startswith(("/bye", "/exit")):
            return Next.END
        elif command := next((name for name in self._commands if line.startswith(name)), None):
            self._commands[command](line.split()[1:])
        elif line.startswith("/") and not self._names_file(line):
            self._unknown(line.split()[0])
        else:
            self._send(line)
        return Next.MORE if self._finish else Next.LINE

    def drop_input(self) -> None:
        """Forget a multi-line text that was begun."""
        self._finish, self._entered = None, ""

    def _enter(self, line: str, finish: Callable[[str], None]) -> None:
        """A text that goes on until a line ends in triple quotes, which may be this one."""
        text = self._entered + line.removesuffix(_QUOTES)
        if line.endswith(_QUOTES):
            self.drop_input()
            finish(text)
        else:
            self._finish, self._entered = finish, f"{text}\n"

    def _send(self, text: str) -> None:
        if not text:
            return
        try:
            self._conversation.send(text)
        except InvalidRequest as exc:
            print(f"Couldn't process file: {_quoted(exc)}", file=self._err)
        except ClientError as exc:
            if "upstream error" in str(exc):
                self._say("An error occurred while processing your message. Please try again.", "")
            elif any(text in str(exc) for text in _CONTINUABLE):
                self._say(f"error: {exc}")
            else:
                raise

    def _names_file(self, line: str) -> bool:
        first = line.split()[0]
        return self._conversation.is_multimodal and any(path.startswith(first) for path in find_paths(line))

    # ---- commands ----

    def _list(self, words: Sequence[str]) -> None:
        self._out.write(listing(self._conversation.client, words[0] if words else ""))

    def _load(self, words: Sequence[str]) -> None:
        if len(words) != 1:
            return self._say("Usage:\n  /load <modelname>")
        self._say(f"Loading model '{words[0]}'")
        try:
            self._conversation.switch(words[0])
        except ClientError as exc:
            if exc.is_not_found:
                self._say(f"Couldn't find model '{words[0]}'")
            elif "does not support thinking" in str(exc):
                self._say(f"error: {exc}")
            else:
                raise
        return None

    def _save(self, words: Sequence[str]) -> None:
        if len(words) != 1:
            return self._say("Usage:\n  /save <modelname>")
        try:
            self._conversation.save(words[0])
        except ClientError as exc:
            if "invalid model name" not in str(exc):
                raise
            return self._say(f"error: The model name '{words[0]}' is invalid")
        return self._say(f"Created new model '{words[0]}'")

    def _clear(self, _: Sequence[str]) -> None:
        self._conversation.clear()
        self._say("Cleared session context")

    def _help(self, words: Sequence[str]) -> None:
        if words:
            self._explain(session_help.TOPICS.get(words[0], ""))
        else:
            attachments = session_help.ATTACHMENTS if self._conversation.is_multimodal else ""
            self._explain(f"{session_help.COMMANDS}{attachments}\n")

    def _set(self, words: Sequence[str]) -> None:
        match words:
            case []:
                self._explain(session_help.SET)
            case [name, *_] if name in _SWITCHES:
                self._wish(**_SWITCHES[name])
                self._say(f"Set '{name}' mode.")
            case [name, *values] if name in self._setters:
                self._setters[name](values)
            case [name, *_]:
                self._unknown(f"/set {name}")

    def _wish(self, **changes: object) -> None:
        self._conversation.wishes = replace(self._conversation.wishes, **changes)  # type: ignore[arg-type]

    def _set_parameter(self, words: Sequence[str]) -> None:
        if len(words) < 2:
            return self._explain(session_help.PARAMETERS)
        name, *values = words
        try:
            parameters = parse_parameters([(name, values)])
        except InvalidModelfile as exc:
            return self._say(f"Couldn't set parameter: {_quoted(exc)}")
        if parameters.warnings:
            return self._say(*parameters.warnings)
        self._wish(options={**self._conversation.wishes.options, **parameters.values})
        return self._say(f"Set parameter '{name}' to '{', '.join(values)}'")

    def _set_system(self, words: Sequence[str]) -> None:
        text = " ".join(words)
        if not words:
            self._explain(session_help.SET)
        elif text.startswith(_QUOTES):
            self._enter(text.removeprefix(_QUOTES), self._take_system)
        else:
            self._take_system(text)

    def _take_system(self, text: str) -> None:
        self._conversation.set_system(text)
        self._say("Set system message.")

    def _set_think(self, words: Sequence[str]) -> None:
        self._conversation.set_think(words[0] if words else True)
        if not self._conversation.can_think:
            model = self._conversation.wishes.model
            print(f'warning: model "{model}" does not support thinking output', file=self._err)
        self._say(f"Set 'think' mode to '{words[0]}'." if words else "Set 'think' mode.")

    def _set_nothink(self, _: Sequence[str]) -> None:
        self._conversation.set_think(False)
        self._say("Set 'nothink' mode.")

    def _set_format(self, words: Sequence[str]) -> None:
        if words[:1] != ["json"]:
            return self._say("Invalid or missing format. For 'json' mode use '/set format json'")
        self._wish(format="json")
        return self._say("Set format to 'json' mode.")

    def _set_noformat(self, _: Sequence[str]) -> None:
        self._wish(format=None)
        self._say("Disabled format.")

    def _set_history(self, _: Sequence[str]) -> None:
        self.keeps_history = True

    def _set_nohistory(self, _: Sequence[str]) -> None:
        self.keeps_history = False

    def _show(self, words: Sequence[str]) -> None:
        if not words:
            return self._explain(session_help.SHOW)
        if words[0] not in self._views:
            return self._unknown(f"/show {words[0]}")
        wishes = self._conversation.wishes
        request = ShowRequest(model=wishes.model, options=dict(wishes.options) or None)
        return self._views[words[0]](self._conversation.client.show(request))

    def _show_info(self, shown: ShowReply) -> None:
        self._explain(output.show_text(shown))

    def _show_license(self, shown: ShowReply) -> None:
        self._say(shown.license or "No license was specified for this model.")

    def _show_modelfile(self, shown: ShowReply) -> None:
        self._say(shown.modelfile)

    def _show_parameters(self, shown: ShowReply) -> None:
        lines = shown.parameters.splitlines() or ["No additional parameters were specified for this model."]
        self._say("Model defined parameters:", *(f"  {line}" for line in lines), "")
        if options := self._conversation.wishes.options:
            values = (f"  {name:<30} {_shown(value)}" for name, value in options.items())
            self._say("User defined parameters:", *values, "")

    def _show_system(self, shown: ShowReply) -> None:
        system = self._conversation.wishes.system or shown.system
        self._say(f"{system}\n" if system else "No system message was specified for this model.")

    def _show_template(self, shown: ShowReply) -> None:
        self._say(shown.template or "No prompt template was specified for this model.")

    # ---- output ----

    def _unknown(self, command: str) -> None:
        self._say(f"Unknown command '{command}'. Type /? for help")

    def _explain(self, text: str) -> None:
        self._err.write(text)
        self._err.flush()

    def _say(self, *lines: str) -> None:
        self._out.writelines(f"{line}\n" for line in lines)
        self._out.flush()


def _shown(value: object) -> str:
    return f"[{' '.join(value)}]" if isinstance(value, list) else output.go_value(value)


def _quoted(exc: Exception) -> str:
    return json.dumps(str(exc), ensure_ascii=False)
