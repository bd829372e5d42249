"""The log an operator reads: `time=… level=INFO msg="loaded" model=smollm2:latest took_s=0.6`, on stderr."""

import logging
import re
from datetime import datetime

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}
_NEEDS_QUOTES = re.compile(r'[\s"=]|^$')


class KeyValueFormatter(logging.Formatter):
    """Message first, then whatever came in `extra`, in the order it was given."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback follows on lines of its own."""
        when = datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")
        pairs: dict[str, object] = {"time": when, "level": record.levelname, "msg": record.getMessage()}
        pairs |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        line = " ".join(f"{key}={_quoted(str(value))}" for key, value in pairs.items() if value != "")
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


_ESCAPES = {'"': '\\"', "\\": "\\\\"}


def _quoted(text: str) -> str:
    """As it is, or in quotes: always one line, and without control characters for a terminal to obey."""
    if text.isprintable() and not _NEEDS_QUOTES.search(text):
        return text
    escaped = "".join(c if c.isprintable() and c not in '"\\' else _ESCAPES.get(c, ascii(c)[1:-1]) for c in text)
    return f'"{escaped}"'


def configure_logging(*, debug: bool) -> None:
    """Send every logger's lines to stderr. Called once, by the server."""
    handler = logging.StreamHandler()
    handler.setFormatter(KeyValueFormatter())
    logging.basicConfig(level=logging.DEBUG if debug else logging.INFO, handlers=[handler], force=True)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it tells every URL, signed ones too
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
