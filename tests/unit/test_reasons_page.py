"""The page of reasons is the one that the data planes' own list gives."""

import subprocess
import sys
from pathlib import Path

from weirgate.shared import native
from weirgate.shared.observability.reasons import reasons_markdown

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/reasons.md"
MODULE = [sys.executable, "-W", "error", "-m", "weirgate.shared.observability.reasons"]


def run(directory: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {"PYTHONPATH": str(ROOT / "python")}
    return subprocess.run(
        [*MODULE, *arguments], cwd=directory, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


def test_the_committed_page_is_the_generated_one() -> None:
    assert PAGE.read_text(encoding="utf-8") == reasons_markdown(), "run: make docs"


def test_each_reason_has_one_row_with_who_erred() -> None:
    rows = [line for line in reasons_markdown().splitlines() if line.startswith("| `")]
    for reason in native.reasons():
        begin = f"| `{reason['code']}` | {reason['origin']} | {reason['status'] or '-'} | "
        assert sum(row.startswith(begin) for row in rows) == 1


def test_a_bar_in_a_text_does_not_end_the_cell() -> None:
    odd = {"code": "odd", "origin": "config", "status": 0, "text": "a|b"}
    assert reasons_markdown([odd]).endswith("| `odd` | config | - | a\\|b |\n")


def test_the_module_writes_the_page_and_checks_it(tmp_path: Path) -> None:
    assert run(tmp_path).returncode == 1, "there is no docs/"
    page = tmp_path / "docs/reasons.md"
    page.parent.mkdir()
    assert run(tmp_path, "--check").returncode == 1, "there is no page"
    assert run(tmp_path).returncode == 0
    assert page.read_text(encoding="utf-8") == reasons_markdown()
    assert run(tmp_path, "--check").returncode == 0
    page.write_text("stale", encoding="utf-8")
    stale = run(tmp_path, "--check")
    assert (stale.returncode, "make docs" in stale.stderr) == (1, True)
    assert page.read_text(encoding="utf-8") == "stale", "a check writes nothing"
    assert run(tmp_path, "--chek").returncode == 2
