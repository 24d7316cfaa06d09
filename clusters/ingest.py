"""Samples into the database: one COPY for all of them, one upsert for the newest of each GPU."""

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection

from clusters.frames import HEADER, TRAILER, frames_of, pack_frames
from clusters.models import LatestReading
from clusters.partitions import ensure_partitions
from clusters.sampledb import for_main_database, in_transaction_of_samples, samples_connection
from clusters.series import HOUR, floor_to
from clusters.states import Streak
from clusters.telemetry import Sample

Asked = tuple[str, list[Any]]

COLUMNS = (
    "gpu_id",
    "recorded_at",
    "utilization_pct",
    "memory_used_mb",
    "memory_total_mb",
    "temperature_c",
    "power_draw_w",
    "xid",
)
TYPES = ("int8", "timestamptz", "float8", "int4", "int4", "float8", "float8", "int4")
COPY = """
COPY clusters_metricframe (
    node_id, recorded_at, gpu_ids, utilization, memory_used, memory_total, temperature, power, xid
) FROM STDIN (FORMAT BINARY)
"""
QUEUE = """
INSERT INTO clusters_metricoutbox (node_id, recorded_at) SELECT * FROM unnest(%s::bigint[], %s::timestamptz[])
"""
MARK_LATE = "INSERT INTO clusters_metriclate (node_id, hour) SELECT * FROM unnest(%s::bigint[], %s::timestamptz[])"

RETIRED_SINCE = "SELECT id FROM clusters_gpu WHERE retired_at >= %s"

