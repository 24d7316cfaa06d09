"""Submitting jobs and moving them along. Ending a job frees its GPUs in the same transaction."""

from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import Any, TypedDict, Unpack

from django.db import connection, transaction
from django.db.backends.postgresql.psycopg_any import DateTimeTZRange
from django.db.models import Count, Func, Q, QuerySet
from django.db.models.functions import Lower

from clusters.models import GPU, Cluster
from gpufleet.common.errors import Conflict, DomainError, FieldProblem, InvalidInput, NotFound
from gpufleet.common.locks import lock_rows
from gpufleet.common.ports import Port
from jobs.models import Allocation, Job, JobEvent, JobStatus, WaitPeriod
from jobs.placement import WaitCode, sentence, takes
from jobs.queries import LockedRate, billed_until
from jobs.states import CANCELLED, ENDED, FAILED, legal_moves, scheduler_sources
from tenants.models import Tenant, TenantStatus

CLOSE_ALLOCATIONS = """
UPDATE jobs_allocation AS allocation
   SET during = tstzrange(lower(during), closing.at)
  FROM unnest(%s::bigint[], %s::timestamptz[]) AS closing (id, at)
 WHERE allocation.id = closing.id
"""

# Wakes the scheduler, after the commit; the beat is the guarantee behind it.
doorbell: Port[Callable[[], None]] = Port("jobs.doorbell")


class JobFields(TypedDict, total=False):
    """What a client may say of its job beside the required; what it leaves out has the model's default."""

    gpu_count: int
    gpu_type: str
    priority: int
    submitted_by: str
    estimated_duration_min: int | None
    command: list[str] | None
    image: str
    env: dict[str, str]


class TenantInactive(Conflict):
    """An inactive tenant starts nothing new."""

    code = "tenant_inactive"


class OverQuota(Conflict):
    """The job asks for more GPUs than the tenant may ever hold at once."""

    code = "over_quota"


class NoSuchHardware(Conflict):
    """The cluster does not have that many GPUs of any one model that the job takes, busy or free."""

    code = "no_such_hardware"


class IllegalMove(Conflict):
    """The job's status may not become this one from what it is."""

    code = "illegal_move"


@transaction.atomic
def submit_job(
    *,
    cluster_id: int,
    name: str,
    actor: str,
    now: datetime,
    tenant_id: int | None = None,
    **fields: Unpack[JobFields],
) -> Job:
    """Put a job into the queue and ring the doorbell.

    Raises ``InvalidInput`` for a cluster or tenant that is not there, and ``TenantInactive``,
    ``OverQuota`` or ``NoSuchHardware`` for a job that could never start.
    """
    _check_cluster(cluster_id)
    job = Job(cluster_id=cluster_id, tenant_id=tenant_id, name=name, submitted_at=now, **fields)
    if tenant_id is not None:
        _check_tenant(tenant_id, job.gpu_count)
    _check_hardware(job)
    _begin_wait(job, WaitCode.SCHEDULER, {}, now=now)
    _note(job, from_status="", actor=actor, reason="submitted", now=now)
    ring_doorbell()
    return job


def _check_cluster(cluster_id: int) -> None:
    if not Cluster.objects.filter(pk=cluster_id, decommissioned_at__isnull=True).exists():
        raise InvalidInput(FieldProblem("#/cluster_id", "does_not_exist", f"There is no cluster {cluster_id}."))


def _check_tenant(tenant_id: int, gpu_count: int) -> None:
    tenant = Tenant.objects.filter(pk=tenant_id).first()
    if tenant is None:
        raise InvalidInput(FieldProblem("#/tenant_id", "does_not_exist", f"There is no tenant {tenant_id}."))
    if tenant.status != TenantStatus.ACTIVE:
        raise TenantInactive(f"Tenant {tenant.name} is inactive.", tenant_id=tenant_id)
    if gpu_count > tenant.gpu_quota:
        detail = f"The job needs {gpu_count} GPUs at once, and the tenant's quota is {tenant.gpu_quota}."
        raise OverQuota(detail, needs=gpu_count, quota=tenant.gpu_quota)


def _check_hardware(job: Job) -> None:
    """What counts is what the cluster has, busy or broken or not: the rest may come back."""
    gpus = GPU.objects.filter(node__cluster_id=job.cluster_id, retired_at__isnull=True).order_by()
    counts = dict(gpus.values_list("model").annotate(count=Count("pk")))
    admitted = {model: count for model, count in counts.items() if takes(job.gpu_type, model)}
    most = max(admitted.values(), default=0)
    if most < job.gpu_count:
        wants = job.gpu_type or "one model"
        detail = f"The job needs {job.gpu_count} GPUs of {wants}, and the cluster has at most {most} of one such model."
        raise NoSuchHardware(detail, needs=job.gpu_count, gpu_type=job.gpu_type, available=counts)


