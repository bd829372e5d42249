"""What a picture's file is made of, read without decoding: is it bounded, and does the engine read it as it is?"""

import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice, repeat
from typing import NamedTuple

from a3s_power.errors import InvalidImage
from a3s_power.units import MIB

MAX_PARTS = 2**14
"""Of one file. Pictures have some thousands at most; 32 MiB have room for millions, and Pillow keeps an object for
each."""

MAX_SCANS = 64
"""Of one JPEG. A progressive one has about ten, each a walk over all its pixels that a few bytes can order."""


class Part(NamedTuple):
    """A PNG chunk, a JPEG segment (its name is the marker's second byte), a GIF block."""

    name: bytes
    body: memoryview


def parts_of(kind: str, data: bytes) -> list[Part]:
    """The parts of a PNG, JPEG or GIF, as far as they can be followed; none of other formats, which C code reads.

    Raises InvalidImage for more than MAX_PARTS or MAX_SCANS.
    """
    if kind not in _PARTS:
        return []
    parts = list(islice(_PARTS[kind](memoryview(data)), MAX_PARTS + 1))
    if len(parts) > MAX_PARTS:
        raise InvalidImage(f"the {kind} picture is in more than {MAX_PARTS} parts")
    if kind == "JPEG" and sum(part.name == _JPEG_SCAN for part in parts) > MAX_SCANS:
        raise InvalidImage(f"the JPEG picture has more than {MAX_SCANS} scans")
    return parts


def is_readable_by_engine(kind: str, parts: Sequence[Part], width: int, height: int) -> bool:
    """Whether stb_image finds the same pixels in it as any other decoder, and no more than those."""
    match kind:
        case "JPEG":
            return _is_readable_jpeg(parts)
        case "PNG":
            return _is_readable_png(parts, width, height)
        case _:
            return False


# ---- JPEG (ITU T.81) ----

_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # no coded FF, no restart, no filling
_JPEG_TABLES, _JPEG_SCAN, _JPEG_END = b"\xc4", b"\xda", b"\xd9"
_JPEG_FRAMES = {bytes([marker]) for marker in range(0xC0, 0xD0)} - {_JPEG_TABLES, b"\xc8", b"\xcc"}
_JPEG_READABLE = (b"\xc0", b"\xc1", b"\xc2")
"""Baseline, extended, progressive. Not arithmetic coding, nor lossless."""


def _jpeg_segments(data: memoryview) -> Iterator[Part]:
    """Up to the end of the first picture: what cameras put behind it is not ours."""
    filling = Part(b"\xff", data[:0])  # before the first scan Pillow reads it byte by byte
    position, in_scan = 2, False
    while found := _JPEG_MARKER.search(data, position):
        if not in_scan:
            yield from repeat(filling, found.start() - position)
        name, start = found.group()[1:], found.end()
        position = start + int.from_bytes(data[start : start + 2])
        yield Part(name, data[start + 2 : position])
        if name == _JPEG_END:
            return
        in_scan = in_scan or name == _JPEG_SCAN
    if not in_scan:
        yield from repeat(filling, len(data) - position)


def _is_readable_jpeg(parts: Sequence[Part]) -> bool:
    frames = [part for part in parts if part.name in _JPEG_FRAMES]
    return (
        len(frames) == 1
        and frames[0].name in _JPEG_READABLE
        # a camera's motion JPEG leaves its tables out, for they are always the same
        and any(part.name == _JPEG_TABLES for part in parts)
        and all({factors >> 4, factors & 15} <= {1, 2, 4} for factors in frames[0].body[7::3])
    )


# ---- PNG (W3C) ----

_PNG_CRITICAL = (b"PLTE", b"IDAT", b"IEND")
_PNG_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}
"""Colour type → samples of a pixel. Not 3, a palette: stb_image does not look whether a colour is in it."""


def _png_chunks(data: memoryview) -> Iterator[Part]:
    position, name = 8, b""
    while position + 12 <= len(data) and name != b"IEND":
        start, name = position + 8, bytes(data[position + 4 : position + 8])
        end = start + int.from_bytes(data[position : position + 4])
        yield Part(name, data[start:end])
        position = end + 4


def _is_readable_png(parts: Sequence[Part], width: int, height: int) -> bool:
    if not parts or (parts[0].name, parts[-1].name) != (b"IHDR", b"IEND"):
        return False
    # The case of a chunk's first letter says whether it can be skipped.
    if not all(part.name in _PNG_CRITICAL or part.name[0] & 0x20 for part in parts[1:]):
        return False
    bits, colour, _, _, is_interlaced = parts[0].body[8:13]
    if colour not in _PNG_CHANNELS or is_interlaced:
        return False
    row = 1 + (width * bits * _PNG_CHANNELS[colour] + 7) // 8
    return _inflates_to(row * height, [part.body for part in parts if part.name == b"IDAT"])


def _inflates_to(size: int, pieces: Sequence[memoryview]) -> bool:
    """Whether it is this size exactly. stb_image unpacks all there is, which may be a thousand times the file."""
    inflater = zlib.decompressobj()
    found = 0
    try:
        for piece in pieces:
            rest: bytes | memoryview = piece
            while rest and found <= size:
                found += len(inflater.decompress(rest, MIB))
                rest = inflater.unconsumed_tail
    except zlib.error:
        return False
    return found == size and inflater.eof


# ---- GIF (GIF89a) ----


def _gif_blocks(data: memoryview) -> Iterator[Part]:
    """Those before the first frame, comments for the most part."""
    flags = data[10] if len(data) > 10 else 0
    position = 13 + (3 * 2 ** (flags % 8 + 1) if flags & 0x80 else 0)
    is_inside = False
    while position < len(data) and (is_inside or data[position] not in b",;"):
        if is_inside:
            size = data[position]
            is_inside, end = size > 0, position + 1 + size
        else:
            is_inside = data[position] == ord("!")
            end = position + (2 if is_inside else 1)
        yield Part(b"", data[position:end])
        position = end


_PARTS: Mapping[str, Callable[[memoryview], Iterator[Part]]] = {
    "GIF": _gif_blocks,
    "JPEG": _jpeg_segments,
    "PNG": _png_chunks,
}
