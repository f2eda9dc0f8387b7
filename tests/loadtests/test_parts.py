"""The arithmetic and the words of the load tests, without a load."""

import json
import socket
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from loadtests import plots
from loadtests.objectives import ObjectivesError, judge, read_objectives
from loadtests.outcome import histogram_quantile_ms
from loadtests.plan import CLASSES, Plan, Target, read_plan
from loadtests.scrape import scraping
from loadtests.seconds import Cell, Second, by_class, read_seconds, rounded, total
from loadtests.target import TargetError, check
from loadtests.tiers import words

from tests.support.weirgate import running
from weirgate.shared.testing import Configuration, free_port

OBJECTIVES = Path(__file__).parents[2] / "loadtests" / "objectives.yaml"


def cell(*times_ms: float, failures: tuple[str, ...] = ()) -> Cell:
    made = Cell()
    for number, took_ms in enumerate(times_ms):
        made.add(took_ms, failures[number] if number < len(failures) else "", "http")
    return made


def test_quantiles_of_a_sum_are_those_of_all_values() -> None:
    cells = [cell(*range(n, 1001, 4)) for n in (1, 2, 3, 4)]
    summed = total(cells)
    assert summed.requests == 1000
    for share in (0.5, 0.95, 0.99):
        assert summed.quantile_ms(share) == pytest.approx(1000 * share, rel=0.005)
    assert Cell().quantile_ms(0.5) is None
    assert cell(7.0).quantile_ms(0.01) == 7.0


@pytest.mark.parametrize(
    ("took_ms", "kept_ms"), [(0.0421, 0.04), (1.2345, 1.23), (12.345, 12.3), (1234.5, 1230.0)]
)
def test_times_keep_three_digits(took_ms: float, kept_ms: float) -> None:
    assert rounded(took_ms) == kept_ms


def test_seconds_survive_their_file_and_half_a_line_is_left_for_later(tmp_path: Path) -> None:
    second = Second(7, 3, {"Api": cell(1.5, 2.5, failures=("lost",)), "Chat": cell(9.0)})
    file = tmp_path / "seconds.jsonl"
    file.write_text(second.line() + second.line()[:40])
    (read,) = read_seconds(file)
    assert (read.at, read.users, read.by_class) == (7, 3, second.by_class)
    line = json.loads(second.line())
    assert (line["requests"], line["failures"], line["p99_ms"]) == (3, {"lost": 1}, 9.0)
    assert by_class([read, second])["Api"].failures == Counter({"lost": 2})
    assert read_seconds(tmp_path / "none") == []


def test_objectives_are_judged_by_class_message_and_reason(tmp_path: Path) -> None:
    file = tmp_path / "objectives.yaml"
    file.write_text(
        "users: {all: {failures_percent: 10}, Api: {p50_ms: 3, failures: {lost: 20}}, "
        "Chat: {p99_ms: 1}}\nreasons: {'*': 1, no_route: 60}\n"
    )
    cells = {"Api": cell(1, 2, 9, 9, failures=("lost forever",))}
    verdicts = judge(read_objectives(file), cells, {"no_route": 2.0, "pool_empty": 1.0})
    assert {(v.who, v.what): v.holds for v in verdicts} == {
        ("all", "failures_percent"): False,  # 25
        ("Api", "p50_ms"): True,
        ("Api", "failures 'lost' in percent"): False,  # 25
        ("weirgate", "reason no_route in percent"): True,  # 50
        ("weirgate", "reason pool_empty in percent"): False,  # 25
    }
    # A run in which nothing happened keeps to nothing.
    assert [v.holds for v in judge(read_objectives(file), {})] == [False]


@pytest.mark.parametrize("text", ["users: {Api: {p50: 1}}", "users: [", "reasons: {'*': 101}"])
def test_wrong_objectives_are_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "objectives.yaml"
    file.write_text(text)
    with pytest.raises(ObjectivesError):
        read_objectives(file)


def test_the_objectives_that_come_along_name_classes_that_exist() -> None:
    assert set(read_objectives(OBJECTIVES).users) == {*CLASSES, "all"}


@pytest.mark.parametrize(
    ("buckets", "share", "expected_ms"),
    [
        ({0.001: 0, 0.002: 10, float("inf"): 10}, 0.5, 1.5),
        ({0.001: 10, 0.002: 10, float("inf"): 20}, 0.99, 2.0),  # beyond the last bound
        ({}, 0.5, None),
    ],
)
def test_quantiles_of_histograms(
    buckets: dict[float, float], share: float, expected_ms: float | None
) -> None:
    assert histogram_quantile_ms(buckets, share) == pytest.approx(expected_ms)


