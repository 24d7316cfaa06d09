"""Samples in a second PostgreSQL: the same reads, nothing of them in the main database, and which commits first."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.conf import LazySettings
from django.core.management import call_command
from django.db import connection, connections
from django.test import Client, override_settings
from django.utils import timezone
from pytest_django import DjangoDbBlocker

from apikeys.models import ApiKey
from apikeys.tests.factories import make_key
from clusters import forwarding, queries, rollups, series
from clusters.models import LatestReading, MetricSample
from clusters.services import record_batch
from clusters.tests.databases import empty_databases
from clusters.tests.factories import NOW, hold, make_gpu
from clusters.tests.receivers import Receiver, decoded
from clusters.tests.test_intake import Door, one
from tenants.tests.factories import alice

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "samples"])

EMPTY = """
TRUNCATE clusters_metricframe, clusters_metriclate, clusters_metricoutbox, clusters_metricrollup, clusters_metrichour,
         clusters_metricday, clusters_metricfleetday
"""

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.fixture(scope="module", autouse=True)
def second_database(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """A second database, migrated by the command and known by its alias."""
    with empty_databases("_samples"):
        own = {**connection.settings_dict, "NAME": f"{connection.settings_dict['NAME']}_samples"}
        connections.settings["samples"] = own
        with django_db_blocker.unblock(), override_settings(SAMPLES_DATABASE="samples"):
            call_command("migrate", verbosity=0)
        yield
        connections["samples"].close()
        del connections["samples"]
        del connections.settings["samples"]


@pytest.fixture
def second(settings: LazySettings) -> None:
    """It is the samples', and empty."""
    for alias in ("default", "samples"):
        with connections[alias].cursor() as cursor:
            cursor.execute(EMPTY)
    settings.SAMPLES_DATABASE = "samples"


def stored(alias: str) -> int:
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT count(*) FROM clusters_metricframe")
        return int(cursor.fetchone()[0])


def test_samples_rollups_and_outbox_are_there_and_the_rest_here(second: None, receiver: Receiver) -> None:
    gpu = make_gpu(uuid="GPU-1")
    hold(gpu, alice(), since=NOW - HOUR)
    for minutes in (50, 40, 40):  # The last one came twice.
        at = NOW - timedelta(minutes=minutes)
        body = {"metrics": [{"gpu_id": gpu.pk, "recorded_at": at.isoformat(), "utilization_pct": minutes}]}
        assert record_batch(body=body, now=NOW) == 1
    assert (stored("default"), stored("samples")) == (0, 3)
    assert LatestReading.objects.get().utilization_pct == 40
    assert MetricSample.objects.count() == 3

    assert rollups.roll_up(now=NOW + HOUR) >= 1
    (bucket,) = series.buckets(node_id=gpu.node_id, gpu_id=gpu.pk, start=NOW - HOUR, end=NOW, width=HOUR)
    assert (bucket.samples, bucket.spreads[0].total) == (2, 90_000)
    assert queries.hourly_utilisation([gpu.pk], start=NOW - HOUR, end=NOW) == [(gpu.pk, NOW - HOUR, 45)]
    assert rollups.roll_up(now=NOW + 13 * HOUR) == 12
    assert queries.sold_utilisation(start=NOW - DAY, end=NOW + DAY).sold_seconds == 3600
    assert queries.used_below(46, [(gpu.pk, gpu.node_id, NOW - HOUR)], until=NOW) == {gpu.pk}
    assert queries.used_below(44, [(gpu.pk, gpu.node_id, NOW - HOUR)], until=NOW) == set()

    assert forwarding.forward_samples() == 3
    (found,) = [dict(labels) for labels in decoded(receiver.bodies[0])]
    assert (found["uuid"], found["node"]) == ("GPU-1", gpu.node.hostname)


def test_group_commit_stores_there_and_tells_the_latest_here(second: None) -> None:
    door, raw_key = Door(), make_key().raw
    cool, faulty = make_gpu(), make_gpu(health="unhealthy")
    body = {"metrics": [one(cool, utilization_pct=10), one(faulty, utilization_pct=20)]}
    ApiKey.objects.update(last_used_at=timezone.now())
    for handed_on in (0, 1):  # What comes again under its key is Django's to answer.
        assert door.post(body, raw_key, HTTP_IDEMPOTENCY_KEY="k")[:2] == (202, {"accepted": 2})
        assert door.handed_on == handed_on
    door.intake.writer.flush_news(now=timezone.now())
    door.intake.close()
    assert (stored("default"), stored("samples")) == (0, 2)
    assert dict(LatestReading.objects.values_list("gpu_id", "utilization_pct")) == {cool.pk: 10, faulty.pk: 20}


def test_samples_are_committed_before_what_follows_from_them(second: None, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = make_gpu()
    body = {"metrics": [{"gpu_id": gpu.pk, "recorded_at": NOW.isoformat(), "utilization_pct": 50}]}

    def crash(*_: Any) -> None:
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr("clusters.ingest.upsert_latest", crash)
        with pytest.raises(InterruptedError):
            record_batch(body=body, now=NOW)
    assert stored("samples") == 1
    assert not LatestReading.objects.exists()
    record_batch(body=body, now=NOW)  # The agent, which had no answer, sends it again.
    assert LatestReading.objects.get().utilization_pct == 50
    read = series.readings(node_id=gpu.node_id, gpu_id=gpu.pk, start=NOW - HOUR, end=NOW + HOUR, limit=9)
    assert [row[1] for row in read] == [50_000]


def test_without_the_second_database_nothing_is_acknowledged(
    second: None, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu, raw_key = make_gpu(), make_key().raw
    assert client.get("/readyz").json()["checks"]["samples_database"] == {"ok": True, "pending": 0}
    connections["samples"].close()
    monkeypatch.setitem(connections["samples"].settings_dict, "NAME", "nowhere")
    answer = client.post(
        "/api/clusters/metrics",
        {"metrics": [one(gpu, utilization_pct=50)]},
        content_type="application/json",
        headers={"Authorization": f"Bearer {raw_key}"},
    )
    assert (answer.status_code, answer["Content-Type"]) == (503, "application/problem+json")
    assert not LatestReading.objects.exists()
    assert "samples_database" in client.get("/readyz").json()["failing"]
