"""Hours and days of every GPU, added up from its samples: each hour once, soon after it is over, and again where
samples came late.

An hour is rolled up five minutes after its end. Whoever stores a sample of an hour that is over marks it in the same
transaction (``ingest``), so between the two no sample is missed: a writer that saw the hour as still open had begun to
write before it ended, and ``roll_up`` first lets such transactions end. A writer therefore looks at the clock once it
has begun, since a batch may have waited for that; clocks may differ by nearly the five minutes.
"""

import itertools
import time
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

import structlog

from clusters.models import GPU
from clusters.partitions import DAYS, HOURS, drop_past, ensure_partitions, keep_ahead
from clusters.queries import sold_hours
from clusters.sampledb import in_transaction_of_samples, samples_connection
from clusters.series import COLUMNS, DAY, HOUR, OF_ROLLUPS, OF_SAMPLES, ONCE, floor_to

logger = structlog.stdlib.get_logger(__name__)

GRACE = timedelta(minutes=5)
PATIENCE_S = 10.0
IDLE_BELOW = 5_000  # Thousandths of a percent: an hour with less on average did nothing for whoever paid for it.

BEGIN = """
INSERT INTO clusters_metricrollup (hours_until)
SELECT coalesce((SELECT date_trunc('hour', min(recorded_at), 'UTC') FROM clusters_metricframe), %s)
ON CONFLICT DO NOTHING
"""
# Who comes while another one works finds the row locked, and leaves.
CLAIM = "SELECT hours_until FROM clusters_metricrollup FOR UPDATE SKIP LOCKED"
ADVANCE = "UPDATE clusters_metricrollup SET hours_until = %s"
# Whoever writes samples holds this lock until its transaction ends.
WRITING_NOW = """
SELECT virtualtransaction FROM pg_locks
WHERE database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND relation = 'clusters_metricframe'::regclass AND mode = 'RowExclusiveLock' AND pid <> pg_backend_pid()
"""
ROLLED_UNTIL = """
SELECT least(hours_until, (SELECT min(hour) FROM clusters_metriclate)) FROM clusters_metricrollup
"""
TAKE_LATE = "DELETE FROM clusters_metriclate RETURNING hour, node_id"

_REPLACE = ", ".join(f"{column} = excluded.{column}" for column in ["samples", *COLUMNS.split(", ")])
WRITE_HOUR = f"""
INSERT INTO clusters_metrichour (gpu_id, start, samples, {COLUMNS})
SELECT gpu_id, %(hour)s, count(*), {OF_SAMPLES}
FROM ({ONCE.format(where="frame.recorded_at >= %(hour)s AND frame.recorded_at < %(end)s {of_nodes}")}) AS sample
GROUP BY gpu_id
ON CONFLICT (gpu_id, start) DO UPDATE SET {_REPLACE}
RETURNING gpu_id
"""  # noqa: S608  (made of constants)
WRITE_DAY = f"""
INSERT INTO clusters_metricday (gpu_id, start, samples, {COLUMNS})
SELECT gpu_id, %(day)s, sum(samples), {OF_ROLLUPS}
FROM clusters_metrichour
WHERE start >= %(day)s AND start < %(end)s AND (%(gpus)s::bigint[] IS NULL OR gpu_id = ANY(%(gpus)s))
GROUP BY gpu_id
ON CONFLICT (gpu_id, start) DO UPDATE SET {_REPLACE}
"""  # noqa: S608  (made of constants)
FORGET_FLEET_DAY = "DELETE FROM clusters_metricfleetday WHERE day = %(day)s"
WRITE_FLEET_DAY = """
INSERT INTO clusters_metricfleetday (day, cluster_id, model, sold_seconds, busy_seconds, idle_seconds)
SELECT %(day)s, sold.cluster_id, sold.model, sum(sold.seconds),
       sum(sold.seconds * hour.utilization_sum::float8 / hour.utilization_count / 100000),
       coalesce(sum(sold.seconds) FILTER (WHERE hour.utilization_sum < %(idle)s * hour.utilization_count::bigint), 0)
FROM unnest(
    %(gpus)s::bigint[], %(hours)s::timestamptz[], %(seconds)s::float8[], %(clusters)s::bigint[], %(models)s::text[]
) AS sold (gpu_id, start, seconds, cluster_id, model)
JOIN clusters_metrichour AS hour
  ON hour.gpu_id = sold.gpu_id AND hour.start = sold.start AND hour.utilization_count > 0
WHERE hour.start >= %(day)s AND hour.start < %(end)s
GROUP BY sold.cluster_id, sold.model
"""


