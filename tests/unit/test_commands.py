"""Every command that README.md and the pages of docs/ show is run by a test, or says why not.

A new command fails here until ``TABLE`` below has a row for it:

- ``here(...)``: it is cheap and changes nothing, so this file runs it as it stands, with ``FILES``
  in the place of FILE;
- ``proven(...)``: another test runs it, and holds the words that are named;
- ``not_run(...)``: no test can, for the reason given ("needs a cluster").
"""

import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "benchmarks/README.md",
        *(ROOT / "docs").glob("*.md"),
    ]
)
SHELLS = {"bash", "sh", "shell", "console"}
#: Blocks without a language that are pictures, by how they begin; a new one is better a ```text.
PICTURES = ("accept · admit", "┌──", "edge/        L4 tier")
BLOCK = re.compile(r"^( *)```([\w-]*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
WEIRGATE = ("-P", "-m", "weirgate.shared.cli.main")
FILES = {"FILE": "examples/two-hosts.yaml"}


@dataclass(frozen=True)
class Row:
    """One or several commands, and what is known of them."""

    command: str  # a regular expression for all of it
    test: str = ""
    words: tuple[str, ...] = ()
    reason: str = ""
    runs_here: bool = False


def here(command: str) -> Row:
    """A command that this file runs; its exit code must be 0."""
    return Row(command, runs_here=True)


def proven(command: str, test: str, *words: str) -> Row:
    """A command that a test runs: that file holds these words."""
    return Row(command, test=test, words=words)


def not_run(command: str, reason: str) -> Row:
    """A command that no test runs."""
    return Row(command, reason=reason)


UNIT, INTEGRATION, CHAOS = "tests/unit", "tests/integration", "tests/chaos"
DEPLOY, SUPPORT = "tests/deploy", "tests/support"
TABLE = (
    # README.md
    proven("make demo", f"{INTEGRATION}/test_demo.py", '"demo", "--port-base"'),
    not_run("make test", "it is what runs this test"),
    here(r"weirgate check examples/minimal\.yaml"),
    proven(r"weirgate up examples/minimal\.yaml", f"{INTEGRATION}/test_readme.py", "minimal.yaml"),
    proven("weirgate demo --check", f"{INTEGRATION}/test_demo.py", '"demo", "--check"'),
    proven(r"curl http://127\.0\.0\.1:8080/nope", f"{INTEGRATION}/test_readme.py", "/nope"),
    # docs/operations.md
    here("weirgate check FILE( --role edge)?"),
    proven("weirgate up FILE( --workers 4)?", f"{INTEGRATION}/test_readme.py", '"--workers"'),
    proven("weirgate edge FILE", f"{INTEGRATION}/test_two_hosts.py", 'verb="edge"'),
    proven("weirgate gateway FILE", f"{INTEGRATION}/test_two_hosts.py", 'verb="gateway"'),
    proven("weirgate reload", f"{UNIT}/test_cli_verbs.py", 'weirgate("reload"'),
    proven(
        r"weirgate drain (api|postgres)/\S+( --deadline 60s)? --wait",
        f"{INTEGRATION}/test_drain.py",
        '"drain", target, "--deadline", "300ms", "--wait"',
    ),
    proven(r"weirgate undrain api/\S+", f"{INTEGRATION}/test_drain.py", '"undrain", site.http'),
    proven(
        r"weirgate drain 'api/\*' --force", f"{INTEGRATION}/test_drain.py", '"web/*", "--force"'
    ),
    proven(
        r"(for gateway in .*)?weirgate drain (gateway-[01]|\$gateway)( --replace)? --wait.*",
        f"{INTEGRATION}/test_drain_gateway.py",
        '"drain", name, "--wait"',
        '"drain", name, "--replace", "--wait"',
    ),
    proven("weirgate drain node --wait", f"{INTEGRATION}/test_two_hosts.py", '"target": "node"'),
    proven(
        "weirgate upgrade (edge|gateway-1).*",
        f"{CHAOS}/test_upgrade.py",
        'verb("edge", "--wait", "--deadline", "10s")',
        'verb("gateway-1", "--wait")',
    ),
    proven(
        "weirgate shun (add|list|del).*",
        f"{INTEGRATION}/test_shun.py",
        '"add", f"{BAD}/32", "--reason", "too loud", "--ttl", "2h"',
        '"list"',
        '"del"',
    ),
    # docs/operations.md, docs/deploy.md
    proven(
        "weirgate attach /run/weirgate/attach.sock", f"{CHAOS}/test_attach.py", '"attach", self'
    ),
    proven("make compose-demo", f"{DEPLOY}/test_compose.py", '"up", "--detach"', "wait_healthy()"),
    proven("make compose-demo FORM=shared", f"{DEPLOY}/test_compose.py", 'started("shared"'),
    not_run("make compose-demo PROFILE=load", "two more minutes for one more image"),
    not_run("make compose-demo PROFILE=observe", "needs a registry; test_observe.py has its files"),
    not_run("make drill( FORM=shared)?", "six minutes; tests/loadtests/test_drills.py judges"),
    proven("make compose-down", f"{DEPLOY}/test_compose.py", "project.down()"),
    proven("make image", f"{SUPPORT}/images.py", '"make", "build"', '"scripts.image", "weirgate"'),
    not_run("make image BASE=.*", "there is no second base without a registry"),
    not_run("make base-image", "a minute; make image does it where no registry answers"),
    proven(
        "docker run .* weirgate:latest", f"{DEPLOY}/test_image.py", '"--read-only", "--cap-drop"'
    ),
    proven(
        "docker exec weirgate weirgate status", f"{DEPLOY}/test_image.py", '"weirgate", "status"'
    ),
    proven("docker kill --signal HUP weirgate", f"{INTEGRATION}/test_reload.py", "SIGHUP"),
    proven("docker stop --time 40 weirgate", f"{DEPLOY}/test_image.py", '"docker", "stop"'),
    proven(
        r"docker-compose -f deploy/compose/compose\.yaml (up|ps|down).*",
        f"{DEPLOY}/test_compose.py",
        '"up", "--detach"',
        '"--scale", "gateway=5"',
    ),
    proven("make loadtest .*", "tests/loadtests/test_runs.py", '"--target"'),
    # docs/load-tests.md
    proven(r"python -m loadtests( --.*)?", "tests/loadtests/test_runs.py", '"--target"'),
    # docs/kubernetes.md
    proven("kubectl kustomize .*", f"{SUPPORT}/manifests.py", '"kustomize"'),
    not_run("kubectl .*", "needs a cluster"),
    proven(r"docker run -d .*--label .*", f"{INTEGRATION}/test_docker.py", "weirgate.pool"),
    # docs/systemd.md: the test takes the commands of each section from the page
    proven(
        "(install|systemd-sysusers|systemd-tmpfiles|systemctl|logrotate) .*",
        f"{DEPLOY}/test_systemd.py",
        "docs/systemd.md",
    ),
    not_run("(python3 -m venv|/opt/weirgate/venv/bin/pip|ln -s) .*", "needs a package index"),
    # benchmarks/README.md
    not_run("make bench", "twelve minutes of two cores; its parts: tests/unit/test_benchmarks.py"),
    not_run(r"python -m benchmarks(\.profiling)? --.*", "minutes of two cores to itself"),
    not_run(r"python -m benchmarks\.report --readme", "writes README.md"),
)


def commands(page: Path) -> list[str]:
    """Return the commands of a page's fenced blocks, without comments and prompts."""
    found = []
    for _, language, body in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language in SHELLS or (not language and not is_picture(body)):
            found += commands_of(body)
    return found


def is_picture(body: str) -> bool:
    """Say whether a block without a language is one of the known pictures."""
    return body.lstrip(" ┌─").startswith(PICTURES) or body.lstrip().startswith(PICTURES)


def commands_of(body: str) -> list[str]:
    """Take a block apart: ``$ `` marks commands among their output, else all lines are commands."""
    lines = body.splitlines()
    if any(line.lstrip().startswith("$ ") for line in lines):
        lines = [line.lstrip()[2:] for line in lines if line.lstrip().startswith("$ ")]
    found, pending = [], ""
    for line in lines:
        pending = f"{pending}\n{line}" if pending else line
        if is_complete(pending):
            found.append(bare(pending))
            pending = ""
    assert not pending, f"not a whole command: {pending}"
    return [command for command in found if command]


def is_complete(text: str) -> bool:
    """Ask bash whether a command ends here: loops, quotes and here documents go on."""
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    return done.returncode == 0 and not done.stderr and not text.endswith("\\")


def bare(text: str) -> str:
    """Leave out comments, the environment's directory and room."""
    text = re.sub(r"(^|\s)#\s.*$", "", text, flags=re.MULTILINE)
    return re.sub(r"\.venv/bin/", "", text).strip()


def row_of(command: str) -> Row | None:
    """Return the row for a command."""
    return next((row for row in TABLE if re.fullmatch(row.command, command, re.DOTALL)), None)


ALL = {command: page for page in PAGES for command in commands(page)}


@pytest.mark.parametrize("command", ALL)
def test_a_command_of_the_pages_is_run_or_says_why_not(command: str) -> None:
    row = row_of(command)
    page = ALL[command].relative_to(ROOT)
    assert row is not None, f"{page} shows `{command}`: add a row to TABLE in {__file__}"
    if row.runs_here:
        run(command)
    elif row.test:
        text = (ROOT / row.test).read_text(encoding="utf-8")
        missing = [words for words in row.words if words not in text]
        assert missing == [], f"{row.test} does not run `{command}` (any more)"
    else:
        assert row.reason


def run(command: str) -> None:
    """Run a command in the root of the checkout."""
    program, *arguments = shlex.split(command)
    assert program == "weirgate"
    placed = [FILES.get(argument, argument) for argument in arguments]
    done = subprocess.run(
        [sys.executable, *WEIRGATE, *placed], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_row_is_left_of_a_command_that_is_gone() -> None:
    used = {row.command for row in map(row_of, ALL) if row is not None}
    assert [row.command for row in TABLE if row.command not in used] == []


def test_commands_are_found_however_they_are_written() -> None:
    assert commands_of("$ a --b\noutput\n$ c\n") == ["a --b", "c"]
    assert commands_of("# first\na b   # why\n\nc 'd#e'\n") == ["a b", "c 'd#e'"]
    assert commands_of("a \\\n  b\nfor x in y; do\n  z\ndone\n") == [
        "a \\\n  b",
        "for x in y; do\n  z\ndone",
    ]
    assert commands_of("cat >f <<E\nx: 1\nE\n.venv/bin/weirgate up f\n")[1:] == ["weirgate up f"]
