"""Writing a plan's starts down, each checked again under the locks: tenants, GPUs, then jobs."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from django.db import connection, transaction

from jobs.models import JobStatus
from jobs.placement import Start
from jobs.queries import LockedRate, rate_book
from jobs.scheduler.pieces import in_lanes, write_in_pieces
from jobs.scheduler.together import ask_together
from jobs.services import take_from_queue
from jobs.states import scheduler_sources
from tenants.models import Tenant

JOBS_IN_ONE_TRANSACTION = 500
# So many starts are seconds of PostgreSQL's work, which two of its processes do in little more than half the time.
MANY = 4_000

ALLOCATE = """
COPY jobs_allocation (job_id, gpu_id, tenant_id, during, rate_id, price_per_gpu_hour, currency) FROM STDIN
"""

# These, and where one of them borrows also all who lend.
LOCK_TENANTS = """
SELECT id, gpu_quota, status = 'active', lends_idle_quota, borrow_limit
  FROM tenants_tenant
 WHERE id = ANY(%(tenants)s)
    OR lends_idle_quota
       AND EXISTS (SELECT FROM tenants_tenant AS one WHERE one.id = ANY(%(tenants)s) AND one.borrow_limit > 0)
 ORDER BY id FOR NO KEY UPDATE
"""
# The GPUs that take jobs, and what the tenants hold, whose locks were taken before.
LOCK_GPUS = """
WITH gpu AS MATERIALIZED (
    SELECT id, state = 'available' AND retired_at IS NULL AS takes_jobs
      FROM clusters_gpu WHERE id = ANY(%(gpus)s) ORDER BY id FOR NO KEY UPDATE),
held AS (
    SELECT tenant_id, count(*) AS gpus
      FROM jobs_allocation WHERE tenant_id = ANY(%(tenants)s) AND upper_inf(during) GROUP BY tenant_id)
SELECT id, NULL, 0 FROM gpu WHERE takes_jobs
 UNION ALL
SELECT NULL, tenant_id, gpus FROM held
"""
RUN = """
WITH start AS (SELECT * FROM unnest(%(jobs)s::bigint[], %(reasons)s::text[]) AS start (job_id, reason)),
running AS (
    UPDATE jobs_job AS job
       SET status = 'running', started_at = %(now)s, block_reason = '', claimed_at = NULL
      FROM start
     WHERE job.id = start.job_id)
INSERT INTO jobs_jobevent (job_id, at, from_status, to_status, actor, reason)
SELECT job_id, %(now)s, 'queued', 'running', 'scheduler', reason FROM start
"""

Rates = Mapping[tuple[int | None, str], LockedRate]


@dataclass(frozen=True, slots=True)
class Outcome:
    """``faulty``: jobs that the database refused to start, whatever else was in the transaction."""

    started: int
    faulty: frozenset[int]


def start_jobs(starts: Sequence[Start], now: datetime, meanwhile: Callable[[], object] | None = None) -> Outcome:
    """Start these jobs, where tenant, GPUs and job still are what the plan saw; the others are left as they are.
    ``meanwhile`` is done, by this thread, while the database writes, once or more often or not at all."""
    if not starts:
        return Outcome(0, frozenset())
    rates = rate_book.ask({(start.job.tenant_id, start.model) for start in starts}, now=now)

    lanes = _lanes(starts)

    def write(lane: Sequence[Start]) -> tuple[int, list[Start]]:
        beside = meanwhile if lane is lanes[0] else None
        return write_in_pieces(lane, JOBS_IN_ONE_TRANSACTION, lambda piece: _start(piece, rates, now, beside))

    done = in_lanes(lanes, write)
    return Outcome(
        sum(started for started, _ in done), frozenset(start.job.job_id for _, refused in done for start in refused)
    )


def _lanes(starts: Sequence[Start]) -> list[Sequence[Start]]:
    """Who starts is written by one connection, or where it is very much by two, each for tenants of its own, so that
    neither waits for the other's locks. Each looks at quotas and GPUs under locks by itself, as one alone does."""
    if len(starts) < MANY or connection.in_atomic_block:
        return [starts]
    given = Counter[int | None]()
    for start in starts:
        given[start.job.tenant_id] += len(start.gpu_ids)
    lane_of: dict[int | None, int] = {}
    loads = [0, 0]
    for tenant_id, gpus in given.most_common():
        lane_of[tenant_id] = lane = loads.index(min(loads))
        loads[lane] += gpus
    return [[start for start in starts if lane_of[start.job.tenant_id] == lane] for lane in range(len(loads))]


