"""The ``listeners`` section: what the edge accepts on, and whom it admits."""

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from weirgate.shared.config import codes
from weirgate.shared.config.addresses import Bind, Network, NetworkOrFile
from weirgate.shared.config.base import Many, OneOrMany, Section, refusal
from weirgate.shared.config.http import ServerName, ServerNameOrAll, UniqueServerNames
from weirgate.shared.config.scalars import (
    ByteRateValue,
    Count,
    Duration,
    FileName,
    Name,
    PositiveDuration,
    RateValue,
    duration,
)
from weirgate.shared.config.sockets import DEFAULT_BACKLOG, MAX_BACKLOG, ListenerTcp
from weirgate.shared.config.sources import SourcePrefix

Networks = OneOrMany[Network]
NetworksOrFiles = OneOrMany[NetworkOrFile]
MAX_PROXIES = 1000
MAX_NAMES = 10_000


class Certificate(Section):
    """A certificate chain and its private key, or a directory of such pairs."""

    cert: FileName | None = Field(
        default=None,
        description="PEM file with the certificate and its intermediates, leaf first. Relative to "
        "the file that names it. Embedded at each (re)load, and watched: a file that changes is "
        "read again within a few seconds, and one that is broken changes nothing.",
    )
    key: FileName | None = Field(
        default=None,
        description="PEM file with the unencrypted private key. Readable by the supervisor's user "
        "only, if possible: no other process opens it.",
    )
    ocsp: FileName | None = Field(
        default=None,
        description="DER file with the OCSP response that is stapled to the certificate. Whoever "
        "renews it writes the file anew. Default: none.",
    )
    directory: FileName | None = Field(
        default=None,
        description="Instead of the others: every `NAME.pem` or `NAME.crt` of this directory with "
        "its `NAME.key`, and `NAME.ocsp` where there is one, in the order of their names; 10,000 "
        "certificates at most. Files that come and go are noticed. Names that begin with a dot "
        "are ignored.",
    )

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        pair = {"cert", "key", "ocsp"} & self.model_fields_set
        if self.directory is not None and pair:
            raise refusal(codes.CERTIFICATES, "either directory, or cert and key")
        if self.directory is None and (self.cert is None or self.key is None):
            missing = "the key" if self.cert else "the cert" if self.key else "cert and key"
            raise refusal(codes.CERTIFICATES, "cert and key, or directory", f"add {missing}")
        return self


class ClientCertificates(Section):
    """Certificates that clients show: mutual TLS."""

    ca: FileName = Field(
        description="PEM file with the authorities whose certificates are taken. Only these: the "
        "system's say nothing about clients. Watched, as `cert` is."
    )
    mode: Literal["request", "require"] = Field(
        default="require",
        description="`require`: without a good certificate there is no connection. `request`: a "
        "client may come without one, and routes can tell (`match.client_certificate`); one that "
        "it does show must be good.",
    )
    crl: OneOrMany[FileName] = Field(
        default=(),
        description="PEM files with revocation lists. What they revoke is refused, also after "
        "their `nextUpdate`; authorities that they do not cover revoke nothing. Watched.",
    )


class ListenerTls(Section):
    """TLS towards the client, terminated in the gateway."""

    certificates: Annotated[Many[Certificate], Field(min_length=1)] = Field(
        description="Chosen by the name that the client asks for (SNI), as the certificates list "
        "it; a client that asks for none, or for an unknown one, gets the first. Of several for "
        "one name the client gets what it can use: ECDSA before RSA, then the order written."
    )
    profile: Literal["modern", "intermediate"] = Field(
        default="intermediate",
        description="`modern`: TLS 1.3 only. `intermediate`: TLS 1.2, too, with ECDHE and "
        "authenticated encryption only. Both offer X25519MLKEM768 first; there is no early data "
        "(0-RTT) in either.",
    )
    minimum_version: Literal["1.2", "1.3"] | None = Field(
        default=None,
        description="Lowest TLS version. 1.3 shuts out clients from before about 2018. Default: "
        "what the profile says.",
    )
    alpn: Annotated[Many[Literal["h2", "http/1.1"]], Field(min_length=1)] = Field(
        default=("h2", "http/1.1"),
        description="Protocols offered, best first. Without `h2` no client speaks HTTP/2 here.",
    )
    client: ClientCertificates | None = Field(
        default=None, description="Ask clients for certificates. Default: they are not asked."
    )

    @model_validator(mode="after")
    def _no_contradiction(self) -> Self:
        if self.profile == "modern" and self.minimum_version == "1.2":
            raise refusal(
                codes.TLS_PROFILE, "minimum_version: 1.3 with profile: modern, or none of its own"
            )
        return self

    @property
    def lowest_version(self) -> str:
        """The lowest version that is spoken."""
        return self.minimum_version or ("1.3" if self.profile == "modern" else "1.2")


