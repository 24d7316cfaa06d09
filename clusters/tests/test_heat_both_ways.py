"""A GPU's heat is judged alike whether its samples come to Django or are written with those of their moment."""

import json
import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from queue import SimpleQueue
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from apikeys.models import ApiKey
from apikeys.tests.factories import make_key
from clusters import groups, services
from clusters.groups import GroupWriter
from clusters.models import GPU, LatestReading
from clusters.telemetry import decode_quickly
from clusters.tests.factories import NOW, make_gpu

pytestmark = pytest.mark.django_db(transaction=True)

TEMPERATURES: list[float | None] = [95.0, 95.0, 95.0, 95.0, 91.25, 90.0, 89.9, 86.0, 70.0, 40.0, 40.0, 40.0, None]
KINDS: list[list[float | None]] = [[95.0, 90.0, 95.0, 95.0, None], [95.0], [40.0, 84.9, 70.0, 40.0, None], TEMPERATURES]


@pytest.fixture
def writer(monkeypatch: pytest.MonkeyPatch) -> Iterator[GroupWriter]:
    monkeypatch.setattr(groups, "NEWS_EVERY_S", 3600)  # The test says when.
    with connection.cursor() as cursor:  # No model's table, so that no test's end empties it.
        cursor.execute("TRUNCATE clusters_metricframe, clusters_metriclate")
    found = GroupWriter()
    yield found
    found.close()


@pytest.fixture
def raw_key() -> str:
    raw = make_key().raw
    ApiKey.objects.update(last_used_at=timezone.now())
    return raw


def batch(gpu: GPU, samples: list[tuple[datetime, float | None]]) -> dict[str, Any]:
    return {
        "metrics": [
            {"gpu_id": gpu.pk, "recorded_at": at.isoformat(), "temperature_c": celsius} for at, celsius in samples
        ]
    }


def send(writer: GroupWriter, raw_key: str, body: dict[str, Any], now: datetime) -> bool:
    """As the door does. Returns whether it was stored with its group."""
    columns = decode_quickly(json.dumps(body, separators=(",", ":")).encode(), now=now)
    told: SimpleQueue[bool] = SimpleQueue()
    taken = columns and writer.submit(columns, raw_key=raw_key, idempotency=None, now=now, then=told.put)
    if taken and told.get(timeout=30):
        return True
    services.record_batch(body=body, now=now)
    return False


def heat_of(gpu: GPU) -> tuple[Any, ...]:
    gpu.refresh_from_db()
    columns = ("recorded_at", "hot_since", "cool_since", "streak_until")
    return (gpu.state, gpu.health_cause, *LatestReading.objects.values_list(*columns).get(gpu=gpu))


@pytest.mark.parametrize("seed", range(12))
def test_random_lives_are_judged_alike(writer: GroupWriter, raw_key: str, seed: int) -> None:
    rng, now = random.Random(seed), NOW
    plain, through_django = make_gpu(), make_gpu()
    ways, causes, kind = set(), set(), TEMPERATURES
    for _ in range(50):
        batches: list[list[tuple[datetime, float | None]]] = []
        for _ in range(rng.randint(1, 3)):  # What comes within a second.
            kind = rng.choice(KINDS) if rng.random() < 0.25 else kind
            batches.append([])
            for _ in range(rng.randint(1, 4)):
                now += timedelta(seconds=rng.choice([1, 60, 90, 91] if rng.random() < 0.1 else [10, 20, 30]))
                batches[-1].append((now, rng.choice(kind)))
        for samples in batches:
            ways.add(send(writer, raw_key, batch(plain, samples), now))
            services.record_batch(body=batch(through_django, samples), now=now)
        writer.flush_news(now=now)
        assert heat_of(plain) == heat_of(through_django)
        causes.add(plain.health_cause)
    assert ways == {True, False}
    assert causes == {"", "temperature"}


def test_a_cool_sample_that_nobody_has_looked_at_yet_ends_the_heat(writer: GroupWriter, raw_key: str) -> None:
    """Its own, and not that of its neighbour."""
    gpu = make_gpu()
    neighbour = make_gpu(gpu.node)
    at = [NOW + timedelta(seconds=30 * number) for number in range(7)]
    send(writer, raw_key, batch(gpu, [(at[0], 95.0)]), at[0])
    assert send(writer, raw_key, batch(gpu, [(at[1], 60.0)]), at[1])
    for one in at[2:6]:
        send(writer, raw_key, batch(gpu, [(one, 95.0)]), one)
        assert send(writer, raw_key, batch(neighbour, [(one, 60.0)]), one)
    assert heat_of(gpu)[:4] == ("available", "", at[5], at[2])
    send(writer, raw_key, batch(gpu, [(at[6], 95.0)]), at[6])
    assert heat_of(gpu)[1] == "temperature"


def test_of_a_gpu_that_was_marked_healthy_while_it_cooled_nothing_stays(writer: GroupWriter, raw_key: str) -> None:
    gpu = make_gpu()
    LatestReading.objects.create(gpu=gpu, recorded_at=NOW, temperature_c=40, cool_since=NOW, streak_until=NOW)
    at = NOW + timedelta(seconds=10)
    assert send(writer, raw_key, batch(gpu, [(at, 40.0)]), at)
    writer.flush_news(now=at)
    assert heat_of(gpu) == ("available", "", at, None, None, None)


def test_warmth_between_two_cool_samples_of_a_batch_is_seen(writer: GroupWriter, raw_key: str) -> None:
    gpu = make_gpu()
    for minute in range(3):
        send(writer, raw_key, batch(gpu, [(NOW + timedelta(minutes=minute), 95.0)]), NOW + timedelta(minutes=minute))
    at = [NOW + timedelta(minutes=minute) for minute in range(3, 9)]
    assert send(writer, raw_key, batch(gpu, [(at[0], 60.0)]), at[0])
    writer.flush_news(now=at[0])
    assert send(writer, raw_key, batch(gpu, [(at[1], 86.0), (at[2], 60.0)]), at[2])
    writer.flush_news(now=at[2])
    assert heat_of(gpu)[:2] == ("unhealthy", "temperature")
    assert send(writer, raw_key, batch(gpu, [(one, 60.0) for one in at[3:5]]), at[4])
    writer.flush_news(now=at[4])
    assert heat_of(gpu) == ("available", "", at[4], None, None, None)


def test_a_warm_sample_before_the_first_cool_one_of_a_batch(writer: GroupWriter, raw_key: str) -> None:
    """Of a GPU that is out for its heat and in no streak."""
    gpu = make_gpu(health="unhealthy", health_cause="temperature")
    LatestReading.objects.create(gpu=gpu, recorded_at=NOW, temperature_c=86)
    at = [NOW + timedelta(seconds=60 * number) for number in range(1, 4)]
    assert send(writer, raw_key, batch(gpu, [(one, 60.0) for one in at]), at[-1])
    writer.flush_news(now=at[-1])
    assert heat_of(gpu) == ("available", "", at[-1], None, None, None)
