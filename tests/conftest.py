"""Fixtures for all tests: the asyncio backend, and the support code checked before it is used."""

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Async tests run on asyncio, as the product does."""
    return "asyncio"
