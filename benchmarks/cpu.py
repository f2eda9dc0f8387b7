"""Reads what a process tree and the machine have spent: CPU time and memory, from /proc alone."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TICKS_PER_SECOND: int = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class ProcessStat:
    """The fields of /proc/PID/stat that matter here; times are in clock ticks."""

    pid: int
    parent: int
    user: int
    system: int
    children_user: int
    children_system: int
    start: int

    @property
    def ticks(self) -> int:
        """Own time and that of children which have ended and been waited for."""
        return self.user + self.system + self.children_user + self.children_system


def parse_stat(text: str) -> ProcessStat:
    """Parse one /proc/PID/stat line; the command name may hold spaces and parentheses."""
    head, _, tail = text.rpartition(")")
    pid = int(head.split(" ", 1)[0])
    fields = tail.split()
    return ProcessStat(
        pid=pid,
        parent=int(fields[1]),
        user=int(fields[11]),
        system=int(fields[12]),
        children_user=int(fields[13]),
        children_system=int(fields[14]),
        start=int(fields[19]),
    )


def _every_process() -> Iterator[ProcessStat]:
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                yield parse_stat((entry / "stat").read_text())
            except OSError:  # it ended between the listing and the reading
                continue


def tree(root: int, processes: Iterable[ProcessStat] | None = None) -> list[ProcessStat]:
    """The process `root` and all its descendants, parents before children."""
    by_parent: dict[int, list[ProcessStat]] = {}
    found: list[ProcessStat] = []
    for stat in _every_process() if processes is None else processes:
        by_parent.setdefault(stat.parent, []).append(stat)
        if stat.pid == root:
            found.append(stat)
    for stat in found:  # grows while it is walked
        found.extend(by_parent.get(stat.pid, ()))
    return found


def tree_seconds(root: int) -> float:
    """CPU time (user and system) that the tree under `root` has used so far."""
    return sum(stat.ticks for stat in tree(root)) / TICKS_PER_SECOND


def thread_seconds(pid: int) -> float:
    """CPU time of the living threads of one process, in nanosecond grain (schedstat).

    For a share so small that /proc/PID/stat's ticks of 10 ms would not show it.
    """
    total = 0
    for task in (PROC / str(pid) / "task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def find_in_tree(root: int, words: str) -> list[int]:
    """The pids in the tree whose command line contains `words`."""
    matching: list[int] = []
    for stat in tree(root):
        command = (PROC / str(stat.pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        if words in command:
            matching.append(stat.pid)
    return matching


def parse_memory(text: str, field: str) -> int:
    """One `Field:   123 kB` line of smaps_rollup or status, in kB."""
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        if name == field:
            return int(rest.split()[0])
    raise ValueError(f"no field {field}")


def tree_pss_kb(root: int) -> int:
    """Proportional memory of the tree: a page shared by n processes counts 1/n in each."""
    return sum(
        parse_memory((PROC / str(stat.pid) / "smaps_rollup").read_text(), "Pss")
        for stat in tree(root)
    )


def rss_kb(pid: int) -> int:
    """Resident memory of one process."""
    return parse_memory((PROC / str(pid) / "status").read_text(), "VmRSS")


def parse_machine_busy(text: str) -> tuple[float, float]:
    """Busy and stolen seconds since boot of the whole machine, from /proc/stat."""
    fields = [int(field) for field in text.split("\n", 1)[0].split()[1:]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields[:8]
    busy = user + nice + system + irq + softirq
    return busy / TICKS_PER_SECOND, steal / TICKS_PER_SECOND


def machine_busy() -> tuple[float, float]:
    """Busy and stolen seconds since boot of the whole machine."""
    return parse_machine_busy((PROC / "stat").read_text())


def machine() -> dict[str, str | int]:
    """What the figures were made on."""
    model = "unknown"
    for line in (PROC / "cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "cpu": model,
        "cores": os.cpu_count() or 1,
        "kernel": os.uname().release,
        "memory_mb": parse_memory((PROC / "meminfo").read_text(), "MemTotal") // 1024,
    }
