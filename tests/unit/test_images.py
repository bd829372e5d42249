"""Pictures: what the engine gets of them, and how what is no picture is refused."""

import io
import struct
import subprocess
import sys
import zlib
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from a3s_power.errors import InvalidImage
from a3s_power.prompt import imageparts, images
from a3s_power.prompt.images import prepared

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 255)
SIZE = (48, 32)
ORIENTATION = 0x0112


def drawing(mode="RGB", size=SIZE):
    """Red left of a blue right: it tells which side is up."""
    image = Image.new("RGB", size, RED)
    ImageDraw.Draw(image).rectangle((size[0] // 2, 0, *size), fill=BLUE)
    return image.convert(mode)


def encoded(kind, image=None, **options):
    out = io.BytesIO()
    (image or drawing()).save(out, kind, **options)
    return out.getvalue()


def decoded(data):
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB")


def turned(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def chunk(name, body=b""):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


END = chunk(b"IEND")


def png(width, height, raw, *extra, bits=8, interlace=0, last=END):
    """Of greys."""
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, interlace)
    body = chunk(b"IDAT", zlib.compress(raw))
    return b"\x89PNG\r\n\x1a\n" + b"".join((chunk(b"IHDR", header), *extra, body, last))


GREY = png(2, 2, b"\0\x10\x20\0\x30\x40")
CHECK = drawing("P")


def close(one, other, tolerance=3):
    """Whether two pixels are the same but for what JPEG does."""
    return all(abs(a - b) <= tolerance for a, b in zip(one, other, strict=True))


def left_and_right(data):
    image = decoded(data)
    return image.getpixel((2, image.height // 2)), image.getpixel((image.width - 3, image.height // 2))


# What the engine reads as well stays as it is


@pytest.mark.parametrize(
    "data",
    [
        encoded("PNG"),
        encoded("PNG", drawing("L")),
        encoded("PNG", drawing("1")),
        encoded("PNG", drawing("RGBA")),  # an alpha channel that lets nothing through
        encoded("PNG", drawing("LA")),
        encoded("PNG", save_all=True, append_images=[Image.new("RGB", SIZE)]),  # animated: the rest is skipped
        png(2, 2, b"\0\0\x10\x20\0\0\0\0\x30\0", bits=16),
        encoded("PNG", exif=turned(1)),
        encoded("JPEG"),
        encoded("JPEG", progressive=True),
        encoded("JPEG", drawing("L")),
        encoded("JPEG", subsampling=0, exif=turned(1)),
        encoded("JPEG") + b"what a camera puts behind it \xff\xda" * 100,
        encoded("MPO", save_all=True, append_images=[Image.new("RGB", SIZE)]),
    ],
)  # fmt: skip
def test_a_plain_picture_stays_byte_for_byte(data):
    assert prepared(data) == data


# What it does not, is made anew


@pytest.mark.parametrize(
    "data",
    [
        encoded("GIF"),
        encoded("WEBP", lossless=True),
        encoded("BMP"),
        encoded("BMP", CHECK),
        encoded("PNG", CHECK),
        encoded("PNG", exif=turned(6), compress_level=0),
    ],
)
def test_all_else_becomes_png_with_the_same_pixels(data):
    made = prepared(data)
    assert made.startswith(b"\x89PNG")
    expected = drawing() if b"eXIf" not in data else drawing().transpose(Image.Transpose.ROTATE_270)
    assert decoded(made).tobytes() == expected.tobytes()


def test_a_jpeg_in_printers_colours_becomes_one_in_red_green_and_blue():
    made = prepared(encoded("JPEG", drawing("CMYK"), quality=95))
    with Image.open(io.BytesIO(made)) as image:
        assert (image.format, image.mode) == ("JPEG", "RGB")
    assert close(left_and_right(made)[0], RED)


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_of_an_animation_the_first_frame_is_shown(kind):
    frames = [Image.new("RGB", SIZE, colour) for colour in (GREEN, RED, BLUE)]
    made = prepared(encoded(kind, frames[0], save_all=True, append_images=frames[1:], lossless=True))
    assert decoded(made).getpixel((0, 0)) == GREEN


@pytest.mark.parametrize(
    "data",
    [
        encoded("PNG", Image.new("RGBA", SIZE, (0, 0, 0, 0))),
        encoded("PNG", Image.new("LA", SIZE, (0, 0))),
        encoded("PNG", Image.new("RGB", SIZE), transparency=(0, 0, 0)),
        encoded("PNG", Image.new("P", SIZE), transparency=0),
        encoded("GIF", Image.new("P", SIZE), transparency=0),
        encoded("WEBP", Image.new("RGBA", SIZE, (0, 0, 0, 0)), lossless=True),
    ],
)
def test_what_is_transparent_becomes_white(data):
    assert decoded(prepared(data)).getcolors() == [(SIZE[0] * SIZE[1], WHITE)]


def test_what_is_half_transparent_is_mixed_with_white():
    assert (
        decoded(prepared(encoded("PNG", Image.new("RGBA", SIZE, (0, 0, 0, 128))))).getpixel((0, 0)) == (127,) * 3
    )


def test_sixteen_bits_of_grey_are_scaled_and_not_clipped():
    data = png(1, 2, b"\0\x10\x01\0\x80\x02", bits=16)  # one pixel wide: it must be made anew
    assert [decoded(prepared(data)).getpixel((0, row)) for row in (0, 2)] == [(0x10,) * 3, (0x80,) * 3]


# EXIF says which side is up


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "orientation, left, top",
    [
        (1, RED, None),
        (2, BLUE, None),
        (3, BLUE, None),
        (4, RED, None),
        (5, None, RED),
        (6, None, RED),
        (7, None, BLUE),
        (8, None, BLUE),
        (9, RED, None),  # there is no such thing
    ],
)
def test_a_picture_is_turned_upright(kind, orientation, left, top):
    image = decoded(prepared(encoded(kind, exif=turned(orientation), quality=95)))
    assert image.size == (SIZE if left else SIZE[::-1])
    middle = (2, image.height // 2) if left else (image.width // 2, 2)
    assert close(image.getpixel(middle), left or top, 8)


def test_a_png_may_tell_its_orientation_behind_the_pixels():
    tiff = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, ORIENTATION, 3, 1, 6, 0, 0)
    assert decoded(prepared(png(2, 3, b"\0\0\0" * 3, last=chunk(b"eXIf", tiff) + END))).size == (3, 2)


@pytest.mark.parametrize(
    "exif",
    [b"", b"Exif\0\0", b"Exif\0\0II*\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x01"],
)
def test_exif_that_cannot_be_read_turns_nothing(exif):
    data = encoded("JPEG", exif=exif)
    assert prepared(data) == data


# Sizes


@pytest.mark.parametrize(
    "size, expected", [((1, 1), (2, 2)), ((1, 200), (2, 400)), ((200, 1), (400, 2)), ((2, 2), (2, 2))]
)
def test_the_engine_never_sees_a_side_of_one_pixel(size, expected):
    assert decoded(prepared(encoded("PNG", Image.new("RGB", size)))).size == expected


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("most, expected", [(48 * 32, (48, 32)), (48 * 32 - 1, (24, 16)), (100, (12, 8))])
def test_a_picture_too_large_for_the_engine_is_reduced_by_a_whole_number(monkeypatch, kind, most, expected):
    monkeypatch.setattr(images, "MAX_SENT_PIXELS", most)
    monkeypatch.setattr(images, "_STRIP_ROWS", 1)
    made = prepared(encoded(kind, quality=95))
    assert decoded(made).size == expected
    if kind == "PNG":
        assert left_and_right(made) == (RED, BLUE)


def test_what_was_half_transparent_is_white_before_it_is_reduced(monkeypatch):
    monkeypatch.setattr(images, "MAX_SENT_PIXELS", 1)
    image = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 1, 2))
    assert decoded(prepared(encoded("PNG", image))).getpixel((0, 0)) == (255, 128, 128)


@pytest.mark.parametrize(
    "data, message",
    [
        (png(60000, 60000, b"\0"), "60000×60000 pixels, more than the 50 megapixels allowed"),
        (b"GIF89a" + struct.pack("<HH", 65535, 65535) + encoded("GIF")[10:], "65535×65535 pixels, more than"),
        (encoded("PNG", Image.new("1", (1, 201))), "1×201 pixels; one side may be at most 200 times the other"),
        (encoded("PNG", Image.new("1", (100_000, 1))), "100000×1 pixels; one side"),
        (b"\x89PNG\r\n\x1a\n" + bytes(images.MAX_BYTES), "larger than the 32 MiB allowed"),
        (
            b"RIFF\xf0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xfe\x3f\0" * 2 + b"VP8 " + bytes(200),
            "too many pixels|damaged",
        ),
    ],
)  # fmt: skip
def test_a_picture_beyond_the_bounds_is_refused_before_it_is_decoded(data, message):
    with pytest.raises(InvalidImage, match=message):
        prepared(data)


# Hostile files


def jpeg_with(inside):
    data = encoded("JPEG")
    return data[:2] + inside + data[2:]


def gif_with(inside):
    data = encoded("GIF", Image.new("P", (2, 2)))
    frame = data.index(b",", 13)
    return data[:frame] + inside + data[frame:]


def jpeg_of_scans(count):
    data = encoded("JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]


@pytest.mark.parametrize(
    "data",
    [
        png(2, 2, b"\0\0\0" * 2, *[chunk(b"tEXt")] * imageparts.MAX_PARTS),
        jpeg_with(b"\xff\xe5\0\2" * imageparts.MAX_PARTS),
        jpeg_with(b"\xff" * imageparts.MAX_PARTS),
        b"\xff\xd8" + b"\xff" * 2 * imageparts.MAX_PARTS,
        gif_with(b"!\xfe" + b"\1x" * imageparts.MAX_PARTS + b"\0"),
        gif_with(b"!\xfe\0" * imageparts.MAX_PARTS),
    ],
)
def test_a_file_of_countless_parts_is_refused(data):
    with pytest.raises(InvalidImage, match="in more than 16384 parts"):
        prepared(data)


def test_a_gif_may_have_comments():
    assert decoded(prepared(gif_with(b"!\xfe" + b"\xffx" + b"y" * 254 + b"\0"))).size == (2, 2)


def test_a_jpeg_of_countless_scans_is_refused():
    prepared(jpeg_of_scans(10))
    with pytest.raises(InvalidImage, match="more than 64 scans"):
        prepared(jpeg_of_scans(100))


@pytest.mark.parametrize("name, head", [(b"zTXt", b"k\0\0"), (b"iCCP", b"k\0\0"), (b"iTXt", b"k\0\1\0\0\0")])
def test_text_that_unpacks_to_megabytes_is_not_unpacked(name, head):
    data = png(2, 2, b"\0\0\0" * 2, chunk(name, head + zlib.compress(bytes(10_000_000))))
    with pytest.raises(InvalidImage, match="too large"):
        prepared(data)


@pytest.mark.parametrize(
    "data",
    [
        png(2, 2, b"\0\x10\x20\0\x30\x40" + bytes(5_000_000)),  # the engine would unpack it all
        png(2, 2, b"\0\x10\x20\0\x30\x40", last=b""),  # no end
        png(2, 2, b"\0\x10\x20\0\x30\x40", chunk(b"ABCD")),  # a chunk that may not be skipped, and is unknown
        png(2, 2, b"\0\x10\0\x20\0\x30\x40", interlace=1),
    ],
)
def test_a_png_of_an_unusual_make_is_made_anew(data):
    made = prepared(data)
    assert len(made) < 200
    assert decoded(made).tobytes() == decoded(GREY).tobytes()


def test_a_jpeg_without_tables_is_made_anew():
    """As the frames of a camera's motion JPEG are: libjpeg knows the usual tables, stb_image does not."""
    data = encoded("JPEG", quality=95)
    while (start := data.find(b"\xff\xc4")) >= 0:
        data = data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4]) :]
    made = prepared(data)
    assert made != data
    assert b"\xff\xc4" in made


