"""Options of listening sockets, read back from the kernel: on accepted sockets, too."""

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from weirgate.shared.supervisor import listeners as binding
from weirgate.shared.supervisor.errors import BindError
from weirgate.shared.supervisor.listeners import Key, Listeners
from weirgate.shared.supervisor.socket_options import UNTOUCHED, SocketOptions
from weirgate.shared.testing import free_port

ALL = SocketOptions(
    backlog=77,
    keepalive=(30_000, 5_000, 3),
    user_timeout_ms=45_000,
    defer_accept_ms=3_000,
    fast_open=16,
    congestion="reno",
    receive_buffer_bytes=64 * 1024,
    send_buffer_bytes=96 * 1024,
)
DEFAULT_CONGESTION = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()


def tcp(connection: socket.socket, option: int) -> int:
    return connection.getsockopt(socket.IPPROTO_TCP, option)


def base(connection: socket.socket, option: int) -> int:
    return connection.getsockopt(socket.SOL_SOCKET, option)


def congestion(connection: socket.socket) -> str:
    name = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
    return name.rstrip(b"\0").decode()


@contextmanager
def accepted(listener: socket.socket) -> Iterator[socket.socket]:
    with socket.create_connection(listener.getsockname(), timeout=5) as client:
        client.sendall(b"x")  # a deferred accept wants to see something
        listener.settimeout(5)
        connection, _ = listener.accept()
        with connection:
            yield connection


def backlog_of(listener: socket.socket) -> int:
    """Read the backlog from TCP_INFO, where a listening socket has it as tcpi_sacked."""
    info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return int(struct.unpack_from("I", info, 28)[0])


def test_what_is_set_is_what_accepted_sockets_have() -> None:
    with binding.bind("127.0.0.1:0", ALL) as listener:
        assert backlog_of(listener) == 77
        assert tcp(listener, socket.TCP_FASTOPEN) == 16
        assert tcp(listener, socket.TCP_DEFER_ACCEPT) >= 3  # rounded up to whole retransmissions
        with accepted(listener) as connection:
            assert base(connection, socket.SO_KEEPALIVE) == 1
            probes = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            assert [tcp(connection, option) for option in probes] == [30, 5, 3]
            assert tcp(connection, socket.TCP_USER_TIMEOUT) == 45_000
            assert congestion(connection) == "reno"
            # the kernel doubles them for its own bookkeeping
            assert base(connection, socket.SO_RCVBUF) == 2 * 64 * 1024
            assert base(connection, socket.SO_SNDBUF) == 2 * 96 * 1024


def test_nothing_set_leaves_the_kernel_s_own() -> None:
    with binding.bind("127.0.0.1:0") as listener, accepted(listener) as connection:
        assert base(connection, socket.SO_KEEPALIVE) == 0
        assert tcp(connection, socket.TCP_USER_TIMEOUT) == 0
        assert congestion(connection) == DEFAULT_CONGESTION


def test_changes_reach_the_living_socket_and_go_back_to_the_kernel_s_own() -> None:
    address = f"127.0.0.1:{free_port()}"
    key = Key("web", address)
    sockets = Listeners()
    sockets.add(sockets.open([key], {"web": UNTOUCHED}))
    listener = sockets.sockets[key]
    with accepted(listener) as connection:
        first = base(connection, socket.SO_RCVBUF)
        before = connection
        sockets.tune({"web": ALL})
        assert base(before, socket.SO_KEEPALIVE) == 0, "what is open keeps what it has"
    assert backlog_of(listener) == 77
    with accepted(listener) as connection:
        assert congestion(connection) == "reno"
        assert base(connection, socket.SO_RCVBUF) == 2 * 64 * 1024
    sockets.tune({"web": UNTOUCHED})
    assert sockets.sockets[key] is listener
    assert backlog_of(listener) == UNTOUCHED.backlog
    assert tcp(listener, socket.TCP_FASTOPEN) == 0
    assert tcp(listener, socket.TCP_DEFER_ACCEPT) == 0
    with accepted(listener) as connection:
        assert base(connection, socket.SO_KEEPALIVE) == 0
        assert congestion(connection) == DEFAULT_CONGESTION
        assert base(connection, socket.SO_RCVBUF) == first
        # SO_BUF_LOCK: neither buffer is fixed any more
        assert connection.getsockopt(socket.SOL_SOCKET, 72) == 0
    sockets.close()


def test_one_buffer_set_back_leaves_the_other_fixed() -> None:
    both = SocketOptions(receive_buffer_bytes=65536, send_buffer_bytes=65536)
    key = Key("web", f"127.0.0.1:{free_port()}")
    sockets = Listeners()
    sockets.add(sockets.open([key], {"web": both}))
    sockets.tune({"web": SocketOptions(send_buffer_bytes=65536)})
    assert sockets.sockets[key].getsockopt(socket.SOL_SOCKET, 72) == 1  # SOCK_SNDBUF_LOCK
    sockets.close()


def test_an_unknown_congestion_control_is_refused_with_those_that_there_are() -> None:
    wrong = SocketOptions(congestion="no_such")
    available = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().strip()
    text = f'congestion: "no_such" is not available here (available: {available})'
    key = Key("web", f"127.0.0.1:{free_port()}")
    sockets = Listeners()
    with pytest.raises(BindError) as refused:
        sockets.open([key], {"web": wrong})
    assert str(refused.value).startswith(f"web: {text}")
    sockets.add(sockets.open([key], {"web": UNTOUCHED}))
    with pytest.raises(BindError) as refused:
        sockets.tune({"web": SocketOptions(user_timeout_ms=5, congestion="no_such")})
    assert text in str(refused.value)
    assert tcp(sockets.sockets[key], socket.TCP_USER_TIMEOUT) == 0, "all or nothing"
    sockets.tune({"web": SocketOptions(user_timeout_ms=7)})
    assert tcp(sockets.sockets[key], socket.TCP_USER_TIMEOUT) == 7
    sockets.close()


def test_a_renamed_listener_shares_its_socket_and_is_tuned_as_the_new_name_wants() -> None:
    address = f"127.0.0.1:{free_port()}"
    sockets = Listeners()
    sockets.add(sockets.open([Key("old", address)], {"old": ALL}))
    wanted = {"new": UNTOUCHED}
    sockets.add(sockets.open([Key("new", address)], wanted))
    sockets.tune(wanted)
    sockets.keep_only([Key("new", address)])
    with accepted(sockets.sockets[Key("new", address)]) as connection:
        assert base(connection, socket.SO_KEEPALIVE) == 0
    sockets.close()


def test_unix_sockets_take_the_backlog_alone(tmp_path: Path) -> None:
    sockets = Listeners()
    key = Key("web", f"unix:{tmp_path / 'web.sock'}")
    sockets.add(sockets.open([key], {"web": ALL}))
    sockets.tune({"web": UNTOUCHED})
    assert key in sockets.sockets
    sockets.close()


def test_a_buffer_that_the_kernel_caps_is_said(caplog: pytest.LogCaptureFixture) -> None:
    cap = int(Path("/proc/sys/net/core/rmem_max").read_text())
    with binding.bind("127.0.0.1:0", SocketOptions(receive_buffer_bytes=cap + 4096)):
        assert "the kernel caps a socket buffer" in caplog.text
