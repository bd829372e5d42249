"""The house: which room may open which door. docs/architecture.md as a table that is checked.

A room is a module or a package; a module belongs to the most particular room that is named below. An import counts
wherever it stands: at the top, inside a function, for a type.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import a3s_power

SOURCE = Path(a3s_power.__file__).parent

# Pure values, on the standard library alone; everyone may import them.
VOCABULARY = (
    "errors", "units", "hosts", "names", "options", "messages", "generation", "modelfile", "progress", "files", "requester",
    "environment",
)  # fmt: skip

# room → the rooms it may import, besides itself. Inner rooms stand first: no arrow points down the page.
ROOMS: dict[str, tuple[str, ...]] = {
    "": (),                                                    # the package itself: its version
    **dict.fromkeys(VOCABULARY, VOCABULARY),
    "logs": (),
    "settings": VOCABULARY,
    "setup": VOCABULARY,                                       # other programs' environments in our home
    "wire": (),                                                # JSON shapes: nothing of ours
    "devices": (),                                             # the machine
    "gpus": (),                                                # their memory, as the driver tells it
    "ggml_types": (),
    "gguf": (*VOCABULARY, "ggml_types"),
    "store": (*VOCABULARY, "gguf"),
    "registry": (*VOCABULARY, "gguf"),                         # how a model's shards are named
    "grammar": VOCABULARY,                                     # no I/O
    "prompt": (*VOCABULARY, "gguf", "grammar"),                # no I/O
    "build": (*VOCABULARY, "gguf", "ggml_types", "devices", "prompt", "store"),
    "runner.base": VOCABULARY,                                 # the contract
    "runner": (*VOCABULARY, "devices", "gpus", "runner.base"),  # those who keep it
    "runner.host": (),                                         # the child's main: starts with each model
    "scheduler": (*VOCABULARY, "gguf", "devices", "gpus", "runner.base"),  # knows no engine
    "service": (*VOCABULARY, "gguf", "devices", "store", "registry", "grammar", "prompt", "build", "runner.base",
                "scheduler"),
    "api": ("", *VOCABULARY, "wire", "service"),
    # A model's header, what is loaded, what is to be built: values that services take and give.
    "api.ollama": (*VOCABULARY, "wire", "service", "gguf", "scheduler", "build"),
    "client": ("", *VOCABULARY, "wire"),
    "cli": ("", *VOCABULARY, "wire", "client"),                # what it can do, curl can do
    "cli.target": (*VOCABULARY, "settings", "client"),         # where the server is
    "cli.run": (*VOCABULARY, "wire", "client", "settings"),    # where the history is
    "cli.gguf_sets": (*VOCABULARY, "gguf"),                    # files that other programs left here
    "cli.local": (*VOCABULARY, "settings", "setup", "server"),  # the commands that work on this machine
    "server": ("*",),                                          # builds everything
}  # fmt: skip

FAMILIES = ("api", "cli")  # rooms whose inner rooms are open to the whole house
MODULES = sorted(
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix("__init__").rstrip(".")
    for path in SOURCE.rglob("*.py")
)


def room_of(module: str) -> str:
    """`store.blobs` → `store`, `runner.base` → `runner.base`."""
    parts = module.split(".")
    return next(room for n in range(len(parts), -1, -1) if (room := ".".join(parts[:n])) in ROOMS)


def is_allowed(importer: str, imported: str) -> bool:
    """Whether there is a door between two rooms."""
    doors = ROOMS[importer]
    family = importer.split(".")[0]
    is_at_home = importer == imported or (family in FAMILIES and imported.split(".")[0] == family)
    return is_at_home or imported in doors or doors == ("*",)


def path_of(module: str) -> Path:
    path = SOURCE.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def imports_of(module: str) -> Iterator[tuple[int, str]]:
    """Line and full name of all that a module imports."""
    for node in ast.walk(ast.parse(path_of(module).read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names):
                yield from ((node.lineno, name.name) for name in names)
            case ast.ImportFrom(source, names, 0):
                yield from ((node.lineno, f"{source}.{name.name}") for name in names)
            case ast.ImportFrom():
                yield node.lineno, "a relative import"


def our_module(name: str) -> str | None:
    """`a3s_power.wire.ollama.Message` → `wire.ollama`; None for what is not ours."""
    package, *parts = name.split(".")
    if package != a3s_power.__name__:
        return None
    return next(module for n in range(len(parts), -1, -1) if (module := ".".join(parts[:n])) in MODULES)


def test_every_room_of_the_table_is_there():
    assert [room for room in ROOMS if room not in MODULES] == []


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_through_the_doors_of_the_house(module):
    importer = room_of(module)
    assert importer or not module, f"{module} has no room: give it one in ROOMS"
    wrong = [
        f"{module}:{line} imports {imported}"
        for line, name in imports_of(module)
        if (imported := our_module(name)) is not None and not is_allowed(importer, room_of(imported))
    ]
    assert wrong == []


@pytest.mark.parametrize("module", MODULES)
def test_imports_name_their_module_in_full(module):
    assert "a relative import" not in [name for _, name in imports_of(module)]


@pytest.mark.parametrize("module", [*VOCABULARY, "logs", "settings", "gguf", "runner.host"])
def test_the_inner_rooms_need_the_standard_library_alone(module):
    outside = {name.split(".")[0] for _, name in imports_of(module)} - {
        a3s_power.__name__,
        *sys.stdlib_module_names,
    }
    assert outside <= ({"xllamacpp"} if module == "runner.host" else set())


def test_the_arrows_go_one_way():
    """The table itself: a room opens to rooms above it only, so that there is no way round in a circle."""
    order = [room for room in ROOMS if room not in VOCABULARY]
    for room, doors in ROOMS.items():
        if room not in VOCABULARY and room.split(".")[0] not in (*FAMILIES, "runner", "server"):
            assert all(door in VOCABULARY or order.index(door) < order.index(room) for door in doors)


IMPORT_ALL = """
import importlib, logging, os, sys, threading
before = dict(os.environ)
for name in sys.argv[1:]:
    importlib.import_module(name)
assert dict(os.environ) == before, "an import changed the environment"
assert threading.active_count() == 1, "an import started a thread"
assert not logging.getLogger().handlers, "an import set up logging"
assert "xllamacpp" not in sys.modules, "the engine belongs into its own process"
"""


def test_importing_has_no_effect(tmp_path):
    """In an empty folder with an empty environment: no word, no file, no thread, no handler, no warning."""
    names = [f"{a3s_power.__name__}.{module}".rstrip(".") for module in MODULES]
    done = subprocess.run(
        [sys.executable, "-B", "-W", "error", "-c", IMPORT_ALL, *names],
        cwd=tmp_path, env={}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_comes_up_without_the_server():
    """Each command pays for its own imports only."""
    code = "import sys, a3s_power.cli.main; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(done.stdout.split())
    heavy = {
        "a3s_power.server",
        "a3s_power.service.chat",
        "starlette",
        "uvicorn",
        "psutil",
        "xllamacpp",
        "prompt_toolkit",
    }
    assert loaded & heavy == set()
