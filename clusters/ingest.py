"""Samples into the database: one COPY for all of them, one upsert for the newest of each GPU."""

import functools
import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.db import connection

from clusters.models import LatestReading
from clusters.partitions import ensure_partitions
from clusters.series import HOUR, floor_to
from clusters.telemetry import Frame, Sample, frames_of

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
MARK_LATE = "INSERT INTO clusters_metriclate (node_id, hour) SELECT * FROM unnest(%s::bigint[], %s::timestamptz[])"

# Rows go in by the order of their GPUs, so that two batches with new GPUs can't wait for each other.
UPSERT = """
INSERT INTO clusters_latestreading AS latest (
    gpu_id, recorded_at, utilization_pct, memory_used_mb, memory_total_mb, temperature_c, power_draw_w, xid, hot_samples
)
SELECT * FROM unnest(
    %s::bigint[], %s::timestamptz[], %s::float8[], %s::int[], %s::int[], %s::float8[], %s::float8[], %s::int[],
    %s::smallint[]
) AS sent (
    gpu_id, recorded_at, utilization_pct, memory_used_mb, memory_total_mb, temperature_c, power_draw_w, xid, hot_samples
)
ORDER BY sent.gpu_id
ON CONFLICT (gpu_id) DO UPDATE SET
    recorded_at = excluded.recorded_at,
    utilization_pct = excluded.utilization_pct,
    memory_used_mb = excluded.memory_used_mb,
    memory_total_mb = excluded.memory_total_mb,
    temperature_c = excluded.temperature_c,
    power_draw_w = excluded.power_draw_w,
    xid = excluded.xid,
    hot_samples = excluded.hot_samples
WHERE latest.recorded_at < excluded.recorded_at
"""


# PostgreSQL's binary COPY: a header, for each row its number of fields and each field with its length in front, and -1.
# https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-FILE-FORMATS
HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
ROW = struct.Struct("!hiqiq")  # Nine fields, of which the first two are the node and the time.
FIELDS_A_ROW = 9
ARRAY = struct.Struct("!iiiIii")  # Length; then dimensions, whether it holds NULLs, type, elements, first index.
INT4, INT8 = 23, 20
NULL = b"\xff\xff\xff\xff"
POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest sample of a GPU, with the number of hot samples in a row that ends with it."""

    sample: Sample
    hot_samples: int


def copy_samples(samples: Sequence[Sample], node_of: Mapping[int, int], *, now: datetime) -> None:
    """Append the samples to the partitions of their days, which are made when they are missing."""
    frames = frames_of(samples, node_of)
    ensure_partitions({frame.recorded_at.astimezone(UTC).date() for frame in frames})
    copy_frames(frames)
    mark_late(frames, now=now)


def copy_frames(frames: Iterable[Frame]) -> None:
    """Append frames to partitions that are there."""
    data = bytearray(HEADER)
    for frame in frames:
        pack_frame(data, frame)
    data += TRAILER
    with connection.cursor() as cursor, cursor.copy(COPY) as copy:
        copy.write(data)


def mark_late(frames: Iterable[Frame], *, now: datetime) -> None:
    """Have the rollup look again at hours that are over. Called after the frames are written: see ``rollups``."""
    this_hour = floor_to(now, HOUR)
    late = {(frame.node_id, floor_to(frame.recorded_at, HOUR)) for frame in frames if frame.recorded_at < this_hour}
    if late:
        nodes, hours = zip(*sorted(late), strict=True)
        with connection.cursor() as cursor:
            cursor.execute(MARK_LATE, [list(nodes), list(hours)])


def pack_frame(data: bytearray, frame: Frame) -> None:
    """Append a frame as a row of a binary COPY."""
    since = frame.recorded_at - POSTGRES_EPOCH
    at = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    data += ROW.pack(FIELDS_A_ROW, 8, frame.node_id, 8, at)
    data += _int8s(len(frame.gpu_ids)).pack(*_array_head(frame.gpu_ids, INT8, 12), *_with_lengths(frame.gpu_ids, 8))
    for column in frame.columns:
        data += NULL if column is None else _pack_column(column)


def _pack_column(column: Sequence[int | None]) -> bytes:
    if None not in column:
        return _int4s(len(column)).pack(*_array_head(column, INT4, 8), *_with_lengths(column, 4))
    values = b"".join(NULL if value is None else struct.pack("!ii", 4, value) for value in column)
    return ARRAY.pack(20 + len(values), 1, 1, INT4, len(column), 1) + values


def _array_head(values: Sequence[Any], kind: int, width: int) -> tuple[int, ...]:
    return (20 + width * len(values), 1, 0, kind, len(values), 1)


def _with_lengths(values: Sequence[Any], length: int) -> list[Any]:
    pairs = [length] * (2 * len(values))
    pairs[1::2] = values
    return pairs


@functools.cache
def _int4s(count: int) -> struct.Struct:
    return struct.Struct("!iiiIii" + "ii" * count)


@functools.cache
def _int8s(count: int) -> struct.Struct:
    return struct.Struct("!iiiIii" + "iq" * count)


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


def upsert_latest(newest: Collection[Newest]) -> None:
    """Make these the latest readings. One that is older than what another batch left meanwhile changes nothing."""
    columns = [_array(newest, column, kind) for column, kind in zip(COLUMNS, TYPES, strict=True)]
    with connection.cursor() as cursor:
        cursor.execute(UPSERT, [*columns, [one.hot_samples for one in newest]])


def _array(newest: Collection[Newest], column: str, kind: str) -> list[Any]:
    """One column; the driver takes no list in which 50 and 50.5 stand together."""
    values = [getattr(one.sample, column) for one in newest]
    return [None if value is None else float(value) for value in values] if kind == "float8" else values


def _taken(sample: Sample) -> datetime:
    return sample.recorded_at
