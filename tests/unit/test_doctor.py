"""The doctor: every finding with value, wanted, why and command, from a copy of /proc."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from weirgate.shared.cli import doctor
from weirgate.shared.cli.exit_codes import Exit
from weirgate.shared.cli.main import app
from weirgate.shared.config import Config
from weirgate.shared.doctor.checks import examine
from weirgate.shared.doctor.finding import Finding
from weirgate.shared.doctor.host import Host

GOOD = {
    "sys/net/core/somaxconn": "4096",
    "sys/net/core/rmem_max": "4194304",
    "sys/net/core/wmem_max": "4194304",
    "sys/net/ipv4/tcp_max_syn_backlog": "2048",
    "sys/net/ipv4/tcp_syncookies": "1",
    "sys/net/ipv4/tcp_migrate_req": "0",
    "sys/net/ipv4/ip_local_port_range": "32768\t60999",
    "sys/net/ipv4/ip_local_reserved_ports": "",
    "sys/net/ipv4/tcp_tw_reuse": "1",
    "sys/net/ipv4/tcp_fastopen": "1",
    "sys/net/ipv4/tcp_available_congestion_control": "reno cubic",
    "sys/net/ipv4/tcp_allowed_congestion_control": "reno",
    "sys/net/ipv4/ip_unprivileged_port_start": "1024",
    "sys/fs/file-max": "1000000",
    "self/limits": "Limit   Soft Limit\nMax open files    65536   524288   files",
    "self/status": "Name:\tx\nCapEff:\t0000000000000000\n",
}
POOL = {"endpoints": ["10.0.0.1:80"]}


def host(root: Path, **changed: str | None) -> Host:
    """Write a /proc; a setting is named by the end of its path, and None leaves it out."""
    for path, text in GOOD.items():
        value: str | None = changed.pop(path.rpartition("/")[2], text)
        if value is not None:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(value + "\n")
    for name, more in changed.items():
        (root / "sys/net/netfilter").mkdir(parents=True, exist_ok=True)
        (root / "sys/net/netfilter" / name).write_text(f"{more}\n")
    return Host(root)


def config(listener: dict[str, Any] | None = None, **more: Any) -> Config:
    value = {"bind": "0.0.0.0:8080", **(listener or {})}
    return Config.model_validate({"listeners": {"web": value}, "pools": {"p": POOL}, **more})


def found(where: Host, what: Config, setting: str) -> Finding:
    return next(f for f in examine(where, what) if f.setting == setting)


def test_a_good_host_has_no_findings_of_any_weight(tmp_path: Path) -> None:
    findings = examine(host(tmp_path), config({"protocol": "tcp", "pool": "p"}))
    assert {f.severity for f in findings} == {"ok"}
    assert all(f.why and f.value and not f.command for f in findings)


TCP = {"protocol": "tcp", "pool": "p"}


@pytest.mark.parametrize(
    ("changed", "listener", "setting", "severity", "command"),
    [
        ({"somaxconn": "128"}, {}, "net.core.somaxconn", "warning", "net.core.somaxconn=4096"),
        ({}, {"backlog": 9000}, "net.core.somaxconn", "error", "net.core.somaxconn=9000"),
        ({"tcp_syncookies": "0"}, {}, "net.ipv4.tcp_syncookies", "error", "tcp_syncookies=1"),
        ({"tcp_syncookies": "2"}, {}, "net.ipv4.tcp_syncookies", "warning", "tcp_syncookies=1"),
        (
            {"tcp_syncookies": "0"}, {}, "net.ipv4.tcp_max_syn_backlog", "warning",
            "tcp_max_syn_backlog=4096",
        ),
        (
            {"ip_local_port_range": "40000 49999"}, {}, "net.ipv4.ip_local_port_range", "warning",
            'ip_local_port_range="1024 65535"',
        ),
        (
            {}, {**TCP, "max_connections": 30000}, "net.ipv4.ip_local_port_range", "error",
            'ip_local_port_range="1024 65535"',
        ),
        (
            {"ip_local_reserved_ports": "40000-40002,41000"},
            {"bind": ["0.0.0.0:40001", "0.0.0.0:40003"]},
            "net.ipv4.ip_local_reserved_ports", "warning",
            "ip_local_reserved_ports=40000-40002,41000,40003",
        ),
        ({"tcp_tw_reuse": "2"}, TCP, "net.ipv4.tcp_tw_reuse", "warning", "tcp_tw_reuse=1"),
        (
            {}, {"bind": "0.0.0.0:80"}, "net.ipv4.ip_unprivileged_port_start", "error",
            "ip_unprivileged_port_start=80",
        ),
        (
            {}, {"tcp": {"congestion": "bbr"}}, "net.ipv4.tcp_available_congestion_control",
            "error", "modprobe tcp_bbr",
        ),
        (
            {}, {"tcp": {"congestion": "cubic"}}, "net.ipv4.tcp_allowed_congestion_control",
            "error", 'tcp_allowed_congestion_control="reno cubic"',
        ),
        ({}, {"tcp": {"fast_open": 1}}, "net.ipv4.tcp_fastopen", "error", "tcp_fastopen=3"),
        (
            {}, {"tcp": {"receive_buffer": "8MiB"}}, "net.core.rmem_max", "error",
            "rmem_max=8388608",
        ),
        ({}, {**TCP, "max_connections": 20000}, "RLIMIT_NOFILE", "error", "ulimit -n 120100"),
        ({}, {**TCP, "max_connections": 90000}, "RLIMIT_NOFILE", "error", "LimitNOFILE=540100"),
        (
            {"limits": "Max open files  1024  4096  files"}, {}, "RLIMIT_NOFILE", "warning",
            "LimitNOFILE=16384",
        ),
        ({"file-max": "50000"}, {**TCP, "max_connections": 9000}, "fs.file-max", "error", "file-"),
        (
            {"nf_conntrack_max": "1000", "nf_conntrack_count": "720"}, {},
            "net.netfilter.nf_conntrack_max", "warning", "nf_conntrack_max=2000",
        ),
        (
            {"nf_conntrack_max": "1000", "nf_conntrack_count": "999"}, {},
            "net.netfilter.nf_conntrack_max", "error", "nf_conntrack_max=2000",
        ),
        (
            {"nf_conntrack_max": "1000", "nf_conntrack_count": "9"},
            {"max_connections": 2000}, "net.netfilter.nf_conntrack_max", "error",
            "nf_conntrack_max=8000",
        ),
    ],
)  # fmt: skip
def test_what_holds_a_configuration_back(
    tmp_path: Path,
    changed: dict[str, str],
    listener: dict[str, Any],
    setting: str,
    severity: str,
    command: str,
) -> None:
    finding = found(host(tmp_path, **changed), config(listener), setting)
    assert finding.severity == severity, finding
    assert command in finding.command
    assert finding.wanted
    assert len(finding.why) > 20
    if severity == "error" and "web" not in finding.why:  # says whose need it is
        assert re.search(r"edge|pool p|listener|flood|files|dropped", finding.why)


def test_capabilities_make_low_ports_and_congestion_controls_possible(tmp_path: Path) -> None:
    where = host(tmp_path, status=f"CapEff:\t{1 << 10 | 1 << 12:016x}")
    what = config({"bind": "0.0.0.0:80", "tcp": {"congestion": "cubic"}})
    assert {f.severity for f in examine(where, what)} == {"ok"}


def test_what_cannot_be_read_is_said_and_not_guessed(tmp_path: Path) -> None:
    what = config(
        {"bind": "0.0.0.0:80", **TCP, "tcp": {"congestion": "bbr", "fast_open": 1,
                                             "send_buffer": "1MiB"}}
    )  # fmt: skip
    findings = examine(Host(tmp_path), what)
    unknown = {f.setting for f in findings if f.severity == "unknown"}
    assert unknown == {
        "net.ipv4.ip_unprivileged_port_start", "RLIMIT_NOFILE", "net.core.somaxconn",
        "net.ipv4.tcp_syncookies", "net.ipv4.tcp_max_syn_backlog", "net.ipv4.tcp_migrate_req",
        "net.ipv4.ip_local_port_range", "net.ipv4.tcp_available_congestion_control",
        "net.ipv4.tcp_fastopen", "net.core.wmem_max",
    }  # fmt: skip
    assert not [f for f in findings if f.severity in {"warning", "error"}]
    garbled = host(tmp_path, somaxconn="many", limits="Max open files soon")
    assert found(garbled, what, "net.core.somaxconn").severity == "unknown"
    assert found(garbled, what, "RLIMIT_NOFILE").severity == "unknown"


def test_datagrams_want_large_buffers(tmp_path: Path) -> None:
    base = config()
    # of a listener whose protocol this schema may not know yet
    udp = {"web": base.listeners["web"].model_copy(update={"protocol": "udp"})}
    what = base.model_copy(update={"listeners": udp})
    small = host(tmp_path, rmem_max="212992")
    finding = found(small, what, "net.core.rmem_max")
    assert (finding.severity, finding.command) == ("warning", "sysctl -w net.core.rmem_max=4194304")
    assert found(small, what, "net.core.wmem_max").severity == "ok"


def test_the_exit_code_is_1_for_errors_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("warned", "wrong"):
        host(tmp_path / name, tcp_syncookies="2" if name == "warned" else "0")
    assert doctor.run(None, as_json=False, proc=tmp_path / "warned") is Exit.OK
    text = capsys.readouterr().out
    assert "warning  net.ipv4.tcp_syncookies = 2: " in text
    assert "mend:   sysctl -w net.ipv4.tcp_syncookies=1" in text
    assert text.splitlines()[-1].startswith("1 may hold it back, ")
    assert doctor.run(None, as_json=True, proc=tmp_path / "wrong") is Exit.CONFIGURATION
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is False
    wrong = [f for f in document["findings"] if f["severity"] == "error"]
    assert [(f["setting"], f["value"], f["wanted"]) for f in wrong] == [
        ("net.ipv4.tcp_syncookies", "0", "1")
    ]


def test_this_host_without_root_and_with_a_real_file(tmp_path: Path) -> None:
    path = tmp_path / "weirgate.yaml"
    path.write_text('listeners: {web: {bind: "127.0.0.1:8080", backlog: 65535}}\n')
    result = CliRunner().invoke(app, ["doctor", str(path), "--json"])
    findings = json.loads(result.stdout)["findings"]
    backlog = next(f for f in findings if f["setting"] == "net.core.somaxconn")
    kernel = int(Path("/proc/sys/net/core/somaxconn").read_text())
    assert backlog["value"] == str(kernel)
    assert (backlog["severity"] == "error") == (kernel < 65535)
    assert result.exit_code == int(any(f["severity"] == "error" for f in findings))
    path.write_text("listeners: {}\n")
    assert CliRunner().invoke(app, ["doctor", str(path)]).exit_code == 1
