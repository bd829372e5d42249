"""The OpenAPI document says what the routes do, and the page says what the document says."""

import json
import re
from dataclasses import fields as fields_of
from html.parser import HTMLParser

import jsonschema_rs
import msgspec
import pytest
import schemathesis

from a3s_power import __version__
from a3s_power.api import app, openapi
from a3s_power.api.ollama import fields
from a3s_power.api.openapi import _given, document
from a3s_power.api.operations import OPERATIONS, UNLISTED
from a3s_power.api.reference import _text, page
from a3s_power.errors import InvalidRequest
from a3s_power.grammar.schema import AnswerGrammar
from a3s_power.options import KINDS
from a3s_power.wire import ollama as wire

SCHEMAS = document()["components"]["schemas"]


def validator_of(schema):
    return jsonschema_rs.Draft202012Validator(schema | {"components": {"schemas": SCHEMAS}})


def refs_in(value):
    text = json.dumps(value)
    return set(re.findall(r'"\$ref": "#/components/schemas/(\w+)"', text))


# ---- what it is about ----


def test_every_route_has_its_row_and_every_row_its_route():
    routes = {
        (method, path)
        for path, resource in app._resources(app.Services(*[None] * len(fields_of(app.Services)))).items()
        for method in app.METHODS
        if resource.allows(method)
    }
    rows = [(row.method, row.path) for row in OPERATIONS]
    assert len(rows) == len(set(rows))
    assert set(rows) == {(method, path) for method, path in routes if path not in UNLISTED}
    assert UNLISTED.keys() < {path for _, path in routes}


def test_it_is_openapi_3_1():
    schemathesis.openapi.from_dict(document()).validate()
    assert document()["openapi"].startswith("3.1")
    assert document()["info"]["version"] == __version__


def test_operations_can_be_told_apart_by_their_ids():
    ids = [operation["operationId"] for methods in document()["paths"].values() for operation in methods.values()]
    assert len(ids) == len(set(ids)) == len(OPERATIONS)


def test_every_shape_is_a_schema_and_is_used():
    for schema in SCHEMAS.values():
        jsonschema_rs.meta.validate(schema)
    assert refs_in(document()) == SCHEMAS.keys()


# ---- what it says of fields ----


def test_options_are_those_that_we_know():
    assert SCHEMAS["Options"]["properties"].keys() == KINDS.keys()


def test_docstrings_of_fields_describe_them():
    assert SCHEMAS["CreateRequest"]["properties"]["from"]["description"] == "The model to start from."
    assert SCHEMAS["Options"]["properties"]["num_ctx"]["description"].startswith("Context window")


@pytest.mark.parametrize(
    "field, given",
    [
        ({"type": "string"}, {"type": "string"}),
        ({"type": "integer", "default": 0}, {"type": "integer", "default": 0}),
        ({"anyOf": [{"type": "string"}, {"type": "null"}], "default": None}, {"type": "string"}),
        ({"enum": [1, 2], "description": "one", "default": None}, {"enum": [1, 2], "description": "one"}),
        ({"anyOf": [{"const": 1}, {"const": 2}], "default": None}, {"anyOf": [{"const": 1}, {"const": 2}]}),
        ({"anyOf": [{"type": "array"}, {"type": "null"}]}, {"anyOf": [{"type": "array"}, {"type": "null"}]}),
    ],
)
def test_null_is_left_out_where_it_is_the_same_as_absent(field, given):
    assert _given(field) == given


JSON_VALUES = (
    *(True, False, 0, -1, 300, 0.5, -0.5, 1e30),
    *("json", "xml", "low", "medium", "high", "max", "maximum", "High"),
    *("0", "-0", "5m", "+5m", "-1m", "1h30m", "1.5h", ".5s", "1.s", "300ms", "2us", "2µs", "2μs", "3ns"),
    *("5", "-1", "1d", "m", ".s", " 5m", "5m ", "5m\n", "-", "--5m"),
    *([], ["a", "b"], [""], ["a", 1], [["a"]], [None], [True]),
    *({}, {"type": "object"}, {"a": None}),
)


@pytest.mark.parametrize(
    "shape, field, read",
    [
        (wire.GenerateRequest, "keep_alive", fields.keep_alive),
        (wire.GenerateRequest, "think", fields.think),
        (wire.GenerateRequest, "format", AnswerGrammar.of),
        (wire.EmbedRequest, "input", lambda value: fields.texts(value, "")),
        (wire.CreateRequest, "license", lambda value: fields.texts(value, "")),
        (wire.ToolCallFunction, "arguments", lambda value: fields._tool_call(call_with(value))),
    ],
)
def test_what_a_free_field_may_be_is_what_its_reader_takes(shape, field, read):
    schema = validator_of(SCHEMAS[shape.__name__]["properties"][field])
    for value in JSON_VALUES:
        assert schema.is_valid(value) == is_taken(read, value), value


def is_taken(read, value):
    try:
        read(value)
    except InvalidRequest:
        return False
    return True


def call_with(arguments):
    return wire.ToolCall(function=wire.ToolCallFunction(name="f", arguments=arguments))


# ---- the page ----


class Page(HTMLParser):
    """What of it matters here: names, links, and whatever a browser would fetch."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.ids, self.links, self.fetched = set(), [], set(), set()
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        for name, value in attrs:
            match tag, name:
                case _, "id":
                    self.ids.append(value)
                case "a", "href":
                    self.links.add(value)
                case _, "src" | "href" | "srcset" | "data" | "action":
                    self.fetched.add(value)


def test_the_page_shows_every_operation_and_shape():
    shown = Page(page())
    assert len(shown.ids) == len(set(shown.ids)) == len(OPERATIONS) + len(SCHEMAS)
    assert shown.links - {"/openapi.json"} <= {f"#{name}" for name in shown.ids}
    assert "curl http://localhost:11434/api/tags<" in page()


def test_the_page_needs_nothing_else():
    shown = Page(page())
    assert not shown.fetched
    assert not shown.tags & {"script", "link", "img", "iframe", "object", "form"}
    assert "url(" not in page()
    assert "@import" not in page()


def test_text_becomes_html():
    assert _text("a `b<c>` & d") == "a <code>b&lt;c&gt;</code> &amp; d"


# ---- how they are served ----


def test_both_are_served(scripted):
    api = scripted()
    told = api.http.get("/openapi.json")
    assert told.headers["content-type"] == "application/json"
    assert told.content == msgspec.json.encode(document()) == openapi._encoded()
    shown = api.http.get("/docs")
    assert shown.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in shown.headers["content-security-policy"]
    assert shown.text == page()
