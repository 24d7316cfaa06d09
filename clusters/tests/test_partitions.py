from datetime import date, timedelta

import pytest
from django.conf import LazySettings
from django.db import connection, transaction
from django.db.migrations.executor import MigrationExecutor

from clusters.models import MetricSample
from clusters.partitions import TABLE, drop_partitions, ensure_partitions, existing_days, maintain_partitions
from clusters.tests.factories import NOW
from clusters.tests.threads import at_once, in_thread

DAY = NOW.date()


def days_from(first: int, last: int) -> set[date]:
    return {DAY + timedelta(days=offset) for offset in range(first, last + 1)}


@pytest.fixture
def no_partitions(transactional_db: None) -> None:
    """Partitions outlive a transactional test, since they are tables and not rows."""
    drop_partitions(before=date.max)


@pytest.mark.django_db
def test_only_what_is_missing_is_made() -> None:
    ensure_partitions([DAY])
    assert ensure_partitions([DAY, DAY + timedelta(days=1)]) == [DAY + timedelta(days=1)]
    assert ensure_partitions([DAY]) == []


@pytest.mark.django_db
def test_a_partition_holds_its_day_and_its_index() -> None:
    ensure_partitions([DAY])
    midnight = NOW.replace(hour=0)
    MetricSample.objects.create(gpu_id=1, recorded_at=midnight)
    MetricSample.objects.create(gpu_id=1, recorded_at=midnight + timedelta(days=1, microseconds=-1))
    with connection.cursor() as cursor:
        cursor.execute("SELECT DISTINCT tableoid::regclass::text FROM clusters_metricsample")
        assert cursor.fetchall() == [(f"{TABLE}_20261123",)]
        cursor.execute(
            "SELECT count(*) FROM pg_inherits WHERE inhparent = 'metric_sample_by_gpu'::regclass"
            " AND inhrelid IN (SELECT indexrelid FROM pg_index WHERE indrelid = %s::regclass)",
            [f"{TABLE}_20261123"],
        )
        assert cursor.fetchone() == (1,)


@pytest.mark.django_db
def test_upkeep_looks_ahead_and_drops_what_is_past(settings: LazySettings, no_partitions: None) -> None:
    settings.METRICS_RAW_DAYS = 2
    ensure_partitions(days_from(-5, -1))
    maintain_partitions(now=NOW)
    assert existing_days() == days_from(-2, 3)


@pytest.mark.django_db
def test_late_samples_keep_their_day_whatever_the_setting(settings: LazySettings, no_partitions: None) -> None:
    settings.METRICS_RAW_DAYS = 0
    maintain_partitions(now=NOW)
    assert existing_days() == days_from(-1, 3)


def test_a_partition_in_use_is_dropped_by_a_later_run(no_partitions: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clusters.partitions.DROP_WAITS", "50ms")
    ensure_partitions([DAY])
    with transaction.atomic():
        assert not MetricSample.objects.exists()
        assert in_thread(lambda: drop_partitions(before=date.max)) == []
    assert drop_partitions(before=date.max) == [DAY]


def test_two_writers_who_miss_the_same_partition(no_partitions: None) -> None:
    made = at_once(*[lambda: ensure_partitions([DAY, DAY + timedelta(days=1)])] * 6)
    assert sorted(day for days in made for day in days) == [DAY, DAY + timedelta(days=1)]


def test_a_new_partition_waits_for_no_writer(no_partitions: None) -> None:
    ensure_partitions([DAY])
    with transaction.atomic():
        MetricSample.objects.create(gpu_id=1, recorded_at=NOW)
        assert in_thread(lambda: ensure_partitions([DAY + timedelta(days=1)])) == [DAY + timedelta(days=1)]


def test_the_migration_goes_back_and_forth(no_partitions: None) -> None:
    ensure_partitions([DAY])
    MigrationExecutor(connection).migrate([("clusters", "0001_initial")])
    assert TABLE not in connection.introspection.table_names()
    executor = MigrationExecutor(connection)
    executor.migrate(executor.loader.graph.leaf_nodes())
    assert existing_days() == set()
