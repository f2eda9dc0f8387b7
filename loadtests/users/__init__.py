"""The user classes; imported by Locust's processes only. `web` are those over HTTP."""

import importlib
from typing import Any

_MODULES = {
    "Browse": "web",
    "Api": "web",
    "Checkout": "web",
    "UploadDownload": "web",
    "Chat": "chat",
    "Grpc": "calls",
    "TcpEcho": "echoes",
    "UdpEcho": "echoes",
}


def user_class(name: str) -> Any:
    """Return a class by its name; Locust and the plan must be there by then."""
    return getattr(importlib.import_module(f"loadtests.users.{_MODULES[name]}"), name)
