"""deploy/systemd/logrotate.d with the real logrotate, under load: no line is lost or cut."""

import gzip
import json
import os
import re
import shutil
from pathlib import Path

import pytest

from tests.support.load import load
from tests.support.origin import one_origin
from tests.support.processes import descriptors, finished
from tests.support.weirgate import running
from weirgate.shared.testing import Configuration, eventually

pytestmark = pytest.mark.anyio

SHIPPED = Path(__file__).parents[2] / "deploy/systemd/logrotate.d/weirgate"
ROTATIONS = 3


def adapted(directory: Path) -> str:
    """Return the shipped file for a log of this test and for whoever runs it."""
    text = SHIPPED.read_text().replace("/var/log/weirgate/", f"{directory}/")
    user = "    su root root" if os.geteuid() == 0 else ""
    return re.sub(r"^ +su .*$", user, text, flags=re.MULTILINE)


def lines(directory: Path) -> list[str]:
    """Return all lines of all files, each of which must be whole."""
    found: list[str] = []
    for path in directory.glob("access.log*"):
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        assert data.endswith(b"\n")
        found += data.decode().splitlines()
    return found


def all_write_to(log: Path, pids: list[int]) -> bool:
    """Say whether every process has left a renamed file, as all have long before the next day."""
    opened = [os.path.realpath(f"/proc/{p}/fd/{n}") for p in pids for n in descriptors(p, str(log))]
    return opened == [str(log)] * len(pids) and log.stat().st_size > 0


async def test_no_line_is_lost_or_cut(tmp_path: Path) -> None:
    program = shutil.which("logrotate", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("logrotate is not installed")
    logs = tmp_path / "logs"
    logs.mkdir()
    log = logs / "access.log"
    conf = tmp_path / "logrotate.conf"
    conf.write_text(adapted(logs))
    rotate = (program, "--force", "--state", tmp_path / "state", conf)
    async with one_origin() as origin:
        config = Configuration(workers=2).listen("web").pool("app", origin.port)
        config.route("all", pool="app").logs(access={"to": str(log)})
        async with running(config) as weirgate:
            async with load(weirgate.port(), requests_per_connection=20) as counts:
                for _ in range(ROTATIONS):
                    await eventually(lambda: all_write_to(log, weirgate.gateways()))
                    done = await finished(*rotate)
                    assert done.code == 0, done.text
                await eventually(lambda: all_write_to(log, weirgate.gateways()))
            await weirgate.stop()
        assert counts.kinds() == {}
    names = {path.name for path in logs.iterdir()}
    assert names == {"access.log", "access.log.1", "access.log.2.gz", "access.log.3.gz"}
    ids = [json.loads(line)["request_id"] for line in lines(logs)]
    assert len(ids) == len(set(ids)) == counts.ok
