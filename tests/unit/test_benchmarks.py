"""The harness's own arithmetic: what it reads, how it judges, what it says."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks import cpu, report
from benchmarks.bars import BARS, Bar, Sample, assess, judge, per_round
from benchmarks.cases import CASES
from benchmarks.clients import ClientError, parse_h2load, parse_wrk, sum_handshakes
from benchmarks.datagram_failover import outcome_of
from benchmarks.datagram_flows import asked_of, sent_of
from benchmarks.datagram_sink import Seen
from benchmarks.load_case import find_bottleneck
from benchmarks.netns import plan_cores
from benchmarks.own_cases import routes_template
from benchmarks.processes import Running, wait_until
from benchmarks.subjects import COMMANDS, CONFIGS, PROGRAMS, TEMPLATES

BAR = Bar("T1", "a test", "case", "cpu_us", must=1.0, aim=0.8, against=("haproxy",))


def stat_line(pid: int, parent: int, *, times: tuple[int, int, int, int] = (0, 0, 0, 0)) -> str:
    fields = ["S", str(parent), *["0"] * 9, *map(str, times), "20", "0", "1", "0", "777"]
    return f"{pid} (a (very) odd name) {' '.join(fields)} 0 0"


def samples(weirgate: list[float], haproxy: list[float]) -> list[Sample]:
    return [
        Sample("case", name, number, {"cpu_us": value})
        for name, values in (("weirgate", weirgate), ("haproxy", haproxy))
        for number, value in enumerate(values, 1)
    ]


def result_of(found: list[Sample], **more: Any) -> dict[str, Any]:
    return {
        "date": "2026-01-02T03:04:05+00:00",
        "machine": {"cpu": "a cpu", "cores": 2, "kernel": "6.1", "memory_mb": 1024},
        "setup": {
            "rounds": 5,
            "seconds": 3,
            "network": "own namespace",
            "cores": "pinned",
            "quotable": True,
        },
        "versions": {"haproxy": "2.6"},
        "missing": {},
        "cases": {case.name: case.title for case in CASES},
        "samples": [vars(sample) for sample in found],
    } | more


def test_stat_line_is_read_past_a_command_name_with_spaces_and_parentheses() -> None:
    stat = cpu.parse_stat(stat_line(42, 7, times=(100, 20, 3, 1)))
    assert (stat.pid, stat.parent, stat.start) == (42, 7, 777)
    assert stat.ticks == 124


def test_tree_holds_all_descendants_and_nobody_else() -> None:
    family = [(1, 0), (10, 1), (11, 10), (12, 10), (13, 12), (20, 1), (21, 20)]
    stats = [cpu.parse_stat(stat_line(pid, parent)) for pid, parent in reversed(family)]
    assert {stat.pid for stat in cpu.tree(10, stats)} == {10, 11, 12, 13}


def test_cpu_time_of_a_running_tree_includes_children_alive_and_waited_for(tmp_path: Path) -> None:
    burn = "end = time.process_time() + 0.2\nwhile time.process_time() < end: pass"
    script = (
        "import os, sys, time\n"
        f"burn = {burn!r}\n"
        "if os.fork() == 0:\n    exec(burn); os._exit(0)\n"
        "os.wait()\n"
        "if os.fork() == 0:\n    exec(burn); time.sleep(60); os._exit(0)\n"
        "exec(burn)\nprint('done', flush=True)\ntime.sleep(60)\n"
    )
    out, err = tmp_path / "out", tmp_path / "err"
    with Running([sys.executable, "-c", script], cpus=frozenset(), stdout=out, stderr=err) as run:
        assert wait_until(lambda: run.cpu_seconds() >= 0.55, 20), err.read_text()
        members = [stat.pid for stat in cpu.tree(run.pid)]
        assert len(members) == 2
    orphan = cpu.PROC / str(members[1])  # ended with its parent; init collects it when it can
    assert wait_until(lambda: not orphan.exists(), 20)


def test_memory_fields_are_found_by_their_whole_name() -> None:
    text = "VmRSSx:\t  1 kB\nVmRSS:\t  123 kB\nPss:  77 kB\nPss_Anon:  5 kB\n"
    assert cpu.parse_memory(text, "VmRSS") == 123
    assert cpu.parse_memory(text, "Pss") == 77
    with pytest.raises(ValueError, match="SwapPss"):
        cpu.parse_memory(text, "SwapPss")


def test_own_memory_is_read_from_proc() -> None:
    assert cpu.rss_kb(os.getpid()) > 1000
    assert cpu.tree_pss_kb(os.getpid()) > 1000


def test_busy_time_of_the_machine_leaves_out_idle_waiting_and_steal() -> None:
    busy, stolen = cpu.parse_machine_busy("cpu  100 10 50 9999 8888 5 15 300 0 0\ncpu0 1\n")
    assert busy == 180 / cpu.TICKS_PER_SECOND
    assert stolen == 300 / cpu.TICKS_PER_SECOND


@pytest.mark.parametrize(
    ("cpus", "subject", "client", "origin"),
    [({3}, [], [], []), ({0, 1}, [1], [0], [1]), ({2, 4, 6, 8}, [4], [2], [6])],
)
def test_client_always_has_a_core_of_its_own(
    cpus: set[int], subject: list[int], client: list[int], origin: list[int]
) -> None:
    cores = plan_cores(cpus)
    planned = [list(role) for role in (cores.subject, cores.client, cores.origin)]
    assert planned == [subject, client, origin]


def test_ratio_is_taken_round_by_round_and_then_its_median() -> None:
    found = samples([10, 30, 8], [10, 20, 10])
    assert per_round(found, BAR) == [1.0, 1.5, 0.8]
    figure = assess(found, BAR, {})
    assert (figure.low, figure.middle, figure.high, figure.rounds) == (0.8, 1.0, 1.5, 3)


def test_a_void_round_on_either_side_does_not_count_and_is_said() -> None:
    found = samples([10, 30, 8], [10, 20, 10])
    found[1].void.append("3 errors at the client (read)")
    figure = assess(found, BAR, {})
    assert figure.middle == 0.9
    assert "1 rounds void" in figure.verdict


def test_all_rounds_void_leave_no_figure_but_the_reason() -> None:
    found = samples([10], [10])
    found[1].void.append("client saturated")
    figure = assess(found, BAR, {})
    assert figure.middle is None
    assert figure.verdict == "VOID: haproxy: client saturated"


def test_latency_is_compared_with_the_best_peer_of_the_same_round() -> None:
    bar = Bar("T2", "p99", "case", "p99_ms", must=1.3, aim=1.0, against=("haproxy", "nginx"))
    values = {"weirgate": 30.0, "haproxy": 40.0, "nginx": 25.0}
    found = [Sample("case", name, 1, {"p99_ms": value}) for name, value in values.items()]
    assert per_round(found, bar) == [1.2]
    assert per_round(found[:2], bar) == []


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        (0.8, "reached: aim"),
        (0.81, "reached: must"),
        (1.0, "reached: must"),
        (1.25, "SHORT by 25 %"),
    ],
)
def test_verdict(value: float, verdict: str) -> None:
    assert judge(value, must=1.0, aim=0.8) == verdict


@pytest.mark.parametrize(
    ("missing", "verdict"),
    [
        ({"weirgate": "not installed"}, "no figure: weirgate: not installed"),
        ({"haproxy": "it ended at once"}, "no figure: haproxy: it ended at once"),
        ({"case": "wrk: not installed"}, "no figure: wrk: not installed"),
        ({}, "not run"),
    ],
)
def test_what_is_missing_is_said(missing: dict[str, str], verdict: str) -> None:
    assert assess([], BAR, missing).verdict == verdict


def test_bottleneck_is_a_busy_client_in_front_of_an_idle_subject() -> None:
    shares = {"subject": 0.5, "origin": 0.1, "client": 0.98}
    assert "client saturated" in str(find_bottleneck(shares, origin_beside_subject=True))
    both_busy = shares | {"subject": 0.85}
    assert find_bottleneck(both_busy, origin_beside_subject=True) is None
    origin = {"subject": 0.5, "origin": 0.99, "client": 0.3}
    assert "origin saturated" in str(find_bottleneck(origin, origin_beside_subject=False))
    assert find_bottleneck(origin, origin_beside_subject=True) is None


def test_wrk_totals_become_a_load() -> None:
    totals = dict.fromkeys(("connect", "read", "write", "status", "timeout"), 0)
    totals |= {
        "requests": 5000,
        "bytes": 1,
        "duration_us": 2_000_000,
        "p50_us": 900,
        "p99_us": 1500,
    }
    load = parse_wrk(totals | {"read": 2}, took=2.01, spent=0.5)
    assert (load.work, load.seconds, load.client_cpu_s) == (5000, 2.01, 0.5)
    assert load.values == {"p50_ms": 0.9, "p99_ms": 1.5, "per_second": 2500}
    assert load.errors["read"] == 2


def test_what_h2load_prints_is_read() -> None:
    text = (
        "Application protocol: h2\nfinished in 2.00s, 50 req/s, 1MB/s\n"
        "requests: 104 total, 104 started, 100 done, 99 succeeded, 1 failed, 0 errored, 0 timeout\n"
        "status codes: 98 2xx, 0 3xx, 2 4xx, 0 5xx\n"
    )
    load = parse_h2load(text, 2.0, 0.5)
    assert (load.work, load.errors["failed"], load.errors["status"]) == (100, 1, 2)
    with pytest.raises(ClientError):
        parse_h2load(text.replace("protocol: h2", "protocol: http/1.1"), 2.0, 0.5)


def test_a_handshake_of_the_wrong_kind_is_an_error() -> None:
    part = {"connections": 10, "full": 1, "resumed": 9, "failed": 0, "status": 0, "late": 0}
    parts = [part | {"first_error": ""}, part | {"first_error": "reset"}]
    load = sum_handshakes(parts, 1.0, 0.1, resume=True)
    assert load.work == 20
    assert load.errors["wrong_kind_of_handshake"] == 2
    assert load.details["first_error"] == "reset"
    assert sum_handshakes(parts, 1.0, 0.1, resume=False).errors["wrong_kind_of_handshake"] == 18


def test_bulk_client_counts_a_download_cut_short() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        command = [sys.executable, "-m", "benchmarks.bulk_client", str(server.getsockname()[1])]
        with subprocess.Popen(
            [*command, "--connections", "1", "--seconds", "20"], stdout=subprocess.PIPE
        ) as client:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(head + b"x" * 100)
                connection.recv(1000)
                connection.sendall(head + b"x" * 99)
            said, _ = client.communicate(timeout=20)
    count = json.loads(said)
    assert (count["downloads"], count["cut"], count["bytes"]) == (1, 1, 199)


def test_every_bar_has_a_case_and_every_case_a_bar() -> None:
    assert {bar.case for bar in BARS} == {case.name for case in CASES}
    assert all(bar.id in case.bars for bar in BARS for case in CASES if bar.case == case.name)
    assert all(bar.aim <= bar.must for bar in BARS)


def test_every_subject_has_a_program_a_command_and_a_template() -> None:
    assert set(PROGRAMS) == set(COMMANDS) == set(TEMPLATES)
    assert all((CONFIGS / template).is_file() for template in TEMPLATES.values())


def test_routes_template_has_the_wanted_routes_and_the_probe(tmp_path: Path) -> None:
    text = routes_template(tmp_path, 5).read_text()
    assert [f"/r{number}/*" in text for number in range(6)] == [True] * 5 + [False]
    assert text.count("pool: origin}") == 7  # five routes, the probe, the tcp listener
    assert "name: all" not in text


def test_report_shows_wins_losses_and_absences() -> None:
    found = [
        Sample("keepalive", "weirgate", 1, {"cpu_us": 20.0}),
        Sample("keepalive", "haproxy", 1, {"cpu_us": 25.0}),
        Sample("keepalive", "nginx", 1, {"cpu_us": 16.0}),
    ]
    text = report.as_text(result_of(found, missing={"envoy": "not installed"}))
    first, second, third = (line for line in text.splitlines() if line.startswith(("P1 ", "P2 ")))
    assert "reached: aim" in first
    assert "0.80" in first
    assert "SHORT by 32 %" in second
    assert "envoy: not installed" in third
    assert "missing: envoy: not installed" in text
    assert "20.0 µs" in text


def test_report_says_when_figures_must_not_be_quoted() -> None:
    result = result_of([])
    result["setup"]["quotable"] = "2 rounds, 5 are needed"
    assert "NOT to be quoted: 2 rounds, 5 are needed" in report.as_markdown(result)


def test_report_shows_only_what_was_asked_for() -> None:
    rows = report.bar_rows(result_of([], cases={"keepalive": "title"}))
    assert {row[0] for row in rows} == {"P1", "P2"}


def test_markdown_columns_are_even() -> None:
    table = report.as_markdown(result_of(samples([1], [2]))).split("\n\n")[0]
    assert {line.count("|") for line in table.splitlines()} == {8}


def test_saved_result_can_be_rendered_again(tmp_path: Path) -> None:
    found = [
        Sample("keepalive", name, number, {"cpu_us": cost})
        for name, cost in (("weirgate", 18.0), ("haproxy", 20.0))
        for number in (1, 2)
    ]
    path = tmp_path / "results" / "latest.json"
    result = result_of(found)
    report.save(result, path)
    stored = json.loads(path.read_text())
    assert report.as_markdown(stored) == report.as_markdown(result)
    assert stored["figures"][0]["middle"] == 0.9


def test_readme_keeps_all_but_what_stands_between_the_markers() -> None:
    readme = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    new = report.into_readme(readme, "table")
    assert new == f"before\n{report.BEGIN}\ntable\n{report.END}\nafter\n"
    assert report.into_readme(new, "table") == new


@pytest.mark.parametrize("readme", ["no markers", report.BEGIN, f"{report.END}\n{report.BEGIN}"])
def test_readme_without_both_markers_is_refused(readme: str) -> None:
    with pytest.raises(ValueError, match="bench:begin"):
        report.into_readme(readme, "table")


def test_turns_of_flows_and_of_echoes_add_up() -> None:
    flows, total, every = 7, 100, 4
    turns = [divmod(turn, flows) for turn in range(total)]
    for flow in range(flows):
        mine = [number for number, other in turns if other == flow]
        assert sent_of(flow, flows, total) == len(mine)
        asked = sum((flow + number) % every == 0 for number in mine)
        assert asked_of(flow, flows, total, every) == asked


def test_a_flow_has_moved_when_another_endpoint_got_it_and_its_echoes_still_come() -> None:
    load = {"sent": 40, "seconds": 10.0, "echo_every": 4, "echoes": [2, 3, 1, 1]}
    load["last_echo_s"] = [9.9, 9.9, 9.9, 5.0]
    killed = Seen([5, 0, 5, 5], [1, 0, 1, 1])
    other = Seen([4, 10, 0, 4], [2_000_000, 1, 0, 3_000_000])
    outcome = outcome_of(load, [killed, other], killed_ns=1_000_000)
    assert (outcome.sent, outcome.lost) == (40, 7)
    assert (outcome.flows_of_the_killed, outcome.flows_that_moved) == (3, 1)
    assert outcome.slowest_move_ms == 1.0
    assert outcome.flows_without_an_echo_at_the_end == 1
    assert outcome.echoes_lost == outcome.echoes_asked - 7
