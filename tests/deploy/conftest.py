"""Fixtures of the tests of deploy/."""

from collections.abc import Iterator

import pytest

from tests.support.images import Images, build, remove
from tests.support.manifests import OVERLAYS, Manifests, manifests


@pytest.fixture(params=OVERLAYS)
def built(request: pytest.FixtureRequest) -> Manifests:
    """Each overlay of the Kubernetes manifests."""
    return manifests(request.param)


@pytest.fixture(scope="session")
def images() -> Iterator[Images]:
    """The container images of this tree; skips where they cannot be made."""
    yield build()
    remove()
