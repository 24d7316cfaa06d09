"""What a rule of a scope watches. Pure: no row is stored."""

import pytest

from alerts.conditions import Condition, Direction
from alerts.models import AlertRule
from alerts.types import Place, Reading
from alerts.types.book import ReadingBook

READINGS = [
    Reading(f"{cluster}{tenant}{model}", "", float(place), Place(cluster, None, tenant, model))
    for place, (cluster, tenant, model) in enumerate((c, t, m) for c in (1, 2) for t in (1, 2) for m in ("A", "B"))
]


@pytest.mark.parametrize(
    ("cluster", "tenant", "model", "expected"),
    [
        (None, None, "", {"11A", "11B", "12A", "12B", "21A", "21B", "22A", "22B"}),
        (1, None, "", {"11A", "11B", "12A", "12B"}),
        (None, 2, "", {"12A", "12B", "22A", "22B"}),
        (None, None, "B", {"11B", "12B", "21B", "22B"}),
        (1, 2, "", {"12A", "12B"}),
        (1, None, "A", {"11A", "12A"}),
        (None, 2, "A", {"12A", "22A"}),
        (2, 1, "B", {"21B"}),
        (3, None, "", set()),
    ],
)
def test_a_rule_watches_what_is_in_all_parts_of_its_scope(
    cluster: int | None, tenant: int | None, model: str, expected: set[str]
) -> None:
    book = ReadingBook(READINGS)
    rule = AlertRule(cluster_id=cluster, tenant_id=tenant, gpu_model=model)
    assert {reading.subject for reading in book.watched_by(rule).readings} == expected
    assert {reading.subject for reading in READINGS if book.covers(rule, reading)} == expected


def test_below_is_less_and_above_is_as_much() -> None:
    watched = ReadingBook(READINGS).watched_by(AlertRule())
    found = {
        direction: [reading.value for reading in watched.in_trouble(Condition(direction, 3.0, None, None))]  # type: ignore[arg-type]  # of no matter here
        for direction in Direction
    }
    assert found == {Direction.BELOW: [0, 1, 2], Direction.AT_OR_ABOVE: [3, 4, 5, 6, 7]}
