"""The watch over files: a change is a reload, once, when it has settled."""

from pathlib import Path

import pytest

from weirgate.shared.config.watched import signature
from weirgate.shared.supervisor.file_watch import FileWatch, Watched

pytestmark = pytest.mark.anyio


class Node:
    """A node with one file; a reload takes it, or refuses."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: Watched = {path: signature(path)}
        self.reloads = 0
        self.refuses = False
        self.watch = FileWatch(lambda: self.files, self.reload)

    async def reload(self) -> None:
        self.reloads += 1
        if not self.refuses:
            self.files = {self.path: signature(self.path)}

    async def looks(self, times: int) -> int:
        before = self.reloads
        for _ in range(times):
            await self.watch.look()
        return self.reloads - before


@pytest.fixture
def node(tmp_path: Path) -> Node:
    path = tmp_path / "deny.txt"
    path.write_text("10.0.0.0/8\n")
    return Node(path)


async def test_nothing_changes_nothing_happens(node: Node) -> None:
    assert await node.looks(3) == 0
    node.files = {}
    assert await node.looks(3) == 0


async def test_a_change_is_one_reload_once_it_has_settled(node: Node) -> None:
    node.path.write_text("10.0.0.0/8\n11")  # a writer that is half through
    assert await node.looks(1) == 0
    node.path.write_text("10.0.0.0/8\n11.0.0.0/8\n")
    assert await node.looks(1) == 0
    assert await node.looks(1) == 1
    assert await node.looks(3) == 0


async def test_a_refused_file_is_not_tried_again_until_it_changes(node: Node) -> None:
    node.refuses = True
    node.path.write_text("broken\n")
    assert await node.looks(5) == 1
    node.path.unlink()
    assert await node.looks(5) == 1
    node.refuses = False
    node.path.write_text("12.0.0.0/8\n")
    assert await node.looks(5) == 1


async def test_a_file_put_in_place_by_rename_is_seen(node: Node) -> None:
    fresh = node.path.with_name("new")
    fresh.write_text("10.0.0.1/8\n")  # the same size, and maybe the same time
    fresh.rename(node.path)
    assert await node.looks(2) == 1


async def test_changes_without_an_end_do_not_keep_a_reload_away(node: Node) -> None:
    reloads = 0
    for number in range(30):
        node.path.write_text(f"10.0.0.0/{8 + number % 16}\n" * (number + 2))
        reloads += await node.looks(1)
    assert 2 <= reloads <= 5


async def test_many_files_changed_at_once_are_one_reload(node: Node) -> None:
    paths = [node.path.with_name(f"{number}.pem") for number in range(100)]
    for path in paths:
        path.write_text("old")
    node.files = {path: signature(path) for path in paths}
    for path in paths:
        path.write_text("newer")
    assert await node.looks(1) == 0
    node.refuses = True
    assert await node.looks(5) == 1


async def test_a_file_that_comes_into_a_directory_is_seen(node: Node) -> None:
    directory = node.path.parent / "certs"
    directory.mkdir()
    node.files = {directory: signature(directory)}
    assert await node.looks(2) == 0
    (directory / "a.pem").write_text("x")
    node.refuses = True
    assert await node.looks(2) == 1
