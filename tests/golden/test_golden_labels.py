"""Files with the labels of objects give exactly the snapshot and the messages kept beside them.

``NAME.objects.json`` has what a source would tell, without the labels' prefix.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.golden.test_golden_config import COOKIE_SECRET, ENVIRON, GOLDEN, compare, in_its_role
from weirgate.shared import native
from weirgate.shared.config import (
    ConfigErrors,
    Loaded,
    Snapshot,
    compile_snapshot,
    load,
    problems_from_native,
)
from weirgate.shared.config.discovered import LabelReader, with_discovered
from weirgate.shared.discovery.found import Found, FoundAddress

CASES = sorted((GOLDEN / "labels").glob("*.yaml"))


def found(item: dict[str, Any]) -> Found:
    """Read an object as it is kept."""
    addresses = []
    for address in item.pop("addresses"):
        ports = tuple((name, port) for name, port in address.pop("ports", ()))
        addresses.append(FoundAddress(**address, ports=ports))
    return Found(**item, addresses=tuple(addresses))


def judge(loaded: Loaded) -> tuple[Loaded, Snapshot]:
    """Do what the planner does."""
    whole = in_its_role(loaded)
    snapshot = compile_snapshot(whole, cookie_secret=COOKIE_SECRET)
    refused = problems_from_native(whole, native.validate(snapshot.data))
    if refused:
        raise ConfigErrors(refused)
    return loaded, snapshot


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_labels_give_the_kept_snapshot_and_messages(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    loaded = load(Path(path.name), ENVIRON)
    objects = [found(item) for item in json.loads(path.with_suffix(".objects.json").read_bytes())]
    pieces = LabelReader().read(loaded, {"docker": objects})
    (whole, snapshot), discovered = with_discovered(loaded, pieces, judge)
    assert whole.warnings == []
    pretty = json.dumps(snapshot.value, indent=2, ensure_ascii=False) + "\n"
    compare(path.with_suffix(".snapshot.json"), pretty)
    shown = [p.render() for found in discovered.problems["docker"].values() for p in found]
    compare(path.with_suffix(".errors.txt"), "".join(f"{line}\n" for line in shown))
    without, _ = with_discovered(loaded, {}, judge)
    assert without[1].value["pools"] == judge(loaded)[1].value["pools"]
