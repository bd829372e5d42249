"""What the commands print about models: tables, and the sections of `show`. Pure, texts in and out.

The layout is Ollama's to the byte: people parse it with awk.
"""

import textwrap
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from itertools import zip_longest

from a3s_power.units import human_bytes, human_number, human_time
from a3s_power.wire.ollama import ListedModel, RunningModel, ShowReply

Row = Sequence[str]

_GAP = "    "
_COLUMN_WIDTH = 30
_TEXT_WIDTH = 100  # of System and License


def display_width(text: str) -> int:
    """Terminal columns: wide characters take two, combining and format ones none."""
    return len(text) if text.isascii() else sum(map(_character_width, text))


def _character_width(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in ("W", "F") else 1


# ---- tables ----


def table(header: Row, rows: Sequence[Row]) -> str:
    """A table under upper-case heads. Every cell of a row is padded, the last head by one space only."""
    widths, lines = _fitted([header, *rows], _COLUMN_WIDTH)
    head = _GAP.join(_padded(cell, width) for cell, width in zip(header, widths, strict=True))
    return "\n".join([f"{head} ", *_body(widths, lines[1:])]) + "\n"


def section(title: str, rows: Sequence[Row], column_width: int = _COLUMN_WIDTH) -> str:
    """`  Title`, rows indented by four, an empty line."""
    widths, lines = _fitted([("", *row) for row in rows], column_width)
    return "\n".join([f"  {title}", *_body(widths, lines)]) + "\n\n"


def _fitted(rows: Sequence[Row], limit: int) -> tuple[list[int], list[list[Row]]]:
    """The columns' widths, and each row as one or more lines of cells."""
    lines: list[list[Row]] = []
    for row in rows:
        cells = [_wrapped(cell, limit) for cell in row]
        lines.append(list(zip_longest(*cells, fillvalue="")))
    columns = zip_longest(*(line for row in lines for line in row), fillvalue="")
    return [max(map(display_width, column)) for column in columns], lines


def _wrapped(cell: str, limit: int) -> list[str]:
    if display_width(cell) <= limit:
        return [cell]
    return textwrap.wrap(cell, limit, break_long_words=False, break_on_hyphens=False) or [""]


def _body(widths: Sequence[int], rows: Iterable[Sequence[Row]]) -> Iterator[str]:
    for row in rows:
        for line in row:
            yield "".join(_padded(cell, width) + _GAP for cell, width in zip(line, widths, strict=False))


def _padded(text: str, width: int) -> str:
    return text + " " * (width - display_width(text))


def list_table(models: Iterable[ListedModel], now: datetime) -> str:
    rows = [
        (model.name, model.digest[:12], human_bytes(model.size), when(model.modified_at, now)) for model in models
    ]
    return table(("NAME", "ID", "SIZE", "MODIFIED"), rows)


def running_table(models: Iterable[RunningModel], now: datetime) -> str:
    rows = [
        (
            model.name,
            model.digest[:12],
            human_bytes(model.size),
            processor(model.size, model.size_vram),
            str(model.context_length),
            _until(model.expires_at, now),
        )
        for model in models
    ]
    return table(("NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"), rows)


def processor(size: int, size_vram: int) -> str:
    """Where a model lies: `100% GPU`, `48%/52% CPU/GPU`. Sizes in bytes."""
    if size_vram == 0:
        return "100% CPU"
    if size_vram == size:
        return "100% GPU"
    if size_vram > size or size == 0:
        return "Unknown"
    cpu = round((size - size_vram) / size * 100)
    return f"{cpu}%/{100 - cpu}% CPU/GPU"


def when(timestamp: str, now: datetime) -> str:
    """`3 minutes ago`; the wire's zero time is `Never`."""
    moment = datetime.fromisoformat(timestamp)
    return "Never" if moment.year == 1 else human_time(moment, now)


def _until(timestamp: str, now: datetime) -> str:
    return "Stopping..." if datetime.fromisoformat(timestamp) < now else when(timestamp, now)


# ---- show ----


def show_text(reply: ShowReply, verbose: bool = False) -> str:
    """The sections of `show`; `verbose` adds Metadata and Tensors."""
    architecture = str(reply.model_info.get("general.architecture", ""))
    parameters = (line.split() for line in reply.parameters.splitlines() if line.strip())
    sections: list[tuple[str, Iterable[Row], int]] = [
        ("Model", _model_rows(reply, architecture), _COLUMN_WIDTH),
        ("Capabilities", ([capability] for capability in reply.capabilities), _COLUMN_WIDTH),
        ("Projector", _projector_rows(reply.projector_info), _COLUMN_WIDTH),
        ("Parameters", parameters, _COLUMN_WIDTH),
        ("Metadata", _metadata_rows(reply.model_info) if verbose else (), _COLUMN_WIDTH),
        ("Tensors", _tensor_rows(reply) if verbose else (), _COLUMN_WIDTH),
        ("System", _first_lines(reply.system), _TEXT_WIDTH),
        ("License", _first_lines(reply.license), _TEXT_WIDTH),
    ]
    return "".join(section(title, rows, width) for title, found, width in sections if (rows := list(found)))


def _model_rows(reply: ShowReply, architecture: str) -> Iterator[Row]:
    info, count = reply.model_info, reply.model_info.get("general.parameter_count")
    rows = {
        "architecture": architecture or reply.details.family,
        "parameters": reply.details.parameter_size or (human_number(int(count)) if count else ""),
        "context length": info.get(f"{architecture}.context_length", ""),
        "embedding length": info.get(f"{architecture}.embedding_length", ""),
        "quantization": reply.details.quantization_level,
        "requires": reply.requires,
    }
    return ((name, str(value)) for name, value in rows.items() if value != "")


def _projector_rows(info: Mapping[str, object]) -> Iterator[Row]:
    architecture, count = info.get("general.architecture", ""), info.get("general.parameter_count")
    rows = {"architecture": architecture, "parameters": human_number(count) if isinstance(count, int) else ""}
    for label, key in (("embedding length", "embedding_length"), ("dimensions", "projection_dim")):
        found = (info.get(f"{architecture}.{kind}.{key}") for kind in ("vision", "audio"))
        rows[label] = next((value for value in found if value is not None), "")
    return ((name, str(value)) for name, value in rows.items() if value != "")


def _metadata_rows(info: Mapping[str, object]) -> Iterator[Row]:
    return ((key, go_value(info[key])) for key in sorted(info))


def _tensor_rows(reply: ShowReply) -> Iterator[Row]:
    return ((tensor.name, tensor.type, f"[{' '.join(map(str, tensor.shape))}]") for tensor in reply.tensors)


def _first_lines(text: str, limit: int = 2) -> Sequence[Row]:
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    return [[line] for line in lines[:limit] + ["..."] * (len(lines) > limit)]


def go_value(value: object) -> str:
    """A JSON value as Go prints it, arrays cut to about ten columns: `[1 2 3 ...+7 more]`."""
    match value:
        case None:
            return "<nil>"
        case bool():
            return str(value).lower()
        case int() | float():
            return go_number(value)
        case list():
            return _go_list([go_value(item) for item in value])
    return str(value)


def _go_list(items: Sequence[str], limit: int = 10) -> str:
    shown, width = 0, 1 + sum(map(display_width, items[:1]))
    while shown < len(items) and (shown == 0 or width <= limit):
        shown += 1
        width += 2 + sum(map(display_width, items[shown : shown + 1]))
    rest = len(items) - shown
    return f"[{' '.join(items[:shown])} ...+{rest} more]" if rest else f"[{' '.join(items)}]"


def go_number(value: float) -> str:
    """Go's `%g`: the shortest digits that are exact, `1e+06` from a million on and below 1e-4."""
    number = Decimal(repr(float(value)))
    if not number or not number.is_finite():
        return str(number) if not number.is_finite() else "0"
    sign, digits, _ = number.normalize().as_tuple()
    exponent = number.adjusted()
    if -4 <= exponent < 6:
        return f"{number.normalize():f}"
    mantissa = f"{digits[0]}." + "".join(map(str, digits[1:]))
    return f"{'-' * sign}{mantissa.rstrip('.')}e{exponent:+03d}"
