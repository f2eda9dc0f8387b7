"""A real systemd for a test: process 1 of namespaces of its own, this checkout is /opt/weirgate.

It sees this host's network, and nothing else of it that it could change: /etc, /run, /opt and
/var are copies or empty, and /proc/sys cannot be written.
"""

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.processes import Finished, children, end, finished
from weirgate.shared.testing import eventually

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy/systemd"
INIT = Path("/lib/systemd/systemd")

#: Outer: a cgroup of its own, removed at the end, whatever happened.
_OUTER = """
mount --make-rprivate /
groups=$(mktemp -dp "$2") name=$1
mount -t cgroup2 none $groups
mkdir $groups/$name
remove() {
  until find $groups/$name -depth -type d -exec rmdir {} + ; do sleep 0.05; done
  umount $groups
}
trap remove EXIT
(echo $BASHPID > $groups/$name/cgroup.procs
 exec setpriv --pdeathsig KILL unshare --mount --pid --fork --ipc --uts --cgroup --kill-child \\
   bash -euc "$3" inner "${@:4}")
"""
#: Inner: $1 checkout, $2 base of Python, $3 its packages. Nothing of this host stays writable, and
#: none of its units, generators and tmpfiles exist: systemd-tmpfiles would empty its /tmp.
_INNER = """
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
mkdir -p /mnt/etc /mnt/opt/weirgate/{src,python,packages,venv/bin} /mnt/units /mnt/none
cp -a /etc/. /mnt/etc/
for target in sysinit basic sockets multi-user shutdown umount network network-online test; do
  printf '[Unit]\\nDescription=%s\\n' $target > /mnt/units/$target.target
done
mount --bind "$1" /mnt/opt/weirgate/src
mount --bind "$2" /mnt/opt/weirgate/python
mount --bind "$3" /mnt/opt/weirgate/packages
rm -rf /mnt/etc/systemd/system
mkdir -p /mnt/etc/systemd/system
cat > /mnt/opt/weirgate/venv/bin/weirgate <<'END'
#!/bin/sh
export PYTHONPATH=/opt/weirgate/src/python:/opt/weirgate/packages PYTHONDONTWRITEBYTECODE=1
export LD_LIBRARY_PATH=/opt/weirgate/python/lib
exec /opt/weirgate/python/bin/python3 -P -m weirgate.shared.cli.main "$@"
END
chmod 755 /mnt/opt/weirgate/venv/bin/weirgate
mount --bind /mnt/etc /etc
mount --rbind /mnt/opt /opt
mount --bind /mnt/units /usr/lib/systemd/system
for place in system-generators system-environment-generators; do
  mount --bind /mnt/none /usr/lib/systemd/$place
done
mount --bind /mnt/none /usr/lib/tmpfiles.d
mount --bind /mnt/none /usr/lib/sysusers.d
mount -t proc proc /proc
mount --bind /proc/sys /proc/sys
cut -d" " -f5 /proc/self/mountinfo | while read -r place; do
  case $place in /proc|/etc|/opt) continue ;; esac
  mount -o remount,bind,ro "$place" || echo "hidden: $place"
  if [ -w "$place" ]; then echo "$place is writable"; exit 1; fi
done
for place in /tmp /run /var /root /home /dev/shm; do mount -t tmpfs tmpfs $place; done
mkdir -p /var/log /var/lib/logrotate /var/tmp
mount -t tmpfs tmpfs /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
export container=test
exec /lib/systemd/systemd --system --unit=test.target --log-target=console --show-status=no
"""


class Systemd:
    """The running manager."""

    def __init__(self, pid: int, log: Path) -> None:
        self.pid = pid
        self.log = log

    def path(self, inside: str) -> Path:
        """Return a path of its file system as this process can open it."""
        return Path(f"/proc/{self.pid}/root") / inside.lstrip("/")

    async def run(self, *command: str, within_s: float = 60.0) -> Finished:
        """Run a command inside, as root."""
        enter = (
            "nsenter",
            "--target",
            str(self.pid),
            "--mount",
            "--pid",
            "--ipc",
            "--uts",
            "--cgroup",
        )
        return await finished(*enter, *command, within_s=within_s)

    async def done(self, *command: str, within_s: float = 60.0) -> str:
        """Run a command inside that must succeed; return what it printed."""
        result = await self.run(*command, within_s=within_s)
        assert result.code == 0, f"{' '.join(command)}: {result.text}\n{self.explain()}"
        return result.text

    async def property(self, name: str, unit: str = "weirgate.service") -> str:
        return (await self.done("systemctl", "show", "--value", "-p", name, unit)).strip()

    async def main_pid(self) -> int:
        """Return the service's main process, as this host numbers it."""
        inside = await self.property("MainPID")
        return _outside(self.pid, inside)

    def explain(self) -> str:
        """Return the end of the manager's log and of the service's."""
        text = self.log.read_text()[-3000:]
        service = self.path("/run/weirgate.log")
        with contextlib.suppress(OSError):
            text += service.read_text()[-5000:]
        return text


@contextlib.asynccontextmanager
async def systemd(directory: Path) -> AsyncIterator[Systemd]:
    """Boot it; at the end it is killed, and everything with it."""
    _skip_where_impossible()
    log = directory / "systemd.log"
    with log.open("ab") as output:
        outer = await asyncio.create_subprocess_exec(
            "setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "bash", "-euc", _OUTER, "outer",
            f"weirgate-test-{os.getpid()}", directory,
            _INNER, ROOT, sys.base_prefix, sysconfig.get_paths()["purelib"],
            stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip
    pid = 0
    try:
        pid = await eventually(
            lambda: _init(outer.pid), what="process 1", explain=lambda: log.read_text()[-3000:]
        )
        running = Systemd(pid, log)

        async def up() -> bool:
            assert outer.returncode is None, log.read_text()
            state = await running.run("systemctl", "is-system-running")
            return state.text.strip() in {"running", "degraded"}

        await eventually(up, within_s=20, what="systemd", explain=lambda: log.read_text()[-3000:])
        yield running
    except BaseException as error:
        error.add_note(log.read_text()[-3000:])
        raise
    finally:
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)  # the kernel ends everything else in its namespace
        await end(outer)


def _init(pid: int) -> int:
    """Return the id of process 1 among the descendants of a process, once it is systemd."""
    for child in children(pid, ""):
        with contextlib.suppress(OSError):  # one that has just ended
            if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                return child
        if found := _init(child):
            return found
    return 0


def _outside(init: int, pid: str) -> int:
    """Return this host's number for a child of process 1."""
    for child in children(init, ""):
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{child}/status").read_text()
            if status.partition("NSpid:")[2].partition("\n")[0].split()[-1] == pid:
                return child
    raise ProcessLookupError(pid)


def _skip_where_impossible() -> None:
    programs = ("unshare", "nsenter", "setpriv", "systemctl", "mount")
    missing = [name for name in programs if shutil.which(name) is None]
    if os.geteuid() != 0 or missing or not INIT.exists():
        pytest.skip(f"a real systemd needs root and {', '.join(missing) or INIT}")
    flags = ("--mount", "--pid", "--fork", "--ipc", "--uts", "--cgroup")
    tried = subprocess.run(["unshare", *flags, "true"], capture_output=True, timeout=10)
    if tried.returncode:
        pytest.skip(f"no namespaces for a real systemd: {tried.stderr.decode().strip()}")
