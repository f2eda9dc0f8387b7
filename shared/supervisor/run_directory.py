"""The private directory that holds the children's control sockets."""

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from weirgate.shared.supervisor.errors import StartError

# sun_path has 108 bytes, the last one NUL
_LONGEST_SOCKET_PATH = 107
_PREFIX = "weirgate-"
# younger ones may belong to a node that is about to take its lock
_FRESH_SECONDS = 60.0
_LONGEST_NAME = "gateway-255.sock"


@contextlib.contextmanager
def run_directory(configured: Path | None, environ: Mapping[str, str]) -> Iterator[Path]:
    """Make the directory, for this user only, and remove at the end what was made.

    Raises:
        StartError: it cannot be made, is too deep for a socket, or another node uses it.
    """
    path, made = _make(configured, environ)
    try:
        if len(os.fsencode(path / _LONGEST_NAME)) > _LONGEST_SOCKET_PATH:
            raise StartError(f"run directory {path}: too long a path for a Unix socket")
        with _locked(path):
            try:
                yield path
            finally:
                for left in path.glob("*.sock"):
                    left.unlink(missing_ok=True)
    finally:
        if made:
            shutil.rmtree(path, ignore_errors=True)


def _make(configured: Path | None, environ: Mapping[str, str]) -> tuple[Path, bool]:
    try:
        if configured is None:
            parent = _parent(environ)
            _sweep(parent)
            return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent)), True
        made = not configured.exists()
        configured.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(f"run directory: {error}") from error
    return configured, made


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        fd = os.open(path / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartError(f"run directory: {error}") from error
    try:
        _lock(fd, path)
        yield
    finally:
        os.close(fd)


def _lock(fd: int, path: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StartError(f"run directory {path}: another weirgate uses it") from None


def _sweep(parent: Path) -> None:
    """Remove what killed supervisors left: directories of this user whose lock nobody holds."""
    for lock in parent.glob(f"{_PREFIX}*/lock"):
        try:
            directory = lock.parent.lstat()
            ours = stat.S_ISDIR(directory.st_mode) and directory.st_uid == os.geteuid()
            if not ours or time.time() - lock.lstat().st_mtime < _FRESH_SECONDS:
                continue
            with _locked(lock.parent):
                shutil.rmtree(lock.parent, ignore_errors=True)
        except (OSError, StartError):  # it has gone meanwhile, or is in use
            continue


def _parent(environ: Mapping[str, str]) -> Path:
    for candidate in _candidates(environ):
        if candidate and Path(candidate).is_dir() and os.access(candidate, os.W_OK | os.X_OK):
            return Path(candidate)
    raise StartError("no directory for control sockets is writable; set run_directory")


def _candidates(environ: Mapping[str, str]) -> Iterator[str]:
    yield environ.get("XDG_RUNTIME_DIR", "")
    yield "/run"
    with contextlib.suppress(FileNotFoundError):  # no directory for temporary files at all
        yield tempfile.gettempdir()
    # in a container whose root is read-only, this one is memory all the same
    yield "/dev/shm"  # noqa: S108