def test_run_length_encoded_bmp_is_refused():
    data = encoded("BMP", CHECK)
    with pytest.raises(InvalidImage, match="run-length encoded BMP pictures are not supported"):
        prepared(data[:30] + struct.pack("<I", 1) + data[34:])


@cache
def samples():
    rgba = drawing("RGBA")
    rgba.putalpha(100)
    return {
        "PNG": encoded("PNG"),
        "PNG with alpha": encoded("PNG", rgba, exif=turned(3)),
        "PNG with a palette": encoded("PNG", CHECK),
        "JPEG": encoded("JPEG", exif=turned(6)),
        "progressive JPEG": encoded("JPEG", progressive=True),
        "GIF": encoded("GIF"),
        "WebP": encoded("WEBP", rgba, exif=turned(5)),
        "BMP": encoded("BMP", CHECK),
    }


@pytest.mark.parametrize("name", list(samples()))
def test_a_file_cut_short_is_refused(name):
    data = samples()[name]
    for length in (len(data) // 3, len(data) // 2, len(data) * 3 // 4):
        with pytest.raises(InvalidImage, match="damaged or incomplete"):
            prepared(data[:length])


@given(st.sampled_from(list(samples())), st.data())
def test_a_file_cut_anywhere_gives_a_picture_or_a_clear_error(name, choose):
    data = samples()[name]
    assert_picture_or_refusal(data[: choose.draw(st.integers(0, len(data) - 1))])


@given(st.sampled_from(list(samples())), st.data())
def test_a_damaged_file_gives_a_picture_or_a_clear_error(name, choose):
    data = bytearray(samples()[name])
    for place in choose.draw(st.lists(st.integers(0, len(data) - 1), min_size=1, max_size=8)):
        data[place] = choose.draw(st.integers(0, 255))
    assert_picture_or_refusal(bytes(data))


@given(
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM", b"RIFF1234WEBP"]), st.binary()
)
def test_any_bytes_give_a_picture_or_a_clear_error(head, rest):
    assert_picture_or_refusal(head + rest)


def assert_picture_or_refusal(data):
    try:
        made = prepared(data)
    except InvalidImage as refusal:
        assert str(refusal)  # noqa: PT017
    else:
        assert made.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"))
        assert prepared(data) == made


# What is no picture is refused by name


def ftyp(brand):
    return b"\0\0\0\x18ftyp" + brand + bytes(12)


@pytest.mark.parametrize(
    "data, message",
    [
        (ftyp(b"heic"), "HEIC pictures are not supported; send PNG, JPEG, GIF, WebP or BMP"),
        (ftyp(b"mif1"), "HEIC pictures are not supported"),
        (ftyp(b"avif"), "AVIF pictures are not supported"),
        (encoded("TIFF"), "TIFF pictures are not supported"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL pictures are not supported"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG pictures are not supported"),
        (b"\xef\xbb\xbf \n<?xml version='1.0'?><svg/>", "this is an SVG or another XML document, not a picture"),
        (b"8BPS\0\1", "Photoshop pictures are not supported"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "this is WAV audio, which the model cannot hear"),
        (b"ID3\4\0", "this is MP3 audio"),
        (b"\xff\xfb\x90\x64", "this is MP3 audio"),
        (b"fLaC\0", "this is FLAC audio"),
        (ftyp(b"M4A "), "this is M4A audio"),
        (ftyp(b"isom"), "this is an MP4 video, not a picture"),
        (b"%PDF-1.7\n", "this is a PDF document, not a picture"),
        (b"PK\3\4\x14\0", "this is a ZIP archive, not a picture"),
        (b"\r\n<!DOCTYPE HTML><title>Not \xc3\xa9t\xc3\xa9</title>", "this is an HTML page, not a picture"),
        (b"<html><body>404", "this is an HTML page, not a picture"),
        (b'{"error": "not found"}', "this is JSON text, not a picture"),
        (b"data:image/png;base64,iVBORw0KGgo=", "this is a data URL, encoded once too often"),
        (b"iVBORw0KGgoAAAANSUhEUg==", "this is base64 text, encoded once too often"),
        (b"/9j/4AAQSkZJRg==", "this is base64 text, encoded once too often"),
        (b"https://example.com/cat.png", "this is an address, not a picture"),
        (b"", "the picture is empty"),
        (bytes(12), "no picture of a known format .it begins with 00 00 00 00 00 00 00 00"),
    ],
)  # fmt: skip
def test_what_is_no_picture_is_refused_by_name(data, message):
    with pytest.raises(InvalidImage, match=message):
        prepared(data)


def test_a_server_that_sees_no_picture_does_not_load_pillow():
    code = "import sys, a3s_power.prompt.images; print('PIL' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False\n"
