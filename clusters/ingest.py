"""Samples into the database: one COPY for all of them, one upsert for the newest of each GPU."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.db import connection

from clusters.models import LatestReading
from clusters.partitions import ensure_partitions
from clusters.telemetry import Sample

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
COPY = f"COPY clusters_metricsample ({', '.join(COLUMNS)}) FROM STDIN (FORMAT BINARY)"

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


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest sample of a GPU, with the number of hot samples in a row that ends with it."""

    sample: Sample
    hot_samples: int


def copy_samples(samples: Sequence[Sample]) -> None:
    """Append the samples to the partitions of their days, which are made when they are missing."""
    ensure_partitions({sample.recorded_at.astimezone(UTC).date() for sample in samples})
    with connection.cursor() as cursor, cursor.copy(COPY) as copy:
        copy.set_types(TYPES)
        for sample in samples:
            copy.write_row([getattr(sample, column) for column in COLUMNS])


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
