"""What NetworkPolicies allow, by the rules of Kubernetes."""

from tests.support.manifests import Manifests, Object, Workload, fits


class Policies:
    """What the policies allow, by pods."""

    def __init__(self, built: Manifests) -> None:
        self.built = built
        self.labels = {
            n["metadata"]["name"]: n["metadata"]["labels"] for n in built.of("Namespace")
        }
        for name in self.labels:
            self.labels[name] = {**self.labels[name], "kubernetes.io/metadata.name": name}

    def held(self, workload: Workload, direction: str) -> list[Object]:
        """Return the policies that hold a workload's pods back in a direction."""
        return [
            policy["spec"]
            for policy in self.built.of("NetworkPolicy")
            if policy["metadata"]["namespace"] == workload.namespace
            and direction in policy["spec"]["policyTypes"]
            and fits(policy["spec"]["podSelector"].get("matchLabels", {}), workload.labels)
        ]

    def allows(self, source: Workload, target: Workload, number: int) -> bool:
        """Say whether a connection between two pods passes the policies of both."""
        ways = (("Egress", "to", source, target), ("Ingress", "from", target, source))
        return all(
            any(
                self._peer(rule.get(key, ()), other, held.namespace)
                and self._port(rule, target, number)
                for policy in self.held(held, direction)
                for rule in policy.get(direction.lower(), ())
            )
            for direction, key, held, other in ways
        )

    def _peer(self, peers: list[Object], other: Workload, own: str) -> bool:
        if not peers:
            return True
        for peer in peers:
            if "ipBlock" in peer:
                if other.pod.get("hostNetwork"):
                    return True
                continue
            inside = peer.get("namespaceSelector")
            at_home = other.namespace == own
            right = at_home if inside is None else fits(
                inside.get("matchLabels", {}), self.labels[other.namespace]
            )  # fmt: skip
            if right and fits(peer.get("podSelector", {}).get("matchLabels", {}), other.labels):
                return True
        return False

    def _port(self, rule: Object, target: Workload, number: int) -> bool:
        ports = [p["port"] for p in rule.get("ports", ()) if p.get("protocol", "TCP") == "TCP"]
        if "ports" not in rule:
            return True
        return number in [target.ports.get(p) if isinstance(p, str) else p for p in ports]
