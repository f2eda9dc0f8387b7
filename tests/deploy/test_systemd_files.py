"""deploy/systemd as text: the sandbox's score, and files that must agree with each other."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from tests.support.certs import issue
from tests.support.processes import finished
from weirgate.shared.cli.main import app
from weirgate.shared.config import Config, load
from weirgate.shared.doctor.checks import examine
from weirgate.shared.doctor.finding import Finding
from weirgate.shared.doctor.host import Host

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy/systemd"
SERVICE = (DEPLOY / "weirgate.service").read_text()
SHIPPED = (DEPLOY / "weirgate.yaml").read_text()
#: What a Debian 12 host has where nobody changed it, of what the doctor looks at.
DEBIAN = {
    "net.core.somaxconn": "4096",
    "net.core.rmem_max": "212992",
    "net.core.wmem_max": "212992",
    "net.ipv4.tcp_max_syn_backlog": "1024",
    "net.ipv4.tcp_syncookies": "1",
    "net.ipv4.tcp_migrate_req": "0",
    "net.ipv4.ip_local_port_range": "32768\t60999",
    "net.ipv4.ip_local_reserved_ports": "",
    "net.ipv4.tcp_tw_reuse": "2",
    "net.ipv4.tcp_fastopen": "1",
    "net.ipv4.tcp_available_congestion_control": "reno cubic",
    "net.ipv4.tcp_allowed_congestion_control": "reno cubic",
    "net.ipv4.ip_unprivileged_port_start": "1024",
    "fs.file-max": "9223372036854775807",
}


def settings(text: str) -> dict[str, str]:
    """Return the assignments of a file; of a name that comes again the last one counts."""
    lines = [line for line in text.splitlines() if line and line[0] not in "#["]
    return {k.strip(): v.strip() for k, _, v in (line.partition("=") for line in lines)}


def with_second_listener(text: str) -> str:
    """Write out what a shipped file has in comments."""
    return re.sub(r"^( *)#secure ", r"\1", text, flags=re.MULTILINE)


VARIANTS = pytest.mark.parametrize("variant", [str, with_second_listener], ids=["plain", "tls"])
SYSCTL = settings((DEPLOY / "sysctl.d/90-weirgate.conf").read_text())


def host(root: Path, kernel: dict[str, str], service: str = SERVICE) -> Host:
    """Write the /proc that the service sees on a host with these kernel settings."""
    unit = settings(service)
    files = {f"sys/{name.replace('.', '/')}": value for name, value in kernel.items()}
    limit = unit["LimitNOFILE"]
    files["self/limits"] = f"Max open files  {limit}  {limit}  files"
    assert unit["AmbientCapabilities"] == "CAP_NET_BIND_SERVICE"
    files["self/status"] = f"CapEff:\t{1 << 10:016x}"
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text + "\n")
    return Host(root)


def configurations(directory: Path) -> Iterator[Config]:
    """Load the shipped file in both forms, and every example."""
    for name, text in (("plain", SHIPPED), ("tls", with_second_listener(SHIPPED))):
        path = directory / f"{name}.yaml"
        path.write_text(text.replace("/etc/weirgate/certificates", str(directory)))
        yield load(path, {}).config
    for path in sorted((ROOT / "examples").glob("*.yaml")):
        yield load(path, {}).config


def wrong(where: Host, directory: Path) -> list[Finding]:
    found = [finding for config in configurations(directory) for finding in examine(where, config)]
    return [finding for finding in found if finding.severity != "ok"]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    issue(tmp_path, "shop.example")
    return tmp_path


@pytest.mark.anyio
async def test_the_sandbox_is_tight() -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    result = await finished(
        "systemd-analyze", "security", "--offline=true", DEPLOY / "weirgate.service"
    )
    score = re.search(r"Overall exposure level for \S+: ([0-9.]+)", result.text)
    assert score is not None, result.text
    assert float(score[1]) <= 2.0


def test_the_store_is_named_to_the_service_as_large_as_it_is() -> None:
    unit = settings(SERVICE)
    assert f"Environment=FDSTORE={unit['FileDescriptorStoreMax']}\n" in SERVICE


@VARIANTS
def test_the_shipped_configuration_is_good(directory: Path, variant: type[str]) -> None:
    path = directory / "weirgate.yaml"
    path.write_text(variant(SHIPPED).replace("/etc/weirgate/certificates", str(directory)))
    result = CliRunner().invoke(app, ["check", str(path)])
    assert (result.exit_code, result.output) == (0, f"{path}: ok\n")


@VARIANTS
def test_the_socket_unit_has_the_listeners_of_the_shipped_configuration(
    variant: type[str],
) -> None:
    unit = variant((DEPLOY / "weirgate.socket").read_text())
    listeners = yaml.safe_load(variant(SHIPPED))["listeners"].values()
    wanted = [bind for listener in listeners for bind in listener["bind"]]
    assert re.findall(r"^ListenStream=(.*)$", unit, re.MULTILINE) == wanted
    assert "BindIPv6Only=ipv6-only\n" in unit


def test_a_stop_is_given_more_time_than_the_drain_takes() -> None:
    drain = yaml.safe_load(SHIPPED)["drain"]["timeout"]
    assert int(settings(SERVICE)["TimeoutStopSec"].removesuffix("s")) > int(drain[:-1]) + 10


def test_paths_are_those_that_the_service_may_write(directory: Path) -> None:
    shipped = yaml.safe_load(SHIPPED)
    unit = settings(SERVICE)
    assert shipped["run_directory"].startswith(f"/run/{unit['RuntimeDirectory']}/")
    assert shipped["logs"]["access"]["to"].startswith(f"/var/log/{unit['LogsDirectory']}/")
    rotated = re.search(r"^(/\S+) \{$", (DEPLOY / "logrotate.d/weirgate").read_text(), re.MULTILINE)
    assert rotated is not None
    assert Path(shipped["logs"]["access"]["to"]).match(rotated[1])


def test_with_the_sysctl_file_and_the_unit_the_doctor_finds_nothing(directory: Path) -> None:
    where = host(directory / "proc", DEBIAN | SYSCTL)
    assert wrong(where, directory) == []


@pytest.mark.parametrize("name", SYSCTL)
def test_no_line_of_the_sysctl_file_can_go(directory: Path, name: str) -> None:
    fewer = {key: value for key, value in SYSCTL.items() if key != name}
    where = host(directory / "proc", DEBIAN | fewer)
    assert {finding.setting for finding in wrong(where, directory)} == {name}


def test_the_limits_are_needed_and_the_drop_in_holds_what_it_says(directory: Path) -> None:
    small = SERVICE.replace("LimitNOFILE=131072", "LimitNOFILE=65536")
    where = host(directory / "small", DEBIAN | SYSCTL, small)
    assert {finding.setting for finding in wrong(where, directory)} == {"RLIMIT_NOFILE"}
    drop_in = (DEPLOY / "weirgate.service.d/limits.conf").read_text()
    said = re.search(r"enough for ([0-9,]+) clients", drop_in)
    assert said is not None
    clients = int(said[1].replace(",", ""))
    large = host(directory / "large", DEBIAN | SYSCTL, SERVICE + drop_in)
    for more in ({"protocol": "tcp", "pool": "app"}, {}):
        listener = {"bind": "0.0.0.0:8080", "max_connections": clients, **more}
        pools = {"app": {"endpoints": ["10.0.0.1:80"]}}
        config = Config.model_validate({"listeners": {"web": listener}, "pools": pools})
        (limit,) = [f for f in examine(large, config) if f.setting == "RLIMIT_NOFILE"]
        assert limit.severity == "ok", limit
