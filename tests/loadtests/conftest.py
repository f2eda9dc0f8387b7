"""Fixtures for the load tests: what they start is not measured."""

import pytest


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep coverage out of the child processes: Locust's are gevent's, applications must be silent.

    The Weirgate of these tests is measured by all the others.
    """
    monkeypatch.delenv("COVERAGE_PROCESS_START", raising=False)
