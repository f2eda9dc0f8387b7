"""Writes the generated pages: ``python -m weirgate.shared.config.reference``, in the repository."""

import sys
from pathlib import Path

from weirgate.shared.config.pages import errors_markdown, reference_markdown


def main() -> None:
    """Write both pages into ``docs/``."""
    docs = Path("docs")
    if not docs.is_dir():
        sys.exit("run this in the root of the repository: there is no docs/ here")
    (docs / "config-reference.md").write_text(reference_markdown(), encoding="utf-8")
    (docs / "errors.md").write_text(errors_markdown(), encoding="utf-8")


if __name__ == "__main__":
    main()
