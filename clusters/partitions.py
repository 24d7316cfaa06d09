"""Samples have a partition a day, and rollups one a month (UTC): made ahead, and dropped when their time is over.

A new partition is made as a table of its own and then attached, since that blocks neither writers nor readers of
the others; ``CREATE TABLE … PARTITION OF`` would stop them all.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

import structlog
from django.conf import settings
from django.db import OperationalError
from psycopg import sql

from clusters.sampledb import in_transaction_of_samples, samples_connection
from gpufleet.common.locks import lock_name

logger = structlog.stdlib.get_logger(__name__)

DAYS_AHEAD = 3
# How long a drop waits for readers and writers, who meanwhile queue behind it. What is not dropped now is dropped
# by the next run.
DROP_WAITS = "2s"

EXISTING = """
SELECT child.relname FROM pg_inherits
JOIN pg_class AS child ON child.oid = pg_inherits.inhrelid
WHERE pg_inherits.inhparent = %s::regclass
"""
CREATE = "CREATE TABLE {partition} (LIKE {table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS)"
ATTACH = "ALTER TABLE {table} ATTACH PARTITION {partition} FOR VALUES FROM ({start}) TO ({end})"


@dataclass(frozen=True, slots=True)
class Partitioned:
    """A table with a partition a day, or a month. A partition is known by its first day."""

    table: str
    monthly: bool = False

    def first_day(self, day: date) -> date:
        """The first day of the partition that holds this one."""
        return day.replace(day=1) if self.monthly else day

    def end(self, first: date) -> date:
        """The first day after a partition."""
        return (first + timedelta(days=31)).replace(day=1) if self.monthly else first + timedelta(days=1)


FRAMES = Partitioned("clusters_metricframe")
HOURS = Partitioned("clusters_metrichour", monthly=True)
DAYS = Partitioned("clusters_metricday", monthly=True)


def ensure_partitions(days: Iterable[date], *, of: Partitioned = FRAMES) -> list[date]:
    """Make the partitions of these days that are missing. Returns the first days of those that it made.

    Two callers at once: the second waits for the first, and finds its work done.
    """
    wanted = {of.first_day(day) for day in days}
    if not wanted - existing_days(of=of):
        return []
    with in_transaction_of_samples():
        lock_name("metric partitions", using=settings.SAMPLES_DATABASE)
        made = sorted(wanted - existing_days(of=of))
        for day in made:
            _make(of, day)
    return made


def keep_ahead(*, now: datetime) -> None:
    """Make the partitions from yesterday (late samples) to three days ahead."""
    today = now.astimezone(UTC).date()
    days = [today + timedelta(days=offset) for offset in range(-1, DAYS_AHEAD + 1)]
    for table in (FRAMES, HOURS, DAYS):
        ensure_partitions(days, of=table)


def drop_past(*, now: datetime, rolled_until: datetime | None) -> None:
    """Drop the partitions past ``METRICS_RAW_DAYS`` and ``METRICS_ROLLUP_DAYS``.

    Samples stay until they are rolled up, however late the rollup is.
    """
    today = now.astimezone(UTC).date()
    raw_from = today - timedelta(days=max(settings.METRICS_RAW_DAYS, 1))
    if rolled_until is not None:
        drop_partitions(before=min(raw_from, rolled_until.astimezone(UTC).date()))
    for table in (HOURS, DAYS):
        drop_partitions(before=today - timedelta(days=max(settings.METRICS_ROLLUP_DAYS, 1)), of=table)


def drop_partitions(*, before: date, of: Partitioned = FRAMES) -> list[date]:
    """Drop the partitions that end by this day, each in its own transaction. Returns their first days."""
    return [day for day in sorted(existing_days(of=of)) if of.end(day) <= before and _drop(of, day)]


def existing_days(*, of: Partitioned = FRAMES) -> set[date]:
    """The first days of the partitions that there are."""
    with samples_connection().cursor() as cursor:
        cursor.execute(EXISTING, [of.table])
        matches = [re.fullmatch(rf"{of.table}_(\d{{8}})", name) for (name,) in cursor.fetchall()]
    return {datetime.strptime(match[1], "%Y%m%d").replace(tzinfo=UTC).date() for match in matches if match}


def _name(of: Partitioned, day: date) -> sql.Identifier:
    return sql.Identifier(f"{of.table}_{day:%Y%m%d}")


def _midnight(day: date) -> sql.Literal:
    return sql.Literal(datetime.combine(day, time(), tzinfo=UTC).isoformat())


def _make(of: Partitioned, day: date) -> None:
    names = {"table": sql.Identifier(of.table), "partition": _name(of, day)}
    with samples_connection().cursor() as cursor:
        cursor.execute(sql.SQL(CREATE).format(**names))
        cursor.execute(sql.SQL(ATTACH).format(**names, start=_midnight(day), end=_midnight(of.end(day))))
    logger.info("metric partition made", table=of.table, day=day.isoformat())


def _drop(of: Partitioned, day: date) -> bool:
    try:
        with in_transaction_of_samples(), samples_connection().cursor() as cursor:
            cursor.execute("SELECT set_config('lock_timeout', %s, true)", [DROP_WAITS])
            cursor.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(_name(of, day)))
    except OperationalError as error:
        logger.warning("metric partition not dropped", table=of.table, day=day.isoformat(), error=str(error))
        return False
    logger.info("metric partition dropped", table=of.table, day=day.isoformat())
    return True
