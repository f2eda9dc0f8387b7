"""Sockets that stay open when the node ends: put into a store, taken out, and found again."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.addresses import connects, local
from tests.support.service_manager import opened
from weirgate.shared.supervisor.errors import BindError
from weirgate.shared.supervisor.inherited import Given, Inherited, Passed
from weirgate.shared.supervisor.listeners import Key, Listeners
from weirgate.shared.supervisor.socket_store import KeptSockets


class Remembered:
    """A store in memory."""

    def __init__(self, *, full: bool = False) -> None:
        self.sockets: dict[str, socket.socket] = {}
        self.full = full

    def keep(self, name: str, listener: socket.socket) -> bool:
        if not self.full:
            assert name not in self.sockets
            self.sockets[name] = listener.dup()
        return not self.full

    def forget(self, name: str) -> None:
        if name in self.sockets:
            self.sockets.pop(name).close()

    def given(self) -> Given:
        """Return what the next life of the node gets."""
        return Given([Passed(name, sock.dup()) for name, sock in self.sockets.items()])

    def close(self) -> None:
        for sock in self.sockets.values():
            sock.close()


@pytest.fixture
def store() -> Iterator[Remembered]:
    made = Remembered()
    yield made
    made.close()


def test_the_store_follows_what_is_listened_on(store: Remembered) -> None:
    first, second = local(), local()
    sockets = Listeners(KeptSockets(Inherited(), store))
    sockets.add(sockets.open([Key("web", first), Key("web", second), Key("any", "127.0.0.1:0")]))
    assert list(store.sockets) == ["weirgate-stored-web-0", "weirgate-stored-web-1"]
    sockets.add(sockets.open([Key("new", first)]))  # renamed
    sockets.keep_only([Key("new", first)])
    assert list(store.sockets) == ["weirgate-stored-web-0"]
    assert not connects(second)
    sockets.close()
    assert connects(first)


def test_a_reload_that_is_taken_back_leaves_nothing_in_the_store(store: Remembered) -> None:
    address = local()
    sockets = Listeners(KeptSockets(Inherited(), store))
    new = sockets.open([Key("web", address)])
    sockets.add(new)
    (listener,) = new.values()
    with listener.dup():  # as the edge holds it
        sockets.discard(new)
        assert not connects(address)
    assert store.sockets == {}


def test_a_store_that_is_full_leaves_everything_as_without_one() -> None:
    address = local()
    sockets = Listeners(KeptSockets(Inherited(), Remembered(full=True)))
    sockets.add(sockets.open([Key("web", address)]))
    (listener,) = sockets.sockets.values()
    with listener.dup():
        sockets.close()
        assert not connects(address)


def test_the_next_life_takes_what_is_kept_and_closes_what_it_does_not_want(
    store: Remembered,
) -> None:
    stays, goes, comes = local(), local(), local()
    sockets = Listeners(KeptSockets(Inherited(), store))
    sockets.add(sockets.open([Key("web", goes), Key("web", stays)]))
    sockets.close()
    kept = KeptSockets(Inherited([store.given()]), store)
    sockets = Listeners(kept)
    sockets.add(sockets.open([Key("web", comes), Key("web", stays)]))
    assert kept.settle([comes, stays]) == []
    assert sorted(store.sockets) == ["weirgate-stored-web-1", "weirgate-stored-web-2"]
    assert not connects(goes)
    sockets.close()
    assert connects(stays)
    assert connects(comes)


def test_a_start_that_fails_leaves_kept_sockets_listening(store: Remembered) -> None:
    address = local()
    sockets = Listeners(KeptSockets(Inherited(), store))
    sockets.add(sockets.open([Key("web", address)]))
    sockets.close()
    kept = KeptSockets(Inherited([store.given()]), store)
    with pytest.raises(BindError):
        Listeners(kept).open([Key("web", address), Key("bad", "192.0.2.1:1")])
    kept.close()
    assert connects(address)
    assert list(store.sockets) == ["weirgate-stored-web-0"]


def test_a_socket_unit_s_socket_waits_for_a_reload_that_wants_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    address = local()
    with opened(address) as owned:
        kept = KeptSockets(Inherited([Given([Passed("a.socket", owned.dup())])]), None)
        sockets = Listeners(kept)
        assert kept.settle([]) == []
        assert "that no listener binds" in caplog.text
        for _ in range(2):
            sockets.add(sockets.open([Key("web", address)]))
            sockets.keep_only([])
        assert owned.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        assert len(caplog.records) == 3
        sockets.close()
        kept.close()


def test_a_kept_unix_socket_without_its_path_is_bound_anew(
    store: Remembered, tmp_path: Path
) -> None:
    bind = f"unix:{tmp_path}/web.sock"
    sockets = Listeners(KeptSockets(Inherited(), store))
    sockets.add(sockets.open([Key("web", bind)]))
    sockets.close()
    (tmp_path / "web.sock").unlink()
    sockets = Listeners(KeptSockets(Inherited([store.given()]), store))
    sockets.add(sockets.open([Key("web", bind)]))
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(f"{tmp_path}/web.sock")
    sockets.close()
