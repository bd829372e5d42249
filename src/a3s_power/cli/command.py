"""What our commands have in common beyond click: Ollama's words for mistakes, aliases, help on the environment."""

import difflib
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

ENVIRONMENT = {
    "A3S_POWER_HOST": "Address of the server, or OLLAMA_HOST (default 127.0.0.1:11434)",
    "A3S_POWER_HOME": "Folder of settings and history (default ~/.a3s/power)",
    "OLLAMA_MODELS": "The path to the models directory (default ~/.ollama/models)",
    "OLLAMA_KEEP_ALIVE": 'The duration that models stay loaded in memory (default "5m")',
    "OLLAMA_MAX_LOADED_MODELS": "Maximum number of loaded models",
    "OLLAMA_MAX_QUEUE": "Maximum number of queued requests",
    "OLLAMA_NUM_PARALLEL": "Maximum number of parallel requests",
    "OLLAMA_CONTEXT_LENGTH": "Context length to use unless otherwise specified",
    "OLLAMA_FLASH_ATTENTION": "Enabled flash attention",
    "OLLAMA_KV_CACHE_TYPE": "Quantization type for the K/V cache (default: f16)",
    "OLLAMA_LOAD_TIMEOUT": 'How long to allow model loads to stall before giving up (default "5m")',
    "OLLAMA_NOPRUNE": "Do not prune model blobs on startup",
    "OLLAMA_DEBUG": "Show additional debug information",
    "OLLAMA_SCHED_SPREAD": "Always schedule model across all GPUs",
    "OLLAMA_GPU_OVERHEAD": "Reserve a portion of VRAM per GPU (bytes)",
    "A3S_POWER_KV_POOL": "Tokens that the requests at one model may hold together",
    "A3S_POWER_STALL_TIMEOUT": 'How long a model may stand still while it answers (default "5m")',
    "A3S_POWER_ENGINE_INDEX": "Where builds of the engine for GPUs come from",
    "OLLAMA_EDITOR": "Path to the editor of interactive prompts (Ctrl+G)",
    "OLLAMA_NOHISTORY": "Do not preserve the history of interactive prompts",
}
_ALIASES = {"start": "serve", "ls": "list", "delete": "rm"}
_OF_CLIENTS = ("A3S_POWER_HOST",)
_OF_SESSIONS = ("A3S_POWER_HOST", "A3S_POWER_HOME", "OLLAMA_EDITOR", "OLLAMA_NOHISTORY")
_OF_SETUP = ("A3S_POWER_HOME", "A3S_POWER_ENGINE_INDEX")
_NOT_OF_SERVER = {"OLLAMA_EDITOR", "OLLAMA_NOHISTORY", "A3S_POWER_ENGINE_INDEX"}
_OF_SERVER = tuple(name for name in ENVIRONMENT if name not in _NOT_OF_SERVER)
_ENVIRONMENT_OF = {"run": _OF_SESSIONS, "serve": _OF_SERVER, "engine": _OF_SETUP, "cores": _OF_SETUP[:1]}


class Command(click.Command):
    """A command whose help ends with the environment variables it reads."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        _write_environment(formatter, _ENVIRONMENT_OF.get(self.name or "", _OF_CLIENTS))


class RunCommand(Command):
    """A command with `--think[=V]`: as in Go, a word after the flag is not its value, but one of the prompt."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        flags = ["--think=true" if arg == "--think" else arg for arg in args[:end]]
        return super().parse_args(ctx, flags + args[end:])


class Group(click.Group):
    """The commands in the order they were made, under their aliases too."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(self.commands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, _ALIASES.get(cmd_name, cmd_name))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None:
            raise click.UsageError(f'unknown command "{args[0]}" for "a3s-power"{self._suggestions(args[0])}')
        return super().resolve_command(ctx, args)

    def _suggestions(self, name: str) -> str:
        close = difflib.get_close_matches(name, self.commands, cutoff=0.6)
        return "\n\nDid you mean this?\n" + "".join(f"\t{found}\n" for found in close) if close else ""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        _write_environment(formatter, _OF_CLIENTS)


def _write_environment(formatter: click.HelpFormatter, names: tuple[str, ...]) -> None:
    formatter.write("\nEnvironment Variables:\n")
    formatter.write("".join(f"      {name:<27}   {ENVIRONMENT[name]}\n" for name in names))


def arguments(usage: str, least: int = 0, most: int | None = None) -> Callable[[F], F]:
    """Positional arguments as the tuple `words`, counted in the words of Go's cobra."""

    def check(ctx: click.Context, parameter: click.Parameter, words: tuple[str, ...]) -> tuple[str, ...]:  # noqa: ARG001
        if least == most and len(words) != least:
            raise click.UsageError(f"accepts {least} arg(s), received {len(words)}")
        if len(words) < least:
            raise click.UsageError(f"requires at least {least} arg(s), only received {len(words)}")
        return words

    return click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar=usage, callback=check)
