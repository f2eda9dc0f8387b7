"""The command line: what each verb prints, where, and the exit code that it ends with."""

import http.server
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from weirgate.shared import native
from weirgate.shared.cli.main import app
from weirgate.shared.testing import Configuration, free_port

GOOD = Configuration().listen("web").route("all", respond={"body": "hello"})
COMMAND = (sys.executable, "-P", "-m", "weirgate.shared.cli.main")


def weirgate(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.yaml"
    GOOD.write(path)
    return path


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    path = tmp_path / "bad.yaml"
    path.write_text('listeners: {web: {bind: "127.0.0.1:99999"}}\nrouts: []\n')
    return path


VERBS = (
    "up", "check", "status", "reload", "drain", "undrain", "shun", "shun add", "shun del",
    "shun list", "top", "doctor", "demo", "schema", "version",
)  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_documents_its_exit_codes(verb: str) -> None:
    result = weirgate(*verb.split(), "--help")
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    for code in ("0 ok", "1 the configuration", "2 wrong usage", "3 cannot start", "4 no instance"):
        assert code in text
    assert "5 not in time" in text
    assert "6 not ready" in text


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; sys.argv = ['weirgate', '--help']\n"
        "from weirgate.shared.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'pydantic', 'httpx', 'starlette', 'uvloop', 'yaml'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "[]"


def test_children_import_nothing_that_only_the_supervisor_needs() -> None:
    program = (
        "import sys, weirgate.edge.process, weirgate.appgw.process\n"
        "early = {'asyncio', 'starlette', 'uvicorn', 'ssl'} & set(sys.modules)\n"
        "import weirgate.shared.control.child\n"
        "heavy = {'pydantic', 'yaml', 'httpx', 'rich', 'typer', 'dns', 'uvloop'}\n"
        "late = heavy & set(sys.modules)\n"
        "print(sorted(early), sorted(late))"
    )
    result = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[] []\n"


def test_check_accepts_a_good_file(good: Path) -> None:
    result = weirgate("check", good)
    assert (result.exit_code, result.stdout) == (0, f"{good}: ok\n")
    answer = json.loads(weirgate("check", good, "--json").stdout)
    assert answer == {"ok": True, "problems": []}


def test_check_reports_every_problem_on_stderr(bad: Path) -> None:
    result = weirgate("check", bad)
    assert result.exit_code == 1
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert lines[-1] == f"{bad}: 2 errors"
    assert all(line.startswith(f"{bad}:") for line in lines)
    answer = json.loads(weirgate("check", bad, "--json").stdout)
    assert answer["ok"] is False
    assert [problem["line"] for problem in answer["problems"]] == [1, 2]


def test_check_asks_the_data_planes_too(tmp_path: Path) -> None:
    # the schema has no opinion on a key that is PEM but no key
    path = tmp_path / "tls.yaml"
    pem = "-----BEGIN {0}-----\nAAAA\n-----END {0}-----\n"
    (tmp_path / "c.pem").write_text(pem.format("CERTIFICATE"))
    (tmp_path / "k.pem").write_text(pem.format("PRIVATE KEY"))
    certificates = {"certificates": [{"cert": "c.pem", "key": "k.pem"}]}
    config = Configuration().listen("web", tls=certificates).route("all", respond={"body": "x"})
    config.write(path)
    result = weirgate("check", path)
    assert result.exit_code == 1
    assert "listeners.web.tls" in result.stderr


def test_an_admin_api_open_to_the_network_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "open.yaml"
    config = Configuration().listen("web").route("all", respond={"body": "x"})
    config.data["admin"]["bind"] = "0.0.0.0:9900"
    config.write(path)
    result = weirgate("check", path)
    assert result.exit_code == 1
    assert "admin.bind" in result.stderr
    assert ": error " in result.stderr


def test_wrong_usage_is_2() -> None:
    assert weirgate("check").exit_code == 2
    assert weirgate("up", "x.yaml", "--workers", "0").exit_code == 2
    assert weirgate("no-such-verb").exit_code == 2
    for wrong in ("add example.com", "del 10.0.0.0/33", "add 10.0.0.1 --ttl 10", "add ::1 --ttl 0"):
        done = weirgate("shun", *wrong.split())
        assert done.exit_code == 2
        assert ", wanted " in done.stderr


def test_up_refuses_a_bad_file_before_it_binds_anything(bad: Path) -> None:
    result = weirgate("up", bad)
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 2
    assert weirgate("up", bad.with_name("missing.yaml")).exit_code == 1


def test_up_cannot_start_where_ports_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "taken.yaml"
    with (
        socket.create_server(("127.0.0.1", 0)) as web,
        socket.create_server(("127.0.0.1", 0)) as admin,
    ):
        config = Configuration().listen("web", bind=f"127.0.0.1:{web.getsockname()[1]}")
        config.route("all", respond={"body": "x"})
        config.data["admin"]["bind"] = f"127.0.0.1:{admin.getsockname()[1]}"
        config.write(path)
        result = subprocess.run(
            [*COMMAND, "up", path], capture_output=True, text=True, check=False, timeout=60
        )
    assert result.returncode == 3
    first, second = result.stderr.splitlines()
    assert first.startswith("weirgate: web: cannot listen on 127.0.0.1:")
    assert second.startswith("weirgate: admin: cannot listen on 127.0.0.1:")
    assert "(pid " in first


def test_schema_is_json_schema_and_version_is_the_packages() -> None:
    document = json.loads(weirgate("schema").stdout)
    assert {"listeners", "pools", "routes"} <= document["properties"].keys()
    assert weirgate("version").stdout == f"weirgate {native.__version__}\n"
    assert json.loads(weirgate("version", "--json").stdout)["native"] == native.__version__


STATUS = {
    "version": "0.1.0",
    "ready": True,
    "draining": False,
    "generation": 3,
    "uptime_seconds": 4000.0,
    "processes": [
        {
            "name": "gateway-0",
            "state": "down",
            "pid": None,
            "uptime_seconds": None,
            "restarts": 2,
            "connections": None,
            "requests_in_flight": None,
            "requests_total": None,
            "resident_bytes": None,
        }
    ],
    "listeners": [
        {
            "name": "web",
            "address": "127.0.0.1:80",
            "protocol": "http",
            "tls": True,
            "connections": 1,
            "accepted_total": 22,
            "refused_total": 0,
        }
    ],
    "pools": [
        {
            "name": "api",
            "balance": "least_request",
            "endpoints": [
                {
                    "address": "10.0.0.1:80",
                    "state": "down",
                    "checked": True,
                    "ejected": 1,
                    "weight": 1,
                    "connections": 0,
                    "requests_in_flight": 0,
                    "requests_total": 5,
                    "connect_failures": 4,
                    "last_error": "status 503 [red]",
                }
            ],
        }
    ],
}


@contextmanager
def answering(status: int, body: bytes) -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            asked.append(f"{self.command} {self.path} {self.headers.get('authorization')}")
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = answer  # noqa: N815 - the names that http.server looks for

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", asked
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "document", "code", "text"),
    [
        (202, {"result": "draining", "target": "p/a:1"}, 0, "p/a:1: draining\n"),
        (200, {"result": "finishing", "target": "g"}, 0, "g: its process finishes"),
        (409, {"result": "refused", "target": "p/a:1", "error": "the last"}, 1, "the last\n"),
        (404, {"result": "unknown", "target": "x", "error": "nothing here"}, 2, "nothing here\n"),
        (422, {"result": "refused", "error": "bad"}, 1, "bad\n"),
    ],
)
def test_drain_says_how_it_went(
    status: int, document: dict[str, str], code: int, text: str
) -> None:
    with answering(status, json.dumps(document).encode()) as (url, asked):
        ended = weirgate("drain", "p/a:1", "--deadline", "1.5s", "--force", "--admin", url)
        assert ended.exit_code == code
        assert text in ended.output
        shown = weirgate("undrain", "p/a:1", "--json", "--admin", url)
        assert (shown.exit_code, json.loads(shown.stdout)) == (code, document)
    assert asked[0].startswith("POST /drain?target=p%2Fa%3A1&by=")
    assert "&force=true&replace=false&deadline_ms=1500 " in asked[0]
    assert asked[1].startswith("POST /undrain?target=p%2Fa%3A1&by=")


