"""What a run is asked to do; it goes to Locust's processes as JSON in a file."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

#: The environment variable that names the file.
VARIABLE = "WEIRGATE_LOADTEST_PLAN"
CLASSES = ("Browse", "Api", "Checkout", "UploadDownload", "Chat", "Grpc", "TcpEcho", "UdpEcho")
SHAPES = ("steady", "ramp", "spike", "soak", "step-to-failure")


@dataclass(frozen=True)
class Target:
    """Where the load goes; a port of 0 is not there, and users that need it are not started."""

    name: str
    host: str
    http: int
    tls: int = 0
    tcp: int = 0
    udp: int = 0
    #: Weirgate's admin APIs by name, such as {"edge": "http://127.0.0.1:9900"}.
    admin: dict[str, str] = field(default_factory=dict)

    def classes(self) -> tuple[str, ...]:
        """The user classes that find what they need here."""
        missing = {
            name for name, port in (("TcpEcho", self.tcp), ("UdpEcho", self.udp)) if not port
        }
        if not self.http and not self.tls:
            missing |= set(CLASSES) - {"TcpEcho", "UdpEcho"}
        if not self.http:
            missing.add("Grpc")  # grpcio cannot be told to trust any certificate
        return tuple(name for name in CLASSES if name not in missing)


@dataclass(frozen=True)
class Plan:
    """One run."""

    target: Target
    directory: str
    shape: str = "steady"
    users: int = 20
    seconds: float = 10
    #: How long users pause between tasks, as a factor of what their classes say; 0 = not at all.
    pauses: float = 1.0
    classes: tuple[str, ...] = CLASSES
    #: Worker processes of Locust; 0 = one process does it all.
    workers: int = 0
    #: For the shape step-to-failure, which asks after each step.
    objectives: str = ""

    @property
    def seconds_file(self) -> Path:
        """A line of JSON for each second, written while the load runs."""
        return Path(self.directory) / "seconds.jsonl"

    @property
    def locust_file(self) -> Path:
        """What Locust itself counted, written at the end."""
        return Path(self.directory) / "locust.json"

    def write(self) -> Path:
        """Write it into its directory."""
        file = Path(self.directory) / "plan.json"
        file.write_text(json.dumps(asdict(self), indent=1))
        return file


def read_plan(file: Path) -> Plan:
    """Read what `Plan.write` has written."""
    data = json.loads(file.read_text())
    data["target"] = Target(**data["target"])
    data["classes"] = tuple(data["classes"])
    return Plan(**data)
