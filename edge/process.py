"""Entry point of an edge process: ``python -P -m weirgate.edge.process FD``."""

from weirgate.shared.control.boot import run_child
from weirgate.shared.native import EdgeDataPlane

if __name__ == "__main__":
    run_child(EdgeDataPlane)
