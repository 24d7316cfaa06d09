"""One cycle of the scheduler: reap what lost its hardware, look once, plan, and write the plan down.

The cycle holds PostgreSQL's advisory lock on its session, so that one cycle runs at a time and a killed worker's lock
is gone with its connection. What it writes, it writes in short transactions, each of which leaves the house in order:
a cycle that is killed between two of them is carried on by the next.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, TypeVar

from django.db import DatabaseError, connection, transaction
from django.db.backends.postgresql.psycopg_any import DateTimeTZRange
from django.db.models import Count, Q

from clusters.models import GPU, Cluster, ClusterStatus, GPUState
from gpufleet.common.locks import SCHEDULER_LOCK, SCHEDULER_WAITING_ROOM, lock_rows
from jobs.models import Allocation, Job, JobEvent, JobStatus, SchedulerCycle, WaitPeriod
from jobs.placement import NodeView, Plan, Snapshot, Start, TenantView, Wait, WaitingJob, plan, sentence
from jobs.queries import rate_book
from jobs.services import cancel_waiting_jobs, close_waits, fail_lost_job
from tenants.models import Tenant, TenantStatus

logger = logging.getLogger(__name__)

JOBS_IN_ONE_TRANSACTION = 200

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class CycleResult:
    """What a cycle did."""

    started: int
    waiting: int
    failed: int


@contextmanager
def turn() -> Iterator[bool]:
    """The right to run a cycle, or False when it is not needed.

    Whoever comes while a cycle runs may have news that the cycle did not see; so one waits for it to end, in the
    waiting room, and runs another. Whoever finds the waiting room taken leaves: the one in it will look after him.
    """
    if _try_lock(SCHEDULER_LOCK):
        taken = True
    elif _try_lock(SCHEDULER_WAITING_ROOM):
        try:
            _lock(SCHEDULER_LOCK)
        finally:
            _unlock(SCHEDULER_WAITING_ROOM)
        taken = True
    else:
        taken = False
    try:
        yield taken
    finally:
        if taken:
            _unlock(SCHEDULER_LOCK)


def run_cycle(*, now: datetime) -> CycleResult:
    """Run one cycle at ``now``. The caller has the turn; see ``turn``."""
    began = time.monotonic()
    failed = _reap(now)
    snapshot = take_snapshot(now)
    decided = plan(snapshot)
    started = _apply_starts(decided, now)
    _write_waits(decided.waits, now)
    _write_cycle(now, (time.monotonic() - began) * 1000, started, len(decided.waits))
    return CycleResult(started=started, waiting=len(decided.waits), failed=failed)


def take_snapshot(now: datetime) -> Snapshot:
    """The world at ``now``, in a fixed number of queries."""
    jobs = _waiting_jobs(now)
    largest_node, gpu_total = _hardware()
    return Snapshot(
        jobs=jobs,
        nodes=_free_nodes(now) if jobs else [],
        tenants=_tenants(),
        largest_node=largest_node,
        closed_clusters=frozenset(
            Cluster.objects.exclude(status=ClusterStatus.ACTIVE, decommissioned_at__isnull=True).values_list(
                "pk", flat=True
            )
        ),
        unassigned_held=Allocation.objects.filter(tenant__isnull=True, during__upper_inf=True).count(),
        gpu_total=gpu_total,
    )


def _waiting_jobs(now: datetime) -> list[WaitingJob]:
    queue = Job.objects.filter(status=JobStatus.QUEUED, submitted_at__lte=now).order_by()
    fields = ("pk", "cluster_id", "tenant_id", "gpu_count", "gpu_type", "priority", "submitted_at")
    return [WaitingJob(*row) for row in queue.values_list(*fields)]


def _free_nodes(now: datetime) -> list[NodeView]:
    """GPUs that are available, and that nobody holds now or has held after ``now``.

    The latter happens when a job ends between the reading of the clock and this query; such a GPU is left for the
    next cycle, since its new allocation would begin before the old one ended.
    """
    held = Allocation.objects.filter(during__overlap=DateTimeTZRange(now, None)).values("gpu_id")
    rows = (
        GPU.objects.filter(state=GPUState.AVAILABLE, retired_at__isnull=True, registered_at__lte=now)
        .exclude(pk__in=held)
        .order_by()
        .values_list("node_id", "node__cluster_id", "node__hostname", "model", "pk")
    )
    free: dict[tuple[int, int, str], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for node_id, cluster_id, hostname, model, gpu_id in rows:
        free[node_id, cluster_id, hostname][model].append(gpu_id)
    return [NodeView(*node, by_model) for node, by_model in free.items()]


def _tenants() -> dict[int, TenantView]:
    held = Count("allocations", filter=Q(allocations__during__upper_inf=True))
    rows = Tenant.objects.order_by().annotate(held=held).values_list("pk", "gpu_quota", "held", "status")
    return {pk: TenantView(quota, held, status == TenantStatus.ACTIVE) for pk, quota, held, status in rows}


def _hardware() -> tuple[dict[tuple[int, str], int], int]:
    """The most GPUs of a model on one node, by cluster and model, and the number of all GPUs."""
    rows = (
        GPU.objects.filter(retired_at__isnull=True)
        .order_by()
        .values_list("node__cluster_id", "model", "node_id")
        .annotate(count=Count("pk"))
    )
    largest: dict[tuple[int, str], int] = defaultdict(int)
    total = 0
    for cluster_id, model, _, count in rows:
        largest[cluster_id, model] = max(largest[cluster_id, model], count)
        total += count
    return largest, total


def _reap(now: datetime) -> int:
    """Fail the jobs that lost a GPU, and cancel those that wait for a cluster that is gone."""
    gone = Job.objects.filter(
        status__in=[JobStatus.QUEUED, JobStatus.BLOCKED], cluster__decommissioned_at__isnull=False
    )
    cluster_ids = set(gone.values_list("cluster_id", flat=True))
    if cluster_ids:
        cancel_waiting_jobs(cluster_ids=cluster_ids, reason="The cluster was decommissioned.", now=now)
    return sum(_reap_job(job_id, losses, now) for job_id, losses in _lost_gpus().items())


def _lost_gpus() -> dict[int, list[Allocation]]:
    """Open allocations whose node is silent or whose GPU is retired, by job."""
    lost = Allocation.objects.filter(
        Q(gpu__retired_at__isnull=False) | Q(gpu__node__silent=True), during__upper_inf=True
    ).select_related("gpu__node")
    by_job: dict[int, list[Allocation]] = defaultdict(list)
    for allocation in lost.order_by("job_id", "gpu_id"):
        by_job[allocation.job_id].append(allocation)
    return by_job


def _reap_job(job_id: int, losses: Sequence[Allocation], now: datetime) -> bool:
    """One job in its own transaction, so that one that can't be written does not stall the rest."""
    lost_at = {loss.gpu_id: loss.gpu.retired_at or loss.gpu.node.last_heartbeat_at for loss in losses}
    gpu = losses[0].gpu
    what = f"GPU {gpu.gpu_index} was retired" if gpu.retired_at else "the node went silent"
    reason = f"Lost {len(losses)} of its GPUs: {what} ({gpu.node.hostname})."
    try:
        return fail_lost_job(job_id=job_id, reason=reason, lost_at=lost_at, now=now)
    except DatabaseError:
        logger.exception("job %s could not be failed", job_id)
        return False


