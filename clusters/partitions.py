"""The table of samples has one partition a day (UTC). They are made ahead, and dropped when their time is over.

A new partition is made as a table of its own and then attached, since that blocks neither writers nor readers of
the others; ``CREATE TABLE … PARTITION OF`` would stop them all.
"""

import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta

import structlog
from django.conf import settings
from django.db import OperationalError, connection, transaction
from psycopg import sql

from gpufleet.common.locks import lock_name

logger = structlog.stdlib.get_logger(__name__)

TABLE = "clusters_metricsample"
NAME = re.compile(rf"{TABLE}_(\d{{8}})")
DAYS_AHEAD = 3
# How long a drop waits for readers and writers, who meanwhile queue behind it. What is not dropped now is dropped
# by the next run.
DROP_WAITS = "2s"

EXISTING = """
SELECT child.relname FROM pg_inherits
JOIN pg_class AS child ON child.oid = pg_inherits.inhrelid
WHERE pg_inherits.inhparent = %s::regclass
"""
CREATE = "CREATE TABLE {partition} (LIKE {table})"
ATTACH = "ALTER TABLE {table} ATTACH PARTITION {partition} FOR VALUES FROM ({start}) TO ({end})"


def ensure_partitions(days: Iterable[date]) -> list[date]:
    """Make the partitions of these days that are missing. Returns the days that it made them for.

    Two callers at once: the second waits for the first, and finds its work done.
    """
    wanted = set(days)
    if not wanted - existing_days():
        return []
    with transaction.atomic():
        lock_name("metric partitions")
        made = sorted(wanted - existing_days())
        for day in made:
            _make(day)
    return made


def maintain_partitions(*, now: datetime) -> None:
    """Make the partitions from yesterday (late samples) to three days ahead, and drop those past their time."""
    today = now.astimezone(UTC).date()
    ensure_partitions(today + timedelta(days=offset) for offset in range(-1, DAYS_AHEAD + 1))
    drop_partitions(before=today - timedelta(days=max(settings.METRICS_RAW_DAYS, 1)))


def drop_partitions(*, before: date) -> list[date]:
    """Drop the partitions of the days before this one, each in its own transaction. Returns the days."""
    return [day for day in sorted(existing_days()) if day < before and _drop(day)]


def existing_days() -> set[date]:
    """The days that have a partition."""
    with connection.cursor() as cursor:
        cursor.execute(EXISTING, [TABLE])
        matches = [NAME.fullmatch(name) for (name,) in cursor.fetchall()]
    return {datetime.strptime(match[1], "%Y%m%d").replace(tzinfo=UTC).date() for match in matches if match}


def _name(day: date) -> sql.Identifier:
    return sql.Identifier(f"{TABLE}_{day:%Y%m%d}")


def _make(day: date) -> None:
    names = {"table": sql.Identifier(TABLE), "partition": _name(day)}
    start = datetime.combine(day, time(), tzinfo=UTC)
    span = {"start": sql.Literal(start.isoformat()), "end": sql.Literal((start + timedelta(days=1)).isoformat())}
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL(CREATE).format(**names))
        cursor.execute(sql.SQL(ATTACH).format(**names, **span))
    logger.info("metric partition made", day=day.isoformat())


def _drop(day: date) -> bool:
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT set_config('lock_timeout', %s, true)", [DROP_WAITS])
            cursor.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(_name(day)))
    except OperationalError as error:
        logger.warning("metric partition not dropped", day=day.isoformat(), error=str(error))
        return False
    logger.info("metric partition dropped", day=day.isoformat())
    return True
