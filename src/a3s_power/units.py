"""Durations and sizes as people write and read them, Go's spelling of them included."""

import math
import re
from datetime import datetime

from a3s_power.errors import InvalidRequest

FOREVER = math.inf
"""A keep-alive without end, in seconds."""

KB, MB, GB, TB = 10**3, 10**6, 10**9, 10**12
MIB = 2**20

_UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_TERM = re.compile(r"(\d+\.?\d*|\.\d+)([^\d.]*)", re.ASCII)
_MAX_DURATION_S = (2**63 - 1) / 1e9  # Go counts nanoseconds in an int64


def parse_duration(text: str) -> float:
    """Seconds of a Go duration: `5m`, `1h30m`, `300ms`, `-1s`, `0`.

    Raises InvalidRequest in the words of Go's `time.ParseDuration`.
    """
    sign, rest = (text[0], text[1:]) if text[:1] in {"-", "+"} else ("+", text)
    if rest == "0":
        return 0.0
    seconds, position = 0.0, 0
    while term := _TERM.match(rest, position):
        number, unit = term.groups()
        if not unit:
            raise InvalidRequest(f'time: missing unit in duration "{text}"')
        if unit not in _UNIT_S:
            raise InvalidRequest(f'time: unknown unit "{unit}" in duration "{text}"')
        seconds += float(number) * _UNIT_S[unit]
        position = term.end()
    if not rest or position != len(rest) or seconds > _MAX_DURATION_S:
        raise InvalidRequest(f'time: invalid duration "{text}"')
    return -seconds if sign == "-" else seconds


def format_duration(seconds: float) -> str:
    """Go's way to print a duration: `1.5s`, `812.5ms`, `1m30s`, `2h0m0s`."""
    nanoseconds = round(seconds * 1e9)
    if nanoseconds == 0:
        return "0s"
    sign = "-" if nanoseconds < 0 else ""
    nanoseconds = abs(nanoseconds)
    for limit, scale, unit in ((10**3, 1, "ns"), (10**6, 10**3, "µs"), (10**9, 10**6, "ms")):
        if nanoseconds < limit:
            return f"{sign}{_trimmed(nanoseconds, scale)}{unit}"
    minutes, rest = divmod(nanoseconds, 60 * 10**9)
    hours, minutes = divmod(minutes, 60)
    head = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{sign}{head}{_trimmed(rest, 10**9)}s"


def _trimmed(value: int, scale: int) -> str:
    whole, fraction = divmod(value, scale)
    digits = str(fraction).zfill(len(str(scale)) - 1).rstrip("0") if fraction else ""
    return f"{whole}.{digits}" if digits else str(whole)


def human_bytes(size_bytes: int) -> str:
    """`4.7 GB`, `98 MB`, `512 B`: decimal units, one fraction digit below ten."""
    for unit, scale in (("TB", TB), ("GB", GB), ("MB", MB), ("KB", KB)):
        if size_bytes >= scale:
            value = size_bytes / scale
            if value >= 10 or size_bytes % scale == 0:
                return f"{int(value)} {unit}"
            return f"{value:.1f} {unit}"
    return f"{size_bytes} B"


def human_number(count: int) -> str:
    """A parameter count: `7.2B`, `7B`, `134.52M`, `12K`."""
    if count >= 10**9:
        return f"{count // 10**9}B" if count % 10**9 == 0 else f"{count / 10**9:.1f}B"
    if count >= 10**6:
        return f"{count // 10**6}M" if count % 10**6 == 0 else f"{count / 10**6:.2f}M"
    return f"{count / 10**3:.0f}K" if count >= 10**3 else str(count)


def human_time(moment: datetime, now: datetime) -> str:
    """`3 minutes ago`, `4 minutes from now`, `Forever` (more than 20 years ahead)."""
    ahead_s = (moment - now).total_seconds()
    if ahead_s > 20 * 365 * 24 * 3600:
        return "Forever"
    return f"{human_span(ahead_s)} from now" if ahead_s > 0 else f"{human_span(-ahead_s)} ago"


def human_span(seconds: float) -> str:
    """A length of time, roughly: `About a minute`, `3 hours`, `2 weeks`."""
    minutes, hours = int(seconds // 60), int(seconds / 3600 + 0.5)
    spans = (
        (seconds < 1, "Less than a second"),
        (int(seconds) == 1, "1 second"),
        (seconds < 60, f"{int(seconds)} seconds"),
        (minutes == 1, "About a minute"),
        (minutes < 60, f"{minutes} minutes"),
        (hours == 1, "About an hour"),
        (hours < 48, f"{hours} hours"),
        (hours < 7 * 24 * 2, f"{hours // 24} days"),
        (hours < 30 * 24 * 2, f"{hours // (24 * 7)} weeks"),
        (hours < 365 * 24 * 2, f"{hours // (24 * 30)} months"),
    )
    return next((text for applies, text in spans if applies), f"{hours // (24 * 365)} years")