def roll_up(*, now: datetime) -> int:
    """Roll up the hours that are over, with the days that they complete, and mend those with late samples.

    Returns how many hours it wrote. While a writer of before does not end, it leaves the work to the next run.
    """
    if not _writers_have_ended():
        logger.warning("rollup waits for a transaction that does not end")
        return 0
    with samples_connection().cursor() as cursor:  # Not before: the first sample ever may be among what they write.
        cursor.execute(BEGIN, [floor_to(now, HOUR)])
    hours = 0
    while _roll_next_hour(now):
        hours += 1
    return hours + _mend_late()


def maintain_partitions(*, now: datetime) -> None:
    """Make the partitions of the coming days, and drop those that are past their time."""
    keep_ahead(now=now)
    drop_past(now=now, rolled_until=rolled_until())


def rolled_until() -> datetime | None:
    """Until when the hours are rolled up and none is to be written again; None before the first run."""
    with samples_connection().cursor() as cursor:
        cursor.execute(ROLLED_UNTIL)
        row = cursor.fetchone()
    return row[0] if row else None


def _writers_have_ended() -> bool:
    """Wait a while for the transactions that are writing samples now."""
    deadline = time.monotonic() + PATIENCE_S
    writing = _writing_now()
    while still := writing & _writing_now():
        if time.monotonic() > deadline:
            return False
        writing = still
        time.sleep(0.05)
    return True


def _writing_now() -> set[str]:
    with samples_connection().cursor() as cursor:
        cursor.execute(WRITING_NOW)
        return {name for (name,) in cursor.fetchall()}


def _roll_next_hour(now: datetime) -> bool:
    with in_transaction_of_samples(), samples_connection().cursor() as cursor:
        cursor.execute(CLAIM)
        row = cursor.fetchone()
        if row is None or row[0] + HOUR + GRACE > now:
            return False
        hour = row[0]
        _write_hour(cursor, hour, None)
        cursor.execute(ADVANCE, [hour + HOUR])
        if floor_to(hour + HOUR, DAY) == hour + HOUR:
            _write_day(cursor, floor_to(hour, DAY), None)
    return True


def _mend_late() -> int:
    """Write the hours again for which samples came after they were rolled up, and the days that hold them."""
    with in_transaction_of_samples(), samples_connection().cursor() as cursor:
        cursor.execute(CLAIM)
        row = cursor.fetchone()
        if row is None:
            return 0
        until = row[0]
        cursor.execute(TAKE_LATE)
        late = sorted(mark for mark in set(cursor.fetchall()) if mark[0] < until)
        days: dict[datetime, set[int]] = {}
        hours = 0
        for hour, marks in itertools.groupby(late, key=_hour_of):
            hours += 1
            gpus = _write_hour(cursor, hour, [node_id for _, node_id in marks])
            days.setdefault(floor_to(hour, DAY), set()).update(gpus)
        for day, mended in days.items():
            if day + DAY <= until:
                _write_day(cursor, day, mended)
    return hours


def _hour_of(mark: tuple[datetime, int]) -> datetime:
    return mark[0]


def _write_hour(cursor: Any, hour: datetime, node_ids: Collection[int] | None) -> list[int]:
    """Add up the hour, of all nodes or of some. Returns the GPUs."""
    ensure_partitions([hour.date()], of=HOURS)
    of_nodes = "" if node_ids is None else "AND frame.node_id = ANY(%(nodes)s)"
    nodes = {} if node_ids is None else {"nodes": list(node_ids)}
    cursor.execute(WRITE_HOUR.format(of_nodes=of_nodes), {"hour": hour, "end": hour + HOUR, **nodes})
    return [gpu_id for (gpu_id,) in cursor.fetchall()]


def _write_day(cursor: Any, day: datetime, gpu_ids: Collection[int] | None) -> None:
    """Add up the day's hours, of all GPUs or of some, and what the fleet did for those who paid."""
    ensure_partitions([day.date()], of=DAYS)
    gpus = None if gpu_ids is None else sorted(gpu_ids)
    span = {"day": day, "end": day + DAY}
    cursor.execute(WRITE_DAY, {**span, "gpus": gpus})
    sold = list(sold_hours.ask(day, day + DAY))
    cursor.execute(FORGET_FLEET_DAY, span)
    if sold:
        gpus_sold, hours, seconds = map(list, zip(*sold, strict=True))
        clusters, models = _kinds_of(gpus_sold)
        columns = {"gpus": gpus_sold, "hours": hours, "seconds": seconds, "clusters": clusters, "models": models}
        cursor.execute(WRITE_FLEET_DAY, {**span, **columns, "idle": IDLE_BELOW})


def _kinds_of(gpu_ids: Sequence[Any]) -> tuple[list[int], list[str]]:
    """Cluster and model of each, which the main database knows."""
    rows = GPU.objects.filter(pk__in=set(gpu_ids)).values_list("pk", "node__cluster_id", "model")
    known = {gpu_id: (cluster_id, model) for gpu_id, cluster_id, model in rows}
    return [known[gpu_id][0] for gpu_id in gpu_ids], [known[gpu_id][1] for gpu_id in gpu_ids]