@transaction.atomic
def change_status(
    *, job_id: int, status: str, actor: str, now: datetime, reason: str = "", tenant_id: int | None = None
) -> Job:
    """Move a job as a client, an agent or an operator asks; ``tenant_id`` narrows it to one tenant's jobs.

    Raises ``NotFound``, ``IllegalMove`` with the legal ones, and ``InvalidInput`` for a hold without its reason.
    """
    job = _lock_job(job_id, tenant_id)
    if status not in legal_moves(job.status):
        legal = list(legal_moves(job.status))
        detail = f"A {job.status} job can't become {status}. Legal: {', '.join(legal) or 'nothing, it has ended'}."
        raise IllegalMove(detail, current=job.status, requested=status, legal=legal)
    if status in ENDED:
        return _end(job, status, actor=actor, reason=reason, now=now)
    if status == JobStatus.BLOCKED:
        return _hold(job, actor=actor, reason=reason, now=now)
    return _release(job, actor=actor, reason=reason, now=now)


def change_statuses(
    *, job_ids: Collection[int], status: str, actor: str, now: datetime, reason: str = ""
) -> tuple[int, list[DomainError]]:
    """Move many jobs, each in its own transaction. Returns how many moved, and why the others did not."""
    refusals: list[DomainError] = []
    for job_id in job_ids:
        try:
            change_status(job_id=job_id, status=status, actor=actor, now=now, reason=reason)
        except DomainError as refusal:
            refusals.append(refusal)
    return len(job_ids) - len(refusals), refusals


@transaction.atomic
def fail_lost_job(*, job_id: int, reason: str, lost_at: Mapping[int, datetime], now: datetime) -> bool:
    """Fail a running job whose hardware is gone. ``lost_at`` gives, by GPU, when its seconds ended; the job's other
    GPUs were held until now. Returns False when somebody else has ended the job meanwhile."""
    # The tenant is locked, since an invoice that is being made would bill what is found to be lost here.
    lock_rows(
        Tenant.objects.all(), Job.objects.filter(pk=job_id, tenant__isnull=False).values_list("tenant", flat=True)
    )
    job = Job.objects.select_for_update().filter(pk=job_id, status__in=scheduler_sources(FAILED)).first()
    if job is None:
        return False
    _end(job, FAILED, actor="scheduler", reason=reason, now=now, lost_at=lost_at)
    return True


@transaction.atomic
def cancel_waiting_jobs(*, job_ids: Collection[int], reason: str, now: datetime) -> int:
    """Cancel those of the jobs that still wait: what they wait for is gone. Returns how many it was."""
    waiting = lock_waiting_jobs(job_ids, now=now, statuses=scheduler_sources(CANCELLED))
    close_waits(list(waiting), now)
    Job.objects.filter(pk__in=waiting).update(status=CANCELLED, ended_at=now, block_reason="")
    JobEvent.objects.bulk_create(
        JobEvent(job_id=pk, at=now, from_status=status, to_status=CANCELLED, actor="scheduler", reason=reason)
        for pk, status in waiting.items()
    )
    return len(waiting)


def lock_waiting_jobs(job_ids: Collection[int], *, now: datetime, statuses: Collection[str]) -> dict[int, str]:
    """Lock those of the jobs that wait in one of these statuses, and give their statuses by id.

    A job that was held or released after ``now``, which a cycle reads once, is left for the next cycle: what happened
    to it is later than what this one would write.
    """
    rows = Job.objects.filter(pk__in=job_ids, status__in=statuses).order_by("pk")
    jobs = dict(rows.select_for_update(no_key=True).values_list("pk", "status"))
    later = WaitPeriod.objects.filter(job_id__in=jobs, during__upper_inf=True, during__startswith__gt=now)
    for job_id in later.values_list("job_id", flat=True):
        del jobs[job_id]
    return jobs


def ring_doorbell() -> None:
    """Wake the scheduler once this transaction has committed."""
    transaction.on_commit(lambda: doorbell.ask())


def close_waits(job_ids: Collection[int], now: datetime) -> None:
    """End the open wait periods of these jobs; one that lasted no time leaves no row."""
    open_ones = WaitPeriod.objects.filter(job_id__in=job_ids, during__upper_inf=True)
    open_ones.filter(during__startswith__gte=now).delete()
    open_ones.update(during=Func(Lower("during"), now, function="tstzrange"))


