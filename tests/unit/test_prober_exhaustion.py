"""A check that this host cannot make is no result."""

import os
from dataclasses import replace

import pytest

from tests.support.processes import descriptor_limit
from tests.unit.test_prober_checks import CHECK
from weirgate.shared.health.check import Target
from weirgate.shared.health.exhaustion import ExhaustedError
from weirgate.shared.health.probe import probe
from weirgate.shared.health.prober import Prober
from weirgate.shared.testing import eventually, free_port

pytestmark = pytest.mark.anyio

#: Below every descriptor that this process could open: the first three are always taken.
NONE = 3


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


@pytest.mark.parametrize("kind", [CHECK.kind, "gateway"])
async def test_without_a_descriptor_an_endpoint_is_not_judged(kind: str) -> None:
    address = f"127.0.0.1:{free_port()}"
    target = Target("a", address, replace(CHECK, kind=kind))
    with descriptor_limit(os.getpid(), NONE), pytest.raises(ExhaustedError, match="Too many open"):
        await probe(target, [address])
    assert not (await probe(target, [address])).passed


async def test_it_is_said_once_and_checks_go_on_later(caplog: pytest.LogCaptureFixture) -> None:
    address = f"127.0.0.1:{free_port()}"
    check = replace(CHECK, interval=0.01)
    failures: list[str] = []
    caplog.set_level("INFO")
    prober = Prober(lambda _: [address], lambda _, result: failures.append(result.error))
    with descriptor_limit(os.getpid(), NONE):
        prober.update([Target(name, address, check) for name in ("a", "b")])
        await eventually(lambda: "endpoints cannot be checked" in caplog.text)
        assert failures == []
    await eventually(lambda: failures)
    await prober.close()
    assert caplog.text.count("endpoints cannot be checked") == 1
    assert caplog.text.count("endpoints are checked again") == 1
