"""The base of the images: one that a registry gives, or a Debian of our own where there is none."""

import os
import shutil
import tempfile
from pathlib import Path

from scripts.image.engine import EngineError, has, phase, run

REGISTRY_BASE = "python:3.12-slim-bookworm"
LOCAL_BASE = "weirgate-base:bookworm"
_SUITE = "bookworm"
#: What an application needs nothing of: 150 of 265 MB.
_LEFT_OUT = (
    "usr/share/doc",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/info",
    "var/cache",
    "var/log",
)
_MIRROR = "http://deb.debian.org/debian"


def choose(wanted: str | None) -> str:
    """Return a base that the engine has, made or fetched if need be; ``wanted`` goes first.

    Raises:
        EngineError: there is none, and none can be made.
    """
    if wanted:
        return wanted
    for image in (LOCAL_BASE, REGISTRY_BASE):
        if has(image):
            return image
    try:
        with phase(f"fetching {REGISTRY_BASE}"):
            run(["docker", "pull", "--quiet", REGISTRY_BASE])
    except EngineError:
        make()
        return LOCAL_BASE
    return REGISTRY_BASE


def make(mirror: str = _MIRROR) -> None:
    """Make the local base with debootstrap; it must run as root.

    Raises:
        EngineError: debootstrap is missing or fails.
    """
    if os.geteuid() != 0:
        raise EngineError(
            "no registry answers, and a base of our own is made as root: sudo make base-image"
        )
    with (
        tempfile.TemporaryDirectory(prefix="weirgate-base-") as directory,
        phase(f"making {LOCAL_BASE}"),
    ):
        root = Path(directory) / "root"
        packages = "python3-minimal,python3-venv"
        run(
            ["debootstrap", "--variant=minbase", f"--include={packages}", _SUITE, str(root), mirror]
        )
        _slim(root)
        archive = Path(directory) / "root.tar"
        order = ["--sort=name", "--mtime=@0", "--numeric-owner", "--exclude=./dev/*"]
        run(["tar", *order, "-C", str(root), "-cf", str(archive), "."])
        run(["docker", "import", "--change", "ENV LANG=C.UTF-8", str(archive), LOCAL_BASE])


def _slim(root: Path) -> None:
    for name in _LEFT_OUT:
        for entry in (root / name).iterdir():
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    for lists in (root / "var/lib/apt/lists").iterdir():
        shutil.rmtree(lists) if lists.is_dir() else lists.unlink()
    for cache in [*root.glob("usr/**/__pycache__")]:
        shutil.rmtree(cache)


def python_version(image: str) -> str:
    """Return the version of a base's Python, such as ``3.12``: wheels are made for one.

    Raises:
        EngineError: it has none.
    """
    program = "import sys; print('%d.%d' % sys.version_info[:2])"
    command = ["docker", "run", "--rm", "--network", "none", "--entrypoint", "python3", image]
    return run([*command, "-c", program]).strip()
