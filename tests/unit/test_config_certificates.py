"""Certificates in files and directories: what is read and remembered, and how long many take."""

import time
from pathlib import Path

import pytest

from weirgate.shared.config import ConfigErrors, compile_snapshot, load
from weirgate.shared.config import certificates as certificates_module
from weirgate.shared.config.compiler import Snapshot
from weirgate.shared.config.watched import ABSENT, signature

CERTIFICATE = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
KEY = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
OCSP = b"\x30\x03\x0a\x01\x00"


def put(directory: Path, *stems: str, suffix: str = ".pem") -> None:
    directory.mkdir(exist_ok=True)
    for stem in stems:
        (directory / f"{stem}{suffix}").write_text(CERTIFICATE)
        (directory / f"{stem}.key").write_text(KEY)


def compiled(directory: Path, *entries: str) -> Snapshot:
    listener = f'{{bind: "127.0.0.1:443", tls: {{certificates: [{", ".join(entries)}]}}}}'
    file = directory / "w.yaml"
    file.write_text(f"listeners: {{web: {listener}}}\nroutes: [{{respond: {{}}}}]\n")
    return compile_snapshot(load(file, {}), cookie_secret="0" * 64)


def files(snapshot: Snapshot) -> list[str]:
    found = snapshot.value["listeners"][0]["tls"]["certificates"]
    return [certificate["file"] for certificate in found]


def test_a_directory_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    put(tmp_path / "certs", "b", "a", "A")
    put(tmp_path / "certs", "c.d", suffix=".crt")
    (tmp_path / "certs" / "lonely.key").write_text(KEY)
    (tmp_path / "certs" / ".hidden.pem").write_text("half")
    (tmp_path / "certs" / "a.pem.bak").write_text("old")
    snapshot = compiled(tmp_path, "{directory: certs}")
    assert files(snapshot) == [f"certs/{name}" for name in ("A.pem", "a.pem", "b.pem", "c.d.crt")]


def test_every_file_that_was_read_is_remembered_with_its_directory(tmp_path: Path) -> None:
    certs = tmp_path / "certs"
    put(certs, "a", "b")
    (certs / "a.ocsp").write_bytes(OCSP)
    snapshot = compiled(tmp_path, "{directory: certs}")
    names = ("certs", "certs/a.pem", "certs/a.key", "certs/a.ocsp", "certs/b.pem", "certs/b.key")
    assert set(snapshot.files) == {tmp_path / name for name in names}
    assert all(seen == signature(path) != ABSENT for path, seen in snapshot.files.items())


def test_a_refused_configuration_remembers_its_files_too(tmp_path: Path) -> None:
    put(tmp_path / "certs", "a")
    (tmp_path / "certs" / "a.pem").write_text("half")
    with pytest.raises(ConfigErrors) as refused:
        compiled(tmp_path, "{directory: certs}", "{cert: nowhere.pem, key: nowhere.key}")
    seen = refused.value.files
    assert seen[tmp_path / "certs" / "a.pem"] == signature(tmp_path / "certs" / "a.pem")
    assert seen[tmp_path / "nowhere.pem"] == ABSENT


def test_there_are_not_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates_module, "MAX_CERTIFICATES", 3)
    put(tmp_path / "certs", "a", "b", "c")
    assert len(files(compiled(tmp_path, "{directory: certs}"))) == 3
    with pytest.raises(ConfigErrors) as refused:
        compiled(tmp_path, "{directory: certs}", "{cert: certs/a.pem, key: certs/a.key}")
    (problem,) = refused.value.problems
    assert (problem.code, problem.got) == ("WG-C052", "4 certificates")
    assert problem.wanted == "at most 3"


@pytest.mark.slow
def test_a_thousand_certificates_are_compiled_in_no_time(tmp_path: Path) -> None:
    put(tmp_path / "certs", *(f"n{number}" for number in range(1000)))
    began = time.monotonic()
    assert len(files(compiled(tmp_path, "{directory: certs}"))) == 1000
    assert time.monotonic() - began < 2
