"""Writing a plan's starts down, each checked again under the locks: tenants, GPUs, then jobs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db import connection, transaction
from django.db.models import Count

from clusters.models import GPU, GPUState
from gpufleet.common.locks import lock_rows
from jobs.models import Allocation, Job, JobEvent, JobStatus
from jobs.placement import Start
from jobs.queries import LockedRate, rate_book
from jobs.scheduler.pieces import write_in_pieces
from jobs.services import close_waits, lock_waiting_jobs
from jobs.states import scheduler_sources
from tenants.models import Tenant, TenantStatus

JOBS_IN_ONE_TRANSACTION = 100

ALLOCATE = """
INSERT INTO jobs_allocation (job_id, gpu_id, tenant_id, during, rate_id, price_per_gpu_hour, currency)
SELECT job_id, gpu_id, tenant_id, tstzrange(%s, NULL), rate_id, price, currency
  FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::numeric[], %s::text[])
       AS held (job_id, gpu_id, tenant_id, rate_id, price, currency)
"""

Rates = Mapping[tuple[int | None, str], LockedRate]


@dataclass(frozen=True, slots=True)
class Outcome:
    """``faulty``: jobs that the database refused to start, whatever else was in the transaction."""

    started: int
    faulty: frozenset[int]


def start_jobs(starts: Sequence[Start], now: datetime) -> Outcome:
    """Start these jobs, where tenant, GPUs and job still are what the plan saw; the others are left as they are."""
    if not starts:
        return Outcome(0, frozenset())
    rates = rate_book.ask({(start.job.tenant_id, start.model) for start in starts}, now=now)
    started, refused = write_in_pieces(starts, JOBS_IN_ONE_TRANSACTION, lambda piece: _start(piece, rates, now))
    return Outcome(started, frozenset(start.job.job_id for start in refused))


@transaction.atomic
def _start(starts: Sequence[Start], rates: Rates, now: datetime) -> int:
    good = _still_possible(starts)
    startable = scheduler_sources(JobStatus.RUNNING)
    waiting = lock_waiting_jobs([start.job.job_id for start in good], now=now, statuses=startable)
    good = [start for start in good if start.job.job_id in waiting]
    ids = [start.job.job_id for start in good]
    Job.objects.filter(pk__in=ids).update(status=JobStatus.RUNNING, started_at=now, block_reason="")
    close_waits(ids, now)
    _allocate(good, rates, now)
    JobEvent.objects.bulk_create(_event(start, now) for start in good)
    return len(good)


def _still_possible(starts: Sequence[Start]) -> list[Start]:
    """Quotas may have been lowered, tenants and GPUs taken out of service since the snapshot."""
    tenants = lock_rows(Tenant.objects.all(), [start.job.tenant_id for start in starts if start.job.tenant_id])
    gpus = lock_rows(GPU.objects.only("state", "retired_at"), [gpu_id for start in starts for gpu_id in start.gpu_ids])
    held = dict(
        Allocation.objects.filter(tenant_id__in=tenants, during__upper_inf=True)
        .order_by()
        .values_list("tenant_id")
        .annotate(count=Count("pk"))
    )
    return [start for start in starts if _in_service(start, gpus) and _within_quota(start, tenants, held)]


def _in_service(start: Start, gpus: Mapping[int, GPU]) -> bool:
    taken = (gpus[gpu_id] for gpu_id in start.gpu_ids)
    return all(gpu.state == GPUState.AVAILABLE and gpu.retired_at is None for gpu in taken)


def _within_quota(start: Start, tenants: Mapping[int, Tenant], held: dict[int, int]) -> bool:
    """Whether the tenant may hold these GPUs too; if so they are counted as held."""
    tenant_id = start.job.tenant_id
    if tenant_id is None:
        return True
    tenant, total = tenants[tenant_id], held.get(tenant_id, 0) + start.job.gpu_count
    if tenant.status != TenantStatus.ACTIVE or total > tenant.gpu_quota:
        return False
    held[tenant_id] = total
    return True


def _allocate(starts: Sequence[Start], rates: Rates, now: datetime) -> None:
    """The rate is locked into each allocation; a model without one in force is held without a price."""
    rows = []
    for start in starts:
        tenant_id = start.job.tenant_id
        rate = rates.get((tenant_id, start.model))
        price = (None, None, "") if rate is None else (rate.rate_id, rate.price_per_gpu_hour, rate.currency)
        rows += [(start.job.job_id, gpu_id, tenant_id, *price) for gpu_id in start.gpu_ids]
    if rows:
        with connection.cursor() as cursor:
            cursor.execute(ALLOCATE, [now, *(list(column) for column in zip(*rows, strict=True))])


def _event(start: Start, now: datetime) -> JobEvent:
    reason = f"{len(start.gpu_ids)} × {start.model}, {start.why}."[:500]
    return JobEvent(
        job_id=start.job.job_id, at=now, from_status="queued", to_status="running", actor="scheduler", reason=reason
    )
