"""The wheel: every module is inside, and ``weirgate`` is the only top-level name."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.peers import tool

pytestmark = [pytest.mark.wheel, pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
SOURCES = ("edge", "appgw", "shared")
WHEELS = ROOT / "build" / "wheels"


@pytest.fixture(scope="module")
def names() -> list[str]:
    """The files of a wheel that is newer than everything that goes into it."""
    wheel = newest()
    if wheel is None or wheel.stat().st_mtime < last_change():
        tool("cargo")
        command = [sys.executable, "-m", "maturin", "build", "--release", "--locked"]
        done = subprocess.run(
            [*command, "--out", WHEELS], cwd=ROOT, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode()[-3000:]
        wheel = newest()
    assert wheel is not None
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def newest() -> Path | None:
    wheels = sorted(WHEELS.glob("weirgate-*.whl"), key=lambda path: path.stat().st_mtime)
    return wheels[-1] if wheels else None


def inputs() -> list[Path]:
    """Return every file that a wheel is made of."""
    found = [ROOT / "pyproject.toml", ROOT / "Cargo.toml", ROOT / "Cargo.lock"]
    for folder in (*SOURCES, "python/weirgate"):
        for pattern in ("**/*.py", "**/*.rs", "**/*.pyi", "**/Cargo.toml"):
            found += (ROOT / folder).glob(pattern)
    return found


def last_change() -> float:
    return max(path.stat().st_mtime for path in inputs())


def modules() -> set[str]:
    """Return where each module of the source tree belongs in the wheel."""
    found = {f"weirgate/{p.name}" for p in (ROOT / "python" / "weirgate").glob("*.py")}
    for folder in SOURCES:
        found |= {f"weirgate/{p.relative_to(ROOT)}" for p in (ROOT / folder).rglob("*.py")}
    return found


def test_source_tree_has_modules_in_each_part() -> None:
    for folder in SOURCES:
        assert f"weirgate/{folder}/__init__.py" in modules()


def test_every_module_is_in_the_wheel(names: list[str]) -> None:
    assert modules() - set(names) == set()


def test_types_and_the_native_module_are_in_the_wheel(names: list[str]) -> None:
    assert {"weirgate/py.typed", "weirgate/_native.pyi"} <= set(names)
    native = [name for name in names if name.startswith("weirgate/_native") and "so" in name]
    assert len(native) == 1


def test_weirgate_is_the_only_top_level_name(names: list[str]) -> None:
    top = {name.partition("/")[0] for name in names}
    assert {name for name in top if not name.endswith((".dist-info", ".libs"))} == {"weirgate"}


def test_no_source_or_cache_ships(names: list[str]) -> None:
    unwanted = (".rs", ".toml", ".c", ".h", ".pyc", ".o")
    assert [name for name in names if name.endswith(unwanted)] == []


def test_licence_and_command_are_in_the_wheel(names: list[str]) -> None:
    assert any(name.endswith("LICENSE") for name in names)
    assert any(name.endswith("entry_points.txt") for name in names)
