"""Peers that read or write PROXY headers: nginx, HAProxy, and a server that keeps the raw bytes."""

import contextlib
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.peers import Peer, listening, tool
from weirgate.shared.testing import free_port

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"

NGINX = """
daemon off; master_process off; pid {dir}/nginx-proxied.pid; error_log stderr;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy;
  fastcgi_temp_path {dir}/fastcgi; uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
  server {{
    listen 127.0.0.1:{port} proxy_protocol;
    location / {{
      return 200 "$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_port";
    }}
  }}
}}
"""

HAPROXY_RECEIVER = """
global
  maxconn 1000
defaults
  mode http
  timeout client 30s
frontend f
  bind 127.0.0.1:{port} accept-proxy
  http-request return status 200 content-type text/plain lf-string \
"%[src] %[src_port] %[dst_port] %[fc_pp_unique_id] %[fc_pp_authority]"
"""

HAPROXY_SENDER = """
global
  maxconn 1000
defaults
  mode tcp
  timeout connect 5s
  timeout client 30s
  timeout server 30s
frontend f
  bind 127.0.0.1:{port}
  unique-id-format %ci-%cp
  default_backend b
backend b
  server s 127.0.0.1:{target} {options}
"""


@contextlib.asynccontextmanager
async def nginx_receiver(directory: Path) -> AsyncIterator[Peer]:
    """Run nginx that wants PROXY headers, and answers with what they said."""
    port = free_port()
    config = directory / f"nginx-proxied-{port}.conf"
    config.write_text(NGINX.format(dir=directory, port=port))
    command = (tool("nginx"), "-p", directory, "-e", "stderr", "-c", config)
    async with listening(directory, port, *command) as peer:
        yield peer


@contextlib.asynccontextmanager
async def haproxy_receiver(directory: Path) -> AsyncIterator[Peer]:
    """Run HAProxy that wants PROXY headers, and answers with what they said."""
    async with _haproxy(directory, HAPROXY_RECEIVER) as peer:
        yield peer


@contextlib.asynccontextmanager
async def haproxy_sender(directory: Path, target: int, options: str) -> AsyncIterator[Peer]:
    """Run HAProxy that relays to a port, and says who the client is."""
    async with _haproxy(directory, HAPROXY_SENDER, target=target, options=options) as peer:
        yield peer


@contextlib.asynccontextmanager
async def _haproxy(directory: Path, text: str, **values: object) -> AsyncIterator[Peer]:
    port = free_port()
    config = directory / f"haproxy-{port}.cfg"
    config.write_text(text.format(port=port, **values))
    async with listening(directory, port, tool("haproxy"), "-db", "-f", config) as peer:
        yield peer


@dataclass(frozen=True)
class Header:
    """A version 2 header, taken apart by other means than Weirgate's."""

    command: int
    family: int
    addresses: bytes
    tlvs: dict[int, bytes]
    payload: bytes


def take_apart(data: bytes) -> Header:
    """Read a version 2 header at the beginning of some bytes; check its checksum."""
    assert data.startswith(SIGNATURE), data
    command, family, length = struct.unpack_from("!BBH", data, 12)
    header, payload = data[: 16 + length], data[16 + length :]
    size = {0x00: 0, 0x11: 12, 0x21: 36}[family]
    at, tlvs = 16 + size, dict[int, bytes]()
    while at < len(header):
        kind, count = struct.unpack_from("!BH", header, at)
        assert kind not in tlvs
        tlvs[kind] = header[at + 3 : at + 3 + count]
        assert len(tlvs[kind]) == count, "a TLV ends behind the header"
        if kind == 3:
            zeroed = header[: at + 3] + bytes(4) + header[at + 7 :]
            assert tlvs[kind] == crc32c(zeroed).to_bytes(4, "big")
        at += 3 + count
    return Header(command, family, header[16 : 16 + size], tlvs, payload)


def crc32c(data: bytes) -> int:
    """CRC-32C by its definition (RFC 3720 §12.1), bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def with_checksum(header: bytes) -> bytes:
    """Append a checksum TLV to a version 2 header."""
    longer = struct.unpack_from("!H", header, 14)[0] + 7
    zeroed = header[:14] + struct.pack("!H", longer) + header[16:] + b"\x03\x00\x04" + bytes(4)
    return zeroed[:-4] + crc32c(zeroed).to_bytes(4, "big")
