"""The engine for a GPU: set up under the home folder, proved, and chosen for the server to use."""

import importlib.metadata
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from a3s_power.files import write_whole
from a3s_power.setup.builds import Build
from a3s_power.setup.children import Say, run
from a3s_power.setup.environments import new_environment, python_in
from a3s_power.setup.errors import SetupFailed

_PACKAGE = "xllamacpp"
_CHOICE = "engine.json"
_LIST_DEVICES = f"""
import json, {_PACKAGE}
keys = ("name", "description", "memory_total")
print(json.dumps([{{key: device[key] for key in keys}} for device in {_PACKAGE}.get_device_info()]))
"""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """An engine in an environment of its own: `cuda`, its interpreter, the version of xllamacpp in it."""

    backend: str
    python: str
    version: str


@dataclass(frozen=True, slots=True)
class Device:
    """What an engine can compute on: `CUDA0`, `NVIDIA H200`, bytes. The processor is one too, `CPU`."""

    name: str
    description: str
    memory_total: int


def builtin_version() -> str:
    """The version of the engine that comes with us, which the others must have."""
    return importlib.metadata.version(_PACKAGE)


def install_engine(
    home: Path, backend: str, build: Build, *, index: str, environ: Mapping[str, str], say: Say
) -> tuple[Device, ...]:
    """Set an engine up, choose it, and return the devices it finds. Raises SetupFailed: then nothing has changed.

    `index` is the URL that has one package index for each build below it.
    """
    place = home / "engines" / backend
    version = builtin_version()
    with new_environment(place, environ, say) as environment:
        environment.install(f"{_PACKAGE}=={version}", f"{index.rstrip('/')}/{build.name}")
        devices = devices_of(str(environment.python), environ)
    choice = EngineChoice(backend, str(python_in(place)), version)
    write_whole(home / _CHOICE, json.dumps(asdict(choice)).encode())
    return devices


def use_builtin(home: Path) -> None:
    """Go back to the engine that comes with us. What was set up stays where it is."""
    (home / _CHOICE).unlink(missing_ok=True)


def chosen_engine(home: Path) -> EngineChoice | None:
    """The engine to use instead of the one that comes with us; None, with a warning, if it is gone."""
    path = home / _CHOICE
    try:
        fields = json.loads(path.read_bytes())
        choice = EngineChoice(str(fields["backend"]), str(fields["python"]), str(fields["version"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as exc:
        log.warning("%s cannot be read, using the built-in engine: %r", path, exc)
        return None
    again = f"run 'a3s-power setup engine {choice.backend}' again"
    if not os.access(choice.python, os.X_OK):
        log.warning("the %s engine is gone (%s), using the built-in one; %s", choice.backend, choice.python, again)
        return None
    if choice.version != (ours := builtin_version()):
        log.warning(
            "the %s engine has version %s, and %s is expected; %s", choice.backend, choice.version, ours, again
        )
    return choice


def devices_of(python: str, environ: Mapping[str, str]) -> tuple[Device, ...]:
    """What that interpreter's engine can compute on, in its order. Raises SetupFailed if it does not come up."""
    output = run("the engine's first start", [python, "-I", "-c", _LIST_DEVICES], environ, lambda _line: None)
    try:
        listed = next(line for line in output.splitlines() if line.startswith("[{"))  # drivers talk, too
        return tuple(Device(**fields) for fields in json.loads(listed))
    except (StopIteration, ValueError, TypeError) as exc:
        raise SetupFailed(f"the engine's list of devices makes no sense: {output.strip()!r}") from exc