def test_top_wants_a_terminal_and_a_known_order() -> None:
    assert weirgate("top").exit_code == 2
    assert weirgate("top", "--json").exit_code == 2
    assert weirgate("top", "--once", "--sort", "colour").exit_code == 2


def test_status_shows_tables_or_the_document_itself() -> None:
    with answering(200, json.dumps(STATUS).encode()) as (url, asked):
        result = weirgate("status", "--admin", url, "--token", "s3cret")
        assert result.exit_code == 0
        for word in ("ready", "generation 3", "up 1.1h", "gateway-0", "http over TLS", "22"):
            assert word in result.stdout
        assert "10.0.0.1:80: status 503 [red]" in result.stdout
        assert json.loads(weirgate("status", "--admin", url, "--json").stdout) == STATUS
    assert asked == ["GET /status Bearer s3cret", "GET /status None"]


def test_status_shows_what_was_discovered_and_what_is_wrong_there() -> None:
    problem = "container a: label weirgate.pol: error WG-C012: got [red] nonsense"
    source = {
        "source": "docker", "state": "error", "error": "unix:///x: connection refused",
        "since": 0, "objects": 17, "not_up": {"container b": "down (unhealthy)"},
        "problems": {"container a": [problem]},
    }  # fmt: skip
    with answering(200, json.dumps({**STATUS, "discovery": [source]}).encode()) as (url, _):
        shown = " ".join(weirgate("status", "--admin", url).stdout.split())
    for words in (
        "Discovery",
        "docker error",
        "d ago 17 1",
        "x: connection refused",
        problem,
        "container b: down (unhealthy)",
    ):
        assert words in shown


