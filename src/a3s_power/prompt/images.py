"""Pictures as clients send them, made into what every engine decodes alike: PNG or JPEG.

llama.cpp reads pictures with stb_image and asks it for RGB. It knows no WebP, drops the alpha channel (what is
transparent shows the colour hidden under it), ignores EXIF, takes half a JPEG for a whole one, and hands bytes
that it does not know to `ffprobe`. So nothing goes to it that was not decoded here, to the last byte.
"""

import io
import math
import struct
import warnings
from collections.abc import Callable, Mapping
from itertools import count
from typing import TYPE_CHECKING

from a3s_power.errors import InvalidImage
from a3s_power.prompt.imagekinds import kind_of
from a3s_power.prompt.imageparts import is_readable_by_engine, parts_of
from a3s_power.units import MIB

if TYPE_CHECKING:  # Pillow takes 8 MB: the first picture brings it in
    from PIL.Image import Image

MAX_BYTES = 32 * MIB
"""Of one picture as it comes: enough for 8K as PNG, and for a phone's 50 megapixels as JPEG."""

MAX_PIXELS = 8192 * 6144
"""Of one picture, as its header says: the largest that phones make. This bounds memory, which the size of a file
does not: decoding takes four bytes a pixel, of a WebP sixteen."""

MAX_SENT_PIXELS = 2**24
"""Of one picture as the engine gets it, which needs seven bytes for each. Projectors look at a quarter of this at
most (Qwen3-VL: 4096 tokens of 32×32 pixels), so a picture that is reduced to it loses nothing."""

MAX_RATIO = 200
"""Longer to shorter side. Qwen-VL's own bound; a strip 1×100000 is thousands of tokens of nothing."""

MIN_SIDE = 2
"""In pixels. llama.cpp's bilinear scaling asserts it, and an assert ends the engine's process."""

MAX_AT_ONCE = 2
"""How many calls of `prepared` one process should let run at a time."""

_STRIP_ROWS = 64
_JPEG_QUALITY = 95


def prepared(data: bytes) -> bytes:
    """One picture as the engine gets it: PNG or JPEG, upright, opaque, of a size that can be worked with.

    Reads PNG, JPEG, GIF, WebP and BMP; of several pictures in one file the first. A PNG or JPEG that needs nothing
    comes back as it is. One that must change stays JPEG if it was, all else becomes PNG; what is transparent
    becomes white. The same bytes give the same bytes. Raises InvalidImage for what is no picture, or too much of
    one.

    Blocks, mostly without the interpreter's lock: 12 megapixels take 0.1 s as JPEG, 0.5 s as PNG, 1 s as WebP.
    Takes 0.3 GB at most, for a WebP 0.8 GB. So it belongs on a thread, and no more than MAX_AT_ONCE of them.
    """
    if len(data) > MAX_BYTES:
        raise InvalidImage(f"the picture is larger than the {MAX_BYTES // MIB} MiB allowed")
    kind = kind_of(data)
    try:
        return _prepared(kind, data)
    except InvalidImage:
        raise
    except Exception as exc:  # decoders of hostile bytes raise a dozen kinds, and Pillow does not say which
        raise InvalidImage(f"the {kind} picture is damaged or incomplete: {exc}") from exc


