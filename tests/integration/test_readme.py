"""What README.md tells a reader to do first: the smallest file runs, and says why it refuses."""

import re
from pathlib import Path

import httpx
import pytest
import yaml

from tests.support.origin import echoed, one_origin
from tests.support.processes import children, end
from tests.support.weirgate import EDGE, GATEWAY, start
from tests.support.wire import get
from weirgate.shared.testing import eventually, free_port

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]


async def test_the_smallest_file_serves_with_as_many_gateways_as_asked_for(tmp_path: Path) -> None:
    """``weirgate up FILE --workers N``, with the ports of this test in the file."""
    port, admin = free_port(), free_port()
    async with one_origin() as origin:
        text = (ROOT / "examples/minimal.yaml").read_text(encoding="utf-8")
        text = text.replace(":8080", f":{port}").replace(":8000", f":{origin.port}")
        file = tmp_path / "minimal.yaml"
        file.write_text(f'{text}admin: {{bind: "127.0.0.1:{admin}"}}\n')
        process = await start("up", file, "--workers", "3", directory=tmp_path)
        try:
            await eventually(lambda: _serves(admin), within_s=20, what="the node")
            assert echoed(await get(port, "/hello")).target == "/hello"
            assert len(children(process.pid, EDGE)) == 1
            assert len(children(process.pid, GATEWAY)) == 3
        finally:
            assert await end(process) == 0, (tmp_path / "weirgate.log").read_text()


async def test_a_request_without_a_route_is_answered_as_the_readme_shows(tmp_path: Path) -> None:
    """``curl http://127.0.0.1:8080/nope``."""
    shown = (ROOT / "README.md").read_text(encoding="utf-8").partition("/nope")[2]
    lines = shown.partition("```")[0].splitlines()[1:]
    port, admin = free_port(), free_port()
    file = tmp_path / "no-route.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "listeners": {"web": {"bind": f"127.0.0.1:{port}"}},
                "routes": [{"name": "shop", "match": {"path": "/shop"}, "respond": {}}],
                "admin": {"bind": f"127.0.0.1:{admin}"},
            }
        )
    )
    process = await start("up", file, directory=tmp_path)
    try:
        await eventually(lambda: _serves(admin), within_s=20, what="the node")
        body = (await get(port, "/nope")).body.decode().splitlines()
    finally:
        assert await end(process) == 0, (tmp_path / "weirgate.log").read_text()
    assert body[:-1] == lines[:-1]
    request = r"request: [0-9a-f]{32}-1"
    assert re.fullmatch(request, lines[-1])
    assert re.fullmatch(request, body[-1])


async def _serves(admin: int) -> bool:
    async with httpx.AsyncClient(trust_env=False) as client:
        try:
            answer = await client.get(f"http://127.0.0.1:{admin}/health")
        except httpx.TransportError:
            return False
        return answer.status_code == 200
