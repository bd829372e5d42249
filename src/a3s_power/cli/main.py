"""The command line's surface: commands, flags, exit status.

Each command imports what it does when it is called, so that `--help` is there at once.
"""

import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from a3s_power.cli.command import Command, Group, RunCommand, arguments
from a3s_power.errors import AppError

_OPTIONS = ("temperature", "top_p", "top_k", "num_predict", "num_ctx", "repeat_penalty", "seed")


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0, or 1 after `Error: …` on stderr."""
    sys.exit(_status(argv))


def _status(argv: Sequence[str] | None) -> int:
    try:
        cli.main(argv, prog_name="a3s-power", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as exc:
        return _fail(exc.format_message())
    except BrokenPipeError:  # the reader, `head` perhaps, has what it wants
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the exit would fail to flush
        return 1
    except (AppError, OSError) as exc:
        return _fail(str(exc))
    except click.Abort:  # Ctrl+C
        return 130
    return 0


def _fail(text: str) -> int:
    print(f"Error: {text}", file=sys.stderr)
    return 1


@click.group(cls=Group, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-v", "--version", "wants_version", is_flag=True, help="Show version information")
@click.pass_context
def cli(ctx: click.Context, wants_version: bool) -> None:
    """A local LLM server and model manager."""
    if wants_version:
        from a3s_power.cli import models

        models.version()
        ctx.exit()
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@cli.command(cls=Command)
@click.option("--host", help="Address to listen on, such as 0.0.0.0 or 127.0.0.1:8080")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 takes a free one")
@arguments("", most=0)
def serve(words: tuple[str, ...], host: str | None, port: int | None) -> None:  # noqa: ARG001
    """Start A3S Power"""
    from a3s_power.cli import local

    local.serve(host, port)


@cli.command(cls=Command)
@click.option("-f", "--file", help='Name of the Modelfile (default "Modelfile")')
@click.option("-q", "--quantize", help="Quantize model to this level (e.g. q4_K_M)")
@click.option("--draft-quantize", help="Quantize draft model to this level (e.g. q4_K_M)")
@arguments("MODEL", least=1, most=1)
def create(words: tuple[str, ...], file: str | None, quantize: str | None, draft_quantize: str | None) -> None:
    """Create a model"""
    from a3s_power.cli import create

    create.create(words[0], file, quantize, draft_quantize)


@cli.command("import", cls=Command)
@click.option("-a", "--all", "everything", is_flag=True, help="Import all that is not here yet")
@click.option(
    "--from", "sources", multiple=True, metavar="SOURCE",
    help="Look here only: lmstudio, huggingface, ollama (its system service), or a folder. May be repeated",
)  # fmt: skip
@arguments("[MODEL]...")
def import_(words: tuple[str, ...], everything: bool, sources: tuple[str, ...]) -> None:
    """Import models of other programs on this machine

    Without a MODEL, lists what LM Studio, the Hugging Face cache and Ollama's service have, under which names, and
    what of it is here already.
    """
    from a3s_power.cli import importing

    if words and everything:
        raise click.UsageError("name models or use --all, not both")
    importing.import_models(words, everything=everything, sources=sources)


@cli.command(cls=Command)
@click.option("--license", is_flag=True, help="Show license of a model")
@click.option("--modelfile", is_flag=True, help="Show Modelfile of a model")
@click.option("--parameters", is_flag=True, help="Show parameters of a model")
@click.option("--template", is_flag=True, help="Show template of a model")
@click.option("--system", is_flag=True, help="Show system message of a model")
@click.option("-v", "--verbose", is_flag=True, help="Show detailed model information")
@arguments("MODEL", least=1, most=1)
def show(words: tuple[str, ...], verbose: bool, **sections: bool) -> None:
    """Show information for a model"""
    from a3s_power.cli import models

    chosen = [name for name, is_chosen in sections.items() if is_chosen]
    if len(chosen) > 1:
        raise click.UsageError(
            "only one of '--license', '--modelfile', '--parameters', '--system', or '--template' can be specified"
        )
    models.show(words[0], chosen[0] if chosen else None, verbose)


@cli.command(cls=RunCommand)
@click.option("--keepalive", "--keep-alive", help="Duration to keep a model loaded (e.g. 5m)")
@click.option("--verbose", is_flag=True, help="Show timings for response")
@click.option("--insecure", is_flag=True, help="Use an insecure registry")
@click.option("--nowordwrap", is_flag=True, help="Don't wrap words to the next line automatically")
@click.option("--format", help="Response format (e.g. json)")
@click.option(
    "--think", help="Enable thinking mode: true/false or high/medium/low for supported models", metavar="[=LEVEL]"
)
@click.option("--hidethinking", is_flag=True, help="Hide thinking output (if provided)")
@click.option("--prompt", help="The prompt, before any words given as arguments")
@click.option("--system", default="", help="System message")
@click.option("--template", default="", help="Prompt template in place of the model's own")
@click.option("--temperature", type=float, help="Creativity level")
@click.option("--top-p", type=float, help="Pick token based on sum of probabilities")
@click.option("--top-k", type=int, help="Pick from top k num of tokens")
@click.option("--num-predict", type=int, help="Max number of tokens to predict")
@click.option("--num-ctx", type=int, help="Context size in tokens")
@click.option("--repeat-penalty", type=float, help="How strongly to penalize repetitions")
@click.option("--seed", type=int, help="Random number seed")
@arguments("MODEL [PROMPT]...", least=1)
def run(words: tuple[str, ...], **flags: Any) -> None:
    """Run a model"""
    from a3s_power.cli import run, wishes

    options = {name: flags[name] for name in _OPTIONS if flags[name] is not None}
    wanted = wishes.Wishes(
        model=words[0],
        system=flags["system"],
        template=flags["template"],
        format=wishes.parse_format(flags["format"]),
        keep_alive=flags["keepalive"],
        think=wishes.parse_think(flags["think"]),
        options=options,
        word_wrap=not flags["nowordwrap"],
        hide_thinking=flags["hidethinking"],
        verbose=flags["verbose"],
        insecure=flags["insecure"],
    )
    run.run(wanted, [word for word in (flags["prompt"], *words[1:]) if word])


@cli.command(cls=Command)
@arguments("MODEL", least=1, most=1)
def stop(words: tuple[str, ...]) -> None:
    """Stop a running model"""
    from a3s_power.cli import models

    models.stop(words[0])


@cli.command(cls=Command)
@click.option("--insecure", is_flag=True, help="Use an insecure registry")
@arguments("MODEL", least=1, most=1)
def pull(words: tuple[str, ...], insecure: bool) -> None:
    """Pull a model from a registry"""
    from a3s_power.cli import transfer

    transfer.pull(words[0], insecure=insecure)


@cli.command(cls=Command)
@click.option("--insecure", is_flag=True, help="Use an insecure registry")
@click.option("--destination", help="Registry to push to, in place of the name's own")
@arguments("MODEL", least=1, most=1)
def push(words: tuple[str, ...], insecure: bool, destination: str | None) -> None:
    """Push a model to a registry"""
    from a3s_power.cli import transfer

    transfer.push(words[0], insecure=insecure, destination=destination)


@cli.command("list", cls=Command)
@arguments("[PREFIX]")
def list_(words: tuple[str, ...]) -> None:
    """List models"""
    from a3s_power.cli import models

    models.list_models(words[0] if words else "")


@cli.command(cls=Command)
@arguments("[PREFIX]")
def ps(words: tuple[str, ...]) -> None:
    """List running models"""
    from a3s_power.cli import models

    models.list_running(words[0] if words else "")


@cli.command(cls=Command)
@arguments("SOURCE DESTINATION", least=2, most=2)
def cp(words: tuple[str, ...]) -> None:
    """Copy a model"""
    from a3s_power.cli import models

    models.copy(*words)


@cli.command(cls=Command)
@arguments("MODEL...", least=1)
def rm(words: tuple[str, ...]) -> None:
    """Remove a model"""
    from a3s_power.cli import models

    models.remove(words)


@cli.command(cls=Command)
@arguments("", most=0)
def df(words: tuple[str, ...]) -> None:  # noqa: ARG001
    """Show what models take of the disk"""
    from a3s_power.cli import space

    space.df()


@cli.command(cls=Command)
@click.option("--dry-run", is_flag=True, help="Show what would be removed, and leave it")
@arguments("", most=0)
def prune(words: tuple[str, ...], dry_run: bool) -> None:  # noqa: ARG001
    """Remove files that no model needs"""
    from a3s_power.cli import space

    space.prune(dry_run=dry_run)


@cli.group(cls=Group, invoke_without_command=True)
@click.pass_context
def setup(ctx: click.Context) -> None:
    """Set up what this machine needs"""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@setup.command("engine", cls=Command)
@click.option("--build", metavar="NAME", help="A build other than the one that suits this machine (e.g. cu128)")
@click.argument("backend", required=False, type=click.Choice(("cuda", "rocm", "vulkan", "cpu")))
def setup_engine(backend: str | None, build: str | None) -> None:
    """Choose the engine for a GPU, or tell which is in use"""
    from a3s_power.cli import local

    local.setup_engine(backend, build)


@setup.command("cores", cls=Command)
def setup_cores() -> None:
    """Measure how engines use the cores of this machine best (a minute, in which it should be idle)"""
    from a3s_power.cli import local

    local.setup_cores()


@cli.command("help", cls=Command)
@click.pass_context
@arguments("[COMMAND]")
def help_(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Help about any command"""
    assert ctx.parent, "help is a command of the group"
    if not words:
        click.echo(ctx.parent.get_help())
        return
    _, command, _ = cli.resolve_command(ctx.parent, list(words))
    assert command, "or else there is an error"
    click.echo(command.get_help(click.Context(command, info_name=command.name, parent=ctx.parent)))


if __name__ == "__main__":
    main()
