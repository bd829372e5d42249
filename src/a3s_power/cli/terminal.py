"""The keyboard's side of an interactive session: prompt, keys, history."""

import json
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.application import run_in_terminal
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import History
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from a3s_power.cli.chat import Next, Session

MAX_HISTORY = 100  # entries

_PROMPTS = {Next.LINE: ">>> ", Next.MORE: "... "}
_PLACEHOLDERS = {Next.LINE: "Send a message (/? for help)", Next.MORE: "Press Enter to send"}
_GREY = "fg:ansibrightblack"


def talk(session: Session, history_path: Path) -> None:
    """Hold a session until the user leaves. Its lines are remembered while `session.keeps_history`."""
    history = FileHistory(history_path, session)
    prompt: PromptSession[str] = PromptSession(history=history, key_bindings=_keys(), multiline=True)
    session.start()
    wanted = Next.LINE
    while wanted is not Next.END:
        try:
            line = prompt.prompt(
                _PROMPTS[wanted],
                placeholder=FormattedText([(_GREY, _PLACEHOLDERS[wanted])]),
                prompt_continuation="... ",
            )
        except KeyboardInterrupt:
            if wanted is Next.LINE and not prompt.default_buffer.text:
                print("\nUse Ctrl + d or /bye to exit.")
            session.drop_input()
            wanted = Next.LINE
        except EOFError:
            return
        else:
            wanted = session.handle(line)


class FileHistory(History):
    """The lines of earlier sessions and of this one, one JSON text a line, the latest MAX_HISTORY of them.

    A file that cannot be read or written is no reason to stop talking: then nothing is remembered.
    """

    def __init__(self, path: Path, session: Session) -> None:
        super().__init__()
        self._path = path
        self._session = session

    def load_history_strings(self) -> Iterable[str]:
        """The latest first."""
        return reversed(self._read())

    def store_string(self, string: str) -> None:
        if not self._session.keeps_history:
            return
        lines = [*self._read(), string][-MAX_HISTORY:]
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self._path.parent, delete=False, encoding="utf-8") as file:
                file.writelines(f"{json.dumps(line)}\n" for line in lines)
            Path(file.name).replace(self._path)

    def _read(self) -> list[str]:
        with suppress(OSError, ValueError):
            lines = self._path.read_text(encoding="utf-8").splitlines()[-MAX_HISTORY:]
            return [str(json.loads(line)) for line in lines]
        return []


def _keys() -> KeyBindings:
    """Where we differ from what prompt-toolkit does by itself."""
    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("c-j")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("tab")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text(" " * 8)

    @keys.add("c-g")
    async def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        text = await run_in_terminal(lambda: _edited(buffer.text), in_executor=True)
        buffer.text = text
        buffer.cursor_position = len(text)

    return keys


def _edited(text: str) -> str:
    """What the user's editor makes of `text`."""
    names = (os.environ.get(name, "") for name in ("OLLAMA_EDITOR", "VISUAL", "EDITOR"))
    editor = next(filter(None, names), "edit" if os.name == "nt" else "vi")
    program, *arguments = shlex.split(editor)
    if not shutil.which(program):
        print(f'error: editor "{program}" not found, set OLLAMA_EDITOR to the path of your preferred editor')
        return text
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "prompt.txt")
        path.write_text(text, encoding="utf-8")
        subprocess.run([program, *arguments, str(path)], check=False)
        return path.read_text(encoding="utf-8").rstrip("\n")
