"""Sockets that were open before: taken by address, refused with the setting that is wrong, kept."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.addresses import connects, local
from tests.support.service_manager import opened
from weirgate.shared.supervisor import inherited as inheriting
from weirgate.shared.supervisor.errors import BindError, InheritedError
from weirgate.shared.supervisor.inherited import Given, Inherited, Passed, from_service_manager
from weirgate.shared.supervisor.listeners import Key, Listeners, open_one
from weirgate.shared.supervisor.socket_options import SocketOptions
from weirgate.shared.supervisor.socket_store import KeptSockets
from weirgate.shared.testing import free_port

DGRAM, STREAM, SEQPACKET = socket.SOCK_DGRAM, socket.SOCK_STREAM, socket.SOCK_SEQPACKET
MPTCP = 262
Passing = Callable[..., dict[str, str]]


@pytest.fixture
def passing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Passing]:
    """Return a function that passes descriptors as a manager does, and returns the environment."""
    monkeypatch.setattr(inheriting, "_FIRST", 700)
    used: list[int] = []

    def pass_on(*sockets: socket.socket, names: str = "", pid: int = 0) -> dict[str, str]:
        for sock in sockets:
            used.append(fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD, 700 + len(used)))
            os.set_inheritable(used[-1], True)  # noqa: FBT003 - takes no name
            sock.close()
        environ = {"LISTEN_PID": str(pid or os.getpid()), "LISTEN_FDS": str(len(sockets))}
        return environ | ({"LISTEN_FDNAMES": names} if names else {})

    yield pass_on
    for fd in used:
        with contextlib.suppress(OSError):  # it was taken, and has been closed
            os.close(fd)


def test_a_passed_socket_is_taken_by_its_address_and_made_ours(passing: Passing) -> None:
    one, other = local(), local()
    environ = passing(opened(one), opened(other), names="a.socket:b.socket")
    found = Inherited([from_service_manager(environ)])
    assert environ == {}
    assert found.take("127.0.0.1:1") is None
    taken = found.take(other)
    assert taken is not None
    assert taken.name == "b.socket"
    assert not taken.socket.get_inheritable()
    assert not os.get_blocking(taken.socket.fileno())
    assert [passed.name for passed in found] == ["a.socket"]
    taken.socket.close()
    found.close()


@pytest.mark.parametrize(
    ("bind", "address", "kind"),
    [
        ("0.0.0.0:{}", "0.0.0.0:{}", STREAM),
        ("[::]:{}", "[::]:{}", STREAM),
        ("[::1]:{}", "[::1]:{}", STREAM),
        ("udp:127.0.0.1:{}", "127.0.0.1:{}", DGRAM),
        ("udp:[::]:{}", "[::]:{}", DGRAM),
    ],
)
def test_addresses_of_every_kind_are_matched(
    passing: Passing, bind: str, address: str, kind: socket.SocketKind
) -> None:
    port = free_port(kind)
    found = Inherited([from_service_manager(passing(opened(address.format(port), kind)))])
    listener = open_one(bind.format(port), KeptSockets(found, None))
    assert listener.type == kind
    assert list(found) == []
    listener.close()


def test_a_socket_of_another_process_is_not_ours(passing: Passing) -> None:
    environ = passing(opened(local()), pid=1)
    assert from_service_manager(environ) == Given()
    assert environ == {}
    assert from_service_manager({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "x"}) == Given()


def connection(_: Path) -> socket.socket:
    """What Accept=yes passes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        caller = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        caller.close()
        return accepted


@pytest.mark.parametrize(
    ("make", "setting"),
    [
        (connection, "Accept=no"),
        (lambda path: opened(f"unix:{path}/x", DGRAM), "only ListenStream="),
        (lambda path: opened(f"unix:{path}/x", SEQPACKET), "only ListenStream="),
        (lambda _: socket.socket(socket.AF_INET, STREAM, MPTCP), "SocketProtocol="),
        (lambda _: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW), "ListenStream="),
    ],
    ids=["accept", "unix datagram", "unix seqpacket", "mptcp", "netlink"],
)
def test_what_no_listener_can_use_names_the_setting_that_is_wrong(
    passing: Passing,
    make: Callable[[Path], socket.socket],
    setting: str,
    tmp_path: Path,
) -> None:
    try:
        environ = passing(make(tmp_path), names="wrong.socket")
    except OSError:
        pytest.skip("this kernel has no such socket")
    (problem,) = Inherited([from_service_manager(environ)]).problems
    assert problem.startswith("wrong.socket: ")
    assert setting in problem


def test_a_descriptor_that_is_no_socket_is_said(passing: Passing, tmp_path: Path) -> None:
    with (tmp_path / "fifo").open("w") as file:
        sock = socket.socket()
        os.dup2(file.fileno(), sock.fileno())
        (problem,) = from_service_manager(passing(sock, names="fifo.socket")).problems
    assert problem.startswith("fifo.socket: descriptor 700 is no socket")


def test_a_wildcard_that_takes_ipv4_along_is_refused(passing: Passing) -> None:
    address = f"[::]:{free_port()}"
    found = Inherited([from_service_manager(passing(opened(address, only_ipv6=False)))])
    with pytest.raises(InheritedError, match="BindIPv6Only=ipv6-only"):
        found.take(address)
    sockets = Listeners(KeptSockets(found, None))
    with pytest.raises(BindError, match=r"web: the socket .* set BindIPv6Only="):
        sockets.open([Key("web", address)])
    found.close()


def test_a_socket_of_the_wrong_transport_or_passed_twice_is_said() -> None:
    tcp, udp = free_port(), free_port(DGRAM)
    found = Inherited(
        [
            Given([Passed("u", opened(local(tcp), DGRAM)), Passed("t", opened(local(udp)))]),
            Given([Passed("other", opened(local()))]),
        ]
    )
    first, second = found.misfits([local(tcp), "udp:" + local(udp)])
    wrong = "is of the wrong kind; write ListenStream= instead of ListenDatagram="
    assert first == f"u: udp:127.0.0.1:{tcp} {wrong}"
    assert "write ListenDatagram= instead of ListenStream=" in second
    assert "passed twice" in next(found.misfits([local(udp)]))
    found.close()


def test_the_same_socket_by_two_ways_is_one(passing: Passing) -> None:
    sock = opened(local())
    environ = passing(sock.dup(), sock, names="weirgate.socket:weirgate-stored-web-0")
    given = from_service_manager(environ)
    assert [passed.name for passed in given.sockets] == ["weirgate.socket"]
    given.sockets[0].socket.close()


def test_options_are_the_configuration_s_whatever_the_socket_had() -> None:
    address = local()
    sock = opened(address)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 9999)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1234)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)
    fresh = socket.create_server(("127.0.0.1", 0))
    kept = KeptSockets(Inherited([Given([Passed("x", sock)])]), None)
    listener = open_one(address, kept, SocketOptions(user_timeout_ms=77))
    assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0
    assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 77
    assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT) == 0
    buffers = [s.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) for s in (listener, fresh)]
    assert buffers[0] == buffers[1]
    for each in (listener, fresh):
        each.close()


def test_a_socket_that_does_not_listen_yet_does_then() -> None:
    address = local()
    sock = socket.socket()
    host, _, port = address.rpartition(":")
    sock.bind((host, int(port)))
    listener = open_one(address, KeptSockets(Inherited([Given([Passed("x", sock)])]), None))
    assert connects(address)
    listener.close()
