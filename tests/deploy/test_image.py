"""The image: small, of one user, on a read-only root; it drains, and says what it is made of."""

import asyncio
import importlib.metadata
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from packageurl import PackageURL
from scripts.image.base import choose
from scripts.image.engine import run, size_bytes

from tests.support.images import Images, published
from weirgate.shared.testing import eventually

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(1200)]

MOST_OVER_BASE_BYTES = 120_000_000
#: What an operator would ask for, and a cluster demands.
CLOSED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")


@pytest.fixture
def container(images: Images) -> Iterator[str]:
    """The image as it stands, without any right, published on a port of loopback."""
    name = f"weirgate-test-{uuid.uuid4().hex[:8]}"
    run(["docker", "run", "-d", "--name", name, *CLOSED, "-p", "127.0.0.1::8080", images.weirgate])
    try:
        yield name
    finally:
        run(["docker", "rm", "--force", name])


def inspect(name: str) -> dict[str, Any]:
    return dict(json.loads(run(["docker", "inspect", name]))[0])


async def test_it_serves_drains_and_ends_well(container: str) -> None:
    port = published(container, 8080)

    async def answers() -> str | None:
        try:
            async with httpx.AsyncClient(trust_env=False) as client:
                answer = await client.get(f"http://127.0.0.1:{port}/")
                return answer.text
        except httpx.HTTPError:
            return None

    assert "Weirgate runs" in await eventually(answers, within_s=30)
    await eventually(
        lambda: inspect(container)["State"]["Health"]["Status"] == "healthy", within_s=40
    )
    assert run(["docker", "exec", container, "weirgate", "status", "--ready"]) == "ready\n"
    assert "ready" in run(["docker", "exec", container, "weirgate", "status"])
    user = run(["docker", "exec", container, "id", "-u"]).strip()
    assert user == "65532"
    await asyncio.to_thread(run, ["docker", "stop", "--time", "20", container])
    assert inspect(container)["State"]["ExitCode"] == 0
    assert "drained" in run(["sh", "-c", f"docker logs {container} 2>&1"])


def test_it_is_small_and_labelled(images: Images) -> None:
    config = inspect(images.weirgate)["Config"]
    assert config["User"] == "65532:65532"
    assert config["Entrypoint"] == ["weirgate"]
    assert config["Healthcheck"]["Test"] == ["CMD", "weirgate-ready"]
    labels = config["Labels"]
    assert labels["org.opencontainers.image.version"] == importlib.metadata.version("weirgate")
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.revision"] not in {"", "unknown"}
    over = size_bytes(images.weirgate) - size_bytes(choose(None))
    assert 0 < over <= MOST_OVER_BASE_BYTES


@pytest.mark.parametrize("role", ["edge", "gateway", "up"])
def test_check_in_the_image_knows_every_role(images: Images, role: str, tmp_path: Path) -> None:
    file = Path(__file__).parents[2] / "examples" / "two-hosts.yaml"
    mount = f"{file}:/etc/weirgate/weirgate.yaml:ro"
    command = ["docker", "run", "--rm", *CLOSED, "--network", "none", "-v", mount, images.weirgate]
    said = run([*command, "check", "/etc/weirgate/weirgate.yaml", "--role", role])
    assert said == "/etc/weirgate/weirgate.yaml: ok\n"


def test_its_list_of_parts_has_both_languages(images: Images) -> None:
    command = ["docker", "run", "--rm", "--network", "none", "--entrypoint", "cat", images.weirgate]
    document = json.loads(run([*command, "/usr/share/doc/weirgate/sbom.cdx.json"]))
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    parts = [PackageURL.from_string(part["purl"]) for part in document["components"]]
    names = {(part.type, part.name) for part in parts}
    assert {
        ("cargo", "rustls"),
        ("cargo", "h2"),
        ("pypi", "pydantic"),
        ("pypi", "uvicorn"),
    } <= names
    # what tests and builds need is in no image
    assert not names & {("pypi", "pytest"), ("cargo", "proptest"), ("pypi", "locust")}
    assert all(part["hashes"] for part in document["components"])
    folder = f"/opt/weirgate/lib/{images.python}/site-packages"
    command[command.index("cat")] = "ls"
    installed = run([*command, folder])
    found = {line.partition("-")[0].lower() for line in installed.split() if "dist-info" in line}
    listed = {p.name.replace("-", "_").lower() for p in parts if p.type == "pypi"}
    assert found == {name.replace(".", "_") for name in listed} | {"weirgate"}
