"""The Python libraries that people come with, unchanged: each in an environment of its own.

`others/with_<library>.py` has the checks, `others/with_<library>.txt` what they were seen to pass with: `pip freeze`
after installing what `docs/clients.md` says.
"""

from functools import cache
from pathlib import Path

import pytest

from tests.support.clientenvs import python_outcomes, urls_for_checks

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]

SCRIPTS = Path(__file__).parent / "others"


def on(routes, checks):
    return [f"{route} {check}" for route in routes for check in checks]


CHECKS = {
    "openai": [
        *("chat", "stream", "stream_helper", "tool", "tool_in_a_stream", "tool_that_must_be_called", "schema"),
        *("completion", "embedding", "models", "error", "error_in_a_stream"),
    ],
    "anthropic": [
        *("chat", "stream", "tool", "tool_in_a_stream", "tool_that_must_be_called", "thinking", "schema"),
        *("count_tokens", "error", "error_in_a_stream"),
    ],
    "langchain_ollama": ["chat", "stream", "tool", "tool_in_a_stream", "schema", "embedding", "error"],
    "langchain_openai": [
        *("chat", "stream", "tool", "tool_in_a_stream", "schema", "schema_by_a_tool", "embedding", "error"),
    ],
    "litellm": [
        *on(
            ["ollama_chat", "openai", "anthropic"],
            ["chat", "stream", "tool", "tool_in_a_stream", "schema", "error"],
        ),
        *on(["ollama", "openai"], ["embedding"]),
    ],
    "llama_index": ["chat", "stream", "complete", "tool", "tool_in_a_stream", "schema", "embedding", "error"],
    "pydantic_ai": [
        *on(["ollama", "anthropic"], ["chat", "stream", "tool", "schema_by_a_tool", "error"]),
        *on(["ollama"], ["schema", "embedding"]),
    ],
}
"""Library → what is checked, on a route of it where it has several."""


@pytest.fixture(scope="module")
def outcomes_of(real, embedder, puppet):
    with urls_for_checks(real, puppet) as urls:
        yield cache(lambda library: python_outcomes(SCRIPTS / f"with_{library}.py", urls))


@pytest.mark.parametrize("library, check", [(library, check) for library in CHECKS for check in CHECKS[library]])
def test_it_works_unchanged(outcomes_of, library, check):
    failure = outcomes_of(library)[check]
    assert failure is None, failure


@pytest.mark.parametrize("library", CHECKS)
def test_no_check_is_forgotten(outcomes_of, library):
    assert set(outcomes_of(library)) == set(CHECKS[library])
