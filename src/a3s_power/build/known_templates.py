"""Which well-known chat format a model file's Jinja template writes, and our Go template for that format.

Ollama gives a model a template layer when it recognises its file's template (`template/template.go`): the known
one that takes the fewest changed characters to reach, if fewer than a hundred. Those that we know, as published
with public models, are in `templates/`, a file for each format, under Ollama's names and with its stop sequences.

By distance alone, texts get lost: h2o-danube's `<|prompt|>` is 37 characters from Zephyr's `<|user|>`, and a
system message that SauerkrautLM brings along is 85 from none at all. Unlike Ollama we therefore ask that both
templates *say* the same. What is not recognised loses nothing: the engine applies the file's own template.
"""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from rapidfuzz.distance import Levenshtein

FAR = 100
"""Characters: templates that differ in so many are two formats."""

_COMMENT = re.compile(r"\{#.*?#\}", re.DOTALL)
_BETWEEN_LITERALS = re.compile(r"'\s*\+\s*'")  # '<|im_end|>' + '\n'
_PIECE = re.compile(
    r"""
      raise_exception\( (?: '[^']*' | "[^"]*" ) \)                  # told to the caller, not to the model
    | \[ (?: '\w+' | "\w+" ) \]                                     # message['role']
    | (?: \A | [%}]\} ) \s* (?P<between_tags> (?: [^{] | \{(?![{%]) )* )
    | ' (?P<quoted> (?: [^'\\] | \\. )* ) '
    | " (?P<double_quoted> (?: [^"\\] | \\. )* ) "
    | \b (?P<name> eos_token | tools | bos_token (?= \s*\+\s* ') )  # a BOS before more than the first turn
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class KnownTemplate:
    """A chat format: a Go template that writes it, and what ends an answer in it."""

    name: str
    """`"chatml"`: Ollama's word for it."""
    template: str
    stops: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Published:
    """A Jinja template of that format, as it came with a model."""

    jinja: str
    says: frozenset[str]
    format: KnownTemplate


def detect(jinja: str) -> KnownTemplate | None:
    """The format of a model file's `tokenizer.chat_template`; None if it is none of ours.

    Its end-of-sequence token is taken to be the format's own. Any text will do: one that is far longer than the
    known templates costs nothing.
    """
    near = {known: distance for known in _published() if (distance := _distance(jinja, known.jinja)) < FAR}
    if not near:
        return None
    says = _says(jinja)
    same = [known for known in near if known.says == says]
    return min(same, key=near.__getitem__).format if same else None


@cache
def _published() -> tuple[_Published, ...]:
    folder = files(__package__) / "templates"
    texts = {file.name.removesuffix(".toml"): file.read_text(encoding="utf-8") for file in folder.iterdir()}
    return tuple(published for name in sorted(texts) for published in _read(name, texts[name]))


def _read(name: str, text: str) -> Iterator[_Published]:
    table = tomllib.loads(text)
    known = KnownTemplate(name, table["template"], tuple(table["stops"]))
    for jinja in table["models"].values():
        yield _Published(jinja, _says(jinja), known)


def _distance(one: str, other: str) -> int:
    """Characters to insert, remove or replace; FAR stands for all that is not less."""
    if abs(len(one) - len(other)) >= FAR:
        return FAR
    return Levenshtein.distance(one, other, score_cutoff=FAR - 1)


def _says(jinja: str) -> frozenset[str]:
    """What it can put into a prompt besides the messages, and the roles it asks for."""
    code = _COMMENT.sub("", jinja).replace("\\n", "\n").replace("\\r", "\r")  # as before or after JSON's decoding
    pieces = _PIECE.finditer(_BETWEEN_LITERALS.sub("", code))
    return frozenset(piece[group] for piece in pieces if (group := piece.lastgroup)) - {""}
