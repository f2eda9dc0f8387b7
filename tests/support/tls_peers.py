"""TLS servers of other people, each with its own certificate: what passes through ends there."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

from tests.support.certs import issue, server_context
from tests.support.peers import Peer, listening, tool
from tests.support.tcp import Handler, echo
from weirgate.shared.testing import free_port

NGINX_TLS = """
daemon off; master_process off; pid {dir}/nginx-tls.pid; error_log stderr;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy;
  fastcgi_temp_path {dir}/fastcgi; uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
  server {{
    listen 127.0.0.1:{port} ssl{options};
    ssl_protocols TLSv1.2 TLSv1.3; ssl_certificate {cert}; ssl_certificate_key {key};
    location / {{
      return 200 "nginx $ssl_server_name $proxy_protocol_addr $proxy_protocol_port\\n";
    }}
  }}
}}
"""


@contextlib.asynccontextmanager
async def nginx_tls(
    directory: Path, *names: str, proxy_protocol: bool = False
) -> AsyncIterator[Peer]:
    """Run nginx with TLS; it answers with the server name and what a PROXY header told."""
    port = free_port()
    files = issue(directory, *names)
    config = directory / f"nginx-tls-{port}.conf"
    options = " proxy_protocol" if proxy_protocol else ""
    config.write_text(
        NGINX_TLS.format(dir=directory, port=port, cert=files.cert, key=files.key, options=options)
    )
    command = (tool("nginx"), "-p", directory, "-e", "stderr", "-c", config)
    async with listening(directory, port, *command) as peer:
        yield peer


@contextlib.asynccontextmanager
async def openssl_server(directory: Path, *names: str) -> AsyncIterator[Peer]:
    """Run ``openssl s_server``, which answers HTTP with a page about the session."""
    port = free_port()
    files = issue(directory, *names)
    options = ("-accept", f"127.0.0.1:{port}", "-cert", files.cert, "-key", files.key, "-www")
    async with listening(directory, port, tool("openssl"), "s_server", *options) as peer:
        yield peer


@contextlib.asynccontextmanager
async def python_tls(
    *names: str, handler: Handler = echo, alpn: tuple[str, ...] = ()
) -> AsyncIterator[int]:
    """Run a server of Python's ssl module on a free port; it echoes unless told otherwise."""
    context = server_context(*names)
    if alpn:
        context.set_alpn_protocols(list(alpn))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ssl.SSLError, asyncio.IncompleteReadError):
            await handler(reader, writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
