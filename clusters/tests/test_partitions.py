from datetime import date, timedelta

import pytest
from django.conf import LazySettings
from django.db import connection, transaction
from django.db.migrations.executor import MigrationExecutor

from clusters.frames import Frame, pack_frames
from clusters.ingest import copy_packed
from clusters.models import MetricSample
from clusters.partitions import DAYS, FRAMES, HOURS, drop_partitions, ensure_partitions, existing_days
from clusters.rollups import maintain_partitions, roll_up
from clusters.tests.factories import NOW, make_gpu, store_sample
from clusters.tests.threads import at_once, in_thread

DAY = NOW.date()


def days_from(first: int, last: int) -> set[date]:
    return {DAY + timedelta(days=offset) for offset in range(first, last + 1)}


@pytest.fixture
def no_partitions(transactional_db: None) -> None:
    """Partitions outlive a transactional test, since they are tables and not rows."""
    for table in (FRAMES, HOURS, DAYS):
        drop_partitions(before=date.max, of=table)
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM clusters_metricrollup")


@pytest.mark.django_db
def test_only_what_is_missing_is_made() -> None:
    ensure_partitions([DAY])
    assert ensure_partitions([DAY, DAY + timedelta(days=1)]) == [DAY + timedelta(days=1)]
    assert ensure_partitions([DAY]) == []


@pytest.mark.django_db
def test_a_partition_holds_its_day_and_its_index() -> None:
    ensure_partitions([DAY])
    midnight = NOW.replace(hour=0)
    ends = (midnight, midnight + timedelta(days=1, microseconds=-1))
    copy_packed([pack_frames(Frame(1, at, [1], (None,) * 6) for at in ends)])
    with connection.cursor() as cursor:
        cursor.execute("SELECT DISTINCT tableoid::regclass::text FROM clusters_metricframe")
        assert cursor.fetchall() == [(f"{FRAMES.table}_20261123",)]
        cursor.execute(
            "SELECT count(*) FROM pg_inherits WHERE inhparent = 'metric_frame_by_node'::regclass"
            " AND inhrelid IN (SELECT indexrelid FROM pg_index WHERE indrelid = %s::regclass)",
            [f"{FRAMES.table}_20261123"],
        )
        assert cursor.fetchone() == (1,)


@pytest.mark.django_db
def test_upkeep_looks_ahead_and_drops_what_is_past(settings: LazySettings, no_partitions: None) -> None:
    settings.METRICS_RAW_DAYS = 2
    ensure_partitions(days_from(-5, -1))
    roll_up(now=NOW)
    maintain_partitions(now=NOW)
    assert existing_days() == days_from(-2, 3)


@pytest.mark.django_db
def test_samples_that_are_not_rolled_up_yet_stay(settings: LazySettings, no_partitions: None) -> None:
    settings.METRICS_RAW_DAYS = 2
    ensure_partitions(days_from(-5, -1))
    copy_packed([pack_frames([Frame(1, NOW - timedelta(days=4), [1], (None,) * 6)])])
    roll_up(now=NOW - timedelta(days=4))
    maintain_partitions(now=NOW)
    assert existing_days() == days_from(-4, 3)
    roll_up(now=NOW)
    maintain_partitions(now=NOW)
    assert existing_days() == days_from(-2, 3)


@pytest.mark.django_db
def test_late_samples_that_are_not_rolled_up_yet_stay(settings: LazySettings, no_partitions: None) -> None:
    settings.METRICS_RAW_DAYS = 1
    roll_up(now=NOW)
    gpu, late = make_gpu(), NOW - timedelta(days=1)
    store_sample(gpu, late, now=NOW)
    next_day = NOW + timedelta(days=1)
    maintain_partitions(now=next_day)
    assert late.date() in existing_days()
    roll_up(now=next_day)
    maintain_partitions(now=next_day)
    assert late.date() not in existing_days()


@pytest.mark.django_db
def test_rollups_are_kept_by_the_month(settings: LazySettings, no_partitions: None) -> None:
    settings.METRICS_ROLLUP_DAYS = 53
    months = [date(2026, month, 17) for month in (8, 9, 10)]
    for table in (HOURS, DAYS):
        assert ensure_partitions(months, of=table) == [day.replace(day=1) for day in months]
    maintain_partitions(now=NOW)
    for table in (HOURS, DAYS):
        assert existing_days(of=table) == {date(2026, 10, 1), date(2026, 11, 1)}
    settings.METRICS_ROLLUP_DAYS = 54
    ensure_partitions(months, of=DAYS)
    maintain_partitions(now=NOW)
    assert existing_days(of=DAYS) == {date(2026, 9, 1), date(2026, 10, 1), date(2026, 11, 1)}


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
        copy_packed([pack_frames([Frame(1, NOW, [1], (None,) * 6)])])
        assert in_thread(lambda: ensure_partitions([DAY + timedelta(days=1)])) == [DAY + timedelta(days=1)]


def test_the_migration_goes_back_and_forth(no_partitions: None) -> None:
    gpu = make_gpu()
    store_sample(gpu, NOW, utilization_pct=93.5, memory_used_mb=7, xid=13)
    before = list(MetricSample.objects.values())
    MigrationExecutor(connection).migrate([("clusters", "0002_metric_partitions")])
    assert FRAMES.table not in connection.introspection.table_names()
    assert list(MetricSample.objects.values()) == before
    executor = MigrationExecutor(connection)
    executor.migrate(executor.loader.graph.leaf_nodes())
    assert existing_days() == {DAY}
    assert list(MetricSample.objects.values()) == before
