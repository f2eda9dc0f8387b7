"""The wheels that go into an image, as the lock file has them."""

import platform
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from scripts.image.engine import run
from scripts.image.packages import locked

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements.lock"
#: glibc of Debian 12 is 2.36; what a wheel asks for must not be newer.
_GLIBC_MINORS = (17, 24, 26, 28, 31, 34)


def download(names: Iterable[str], python_version: str, into: Path) -> None:
    """Fetch these packages and all that they require, each checked against its hash.

    Raises:
        EngineError: one cannot be had as a wheel for this interpreter.
    """
    into.mkdir(parents=True, exist_ok=True)
    machine = platform.machine()
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as requirements:
        requirements.write(locked(names, LOCK, python_version))
        requirements.flush()
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--require-hashes", "--only-binary=:all:"]
        command += ["--implementation", "cp", "--python-version", python_version]
        for minor in _GLIBC_MINORS:
            command += ["--platform", f"manylinux_2_{minor}_{machine}"]
        command += [
            "--platform",
            f"manylinux2014_{machine}",
            "--platform",
            f"manylinux2010_{machine}",
        ]
        run([*command, "--dest", str(into), "--requirement", requirements.name])


def own() -> Path:
    """Return the newest wheel of Weirgate, which ``make build`` leaves.

    Raises:
        FileNotFoundError: there is none.
    """
    found = sorted(
        (ROOT / "build" / "wheels").glob("weirgate-*.whl"), key=lambda p: p.stat().st_mtime
    )
    if not found:
        raise FileNotFoundError("no wheel in build/wheels: make build")
    return found[-1]
