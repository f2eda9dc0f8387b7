"""The generated pages are up to date, and the examples run as they stand."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.certs import issue
from weirgate.shared.config import compile_snapshot, json_schema, load, reference_markdown
from weirgate.shared.config.codes import REGISTRY
from weirgate.shared.config.pages import errors_markdown
from weirgate.shared.config.schema import Config

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(
    path for path in (ROOT / "examples").rglob("*.yaml") if path.name != "traefik.yaml"
)
REGENERATE = "run: python -m weirgate.shared.config.reference"


def test_the_committed_reference_is_the_generated_one() -> None:
    kept = (ROOT / "docs/config-reference.md").read_text(encoding="utf-8")
    assert kept == reference_markdown(), REGENERATE


def test_the_committed_error_page_is_the_generated_one() -> None:
    kept = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
    assert kept == errors_markdown(), REGENERATE


def test_each_code_has_its_section() -> None:
    page = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
    for code in REGISTRY.values():
        assert f"\n## {code.id}: {code.title}\n" in page


def test_the_module_writes_both_pages(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    command = [sys.executable, "-W", "error", "-m", "weirgate.shared.config.reference"]
    environment = {"PYTHONPATH": str(ROOT / "python")}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    written = (tmp_path / "docs/config-reference.md").read_text(encoding="utf-8")
    assert written == reference_markdown()
    assert (tmp_path / "docs/errors.md").exists()


def test_every_key_is_described_in_schema_and_reference() -> None:
    schema, page = json_schema(), reference_markdown()
    for model in [schema, *schema["$defs"].values()]:
        for key, field in model.get("properties", {}).items():
            assert field.get("description") or "$ref" in field
            assert f"| `{key}` |" in page


def test_the_schema_has_units_in_defaults_and_no_null() -> None:
    schema = json_schema()
    timeouts = schema["$defs"]["GatewayTimeouts"]["properties"]
    limits = schema["$defs"]["GatewayLimits"]["properties"]
    assert timeouts["request_head"]["default"] == "10s"
    assert limits["body_bytes"]["default"] == "1GiB"
    assert '"null"' not in json.dumps(schema)
    assert set(schema["properties"]) == set(Config.model_fields)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the examples with TLS ask for in ``CERTS``."""
    directory = tmp_path_factory.mktemp("certs")
    for name in ("shop.example", "blog.example"):
        files = issue(directory, name)
        files.cert.rename(files.cert.with_suffix(".crt"))
    return directory


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_an_example_loads_and_compiles_without_a_warning(path: Path, certificates: Path) -> None:
    loaded = load(path, {"CERTS": str(certificates)})
    assert loaded.warnings == []
    assert compile_snapshot(loaded, cookie_secret="00" * 32).value["listeners"]


def test_there_are_examples_and_the_minimal_one_is_minimal() -> None:
    assert {"minimal.yaml", "shop.yaml", "tcp.yaml"} <= {path.name for path in EXAMPLES}
    text = (ROOT / "examples/minimal.yaml").read_text(encoding="utf-8")
    assert text.count("\n") == 7
    data = yaml.safe_load(text)
    assert [len(data[key]) for key in ("listeners", "pools", "routes")] == [1, 1, 1]
