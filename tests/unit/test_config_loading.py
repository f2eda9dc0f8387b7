"""Loading: what comes back, what is reported, and that nothing is guessed or leaked."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from weirgate.shared.config import ConfigErrors, Loaded, compile_snapshot, load
from weirgate.shared.config.document import MAX_NODES, scalar
from weirgate.shared.config.source import MAX_FILE_BYTES, MAX_FILES
from weirgate.shared.errors import WeirgateError

GOOD = """\
listeners: {web: {bind: "0.0.0.0:80"}}
pools: {app: {endpoints: ["10.0.0.1:8000"]}}
routes: [{pool: app}]
"""
SECRET = "0123456789abcdef" * 4
NOBODY = 65534


def write(directory: Path, text: str, name: str = "weirgate.yaml") -> Path:
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def errors(path: Path, environ: dict[str, str] | None = None) -> ConfigErrors:
    with pytest.raises(ConfigErrors) as caught:
        load(path, environ or {})
    return caught.value


def codes(path: Path, environ: dict[str, str] | None = None) -> list[str]:
    return [problem.code for problem in errors(path, environ).problems]


def value_of(loaded: Loaded) -> dict[str, object]:
    return compile_snapshot(loaded, cookie_secret="00" * 32).value


@contextmanager
def as_nobody() -> Iterator[None]:
    """Give up root's right to read everything; nothing changes for an ordinary user."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_good_file_gives_the_model_and_names_what_was_read(tmp_path: Path) -> None:
    path = write(tmp_path, "include: more.yaml\n" + GOOD)
    more = write(tmp_path, "pools: {other: {endpoints: []}}\n", "more.yaml")
    loaded = load(path, {})
    assert loaded.path == path
    assert loaded.files == [path, more]
    assert list(loaded.config.pools) == ["app", "other"]
    assert [warning.code for warning in loaded.warnings] == ["WG-C102", "WG-C103"]
    assert {warning.severity for warning in loaded.warnings} == {"warning"}


def test_the_error_is_a_weirgate_error_whose_text_has_each_problem(tmp_path: Path) -> None:
    error = errors(write(tmp_path, GOOD + "gateway: {worker: 1, limit: 2}\n"))
    assert isinstance(error, WeirgateError)
    assert str(error).splitlines() == [problem.render() for problem in error.problems]
    assert len(error.problems) == 2


def test_a_problem_is_data_too(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + "drain: {timeot: 3s}\n")
    (problem,) = errors(path).problems
    assert json.loads(json.dumps(problem.as_dict())) == {
        "code": "WG-C012",
        "severity": "error",
        "file": str(path),
        "line": 4,
        "column": 9,
        "path": "drain.timeot",
        "got": 'the unknown key "timeot"',
        "wanted": "one of timeout, idle",
        "hint": 'did you mean "timeout"?',
    }


def test_problems_come_in_the_order_of_files_and_lines(tmp_path: Path) -> None:
    text = (
        'include: z.yaml\nroutes: [{pool: b}]\nlisteners: {web: {bind: "x:1"}}\nlogs: {levl: 3}\n'
    )
    path = write(tmp_path, text)
    write(tmp_path, "drain: {a: 1}\n", "z.yaml")
    found = errors(path).problems
    places = [(Path(p.file).name, p.line) for p in found]
    assert places == [
        ("weirgate.yaml", 2),
        ("weirgate.yaml", 3),
        ("weirgate.yaml", 4),
        ("z.yaml", 1),
    ]


def test_a_missing_file_and_a_directory_are_reported(tmp_path: Path) -> None:
    assert codes(tmp_path / "nowhere.yaml") == ["WG-C001"]
    assert codes(tmp_path) == ["WG-C001"]


