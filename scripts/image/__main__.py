"""``python -m scripts.image``: make an image, from the wheels of the lock file, without network.

``weirgate`` is the product; ``applications`` are those of the Compose demo, ``loadtest`` is Locust.
Nothing but the wheels is fetched, and those outside of the build.
"""

import argparse
import importlib.metadata
import shutil
import subprocess
import sys
from pathlib import Path

from scripts.image import base, sbom, wheels
from scripts.image.engine import EngineError, build, phase, size_bytes
from scripts.image.wheels import ROOT

_WORK = ROOT / "build" / "image"


def main() -> int:
    """Make what is asked for; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.image", description=__doc__)
    parser.add_argument("what", choices=["base", *_IMAGES], nargs="+")
    parser.add_argument("--base", help="an image to build on, with Python 3.11 or newer")
    parser.add_argument("--tag", default="latest", help="of the images")
    options = parser.parse_args()
    try:
        for what in options.what:
            if what == "base":
                base.make()
            else:
                _IMAGES[what](base.choose(options.base), options.tag)
    except (EngineError, FileNotFoundError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def weirgate(on: str, tag: str) -> None:
    """Build the product's image on a base."""
    tag = f"weirgate:{tag}"
    context = _fresh(_WORK / "weirgate")
    version = importlib.metadata.version("weirgate")
    python_version = base.python_version(on)
    with phase(f"wheels for Python {python_version}"):
        wheels.download(["weirgate"], python_version, context / "wheels")
        shutil.copy(wheels.own(), context / "wheels")
    with phase("list of parts"):
        sbom.write(context / "sbom.cdx.json", version, python_version)
    for file in ("deploy/image/Dockerfile", "deploy/image/weirgate.yaml", "LICENSE"):
        shutil.copy(ROOT / file, context)
    with phase(f"building {tag} on {on}"):
        build(context, tag, {"BASE": on, "VERSION": version, "REVISION": _revision()})
    added = (size_bytes(tag) - size_bytes(on)) / 1e6
    sys.stdout.write(f"{tag}: {size_bytes(tag) / 1e6:.0f} MB, {added:.0f} MB over its base\n")


def applications(on: str, tag: str) -> None:
    """Build the image of the demo's applications."""
    source = ROOT / "deploy" / "compose" / "applications"
    names = _names(source / "requirements.txt")
    _with_packages("applications", on, f"weirgate-demo-applications:{tag}", names, source)


def loadtest(on: str, tag: str) -> None:
    """Build the image of Locust with the load tests."""
    names = ["locust", "websocket-client", "grpcio", "httpx", "pyyaml"]
    _with_packages("loadtests", on, f"weirgate-loadtest:{tag}", names, ROOT / "loadtests")


def _with_packages(name: str, on: str, tag: str, packages: list[str], source: Path) -> None:
    """Build an image of a folder and the packages that it needs, by the folder's Dockerfile."""
    context = _fresh(_WORK / name)
    python_version = base.python_version(on)
    with phase(f"wheels for {name}, Python {python_version}"):
        wheels.download(packages, python_version, context / "wheels")
    ignore = shutil.ignore_patterns("__pycache__", ".*")
    shutil.copytree(source, context / name, ignore=ignore)
    shutil.copy(source / "Dockerfile", context)
    with phase(f"building {tag} on {on}"):
        build(context, tag, {"BASE": on})


def _names(requirements: Path) -> list[str]:
    lines = requirements.read_text().splitlines()
    return [line.partition("==")[0] for line in lines if line and not line.startswith("#")]


def _fresh(directory: Path) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


def _revision() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


_IMAGES = {"weirgate": weirgate, "applications": applications, "loadtest": loadtest}


if __name__ == "__main__":
    sys.exit(main())
