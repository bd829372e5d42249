"""Pictures and sounds named in a prompt: their paths are taken out of the text, their bytes go along."""

import base64
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from a3s_power.errors import InvalidRequest

MAX_SIZE = 100 * 2**20  # bytes

# The bound keeps a long text full of slashes from taking quadratic time; no path is longer.
_PATH = re.compile(r"(?:[a-zA-Z]:)?(?:\./|/|\\)[\S\\ ]{1,4096}?\.(?:jpg|jpeg|png|webp|wav)\b", re.IGNORECASE)
_ESCAPED = re.compile(r"\\([ ()\[\]{}$&;'\\*?~])")


@dataclass(frozen=True, slots=True)
class Attached:
    """A prompt without its paths, the files' contents in base64, and a line about each for the user."""

    text: str
    contents: tuple[str, ...]
    notes: tuple[str, ...]


def find_paths(text: str) -> list[str]:
    """What looks like the path of a picture or sound, as it is written."""
    return _PATH.findall(text)


def attach(text: str) -> Attached:
    """Read the files that `text` names; those that do not exist stay text.

    Raises InvalidRequest for a file that is no picture or sound, too large or not to be read.
    """
    contents, notes = [], []
    for written in find_paths(text):
        name = _ESCAPED.sub(r"\1", written)
        path = Path(name)
        if not _exists(path):
            continue
        data = _read(path)
        kind = _kind(data)
        for spelling in (f"'{name}'", f"'{written}'", written):
            text = text.replace(spelling, "")
        contents.append(base64.b64encode(data).decode())
        notes.append(f"Added {kind} '{name}'")
    return Attached(text.strip() if contents else text, tuple(contents), tuple(notes))


def _exists(path: Path) -> bool:
    with suppress(OSError):  # a text that is too long for a name, or in a folder we may not look into
        return path.exists()
    return False


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIZE + 1)
    except OSError as exc:
        raise InvalidRequest(str(exc)) from exc
    if len(data) > MAX_SIZE:
        raise InvalidRequest("file size exceeds maximum limit (100MB)")
    return data


def _kind(data: bytes) -> str:
    """By the first bytes, whatever the name says: `image` or `audio`."""
    if data.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")) or (data[:4], data[8:12]) == (b"RIFF", b"WEBP"):
        return "image"
    if (data[:4], data[8:12]) == (b"RIFF", b"WAVE"):
        return "audio"
    raise InvalidRequest(f"invalid file type: {'text/plain' if _is_text(data) else 'application/octet-stream'}")


def _is_text(data: bytes) -> bool:
    return b"\0" not in data[:512]
