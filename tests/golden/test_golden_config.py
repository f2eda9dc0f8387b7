"""Each configuration kept here gives exactly the snapshot, warnings or errors kept beside it.

``WEIRGATE_UPDATE_GOLDEN=1 pytest tests/golden`` writes them anew; read the difference.
"""

import json
import os
import re
from pathlib import Path

import pytest

from weirgate.shared.config import (
    ConfigErrors,
    Loaded,
    Role,
    compile_snapshot,
    in_role,
    load,
    problems_from_native,
)
from weirgate.shared.config.codes import REGISTRY
from weirgate.shared.config.kernel import kernel_warnings

GOLDEN = Path(__file__).parent
#: The kernel that every one of these runs on.
PROC = GOLDEN / "proc"
CONFIGS = sorted((GOLDEN / "config").glob("*.yaml"))
#: Those in ``roles`` are wrong for one role only.
ERRORS = sorted([*(GOLDEN / "errors").glob("*.yaml"), *(GOLDEN / "roles").glob("*.yaml")])
COOKIE_SECRET = "ab" * 32
TOKEN = "hunter2 the secret"
ENVIRON = {"EMPTY": "", "HOST": "10.0.0.5", "NUMBER": "0042", "TOKEN": TOKEN}
ROLE = re.compile(r"^# role: (\S+)$", re.MULTILINE)
FINDING = re.compile(r"^# finding: (\S+) \| (.+)$", re.MULTILINE)
MOST_ERROR_LINES = 20


def compare(path: Path, text: str) -> None:
    """Compare with the kept text; a file that is not there stands for an empty text."""
    if os.environ.get("WEIRGATE_UPDATE_GOLDEN") == "1":
        if text:
            path.write_text(text, encoding="utf-8")
        else:
            path.unlink(missing_ok=True)
    kept = path.read_text(encoding="utf-8") if path.exists() else ""
    assert text == kept


def compile_and_check(path: Path) -> None:
    """Do what ``weirgate check`` does."""
    loaded = in_its_role(load(path, ENVIRON))
    compile_snapshot(loaded, cookie_secret=COOKIE_SECRET)
    raise ConfigErrors(problems_from_native(loaded, native_findings(loaded)))


def in_its_role(loaded: Loaded) -> Loaded:
    """Put it in the role that a comment of the file names."""
    role = ROLE.search(loaded.path.read_text(encoding="utf-8"))
    names = {"gateways.example": ("10.0.0.13", "2001:db8::13")}
    return in_role(loaded, Role(role[1] if role else "up"), names)


def native_findings(loaded: Loaded) -> list[tuple[str, str]]:
    """What the data plane is said to have found, in the comments of the file."""
    return FINDING.findall(loaded.path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_good_configuration_gives_the_kept_snapshot_and_warnings(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    loaded = in_its_role(load(Path(path.name), ENVIRON))
    snapshot = compile_snapshot(loaded, cookie_secret=COOKIE_SECRET)
    assert json.loads(snapshot.data) == snapshot.value
    pretty = json.dumps(snapshot.value, indent=2, ensure_ascii=False) + "\n"
    compare(path.with_suffix(".snapshot.json"), pretty)
    found = [*loaded.warnings, *kernel_warnings(loaded, PROC)]
    warnings = "".join(warning.render() + "\n" for warning in found)
    compare(path.with_suffix(".warnings.txt"), warnings)


@pytest.mark.parametrize("path", ERRORS, ids=lambda path: path.stem)
def test_a_mistake_gives_the_kept_messages(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    with pytest.raises(ConfigErrors) as caught:
        compile_and_check(Path(path.name))
    text = "".join(problem.render() + "\n" for problem in caught.value.problems)
    assert TOKEN not in text
    assert "hunter2" not in text
    assert 1 <= text.count("\n") <= MOST_ERROR_LINES
    compare(path.with_suffix(".errors.txt"), text)


def test_every_code_is_in_a_kept_message() -> None:
    kept = [*GOLDEN.glob("*/*.errors.txt"), *GOLDEN.glob("config/*.warnings.txt")]
    text = "".join(path.read_text(encoding="utf-8") for path in kept)
    assert set(re.findall(r"WG-C[0-9]{3}", text)) == set(REGISTRY)


def test_no_kept_file_is_left_without_its_configuration() -> None:
    folders = ("config", "errors", "labels", "roles")
    found = [path for folder in folders for path in (GOLDEN / folder).glob("*.*")]
    kept = {path.name.split(".")[0] for path in found if path.suffix != ".yaml"}
    assert kept <= {path.stem for path in [*CONFIGS, *ERRORS, *GOLDEN.glob("labels/*.yaml")]}
