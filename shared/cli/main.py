"""The ``weirgate`` command: its verbs and options.

What a verb needs is imported when it runs, so that ``--help`` and completion answer at once.
"""

from pathlib import Path
from typing import Annotated

import typer

from weirgate.shared.cli.exit_codes import HELP

DEFAULT_ADMIN = "http://127.0.0.1:9900"

File = Annotated[Path, typer.Argument(help="The configuration file (YAML).", metavar="FILE")]
OptionalFile = Annotated[
    Path | None, typer.Argument(help="The configuration file (YAML).", metavar="[FILE]")
]
Target = Annotated[
    str,
    typer.Argument(
        help="An endpoint as POOL/ADDRESS, all of a pool as 'POOL/*', a gateway such as gateway-1, "
        "or node: the whole of a gateway node.",
        metavar="TARGET",
    ),
]
Source = Annotated[
    str, typer.Argument(help="An address, or a prefix such as 10.0.0.0/8.", metavar="SOURCE")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
AdminUrl = Annotated[
    str, typer.Option("--admin", help="URL of the admin API.", envvar="WEIRGATE_ADMIN")
]
Token = Annotated[
    str, typer.Option(help="Token of the admin API, where it has one.", envvar="WEIRGATE_TOKEN")
]
Workers = Annotated[
    int | None,
    typer.Option(min=1, max=256, help="Gateway processes, instead of gateway.workers in the file."),
]
Watch = Annotated[
    bool,
    typer.Option(
        "--watch",
        help="Reload when FILE, one that it includes, or one that holds a secret has changed.",
    ),
]

app = typer.Typer(
    name="weirgate",
    help="One load balancer in two tiers: an L4 edge and a pool of L7 gateways.",
    epilog=HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


shun_app = typer.Typer(
    help="Refuse sources for a while, on every listener; take them back; say who they are.",
    epilog=HELP,
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command(epilog=HELP)
def up(file: File, workers: Workers = None, *, watch: Watch = False) -> None:
    """Run the whole node: supervisor, edge and gateways, until SIGTERM.

    SIGTERM and SIGINT drain (a second one ends at once), SIGHUP reads FILE again.
    """
    from weirgate.shared.cli.up import run

    raise typer.Exit(run(file, workers, watch=watch))


@app.command(epilog=HELP)
def edge(file: File, *, watch: Watch = False) -> None:
    """Run the L4 tier alone: its gateways are the nodes of gateway.nodes, on other hosts.

    Signals are as with up.
    """
    from weirgate.shared.cli.up import run
    from weirgate.shared.config import Role

    raise typer.Exit(run(file, role=Role.EDGE, watch=watch))


@app.command(epilog=HELP)
def gateway(file: File, workers: Workers = None, *, watch: Watch = False) -> None:
    """Run the L7 tier alone: it takes connections from the edges of gateway.nodes only.

    Signals are as with up; a drain first waits until every edge knows of it.
    """
    from weirgate.shared.cli.up import run
    from weirgate.shared.config import Role

    raise typer.Exit(run(file, workers, Role.GATEWAY, watch=watch))


@app.command(epilog=HELP)
def check(
    file: File,
    *,
    role: Annotated[
        str,
        typer.Option(
            help="For up, edge or gateway only. Default: each that FILE can be run in, so all "
            "three where it has gateway.nodes."
        ),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Report everything that is wrong with FILE; warnings do not fail."""
    from weirgate.shared.cli.check import run

    raise typer.Exit(run(file, role, as_json=as_json))


@app.command(epilog=HELP)
def attach(
    path: Annotated[
        Path, typer.Argument(help="gateway.attach.socket of the node.", metavar="SOCKET")
    ],
    *,
    health: Annotated[
        str,
        typer.Option(help="IP:port that answers GET /health for probes; off = none."),
    ] = "127.0.0.1:9900",
) -> None:
    """Run one gateway for a node in another container of this host (gateway.attach).

    It needs no file: the node gives it everything. When the node goes, open connections are served
    on; SIGTERM lets them finish, and ends.
    """
    from weirgate.shared.cli.attach import run

    raise typer.Exit(run(path, health))


@app.command(epilog=HELP)
def hold(
    path: Annotated[Path, typer.Argument(help="The Unix socket to be found at.", metavar="SOCKET")],
    *,
    health: Annotated[
        str,
        typer.Option(help="IP:port that answers GET /health for probes; off = none."),
    ] = "off",
) -> None:
    """Keep listening sockets for a node in another container: its restart then refuses nobody.

    The node is told where by the environment variable WEIRGATE_SOCKET_STORE.
    """
    from weirgate.shared.cli.hold import run

    raise typer.Exit(run(path, health))


@app.command(epilog=HELP)
def status(
    admin: AdminUrl = DEFAULT_ADMIN,
    *,
    ready: Annotated[
        bool,
        typer.Option("--ready", help="Only say whether it takes traffic; 6 = it does not."),
    ] = False,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Show a running node: processes, listeners, pools and endpoints.

    With --ready: made for probes of containers; it is quick, and needs no token.
    """
    if ready:
        from weirgate.shared.cli.ready import run

        raise typer.Exit(run(admin, as_json=as_json))

    from weirgate.shared.cli.remote import status as show

    raise typer.Exit(show(admin, token, as_json=as_json))


@app.command(epilog=HELP)
def reload(admin: AdminUrl = DEFAULT_ADMIN, *, token: Token = "", as_json: AsJson = False) -> None:
    """Have a running node read its file again: applied everywhere or nowhere."""
    from weirgate.shared.cli.remote import reload as call

    raise typer.Exit(call(admin, token, as_json=as_json))


@app.command(epilog=HELP)
def drain(
    target: Target,
    admin: AdminUrl = DEFAULT_ADMIN,
    *,
    deadline: Annotated[
        str | None,
        typer.Option(
            help="What is left after so long is ended, such as 30s: of an endpoint its tcp streams "
            "and UDP sessions, but not requests in the gateways; of a gateway everything. Default: "
            "of an endpoint none, of a gateway drain.timeout of the file."
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Return when it has drained.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also the last one that takes work.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="A gateway: start a fresh process afterwards.")
    ] = False,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Take an endpoint or a gateway out of work: what it has is finished, nothing new comes.

    It stays drained, whatever is reloaded, until undrain or the end of the node.
    """
    from weirgate.shared.cli.drain import drain as call

    code = call(
        target, admin, token,
        deadline=deadline, wait=wait, force=force, replace=replace, as_json=as_json,
    )  # fmt: skip
    raise typer.Exit(code)


@app.command(epilog=HELP)
def undrain(
    target: Target, admin: AdminUrl = DEFAULT_ADMIN, *, token: Token = "", as_json: AsJson = False
) -> None:
    """Put a drained endpoint or gateway back to work."""
    from weirgate.shared.cli.drain import undrain as call

    raise typer.Exit(call(target, admin, token, as_json=as_json))


@app.command(epilog=HELP)
def upgrade(
    target: Annotated[
        str,
        typer.Argument(
            help="edge: every edge process; or a gateway such as gateway-1.", metavar="TARGET"
        ),
    ],
    admin: AdminUrl = DEFAULT_ADMIN,
    *,
    deadline: Annotated[
        str | None,
        typer.Option(
            help="What the old process still carries after so long is ended, such as 60s. "
            "Default: drain.timeout of the file."
        ),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Return when the old process has ended.")
    ] = False,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Put fresh processes, of what is installed now, in the place of running ones.

    No connection is refused or lost. Relayed tcp and tls streams stay with the old process until
    they end or the deadline passes; UDP sessions go over. If a fresh one does not get ready, the
    old one serves on.
    """
    from weirgate.shared.cli.upgrade import upgrade as call

    raise typer.Exit(call(target, admin, token, deadline=deadline, wait=wait, as_json=as_json))


app.add_typer(shun_app, name="shun")


@shun_app.command("add", epilog=HELP)
def shun_add(
    source: Source,
    admin: AdminUrl = DEFAULT_ADMIN,
    *,
    ttl: Annotated[str, typer.Option(help="For how long, such as 30s, 10m or 2h.")] = "10m",
    reason: Annotated[str, typer.Option(help="Shown by list; at most 200 characters.")] = "",
    force: Annotated[
        bool, typer.Option("--force", help="Also everybody, or a prefix that holds this host.")
    ] = False,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Refuse new connections and UDP sessions of SOURCE; open ones go on.

    It survives reloads and restarts of the edge. Adding it again replaces time and reason.
    """
    from weirgate.shared.cli.shun import add

    raise typer.Exit(
        add(source, admin, token, ttl=ttl, reason=reason, force=force, as_json=as_json)
    )


@shun_app.command("del", epilog=HELP)
def shun_del(
    source: Source, admin: AdminUrl = DEFAULT_ADMIN, *, token: Token = "", as_json: AsJson = False
) -> None:
    """Serve SOURCE again; it must be given as list shows it, or as it was added."""
    from weirgate.shared.cli.shun import remove

    raise typer.Exit(remove(source, admin, token, as_json=as_json))


@shun_app.command("list", epilog=HELP)
def shun_list(
    admin: AdminUrl = DEFAULT_ADMIN, *, token: Token = "", as_json: AsJson = False
) -> None:
    """Say who is shunned, for how long, by whom and why."""
    from weirgate.shared.cli.shun import show

    raise typer.Exit(show(admin, token, as_json=as_json))


@app.command(epilog=HELP)
def top(
    admin: AdminUrl = DEFAULT_ADMIN,
    *,
    interval: Annotated[
        float, typer.Option(min=0.1, max=60, help="Seconds between two looks.")
    ] = 1.0,
    sort: Annotated[
        str, typer.Option(help="Sort by rate, connections, errors, latency or name.")
    ] = "rate",
    once: Annotated[bool, typer.Option("--once", help="Look twice, print, and end.")] = False,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Watch a running node live: rates of listeners, endpoints and gateways.

    Keys: r, c, e, l, n sort by rate, connections, errors, latency, name; q ends.
    """
    from weirgate.shared.cli.top.run import run

    raise typer.Exit(
        run(admin, token, interval_seconds=interval, sort=sort, once=once, as_json=as_json)
    )


@app.command(epilog=HELP)
def doctor(file: OptionalFile = None, *, as_json: AsJson = False) -> None:
    """Say what in this host's kernel and limits would hold FILE's configuration back.

    Without FILE: the defaults. Findings of the severity error end with 1. Needs no root.
    """
    from weirgate.shared.cli.doctor import run

    raise typer.Exit(run(file, as_json=as_json))


@app.command(epilog=HELP)
def demo(
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Make requests, verify the answers, and end.")
    ] = False,
    seconds: Annotated[
        float, typer.Option(min=0, help="End after so long; 0 = when told to.")
    ] = 0.0,
    port_base: Annotated[
        int, typer.Option(min=1024, max=65000, help="First of the ports that the demo uses.")
    ] = 8080,
) -> None:
    """Run a node with small applications behind it, on this machine."""
    import asyncio

    from weirgate.shared.demo.main import run

    raise typer.Exit(asyncio.run(run(check=check, seconds=seconds, port_base=port_base)))


@app.command(epilog=HELP)
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors and other tools."""
    import json

    from weirgate.shared.config import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


@app.command(epilog=HELP)
def version(*, as_json: AsJson = False) -> None:
    """Print the version."""
    from weirgate.shared.cli.version import run

    raise typer.Exit(run(as_json=as_json))


def main() -> None:
    """Run the command line; the console script's entry point."""
    app()


if __name__ == "__main__":
    main()
