"""The run directory: private, one node's, and gone when the node is gone."""

import os
import stat
import time
from pathlib import Path

import pytest

from weirgate.shared.supervisor.errors import StartError
from weirgate.shared.supervisor.run_directory import run_directory


def test_it_is_private_and_removed_at_the_end(tmp_path: Path) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    with run_directory(None, environ) as path:
        assert path.parent == tmp_path
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        (path / "edge-0.sock").touch()
    assert list(tmp_path.iterdir()) == []


def test_a_configured_one_is_used_by_one_node_at_a_time(tmp_path: Path) -> None:
    wanted = tmp_path / "run"
    wanted.mkdir()
    (wanted / "precious").touch()
    with run_directory(wanted, {}) as path:
        (path / "edge-0.sock").touch()
        with pytest.raises(StartError, match="another weirgate uses it"), run_directory(wanted, {}):
            pass
    assert {entry.name for entry in wanted.iterdir()} == {"precious", "lock"}
    with run_directory(wanted, {}) as path:
        assert path == wanted


def test_one_that_was_made_for_the_node_goes_with_it(tmp_path: Path) -> None:
    with run_directory(tmp_path / "a" / "b", {}) as path:
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert not path.exists()


def test_one_too_deep_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="too long"), run_directory(tmp_path / ("x" * 100), {}):
        pass


def test_what_a_killed_node_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    for name in ("weirgate-dead", "weirgate-young", "other-dead"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lock").touch()
    (tmp_path / "weirgate-nolock").mkdir()
    long_ago = time.time() - 3600
    for name in ("weirgate-dead", "other-dead"):
        os.utime(tmp_path / name / "lock", (long_ago, long_ago))
    with run_directory(None, environ) as alive:
        os.utime(alive / "lock", (long_ago, long_ago))
        with run_directory(None, environ):
            assert alive.exists()
    names = {entry.name for entry in tmp_path.iterdir()}
    assert names == {"weirgate-young", "other-dead", "weirgate-nolock"}
