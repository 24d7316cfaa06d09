"""The pure decision, on plain values."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts.conditions import Condition, Decision, Direction, OpenIncident, decide

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def condition(direction: Direction = Direction.AT_OR_ABOVE, *, minutes: int = 5) -> Condition:
    recovery = 80.0 if direction is Direction.AT_OR_ABOVE else 100.0
    return Condition(direction, threshold=90.0, recovery_threshold=recovery, for_duration=minutes * MINUTE)


def incident(*, fired: bool, minutes_ago: int = 0) -> OpenIncident:
    return OpenIncident(fired=fired, since=NOW - minutes_ago * MINUTE)


@pytest.mark.parametrize(
    ("known", "value", "expected"),
    [
        (None, 89.9, Decision.NOTHING),
        (None, 90.0, Decision.OPEN),
        (incident(fired=False, minutes_ago=4), 95.0, Decision.UPDATE),
        (incident(fired=False, minutes_ago=5), 95.0, Decision.FIRE),
        (incident(fired=False, minutes_ago=4), 85.0, Decision.DROP),
        (incident(fired=True), 85.0, Decision.UPDATE),
        (incident(fired=True), 80.0, Decision.UPDATE),
        (incident(fired=True), 79.9, Decision.RESOLVE),
        (None, None, Decision.NOTHING),
        (incident(fired=True), None, Decision.MISS),
        (incident(fired=False, minutes_ago=9), None, Decision.MISS),
    ],
)
def test_at_or_above(known: OpenIncident | None, value: float | None, expected: Decision) -> None:
    assert decide(condition(), known, value, now=NOW) is expected


@pytest.mark.parametrize(
    ("known", "value", "expected"),
    [
        (None, 90.0, Decision.NOTHING),
        (None, 89.9, Decision.OPEN),
        (incident(fired=True), 99.9, Decision.UPDATE),
        (incident(fired=True), 100.0, Decision.RESOLVE),
    ],
)
def test_below(known: OpenIncident | None, value: float, expected: Decision) -> None:
    assert decide(condition(Direction.BELOW), known, value, now=NOW) is expected


def test_a_condition_without_a_duration_fires_at_once() -> None:
    assert decide(condition(minutes=0), None, 95.0, now=NOW) is Decision.FIRE


@given(st.lists(st.one_of(st.none(), st.floats(0, 200)), max_size=60), st.integers(0, 5))
def test_an_incident_fires_only_after_its_duration_in_trouble_and_ends_only_beyond_recovery(
    values: list[float | None], minutes: int
) -> None:
    """Played minute by minute against the definition itself: the longest run of trouble up to now."""
    rule = condition(minutes=minutes)
    known: OpenIncident | None = None
    troubled_since: datetime | None = None
    firing = False
    for step, value in enumerate(values):
        now = NOW + step * MINUTE
        if value is not None and not firing:
            troubled_since = (troubled_since or now) if value >= 90.0 else None
            firing = troubled_since is not None and now - troubled_since >= minutes * MINUTE
        elif value is not None and firing and value < 80.0:
            firing, troubled_since = False, None
        decision = decide(rule, known, value, now=now)
        if decision is Decision.OPEN:
            known = OpenIncident(fired=False, since=now)
        elif decision is Decision.FIRE:
            known = OpenIncident(fired=True, since=known.since if known else now)
        elif decision in (Decision.DROP, Decision.RESOLVE):
            known = None
        assert (known is not None and known.fired) == firing
