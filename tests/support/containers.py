"""Containers of a test on the real Docker engine, from an image that the tests make themselves.

There is no registry: the image is Debian's static busybox and nothing else.
"""

import asyncio
import contextlib
import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

from weirgate.shared.testing import eventually

BUSYBOX = Path("/bin/busybox")
#: Of everything that is made, so that what an aborted run has left can be found.
MARK = "weirgate-test"
_SECONDS = 60


def missing() -> str:
    """Say what is missing for such tests; empty where they can run."""
    if os.geteuid() != 0:
        return "needs root for the Docker engine"
    if not BUSYBOX.exists():
        return "busybox-static is not installed"
    docker = shutil.which("docker")
    if docker is None:
        return "docker is not installed"
    try:
        info = subprocess.run([docker, "info"], capture_output=True, timeout=10)
    except subprocess.TimeoutExpired:
        return "the Docker engine does not answer"
    return "" if info.returncode == 0 else "there is no Docker engine: docker info fails"


async def docker(*arguments: str) -> str:
    """Run a command of the engine's client; return what it prints."""
    process = await asyncio.create_subprocess_exec(
        "docker", *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(_SECONDS):
        output, errors = await process.communicate()
    assert process.returncode == 0, f"docker {' '.join(arguments)}: {errors.decode()}"
    return output.decode().strip()


@contextlib.contextmanager
def image() -> Iterator[str]:
    """Make the image; remove it at the end."""
    name = f"{MARK}-{os.getpid()}"
    changes = ["EXPOSE 8000", 'CMD ["/bin/busybox", "sleep", "86400"]']
    options = [option for change in changes for option in ("--change", change)]
    subprocess.run(
        ["docker", "import", *options, "-", name],
        input=_files(), check=True, capture_output=True, timeout=_SECONDS,
    )  # fmt: skip
    try:
        yield name
    finally:
        subprocess.run(["docker", "rmi", "-f", name], capture_output=True, timeout=_SECONDS)


class Site:
    """Containers on a network of their own; ``name`` is the prefix of all of them."""

    def __init__(self, image: str, name: str) -> None:
        self.image = image
        self.name = name

    async def run(
        self, short: str, labels: Mapping[str, str], *options: str, script: str = ""
    ) -> str:
        """Start a container that answers every request on port 8000 with its name.

        When it is told to stop it finishes what it has begun, as a good application does. Returns
        as soon as it listens.
        """
        name = f"{self.name}-{short}"
        labelled = [o for key, value in labels.items() for o in ("--label", f"{key}={value}")]
        serve = (
            f"mkdir -p /w/api; echo {short} > /w/index.html; echo {short} > /w/api/index.html;"
            " echo ok > /w/ok; busybox httpd -f -p 8000 -h /w & server=$!;"
            " trap 'kill $server; busybox sleep 0.2; exit 0' TERM; wait $server"
        )
        await docker(
            "run", "-d", "--name", name, "--network", self.name, "--stop-timeout", "1",
            "--label", f"{MARK}.site={self.name}", *labelled, *options,
            self.image, "/bin/busybox", "sh", "-c", script or serve,
        )  # fmt: skip
        if not script:
            await eventually(lambda: self.listens(name))
        return name

    async def listens(self, name: str) -> bool:
        """Say whether a container takes connections on port 8000."""
        form = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
        address = (await docker("inspect", "-f", form, name)).split()[0]
        try:
            _, writer = await asyncio.open_connection(address, 8000)
        except OSError:
            return False
        writer.close()
        await writer.wait_closed()
        return True

    async def remove(self, short: str) -> None:
        await docker("rm", "-f", f"{self.name}-{short}")


@contextlib.asynccontextmanager
async def site(image: str, name: str) -> AsyncIterator[Site]:
    """Make a network; at the end remove it and all containers on it."""
    name = f"{MARK}-{os.getpid()}-{name}"
    await docker("network", "create", name)
    try:
        yield Site(image, name)
    finally:
        left = await docker("ps", "-aq", "--filter", f"label={MARK}.site={name}")
        if left:
            await docker("rm", "-f", *left.split())
        await docker("network", "rm", name)


def _files() -> bytes:
    """Return a file system with busybox alone, as a tar."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        tar.add(BUSYBOX, "bin/busybox")
        for name in ("tmp", "w"):
            directory = tarfile.TarInfo(name)
            directory.type, directory.mode = tarfile.DIRTYPE, 0o777
            tar.addfile(directory)
        for name in ("sh", "sleep", "wget"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    return data.getvalue()
