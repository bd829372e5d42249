"""Pictures that a request names by URL: fetched, where the operator allows it, and put in the URL's place."""

import base64
from collections.abc import Iterable, Iterator, MutableMapping
from typing import Any

from a3s_power.errors import InvalidRequest
from a3s_power.service.imageurls import ImageUrls

MAX_URLS = 32
"""Of one request, each of which may take as long as `ImageUrls` waits."""

Part = MutableMapping[str, Any]


async def fetch_openai(contents: Iterable[object], urls: ImageUrls) -> None:
    """`image_url` parts of contents: http(s) URLs become data URLs. Raises InvalidRequest."""
    found = [
        part for part in _parts(contents) if part.get("type") == "image_url" and _is_remote(_openai_url(part))
    ]
    for part, data in zip(found, await _fetched([_openai_url(part) for part in found], urls), strict=False):
        part["image_url"] = {"url": f"data:;base64,{data}"}


async def fetch_anthropic(contents: Iterable[object], urls: ImageUrls) -> None:
    """`image` blocks of contents and of tool results in them: URLs become base64. Raises InvalidRequest."""
    blocks = list(_parts(contents))
    blocks += _parts(block.get("content") for block in blocks)
    sources = [block["source"] for block in blocks if isinstance(block.get("source"), dict)]
    found = [source for source in sources if source.get("type") == "url" and _is_remote(source.get("url"))]
    for source, data in zip(found, await _fetched([source["url"] for source in found], urls), strict=False):
        source |= {"type": "base64", "data": data}


def _parts(contents: Iterable[object]) -> Iterator[Part]:
    return (
        part for content in contents if isinstance(content, list) for part in content if isinstance(part, dict)
    )


def _openai_url(part: Part) -> object:
    given = part.get("image_url")
    return given.get("url") if isinstance(given, dict) else given


def _is_remote(url: object) -> bool:
    return isinstance(url, str) and url.lower().startswith(("http://", "https://"))


async def _fetched(found: list[Any], urls: ImageUrls) -> list[str]:
    """In base64; none where they are switched off, which the dialects say in their own words."""
    if not urls.is_on:
        return []
    if len(found) > MAX_URLS:
        raise InvalidRequest(f"{len(found)} pictures by URL; at most {MAX_URLS} are fetched for one request")
    return [base64.b64encode(await urls.fetch(url)).decode() for url in found]
