"""The manifests: ports, who may talk to whom, and how metrics are reached."""

from typing import Any

from tests.support.manifests import Manifests, fits, manifests, walk
from tests.support.network_policies import Policies
from weirgate.shared.config.addresses import split_address


def port(bind: str) -> int:
    address = split_address(bind)
    assert address is not None
    return address[1]


def on_loopback(config: dict[str, Any]) -> bool:
    return str(config["admin"]["bind"]).startswith("127.")


def test_ports_are_those_of_the_configuration(built: Manifests) -> None:
    edge, gateway = built.tiers()
    config = built.config(edge)
    nodes = config["gateway"]["nodes"]
    admin = {"admin": port(config["admin"]["bind"])} if not on_loopback(config) else {}
    listeners = {port(listener["bind"]) for listener in config["listeners"].values()}
    assert edge.ports.items() >= admin.items()
    assert set(edge.ports.values()) == listeners | set(admin.values())
    wanted = {"edges": port(nodes["bind"]), "load": port(nodes["health"]["bind"])}
    assert gateway.ports == wanted | admin
    for service in built.of("Service"):
        labels, namespace = service["spec"]["selector"], service["metadata"]["namespace"]
        for workload in built.selected(namespace, labels):
            for each in service["spec"]["ports"]:
                assert each["targetPort"] in workload.ports


def test_the_admin_api_is_open_only_where_metrics_are_fetched(built: Manifests) -> None:
    for tier in built.tiers():
        config = built.config(tier)
        assert on_loopback(config) is not bool(built.of("ServiceMonitor"))
        assert config["admin"]["token"].startswith("file:")
        environment = built.environment(tier)
        assert environment["WEIRGATE_ADMIN"] == f"http://{config['admin']['bind']}"
        # every reference is to what stands before it
        assert not [v for v in environment.values() if "$(" in v]


def test_metrics_are_fetched_with_the_token() -> None:
    built = manifests("production")
    monitor = built.of("ServiceMonitor")[0]["spec"]
    service = built.one("Service", "weirgate-metrics")
    assert fits(monitor["selector"]["matchLabels"], service["metadata"]["labels"])
    others = [s for s in built.of("Service") if s is not service]
    assert not [
        s for s in others
        if fits(monitor["selector"]["matchLabels"], s["metadata"].get("labels", {}))
    ]  # fmt: skip
    (endpoint,) = monitor["endpoints"]
    assert endpoint["port"] in {p["name"] for p in service["spec"]["ports"]}
    for tier in built.tiers():
        secret = endpoint["authorization"]["credentials"]
        assert built.config(tier)["admin"]["token"].endswith(f"/secrets/{secret['key']}")
        mounts = {m["mountPath"]: m["name"] for m in tier.container["volumeMounts"]}
        volumes = {v["name"]: v for v in tier.pod["volumes"]}
        mounted = volumes[mounts["/etc/weirgate/secrets"]]
        assert mounted["secret"]["secretName"] == secret["name"]


def test_each_talks_only_to_whom_it_must() -> None:
    built = manifests("demo")
    policies = Policies(built)
    applications = [w for w in built.workloads() if w.namespace == "applications"]
    assert len(applications) == 3
    allowed = {
        (source.name, target.name, number)
        for source in built.workloads()
        for target in built.workloads()
        for number in (8000, 8080, 9080, 9081, 9900)
        if policies.allows(source, target, number)
    }
    wanted = {("edge", "gateway", 9080), ("edge", "gateway", 9081)}
    wanted |= {("gateway", a.name, n) for a in applications for n in (8000, 8080, 9080, 9081, 9900)}
    assert allowed == wanted
    # clients come from anywhere, and to an edge's listeners alone
    open_to_all = [
        (w.name, rule["ports"])
        for w in built.workloads()
        for policy in policies.held(w, "Ingress")
        for rule in policy.get("ingress", ())
        if not rule.get("from")
    ]
    assert open_to_all == [("edge", [{"port": "http"}])]


def test_edges_of_the_hosts_network_reach_gateways() -> None:
    built = manifests("production")
    edge, gateway = built.tiers()
    blocks = [m["ipBlock"]["cidr"] for m in walk(built.of("NetworkPolicy")) if "ipBlock" in m]
    # whom the policy lets in is whom the gateways believe
    assert blocks == [built.environment(gateway)["WEIRGATE_EDGES"]]
    ingress = [r for p in Policies(built).held(gateway, "Ingress") for r in p.get("ingress", ())]
    sources = [rule["from"] for rule in ingress]
    assert [{"ipBlock": {"cidr": blocks[0]}}] in sources
    assert all(sources)
    assert edge.pod["dnsPolicy"] == "ClusterFirstWithHostNet"


def test_everybody_may_ask_for_names_and_tiers_the_api_server(built: Manifests) -> None:
    policies = Policies(built)
    for workload in built.workloads():
        egress = [r for p in policies.held(workload, "Egress") for r in p.get("egress", ())]
        asked = [
            {(p["port"], p.get("protocol", "TCP")) for p in r.get("ports", ())} for r in egress
        ]
        assert {(53, "UDP"), (53, "TCP")} in asked
        anywhere = [ports for ports, rule in zip(asked, egress, strict=True) if "to" not in rule]
        tier = workload.namespace == "weirgate"
        assert anywhere == ([{(443, "TCP"), (6443, "TCP")}] if tier else [])