def _prepared(kind: str, data: bytes) -> bytes:
    parts = parts_of(kind, data)
    with _opened(kind, data) as image:
        _check_size(*image.size)
        is_fit = _is_fit(image) and is_readable_by_engine(kind, parts, *image.size)
        if kind == "JPEG":
            # Its decoder scales, which saves memory and time; it reads all bytes all the same.
            scale = 8 if is_fit else _reduction(image)
            image.draft(None, (max(1, image.width // scale), max(1, image.height // scale)))
        image.load()
        if is_fit and _is_opaque(image) and _orientation(image) == 1:  # a PNG may tell it behind the pixels
            return data
        return _encoded("JPEG" if kind == "JPEG" else "PNG", _upright(_flat(image), _orientation(image)))


def _opened(kind: str, data: bytes) -> "Image":
    """Only its header has been read. No format but the one named is tried."""
    from PIL import BmpImagePlugin, GifImagePlugin, Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

    # What Pillow finds odd about a client's file is for nobody's eyes here. Set each time, for it is soon set.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    plugins: Mapping[str, Callable[[io.BytesIO], Image.Image]] = {
        "BMP": BmpImagePlugin.BmpImageFile,
        "GIF": GifImagePlugin.GifImageFile,
        "JPEG": JpegImagePlugin.JpegImageFile,
        "PNG": PngImagePlugin.PngImageFile,
        "WebP": WebPImagePlugin.WebPImageFile,
    }
    try:
        image = plugins[kind](io.BytesIO(data))
    except Image.DecompressionBombError as exc:
        raise InvalidImage(f"the picture has too many pixels: {exc}") from exc
    if kind == "BMP" and image.info["compression"] in _BMP_RUN_LENGTHS:
        raise InvalidImage("run-length encoded BMP pictures are not supported")  # Pillow unpacks them in Python
    return image


_BMP_RUN_LENGTHS = (1, 2)


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise InvalidImage(
            f"the picture has {width}×{height} pixels, more than the {MAX_PIXELS // 10**6} megapixels allowed"
        )
    if max(width, height) > MAX_RATIO * min(width, height):
        raise InvalidImage(
            f"the picture has {width}×{height} pixels; one side may be at most {MAX_RATIO} times the other"
        )


# ---- what may stay as it is ----


def _is_fit(image: "Image") -> bool:
    """Whether it can stay, as far as its header says."""
    return (
        image.mode != "CMYK"
        and min(image.size) >= MIN_SIDE
        and _reduction(image) == 1
        and _orientation(image) == 1
    )


def _is_opaque(image: "Image") -> bool:
    """Whether nothing shows through. Many screenshots have an alpha channel that says so."""
    if image.mode in ("LA", "RGBA"):
        return image.getchannel("A").getextrema() == (255, 255)
    return not image.has_transparency_data


def _reduction(image: "Image") -> int:
    """By what both sides must be divided to have at most MAX_SENT_PIXELS."""
    return next(n for n in count(1) if math.ceil(image.width / n) * math.ceil(image.height / n) <= MAX_SENT_PIXELS)


def _orientation(image: "Image") -> int:
    """EXIF's tag 0x0112, 1 (upright) to 8; 1 if there is none that can be read (TIFF 6.0, EXIF 2.3)."""
    tiff = image.info.get("exif", b"").removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(order + "I", tiff, 4)
        (entries,) = struct.unpack_from(order + "H", tiff, directory)
        for entry in range(entries):
            tag, _, _, value = struct.unpack_from(order + "HHIH", tiff, directory + 2 + 12 * entry)
            if tag == 0x0112:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


# ---- what is made anew ----


def _flat(image: "Image") -> "Image":
    """As RGB on white, reduced to MAX_SENT_PIXELS. In strips: a second copy of all pixels would be too much."""
    from PIL import Image

    factor = _reduction(image)
    flat = Image.new("RGB", (math.ceil(image.width / factor), math.ceil(image.height / factor)))
    rows = _STRIP_ROWS * factor
    for top in range(0, image.height, rows):
        strip = _on_white(image.crop((0, top, image.width, min(top + rows, image.height))))
        flat.paste(strip.reduce(factor), (0, top // factor))
    return flat


def _on_white(image: "Image") -> "Image":
    from PIL import Image

    if image.mode == "I;16":  # convert() would clip its values at 255 instead of scaling them
        return image.point(lambda value: value * (1 / 256)).convert("L").convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert("RGB")


def _upright(image: "Image", orientation: int) -> "Image":
    """Turned as EXIF has it, and with MIN_SIDE pixels each way."""
    from PIL.Image import Resampling, Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    if orientation in turns:
        image = image.transpose(turns[orientation])
    if min(image.size) < MIN_SIDE:
        image = image.resize((MIN_SIDE * image.width, MIN_SIDE * image.height), Resampling.NEAREST)
    return image


def _encoded(kind: str, image: "Image") -> bytes:
    """As PNG packed lightly, or as JPEG so fine that no projector sees the difference."""
    out = io.BytesIO()
    image.save(out, kind, compress_level=1, quality=_JPEG_QUALITY, subsampling=0)
    return out.getvalue()
