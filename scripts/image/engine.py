"""The container engine, by its command line."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


class EngineError(Exception):
    """The engine, or a program beside it, did not do what was asked; the text has its words."""


def run(command: Sequence[str], *, environ: Mapping[str, str] | None = None) -> str:
    """Run a command to its end and return its output.

    Raises:
        EngineError: it failed.
    """
    try:
        done = subprocess.run(
            [*command],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **(environ or {})},
        )
    except FileNotFoundError:
        raise EngineError(f"the program {command[0]} is missing") from None
    if done.returncode:
        said = (done.stdout + done.stderr)[-4000:]
        raise EngineError(f"{' '.join(map(str, command))} failed:\n{said}")
    return done.stdout


def has(image: str) -> bool:
    """Say whether the engine has an image."""
    command = ["docker", "image", "inspect", image]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def build(context: Path, tag: str, arguments: Mapping[str, str]) -> None:
    """Build a context without network, by the classic builder that every engine has."""
    command = ["docker", "build", "--network", "none", "--tag", tag]
    for name, value in arguments.items():
        command += ["--build-arg", f"{name}={value}"]
    run([*command, str(context)], environ={"DOCKER_BUILDKIT": "0"})


def size_bytes(image: str) -> int:
    """Return how much an image takes, its base included."""
    return int(run(["docker", "image", "inspect", "--format", "{{.Size}}", image]))


@contextmanager
def phase(what: str) -> Iterator[None]:
    """Say what is done, and how long it took."""
    sys.stdout.write(f"{what:<58} ")
    sys.stdout.flush()
    began = time.monotonic()
    try:
        yield
    except BaseException:
        sys.stdout.write("failed\n")
        raise
    sys.stdout.write(f"{time.monotonic() - began:6.1f} s\n")
    sys.stdout.flush()