def test_a_file_that_may_not_be_read_is_reported(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    path.chmod(0)
    with as_nobody():
        (problem,) = errors(path).problems
    assert (problem.code, "permission denied" in problem.got) == ("WG-C001", True)


def test_a_key_that_may_not_be_read_is_named_at_its_place(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    text = GOOD.replace('80"', '443", tls: {certificates: [{cert: a.pem, key: a.key}]}')
    loaded = load(write(tmp_path, text), {})
    (tmp_path / "a.key").touch(mode=0)
    (tmp_path / "a.pem").touch(mode=0)
    with as_nobody(), pytest.raises(ConfigErrors) as caught:
        compile_snapshot(loaded, cookie_secret="00" * 32)
    found = [(p.code, p.path, p.line) for p in caught.value.problems]
    place = "listeners.web.tls.certificates[0]"
    assert found == [("WG-C050", f"{place}.cert", 1), ("WG-C050", f"{place}.key", 1)]
    assert "may not read" in caught.value.problems[0].got


def test_a_huge_file_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    path = write(tmp_path, "#" * (MAX_FILE_BYTES + 1))
    assert codes(path) == ["WG-C001"]


def test_too_many_included_files_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "include: many/*.yaml\n" + GOOD)
    for number in range(MAX_FILES + 1):
        write(tmp_path, "{}", f"many/{number}.yaml")
    assert set(codes(path)) == {"WG-C006"}


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    path = write(tmp_path, "\ufeff" + GOOD)
    assert load(path, {}).warnings == []


def test_json_is_yaml(tmp_path: Path) -> None:
    text = json.dumps({"listeners": {"web": {"bind": "0.0.0.0:80"}}, "routes": [{"respond": {}}]})
    assert load(write(tmp_path, text), {}).config.routes[0].respond is not None


def test_a_file_that_two_patterns_match_is_read_once(tmp_path: Path) -> None:
    path = write(
        tmp_path, 'include: ["a*.yaml", "*z.yaml"]\nlisteners: {web: {bind: "0.0.0.0:80"}}\n'
    )
    write(tmp_path, "routes: [{name: only, respond: {}}]\n", "a-z.yaml")
    assert [route.name for route in load(path, {}).config.routes] == ["only"]


def test_an_empty_include_directory_is_no_error(tmp_path: Path) -> None:
    path = write(tmp_path, "include: conf.d/*.yaml\n" + GOOD)
    assert load(path, {}).files == [path]


def test_included_routes_follow_in_the_order_of_file_names(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        'include: "conf.d/*.yaml"\n'
        + GOOD.replace("{pool: app}", "{name: a, match: {path: /a}, pool: app}"),
    )
    for name in ("20", "10", "15"):
        text = f"routes: [{{name: r{name}, match: {{path: /{name}}}, pool: app}}]\n"
        write(tmp_path, text, f"conf.d/{name}.yaml")
    names = [route.name for route in load(path, {}).config.routes]
    assert names == ["a", "r10", "r15", "r20"]


def test_an_error_in_an_included_route_is_placed_in_its_file(tmp_path: Path) -> None:
    path = write(tmp_path, "include: more.yaml\n" + GOOD)
    more = write(tmp_path, "\n\nroutes: [{pool: app, match: {path: x}}]\n", "more.yaml")
    (problem,) = errors(path).problems
    assert (problem.file, problem.line) == (str(more), 3)
    assert problem.path == "routes[1].match.path"


def test_certificates_are_relative_to_the_file_that_names_them(tmp_path: Path) -> None:
    path = write(tmp_path, "include: sub/tls.yaml\nroutes: [{respond: {}}]\n")
    text = (
        'listeners: {web: {bind: "0.0.0.0:443", tls: {certificates: [{cert: c.pem, key: k.pem}]}}}'
    )
    write(tmp_path, text, "sub/tls.yaml")
    write(tmp_path, "-----BEGIN CERTIFICATE-----\nYQ==\n-----END CERTIFICATE-----\n", "sub/c.pem")
    write(
        tmp_path,
        "-----BEGIN EC PRIVATE KEY-----\nYQ==\n-----END EC PRIVATE KEY-----\n",
        "sub/k.pem",
    )
    assert "BEGIN CERTIFICATE" in json.dumps(value_of(load(path, {})))


def test_a_relative_log_file_becomes_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, GOOD + "logs: {access: {to: logs/access.log}}\n")
    monkeypatch.chdir(tmp_path)
    logs = value_of(load(Path("weirgate.yaml"), {}))["logs"]
    assert isinstance(logs, dict)
    assert logs["access_to"] == str(tmp_path / "logs/access.log")


