"""Writes files and table of each example into docs/migrating.md: python -m tests.migrating.page."""

import re
import textwrap
from pathlib import Path

from tests.migrating.expected import EXPECTED, Row
from tests.migrating.site import EXAMPLES, Product, runs

PAGE = Path(__file__).parents[2] / "docs/migrating.md"
BLOCK = re.compile(r"<!-- from:([a-z-]+):begin -->\n.*?<!-- from:\1:end -->\n", re.DOTALL)
WIDTH = 140
#: The files of an example, in the order of the page: heading, language of the block.
SHOWN = {
    "nginx.conf": ("nginx", "nginx"),
    "haproxy.cfg": ("HAProxy", "haproxy"),
    "traefik.yaml": ("Traefik", "yaml"),
    "weirgate.yaml": ("Weirgate", "yaml"),
}


def written(page: str) -> str:
    """Return the page with every block between its markers written anew."""
    return BLOCK.sub(lambda found: _block(found[1]), page)


def cases(page: str) -> list[str]:
    """Return the examples that the page shows, in its order."""
    return [found[1] for found in BLOCK.finditer(page)]


def _block(case: str) -> str:
    parts = [f"<!-- from:{case}:begin -->", *_files(case), *_table(case)]
    return "\n".join([*parts, f"<!-- from:{case}:end -->", ""])


def _files(case: str) -> list[str]:
    lines = []
    for name, (heading, language) in SHOWN.items():
        path = EXAMPLES / case / name
        if path.exists():
            text = path.read_text(encoding="utf-8").rstrip()
            lines += [f"**{heading}**", "", f"```{language}", text, "```", ""]
    return lines


def _table(case: str) -> list[str]:
    products = [product for product in Product if runs(case, product)]
    lines = [_row("what a client does", *products), _row(*["---"] * (len(products) + 1))]
    rows = EXPECTED[case]
    lines += [_row(row.action, *(row.of(product) for product in products)) for row in rows]
    lines += ["", *(line for row in rows if row.differs for line in _difference(row))]
    return lines if lines[-1] == "" else [*lines, ""]


def _difference(row: Row) -> list[str]:
    text = f"- **{row.action}.** {row.why}"
    return textwrap.wrap(
        text, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def _row(*cells: str) -> str:
    shown = (f"`{cell}`" if "<" in cell else cell for cell in cells)  # HTML is to be read
    return f"| {' | '.join(shown)} |"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
