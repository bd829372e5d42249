"""The page at `/docs`: the OpenAPI document for people, in one HTML file that needs nothing from elsewhere."""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from html import escape
from typing import Any

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from a3s_power.api.openapi import Schema, document
from a3s_power.api.operations import JSON

POLICY = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
"""No script runs here, even if one should get in."""

BASE = "http://localhost:11434"

STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
code, pre { font: .9em ui-monospace, monospace; }
pre { padding: .6rem .8rem; overflow-x: auto; border: 1px solid #8886; border-radius: .3rem; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0; }
td { padding: .25rem .8rem .25rem 0; border-top: 1px solid #8884; vertical-align: top; }
h2 { margin-top: 2.5rem; border-bottom: 2px solid #8886; }
h3 { margin: 2rem 0 .3rem; }
"""


async def docs(_request: Request) -> Response:
    """GET /docs."""
    return HTMLResponse(await anyio.to_thread.run_sync(page), headers=POLICY)


@cache
def page() -> str:
    """The whole page."""
    told = document()
    info, shapes = told["info"], told["components"]["schemas"]
    title = escape(f"{info['title']} {info['version']}")
    return f"""\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>{STYLE}</style></head>
<body><h1>{title}</h1>
<p>{_text(info["description"])}</p>
<p>For programs: <a href="/openapi.json">/openapi.json</a></p>
{"".join(_operations(told["paths"]))}
<h2>Shapes</h2>
{"".join(_shape(name, schema) for name, schema in shapes.items())}
</body></html>
"""


def _operations(paths: Mapping[str, Schema]) -> Iterator[str]:
    group = ""
    for path, methods in paths.items():
        for method, operation in methods.items():
            if operation["tags"] != [group]:
                (group,) = operation["tags"]
                yield f"<h2>{escape(group)}</h2>\n"
            yield _operation(method.upper(), path, operation)


def _operation(method: str, path: str, operation: Schema) -> str:
    rows = [("takes", _content(operation["requestBody"]))] if "requestBody" in operation else []
    failures = []
    for status, response in operation["responses"].items():
        if status.startswith("2"):
            rows.append((status, f"{_text(response['description'])} {_content(response)}"))
        else:
            failures.append(f'<abbr title="{escape(response["description"])}">{status}</abbr>')
    if failures:
        rows.append(("else", ", ".join(failures)))
    return (
        f'<h3 id="{escape(operation["operationId"])}"><code>{escape(f"{method} {path}")}</code></h3>\n'
        f"<p>{_text(operation['summary'])}</p>\n"
        f"<pre>{escape(_curl(method, path, operation))}</pre>\n{_table(rows)}"
    )


def _content(body: Schema) -> str:
    return "; ".join(
        f"<code>{escape(media)}</code> {_type(content.get('schema', {}))}"
        for media, content in body.get("content", {}).items()
    )


def _curl(method: str, path: str, operation: Schema) -> str:
    body = operation.get("requestBody", {"content": {}})["content"]
    how = {"GET": "", "POST": "" if body else "-X POST ", "HEAD": "-I "}.get(method, f"-X {method} ")
    data = ""
    if JSON in body:
        example = json.dumps(body[JSON]["example"]).replace("'", r"'\''")
        data = f" -d '{example}'"
    elif body:
        data = " --data-binary @model.gguf"
    return f"curl {how}{BASE}{path}{data}"


def _shape(name: str, schema: Schema) -> str:
    fields = schema["properties"].items()
    rows = [(field, f"{_type(value)}</td><td>{_text(value.get('description', ''))}") for field, value in fields]
    return (
        f'<h3 id="{escape(name)}"><code>{escape(name)}</code></h3>\n'
        f"<p>{_text(schema.get('description', ''))}</p>\n{_table(rows)}"
    )


def _table(rows: list[tuple[str, str]]) -> str:
    """Names, and HTML beside them."""
    lines = (f"<tr><td><code>{escape(name)}</code></td><td>{html}</td></tr>\n" for name, html in rows)
    return f"<table>\n{''.join(lines)}</table>\n"


def _type(schema: Schema) -> str:
    """`array of string`, with links to shapes."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if "contentSchema" in schema:
        return _type(schema["contentSchema"])
    if "data" in schema.get("properties", {}):  # an event
        return _type(schema["properties"]["data"])
    if literals := schema.get("enum", [schema["const"]] if "const" in schema else None):
        return _either(f"<code>{escape(json.dumps(literal))}</code>" for literal in literals)
    if "anyOf" in schema:
        return _either(_type(kind) for kind in schema["anyOf"])
    kinds = schema.get("type", "anything")
    return _either(_named(kind, schema) for kind in ([kinds] if isinstance(kinds, str) else kinds))


def _either(kinds: Iterator[str]) -> str:
    return " or ".join(kinds)


def _named(kind: str, schema: Schema) -> str:
    inner: Any = {"array": schema.get("items"), "object": schema.get("additionalProperties")}.get(kind)
    return escape(kind) + (f" of {_type(inner)}" if isinstance(inner, dict) else "")


def _text(text: str) -> str:
    """Words with `code` in backticks."""
    pieces = escape(text).split("`")
    return "".join(f"<code>{piece}</code>" if odd % 2 else piece for odd, piece in enumerate(pieces))
