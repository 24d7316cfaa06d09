"""A month of random temperatures through the rules, on a virtual clock, against an oracle that knows no database."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import pytest

from alerts import services
from alerts.conditions import FLAP_HOLD, FLAP_WINDOW, FLAPS
from alerts.models import AlertEvent, AlertRule
from alerts.tests.factories import MINUTE, NOW, make_rule
from clusters.models import GPU, LatestReading
from clusters.tests.factories import make_gpu, make_node

pytestmark = pytest.mark.django_db

MONTH = timedelta(days=30)
GPUS = 4
# What an evaluation saw of a subject: its value, "unknown", or "gone".
Seen = float | None | str


@dataclass(frozen=True)
class Incident:
    """One incident, as it is on record in the end."""

    rule: str
    subject: str
    since: datetime
    fired_at: datetime
    resolved_at: datetime | None
    flapping: bool


def expect(rule: AlertRule, subject: str, seen: Sequence[tuple[datetime, Seen]]) -> Iterable[Incident]:
    """The incidents by the rule's own words, from what was seen, a whole stretch at a time."""
    ends: list[datetime] = []
    place = 0
    while place < len(seen):
        begin = next((i for i in range(place, len(seen)) if _hot(seen[i][1], rule.threshold)), None)
        if begin is None:
            return
        since = seen[begin][0]
        fired = _fires(rule, seen, begin)
        if fired is None:
            place = next(i for i in range(begin, len(seen) + 1) if i == len(seen) or _well(seen[i][1], rule.threshold))
            continue
        at = seen[fired][0]
        flapping = sum(at - FLAP_WINDOW < end for end in ends) >= FLAPS
        end = _ends(rule, seen, fired, flapping)
        yield Incident(rule.name, subject, since, at, None if end is None else seen[end][0], flapping)
        if end is None:
            return
        ends.append(seen[end][0])
        place = end + 1


def _hot(value: Seen, limit: float) -> bool:
    return isinstance(value, float) and value >= limit


def _well(value: Seen, limit: float) -> bool:
    return value == "gone" or (isinstance(value, float) and value < limit)


def _fires(rule: AlertRule, seen: Sequence[tuple[datetime, Seen]], begin: int) -> int | None:
    """The first sight in trouble that comes late enough, if none before it was well."""
    for i in range(begin, len(seen)):
        at, value = seen[i]
        if _well(value, rule.threshold):
            return None
        if _hot(value, rule.threshold) and at >= seen[begin][0] + timedelta(seconds=rule.for_seconds):
            return i
    return None


def _ends(rule: AlertRule, seen: Sequence[tuple[datetime, Seen]], fired: int, flapping: bool) -> int | None:
    """The first sight beyond recovery; for one that flaps, the first so late after others in one piece."""
    limit = rule.threshold if rule.recovery_threshold is None else rule.recovery_threshold
    calm: datetime | None = None
    for i in range(fired + 1, len(seen)):
        at, value = seen[i]
        if value == "gone":
            return i
        if not isinstance(value, float):
            continue
        if value >= limit:
            calm = None
        elif not flapping or (calm is not None and at - calm >= FLAP_HOLD):
            return i
        else:
            calm = calm or at
    return None


def test_a_month_of_random_metrics_fires_and_resolves_as_the_oracle_says() -> None:
    chance = random.Random(6)
    AlertRule.objects.all().delete()
    rules = [
        make_rule(name="at once", type="gpu_temperature", threshold=80.0),
        make_rule(name="wide", type="gpu_temperature", threshold=85.0, recovery_threshold=70.0),
        make_rule(name="patient", type="gpu_temperature", threshold=80.0, recovery_threshold=75.0, for_seconds=600),
    ]
    node = make_node()
    seen: dict[int, list[tuple[datetime, Seen]]] = {make_gpu(node).pk: [] for _ in range(GPUS)}
    now = NOW
    while now < NOW + MONTH:
        sights = dict(zip(seen, _sights(chance, now), strict=True))
        _show(sights, now)
        for pk, sight in sights.items():
            seen[pk].append((now, sight))
        services.evaluate_rules(now=now)
        now += chance.choice([2, 4, 6, 11] if _restless(now) else [60, 120, 240]) * MINUTE
    expected = [one for rule in rules for pk, sights in seen.items() for one in expect(rule, f"gpu:{pk}", sights)]
    assert _sorted(_recorded()) == _sorted(expected)
    assert len(expected) > 200
    assert sum(one.flapping for one in expected) > 10
    assert {one.resolved_at is None for one in expected} == {True, False}


def _restless(now: datetime) -> bool:
    return now.hour % 12 == 0


def _sights(chance: random.Random, now: datetime) -> list[Seen]:
    """Some hours are restless; data is missing now and then, and a GPU is gone for a while."""
    kinds = ["value"] * 12 + ["missing", "gone"]
    middle, spread = (80.0, 25.0) if _restless(now) else (68.0, 12.0)
    drawn = [(chance.choice(kinds), chance.gauss(middle, spread)) for _ in range(GPUS)]
    return [value if kind == "value" else None if kind == "missing" else "gone" for kind, value in drawn]


def _show(sights: Mapping[int, Seen], now: datetime) -> None:
    """Let the database say what is to be seen."""
    GPU.objects.update(retired_at=None)
    GPU.objects.filter(pk__in=[pk for pk, sight in sights.items() if sight == "gone"]).update(retired_at=NOW)
    LatestReading.objects.all().delete()
    LatestReading.objects.bulk_create(
        LatestReading(gpu_id=pk, recorded_at=now, temperature_c=sight)
        for pk, sight in sights.items()
        if isinstance(sight, float)
    )


def _recorded() -> list[Incident]:
    return [
        Incident(event.rule.name, event.subject, event.since, event.fired_at, event.resolved_at, event.flapping)
        for event in AlertEvent.objects.exclude(status="pending").select_related("rule")
        if event.fired_at is not None
    ]


def _sorted(incidents: Iterable[Incident]) -> list[Incident]:
    return sorted(incidents, key=lambda one: (one.rule, one.subject, one.since))


def test_the_oracle_would_notice() -> None:
    """An oracle that agrees with everything proves nothing."""
    rule = AlertRule(name="r", threshold=80.0, for_seconds=60)
    seen: list[tuple[datetime, Seen]] = [(NOW + n * MINUTE, value) for n, value in enumerate([81.0, 81.0, None, 79.0])]
    (one,) = expect(rule, "gpu:1", seen)
    assert one == Incident("r", "gpu:1", NOW, NOW + MINUTE, NOW + 3 * MINUTE, flapping=False)
    assert one != replace(one, fired_at=NOW)