def _apply_starts(decided: Plan, now: datetime) -> int:
    if not decided.starts:
        return 0
    book = rate_book.ask({(start.job.tenant_id, start.model) for start in decided.starts}, now=now)
    return sum(_apply_batch(batch, book, now) for batch in batched(decided.starts, JOBS_IN_ONE_TRANSACTION))


def _apply_batch(starts: Sequence[Start], book: Any, now: datetime) -> int:
    """Write a batch; where the database refuses it, each job alone, so that only the faulty one is left out."""
    try:
        return _start_jobs(starts, book, now)
    except DatabaseError:
        if len(starts) == 1:
            logger.exception("job %s could not be started", starts[0].job.job_id)
            return 0
        return sum(_apply_batch([start], book, now) for start in starts)


@transaction.atomic
def _start_jobs(starts: Sequence[Start], book: Any, now: datetime) -> int:
    """Start these jobs, where tenant, GPUs and job still are what the plan saw. Locks: tenants, GPUs, then jobs."""
    good = _still_possible(starts)
    jobs = Job.objects.filter(pk__in=[start.job.job_id for start in good], status=JobStatus.QUEUED)
    queued = set(jobs.select_for_update(of=("self",)).order_by("pk").values_list("pk", flat=True))
    good = [start for start in good if start.job.job_id in queued]
    ids = [start.job.job_id for start in good]
    Job.objects.filter(pk__in=ids).update(status=JobStatus.RUNNING, started_at=now, block_reason="")
    close_waits(ids, now)
    Allocation.objects.bulk_create(_allocations(good, book, now))
    JobEvent.objects.bulk_create(_start_event(start, now) for start in good)
    return len(good)


