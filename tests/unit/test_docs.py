"""The documents are true where a program can tell: links, files, commands, names of fields."""

import re
from pathlib import Path

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from weirgate.shared.cli.exit_codes import Exit
from weirgate.shared.cli.main import app

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")])
DECISIONS = sorted((DOCS / "decisions").glob("*.md"))
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
DATA_PLANES = ("edge/dataplane/src", "appgw/dataplane/src")
PAGE_LINES = 60


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def group() -> TyperGroup:
    """The command line with its verbs."""
    command = get_command(app)
    assert isinstance(command, TyperGroup)
    return command


def code_of(text: str) -> list[str]:
    """Everything that is marked as code, fenced or between backticks."""
    return FENCE.findall(text) + re.findall(r"`([^`\n]+)`", FENCE.sub("", text))


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings get."""
    headings = re.findall(
        r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for link in LINK.findall(text):
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{link} leads nowhere"
        assert not anchor or anchor in anchors(file), f"{link}: no such heading"


def test_the_readme_leads_to_every_page_of_the_docs() -> None:
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in LINK.findall(read("README.md"))}
    assert {page.resolve() for page in DOCS.glob("*.md")} <= linked


def test_the_life_of_a_request_names_files_that_exist() -> None:
    names = re.findall(r"`([\w./-]+\.(?:rs|py))`", read("docs/request-life.md"))
    assert len(set(names)) > 50
    assert [name for name in names if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("folder", DATA_PLANES)
def test_the_life_of_a_request_passes_every_module_of_a_data_plane(folder: str) -> None:
    page = read("docs/request-life.md")
    modules = [str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("*.rs")]
    assert len(modules) >= 9
    assert [name for name in modules if f"`{name}`" not in page] == []


def test_layer_4_names_tests_that_exist_and_proves_whatever_it_claims() -> None:
    page = read("docs/layer4.md")
    named = re.findall(r"`([\w./]+\.(?:py|rs))::(\w+)`", page)
    assert len(named) > 60
    for file, name in named:
        assert re.search(rf"^ *(?:async )?(?:def|fn) {name}\(", read(file), re.MULTILINE), name
    rows = re.findall(r"^\| ([^|]+) \| ([YPN]) \| ([^|]+) \|(.*)\|$", page, re.MULTILINE)
    assert len(rows) > 30
    assert [row[0] for row in rows if row[1] != "N" and "::" not in row[3]] == []
    pains = re.findall(r"^\| (\d+)\. [^|]+\|[^|]+\|(.*)\|$", page, re.MULTILINE)
    assert [int(number) for number, proof in pains if "::" in proof] == list(range(1, 16))


def test_make_words_in_the_readme_are_words_of_the_makefile() -> None:
    words = set(re.findall(r"^([a-z-]+):.*##", read("Makefile"), re.MULTILINE))
    code = "\n".join(code_of(read("README.md")))
    used = set(re.findall(r"^(?:\$ )?make ([a-z-]+)", code, re.MULTILINE))
    assert {"demo", "test"} <= used <= words


@pytest.mark.parametrize("page", ["README.md", "docs/operations.md"])
def test_verbs_and_options_in_commands_exist(page: str) -> None:
    command = group()
    code = "\n".join(code_of(read(page)))
    used = re.findall(r"^(?:\$ )?(?:\.venv/bin/)?weirgate ([a-z]+)([^#\n]*)", code, re.MULTILINE)
    assert used
    for verb, rest in used:
        assert verb in command.commands, f"weirgate {verb}"
        found = command.commands[verb]
        if isinstance(found, TyperGroup):  # a verb of verbs, such as shun add
            found = found.commands[rest.split()[0]]
        known = {option for parameter in found.params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", rest)) <= known, f"weirgate {verb}{rest}"


def test_verbs_that_the_limits_call_missing_are_missing() -> None:
    command = group()
    line = next(line for line in read("README.md").splitlines() if line.startswith("- The verbs"))
    missing = set(re.findall(r"`([a-z]+)`", line))
    assert missing
    assert missing.isdisjoint(command.commands)


def test_operations_names_every_metric_family_and_no_other() -> None:
    sources = [
        *(ROOT / folder / "insight.rs" for folder in DATA_PLANES),
        ROOT / "shared/supervisor/metrics.py",
    ]
    made = {
        name
        for source in sources
        for name in re.findall(r'"(weirgate_[a-z_]+)"', source.read_text(encoding="utf-8"))
    }
    assert len(made) > 30
    assert set(re.findall(r"`(weirgate_[a-z_]+)`", read("docs/operations.md"))) == made


@pytest.mark.parametrize("folder", DATA_PLANES)
def test_operations_names_every_field_of_the_access_log(folder: str) -> None:
    source = read(f"{folder}/insight.rs")
    made = set(re.findall(r'push_(?:text|number)_field\(out, "([a-z_]+)"', source)) | {"time"}
    logs = read("docs/operations.md").partition("## Logs")[2].partition("## Metrics")[0]
    assert len(made) > 10
    assert made <= set(re.findall(r"`([a-z_]+)`", logs))


def test_operations_has_every_exit_code_and_no_other() -> None:
    rows = re.findall(r"^\| ([0-9]+) \|", read("docs/operations.md"), re.MULTILINE)
    assert [int(row) for row in rows] == [int(code) for code in Exit]


def test_bounds_of_the_threat_model_name_constants_that_exist() -> None:
    rows = re.findall(
        r"\| `([A-Z_0-9]+)` \| `([^`]+)` \|$", read("docs/threat-model.md"), re.MULTILINE
    )
    assert len(rows) > 15
    for constant, file in rows:
        assert re.search(rf"\b{constant}\b.* = ", read(file)), f"{file} has no {constant}"


def test_decisions_are_numbered_without_a_gap() -> None:
    assert [int(path.name[:4]) for path in DECISIONS] == list(range(1, len(DECISIONS) + 1))


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_fits_a_page_and_says_what_it_costs(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith(f"# {int(path.name[:4])}. ")
    assert text.count("\n") <= PAGE_LINES
    assert "**Consequence.**" in text
    assert "**Rejected.**" in text or "looked at" in text


def test_the_readme_has_a_place_for_the_benchmark_table() -> None:
    text = read("README.md")
    assert text.count("<!-- bench:begin -->") == text.count("<!-- bench:end -->") == 1
    assert text.index("<!-- bench:begin -->") < text.index("<!-- bench:end -->")


def test_examples_in_the_readme_are_the_files_that_they_name() -> None:
    yaml = re.search(r"^```yaml\n(.*?)^```", read("README.md"), re.MULTILINE | re.DOTALL)
    assert yaml is not None
    assert yaml[1] in read("examples/minimal.yaml")
