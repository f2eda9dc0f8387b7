"""Rendering and adding up metrics: what a scraper reads, and what it must never see."""

from typing import Any

import pytest

from weirgate.shared.observability.aggregate import Aggregate
from weirgate.shared.observability.prometheus import Family, Histogram, parse, render


def document(kind: str, *samples: dict[str, Any], name: str = "weirgate_x") -> list[dict[str, Any]]:
    return [{"name": name, "kind": kind, "help": "A thing.", "samples": list(samples)}]


def counter(value: float, **labels: str) -> list[Family]:
    return parse(document("counter", {"labels": labels, "value": value}))


def gauge(value: float) -> list[Family]:
    return parse(document("gauge", {"labels": {}, "value": value}))


def histogram(buckets: list[list[float]], total: float, count: int) -> list[Family]:
    sample = {"labels": {}, "buckets": buckets, "sum": total, "count": count}
    return parse(document("histogram", sample))


def only(aggregate: Aggregate) -> float | Histogram:
    (family,) = aggregate.families()
    (value,) = family.samples.values()
    return value


def test_text_is_complete_and_sorted() -> None:
    samples = [
        {"labels": {"route": "b"}, "value": 2},
        {"labels": {"status": "200", "route": "a"}, "value": 0.25},
    ]
    text = render([*parse(document("counter", *samples)), Family("weirgate_a", "gauge", "First.")])
    assert text == (
        "# HELP weirgate_a First.\n"
        "# TYPE weirgate_a gauge\n"
        "# HELP weirgate_x A thing.\n"
        "# TYPE weirgate_x counter\n"
        'weirgate_x{route="a",status="200"} 0.25\n'
        'weirgate_x{route="b"} 2\n'
    )


def test_a_histogram_has_its_infinite_bucket_sum_and_count() -> None:
    text = render(histogram([[0.001, 4], [1.0, 9]], 3.5, 10))
    assert text.splitlines()[2:] == [
        'weirgate_x_bucket{le="0.001"} 4',
        'weirgate_x_bucket{le="1"} 9',
        'weirgate_x_bucket{le="+Inf"} 10',
        "weirgate_x_sum 3.5",
        "weirgate_x_count 10",
    ]


def test_label_values_and_help_are_escaped() -> None:
    family = Family("weirgate_x", "counter", "back\\slash\nand line")
    family.set(1, route='a"b\\c\nd')
    assert render([family]).splitlines() == [
        "# HELP weirgate_x back\\\\slash\\nand line",
        "# TYPE weirgate_x counter",
        'weirgate_x{route="a\\"b\\\\c\\nd"} 1',
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (float("nan"), "NaN"),
        (float("inf"), "+Inf"),
        (float("-inf"), "-Inf"),
        (2.0**53 - 1, "9007199254740991"),
        (0.1, "0.1"),
        (-3, "-3"),
    ],
)
def test_numbers_keep_their_value(value: float, text: str) -> None:
    family = Family("weirgate_x", "gauge", "")
    family.set(value)
    assert render([family]).splitlines()[-1] == f"weirgate_x {text}"


def test_equal_labels_are_added_over_processes_and_others_stand_apart() -> None:
    aggregate = Aggregate()
    aggregate.report("gateway-0", 1, counter(3, route="a"))
    aggregate.report("gateway-1", 1, counter(4, route="a"))
    aggregate.report("edge-0", 1, counter(5, route="b"))
    (family,) = aggregate.families()
    assert family.samples == {(("route", "a"),): 7, (("route", "b"),): 5}


def test_histograms_are_added_by_bound_even_where_the_bounds_differ() -> None:
    aggregate = Aggregate()
    aggregate.report("gateway-0", 1, histogram([[0.1, 1], [1.0, 4]], 2.0, 5))
    aggregate.report("gateway-1", 1, histogram([[0.5, 2], [1.0, 3]], 1.5, 3))
    assert only(aggregate) == Histogram({0.1: 1, 0.5: 3, 1.0: 7}, 3.5, 8)


def test_a_counter_never_falls_when_a_process_is_replaced() -> None:
    aggregate = Aggregate()
    aggregate.report("gateway-0", 1, counter(100))
    aggregate.report("gateway-1", 1, counter(10))
    aggregate.report("gateway-0", 2, counter(1))
    assert only(aggregate) == 111
    aggregate.report("gateway-0", 3, counter(2))
    assert only(aggregate) == 113


def test_a_histogram_of_an_ended_process_is_kept_too() -> None:
    aggregate = Aggregate()
    aggregate.report("gateway-0", 1, histogram([[1.0, 4]], 2.0, 5))
    aggregate.report("gateway-0", 2, histogram([[1.0, 1]], 0.5, 1))
    assert only(aggregate) == Histogram({1.0: 5}, 2.5, 6)


def test_a_process_that_does_not_answer_keeps_its_counters_and_loses_its_gauges() -> None:
    aggregate = Aggregate()
    aggregate.report("gateway-0", 1, [*counter(7)])
    aggregate.missing("gateway-0")
    assert only(aggregate) == 7
    other = Aggregate()
    other.report("gateway-0", 1, gauge(7))
    other.missing("gateway-0")
    assert other.families() == []
    other.report("gateway-0", 1, gauge(8))
    assert only(other) == 8


def test_gauges_of_a_replaced_process_are_forgotten() -> None:
    aggregate = Aggregate()
    aggregate.report("gateway-0", 1, gauge(50))
    aggregate.report("gateway-0", 2, gauge(1))
    assert only(aggregate) == 1


def test_what_a_process_without_a_successor_had_counted_is_kept_and_its_key_can_be_used_anew() -> (
    None
):
    aggregate = Aggregate()
    aggregate.report("edge-0", 1, [*counter(7)])
    aggregate.ended("edge-0")
    assert only(aggregate) == 7
    aggregate.report("edge-0", 1, counter(2))
    assert only(aggregate) == 9
    aggregate.ended("edge-0")
    aggregate.ended("edge-0")
    assert only(aggregate) == 9
    other = Aggregate()
    other.report("edge-0", 1, gauge(7))
    other.ended("edge-0")
    assert other.families() == []
