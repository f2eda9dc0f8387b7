"""What tests, the demo and users' own tests share: configurations in a few calls, ports, waiting.

Layout: ``config`` builds a configuration file call by call, ``ports`` finds ports that nobody
uses, ``waiting`` polls for a condition with a deadline. Nothing here is imported by a data plane.
"""

from weirgate.shared.testing.config import Configuration
from weirgate.shared.testing.ports import free_port
from weirgate.shared.testing.waiting import eventually

__all__ = ["Configuration", "eventually", "free_port"]
