"""The list of parts of the image, in CycloneDX: crates compiled in, and Python packages."""

import importlib.metadata
import json
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.contact import OrganizationalEntity
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from scripts.image.packages import closure, stanzas
from scripts.image.wheels import LOCK, ROOT

_CRATE = "weirgate-native"


def write(path: Path, version: str, python_version: str) -> None:
    """Write the list; equal parts give an equal file."""
    bom = Bom()
    purl = PackageURL("pypi", None, "weirgate", version)
    weirgate = Component(
        name="weirgate",
        version=version,
        type=ComponentType.APPLICATION,
        purl=purl,
        bom_ref=str(purl),  # else a random one
    )
    weirgate.supplier = OrganizationalEntity(name="The Weirgate authors")
    bom.metadata.component = weirgate
    parts = [*python_components(python_version), *rust_components()]
    for part in parts:
        bom.components.add(part)
    bom.register_dependency(weirgate, parts)
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    # what would differ from one build to the next
    document.pop("serialNumber", None)
    document["metadata"].pop("timestamp", None)
    path.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


def python_components(python_version: str) -> Iterable[Component]:
    """Return the Python packages, with the hashes of the files that the lock file allows."""
    known = stanzas(LOCK)
    for name in closure(["weirgate"], python_version):
        if name == "weirgate":
            continue
        version = importlib.metadata.version(name)
        digests = re.findall(r"sha256:([0-9a-f]{64})", known[name])
        yield _library("pypi", name, version, digests)


def rust_components() -> Iterable[Component]:
    """Return the crates that the extension is linked of, build tools and tests left out."""
    checksums = {
        (package["name"], package["version"]): package.get("checksum", "")
        for package in _cargo_lock()
    }
    command = [
        "cargo",
        "tree",
        "--locked",
        "--package",
        _CRATE,
        "--edges",
        "normal",
        "--prefix",
        "none",
    ]
    done = subprocess.run(
        [*command, "--format", "{p}"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    crates = sorted({tuple(line.split()[:2]) for line in done.stdout.splitlines() if line.strip()})
    for name, tagged in crates:
        version = tagged.removeprefix("v")
        digest = checksums.get((name, version), "")
        if not digest:  # a crate of this repository
            continue
        yield _library("cargo", name, version, [digest])


def _library(kind: str, name: str, version: str, digests: Iterable[str]) -> Component:
    purl = PackageURL(kind, None, name, version)
    return Component(
        name=name,
        version=version,
        type=ComponentType.LIBRARY,
        purl=purl,
        bom_ref=str(purl),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in digests],
    )


def _cargo_lock() -> list[dict[str, Any]]:
    import tomllib

    packages: list[dict[str, Any]] = tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
    return packages
