"""Reads of jobs and of the ledger of allocations, and the questions about them that billing answers."""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Protocol

from django.contrib.postgres.aggregates import ArrayAgg
from django.db import connection
from django.db.models import Case, CharField, Count, F, OuterRef, Q, QuerySet, Subquery, Value, When
from django.db.models.functions import Coalesce, Lower

from clusters.queries import Holder, Workload, gpu_models
from gpufleet.common.errors import NotFound
from gpufleet.common.ports import Port
from jobs.models import Allocation, Job, JobEvent, JobStatus, KindWait, SchedulerCycle
from jobs.placement import WaitCode, sentence, takes
from tenants.queries import TenantWorkload


class LockedRate(Protocol):
    """The price that an allocation is given when it starts."""

    @property
    def rate_id(self) -> int:
        """The rate's row."""

    @property
    def price_per_gpu_hour(self) -> Decimal:
        """In ``currency``."""

    @property
    def currency(self) -> str:
        """ISO 4217."""


class RateBook(Protocol):
    """The rate of each (tenant, GPU model) at an instant; a key without a price is left out."""

    def __call__(
        self, keys: Collection[tuple[int | None, str]], *, now: datetime
    ) -> Mapping[tuple[int | None, str], LockedRate]:
        """Answer for all the keys in one query."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Money, with its currency."""

    amount: Decimal
    currency: str


class JobCosts(Protocol):
    """What each job has cost up to an instant; a job that held nothing with a price is left out."""

    def __call__(self, job_ids: Collection[int], *, now: datetime) -> Mapping[int, Cost]:
        """Answer for all the jobs in one query."""


class Quotes(Protocol):
    """What so many GPUs would cost for so long; a (tenant, GPU model) without a price is left out."""

    def __call__(
        self, keys: Collection[tuple[int | None, str]], *, gpus: int, seconds: int, now: datetime
    ) -> Mapping[tuple[int | None, str], Cost]:
        """Answer for all the keys in one query."""


class BilledUntil(Protocol):
    """Up to when each allocation's time stands, or once stood, on an invoice; one on none is left out."""

    def __call__(self, allocation_ids: Collection[int]) -> Mapping[int, datetime]:
        """Answer for all the allocations in one query."""


rate_book: Port[RateBook] = Port("jobs.rate_book")
billed_until: Port[BilledUntil] = Port("jobs.billed_until")
job_costs: Port[JobCosts] = Port("jobs.job_costs")
quotes: Port[Quotes] = Port("jobs.quotes")
# The instants at which a list price changes, of every currency; reports tell the time before from the time after.
price_changes: Port[Callable[[], Collection[datetime]]] = Port("jobs.price_changes")

ALIVE = [JobStatus.QUEUED, JobStatus.BLOCKED, JobStatus.RUNNING]
WAITING = [JobStatus.QUEUED, JobStatus.BLOCKED]
ENDED = [JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED]


# An estimate that the job started no later than this after it has held.
HOLDS_WITHIN_S = 60
SCORES = """
SELECT estimate.source, count(*),
       percentile_cont(0.5) WITHIN GROUP (ORDER BY abs(error)),
       percentile_cont(0.9) WITHIN GROUP (ORDER BY abs(error)),
       count(*) FILTER (WHERE error <= %(slack)s)
  FROM jobs_startestimate AS estimate
 CROSS JOIN LATERAL (
       SELECT extract(epoch FROM min(event.at) - estimate.starts_at)::float8 AS error
         FROM jobs_jobevent AS event
        WHERE event.job_id = estimate.job_id AND event.at >= estimate.made_at
          AND event.to_status = 'running' AND event.from_status <> 'running') AS start
 WHERE estimate.made_at >= %(start)s AND estimate.made_at < %(end)s AND error IS NOT NULL
 GROUP BY GROUPING SETS ((), (estimate.source))
"""


@dataclass(frozen=True, slots=True)
class EstimateScore:
    """``scored`` estimates; the median and the 90th percentile of how far off they were, in seconds, early or late
    alike; and how many ``held``: the job started no later than a minute after what was said."""

    scored: int
    error_p50_s: float | None
    error_p90_s: float | None
    held: int

    @property
    def held_share(self) -> float | None:
        """The part of the scored ones that held."""
        return self.held / self.scored if self.scored else None


WAITS_OF = "SELECT code, figures, lower(during), upper(during) FROM jobs_wait WHERE job_id = %s ORDER BY during"


@dataclass(frozen=True, slots=True)
class Wait:
    """A stretch of a job's waiting, and why; ``end`` is None where it goes on."""

    code: str
    figures: Mapping[str, Any]
    start: datetime
    end: datetime | None

    @property
    def sentence(self) -> str:
        """The reason in words, for people."""
        return sentence(self.code, self.figures)


@dataclass(frozen=True, slots=True)
class JobReport:
    """A job, why it waits or is held, the GPUs it holds, and what it has cost so far; None where nothing it held has a
    price. ``overdue``: it runs, and is past its own estimate."""

    job: Job
    reason: str
    gpu_ids: list[int]
    cost: Cost | None
    overdue: bool


