"""The small programs of ``scripts/``, and the files that they guard."""

import re
import subprocess
from pathlib import Path

import pytest
from scripts.check_licences import allowed, python_licences
from scripts.image import sbom
from scripts.list_requirements import requirements

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("expression", "holds"),
    [
        ("MIT", True),
        ("MIT/Apache-2.0", True),
        ("GPL-3.0 OR MIT", True),
        ("GPL-3.0 AND MIT", False),
        ("(GPL-3.0 OR ISC) AND (MIT OR Apache-2.0)", True),
        ("(GPL-3.0 AND ISC) OR LGPL-2.1-or-later", False),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("MIT WITH Something-exception", False),
        ("GPL-3.0-only", False),
        ("(MIT", False),
        ("MIT)", False),
        ("", False),
    ],
)
def test_licence_expression(expression: str, *, holds: bool) -> None:
    assert allowed(expression) is holds


def test_every_locked_package_has_an_allowed_licence() -> None:
    found = python_licences()
    assert len(found) > 20
    assert {name: text for name, text in found.items() if not allowed(text)} == {}


def test_lock_file_has_everything_that_is_asked_for_with_hashes() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    locked = re.findall(r"^([a-z0-9._-]+)==\S+ \\\n +--hash=sha256:", lock, re.MULTILINE)
    wanted = requirements((ROOT / "pyproject.toml").read_text())
    names = {re.split(r"[\[<>=!~ ]", text)[0].lower() for text in wanted}
    assert names <= set(locked)
    assert "://" not in lock


def test_makefile_has_the_promised_words() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, check=True)
    words = {line.split()[0] for line in done.stdout.decode().splitlines()}
    assert words >= {"setup", "demo", "test", "check", "build", "bench", "docs", "clean"}


@pytest.mark.parametrize("word", ["setup", "demo", "test", "check", "build", "bench", "docs"])
def test_every_word_is_a_plan_that_make_understands(word: str) -> None:
    done = subprocess.run(["make", "-n", word], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_the_list_of_parts_is_the_same_each_time(tmp_path: Path) -> None:
    texts = []
    for name in ("one.json", "two.json"):
        sbom.write(tmp_path / name, "0.1.0", "3.12")
        texts.append((tmp_path / name).read_text())
    assert texts[0] == texts[1]
    assert '"pkg:pypi/weirgate@0.1.0"' in texts[0]