class ProxyProtocol(Section):
    """Who sends a PROXY header in front of the client's bytes."""

    sources: Annotated[Networks, Field(min_length=1, max_length=MAX_PROXIES)] = Field(
        alias="from",
        description="Peers that must send a PROXY header (v1 or v2); its address becomes the "
        "client's. Others must not: a header is never taken by detection, since anybody "
        "could then claim any address. On `tcp` and `tls` the address must pass `allow` and "
        "`deny`, as the peer itself must; limits count the peer, but those of bytes count "
        "whom it names.",
    )


class Listener(Section):
    """One or more addresses that the edge accepts on."""

    bind: Annotated[OneOrMany[Bind], Field(min_length=1)] = Field(
        description="Literal IP address and port (`0.0.0.0:80`, `[::]:80`; port 0 = chosen by the "
        "system, for tests), or a Unix socket (`unix:/run/weirgate/web.sock`)."
    )
    protocol: Literal["http", "tcp", "tls", "udp"] = Field(
        default="http",
        description="`http`: handed to a gateway and routed by content. `tcp`: bytes are relayed "
        "to `pool`, unread: cheaper, works for anything, and knows no routes. `tls`: relayed still "
        "encrypted, to a pool chosen by the server name that the client asks for (SNI). `udp`: "
        "datagrams are relayed to `pool`; each client (address and port) is a session with one "
        "endpoint.",
    )
    pool: Name | None = Field(
        default=None, description="`tcp` and `udp` only, and needed there: the pool to relay to."
    )
    sni: Annotated[dict[ServerName, Name], Field(max_length=MAX_NAMES), UniqueServerNames] = Field(
        default={},
        description="`tls` only: pools by server name, in Unicode or ASCII (`xn--…`). "
        "`*.shop.example` stands for one or more labels in front. An exact name wins, then the "
        "longest wildcard. The endpoints terminate TLS; the edge decrypts nothing, and reads "
        "nothing but the client hello.",
    )
    terminate: Annotated[
        OneOrMany[ServerNameOrAll], Field(max_length=MAX_NAMES), UniqueServerNames
    ] = Field(
        default=(),
        description="`tls` only: server names whose TLS ends in a gateway, with the certificates "
        'of `tls`; then routes apply, as on an `http` listener. `"*"`: every name that `sni` does '
        "not have, and clients that ask for none.",
    )
    default: Name | None = Field(
        default=None,
        description="`tls` only: the pool for every other name, and for clients that ask for none. "
        "Without it they are refused with a TLS alert.",
    )
    hello_timeout: PositiveDuration = Field(
        default=duration("5s"),
        description="`tls`, and `tcp` with `proxy_protocol`: for the PROXY header and the client "
        "hello together. Below 3 s, one lost packet refuses a client.",
    )
    tls: ListenerTls | None = Field(
        default=None,
        description="`http`: terminate TLS in the gateway; without it, plain. `tls`: for the names "
        "of `terminate`, and needed there.",
    )
    proxy_protocol: ProxyProtocol | None = Field(
        default=None, description="Take client addresses from PROXY headers."
    )
    trusted_proxies: Annotated[Networks, Field(max_length=MAX_PROXIES)] = Field(
        default=(),
        description="`http`, and `tls` with `terminate`: peers whose X-Forwarded-*, Forwarded and "
        "X-Request-Id are kept. From everybody else these headers are replaced, so that they can "
        "be believed upstream.",
    )
    allow: NetworksOrFiles = Field(
        default=(),
        description="Sources that may connect. Empty = everyone that `deny` lets. "
        "`file:lists/office.txt` stands for the networks in a file, one a line, `#` for comments, "
        "at most 100,000. A file that changes is read again within two seconds; one that is "
        "broken changes nothing.",
    )
    deny: NetworksOrFiles = Field(
        default=(),
        description="Sources that may not connect; wins over allow. Takes files as `allow` does.",
    )
    connections_per_source: Count = Field(
        default=0,
        description="Connections (or UDP sessions) open at once from one source (`source_prefix`). "
        "0 = no limit. Many users can share one address (NAT), so stay in the hundreds.",
    )
    max_connections: Count = Field(
        default=0,
        description="Connections open at once on this listener; not for `udp`. 0 = no limit. "
        "Further ones are reset.",
    )
    backlog: Annotated[int, Field(ge=1, le=MAX_BACKLOG)] = Field(
        default=DEFAULT_BACKLOG,
        description="Connections that may wait to be accepted; further ones are dropped by the "
        "kernel and tried again by the client a second later. The kernel's net.core.somaxconn caps "
        "it.",
    )
    tcp: ListenerTcp = Field(
        default=ListenerTcp(), description="Options of the TCP sockets, client side."
    )
    new_connections: RateValue | None = Field(
        default=None,
        description="New connections (UDP: sessions) on this listener, such as `5000/s`, with a "
        "burst of what one second brings. Further ones are reset. Default: any number.",
    )
    new_connections_per_source: RateValue | None = Field(
        default=None,
        description="The same from one source (`source_prefix`). A source over its own rate takes "
        "nothing of the listener's.",
    )
    datagrams_per_source: RateValue | None = Field(
        default=None,
        description="`udp` only: datagrams from one source (`source_prefix`), such as `1000/s`. "
        "Further ones are dropped.",
    )
    bytes_in_per_source: ByteRateValue | None = Field(
        default=None,
        description="`tcp`, `tls` without `terminate`, and `udp`: bytes from the clients of one "
        "source (`source_prefix`) together, such as `10MiB/s`, with a burst of what one second "
        "brings, at least 64KiB. A stream over it is not read until it may go on, so that the "
        "client slows down; further datagrams are dropped. Default: any number.",
    )
    bytes_out_per_source: ByteRateValue | None = Field(
        default=None,
        description="The same for the bytes to the clients of one source. For `udp` it bounds what "
        "a forged source address can direct at its owner.",
    )
    source_prefix: SourcePrefix = Field(
        default=SourcePrefix(),
        description="What all limits per source of this listener count as one source.",
    )
    max_sessions: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=10_000,
        description="`udp` only: sessions at once; each has a descriptor and a port of this host "
        "(28,000 by default in Linux). When full, the one that was idle for the longest time ends, "
        "unless it was used within the last second: then the new one is refused.",
    )
    responses: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        default=0,
        description="`udp` only: answers to each datagram of a client, after which the session "
        "ends at once (DNS: 1). 0 = any number; the session ends by `idle_timeout`.",
    )
    idle_timeout: Duration | None = Field(
        default=None,
        description="`tcp`, `tls` and `udp` only: close when neither side has sent a byte for so "
        "long. 0 = never, which keeps connections of vanished clients for ever. Default: `1m` for "
        "udp, otherwise `10m`.",
    )
    connect_timeout: Duration = Field(
        default=duration("2s"),
        description="`tcp` and `tls`: for reaching an endpoint; then the next one is tried.",
    )


def relayed_to(listener: Listener) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the pools that a listener relays to, each with its place in the listener."""
    for key, pool in (("pool", listener.pool), ("default", listener.default)):
        if pool is not None:
            yield (key,), pool
    for name, pool in listener.sni.items():
        yield ("sni", name), pool