def test_a_counter_that_begins_anew_is_not_negative(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIRGATE_ADMIN_TOKEN", "secret")
    with _metrics("c_total 100", "c_total 130", 500, "c_total 5", "c_total 9") as (port, asked):
        with scraping({"edge": f"http://127.0.0.1:{port}"}) as scraped:
            assert asked.wait(15)
        assert scraped.increase("c_total") == 30 + 5 + 4
        assert scraped.by_label("c_total", "source", "x") == {("edge", "y"): 39.0}
        assert [m.answered for m in scraped.moments][:4] == [True, True, False, True]


@pytest.mark.anyio
async def test_what_an_edge_relays_to_gateway_nodes_is_no_stream() -> None:
    config = Configuration().listen("web").listen("lines", protocol="tcp", pool="lines")
    where = f"127.0.0.1:{free_port()}"
    nodes = {"endpoints": [where], "bind": where, "edges": "127.0.0.1"}
    config.pool("lines", free_port()).route("all", respond={"body": "hello"})
    config.gateway(nodes=nodes | {"health": {"bind": f"127.0.0.1:{free_port()}"}})
    async with running(config, verb="edge"):
        with scraping({"edge": f"http://127.0.0.1:{config.admin_port}"}) as scraped:
            assert scraped.protocols == {("edge", "web"): "http", ("edge", "lines"): "tcp"}


class _metrics:  # noqa: N801 - reads as a word in a with
    """An admin API that says these things one after the other, and then always the last."""

    def __init__(self, *answers: str | int) -> None:
        left, asked = list(answers), threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path != "/metrics":
                    self.send_error(404)
                    return
                answer = left.pop(0) if len(left) > 1 else left[0]
                if self.headers["authorization"] != "Bearer secret":
                    answer = 401
                self.send_response(200 if isinstance(answer, str) else answer)
                self.end_headers()
                if isinstance(answer, str):
                    name, value = answer.split()
                    self.wfile.write(f'# TYPE c_total counter\n{name}{{x="y"}} {value}\n'.encode())
                if len(left) == 1:
                    asked.set()

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self.asked = asked
        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)

    def __enter__(self) -> tuple[int, threading.Event]:
        self.thread.start()
        return self.server.server_port, self.asked

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "10.1.2.3", "172.31.0.9", "fd00::1"])
def test_hosts_of_ones_own_are_let_in(host: str) -> None:
    check(Target("x", host, 80))


@pytest.mark.parametrize(
    "host", ["8.8.8.8", "172.32.0.1", "100.64.0.1", "2001:db8::1", "::ffff:8.8.8.8", "0.0.0.0"]
)
def test_other_hosts_need_a_word(host: str) -> None:
    with pytest.raises(TargetError, match="--allow-public-target"):
        check(Target("x", host, 80))
    check(Target("x", host, 80), allow_public=True)


def test_a_target_starts_only_users_that_it_has_a_port_for() -> None:
    assert Target("x", "h", 80, tcp=1, udp=2).classes() == CLASSES
    assert Target("x", "h", 80).classes() == CLASSES[:-2]
    assert "Grpc" not in Target("x", "h", 0, tls=443).classes()
    assert Target("x", "h", 0, udp=1).classes() == ("UdpEcho",)


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    target = Target("x", "127.0.0.1", 80, admin={"edge": "http://127.0.0.1:9900"})
    plan = Plan(target, str(tmp_path), users=3, classes=("Api",))
    assert read_plan(plan.write()) == plan


def test_plots_stay_in_their_frame() -> None:
    drawn = plots.lines({"<a>": [1, None, 5e6], "b": [None, 2, None]}, unit="ms")
    drawn += plots.shares({"a": [1, 0, 3], "b": [1, 0, None]})
    assert "&lt;a&gt;" in drawn
    numbers = [
        point for part in drawn.split('points="')[1:] for point in part.split('"')[0].split()
    ]
    for x, y in (map(float, point.split(",")) for point in numbers):
        assert 0 <= x <= plots.WIDTH
        assert 0 <= y <= plots.HEIGHT
    assert plots.lines({}) != ""


def test_a_page_without_markers_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text("my own\n")
    with pytest.raises(ValueError, match="no markers"):
        words.insert(file, "tables")
    assert file.read_text() == "my own\n"


def test_locust_stays_out_of_this_process() -> None:
    """It patches the standard library: sockets and threads would be gevent's."""
    assert [name for name in ("locust", "gevent") if name in sys.modules] == []
    assert socket.socket.__module__ == "socket"