def test_the_configured_secret_wins_over_the_argument(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + f'gateway: {{cookie_secret: "{SECRET}"}}\n')
    gateway = value_of(load(path, {}))["gateway"]
    assert isinstance(gateway, dict)
    assert gateway["cookie_secret"] == SECRET


def test_a_secret_from_the_environment_may_name_a_file(tmp_path: Path) -> None:
    write(tmp_path, SECRET + "\n", "secret")
    path = write(tmp_path, GOOD + 'gateway: {cookie_secret: "${WHERE}"}\n')
    gateway = value_of(load(path, {"WHERE": "file:secret"}))["gateway"]
    assert isinstance(gateway, dict)
    assert gateway["cookie_secret"] == SECRET


def test_a_bad_argument_for_the_secret_is_the_callers_error(tmp_path: Path) -> None:
    loaded = load(write(tmp_path, GOOD), {})
    with pytest.raises(ValueError, match="64 lower-case hex digits"):
        compile_snapshot(loaded, cookie_secret="short")


def test_secrets_are_in_no_printed_form(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + f'gateway: {{cookie_secret: "{SECRET}"}}\n')
    loaded = load(path, {})
    snapshot = compile_snapshot(loaded, cookie_secret="00" * 32)
    printed = f"{loaded!r} {loaded.config.model_dump_json()} {snapshot!r}"
    assert SECRET not in printed


@pytest.mark.parametrize(
    "value",
    [f'"{SECRET}!"', "[{0}]", "{{a: {0}}}", "{0}{0}"],
    ids=["bad", "list", "mapping", "long"],
)
def test_a_bad_secret_is_not_echoed(tmp_path: Path, value: str) -> None:
    path = write(tmp_path, GOOD + f"gateway: {{cookie_secret: {value.format(SECRET)}}}\n")
    assert SECRET[:8] not in str(errors(path))


def test_the_process_environment_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEIRGATE_TEST_PORT", "8123")
    path = write(tmp_path, GOOD.replace(":80", ":${WEIRGATE_TEST_PORT}", 1))
    assert load(path).config.listeners["web"].bind == ("0.0.0.0:8123",)


def test_an_environment_variable_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD.replace('"10.0.0.1:8000"', '"${HOST}"'))
    assert codes(path, {"HOST": "\udcff"}) == ["WG-C008"]


def test_the_same_configuration_gives_the_same_bytes(tmp_path: Path) -> None:
    one = compile_snapshot(load(write(tmp_path, GOOD), {}), cookie_secret="00" * 32)
    spaced = "# the same\n" + GOOD.replace("{pool: app}", "{ pool:   app }")
    two = compile_snapshot(load(write(tmp_path, spaced, "b.yaml"), {}), cookie_secret="00" * 32)
    other = compile_snapshot(load(write(tmp_path, GOOD), {}), cookie_secret="11" * 32)
    assert (one.data, one.hash) == (two.data, two.hash)
    assert one.hash != other.hash
    assert b": " not in one.data


def test_aliases_count_in_full_and_stop_a_bomb_early(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    assert codes(write(tmp_path, "\n".join(lines))) == ["WG-C006"]
    assert MAX_NODES < 10**6


@pytest.mark.parametrize("text", ["[" * 200_000, "- " * 100_000, "{a: " * 100_000, "? " * 50_000])
def test_deep_nesting_is_refused_without_deep_recursion(tmp_path: Path, text: str) -> None:
    assert set(codes(write(tmp_path, text))) <= {"WG-C002", "WG-C005", "WG-C006"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("True", True),
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("n", "n"),
        ("null", None),
        ("~", None),
        ("", None),
        ("7", 7),
        ("-7", -7),
        ("007", 7),
        ("0o17", 15),
        ("0x1F", 31),
        ("017x", "017x"),
        ("1_000", "1_000"),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1e3", 1000.0),
        (".inf", float("inf")),
        ("-.INF", float("-inf")),
        ("12:30:45", "12:30:45"),
        ("1.2.3", "1.2.3"),
        ("2026-01-01", "2026-01-01"),
        ("=", "="),
        ("٣", "٣"),
    ],
)
def test_unquoted_scalars_have_yaml_1_2_types(text: str, value: object) -> None:
    result = scalar(text)
    assert (type(result), result) == (type(value), value)
