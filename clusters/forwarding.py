"""Samples on their way to a Prometheus remote-write endpoint, from an outbox that is written with them."""

from collections.abc import Collection
from datetime import datetime
from typing import Any, Literal

import httpx
import structlog
from django.conf import settings
from httpx import codes

from clusters.models import GPU
from clusters.remote_write import HEADERS, Series, encode
from clusters.sampledb import in_transaction_of_samples, samples_connection
from gpufleet.common.locks import try_lock_name

logger = structlog.stdlib.get_logger(__name__)

Frame = tuple[int, int, datetime]  # Its id in the outbox, its node and its time.

Outcome = Literal["taken", "unfit", "refused", "later"]
# About what was sent, and not who sent it where: Prometheus and Mimir, Thanos, too large.
UNFIT = (codes.BAD_REQUEST, codes.CONFLICT, codes.REQUEST_ENTITY_TOO_LARGE)

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

    A frame leaves the outbox after the other side has taken it, or refused it for good; one that is sent twice after a
    crash is the same samples again, which such engines take once. While another run sends, this one leaves.
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
        done = _deliver(client, cursor, sorted(cursor.fetchall(), key=_by_node_and_time))
        cursor.execute(DONE, [done])
    return len(done)


def _deliver(client: httpx.Client, cursor: Any, frames: list[Frame]) -> list[int]:
    """The outbox's ids of the frames that are done with: taken, or refused for good.

    Prometheus takes nothing of a request in which one sample is older than the last one of its series. So a request
    that is unfit is cut in halves, until only that is dropped which is refused by itself.
    """
    done: list[int] = []
    dropped = 0
    parts = [frames] if frames else []
    while parts:
        part = parts.pop()
        outcome = _send(client, _packed(cursor, part))
        if outcome == "later":
            break
        if outcome == "unfit" and len(part) > 1:
            parts += [part[len(part) // 2 :], part[: len(part) // 2]]
            continue
        done += [outbox_id for outbox_id, _, _ in part]
        dropped += 0 if outcome == "taken" else len(part)
    if dropped:
        logger.error("samples dropped that remote write refused", frames=dropped, of=len(frames))
    return done


def _packed(cursor: Any, frames: list[Frame]) -> bytes:
    _, nodes, times = map(list, zip(*frames, strict=True))
    cursor.execute(SAMPLES, [nodes, times])
    return encode(_series(cursor.fetchall()))


def _send(client: httpx.Client, body: bytes) -> Outcome:
    """By the protocol what is answered by a 4xx other than 429 will never be taken."""
    try:
        answer = client.post(settings.REMOTE_WRITE_URL, content=body)
    except httpx.HTTPError as error:
        logger.warning("remote write does not answer", error=str(error))
        return "later"
    if answer.is_success:
        return "taken"
    logger.warning("remote write refused", status=answer.status_code, answer=answer.text[:200])
    if answer.status_code in UNFIT:
        return "unfit"
    return "refused" if answer.is_client_error and answer.status_code != codes.TOO_MANY_REQUESTS else "later"


def _by_node_and_time(frame: Frame) -> tuple[int, datetime]:
    """So that what is refused lies together."""
    return frame[1], frame[2]


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
