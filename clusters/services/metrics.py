"""Metric batches: durable, or refused whole; and what they say of GPUs' health and of nodes' life."""

import time
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import Q

from clusters import ingest
from clusters.models import GPU, GPUHealth, HealthCause, LatestReading, Node
from clusters.queries import reportable_gpus
from clusters.services.health import set_health
from clusters.services.ledger import refresh_gpu_states
from clusters.states import Health, HeatRule, Reading, Streak, decide_health
from clusters.telemetry import MAX_SAMPLES, SHOWN_FLAWS, BadBatch, Sample, TooManySamples, decode
from gpufleet.common.errors import FieldProblem, InvalidInput, TooLarge
from gpufleet.common.locks import lock_rows

logger = structlog.stdlib.get_logger(__name__)


# GPUs whose health seems to change, with the reading before the batch and the news since.
Doubtful = dict[int, tuple[LatestReading | None, list[Reading]]]


def record_batch(*, body: Any, now: datetime, cluster_key_id: int | None = None) -> int:
    """Check a metric batch as it was sent, and store it as ``record_samples`` does.

    Raises ``TooLarge``, and ``InvalidInput`` that points at what is wrong.
    """
    try:
        samples = decode(body, now=now)
    except TooManySamples as refusal:
        raise TooLarge(f"A batch has at most {MAX_SAMPLES:,} samples.", max_samples=MAX_SAMPLES) from refusal
    except BadBatch as refusal:
        problems = [FieldProblem(flaw.pointer, flaw.code, flaw.detail) for flaw in refusal.flaws]
        raise InvalidInput(*problems) from refusal
    return record_samples(samples=samples, now=now, cluster_key_id=cluster_key_id)


@transaction.atomic
def record_samples(*, samples: Sequence[Sample], now: datetime, cluster_key_id: int | None = None) -> int:
    """Store a batch, all of it or none, with the changes of health that follow from it. Returns its size.

    A sample also proves that its node lived when it was taken, so it counts as a heartbeat of that time: a batch
    that an agent kept for hours revives nobody. ``cluster_key_id`` narrows the GPUs that may be reported to the
    cluster of that key. Raises ``InvalidInput`` that names the samples of GPUs that are unknown, of another
    cluster, or were retired before.
    """
    began = time.monotonic()
    gpus = reportable_gpus(cluster_key_id).in_bulk({sample.gpu_id for sample in samples})
    _check(samples, gpus)
    ingest.copy_samples(samples, {gpu.pk: gpu.node_id for gpu in gpus.values()}, now=now, began=began)
    _follow(samples, gpus, now)
    return len(samples)


@transaction.atomic
def take_news(*, fresh: Collection[tuple[int, datetime]], now: datetime) -> None:
    """Renew the latest readings and the nodes' heartbeats after frames, by node and instant, that were stored before.

    None of them is hot or brings an XID; so where nothing else is the matter with a GPU, nothing but its latest
    reading changes. The others go the way of ``record_samples``.
    """
    samples = ingest.take_stored({(node_id, at): min(at, now) for node_id, at in fresh})
    gpus = GPU.objects.in_bulk({sample.gpu_id for sample in samples})
    if gpus:
        _follow(samples, gpus, now)


def _follow(samples: Sequence[Sample], gpus: Mapping[int, GPU], now: datetime) -> None:
    revived = _take_heartbeats(samples, gpus, now)
    doubtful = _take_readings(samples, gpus, now)
    if revived or doubtful:
        _apply(doubtful, revived, now)


def _check(samples: Sequence[Sample], gpus: Mapping[int, GPU]) -> None:
    problems = []
    for index, sample in enumerate(samples):
        gpu = gpus.get(sample.gpu_id)
        if gpu is None:
            detail = f"There is no GPU {sample.gpu_id}."
            problems.append(FieldProblem(f"#/metrics/{index}/gpu_id", "does_not_exist", detail))
        elif gpu.retired_at is not None and sample.recorded_at > gpu.retired_at:
            detail = f"GPU {sample.gpu_id} was retired before this sample was taken."
            problems.append(FieldProblem(f"#/metrics/{index}/gpu_id", "gpu_retired", detail))
    if problems:
        raise InvalidInput(*problems[:SHOWN_FLAWS])


