"""Entry point of a gateway process: ``python -P -m weirgate.appgw.process FD``."""

from weirgate.shared.control.boot import run_child
from weirgate.shared.native import GatewayDataPlane

if __name__ == "__main__":
    run_child(GatewayDataPlane)
