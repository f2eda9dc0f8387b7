"""Fixtures for all tests, and which of them may run side by side."""

import gc
import os
from pathlib import Path

import pytest

from weirgate.shared.testing.ports import keep_to_part

#: Their tests load the machine, measure time, or hold names of which it has one each (containers).
ALONE = {"chaos", "deploy", "loadtests"}
TESTS = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    """Give each process of a run its own ports."""
    del config
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        count = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        keep_to_part(int(worker.removeprefix("gw")), count)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs the machine for itself: whole directories, and what builds the wheel."""
    for item in items:
        directory = item.path.relative_to(TESTS).parts[0]
        if directory in ALONE or item.get_closest_marker("wheel"):
            item.add_marker(pytest.mark.alone)


def pytest_collection_finish() -> None:
    """Keep garbage collection from looking at what stays for the whole run.

    A look at all modules and tests takes tens of milliseconds, in which clients of a test hang.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Async tests run on asyncio, as the product does."""
    return "asyncio"