@dataclass(frozen=True, slots=True)
class Quote:
    """What a job will cost if it runs as long as estimated, by the model that it is given; None where none has a
    price. ``unpriced_models`` are those that the job takes and that would cost nothing, for want of a rate."""

    lowest: Decimal | None
    highest: Decimal | None
    currency: str | None
    unpriced_models: list[str]


def quote_of(job: Job) -> Quote | None:
    """The quote by the rates that were in force when the job was submitted; None where it has no estimate."""
    if job.estimated_duration_min is None:
        return None
    taken = [model for model in gpu_models(job.cluster_id) if takes(job.gpu_type, model)]
    costs = quotes.ask(
        [(job.tenant_id, model) for model in taken],
        gpus=job.gpu_count,
        seconds=60 * job.estimated_duration_min,
        now=job.submitted_at,
    )
    amounts = sorted(cost.amount for cost in costs.values())
    currency = next((cost.currency for cost in costs.values()), None)
    unpriced = [model for model in taken if (job.tenant_id, model) not in costs]
    return Quote(amounts[0] if amounts else None, amounts[-1] if amounts else None, currency, unpriced)


def list_jobs(*, of_tenant: int | None) -> QuerySet[Job]:
    """The jobs that a caller of this tenant may know of; None stands for the whole fleet's."""
    jobs = Job.objects.all()
    return jobs if of_tenant is None else jobs.filter(tenant_id=of_tenant)


def get_job(job_id: int, *, of_tenant: int | None) -> Job:
    """One job. Raises ``NotFound`` when there is none that the caller may know of."""
    job = list_jobs(of_tenant=of_tenant).filter(pk=job_id).first()
    if job is None:
        raise NotFound
    return job


def waits_of(job: Job) -> list[Wait]:
    """What the job waited for, in order: each stretch ends where the next begins, or where it ran."""
    with connection.cursor() as cursor:
        cursor.execute(WAITS_OF, [job.pk])
        return [Wait(code, json.loads(figures), start, end) for code, figures, start, end in cursor.fetchall()]


def reason_to_wait() -> Case:
    """For a queryset of jobs: why each of them is held or waits, in words; empty for one that does neither."""
    kinds = KindWait.objects.filter(
        cluster=OuterRef("cluster"),
        gpu_type=OuterRef("gpu_type"),
        gpu_count=OuterRef("gpu_count"),
        during__upper_inf=True,
    ).alias(of=Coalesce("tenant", 0))
    told = Subquery(kinds.filter(of=Coalesce(OuterRef("tenant"), 0)).order_by().values("sentence"))
    as_its_kind = Coalesce(told, Value(sentence(WaitCode.SCHEDULER, {})))
    is_told = Q(status=JobStatus.QUEUED, block_reason="")
    return Case(When(is_told, then=as_its_kind), default=F("block_reason"), output_field=CharField())


def _reasons(jobs: Collection[Job]) -> dict[int, str]:
    waiting = Job.objects.filter(pk__in=[job.pk for job in jobs if job.status in WAITING])
    return dict(waiting.order_by().values_list("pk").annotate(reason=reason_to_wait()))


def describe(jobs: Collection[Job], *, now: datetime) -> list[JobReport]:
    """The jobs with what they wait for, hold and cost, in the same order; three queries for all of them."""
    ids = [job.pk for job in jobs]
    reasons = _reasons(jobs)
    held = dict(
        Allocation.objects.filter(job_id__in=ids, during__upper_inf=True)
        .order_by()
        .values_list("job_id")
        .annotate(gpus=ArrayAgg("gpu_id", order_by="gpu_id"))
    )
    costs = job_costs.ask(ids, now=now)
    return [
        JobReport(job, reasons.get(job.pk, ""), held.get(job.pk, []), costs.get(job.pk), _is_overdue(job, now))
        for job in jobs
    ]


def describe_new(jobs: Collection[Job]) -> list[JobReport]:
    """The same of jobs that were submitted just now, as they were then: they held and cost nothing yet."""
    why = sentence(WaitCode.SCHEDULER, {})
    return [JobReport(job, why, [], None, overdue=False) for job in jobs]


def _is_overdue(job: Job, now: datetime) -> bool:
    if job.status != JobStatus.RUNNING or job.started_at is None or job.estimated_duration_min is None:
        return False
    return job.started_at + timedelta(minutes=job.estimated_duration_min) < now


def list_events(job_id: int, *, of_tenant: int | None) -> QuerySet[JobEvent]:
    """Every change of a job's state. Raises ``NotFound`` when the caller may not know of the job."""
    return get_job(job_id, of_tenant=of_tenant).events.all()


def score_estimates(*, start: datetime, end: datetime) -> dict[str | None, EstimateScore]:
    """How far the estimates made in ``[start, end)`` were from what happened, by source, and all of them as None; those
    whose job has not started since then are left out, and with them a source that has no other."""
    with connection.cursor() as cursor:
        cursor.execute(SCORES, {"start": start, "end": end, "slack": HOLDS_WITHIN_S})
        return {source: EstimateScore(*figures) for source, *figures in cursor.fetchall()}


