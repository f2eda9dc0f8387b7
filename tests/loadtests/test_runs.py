"""`python -m loadtests` as a user calls it, and the load for drills; Locust is never imported."""

import asyncio
import json
import shutil
import sys
from pathlib import Path

import pytest
from benchmarks.processes import pause, wait_until
from loadtests.background import load_in_background
from loadtests.local import application, environment
from loadtests.plan import CLASSES, Target
from loadtests.tiers.ways import mute

from tests.support.processes import Finished, finished
from weirgate.shared.testing import free_port

pytestmark = pytest.mark.anyio

#: Whatever a busy machine does to the times, failures are failures. At the end Locust may break off
#: a request, of which it counts nothing.
GENEROUS = """
users: {all: {p99_ms: 10000, failures_percent: 0}}
reasons: {"*": 0, client_gone: 1, client_reset: 1}
"""
SELF_CONTAINED = ("src=", "@import", "url(", "<script", "<link rel=stylesheet")


async def loadtests(*arguments: str | Path) -> Finished:
    command = (sys.executable, "-m", "loadtests", *arguments)
    return await finished(*command, env=environment(), within_s=120)


async def test_all_user_classes_without_a_failure_and_a_page_of_it(tmp_path: Path) -> None:
    objectives = tmp_path / "objectives.yaml"
    objectives.write_text(GENEROUS)
    report = tmp_path / "out" / "report.html"
    shape = ("--shape", "steady", "--users", "24", "--seconds", "6", "--pauses", "0.5")
    ended = await loadtests(*shape, "--objectives", objectives, "--report", report)
    assert ended.code == 0, ended.text
    data = json.loads(report.with_suffix(".json").read_text())
    assert set(data["classes"]) == {*CLASSES, "all"}
    assert {name: c["failures"] for name, c in data["classes"].items() if c["failures"]} == {}
    assert all(cell["requests"] for cell in data["classes"].values())
    assert sum(s["requests"] for s in data["seconds"]) == data["locust"]["total"]["requests"]
    assert [row["agrees"] for row in data["agreement"]] == [True] * 3, data["agreement"]
    assert {row["listener"] for row in data["weirgate"]["listeners"]} == {
        *("web", "secure", "lines", "datagrams")
    }
    assert {row["pool"] for row in data["weirgate"]["endpoints"]} == {"site", "api", "chat", "grpc"}
    assert len(data["weirgate"]["endpoints_by_second"]) >= 6
    page = report.read_text()
    assert "passed" in page
    assert [part for part in SELF_CONTAINED if part in page] == []
    if shutil.which("chromium"):
        await _looks_well_in_chromium(report, tmp_path)


async def _looks_well_in_chromium(report: Path, directory: Path) -> None:
    """The page may load nothing, by its own policy; what it tried would be on the console."""
    picture = directory / "page.png"
    assert "CONSOLE" not in await _chromium(report, picture)
    size_bytes = await asyncio.to_thread(lambda: picture.stat().st_size)
    assert size_bytes > 50_000  # an empty page is a tenth of that
    curious = await asyncio.to_thread(_with_foreign_picture, report, directory)
    assert "CONSOLE" in await _chromium(curious, picture), "the check itself sees nothing"


def _with_foreign_picture(report: Path, directory: Path) -> Path:
    page = directory / "curious.html"
    page.write_text(report.read_text().replace("<h1>", '<img src="http://127.0.0.1:9/x"><h1>'))
    return page


async def _chromium(page: Path, picture: Path) -> str:
    options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
    quiet = ("--no-first-run", "--disable-background-networking", "--enable-logging=stderr")
    profile = f"--user-data-dir={picture.parent / 'profile'}"
    shot = (f"--screenshot={picture}", "--window-size=1000,3000")
    ended = await finished("chromium", *options, *quiet, profile, *shot, page.as_uri())
    assert ended.code == 0, ended.text
    return ended.text


