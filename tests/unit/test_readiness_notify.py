"""The service manager's protocol, against a real datagram socket, and the log's line format."""

import logging
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from weirgate.shared.observability.logs import LineFormatter, fields
from weirgate.shared.supervisor.readiness import Notifier
from weirgate.shared.supervisor.tasks import Tasks
from weirgate.shared.testing import eventually


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(5)
        yield listener


def notifier(manager: socket.socket, **more: str) -> Notifier:
    return Notifier({"NOTIFY_SOCKET": str(manager.getsockname()), **more})


def test_states_arrive_as_the_protocol_wants_them(manager: socket.socket) -> None:
    told = notifier(manager)
    told.ready("all well")
    assert manager.recv(4096) == b"READY=1\nSTATUS=all well"
    told.reloading()
    first, second = manager.recv(4096).split(b"\n")
    assert first == b"RELOADING=1"
    assert second.startswith(b"MONOTONIC_USEC=")
    assert second.partition(b"=")[2].isdigit()
    told.stopping(within_seconds=7.5)
    assert manager.recv(4096) == b"STOPPING=1\nEXTEND_TIMEOUT_USEC=7500000"


def test_a_socket_is_given_to_the_store_and_taken_out(manager: socket.socket) -> None:
    told = notifier(manager)
    with socket.socket() as kept:
        assert told.store("weirgate-stored-web-0", kept)
        text, passed, _, _ = socket.recv_fds(manager, 4096, 4)
        assert text == b"FDSTORE=1\nFDNAME=weirgate-stored-web-0\nFDPOLL=0"
        (copy,) = passed
        assert os.path.sameopenfile(copy, kept.fileno())
        os.close(copy)
    told.forget("weirgate-stored-web-0")
    assert manager.recv(4096) == b"FDSTOREREMOVE=1\nFDNAME=weirgate-stored-web-0"


def test_a_store_that_nobody_keeps_is_said(tmp_path: Path) -> None:
    with socket.socket() as kept:
        assert not Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).store("x", kept)
    assert not Notifier({}).present


def test_an_abstract_socket_is_reached() -> None:
    name = f"weirgate-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name)
        listener.settimeout(5)
        Notifier({"NOTIFY_SOCKET": f"@{name}"}).ready("x")
        assert listener.recv(4096) == b"READY=1\nSTATUS=x"


def test_without_a_manager_or_with_a_dead_one_nothing_happens(tmp_path: Path) -> None:
    Notifier({}).ready("x")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).ready("x")


@pytest.mark.anyio
async def test_the_watchdog_is_fed(manager: socket.socket) -> None:
    told = notifier(manager, WATCHDOG_USEC="20000")
    assert told.watchdog_seconds == 0.01
    manager.settimeout(0)
    tasks = Tasks()
    tasks.keep("watchdog", told.keep_watchdog)
    for _ in range(3):
        assert await eventually(lambda: received(manager)) == b"WATCHDOG=1"
    await tasks.cancel()


@pytest.mark.anyio
async def test_a_watchdog_of_another_process_is_not_fed(manager: socket.socket) -> None:
    told = notifier(manager, WATCHDOG_USEC="20000", WATCHDOG_PID="1")
    await told.keep_watchdog()
    manager.settimeout(0)
    assert received(manager) is None


@pytest.mark.anyio
async def test_background_work_that_crashes_is_logged_and_run_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weirgate.shared.supervisor.tasks._PAUSE_SECONDS", 0.001)
    runs = 0

    async def work() -> None:
        nonlocal runs
        runs += 1
        if runs < 3:
            raise RuntimeError("boom")

    await Tasks().keep("shaky", work)
    assert runs == 3
    assert [record.message for record in caplog.records] == ["an internal task failed"] * 2


def received(manager: socket.socket) -> bytes | None:
    try:
        return manager.recv(4096)
    except BlockingIOError:
        return None


def line(message: str, *, error: BaseException | None = None, **values: object) -> str:
    information = (type(error), error, None) if error else None
    record = logging.LogRecord("x", logging.WARNING, "", 0, message, (), information)
    record.created = 1_700_000_000.25
    record.__dict__.update(fields(**values))
    return LineFormatter().format(record)


def test_a_log_line_has_time_level_message_and_fields() -> None:
    assert line("child ended", process="edge-0", code=1) == (
        "2023-11-14T22:13:20.250Z warning child ended process=edge-0 code=1"
    )


def test_a_log_line_cannot_be_forged_by_what_it_quotes() -> None:
    text = line('x\n2023 info "fine"', error=None, name='a b="c\\d"\n', empty="")
    assert text.count("\n") == 0
    assert text.endswith(r'x\n2023 info "fine" name="a b=\"c\\d\"\\n" empty=""')


def test_a_traceback_follows_its_line() -> None:
    assert line("failed", error=ValueError("why")).endswith("failed\nValueError: why")
    assert sys.exc_info() == (None, None, None)
