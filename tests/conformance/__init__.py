"""The conformance table: what every client of Ollama may rely on, case by case.

The ids are those of the table that the project was specified by; a test's own id tells which case it is. Comments in
the tables say where a case asks for something else than Ollama does, and why.
"""

import pytest

pytest.register_assert_rewrite("tests.conformance.cases", "tests.conformance.shapes")
