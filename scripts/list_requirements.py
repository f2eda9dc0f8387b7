"""Print what pyproject.toml asks for, development tools included, for ``make lock``."""

import sys
import tomllib
from pathlib import Path


def requirements(text: str) -> list[str]:
    """Return the requirements of the project and of its ``dev`` extra."""
    project = tomllib.loads(text)["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["dev"]]


if __name__ == "__main__":
    text = (Path(__file__).resolve().parents[1] / "pyproject.toml").read_text()
    sys.stdout.write("\n".join(requirements(text)) + "\n")