def _still_possible(starts: Sequence[Start]) -> list[Start]:
    """Check the plan again under the locks: quotas may have been lowered, tenants and GPUs taken out of service."""
    tenants = lock_rows(Tenant.objects.all(), [start.job.tenant_id for start in starts if start.job.tenant_id])
    gpus = lock_rows(GPU.objects.all(), [gpu_id for start in starts for gpu_id in start.gpu_ids])
    held = dict(
        Allocation.objects.filter(tenant_id__in=tenants, during__upper_inf=True)
        .order_by()
        .values_list("tenant_id")
        .annotate(count=Count("pk"))
    )
    good = []
    for start in starts:
        in_service = all(
            gpus[gpu_id].state == GPUState.AVAILABLE and gpus[gpu_id].retired_at is None for gpu_id in start.gpu_ids
        )
        if in_service and _within_quota(start, tenants, held):
            good.append(start)
    return good


def _within_quota(start: Start, tenants: dict[int, Tenant], held: dict[int, int]) -> bool:
    """Whether the tenant may hold these GPUs too; if so they are counted as held."""
    tenant_id = start.job.tenant_id
    if tenant_id is None:
        return True
    tenant, total = tenants[tenant_id], held.get(tenant_id, 0) + start.job.gpu_count
    if tenant.status != TenantStatus.ACTIVE or total > tenant.gpu_quota:
        return False
    held[tenant_id] = total
    return True


def _allocations(starts: Sequence[Start], book: Any, now: datetime) -> Iterator[Allocation]:
    for start in starts:
        rate = book.get((start.job.tenant_id, start.model))
        for gpu_id in start.gpu_ids:
            yield Allocation(
                job_id=start.job.job_id,
                gpu_id=gpu_id,
                tenant_id=start.job.tenant_id,
                during=DateTimeTZRange(now, None),
                rate_id=rate and rate.rate_id,
                price_per_gpu_hour=rate and rate.price_per_gpu_hour,
                currency=rate.currency if rate else "",
            )


def _start_event(start: Start, now: datetime) -> JobEvent:
    reason = f"{len(start.gpu_ids)} × {start.model}"
    return JobEvent(
        job_id=start.job.job_id, at=now, from_status="queued", to_status="running", actor="scheduler", reason=reason
    )


def _write_waits(waits: Sequence[Wait], now: datetime) -> None:
    """Write the reasons that changed: a new period where the code did, new figures where only they did."""
    known = {
        job_id: (code, figures)
        for job_id, code, figures in WaitPeriod.objects.filter(
            job_id__in=[wait.job_id for wait in waits], during__upper_inf=True
        ).values_list("job_id", "code", "figures")
    }
    changed = [wait for wait in waits if known.get(wait.job_id) != (wait.code, wait.figures)]
    for batch in batched(changed, 5_000):
        _write_wait_batch(batch, known, now)


@transaction.atomic
def _write_wait_batch(waits: Sequence[Wait], known: dict[int, tuple[str, Any]], now: datetime) -> None:
    """The jobs are locked first: one that was cancelled meanwhile must not get an open period again."""
    rows = Job.objects.filter(pk__in=[wait.job_id for wait in waits], status=JobStatus.QUEUED)
    jobs = {job.pk: job for job in rows.select_for_update(of=("self",)).order_by("pk")}
    waits = [wait for wait in waits if wait.job_id in jobs]
    for wait in waits:
        jobs[wait.job_id].block_reason = sentence(wait.code, wait.figures)[:500]
    Job.objects.bulk_update(jobs.values(), ["block_reason"], batch_size=1_000)
    fresh = [wait for wait in waits if wait.job_id not in known or known[wait.job_id][0] != wait.code]
    close_waits([wait.job_id for wait in fresh], now)
    WaitPeriod.objects.bulk_create(
        WaitPeriod(job_id=wait.job_id, code=wait.code, figures=wait.figures, during=DateTimeTZRange(now, None))
        for wait in fresh
    )
    _update_figures([wait for wait in waits if wait.job_id in known and known[wait.job_id][0] == wait.code])


def _update_figures(waits: Sequence[Wait]) -> None:
    figures = {wait.job_id: wait.figures for wait in waits}
    periods = list(WaitPeriod.objects.filter(job_id__in=figures, during__upper_inf=True))
    for period in periods:
        period.figures = figures[period.job_id]
    WaitPeriod.objects.bulk_update(periods, ["figures"], batch_size=1_000)


def batched(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """The items in order, so many at a time."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _write_cycle(now: datetime, duration_ms: float, started: int, waiting: int) -> None:
    values = {"finished_at": now, "duration_ms": duration_ms, "jobs_started": started, "jobs_waiting": waiting}
    SchedulerCycle.objects.update_or_create(pk=1, defaults=values)


def _try_lock(key: int) -> bool:
    return bool(_ask("SELECT pg_try_advisory_lock(%s)", key))


def _lock(key: int) -> None:
    _ask("SELECT pg_advisory_lock(%s)", key)


def _unlock(key: int) -> None:
    _ask("SELECT pg_advisory_unlock(%s)", key)


def _ask(query: str, key: int) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(query, [key])
        return cursor.fetchone()[0]