LOCK_NODES = "SELECT id FROM clusters_node WHERE id = ANY(%s) ORDER BY id FOR NO KEY UPDATE"
BEAT = """
UPDATE clusters_node AS node SET last_heartbeat_at = heard.at
FROM unnest(%s::bigint[], %s::timestamptz[]) AS heard (node_id, at)
WHERE node.id = heard.node_id AND node.last_heartbeat_at < heard.at AND NOT node.silent
  AND node.decommissioned_at IS NULL
"""
READINGS = """
SELECT frame.recorded_at, reading.gpu_id, reading.utilization, reading.memory_used, reading.memory_total,
       reading.temperature, reading.power, reading.xid
FROM unnest(%(nodes)s::bigint[], %(times)s::timestamptz[]) AS fresh (node_id, at)
JOIN clusters_metricframe AS frame ON frame.node_id = fresh.node_id AND frame.recorded_at = fresh.at
CROSS JOIN LATERAL unnest(
    frame.gpu_ids, frame.utilization, frame.memory_used, frame.memory_total, frame.temperature, frame.power, frame.xid
) AS reading (gpu_id, utilization, memory_used, memory_total, temperature, power, xid)
"""
OF_READINGS = {
    "recorded_at": "timestamptz",
    "gpu_id": "int8",
    **dict.fromkeys(("utilization", "memory_used", "memory_total", "temperature", "power", "xid"), "int4"),
}
STORED = """
SELECT reading.gpu_id, frame.recorded_at, reading.utilization / 1000.0::float8, reading.memory_used,
       reading.memory_total, reading.temperature / 1000.0::float8, reading.power / 1000.0::float8, reading.xid
FROM unnest(%(gpus)s::bigint[], %(nodes)s::bigint[], %(since)s::timestamptz[]) AS wanted (gpu_id, node_id, since)
JOIN clusters_metricframe AS frame ON frame.node_id = wanted.node_id AND frame.recorded_at > wanted.since
CROSS JOIN LATERAL unnest(
    frame.gpu_ids, frame.utilization, frame.memory_used, frame.memory_total, frame.temperature, frame.power, frame.xid
) AS reading (gpu_id, utilization, memory_used, memory_total, temperature, power, xid)
WHERE reading.gpu_id = wanted.gpu_id AND frame.recorded_at > %(first)s
"""
# Rows go in by the order of their GPUs, so that two batches with new GPUs can't wait for each other.
INSERT = """
INSERT INTO clusters_latestreading AS latest (
    gpu_id, recorded_at, utilization_pct, memory_used_mb, memory_total_mb, temperature_c, power_draw_w, xid,
    hot_since, cool_since, streak_until
)
"""
SENT = """
SELECT * FROM unnest(
    %s::bigint[], %s::timestamptz[], %s::float8[], %s::int[], %s::int[], %s::float8[], %s::float8[], %s::int[],
    %s::timestamptz[], %s::timestamptz[], %s::timestamptz[]
) AS sent (
    gpu_id, recorded_at, utilization_pct, memory_used_mb, memory_total_mb, temperature_c, power_draw_w, xid,
    hot_since, cool_since, streak_until
)
ORDER BY sent.gpu_id
"""
RENEW = """
ON CONFLICT (gpu_id) DO UPDATE SET
    recorded_at = excluded.recorded_at,
    utilization_pct = excluded.utilization_pct,
    memory_used_mb = excluded.memory_used_mb,
    memory_total_mb = excluded.memory_total_mb,
    temperature_c = excluded.temperature_c,
    power_draw_w = excluded.power_draw_w,
    xid = excluded.xid,
    hot_since = excluded.hot_since,
    cool_since = excluded.cool_since,
    streak_until = excluded.streak_until
WHERE latest.recorded_at < excluded.recorded_at
"""
UPSERT = INSERT + SENT + RENEW
# Of the newest frames: what is known of a GPU is renewed in place, since that costs half of an upsert, and a GPU with
# which something is the matter stays as it is. A repeated reading costs no write: it is compared with what is known.
TAKE_STORED = f"""
WITH newest AS MATERIALIZED (
    SELECT DISTINCT ON (reading.gpu_id)
        reading.gpu_id, reading.recorded_at, reading.utilization / 1000.0::float8 AS utilization_pct,
        reading.memory_used AS memory_used_mb, reading.memory_total AS memory_total_mb,
        reading.temperature / 1000.0::float8 AS temperature_c, reading.power / 1000.0::float8 AS power_draw_w,
        reading.xid, latest.gpu_id IS NULL AS is_first,
        gpu.health <> 'healthy' OR gpu.retired_at IS NOT NULL OR node.silent
            OR latest.hot_since IS NOT NULL OR coalesce(latest.xid > 0, false)
            OR coalesce(reading.memory_total < latest.memory_total_mb, false) AS troubled
    FROM ({{readings}}) AS reading
    JOIN clusters_gpu AS gpu ON gpu.id = reading.gpu_id
    JOIN clusters_node AS node ON node.id = gpu.node_id
    LEFT JOIN clusters_latestreading AS latest ON latest.gpu_id = gpu.id
    WHERE latest.recorded_at IS NULL OR latest.recorded_at < reading.recorded_at
    ORDER BY reading.gpu_id, reading.recorded_at DESC
), renewed AS (
    UPDATE clusters_latestreading AS latest SET
        recorded_at = newest.recorded_at, utilization_pct = newest.utilization_pct,
        memory_used_mb = newest.memory_used_mb, memory_total_mb = newest.memory_total_mb,
        temperature_c = newest.temperature_c, power_draw_w = newest.power_draw_w, xid = newest.xid,
        cool_since = NULL, streak_until = NULL
    FROM newest
    WHERE NOT newest.troubled AND NOT newest.is_first
      AND latest.gpu_id = newest.gpu_id AND latest.recorded_at < newest.recorded_at
), added AS (
    {INSERT}
    SELECT gpu_id, recorded_at, utilization_pct, memory_used_mb, memory_total_mb, temperature_c, power_draw_w, xid,
           NULL::timestamptz, NULL::timestamptz, NULL::timestamptz
    FROM newest WHERE NOT troubled AND is_first ORDER BY gpu_id
    {RENEW}
)
SELECT gpu_id, recorded_at, utilization_pct, memory_used_mb, memory_total_mb, temperature_c, power_draw_w, xid
FROM newest WHERE troubled
"""  # noqa: S608  (made of constants)


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest sample of a GPU, with the streak that ends with it, or None."""

    sample: Sample
    streak: Streak | None


def copy_samples(samples: Sequence[Sample], node_of: Mapping[int, int], *, now: datetime, began: float) -> None:
    """Append the samples to the partitions of their days, which are made when they are missing.

    ``began`` is what ``time.monotonic`` said at ``now``.
    """
    frames = frames_of(samples, node_of)
    ensure_partitions({frame.recorded_at.astimezone(UTC).date() for frame in frames})
    with in_transaction_of_samples(savepoint=False):
        copy_packed([pack_frames(frames)])
        # Not before the COPY has begun does a rollup wait for this transaction, however long it took to come here; so
        # what is over by now counts, and not what was over when the batch came.
        copied_at = now + timedelta(seconds=time.monotonic() - began)
        stored = [(frame.node_id, frame.recorded_at) for frame in frames]
        with samples_connection().cursor() as cursor:
            for statement, params in after_frames(stored, late_hours(stored, now=copied_at)):
                cursor.execute(statement, params)


def copy_packed(rows: Iterable[bytes]) -> None:
    """Append frames in their packed form to partitions that are there."""
    with samples_connection().cursor() as cursor, cursor.copy(COPY) as copy:
        copy.write(b"".join([HEADER, *rows, TRAILER]))


def late_hours(frames: Iterable[tuple[int, datetime]], *, now: datetime) -> set[tuple[int, datetime]]:
    """The nodes and hours of the frames, by node and instant, whose hour is over."""
    this_hour = floor_to(now, HOUR)
    return {(node_id, floor_to(at, HOUR)) for node_id, at in frames if at < this_hour}


def after_frames(frames: Sequence[tuple[int, datetime]], late: Collection[tuple[int, datetime]]) -> list[Asked]:
    """Statements with their parameters to execute after frames are written, in their transaction.

    They have the frames forwarded, where samples are (see ``forwarding``), and have the rollup look again at these
    hours of nodes (see ``rollups``).
    """
    asked = []
    for statement, rows in ((MARK_LATE, sorted(late)), (QUEUE, frames if settings.REMOTE_WRITE_URL else ())):
        if rows:
            asked.append((statement, [list(column) for column in zip(*rows, strict=True)]))
    return asked


def take_stored(fresh: Mapping[tuple[int, datetime], datetime]) -> list[Sample]:
    """Make stored frames the latest readings and heartbeats of their GPUs and nodes, and return the newest samples of
    those GPUs with which something is the matter, whose readings stay as they are.

    ``fresh`` are the frames, by node and instant, with when the node was heard. Locks the nodes.
    """
    heard: dict[int, datetime] = {}
    for (node_id, _), at in fresh.items():
        heard[node_id] = max(heard.get(node_id, at), at)
    nodes, times = zip(*sorted(fresh), strict=True)
    readings, params = for_main_database(READINGS, {"nodes": list(nodes), "times": list(times)}, OF_READINGS)
    with connection.cursor() as cursor:
        cursor.execute(LOCK_NODES, [list(heard)])
        cursor.execute(BEAT, [list(heard), list(heard.values())])
        cursor.execute(TAKE_STORED.format(readings=readings), params)
        return [Sample(*row) for row in cursor.fetchall()]


def read_latest(gpu_ids: Collection[int]) -> dict[int, LatestReading]:
    """The latest readings of these GPUs; one that never reported is left out. Their nodes are locked by the caller."""
    return LatestReading.objects.in_bulk(gpu_ids)


def fresh_by_gpu(samples: Iterable[Sample], latest: Mapping[int, LatestReading]) -> dict[int, list[Sample]]:
    """By GPU and oldest first, the samples that are newer than what is known of it."""
    fresh: dict[int, list[Sample]] = {}
    for sample in sorted(samples, key=_taken):
        known = latest.get(sample.gpu_id)
        if known is None or known.recorded_at < sample.recorded_at:
            fresh.setdefault(sample.gpu_id, []).append(sample)
    return fresh


def stored_samples(wanted: Collection[tuple[int, int, datetime]]) -> list[Sample]:
    """What is stored of these GPUs, each with its node, after an instant. One query, or none."""
    if not wanted:
        return []
    gpus, nodes, since = map(list, zip(*wanted, strict=True))
    with samples_connection().cursor() as cursor:
        cursor.execute(STORED, {"gpus": gpus, "nodes": nodes, "since": since, "first": min(since)})
        return [Sample(*row) for row in cursor.fetchall()]


def upsert_latest(newest: Collection[Newest]) -> None:
    """Make these the latest readings. One that is older than what another batch left meanwhile changes nothing."""
    columns = [_array(newest, column, kind) for column, kind in zip(COLUMNS, TYPES, strict=True)]
    streaks = [one.streak for one in newest]
    since = [[one and one.since if one and one.hot == hot else None for one in streaks] for hot in (True, False)]
    with connection.cursor() as cursor:
        cursor.execute(UPSERT, [*columns, *since, [one and one.until for one in streaks]])


def _array(newest: Collection[Newest], column: str, kind: str) -> list[Any]:
    """One column; the driver takes no list in which 50 and 50.5 stand together."""
    values = [getattr(one.sample, column) for one in newest]
    return [None if value is None else float(value) for value in values] if kind == "float8" else values


def _taken(sample: Sample) -> datetime:
    return sample.recorded_at
