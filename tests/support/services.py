"""Servers of databases, names, calls and mail, other people's, each in a directory of its own.

Some refuse to run as root: then they run as ``nobody``, in a directory that is nobody's.
"""

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.certs import issue
from tests.support.peers import Peer, listening, tool
from tests.support.processes import finished, process
from weirgate.shared.testing import eventually, free_port

LOCAL = "127.0.0.1"
NOBODY = "nobody" if os.geteuid() == 0 else None
#: Who Debian's exim becomes, and must be able to become.
MAIL_USER = "Debian-exim"
PASSWORD = "a password"

EXIM = """
primary_hostname = mail.test
spool_directory = {dir}/spool
log_file_path = {dir}/%slog
pid_file_path = {dir}/pid
tls_advertise_hosts = *
tls_certificate = {cert}
tls_privatekey = {key}
deliver_drop_privilege
keep_environment =
acl_smtp_rcpt = accept
acl_smtp_data = accept
begin routers
everything:
  driver = accept
  transport = file
begin transports
file:
  driver = appendfile
  file = {dir}/mailbox
"""


@contextlib.contextmanager
def directory_of(user: str | None) -> Iterator[Path]:
    """A directory that the user owns and can reach, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="weirgate-", ignore_cleanup_errors=True) as name:
        if user is not None:
            shutil.chown(name, user)
        yield Path(name)


@contextlib.asynccontextmanager
async def postgresql(name: str) -> AsyncIterator[Peer]:
    """Run PostgreSQL with a database ``postgres``, user and password, and TLS for ``name``."""
    port = free_port()
    server, initdb = tool("postgres"), tool("initdb")
    with directory_of(NOBODY) as home:
        password, files = home / "password", issue(home, name)
        password.write_text(PASSWORD)
        if NOBODY is not None:
            shutil.chown(files.key, NOBODY)
        files.key.chmod(0o600)
        options = ("--username=weirgate", f"--pwfile={password}", "--auth=scram-sha-256")
        made = await finished(
            initdb, "-D", home / "data", *options, "--no-locale", "--no-sync", user=NOBODY
        )
        assert made.code == 0, made.text
        settings = {
            "listen_addresses": LOCAL,
            "unix_socket_directories": "",
            "fsync": "off",
            "ssl": "on",
            "ssl_cert_file": str(files.cert),
            "ssl_key_file": str(files.key),
        }
        extra = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = (server, "-D", str(home / "data"), "-p", str(port), *extra)
        async with listening(
            home, port, *command, user=NOBODY, stop_signal=signal.SIGINT
        ) as peer:  # INT = end the sessions, and then yourself
            yield peer


@contextlib.asynccontextmanager
async def dnsmasq(directory: Path, records: Mapping[str, Sequence[str]]) -> AsyncIterator[Peer]:
    """Run a name server, UDP and TCP on one port, that knows these names' addresses."""
    port = free_port()
    hosts = directory / "hosts"
    lines = [f"{address} {name}\n" for name, found in records.items() for address in found]
    hosts.write_text("".join(lines))
    options = ("--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--pid-file=")
    size = ("--edns-packet-max=4096", "--cache-size=0")
    where = (f"--listen-address={LOCAL}", "--bind-interfaces", f"--port={port}")
    who = ("--user=root", "--group=root") if os.geteuid() == 0 else ()  # who may read the file
    command = (tool("dnsmasq"), "--keep-in-foreground", f"--addn-hosts={hosts}", *options)
    async with listening(directory, port, *command, *size, *where, *who) as peer:
        yield peer


@contextlib.asynccontextmanager
async def sipp_server(directory: Path, transport: str) -> AsyncIterator[Peer]:
    """Run SIPp as the side that is called; ``transport`` is ``u1`` (UDP) or ``t1`` (TCP)."""
    port = free_port()
    command = (tool("sipp"), "-sn", "uas", "-i", LOCAL, "-p", str(port), "-t", transport)
    async with process(*command, "-nostdin", log=directory / f"uas-{port}.log") as child:
        # A connection to look whether it is there would be a broken call.
        await eventually(lambda: _bound(port, transport), what=f"sipp on port {port}")
        yield Peer(port, child.pid)


def _bound(port: int, transport: str) -> bool:
    table = Path("/proc/net/udp" if transport.startswith("u") else "/proc/net/tcp").read_text()
    return f":{port:04X} 00000000:0000" in table


@contextlib.asynccontextmanager
async def iperf_server(directory: Path) -> AsyncIterator[Peer]:
    """Run iperf3: TCP to agree on a test, UDP on the same port for its streams."""
    port = free_port()
    command = (tool("iperf3"), "--server", "--bind", LOCAL, "--port", str(port), "--forceflush")
    log = directory / f"iperf-{port}.log"
    async with process(*command, log=log) as child:
        await eventually(lambda: "listening" in log.read_text(), what="iperf3")
        yield Peer(port, child.pid)


@dataclass(frozen=True)
class MailServer:
    """A running exim, whose deliveries are in ``home / "mailbox"``."""

    peer: Peer
    home: Path

    def mailbox(self) -> str:
        path = self.home / "mailbox"
        return path.read_text() if path.exists() else ""


@contextlib.asynccontextmanager
async def exim(name: str) -> AsyncIterator[MailServer]:
    """Run a mail server that takes every message and writes it to a file."""
    program = tool("exim4")
    if os.geteuid() != 0:
        pytest.skip("exim4 lets only root start a server with a configuration of its own")
    port = free_port()
    with directory_of(MAIL_USER) as home:
        files = issue(home, name)
        shutil.chown(files.key, MAIL_USER)
        config = home / "exim.conf"
        config.write_text(EXIM.format(dir=home, cert=files.cert, key=files.key))
        config.chmod(0o644)
        command = (program, "-C", config, "-bdf", "-oX", f"{LOCAL}.{port}")
        async with listening(home, port, *command) as peer:
            yield MailServer(peer, home)