def last_cycle_finished_at() -> datetime | None:
    """When the scheduler last finished a cycle, or None when it never has."""
    return SchedulerCycle.objects.values_list("finished_at", flat=True).first()


def tenant_workload(tenant_ids: Collection[int]) -> dict[int, TenantWorkload]:
    """What the tenants hold and wait for: the answer to ``tenants.tenant_workload``."""
    held = _count_by(Allocation.objects.filter(tenant_id__in=tenant_ids, during__upper_inf=True), "tenant_id")
    queued = _count_by(Job.objects.filter(tenant_id__in=tenant_ids, status__in=WAITING), "tenant_id")
    return {pk: TenantWorkload(held.get(pk, 0), queued.get(pk, 0)) for pk in tenant_ids}


def tenant_has_history(tenant_id: int) -> bool:
    """Whether a job was ever submitted for the tenant: the answer to ``tenants.has_history``."""
    return Job.objects.filter(tenant_id=tenant_id).exists()


def cluster_workload(cluster_ids: Collection[int], tenant_id: int | None) -> dict[int, Workload]:
    """Jobs that run and wait on the clusters: the answer to ``clusters.cluster_workload``."""
    jobs = Job.objects.filter(cluster_id__in=cluster_ids, status__in=ALIVE)
    if tenant_id is not None:
        jobs = jobs.filter(tenant_id=tenant_id)
    counts = (
        jobs.order_by()
        .values_list("cluster_id")
        .annotate(
            active=Count("pk", filter=Q(status=JobStatus.RUNNING)), waiting=Count("pk", filter=Q(status__in=WAITING))
        )
    )
    return {cluster_id: Workload(active, waiting) for cluster_id, active, waiting in counts}


def count_jobs(tenant_id: int, *, start: datetime, end: datetime) -> dict[str, int]:
    """A tenant's jobs in a window: submitted and ended in it, by how they ended; and those alive now, by status."""
    ended = Q(ended_at__gte=start, ended_at__lt=end)
    counts = {status.value: Count("pk", filter=Q(status=status) & ended) for status in ENDED}
    counts |= {status.value: Count("pk", filter=Q(status=status)) for status in ALIVE}
    submitted = Count("pk", filter=Q(submitted_at__gte=start, submitted_at__lt=end))
    return Job.objects.filter(tenant_id=tenant_id).aggregate(submitted=submitted, **counts)


def holders(gpu_ids: Collection[int]) -> dict[int, Holder]:
    """Who holds the GPUs now: the answer to ``clusters.holders``."""
    rows = (
        Allocation.objects.filter(gpu_id__in=gpu_ids, during__upper_inf=True)
        .annotate(since=Lower("during"))
        .values_list("gpu_id", "job_id", "job__name", "tenant_id", "since")
    )
    return {gpu_id: Holder(job_id, name, tenant_id, since) for gpu_id, job_id, name, tenant_id, since in rows}


def held_gpu_ids(tenant_id: int | None) -> QuerySet[Any, int]:
    """The GPUs held now, by one tenant or by all: the answer to ``clusters.held_gpu_ids``."""
    held = Allocation.objects.filter(during__upper_inf=True)
    if tenant_id is not None:
        held = held.filter(tenant_id=tenant_id)
    return held.order_by().values_list("gpu_id", flat=True)


SOLD_HOURS = """
SELECT allocation.gpu_id, hour, sum(extract(epoch FROM upper(span.held) - lower(span.held)))::float8
FROM jobs_allocation AS allocation
CROSS JOIN LATERAL (SELECT during * tstzrange(%(start)s, %(end)s) AS whole) AS held
CROSS JOIN LATERAL generate_series(
    date_trunc('hour', lower(held.whole), 'UTC'), upper(held.whole), interval '1 hour') AS hour
CROSS JOIN LATERAL (SELECT held.whole * tstzrange(hour, hour + interval '1 hour') AS held) AS span
WHERE during && tstzrange(%(start)s, %(end)s) AND NOT isempty(span.held)
GROUP BY allocation.gpu_id, hour
"""


def sold_hours(start: datetime, end: datetime) -> list[tuple[int, datetime, float]]:
    """(GPU, hour, seconds sold) in the window: the answer to ``clusters.sold_hours``."""
    with connection.cursor() as cursor:
        cursor.execute(SOLD_HOURS, {"start": start, "end": end})
        rows: list[tuple[int, datetime, float]] = cursor.fetchall()
    return rows


def count_running_jobs(cluster_id: int) -> int:
    """The answer to ``clusters.count_running_jobs``."""
    return Job.objects.filter(cluster_id=cluster_id, status=JobStatus.RUNNING).count()


def _count_by(rows: QuerySet[Any], field: str) -> dict[int, int]:
    return dict(rows.order_by().values_list(field).annotate(count=Count("pk")))