def _lock_job(job_id: int, tenant_id: int | None) -> Job:
    jobs = Job.objects.select_for_update()
    if tenant_id is not None:
        jobs = jobs.filter(tenant_id=tenant_id)
    job = jobs.filter(pk=job_id).first()
    if job is None:
        raise NotFound
    return job


def _end(
    job: Job, status: str, *, actor: str, reason: str, now: datetime, lost_at: Mapping[int, datetime] | None = None
) -> Job:
    before = job.status
    close_waits([job.pk], now)
    _close_allocations(job.pk, now, lost_at or {})
    ended_at = max(now, job.started_at or now)  # Clocks differ; no job ends before it starts.
    job.status, job.ended_at, job.block_reason = status, ended_at, ""
    job.save(update_fields=["status", "ended_at", "block_reason"])
    _note(job, from_status=before, actor=actor, reason=reason, now=ended_at)
    ring_doorbell()
    return job


def _hold(job: Job, *, actor: str, reason: str, now: datetime) -> Job:
    if not reason:
        detail = "block_reason says why the job is held; it is required when status is blocked."
        raise InvalidInput(FieldProblem("#/block_reason", "required", detail))
    return _wait_on(job, JobStatus.BLOCKED, WaitCode.HELD, {"reason": reason}, actor=actor, reason=reason, now=now)


def _release(job: Job, *, actor: str, reason: str, now: datetime) -> Job:
    job = _wait_on(job, JobStatus.QUEUED, WaitCode.SCHEDULER, {}, actor=actor, reason=reason, now=now)
    ring_doorbell()
    return job


def _wait_on(
    job: Job, status: str, code: WaitCode, figures: dict[str, Any], *, actor: str, reason: str, now: datetime
) -> Job:
    before, job.status = job.status, status
    now = max([now, *_open_waits(job).values_list(Lower("during"), flat=True)])  # Clocks differ; the ledger goes on.
    close_waits([job.pk], now)
    _begin_wait(job, code, figures, now=now)
    _note(job, from_status=before, actor=actor, reason=reason, now=now)
    return job


def _open_waits(job: Job) -> QuerySet[WaitPeriod]:
    return WaitPeriod.objects.filter(job=job, during__upper_inf=True)


def _begin_wait(job: Job, code: WaitCode, figures: dict[str, Any], *, now: datetime) -> None:
    job.block_reason = sentence(code, figures)[:500]
    job.save()
    WaitPeriod.objects.create(job=job, code=code, figures=figures, during=DateTimeTZRange(now, None))


def _close_allocations(job_id: int, now: datetime, lost_at: Mapping[int, datetime]) -> None:
    """End what the job holds: now, or when that GPU was lost. One that lasted no time held nothing and leaves no row.

    What an invoice names was sold: an allocation ends no earlier than that.
    """
    held = Allocation.objects.select_for_update().filter(job_id=job_id, during__upper_inf=True).order_by("pk")
    rows = list(held.values_list("pk", "gpu_id", Lower("during")))
    billed = billed_until.ask([pk for pk, _, _ in rows])
    ends = {pk: max(min(lost_at.get(gpu_id, now), now), billed.get(pk, start)) for pk, gpu_id, start in rows}
    Allocation.objects.filter(pk__in=[pk for pk, _, start in rows if ends[pk] <= start]).delete()
    with connection.cursor() as cursor:
        cursor.execute(CLOSE_ALLOCATIONS, [list(ends), list(ends.values())])


def _note(job: Job, *, from_status: str, actor: str, reason: str, now: datetime) -> None:
    JobEvent.objects.create(
        job=job, at=now, from_status=from_status, to_status=job.status, actor=actor, reason=reason[:500]
    )


@transaction.atomic
def price_unpriced_time(
    *, gpu_model: str, since: datetime, tenant_ids: Collection[int], nobody: bool, rate: LockedRate
) -> int:
    """Give a price to time that was sold without one: what these tenants hold or held of a GPU model, from allocations
    that began at ``since`` or later; with ``nobody``, also what jobs without a tenant did. A price that was locked in
    is never changed. Returns how many allocations have a price now.
    """
    owners = Q(tenant_id__in=tenant_ids) | Q(tenant__isnull=True) if nobody else Q(tenant_id__in=tenant_ids)
    unpriced = Allocation.objects.filter(
        owners, rate_id__isnull=True, gpu__model=gpu_model, during__startswith__gte=since
    )
    ids = lock_rows(Allocation.objects.filter(rate_id__isnull=True), unpriced.values_list("pk", flat=True))
    return Allocation.objects.filter(pk__in=ids).update(
        rate_id=rate.rate_id, price_per_gpu_hour=rate.price_per_gpu_hour, currency=rate.currency
    )
