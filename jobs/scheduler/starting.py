"""Writing a plan's starts down, each checked again under the locks: tenants, GPUs, then jobs."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db import connection, transaction

from gpufleet.common.locks import lock_rows
from jobs.models import JobStatus
from jobs.placement import Start
from jobs.queries import LockedRate, rate_book
from jobs.scheduler.pieces import write_in_pieces
from jobs.services import close_waits, lock_waiting_jobs
from jobs.states import scheduler_sources
from tenants.models import Tenant, TenantStatus

JOBS_IN_ONE_TRANSACTION = 500

ALLOCATE = """
COPY jobs_allocation (job_id, gpu_id, tenant_id, during, rate_id, price_per_gpu_hour, currency) FROM STDIN
"""

LOCK_GPUS = """
SELECT id, state = 'available' AND retired_at IS NULL FROM clusters_gpu WHERE id = ANY(%s) ORDER BY id FOR NO KEY UPDATE
"""
HELD = """
SELECT tenant_id, count(*) FROM jobs_allocation WHERE tenant_id = ANY(%s) AND upper_inf(during) GROUP BY tenant_id
"""
RUN = """
UPDATE jobs_job SET status = 'running', started_at = %s, block_reason = '', claimed_at = NULL WHERE id = ANY(%s)
"""
NOTE = """
INSERT INTO jobs_jobevent (job_id, at, from_status, to_status, actor, reason)
SELECT job_id, %s, 'queued', 'running', 'scheduler', reason
  FROM unnest(%s::bigint[], %s::text[]) AS note (job_id, reason)
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
    if good:
        ids = [start.job.job_id for start in good]
        close_waits(ids, now)
        _allocate(good, rates, now)
        with connection.cursor() as cursor:
            cursor.execute(RUN, [now, ids])
            cursor.execute(NOTE, [now, ids, list(map(_reason, good))])
    return len(good)


def _still_possible(starts: Sequence[Start]) -> list[Start]:
    """Quotas may have been lowered, tenants and GPUs taken out of service since the snapshot."""
    limits = _Limits([start.job.tenant_id for start in starts if start.job.tenant_id is not None])
    with connection.cursor() as cursor:
        cursor.execute(LOCK_GPUS, [[gpu_id for start in starts for gpu_id in start.gpu_ids]])
        in_service = {gpu_id for gpu_id, available in cursor.fetchall() if available}
    return [start for start in starts if in_service.issuperset(start.gpu_ids) and limits.admit(start)]


class _Limits:
    """What these tenants may still hold, under their locks; what is admitted counts as held."""

    def __init__(self, tenant_ids: Collection[int]) -> None:
        borrow = Tenant.objects.filter(pk__in=tenant_ids, borrow_limit__gt=0).exists()
        lenders = Tenant.objects.filter(lends_idle_quota=True) if borrow else Tenant.objects.none()
        self.tenants = lock_rows(Tenant.objects.all(), {*tenant_ids, *lenders.values_list("pk", flat=True)})
        # What is borrowed is held by tenants beside these, so that all are counted where anybody borrows.
        counted = Tenant.objects.values_list("pk", "gpu_quota") if borrow else []
        self.quotas = {**dict(counted), **{pk: tenant.gpu_quota for pk, tenant in self.tenants.items()}}
        with connection.cursor() as cursor:
            cursor.execute(HELD, [list(self.quotas)])
            self.held: Counter[int] = Counter(dict(cursor.fetchall()))

    def admit(self, start: Start) -> bool:
        """Whether the tenant may hold these GPUs too, of its own quota or borrowed."""
        tenant_id = start.job.tenant_id
        if tenant_id is None:
            return True
        tenant, total = self.tenants[tenant_id], self.held[tenant_id] + start.job.gpu_count
        above = total - tenant.gpu_quota
        if tenant.status != TenantStatus.ACTIVE or (above > 0 and not self._may_borrow(tenant, above)):
            return False
        self.held[tenant_id] = total
        return True

    def _may_borrow(self, tenant: Tenant, above: int) -> bool:
        """Whether all that is borrowed, with this tenant at ``above``, is no more than what is lent."""
        others = (max(0, self.held[pk] - quota) for pk, quota in self.quotas.items() if pk != tenant.pk)
        idle = (
            max(0, other.gpu_quota - self.held[pk])
            for pk, other in self.tenants.items()
            if other.lends_idle_quota and other.status == TenantStatus.ACTIVE and pk != tenant.pk
        )
        return above <= tenant.borrow_limit and above + sum(others) <= sum(idle)


def _allocate(starts: Sequence[Start], rates: Rates, now: datetime) -> None:
    """The rate is locked into each allocation; a model without one in force is held without a price."""
    from_now_on = f"[{now.isoformat()},)"
    with connection.wrap_database_errors, connection.cursor() as cursor, cursor.copy(ALLOCATE) as copy:
        for start in starts:
            tenant_id = start.job.tenant_id
            rate = rates.get((tenant_id, start.model))
            price = (None, None, "") if rate is None else (rate.rate_id, rate.price_per_gpu_hour, rate.currency)
            for gpu_id in start.gpu_ids:
                copy.write_row((start.job.job_id, gpu_id, tenant_id, from_now_on, *price))


def _reason(start: Start) -> str:
    return f"{len(start.gpu_ids)} × {start.model}, {start.why}."[:500]