@transaction.atomic
def _start(starts: Sequence[Start], rates: Rates, now: datetime, meanwhile: Callable[[], object] | None) -> int:
    good = _still_possible(starts)
    startable = scheduler_sources(JobStatus.RUNNING)
    waiting = take_from_queue([start.job.job_id for start in good], now=now, statuses=startable)
    good = [start for start in good if start.job.job_id in waiting]
    if good:
        _allocate(good, rates, now)
        jobs, reasons = [start.job.job_id for start in good], list(map(_reason, good))
        ask_together([(RUN, {"jobs": jobs, "reasons": reasons, "now": now})], meanwhile)
    return len(good)


def _still_possible(starts: Sequence[Start]) -> list[Start]:
    """Quotas may have been lowered, tenants and GPUs taken out of service since the snapshot."""
    with connection.cursor() as cursor:
        limits = _Limits(cursor, {start.job.tenant_id for start in starts if start.job.tenant_id is not None})
        gpu_ids = [gpu_id for start in starts for gpu_id in start.gpu_ids]
        cursor.execute(LOCK_GPUS, {"gpus": gpu_ids, "tenants": list(limits.quotas)})
        rows = cursor.fetchall()
    in_service = {gpu_id for gpu_id, _, _ in rows if gpu_id is not None}
    limits.held.update({tenant_id: gpus for gpu_id, tenant_id, gpus in rows if gpu_id is None})
    return [start for start in starts if in_service.issuperset(start.gpu_ids) and limits.admit(start)]


class _Tenant(NamedTuple):
    """A tenant under its lock."""

    gpu_quota: int
    active: bool
    lends: bool
    borrow_limit: int


class _Limits:
    """What these tenants may still hold, under their locks; what is admitted counts as held."""

    def __init__(self, cursor: Any, tenant_ids: Collection[int]) -> None:
        cursor.execute(LOCK_TENANTS, {"tenants": list(tenant_ids)})
        self.tenants = {pk: _Tenant(*terms) for pk, *terms in cursor.fetchall()}
        # What is borrowed is held by tenants beside these, so that all are counted where anybody borrows.
        borrow = any(self.tenants[pk].borrow_limit for pk in tenant_ids)
        counted = Tenant.objects.values_list("pk", "gpu_quota") if borrow else []
        self.quotas = {**dict(counted), **{pk: tenant.gpu_quota for pk, tenant in self.tenants.items()}}
        self.held: Counter[int] = Counter()

    def admit(self, start: Start) -> bool:
        """Whether the tenant may hold these GPUs too, of its own quota or borrowed."""
        tenant_id = start.job.tenant_id
        if tenant_id is None:
            return True
        tenant, total = self.tenants[tenant_id], self.held[tenant_id] + start.job.gpu_count
        above = total - tenant.gpu_quota
        if not tenant.active or (above > 0 and not self._may_borrow(tenant_id, above)):
            return False
        self.held[tenant_id] = total
        return True

    def _may_borrow(self, tenant_id: int, above: int) -> bool:
        """Whether all that is borrowed, with this tenant at ``above``, is no more than what is lent."""
        others = (max(0, self.held[pk] - quota) for pk, quota in self.quotas.items() if pk != tenant_id)
        idle = (
            max(0, other.gpu_quota - self.held[pk])
            for pk, other in self.tenants.items()
            if other.lends and other.active and pk != tenant_id
        )
        return above <= self.tenants[tenant_id].borrow_limit and above + sum(others) <= sum(idle)


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
