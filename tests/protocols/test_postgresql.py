"""PostgreSQL: psql and pgbench, in the clear and with the database's own TLS."""

import hashlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import certs, services
from tests.support.peers import tool
from tests.support.processes import finished
from tests.support.weirgate import Running, running
from weirgate.shared.testing import Configuration

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

NAME = "database.test"


@dataclass(frozen=True)
class Site:
    weirgate: Running
    environment: dict[str, str]

    async def run(self, program: str, *arguments: str, **environment: str) -> str:
        """Run a client that is told by its environment where the database is."""
        done = await finished(
            tool(program), *arguments, env={**self.environment, **environment}, within_s=30
        )
        assert done.code == 0, done.text
        return done.text

    async def psql(self, *statements: str, **environment: str) -> str:
        commands = [part for statement in statements for part in ("-c", statement)]
        return await self.run("psql", "--no-psqlrc", "-qAt", *commands, **environment)


@pytest.fixture(scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    directory = tmp_path_factory.mktemp("postgresql")
    tool("pgbench")
    async with services.postgresql(NAME) as peer:
        config = Configuration().listen("database", protocol="tcp", pool="database")
        # PostgreSQL itself resets a connection when its TLS client has said goodbye.
        config.listen("secure", protocol="tcp", pool="database").pool("database", peer.port)
        async with running(config) as weirgate:
            environment = {
                "PGHOST": NAME,
                "PGHOSTADDR": "127.0.0.1",
                "PGPORT": str(weirgate.port("database")),
                "PGUSER": "weirgate",
                "PGDATABASE": "postgres",
                "PGPASSWORD": services.PASSWORD,
                "PGSSLMODE": "disable",
                "PGSSLROOTCERT": str(certs.authority_file(directory)),
            }
            yield Site(weirgate, environment)


async def test_psql_reads_and_writes_much(site: Site, tmp_path: Path) -> None:
    rows = "".join(f"{number}\t{'x' * (number % 500)}\n" for number in range(20_000))
    file, back = tmp_path / "rows", tmp_path / "back"
    file.write_text(rows)
    await site.psql(
        "create table many (number int, text text)",
        f"\\copy many from '{file}'",
        f"\\copy (select * from many order by number) to '{back}'",
    )
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (file, back)]
    assert digests[0] == digests[1]
    entry = await site.weirgate.access.wait_for(lambda e: e["bytes_in"] > len(rows))
    assert entry["bytes_out"] > len(rows)
    assert (entry["listener"], entry["reason"]) == ("database", "")


@pytest.mark.parametrize(
    "environment",
    [
        {"PGSSLMODE": "require"},
        # the certificate is the database's own, and its password proof is bound to it
        {"PGSSLMODE": "verify-full", "PGCHANNELBINDING": "require"},
    ],
    ids=["require", "verify-full"],
)
async def test_psql_starts_tls_with_the_database(site: Site, environment: dict[str, str]) -> None:
    answer = await site.psql(
        "select ssl, version from pg_stat_ssl where pid = pg_backend_pid()",
        "select length(repeat('x', 2000000))",
        PGPORT=str(site.weirgate.port("secure")),
        **environment,
    )
    assert answer.split() == ["t|TLSv1.3", "2000000"]


async def test_pgbench_fails_no_transaction(site: Site) -> None:
    await site.run("pgbench", "--initialize", "--scale=1", "--quiet")
    clients, each = 8, 50
    options = (f"--client={clients}", "--jobs=2", "--no-vacuum")
    for more in (
        ["--protocol=prepared", f"--transactions={each}"],  # its own mix, reads and writes
        ["--connect", "--select-only", f"--transactions={each}"],  # a connection for each
    ):
        said = await site.run("pgbench", *options, *more)
        done = re.search(r"actually processed: (\d+)/(\d+)", said)
        assert done is not None, said
        assert (done[1], done[2]) == (str(clients * each),) * 2
        assert "failed transactions: 0 (0.000%)" in said
    accepted = await site.weirgate.metric("weirgate_edge_accepted_total", listener="database")
    assert accepted > clients * each
    assert await site.weirgate.metric("weirgate_edge_refused_total", listener="database") == 0
