"""The only writer of GPU states: a GPU's ``state`` and its open period in the ledger move together, here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import cast

from django.db import connection
from django.db.backends.postgresql.psycopg_any import DateTimeTZRange
from django.db.models import QuerySet

from clusters.models import GPU, ClusterStatus, GPUHealth, GPUStatePeriod
from clusters.states import Circumstances, Verdict, gpu_state
from gpufleet.common.locks import lock_rows

CLOSE = """
UPDATE clusters_gpustateperiod AS period
SET during = tstzrange(lower(period.during), change.at)
FROM unnest(%s::bigint[], %s::timestamptz[]) AS change (period_id, at)
WHERE period.id = change.period_id
"""
RENAME = """
UPDATE clusters_gpustateperiod AS period
SET state = change.state, reason = change.reason
FROM unnest(%s::bigint[], %s::text[], %s::text[]) AS change (period_id, state, reason)
WHERE period.id = change.period_id
"""
SET_STATE = """
UPDATE clusters_gpu AS gpu
SET state = change.state
FROM unnest(%s::bigint[], %s::text[]) AS change (gpu_id, state)
WHERE gpu.id = change.gpu_id
"""
RETIRE = """
UPDATE clusters_gpu AS gpu
SET retired_at = greatest(%s, lower(period.during)), retired_reason = gone.reason
FROM unnest(%s::bigint[], %s::text[]) AS gone (gpu_id, reason)
JOIN clusters_gpustateperiod AS period ON period.gpu_id = gone.gpu_id AND upper_inf(period.during)
WHERE gpu.id = gone.gpu_id
"""
CLOSE_LAST = """
UPDATE clusters_gpustateperiod
SET during = tstzrange(lower(during), %s)
WHERE gpu_id = ANY(%s) AND upper_inf(during) AND lower(during) < %s
"""


@dataclass(frozen=True, slots=True)
class _Change:
    """A GPU whose open period is no longer true from ``at`` on. Its period began at or before ``at``."""

    gpu_id: int
    period_id: int
    began: datetime
    at: datetime
    verdict: Verdict

    @property
    def at_once(self) -> bool:
        """The open period would become empty, so it is renamed instead."""
        return self.at == self.began


def refresh_gpu_states(gpus: QuerySet[GPU], *, now: datetime, since_heartbeat: bool = False) -> int:
    """Bring the states of those of the GPUs that are in service in line with what they follow from.

    The new state begins at ``now``; with ``since_heartbeat`` at the node's last heartbeat, for nodes that fell
    silent. Never before the present period began: a period is not empty and does not run backwards. Locks the GPUs
    by id, and only then reads what decides, so that of two callers the later one sees the other's work.
    Returns how many GPUs changed state. Needs a transaction.
    """
    ids = sorted(lock_rows(GPU.objects.filter(retired_at__isnull=True), gpus.values_list("pk", flat=True)))
    changes = _changes(ids, now, since_heartbeat)
    if changes:
        _write(changes)
    return len(changes)


def retire_gpus(reasons: Mapping[int, str], *, now: datetime) -> None:
    """Take GPUs out of service, each for its reason, and close their chain of periods. A job that holds one is the
    scheduler's business.

    The GPUs are locked by the caller. A period that would be empty is removed, so the chain ends where it began.
    """
    ids = list(reasons)
    with connection.cursor() as cursor:
        cursor.execute(RETIRE, [now, ids, list(reasons.values())])
        cursor.execute(CLOSE_LAST, [now, ids, now])
    GPUStatePeriod.objects.filter(gpu_id__in=ids, during__upper_inf=True).delete()


def open_ledger(gpus: Sequence[GPU], verdict: Verdict) -> None:
    """Insert new GPUs of one node, each with the first period of its chain, from its registration on."""
    for gpu in gpus:
        gpu.state = verdict.state
    GPU.objects.bulk_create(gpus)
    GPUStatePeriod.objects.bulk_create(
        GPUStatePeriod(
            gpu=gpu,
            state=verdict.state,
            reason=verdict.reason,
            during=DateTimeTZRange(gpu.registered_at, None),
        )
        for gpu in gpus
    )


def circumstances_of(gpu: GPU) -> Circumstances:
    """What decides the GPU's state; its node and cluster are read already."""
    node = gpu.node
    return Circumstances(
        cluster_in_maintenance=node.cluster.status == ClusterStatus.MAINTENANCE,
        node_intent=node.intent,  # type: ignore[arg-type]  # one of NodeIntent's values, by a constraint
        node_reason=node.intent_reason,
        node_silent=node.silent,
        last_heartbeat_at=node.last_heartbeat_at,
        healthy=gpu.health == GPUHealth.HEALTHY,
        health_reason=gpu.health_reason,
    )


def _changes(ids: Sequence[int], now: datetime, since_heartbeat: bool) -> list[_Change]:
    rows = (
        GPUStatePeriod.objects.filter(gpu_id__in=ids, during__upper_inf=True)
        .select_related("gpu__node__cluster")
        .order_by("gpu_id")
    )
    changes = []
    for period in rows:
        verdict = gpu_state(circumstances_of(period.gpu))
        if verdict.state == period.state:
            continue
        wanted = period.gpu.node.last_heartbeat_at if since_heartbeat else now
        began = cast("datetime", period.during.lower)
        changes.append(_Change(period.gpu_id, period.pk, began, max(wanted, began), verdict))
    return changes


def _write(changes: Sequence[_Change]) -> None:
    moved = [change for change in changes if not change.at_once]
    renamed = [change for change in changes if change.at_once]
    with connection.cursor() as cursor:
        cursor.execute(CLOSE, [[change.period_id for change in moved], [change.at for change in moved]])
        cursor.execute(
            RENAME,
            [
                [change.period_id for change in renamed],
                [change.verdict.state for change in renamed],
                [change.verdict.reason for change in renamed],
            ],
        )
        cursor.execute(SET_STATE, [[change.gpu_id for change in changes], [change.verdict.state for change in changes]])
    GPUStatePeriod.objects.bulk_create(
        GPUStatePeriod(
            gpu_id=change.gpu_id,
            state=change.verdict.state,
            reason=change.verdict.reason,
            during=DateTimeTZRange(change.at, None),
        )
        for change in moved
    )
