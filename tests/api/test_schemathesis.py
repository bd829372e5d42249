"""Requests as the OpenAPI document describes them, well-formed and not: every reply is one that it describes."""

import hashlib
import json
import re
from random import Random

import jsonschema_rs
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from a3s_power.api.ollama.replies import NDJSON
from a3s_power.api.openapi import document
from a3s_power.api.operations import OPERATIONS
from a3s_power.api.sse import EVENT_STREAM
from tests.conftest import ServerMaker
from tests.support.api import CHAT_TEMPLATE, tiny_gguf, until

MODEL = "llama3.2"
"""The one that the document's own examples are about."""
MODELS = (MODEL, "able", "templated")
MINE = "me/mine:v1"

NAMES = {
    "model": (*MODELS, MODEL, MODEL, "LLAMA3.2:latest", "absent", "a/b/c/d", "able:cloud"),
    "source": (*MODELS, "absent", ""),
    "destination": (MINE, "mine", "a/b/c/d"),
}
"""Field → what it names: generated names would all be unknown."""
DELETED = {"model": (MINE, MINE, "absent", "a/b/c/d")}

DEEP = settings(
    max_examples=15, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)
SCHEMA = schemathesis.openapi.from_dict(
    document(),
    config=schemathesis.Config.from_dict(
        {
            "generation": {"deterministic": True, "database": "none"},
            "phases": {"coverage": {"unexpected-methods": []}},  # what becomes of them, test_plumbing.py tells
        }
    ),
)
HARMLESS = SCHEMA.exclude(path_regex="/api/(create|pull|push)").exclude(method="POST", path="/api/blobs/{digest}")
"""Without those that fetch from a registry, or make models of whatever they get."""


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    folder = tmp_path_factory.mktemp("schemathesis")
    with ServerMaker(folder) as make:
        api = make()
        api.digest = api.upload(tiny_gguf(folder / "plain.gguf"))
        api.create(MODEL, folder / "plain.gguf")
        api.create(
            "able", tiny_gguf(folder / "able.gguf", chat_template=CHAT_TEMPLATE + "{# tools <think> </think> #}")
        )
        api.create(
            "templated",
            folder / "plain.gguf",
            template="{{ .System }}{{ if .Tools }}{{ .Tools }}{{ end }}{{ .Prompt }}{{ if .Suffix }}{{ .Suffix }}{{ end }}",
        )
        yield api


@pytest.fixture(scope="module")
def session():
    with requests.Session() as session:
        session.trust_env = False
        yield session


def aimed(case, api):
    """Name what is there in place of what was generated; which of it, the rest of the case decides."""
    if case.method == "DELETE":
        api.sdk.copy(MODEL, MINE)
    for parameter, generated in case.path_parameters.items():
        case.path_parameters[parameter] = Random(repr(generated)).choice((generated, *placed(api)[parameter]))
    if isinstance(case.body, dict):
        dice, names = Random(repr(case.body)), DELETED if case.method == "DELETE" else NAMES
        fields = ("source", "destination") if case.path == "/api/copy" else ("model",)
        given = {field: dice.choice(names[field]) for field in fields if isinstance(case.body.get(field, ""), str)}
        case.body = case.body | given  # not in place: it may be the document's example
    return case


def placed(api):
    """Name in a path → what may stand there."""
    return {"digest": [api.digest], "model": NAMES["model"]}


def spare_blob(api):
    """Upload a file that no model needs; its digest."""
    content = b"spare"
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    api.http.post(f"/api/blobs/{digest}", content=content)
    return digest


# ---- checks ----


def validator_of(schema):
    return jsonschema_rs.validator_for(schema | {"components": document()["components"]})


def lines_conform(_context, response, case):
    """Each line of a stream is as the document says, and the last says that it is."""
    if response.headers.get("content-type") != [NDJSON]:
        return
    schema = case.operation.definition.raw["responses"]["200"]["content"][NDJSON]["schema"]
    lines = [json.loads(line) for line in response.text.splitlines()]
    for line in lines:
        validator_of(schema).validate(line)
    assert lines[-1].get("done") or lines[-1].get("status") == "success", lines[-1]


def events_conform(_context, response, case):
    """What each event of a stream holds is as the document says, and the last says that it is."""
    if response.headers.get("content-type") != [EVENT_STREAM]:
        return
    schema = case.operation.definition.raw["responses"]["200"]["content"][EVENT_STREAM]["schema"]
    validator = validator_of(schema["properties"]["data"]["anyOf"][0]["contentSchema"])
    told = re.findall("^data: (.*)$", response.text, re.MULTILINE)
    for data in told:
        if data != "[DONE]":
            validator.validate(json.loads(data))
    assert told[-1] == "[DONE]" or json.loads(told[-1])["type"] == "message_stop", told[-1]


CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    lines_conform,
    events_conform,
]


# ---- what is asked ----


@pytest.mark.parametrize(
    "row",
    [row for row in OPERATIONS if row.path not in {"/api/pull", "/api/push"}],  # they need a registry
    ids=lambda row: f"{row.method} {row.path}",
)
def test_the_examples_of_the_document_work(row, api, session):
    api.sdk.copy(MODEL, MINE)
    body = {"body": row.example, "media_type": "application/json"} if row.example else {}
    digest = spare_blob(api) if row.method == "DELETE" else api.digest
    parameters = {"path_parameters": {"digest": digest, "model": MODEL}} if "{" in row.path else {}
    case = SCHEMA[row.path][row.method].Case(**body, **parameters)
    response = case.call_and_validate(base_url=api.server.url, session=session, checks=CHECKS)
    assert response.status_code == 200


@HARMLESS.parametrize()
@DEEP
def test_every_reply_is_one_that_the_document_describes(case, api, session):
    aimed(case, api).call_and_validate(base_url=api.server.url, session=session, checks=CHECKS)


def test_nothing_holds_a_model_afterwards(api):
    """One that a request still has a lease on would stay loaded."""
    for model in MODELS:
        assert api.sdk.generate(model, "say:a|b").response == "ab"
        api.sdk.generate(model, keep_alive=0)
    until(lambda: api.loaded() == [])
