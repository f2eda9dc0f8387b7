"""docs/migrating.md shows the files that were run, and all of them; Traefik's are sound YAML."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from tests.migrating.expected import EXPECTED
from tests.migrating.page import PAGE, SHOWN, cases, written
from tests.migrating.site import EXAMPLES
from tests.support.certs import issue
from weirgate.shared.cli.main import app

TRAEFIK = sorted(EXAMPLES.glob("*/traefik.yaml"))
WEIRGATE = sorted(EXAMPLES.glob("*/weirgate.yaml"))
CERTIFIED = ("shop.example", "blog.example")
MATCHERS = {
    *("Host", "HostRegexp", "Path", "PathPrefix", "Header", "ClientIP"),
    *("HostSNI", "HostSNIRegexp"),
}


def test_the_page_is_what_the_examples_and_the_table_say() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == written(text), "run: python -m tests.migrating.page"


def test_the_page_has_every_example_and_every_file_of_it() -> None:
    shown = cases(PAGE.read_text(encoding="utf-8"))
    directories = [path.name for path in EXAMPLES.iterdir()]
    assert sorted(shown) == sorted(directories) == sorted(EXPECTED)
    files = {path.name for path in EXAMPLES.glob("*/*")}
    assert files == set(SHOWN)
    for case in directories:
        assert (EXAMPLES / case / "traefik.yaml").exists()
        assert (EXAMPLES / case / "weirgate.yaml").exists()


@pytest.mark.parametrize("case", EXPECTED)
def test_a_difference_is_explained_and_nothing_else_is(case: str) -> None:
    for row in EXPECTED[case]:
        assert row.differs == bool(row.why), row.action


@pytest.mark.parametrize("path", WEIRGATE, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_weirgate_check_finds_nothing_in_a_file_for_it(path: Path, tmp_path: Path) -> None:
    for name in CERTIFIED:
        files = issue(tmp_path, name)
        files.cert.rename(files.cert.with_suffix(".crt"))
    result = CliRunner(env={"CERTS": str(tmp_path)}).invoke(app, ["check", str(path)])
    assert result.exit_code == 0, result.output
    assert "warning" not in result.output


@pytest.mark.parametrize("path", TRAEFIK, ids=lambda path: path.parent.name)
def test_a_file_for_traefik_is_yaml_whose_names_lead_somewhere(path: Path) -> None:
    """It is not run: Traefik cannot be had as a package of Debian."""
    static, dynamic = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    assert set(static) <= {"entryPoints", "providers", "ping"}
    assert static["providers"] == {"file": {"filename": "/etc/traefik/dynamic.yaml"}}
    assert set(dynamic) <= {"http", "tcp", "udp", "tls"}
    for protocol in ("http", "tcp", "udp"):
        _leads_somewhere(dynamic.get(protocol, {}), set(static["entryPoints"]))


def _leads_somewhere(section: dict[str, Any], entries: set[str]) -> None:
    services, middlewares = section.get("services", {}), section.get("middlewares", {})
    assert bool(services) == bool(section)
    for router in section.get("routers", {}).values():
        assert router["service"] in services or router["service"].endswith("@internal")
        assert set(router.get("middlewares", [])) <= set(middlewares)
        assert set(router.get("entryPoints", entries)) <= entries
        assert set(re.findall(r"(\w+)\(`", router.get("rule", ""))) <= MATCHERS
    for service in services.values():
        (kind,) = service
        assert kind in {"loadBalancer", "weighted"}
        named = {one["name"] for one in service.get("weighted", {}).get("services", [])}
        assert named <= set(services)
    for middleware in middlewares.values():
        assert len(middleware) == 1
