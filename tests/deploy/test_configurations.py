"""``weirgate check`` passes every configuration below deploy/, as its containers have it."""

import shutil
from pathlib import Path

import pytest
from scripts.compose import make_secrets
from typer.testing import CliRunner

from weirgate.shared.cli.main import app

DEPLOY = Path(__file__).parents[2] / "deploy"
#: What is checked here; those of systemd and Kubernetes have tests of their own for it.
HERE = {"image/weirgate.yaml", "compose/weirgate.yaml", "compose/weirgate.shared.yaml"}
ELSEWHERE = {"systemd", "k8s"}


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The secrets of the demo under the names that they have in its containers."""
    directory = tmp_path_factory.mktemp("secrets") / "run"
    make_secrets(directory)
    for name, called in {"certificate.pem": "certificate", "key.pem": "key"}.items():
        shutil.copy(directory / name, directory / called)
    return directory


def test_no_configuration_is_forgotten() -> None:
    found = {
        str(file.relative_to(DEPLOY))
        for file in DEPLOY.rglob("*.yaml")
        if file.read_text().startswith("listeners:") or "\nlisteners:" in file.read_text()
    }
    assert {name for name in found if name.partition("/")[0] not in ELSEWHERE} == HERE


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("image/weirgate.yaml", "up"),
        ("compose/weirgate.shared.yaml", "up"),
        ("compose/weirgate.yaml", "edge"),
        ("compose/weirgate.yaml", "gateway"),
    ],
)
def test_check_is_content(name: str, role: str, secrets: Path, tmp_path: Path) -> None:
    file = tmp_path / "weirgate.yaml"
    shutil.copy(DEPLOY / name, file)
    if role == "gateway":  # what compose.yaml mounts into gateways alone
        (tmp_path / "conf.d").mkdir()
        shutil.copy(DEPLOY / "compose/discovery.yaml", tmp_path / "conf.d")
    environ = {"SECRETS_DIRECTORY": str(secrets)}
    result = CliRunner().invoke(app, ["check", str(file), "--role", role], env=environ)
    assert result.exit_code == 0, result.output
    assert result.output == f"{file}: ok\n"
