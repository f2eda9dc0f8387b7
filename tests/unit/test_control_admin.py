"""The admin API: what it answers, and whom it turns away."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import httpx
import pytest

from weirgate.shared.addresses import Prefix, parse_prefix
from weirgate.shared.control.admin import application
from weirgate.shared.control.operate import Answer, DrainRequest, ShunRequest, UpgradeRequest
from weirgate.shared.supervisor.reload import Outcome
from weirgate.shared.supervisor.view import redacted

pytestmark = pytest.mark.anyio


class Operator:
    """An operator who answers whatever a test wants, and remembers what was asked."""

    def __init__(self) -> None:
        self.answer = Answer(202, {"result": "draining"})
        self.asked: list[object] = []

    async def drain(self, request: DrainRequest) -> Answer:
        self.asked.append(request)
        return self.answer

    async def undrain(self, target: str, by: str) -> Answer:
        self.asked.append((target, by))
        return self.answer

    async def drains(self, target: str = "") -> Sequence[Mapping[str, Any]]:
        self.asked.append(target)
        return [{"target": "p/a:1"}]

    async def upgrade(self, request: UpgradeRequest) -> Answer:
        self.asked.append(request)
        return self.answer

    async def shun(self, request: ShunRequest) -> Answer:
        self.asked.append(request)
        return self.answer

    async def unshun(self, prefix: Prefix, by: str) -> Answer:
        self.asked.append((str(prefix), by))
        return self.answer

    def shuns(self) -> Sequence[Mapping[str, Any]]:
        return [{"source": "10.0.0.0/8"}]


class Node:
    """A node in whatever state a test wants."""

    def __init__(self) -> None:
        self.state = {"ready": True, "draining": False}
        self.outcome = Outcome("applied", 2, "abc", ("a warning",))
        self.reloads = 0
        self.operator = Operator()

    def health(self) -> Mapping[str, bool]:
        return self.state

    async def metrics(self) -> str:
        return "weirgate_up 1\n"

    async def status(self) -> Mapping[str, Any]:
        return {"processes": []}

    def snapshot(self) -> bytes:
        return redacted({"gateway": {"cookie_secret": "hidden"}})

    async def reload(self) -> Outcome:
        self.reloads += 1
        return self.outcome


@pytest.fixture
def node() -> Node:
    return Node()


@pytest.fixture
async def admin(node: Node) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(application(node))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:9900") as client:
        yield client


@pytest.mark.parametrize(
    ("ready", "draining", "status"),
    [(True, False, 200), (False, False, 503), (True, True, 503), (False, True, 503)],
)
async def test_health_is_good_only_while_traffic_flows(
    admin: httpx.AsyncClient, node: Node, *, ready: bool, draining: bool, status: int
) -> None:
    node.state = {"ready": ready, "draining": draining}
    answer = await admin.get("/health")
    assert (answer.status_code, answer.json()) == (status, node.state)


async def test_metrics_carry_the_format_s_own_type(admin: httpx.AsyncClient) -> None:
    answer = await admin.get("/metrics")
    assert answer.text == "weirgate_up 1\n"
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


async def test_a_reload_answers_with_its_outcome(admin: httpx.AsyncClient, node: Node) -> None:
    answer = await admin.post("/reload")
    assert (answer.status_code, answer.json()["generation"]) == (200, 2)
    node.outcome = Outcome("refused", 2, "abc", errors=("no",))
    answer = await admin.post("/reload")
    assert (answer.status_code, answer.json()["errors"]) == (422, ["no"])
    assert (await admin.get("/reload")).status_code == 405
    assert node.reloads == 2


@pytest.mark.parametrize(
    ("host", "admitted"),
    [
        ("127.0.0.1:9900", True),
        ("[::1]:9900", True),
        ("localhost:9900", True),
        ("10.0.0.3", True),
        ("evil.example:9900", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("[::1", False),
        ("", False),
    ],
)
async def test_a_host_that_is_a_dns_name_is_refused(
    admin: httpx.AsyncClient, host: str, *, admitted: bool
) -> None:
    answer = await admin.get("/status", headers={"host": host})
    assert answer.status_code == (200 if admitted else 421)


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:9900", 200),
        ("http://evil.example", 403),
        ("http://127.0.0.1:8080", 403),
        ("null", 403),
        ("http://[", 403),
    ],
)
async def test_another_site_cannot_call_what_changes_something(
    admin: httpx.AsyncClient, node: Node, origin: str, status: int
) -> None:
    answer = await admin.post("/reload", headers={"origin": origin})
    assert answer.status_code == status
    assert node.reloads == (1 if status == 200 else 0)


async def test_a_token_is_asked_of_everything_but_health(node: Node) -> None:
    transport = httpx.ASGITransport(application(node, token="s3cret"))
    async with httpx.AsyncClient(transport=transport, base_url="http://10.0.0.1") as client:
        assert (await client.get("/health")).status_code == 200
        for wrong in (b"", b"Bearer wrong", b"Bearer s\xe9", b"s3cret"):
            given = {b"authorization": wrong}
            assert (await client.get("/status", headers=given)).status_code == 401
        good = {"authorization": "Bearer s3cret"}
        assert (await client.get("/status", headers=good)).status_code == 200


async def test_a_drain_is_read_from_its_parameters(admin: httpx.AsyncClient, node: Node) -> None:
    full = {"target": "p/*", "by": "alice", "deadline_ms": "1500", "force": "1", "replace": "true"}
    answer = await admin.post("/drain", params=full)
    assert (answer.status_code, answer.json()) == (202, {"result": "draining"})
    node.operator.answer = Answer(409, {"result": "refused", "error": "no"})
    assert (await admin.post("/drain", params={"target": "gateway-1"})).status_code == 409
    await admin.post("/undrain", params={"target": "gateway-1"})
    assert (await admin.get("/drain", params={"target": "x"})).json() == {
        "drains": [{"target": "p/a:1"}]
    }
    assert node.operator.asked == [
        DrainRequest("p/*", "alice", 1.5, force=True, replace=True),
        DrainRequest("gateway-1", "API from 127.0.0.1"),
        ("gateway-1", "API from 127.0.0.1"),
        "x",
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"target": ""},
        {"target": "a\nb"},
        {"target": "x" * 257},
        {"by": "b" * 65},
        {"by": "eve\x1b[2J"},
        {"deadline_ms": "-1"},
        {"deadline_ms": "30s"},
        {"deadline_ms": str(366 * 24 * 3600 * 1000)},
        {"force": "yes"},
        {"replace": ""},
        {"deadline": "30s"},
    ],
    ids=str,
)
async def test_a_drain_with_a_parameter_that_makes_no_sense_is_refused(
    admin: httpx.AsyncClient, node: Node, wrong: dict[str, str]
) -> None:
    answer = await admin.post("/drain", params={"target": "p/a:1", **wrong})
    assert (answer.status_code, answer.json()["result"]) == (422, "refused")
    assert answer.json()["error"]
    assert node.operator.asked == []


async def test_a_shun_is_read_from_its_parameters(admin: httpx.AsyncClient, node: Node) -> None:
    node.operator.answer = Answer(200, {"result": "shunned"})
    full = {"source": "10.1.2.3/8", "by": "alice", "ttl_ms": "1500", "force": "1", "reason": "loud"}
    answer = await admin.post("/shun", params=full)
    assert (answer.status_code, answer.json()) == (200, {"result": "shunned"})
    await admin.post("/shun", params={"source": "2001:db8::1"})
    await admin.delete("/shun", params={"source": "10.0.0.0/8", "by": "bob"})
    assert (await admin.get("/shun")).json() == {"shuns": [{"source": "10.0.0.0/8"}]}
    ten, one = parse_prefix("10.0.0.0/8"), parse_prefix("2001:db8::1")
    assert ten is not None
    assert one is not None
    assert node.operator.asked == [
        ShunRequest(ten, "alice", 1.5, "loud", force=True),
        ShunRequest(one, "API from 127.0.0.1", 600),
        ("10.0.0.0/8", "bob"),
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"source": ""},
        {"source": "example.com"},
        {"source": "10.0.0.0/33"},
        {"source": "fe80::1%eth0"},
        {"ttl_ms": "0"},
        {"ttl_ms": "10m"},
        {"ttl_ms": str(366 * 24 * 3600 * 1000)},
        {"reason": "r" * 201},
        {"reason": "a\nb"},
        {"by": "eve\x1b[2J"},
        {"force": "yes"},
        {"ttl": "10m"},
    ],
    ids=str,
)
async def test_a_shun_with_a_parameter_that_makes_no_sense_is_refused(
    admin: httpx.AsyncClient, node: Node, wrong: dict[str, str]
) -> None:
    answer = await admin.post("/shun", params={"source": "10.0.0.1", **wrong})
    assert (answer.status_code, answer.json()["result"]) == (422, "refused")
    assert answer.json()["error"]
    assert (await admin.delete("/shun", params={"source": "x"})).status_code == 422
    assert node.operator.asked == []


async def test_an_upgrade_is_passed_on_with_what_was_asked(
    admin: httpx.AsyncClient, node: Node
) -> None:
    node.operator.answer = Answer(500, {"result": "failed", "error": "why"})
    answer = await admin.post(
        "/upgrade", params={"target": "edge", "deadline_ms": "1500", "by": "alice"}
    )
    assert (answer.status_code, answer.json()["error"]) == (500, "why")
    assert (await admin.post("/upgrade", params={"target": "edge"})).status_code == 500
    assert node.operator.asked == [
        UpgradeRequest("edge", "alice", 1.5),
        UpgradeRequest("edge", "API from 127.0.0.1"),
    ]


@pytest.mark.parametrize(
    "wrong",
    [{"target": "edge-0"}, {"target": ""}, {"deadline_ms": "1s"}, {"force": "true"}],
    ids=str,
)
async def test_an_upgrade_with_a_parameter_that_makes_no_sense_is_refused(
    admin: httpx.AsyncClient, node: Node, wrong: dict[str, str]
) -> None:
    answer = await admin.post("/upgrade", params={"target": "edge", **wrong})
    assert (answer.status_code, answer.json()["result"]) == (422, "refused")
    assert node.operator.asked == []


async def test_draining_and_shunning_are_guarded_as_reloading_is(node: Node) -> None:
    transport = httpx.ASGITransport(application(node, token="s3cret"))
    async with httpx.AsyncClient(transport=transport, base_url="http://10.0.0.1") as client:
        good = {"authorization": "Bearer s3cret", "origin": "http://evil.example"}
        for method, verb in (
            ("POST", "/drain?target=p/*"),
            ("POST", "/undrain?target=p/*"),
            ("POST", "/upgrade?target=edge"),
            ("POST", "/shun?source=10.0.0.1"),
            ("DELETE", "/shun?source=10.0.0.1"),
        ):
            assert (await client.request(method, verb)).status_code == 401
            assert (await client.request(method, verb, headers=good)).status_code == 403
        assert (await client.get("/shun")).status_code == 401
    assert node.operator.asked == []


async def test_secrets_are_blanked(admin: httpx.AsyncClient) -> None:
    assert (await admin.get("/snapshot")).json() == {"gateway": {"cookie_secret": "***"}}


def test_keys_and_credentials_in_headers_are_blanked_wherever_they_are() -> None:
    text = redacted(
        {
            "listeners": [{"tls": {"certificates": [{"key_pem": "K", "certificate_pem": "C"}]}}],
            "pools": [{"health": {"headers": {"Authorization": "Basic SECRET", "X-A": "1"}}}],
            "routes": [{"filters": [{"set": [["Cookie", "SECRET"], ["x-b", "2"]]}]}],
        }
    ).decode()
    assert "SECRET" not in text
    assert '"K"' not in text
    assert '"C"' in text
    assert '"X-A":"1"' in text
    assert '["x-b","2"]' in text