async def test_carts_that_move_break_the_objectives(tmp_path: Path) -> None:
    """Without stickiness the assertion of Checkout fails, and with it the run."""
    report = tmp_path / "report.html"
    who = ("--classes", "Checkout,Api", "--users", "10", "--pauses", "0.2", "--without-stickiness")
    how = ("--shape", "ramp", "--seconds", "2", "--workers", "1")
    ended = await loadtests(*who, *how, "--report", report)
    assert ended.code == 1, ended.text
    data = json.loads(report.with_suffix(".json").read_text())
    assert data["classes"]["Checkout"]["failures"]["cart moved"] > 0
    assert data["classes"]["Api"]["failures"] == {}
    # The worker has reported to the last request.
    assert sum(s["requests"] for s in data["seconds"]) == data["locust"]["total"]["requests"]
    (row,) = data["agreement"]
    assert abs(row["locust"] - row["weirgate"]) <= 2
    broken = [(v["who"], v["what"]) for v in data["verdicts"] if not v["holds"]]
    assert ("Checkout", "failures 'cart moved' in percent") in broken
    assert "FAILED" in report.read_text()


async def test_public_targets_are_refused() -> None:
    for arguments in (
        ("--target", "93.184.216.34"),
        ("--target", "127.0.0.1", "--admin", "edge=http://93.184.216.34:9900"),
    ):
        ended = await loadtests(*arguments, "--users", "1", "--seconds", "1")
        assert ended.code == 2
        assert "a public address" in ended.text


async def test_a_fault_is_seen_second_by_second(tmp_path: Path) -> None:
    """The load for drills: failures with their messages, and nothing that a client hides."""
    await asyncio.to_thread(_watch_a_fault, tmp_path)


def _watch_a_fault(directory: Path) -> None:
    port = free_port()
    with mute() as endpoint:
        with application("tcp_echo", port, directory) as app:
            target = Target("here", "127.0.0.1", endpoint.port, tcp=port)
            classes = ("Browse", "TcpEcho")
            with load_in_background(
                target, directory, users=8, classes=classes, pauses=0.3
            ) as load:
                assert wait_until(lambda: len(load.seconds()) >= 2, 20, 0.1)
                app.stop()
                pause(1.5)
            seconds = load.seconds()
        asked = endpoint.asked
    cells = [second.by_class["TcpEcho"] for second in seconds if "TcpEcho" in second.by_class]
    assert cells[1].failures == {}
    assert cells[1].quantile_ms(0.99) is not None
    assert [m for cell in cells[-2:] for m in cell.failures if "ConnectionRefusedError" in m]
    assert [s.at for s in seconds] == list(range(seconds[0].at, seconds[-1].at + 1))
    browse = [second.by_class["Browse"] for second in seconds if "Browse" in second.by_class]
    # Each request was sent once, and each was counted as a failure.
    assert sum(cell.failed for cell in browse) == sum(cell.requests for cell in browse) == asked


async def test_the_layers_are_compared(tmp_path: Path) -> None:
    if missing := [name for name in ("nginx", "wrk") if shutil.which(name) is None]:
        pytest.skip(f"not installed: {missing}")
    page, figures = tmp_path / "page.md", tmp_path / "tiers.json"
    command = (sys.executable, "-m", "loadtests.tiers", "--seconds", "0.3", "--quick")
    where = ("--page", page, "--json", figures)
    ended = await finished(*command, *where, env=environment(), within_s=120)
    assert ended.code == 0, ended.text
    data = json.loads(figures.read_text())
    assert data["errors"] == []
    seen = {row["tried"]: row["seen"] for row in data["sights"]}
    client = seen["the client is 127.0.0.77; the application sees"]
    assert client["handoff"] == client["proxy"] == "127.0.0.77 (`X-Forwarded-For`)"
    assert client["layer 4"].startswith("127.0.0.1; 127.0.0.77 where")
    killed = seen["the edge process is killed while a connection is open"]
    assert killed["handoff"] == "the connection goes on (200)"
    assert killed["layer 4"] == killed["proxy"] == "the connection breaks"
    assert [text for row in seen.values() for text in row.values() if "failed:" in text] == []
    assert len(data["log_lines"]) == 4
    for way in ("layer 4", "handoff", "proxy"):
        assert data["figures"]["sixteen"][way]["cpu_us"]["median"] > 0
    text = page.read_text()
    assert "--quick" in text
    page.write_text(text.replace("# Layer 4", "# Our own words about layer 4"))
    words = "from loadtests.tiers import words; import json, sys; from pathlib import Path; "
    again = f"words.insert(Path({str(page)!r}), words.tables(json.load(open({str(figures)!r}))))"
    ended = await finished(sys.executable, "-c", words + again, env=environment())
    assert ended.code == 0, ended.text
    assert page.read_text() == text.replace("# Layer 4", "# Our own words about layer 4")
