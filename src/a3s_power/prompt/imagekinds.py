"""What a file is, by its first bytes: a picture that can be read, or something to be refused by name."""

from collections.abc import Mapping

from a3s_power.errors import InvalidImage

READABLE: Mapping[bytes, str] = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"RIFF:WEBP": "WebP",
    b"BM": "BMP",
}
"""First bytes → format."""

_SEND = "send PNG, JPEG, GIF, WebP or BMP"


def _picture(name: str) -> str:
    return f"{name} pictures are not supported; {_SEND}"


def _audio(name: str) -> str:
    return f"this is {name} audio, which the model cannot hear; {_SEND}"


def _other(name: str) -> str:
    return f"this is {name}, not a picture; {_SEND}"


_REFUSED: Mapping[bytes, str] = {
    # HEIF: its decoders (libheif, libde265) are LGPL
    **dict.fromkeys((b"ftyphei", b"ftyphev", b"ftypmif1", b"ftypmsf1"), _picture("HEIC")),
    b"ftypavi": _picture("AVIF"),
    b"ftypM4A": _audio("M4A"),
    b"ftypqt": _other("a QuickTime video"),
    b"ftyp": _other("an MP4 video"),
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), _picture("TIFF")),
    **dict.fromkeys((b"\xff\x0a", b"\0\0\0\x0cJXL "), _picture("JPEG XL")),
    **dict.fromkeys((b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  "), _picture("JPEG 2000")),
    b"\0\0\1\0": _picture("ICO"),
    b"8BPS": _picture("Photoshop"),
    b"RIFF:WAVE": _audio("WAV"),
    b"ID3": _audio("MP3"),
    **{bytes([0xFF, second]): _audio("MP3") for second in range(0xE0, 0x100)},
    b"fLaC": _audio("FLAC"),
    b"OggS": _audio("Ogg"),
    b"RIFF:AVI ": _other("an AVI video"),
    b"\x1a\x45\xdf\xa3": _other("a Matroska or WebM video"),
    b"%PDF-": _other("a PDF document"),
    b"PK\x03\x04": _other("a ZIP archive"),
    b"\x1f\x8b": _other("a gzip archive"),
}
"""First bytes → what to say; the first that fits counts."""

_REFUSED_TEXT: Mapping[bytes, str] = {
    b"<svg": _picture("SVG"),
    b"<?xml": _other("an SVG or another XML document"),
    b"<!doctype html": _other("an HTML page"),
    b"<html": _other("an HTML page"),
    b"{": _other("JSON text"),
    b"data:": _other("a data URL, encoded once too often"),
    **dict.fromkeys((b"ivborw0kg", b"/9j/", b"r0lgod", b"uklgr"), _other("base64 text, encoded once too often")),
    b"http": _other("an address"),
}
"""The same for text, which may begin with white space and be written large or small."""


def kind_of(data: bytes) -> str:
    """A value of READABLE. Raises InvalidImage, which says what the bytes seem to be instead."""
    if not data:
        raise InvalidImage("the picture is empty")
    head = _head(data)
    for prefix, kind in READABLE.items():
        if head.startswith(prefix):
            return kind
    for prefix, refusal in _REFUSED.items():
        if head.startswith(prefix):
            raise InvalidImage(refusal)
    text = data[:256].removeprefix(b"\xef\xbb\xbf").strip().lower()
    for prefix, refusal in _REFUSED_TEXT.items():
        if text.startswith(prefix):
            raise InvalidImage(refusal)
    raise InvalidImage(f"this is no picture of a known format (it begins with {data[:8].hex(' ')}); {_SEND}")


def _head(data: bytes) -> bytes:
    """The first bytes, without the length that two families of containers write into them."""
    if data[:4] == b"RIFF":
        return b"RIFF:" + data[8:12]
    if data[4:8] == b"ftyp":
        return data[4:12]
    return data[:12]
