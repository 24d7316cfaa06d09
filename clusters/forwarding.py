"""Samples on their way to a Prometheus remote-write endpoint, from an outbox that is written with them."""

from collections.abc import Collection
from typing import Any

import httpx
import structlog
from django.conf import settings

from clusters.models import GPU
from clusters.remote_write import HEADERS, Series, encode
from clusters.sampledb import in_transaction_of_samples, samples_connection
from gpufleet.common.locks import try_lock_name

logger = structlog.stdlib.get_logger(__name__)

FRAMES_A_REQUEST = 500
REQUESTS_A_RUN = 200
TIMEOUT_S = 10
LABELS = ("gpu_id", "uuid", "model", "node", "cluster")
NAMES = ("utilization_pct", "memory_used_mb", "memory_total_mb", "temperature_c", "power_draw_w", "xid")

# The oldest first, and one request at a time however many workers there are, since some engines (Prometheus among
# them) take no sample that is older than the last one of its series.
LOCK = "metric forwarding"
CLAIM = "SELECT id, node_id, recorded_at FROM clusters_metricoutbox ORDER BY id LIMIT %s"
DONE = "DELETE FROM clusters_metricoutbox WHERE id = ANY(%s)"
SAMPLES = """
SELECT DISTINCT ON (reading.gpu_id, frame.recorded_at)
    reading.gpu_id, frame.recorded_at,
    reading.utilization / 1000.0::float8, reading.memory_used, reading.memory_total,
    reading.temperature / 1000.0::float8, reading.power / 1000.0::float8, reading.xid
FROM unnest(%s::bigint[], %s::timestamptz[]) AS wanted (node_id, at)
JOIN clusters_metricframe AS frame ON frame.node_id = wanted.node_id AND frame.recorded_at = wanted.at
CROSS JOIN LATERAL unnest(
    frame.gpu_ids, frame.utilization, frame.memory_used, frame.memory_total, frame.temperature, frame.power, frame.xid
) AS reading (gpu_id, utilization, memory_used, memory_total, temperature, power, xid)
ORDER BY reading.gpu_id, frame.recorded_at
"""


def forward_samples() -> int:
    """Send what waits, a request at a time, until nothing does or the other side refuses. Returns the frames sent.

    A frame leaves the outbox after the other side has taken it; one that is sent twice after a crash is the same
    samples again, which such engines take once. While another run sends, this one leaves.
    """
    sent = 0
    if not settings.REMOTE_WRITE_URL:
        return sent
    with httpx.Client(timeout=TIMEOUT_S, headers=HEADERS) as client:
        for _ in range(REQUESTS_A_RUN):
            frames = _forward_some(client)
            sent += frames
            if frames == 0:
                break
    return sent


def _forward_some(client: httpx.Client) -> int:
    with in_transaction_of_samples(), samples_connection().cursor() as cursor:
        if not try_lock_name(LOCK, using=settings.SAMPLES_DATABASE):
            return 0
        cursor.execute(CLAIM, [FRAMES_A_REQUEST])
        rows = cursor.fetchall()
        if not rows:
            return 0
        ids, nodes, times = (list(column) for column in zip(*rows, strict=True))
        cursor.execute(SAMPLES, [nodes, times])
        if not _is_taken(client, encode(_series(cursor.fetchall()))):
            return 0
        cursor.execute(DONE, [ids])
    return len(rows)


def _is_taken(client: httpx.Client, body: bytes) -> bool:
    """Whether the frames are done with. By the protocol a 4xx other than 429 will never be taken, and is dropped."""
    try:
        answer = client.post(settings.REMOTE_WRITE_URL, content=body)
    except httpx.HTTPError as error:
        logger.warning("remote write does not answer", error=str(error))
        return False
    if answer.is_success:
        return True
    final = answer.is_client_error and answer.status_code != httpx.codes.TOO_MANY_REQUESTS
    log = logger.error if final else logger.warning
    log("remote write refused", status=answer.status_code, dropped=final, answer=answer.text[:200])
    return final


def _series(rows: list[tuple[Any, ...]]) -> list[Series]:
    found: dict[tuple[int, str], Series] = {}
    labels = _labels_of({row[0] for row in rows})
    for gpu_id, at, *values in rows:
        for name, value in zip(NAMES, values, strict=True):
            if value is not None:
                series = found.setdefault((gpu_id, name), Series(f"gpufleet_gpu_{name}", labels[gpu_id], []))
                series.samples.append((at, float(value)))
    return list(found.values())


def _labels_of(gpu_ids: Collection[int]) -> dict[int, dict[str, str]]:
    rows = GPU.objects.filter(pk__in=gpu_ids)
    named = rows.values_list("pk", "uuid", "model", "node__hostname", "node__cluster__name")
    return {row[0]: dict(zip(LABELS, map(str, row), strict=True)) for row in named}
