"""Pictures that a request names by URL: fetched, where the operator allows it, and put in the URL's place."""

import base64
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from a3s_power.errors import InvalidRequest
from a3s_power.service.imageurls import ImageUrls

MAX_URLS = 32
"""Of one request, each of which may take as long as `ImageUrls` waits."""

Part = MutableMapping[str, Any]


@dataclass(frozen=True, slots=True)
class Named:
    """A picture by URL, and how its base64 takes the URL's place."""

    url: str
    replace: Callable[[str], None]


def in_openai(contents: Iterable[object]) -> list[Named]:
    """Those of `image_url` parts."""

    def named(part: Part) -> Named:
        return Named(_openai_url(part), lambda data: part.update(image_url=f"data:;base64,{data}"))

    return [
        named(part)
        for part in _parts(contents)
        if part.get("type") == "image_url" and _is_remote(_openai_url(part))
    ]


def in_anthropic(contents: Iterable[object]) -> list[Named]:
    """Those of `image` blocks, in results of tools too."""

    def named(source: Part) -> Named:
        return Named(source["url"], lambda data: source.update(type="base64", data=data))

    blocks = list(_parts(contents))
    blocks += _parts(block.get("content") for block in blocks)
    sources = [block["source"] for block in blocks if isinstance(block.get("source"), dict)]
    return [named(source) for source in sources if source.get("type") == "url" and _is_remote(source.get("url"))]


async def fetch(pictures: Sequence[Named], urls: ImageUrls) -> None:
    """Fetch them and put them in place. Raises InvalidRequest."""
    if len(pictures) > MAX_URLS:
        raise InvalidRequest(f"{len(pictures)} pictures by URL; at most {MAX_URLS} are fetched for one request")
    for picture in pictures:
        picture.replace(base64.b64encode(await urls.fetch(picture.url)).decode())


def _parts(contents: Iterable[object]) -> Iterator[Part]:
    return (
        part for content in contents if isinstance(content, list) for part in content if isinstance(part, dict)
    )


def _openai_url(part: Part) -> Any:
    given = part.get("image_url")
    return given.get("url") if isinstance(given, dict) else given


def _is_remote(url: object) -> bool:
    return isinstance(url, str) and url.lower().startswith(("http://", "https://"))
