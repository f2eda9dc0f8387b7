"""Where the gateway spends its time under P1: `python -m benchmarks.profiling`, needs `perf`.

Writes the hottest functions to `benchmarks/results/profile.txt`; another process can be named,
such as `--process weirgate.edge.process`, and another load, such as `--load close`.
"""

import argparse
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from benchmarks import clients, cpu, netns
from benchmarks.processes import StartError, free_ports
from benchmarks.subjects import Ground, Subject, make_certificate, start_origin, start_subject

WORK = Path(__file__).parent / ".work"
RESULT = Path(__file__).parent / "results" / "profile.txt"
TOP_LINES = 60


def record(perf: str, pid: int, seconds: float, data: Path) -> subprocess.Popen[bytes]:
    """Start sampling one process for some seconds."""
    command = [perf, "record", "-q", "-F", "999", "-g", "-p", str(pid), "-o", str(data)]
    return subprocess.Popen(
        [*command, "--", "sleep", str(seconds)], stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )


def hottest(perf: str, data: Path) -> str:
    """The functions by own time, as perf prints them."""
    said = subprocess.run(
        [perf, "report", "-i", str(data), "--stdio", "--no-children", "-g", "none"],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line for line in said.stdout.splitlines() if line.strip() and line[0] != "#"]
    return "\n".join(lines[:TOP_LINES]) + "\n"


def profile(subject_name: str, words: str, load: str, seconds: float) -> str:
    """Drive one subject and sample the process whose command line contains `words`."""
    perf = shutil.which("perf")
    if perf is None:
        raise StartError("perf: not installed")
    cores = netns.plan_cores(netns.available_cpus())
    netns.enter_own_network()
    files = netns.raise_file_limit()
    WORK.mkdir(exist_ok=True)
    make_certificate(WORK)
    with ExitStack() as stack, netns.pinned(cores.client):
        ground = Ground(WORK, cores, free_ports(1)[0], files)
        stack.callback(start_origin(ground).stop)
        subject = start_subject(subject_name, ground)
        stack.callback(subject.running.stop)
        pids = cpu.find_in_tree(subject.running.pid, words)
        if not pids:
            raise StartError(f"no process of {subject_name} has {words!r} in its command line")
        data = WORK / "perf.data"
        drive(cores, subject, load, 1)
        sampling = record(perf, pids[-1], seconds, data)
        drive(cores, subject, load, seconds + 1)
        sampling.wait()
        return hottest(perf, data)


def drive(cores: netns.Cores, subject: Subject, load: str, seconds: float) -> None:
    """Put one of the loads on a subject."""
    if load == "http2":
        clients.h2load(cores, subject.https, seconds)
        return
    tls = load == "https"
    port = subject.https if tls else subject.http
    clients.wrk(cores, port, seconds, tls=tls, close=load == "close")


def main() -> int:
    """Read the arguments, sample, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profiling")
    parser.add_argument("--subject", default="weirgate")
    parser.add_argument("--process", default="weirgate.appgw.process")
    parser.add_argument(
        "--load", choices=("keepalive", "close", "https", "http2"), default="keepalive"
    )
    parser.add_argument("--seconds", type=float, default=5)
    options = parser.parse_args()
    try:
        text = profile(options.subject, options.process, options.load, options.seconds)
    except StartError as error:
        print(f"no profile: {error}", file=sys.stderr)
        return 1
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(text)
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
