"""Listening sockets: bound, shared, let go, and every refusal explained."""

import errno
import os
import socket
import sys
from pathlib import Path

import pytest

from tests.support.addresses import connects
from weirgate.shared.supervisor import listeners as binding
from weirgate.shared.supervisor.errors import BindError
from weirgate.shared.supervisor.listeners import Key, Listeners, bound_address, explain
from weirgate.shared.supervisor.port_owner import port_owner
from weirgate.shared.testing import free_port


def opened(sockets: Listeners, *keys: Key) -> None:
    sockets.add(sockets.open(keys))


def test_ipv4_and_ipv6_wildcards_live_on_one_port() -> None:
    port = free_port()
    sockets = Listeners()
    opened(sockets, Key("web", f"0.0.0.0:{port}"), Key("web", f"[::]:{port}"))
    assert connects(f"127.0.0.1:{port}")
    assert connects(f"[::1]:{port}")
    assert set(sockets.fds()) == {f"web|0.0.0.0:{port}", f"web|[::]:{port}"}
    sockets.close()
    assert not connects(f"127.0.0.1:{port}")


def test_port_0_is_reported_as_what_the_kernel_chose() -> None:
    with binding.bind("127.0.0.1:0") as listener:
        assert connects(bound_address(listener))
    with binding.bind("[::1]:0") as listener:
        assert bound_address(listener).startswith("[::1]:")


def test_a_port_in_use_names_who_uses_it() -> None:
    with binding.bind("127.0.0.1:0") as taken:
        address = bound_address(taken)
        with pytest.raises(BindError) as refused:
            Listeners().open([Key("web", address)])
        name = Path("/proc/self/comm").read_text().strip()
        assert str(refused.value) == (
            f"web: cannot listen on {address}: the port is in use by {name} (pid {os.getpid()})"
        )


def test_a_port_that_nobody_uses_has_no_owner() -> None:
    assert port_owner(free_port()) == ""


def test_all_refusals_are_told_at_once_and_nothing_stays_open() -> None:
    free = f"127.0.0.1:{free_port()}"
    keys = [Key("a", free), Key("b", "192.0.2.1:81"), Key("c", "[2001:db8::1]:82")]
    with pytest.raises(BindError) as refused:
        Listeners().open(keys)
    first, second = str(refused.value).splitlines()
    assert first == "b: cannot listen on 192.0.2.1:81: no interface of this host has the address"
    assert second.startswith("c: cannot listen on [2001:db8::1]:82: ")
    assert not connects(free)


@pytest.mark.parametrize(
    ("number", "address", "reason"),
    [
        (errno.EACCES, "0.0.0.0:80", "no permission for a port below 1024; give CAP_NET_BIND"),
        (errno.EACCES, "0.0.0.0:8080", "Permission denied"),
        (errno.EAFNOSUPPORT, "[::]:80", "this host has no IPv6"),
        (errno.EMFILE, "0.0.0.0:80", "Too many open files"),
    ],
)
def test_what_cannot_be_provoked_here_is_explained_too(
    number: int, address: str, reason: str
) -> None:
    text = explain(address, OSError(number, os.strerror(number)))
    assert text.startswith(f"cannot listen on {address}: {reason}")


def test_a_rename_shares_the_socket_and_loses_no_connection() -> None:
    address = f"127.0.0.1:{free_port()}"
    sockets = Listeners()
    opened(sockets, Key("old", address))
    with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))) as waiting:
        opened(sockets, Key("new", address))
        sockets.keep_only([Key("new", address)])
        (listener,) = sockets.sockets.values()
        accepted, peer = listener.accept()
        accepted.close()
        assert peer == waiting.getsockname()
    sockets.close()


def test_discarding_ends_the_listening_even_of_a_copy() -> None:
    address = f"127.0.0.1:{free_port()}"
    sockets = Listeners()
    new = sockets.open([Key("web", address)])
    sockets.add(new)
    (listener,) = new.values()
    with listener.dup():  # as the edge holds it
        sockets.discard(new)
        assert not connects(address)
    assert list(sockets) == []


def test_discarding_a_shared_socket_leaves_the_old_name_listening() -> None:
    address = f"127.0.0.1:{free_port()}"
    sockets = Listeners()
    opened(sockets, Key("old", address))
    sockets.discard(sockets.open([Key("new", address)]))
    assert connects(address)
    sockets.close()


def test_a_stale_unix_socket_is_replaced_and_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as gone:
        gone.bind(str(path))
    sockets = Listeners()
    opened(sockets, Key("web", f"unix:{path}"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.connect(str(path))
    sockets.close()
    assert not path.exists()


def test_a_unix_socket_that_somebody_answers_on_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    sockets = Listeners()
    opened(sockets, Key("web", f"unix:{path}"))
    with pytest.raises(BindError, match="another process answers on the socket"):
        Listeners().open([Key("web", f"unix:{path}")])
    assert path.exists()
    sockets.close()


def test_a_file_in_the_place_of_a_unix_socket_is_never_removed(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(BindError, match="not a socket"):
        Listeners().open([Key("web", f"unix:{path}")])
    assert path.read_text() == "data"


def test_sockets_are_not_inherited_by_accident() -> None:
    with binding.bind("127.0.0.1:0") as listener:
        assert not listener.get_inheritable()
        assert not os.get_blocking(listener.fileno())
    assert sys.platform == "linux"