def _take_heartbeats(samples: Sequence[Sample], gpus: Mapping[int, GPU], now: datetime) -> list[int]:
    """Move the nodes' last heartbeats on, and return the ids of those that were silent and are back.

    Locks the nodes, so that the batches of one GPU are taken one after the other.
    """
    heard: dict[int, datetime] = {}
    for sample in samples:
        gpu = gpus[sample.gpu_id]
        if gpu.retired_at is None:
            at = min(sample.recorded_at, now)
            heard[gpu.node_id] = max(heard.get(gpu.node_id, at), at)
    nodes = lock_rows(Node.objects.filter(decommissioned_at__isnull=True), heard)
    later = [node for node in nodes.values() if node.last_heartbeat_at < heard[node.pk]]
    alive_since = now - timedelta(seconds=settings.NODE_SILENT_AFTER_SECONDS)
    revived = []
    for node in later:
        node.last_heartbeat_at = heard[node.pk]
        if node.silent and node.last_heartbeat_at >= alive_since:
            node.silent = False
            revived.append(node.pk)
    Node.objects.bulk_update(later, ["last_heartbeat_at", "silent"])
    return revived


def _take_readings(samples: Sequence[Sample], gpus: Mapping[int, GPU], now: datetime) -> Doubtful:
    """Renew the latest readings."""
    latest = ingest.read_latest(gpus)
    newest: list[ingest.Newest] = []
    doubtful: Doubtful = {}
    for gpu_id, fresh in _fresh(samples, gpus, latest).items():
        before = _health_of(gpus[gpu_id], latest.get(gpu_id))
        readings = [
            Reading(min(sample.recorded_at, now), sample.temperature_c, sample.xid, sample.memory_total_mb)
            for sample in fresh
        ]
        after = decide_health(before, readings, rule=_heat_rule(), now=now)
        newest.append(ingest.Newest(fresh[-1], after.streak))
        if (before.healthy, before.cause) != (after.healthy, after.cause):
            doubtful[gpu_id] = (latest.get(gpu_id), readings)
    ingest.upsert_latest(newest)
    return doubtful


def _fresh(
    samples: Sequence[Sample], gpus: Mapping[int, GPU], latest: Mapping[int, LatestReading]
) -> dict[int, list[Sample]]:
    """By GPU and oldest first, the samples that are newer than what is known of it.

    Of a GPU in a streak, or out of service for its heat, also those that are stored and from which nothing followed
    yet: where batches are written together only the newest is looked at, and within the second. So it is the same
    whichever way samples come.
    """
    fresh = ingest.fresh_by_gpu(samples, latest)
    wanted = [
        (gpu_id, gpus[gpu_id].node_id, latest[gpu_id].recorded_at)
        for gpu_id in fresh
        if gpu_id in latest and _is_watched(gpus[gpu_id], latest[gpu_id])
    ]
    by_time = {(one.gpu_id, one.recorded_at): one for one in [*ingest.stored_samples(wanted), *samples]}
    return ingest.fresh_by_gpu(by_time.values(), latest)


def _is_watched(gpu: GPU, latest: LatestReading) -> bool:
    return latest.streak_until is not None or gpu.health_cause == HealthCause.TEMPERATURE


def _heat_rule() -> HeatRule:
    lasts, gap = settings.GPU_HOT_AFTER_SECONDS, settings.NODE_SILENT_AFTER_SECONDS
    return HeatRule(lasts=timedelta(seconds=lasts), gap=timedelta(seconds=gap))


def _health_of(gpu: GPU, latest: LatestReading | None) -> Health:
    return Health(
        healthy=gpu.health == GPUHealth.HEALTHY,
        cause=gpu.health_cause,  # type: ignore[arg-type]  # one of HealthCause's values, by a constraint
        reason=gpu.health_reason,
        streak=_streak_of(latest) if latest else None,
        last_xid=latest.xid if latest else None,
        memory_total_mb=latest.memory_total_mb if latest else None,
    )


def _streak_of(latest: LatestReading) -> Streak | None:
    since = latest.hot_since or latest.cool_since
    if since is None or latest.streak_until is None:
        return None
    return Streak(hot=latest.hot_since is not None, since=since, until=latest.streak_until)


def _apply(doubtful: Doubtful, revived: Collection[int], now: datetime) -> None:
    """Decide again on the locked rows, since an operator may have spoken meanwhile, and let the states follow."""
    affected = GPU.objects.filter(Q(pk__in=doubtful) | Q(node__in=revived), retired_at__isnull=True)
    locked = lock_rows(GPU.objects.filter(retired_at__isnull=True), affected.values_list("pk", flat=True))
    wanted = {
        gpu_id: decide_health(_health_of(locked[gpu_id], latest), readings, rule=_heat_rule(), now=now)
        for gpu_id, (latest, readings) in doubtful.items()
        if gpu_id in locked
    }
    set_health(wanted, locked, now=now)
    refresh_gpu_states(GPU.objects.filter(pk__in=locked), now=now)
    if revived:
        logger.info("nodes are back", node_ids=list(revived))
