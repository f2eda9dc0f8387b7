"""Which process holds a port: what "address already in use" leaves out."""

from pathlib import Path

#: By table: the state of a socket that others can reach (TCP: listening; UDP: not connected).
_OPEN = {"tcp": "0A", "tcp6": "0A", "udp": "07", "udp6": "07"}


def port_owner(port: int, proc: Path = Path("/proc"), *, datagrams: bool = False) -> str:
    """Name the process that listens on a port, as ``nginx (pid 812)``; empty when unknown."""
    inodes = _listening_inodes(port, proc, "udp" if datagrams else "tcp")
    if not inodes:
        return ""
    links = {f"socket:[{inode}]" for inode in inodes}
    for process in proc.iterdir():
        if process.name.isdigit() and _holds(process, links):
            return f"{_command(process)} (pid {process.name})"
    return ""


def _listening_inodes(port: int, proc: Path, transport: str) -> set[str]:
    found = set()
    for table in (transport, f"{transport}6"):
        try:
            lines = (proc / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            columns = line.split()
            if columns[3] == _OPEN[table] and int(columns[1].rpartition(":")[2], 16) == port:
                found.add(columns[9])
    return found


def _holds(process: Path, links: set[str]) -> bool:
    try:
        return any(str(fd.readlink()) in links for fd in (process / "fd").iterdir())
    except OSError:  # it has ended, or belongs to somebody else
        return False


def _command(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip()
    except OSError:
        return "a process"
