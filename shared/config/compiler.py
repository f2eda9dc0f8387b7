"""Configuration → snapshot: every default filled in, every file embedded, one hash."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weirgate.shared.config.certificates import CertificateFiles
from weirgate.shared.config.compile_listeners import compile_listeners
from weirgate.shared.config.compile_pools import compile_pools
from weirgate.shared.config.compile_routes import compile_routes
from weirgate.shared.config.embed import Files
from weirgate.shared.config.gateway import Logs
from weirgate.shared.config.lists import PrefixFiles
from weirgate.shared.config.loader import Loaded
from weirgate.shared.config.problem import ConfigErrors, PathStep
from weirgate.shared.config.scalars import to_ms
from weirgate.shared.config.schema import Config
from weirgate.shared.config.tree import Report
from weirgate.shared.config.watched import Signature, WatchedFiles

FORMAT = 1
_HEX_SECRET = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One compiled, immutable configuration: canonical bytes, their SHA-256, and the value."""

    data: bytes = field(repr=False)
    hash: str
    value: dict[str, Any] = field(repr=False, compare=False)
    #: The files that were read, as they were then.
    files: Mapping[Path, Signature] = field(default_factory=dict, repr=False, compare=False)


def compile_snapshot(loaded: Loaded, *, cookie_secret: str) -> Snapshot:
    """Compile what the data planes run; files that it names are read now.

    Args:
        loaded: A loaded configuration.
        cookie_secret: 64 hex digits, used where the configuration has none of its own.

    Raises:
        ConfigErrors: A certificate, key, authority or list cannot be read or is not one.
        ValueError: ``cookie_secret`` is not 64 lower-case hex digits.
    """
    if not _HEX_SECRET.fullmatch(cookie_secret):
        raise ValueError("cookie_secret: wanted 64 lower-case hex digits")
    config = loaded.config
    report = Report(loaded.tree)
    watched = WatchedFiles()
    files = Files(loaded.tree, report, watched)
    certificates = CertificateFiles(files, report)
    lists = PrefixFiles(loaded.tree, report, watched)
    value = {
        "format": FORMAT,
        "listeners": compile_listeners(loaded, certificates, lists),
        "pools": compile_pools(loaded, files),
        "routes": compile_routes(config),
        "gateway": _gateway(config, cookie_secret, loaded),
        "logs": _logs(config.logs, loaded),
    }
    if report.problems:
        raise ConfigErrors(report.problems, watched.seen)
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    data = text.encode()
    return Snapshot(data, hashlib.sha256(data).hexdigest(), value, watched.seen)


def _gateway(config: Config, cookie_secret: str, loaded: Loaded) -> dict[str, Any]:
    gateway = config.gateway
    own = gateway.cookie_secret
    return {
        "header_bytes": gateway.limits.header_bytes,
        "header_count": gateway.limits.header_count,
        "uri_bytes": gateway.limits.uri_bytes,
        "request_head_ms": to_ms(gateway.timeouts.request_head),
        "idle_ms": to_ms(gateway.timeouts.idle),
        "drain_idle_ms": to_ms(config.drain.idle),
        "tls_handshake_ms": to_ms(gateway.timeouts.tls_handshake),
        "http2_cleartext": gateway.http2.cleartext,
        "http2_streams": gateway.http2.streams,
        "http2_stream_window_bytes": gateway.http2.stream_window,
        "http2_connection_window_bytes": gateway.http2.connection_window,
        "http2_control_frames": gateway.http2.control_frames,
        "merge_slashes": gateway.paths.merge_slashes,
        "encoded_slashes": gateway.paths.encoded_slashes,
        "http2_extended_connect": gateway.http2.extended_connect,
        "http2_ping_interval_ms": to_ms(gateway.http2.ping_interval),
        "http2_ping_timeout_ms": to_ms(gateway.http2.ping_timeout),
        "connection_age_ms": to_ms(gateway.timeouts.connection_age),
        "key_log": gateway.danger_key_log
        and _absolute(("gateway", "danger_key_log"), gateway.danger_key_log, loaded),
        "cookie_secret": cookie_secret if own is None else own.get_secret_value(),
    }


def _logs(logs: Logs, loaded: Loaded) -> dict[str, Any]:
    target = logs.access.to
    if "/" in target:
        target = _absolute(("logs", "access", "to"), target, loaded)
    return {"access_to": target, "access_format": logs.access.format, "level": logs.level}


def _absolute(path: tuple[PathStep, ...], name: str, loaded: Loaded) -> str:
    """Return the path of a file that data planes write, seen from the file that names it."""
    _, spot = loaded.tree.nearest(path)
    return str(Path.cwd() / spot.file.parent / name)