@pytest.mark.parametrize(
    ("status", "result", "code"), [(200, "applied", 0), (200, "unchanged", 0), (422, "refused", 1)]
)
def test_reload_says_how_it_went(status: int, result: str, code: int) -> None:
    outcome = {"result": result, "generation": 2, "warnings": ["w 1"], "errors": ["e 1"]}
    with answering(status, json.dumps(outcome).encode()) as (url, asked):
        ended = weirgate("reload", "--admin", url)
        assert ended.exit_code == code
        assert f"{result}: generation 2" in ended.output
        assert ended.stderr.splitlines()[:2] == ["w 1", "e 1"]
    assert asked == ["POST /reload None"]


@pytest.mark.parametrize(
    "verb",
    [
        "status", "reload", "drain x/*", "drain x/* --wait", "undrain x/*", "top --once",
        "shun add 10.0.0.1", "shun del 10.0.0.1", "shun list",
    ],
)  # fmt: skip
def test_no_instance_is_4(verb: str) -> None:
    result = weirgate(*verb.split(), "--admin", f"http://127.0.0.1:{free_port()}")
    assert result.exit_code == 4
    assert result.stderr.startswith("weirgate: http://127.0.0.1:")


@pytest.mark.parametrize(
    ("status", "body"), [(200, b"<html>"), (200, b"[]"), (401, b'{"error": "a token is needed"}')]
)
def test_what_is_not_a_node_or_refuses_is_4(status: int, body: bytes) -> None:
    with answering(status, body) as (url, _):
        assert weirgate("status", "--admin", url).exit_code == 4


@pytest.mark.parametrize(
    ("status", "body", "code", "word"),
    [
        (200, {"ready": True, "draining": False}, 0, "ready"),
        (503, {"ready": False, "draining": True}, 6, "draining"),
        (503, {"ready": False, "draining": False}, 6, "not ready"),
        (200, {"ready": True, "draining": True}, 6, "draining"),
        (200, ["ready"], 4, ""),
        (404, {"error": "no"}, 4, ""),
    ],
)
def test_status_ready_is_for_probes(status: int, body: object, code: int, word: str) -> None:
    with answering(status, json.dumps(body).encode()) as (admin, _):
        result = weirgate("status", "--ready", "--admin", admin)
    assert (result.exit_code, result.stdout.strip()) == (code, word)


def test_status_ready_says_that_nobody_answers() -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    assert weirgate("status", "--ready", "--admin", nobody).exit_code == 4
    assert weirgate("status", "--ready", "--admin", "ftp://x").exit_code == 4


def test_status_ready_imports_little() -> None:
    program = (
        "import sys; from weirgate.shared.cli import ready\n"
        "print(sorted({'pydantic', 'httpx', 'rich', 'starlette'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, check=True)
    assert done.stdout == b"[]\n"
