"""The small model that sees, and pictures of what it knows: one coloured shape on a plain background."""

import base64
import io
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from tests.support.api import API, until

PROJECTOR = Path(__file__).parents[1] / "data" / "tiny-vision-mmproj-f16.gguf"
"""For SmolLM2 alone; see the README beside it."""
TOKENS = 36
"""Of each picture, whatever its size."""

PAINTS = {
    "red": (220, 30, 30),
    "green": (30, 160, 50),
    "blue": (40, 70, 220),
    "yellow": (245, 220, 40),
    "orange": (250, 140, 20),
    "purple": (140, 40, 170),
    "black": (10, 10, 10),
    "white": (250, 250, 250),
    "gray": (128, 128, 128),
}
COLORS = [name for name in PAINTS if name != "gray"]
"""Of shapes; gray is known as a background alone."""
SHAPES = ["circle", "square", "triangle"]


@dataclass(frozen=True, slots=True)
class Drawing:
    """What is in a picture. Lengths are parts of the side."""

    color: str = "red"
    shape: str = "circle"
    background: str = "white"
    side: int = 96
    """In pixels."""
    x: float = 0.5
    y: float = 0.5
    radius: float = 0.3

    @property
    def image(self) -> Image.Image:
        image = Image.new("RGB", (self.side, self.side), PAINTS[self.background])
        draw, paint = ImageDraw.Draw(image), PAINTS[self.color]
        x, y, r = (self.side * part for part in (self.x, self.y, self.radius))
        match self.shape:
            case "circle":
                draw.ellipse((x - r, y - r, x + r, y + r), paint)
            case "square":
                draw.rectangle((x - 0.85 * r, y - 0.85 * r, x + 0.85 * r, y + 0.85 * r), paint)
            case "triangle":
                draw.polygon([(x, y - r), (x - r, y + 0.8 * r), (x + r, y + 0.8 * r)], paint)
        return image

    @property
    def png(self) -> bytes:
        return encoded(self.image)


def fresh_drawings(seed: int) -> Iterator[Drawing]:
    """Each colour in each shape twice, somewhere, of some size, before another colour."""
    rng = random.Random(seed)
    for color in COLORS:
        for shape in SHAPES * 2:
            yield Drawing(
                color,
                shape,
                background=rng.choice([name for name in PAINTS if name != color]),
                side=rng.randint(64, 256),
                x=rng.uniform(0.42, 0.58),
                y=rng.uniform(0.42, 0.58),
                radius=rng.uniform(0.25, 0.38),
            )


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """The file of a picture."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


@contextmanager
def seeing_model(api: API, name: str, smollm2_gguf: Path) -> Iterator[None]:
    """On a server, as long as the block lasts, the model `name`, which sees."""
    files = {"model.gguf": api.upload(smollm2_gguf), "projector.gguf": api.upload(PROJECTOR)}
    response = api.post("/api/create", {"model": name, "files": files, "stream": False})
    assert response.status_code == 200, response.text
    yield
    unload(api, name)
    api.sdk.delete(name)


def unload(api: API, name: str) -> None:
    api.post("/api/generate", {"model": name, "keep_alive": 0})
    until(lambda: f"{name}:latest" not in api.loaded())
