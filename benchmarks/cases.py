"""The list of cases: which load makes which figure, and on whom it is put."""

from contextlib import ExitStack

from benchmarks import clients
from benchmarks.bars import Sample
from benchmarks.clients import ClientError
from benchmarks.datagram_case import DatagramCase
from benchmarks.load_case import Bench, LoadCase
from benchmarks.own_cases import EdgeShareCase, IdleCase, RoutesCase, StartupCase
from benchmarks.processes import StartError

ALL = ("weirgate", "haproxy", "nginx", "envoy")
Case = LoadCase | EdgeShareCase | DatagramCase | RoutesCase | IdleCase | StartupCase

CASES: tuple[Case, ...] = (
    LoadCase(
        "keepalive",
        "small GET, keep-alive, plain HTTP, 64 connections",
        ("P1", "P2"),
        ALL,
        lambda b, s, t: clients.wrk(b.ground.cores, s.http, t),
    ),
    LoadCase(
        "close",
        "one request a connection, plain HTTP",
        ("P3",),
        ALL,
        lambda b, s, t: clients.wrk(b.ground.cores, s.http, t, close=True),
    ),
    EdgeShareCase(),
    LoadCase(
        "tls-full",
        "TLS 1.3 full handshake and one request, 400 a second",
        ("P5",),
        ALL,
        lambda b, s, t: clients.handshakes(b.ground.cores, s.https, t, rate=400, resume=False),
        longer=1.5,
    ),
    LoadCase(
        "tls-resumed",
        "TLS 1.3 resumption and one request, 400 a second",
        ("P5",),
        ALL,
        lambda b, s, t: clients.handshakes(b.ground.cores, s.https, t, rate=400, resume=True),
        longer=1.5,
    ),
    LoadCase(
        "https",
        "small GET, keep-alive, HTTPS, 64 connections",
        ("P6",),
        ALL,
        lambda b, s, t: clients.wrk(b.ground.cores, s.https, t, tls=True),
    ),
    LoadCase(
        "p99",
        "small GET, keep-alive, 512 connections",
        ("P7",),
        ALL,
        lambda b, s, t: clients.wrk(b.ground.cores, s.http, t, connections=512),
    ),
    LoadCase(
        "tcp-close",
        "tcp listener, one small exchange a connection",
        ("P8",),
        ("weirgate", "haproxy", "envoy"),
        lambda b, s, t: clients.wrk(b.ground.cores, s.tcp, t, close=True),
        logs_each=False,
    ),
    LoadCase(
        "tcp-bulk",
        "tcp listener, 10 MB downloads",
        ("P9",),
        ("weirgate", "haproxy", "envoy"),
        lambda b, s, t: clients.downloads(b.ground.cores, s.tcp, t),
        value="cpu_s_per_gb",
        per_unit=1,
        logs_each=False,
    ),
    LoadCase(
        "http-bulk",
        "plain HTTP, 10 MB downloads",
        ("P9b",),
        ("weirgate", "haproxy", "envoy"),
        lambda b, s, t: clients.downloads(b.ground.cores, s.bulk, t),
        value="cpu_s_per_gb",
        per_unit=1,
        logs_each=False,
    ),
    DatagramCase(),
    LoadCase(
        "http2",
        "small GET by HTTP/2 and TLS, 4 connections with 100 streams",
        ("P11",),
        ALL,
        lambda b, s, t: clients.h2load(b.ground.cores, s.https, t),
    ),
    RoutesCase(),
    IdleCase(),
    StartupCase(),
)


def run_case(case: Case, bench: Bench) -> list[Sample]:
    """All samples of a case; what could not run is said in `bench.missing`, not raised."""
    samples: list[Sample] = []
    try:
        with ExitStack() as stack:
            samples.extend(case.run(bench, stack))
    except (ClientError, StartError, OSError) as error:
        bench.missing[case.name] = str(error)
    return samples
