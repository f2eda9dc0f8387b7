"""Each example on each product: the same client, and what the page says that it sees."""

from pathlib import Path

import pytest

from tests.migrating import client_cases, stream_cases, web_cases
from tests.migrating.expected import EXPECTED
from tests.migrating.site import Product, runs

CASES = {**web_cases.CASES, **client_cases.CASES, **stream_cases.CASES}
pytestmark = [pytest.mark.anyio, pytest.mark.slow]
RUN = [(case, product) for case in CASES for product in Product if runs(case, product)]


@pytest.mark.parametrize(("case", "product"), RUN)
async def test_a_client_sees_what_the_page_says(
    case: str, product: Product, tmp_path: Path
) -> None:
    seen = await CASES[case](product, tmp_path)
    assert seen == {row.action: row.of(product) for row in EXPECTED[case]}


def test_every_case_has_its_table_and_most_run_on_all_three() -> None:
    assert set(CASES) == set(EXPECTED)
    assert len(RUN) >= 3 * len(CASES) - 1  # HAProxy has no UDP
