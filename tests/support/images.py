"""The container images, built once for all tests of a run, and removed after them."""

import functools
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from scripts.image.base import LOCAL_BASE, REGISTRY_BASE, choose, python_version
from scripts.image.engine import EngineError, has, run

ROOT = Path(__file__).parents[2]
TAG = "test"


@dataclass(frozen=True)
class Images:
    """Names of images that the engine has."""

    weirgate: str
    applications: str
    #: The folder of the interpreter's library, such as ``python3.12``.
    python: str


@functools.cache
def build() -> Images:
    """Build them as ``make image`` does; skip where there is no engine, or nothing to build on."""
    if shutil.which("docker") is None or shutil.which("docker-compose") is None:
        pytest.skip("docker or docker-compose is not installed")
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        pytest.skip("no container engine answers")
    if not (has(LOCAL_BASE) or has(REGISTRY_BASE) or os.geteuid() == 0):
        pytest.skip("no base image is here, and one is made as root")
    subprocess.run(["make", "build"], cwd=ROOT, check=True, capture_output=True)
    command = [sys.executable, "-m", "scripts.image", "weirgate", "applications", "--tag", TAG]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    names = (f"weirgate:{TAG}", f"weirgate-demo-applications:{TAG}")
    return Images(*names, f"python{python_version(choose(None))}")


def remove() -> None:
    """Remove what ``build`` has made, the base excepted: it takes longest, and is the same."""
    for name in (f"weirgate:{TAG}", f"weirgate-demo-applications:{TAG}"):
        try:
            run(["docker", "image", "rm", "--force", name])
        except (EngineError, FileNotFoundError):
            continue


def published(container: str, port: int) -> int:
    """Return the port of loopback that a container's port is published on."""
    return int(run(["docker", "port", container, f"{port}/tcp"]).split()[0].rpartition(":")[2])
