"""Check that every crate and Python package in use has a licence that the project allows."""

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = {
    *("0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause"),
    *("BSL-1.0", "CC0-1.0", "ISC", "MIT", "MIT-0", "MPL-2.0", "PSF-2.0", "Unicode-3.0"),
    *("Unlicense", "Zlib", "ZPL-2.1"),
}
# What packages wrote before there were SPDX expressions in Python metadata.
OLD_NAMES = {
    "Apache": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD 2-Clause License": "BSD-2-Clause",
    "BSD License": "BSD-3-Clause",
    "ISC License": "ISC",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "PSFL": "PSF-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
WORD = re.compile(r"\(|\)|[^\s()]+")


def main() -> int:
    """Print what is not allowed; return the exit code."""
    found = {**rust_licences(), **python_licences()}
    bad = {name: text for name, text in sorted(found.items()) if not allowed(text)}
    for name, text in bad.items():
        sys.stderr.write(f"{name}: licence {text or 'unknown'!r} is not on the list\n")
    sys.stdout.write(f"{len(found) - len(bad)} of {len(found)} licences allowed\n")
    return 1 if bad else 0


def allowed(expression: str) -> bool:
    """Say whether an SPDX expression can be satisfied with allowed licences only.

    ``/`` is the old way to write OR.
    """
    tokens = WORD.findall(expression.replace("/", " OR ").replace(" WITH ", "\0WITH\0"))
    try:
        holds = _alternatives(tokens)
    except IndexError:
        return False
    return holds and not tokens


def rust_licences() -> dict[str, str]:
    """Return the licence of every crate in the lock file, fuzzing and tests included."""
    command = ["cargo", "metadata", "--format-version", "1", "--locked"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    packages = json.loads(done.stdout)["packages"]
    return {f"crate {p['name']} {p['version']}": p["license"] or "" for p in packages}


def python_licences() -> dict[str, str]:
    """Return the licence of every package in requirements.lock."""
    lock = (ROOT / "requirements.lock").read_text()
    names = re.findall(r"^([A-Za-z0-9._-]+)==", lock, re.MULTILINE)
    return {f"package {name}": _of_package(name) for name in names}


def _of_package(name: str) -> str:
    try:
        data = importlib.metadata.metadata(name).json
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
    classifiers = [
        line.rpartition(" :: ")[2]
        for line in data.get("classifier", [])
        if line.startswith("License :: OSI Approved :: ")
    ]
    names = [OLD_NAMES.get(name, name) for name in classifiers]
    named = data.get("license")
    if named and "\n" in str(named):
        named = None  # the licence's text, where its name should be
    text = str(data.get("license_expression") or named or " OR ".join(names))
    return OLD_NAMES.get(text, text)


def _alternatives(tokens: list[str]) -> bool:
    holds = _conjunction(tokens)
    while tokens and tokens[0] == "OR":
        tokens.pop(0)
        holds = _conjunction(tokens) or holds
    return holds


def _conjunction(tokens: list[str]) -> bool:
    holds = _term(tokens)
    while tokens and tokens[0] == "AND":
        tokens.pop(0)
        holds = _term(tokens) and holds
    return holds


def _term(tokens: list[str]) -> bool:
    word = tokens.pop(0)
    if word == "(":
        holds = _alternatives(tokens)
        return tokens.pop(0) == ")" and holds
    return word.replace("\0", " ") in ALLOWED


if __name__ == "__main__":
    sys.exit(main())
