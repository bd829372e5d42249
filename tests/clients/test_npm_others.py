"""The npm packages that people come with, unchanged; `npm/others/with_<package>.mjs` has the checks."""

import shutil
from functools import cache
from pathlib import Path

import pytest

from tests.support.clientenvs import npm_outcomes, urls_for_checks
from tests.support.npm import PROGRAMS

pytestmark = [
    pytest.mark.clients,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not all(shutil.which(program) for program in PROGRAMS), reason="this machine has no Node.js"
    ),
]

SCRIPTS = Path(__file__).parent / "npm" / "others"

AI = ["chat", "stream", "tool", "tool_in_a_stream", "schema", "embedding", "error"]

CHECKS = {
    "openai": [
        *("chat", "stream", "stream_helper", "tool", "tool_in_a_stream", "tool_that_runs_by_itself"),
        *("tool_that_must_be_called", "schema", "embedding", "models", "error", "error_in_a_stream"),
    ],
    "anthropic": [
        *("chat", "stream", "tool", "tool_in_a_stream", "tool_that_must_be_called", "thinking", "schema"),
        *("count_tokens", "error", "error_in_a_stream"),
    ],
    "ai": [f"openai-compatible {check}" for check in [*AI, "tool_that_must_be_called"]]
    + [f"ollama {check}" for check in AI],
}
"""Package → what is checked, with a provider of it where it has several."""


@pytest.fixture(scope="module")
def outcomes_of(real, embedder, puppet):
    with urls_for_checks(real, puppet) as urls:
        yield cache(lambda package: npm_outcomes(SCRIPTS / f"with_{package}.mjs", urls))


@pytest.mark.parametrize("package, check", [(package, check) for package in CHECKS for check in CHECKS[package]])
def test_it_works_unchanged(outcomes_of, package, check):
    failure = outcomes_of(package)[check]
    assert failure is None, failure


@pytest.mark.parametrize("package", CHECKS)
def test_no_check_is_forgotten(outcomes_of, package):
    assert set(outcomes_of(package)) == set(CHECKS[package])
