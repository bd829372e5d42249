"""`run`: one answer for a prompt, or a session when there is none and a person at the keyboard."""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace

from a3s_power.cli.attachments import attach
from a3s_power.cli.progress import spinner
from a3s_power.cli.reply import ReplyPrinter, timings
from a3s_power.cli.target import connected
from a3s_power.cli.transfer import fetch
from a3s_power.cli.wishes import Wishes, inferred_think
from a3s_power.client import Client, ClientError
from a3s_power.errors import InvalidRequest
from a3s_power.settings import Settings
from a3s_power.units import parse_duration
from a3s_power.wire.ollama import GenerateReply, GenerateRequest, ShowReply, ShowRequest


def run(wishes: Wishes, words: Sequence[str]) -> None:
    """Answer what stdin and `words` say, or talk. Ctrl+C cancels the request, and is no failure."""
    if wishes.keep_alive is not None:
        parse_duration(wishes.keep_alive)
    try:
        with connected() as client:
            shown = _shown(client, wishes)
            prompt = " ".join(filter(None, [_piped(), *words]))
            if not prompt and sys.stdin.isatty() and sys.stdout.isatty():
                _talk(client, wishes, shown)
            else:
                _answer(client, wishes, shown, prompt)
    except KeyboardInterrupt:
        print()


def _shown(client: Client, wishes: Wishes) -> ShowReply:
    """What the server knows of the model, which it fetches if need be."""
    try:
        shown = client.show(ShowRequest(model=wishes.model))
    except ClientError as exc:
        if not exc.is_not_found:
            raise
        fetch(client, wishes.model, insecure=wishes.insecure)
        shown = client.show(ShowRequest(model=wishes.model))
    if wishes.think and "thinking" not in shown.capabilities:
        print(f'warning: model "{wishes.model}" does not support thinking output', file=sys.stderr)
    return shown


def _piped() -> str:
    return "" if sys.stdin.isatty() else sys.stdin.buffer.read().decode("utf-8", "replace")


def _talk(client: Client, wishes: Wishes, shown: ShowReply) -> None:
    from a3s_power.cli import terminal  # prompt-toolkit takes 0.1 s to import
    from a3s_power.cli.chat import Session

    if wishes.template:
        raise InvalidRequest("--template needs a prompt: a conversation is rendered by the model's own template")
    session = Session(client, wishes, shown, sys.stdout, sys.stderr)
    settings = Settings.load()
    session.keeps_history = not settings.nohistory
    terminal.talk(session, settings.home / "history")


def _answer(client: Client, wishes: Wishes, shown: ShowReply, prompt: str) -> None:
    """Print one answer; an empty prompt only loads the model."""
    if wishes.think is None:
        wishes = replace(wishes, think=inferred_think(shown.capabilities))
    if not prompt:
        client.load(wishes.load_request)
        return
    last = _print_answer(client, wishes, _request(wishes, shown, prompt))
    if wishes.verbose and last:
        sys.stderr.write(timings(last))


def _request(wishes: Wishes, shown: ShowReply, prompt: str) -> GenerateRequest:
    images: Sequence[str] = ()
    if not {"vision", "audio"}.isdisjoint(shown.capabilities):
        attached = attach(prompt)
        sys.stderr.writelines(f"{note}\n" for note in attached.notes)
        prompt, images = attached.text, attached.contents
    return GenerateRequest(
        model=wishes.model,
        prompt=prompt,
        system=wishes.system or None,
        template=wishes.template or None,
        format=wishes.format,
        keep_alive=wishes.keep_alive,
        images=list(images) or None,
        options=dict(wishes.options) or None,
        think=wishes.think,
    )


def _print_answer(client: Client, wishes: Wishes, request: GenerateRequest) -> GenerateReply | None:
    width = shutil.get_terminal_size().columns if wishes.word_wrap else 0
    printer = ReplyPrinter(sys.stdout, width=width, hide_thinking=wishes.hide_thinking)
    last: GenerateReply | None = None
    with spinner(sys.stderr) as waiting, client.generate(request) as replies:
        for last in replies:
            if last.response or not wishes.hide_thinking:
                waiting.stop()
            printer.thinking(last.thinking)
            printer.text(last.response)
            printer.tool_calls(last.tool_calls)
    print("\n", flush=True)
    return last
