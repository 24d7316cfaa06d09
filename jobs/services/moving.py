"""Moving jobs along. Ending a job frees its GPUs in the same transaction."""

from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta
from typing import Any

from django.db import connection, transaction
from django.db.backends.postgresql.psycopg_any import DateTimeTZRange
from django.db.models import QuerySet
from django.db.models.functions import Lower

from gpufleet.common.errors import Conflict, DomainError, FieldProblem, InvalidInput, NotFound
from gpufleet.common.locks import lock_rows
from gpufleet.common.ports import Port
from jobs.models import AS_ITS_KIND, Allocation, EstimateSource, Job, JobEvent, JobStatus, WaitPeriod
from jobs.placement import WaitCode, sentence
from jobs.queries import billed_until
from jobs.states import CANCELLED, ENDED, FAILED, QUEUED, RUNNING, WAITING, legal_moves, scheduler_sources
from tenants.models import Tenant

CLOSE_ALLOCATIONS = """
UPDATE jobs_allocation AS allocation
   SET during = tstzrange(lower(during), closing.at)
  FROM unnest(%s::bigint[], %s::timestamptz[]) AS closing (id, at)
 WHERE allocation.id = closing.id
"""

LOCK_WAITING = """
SELECT id, status FROM jobs_job WHERE id = ANY(%s) AND status = ANY(%s) ORDER BY id FOR NO KEY UPDATE
"""
WAITED_SINCE = """
SELECT job_id FROM jobs_waitperiod WHERE job_id = ANY(%s) AND upper_inf(during) AND lower(during) > %s
"""
# A period that lasted no time leaves no row. Gives the jobs whose period begins later, which stays unless ``late_too``.
CLOSE_WAITS = """
WITH period AS MATERIALIZED (
    SELECT id, job_id, lower(during) AS since FROM jobs_waitperiod WHERE job_id = ANY(%(jobs)s) AND upper_inf(during)),
dropped AS (
    DELETE FROM jobs_waitperiod USING period
     WHERE jobs_waitperiod.id = period.id AND (since = %(now)s OR since > %(now)s AND %(late_too)s)),
closed AS (
    UPDATE jobs_waitperiod SET during = tstzrange(since, %(now)s) FROM period
     WHERE jobs_waitperiod.id = period.id AND since < %(now)s)
SELECT job_id FROM period WHERE since > %(now)s
"""
KEEP_ESTIMATES = """
INSERT INTO jobs_startestimate (job_id, made_at, starts_at, source)
SELECT said.job_id, %(now)s, said.starts_at, %(source)s
  FROM unnest(%(jobs)s::bigint[], %(starts)s::timestamptz[]) AS said (job_id, starts_at)
  LEFT JOIN LATERAL (
       SELECT starts_at FROM jobs_startestimate
        WHERE job_id = said.job_id AND source = %(source)s
        ORDER BY made_at DESC, id DESC LIMIT 1) AS last ON true
 WHERE last.starts_at IS NULL
    OR greatest(last.starts_at - said.starts_at, said.starts_at - last.starts_at) >= %(differ)s
"""

PREEMPTION = ["claimed_at", "preempt_at", "preempt_for"]

ESTIMATES_DIFFER_BY = timedelta(minutes=1)

# Wakes the scheduler, after the commit; the beat is the guarantee behind it.
doorbell: Port[Callable[[], None]] = Port("jobs.doorbell")


class IllegalMove(Conflict):
    """The job's status may not become this one from what it is."""

    code = "illegal_move"


class NotWaiting(Conflict):
    """Only a job that waits can be moved in the queue."""

    code = "not_waiting"


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
    if job.status == RUNNING:
        return requeue_job(job, actor=actor, reason=reason, now=now)
    return _release(job, actor=actor, reason=reason, now=now)


@transaction.atomic
def change_priority(*, job_id: int, priority: int, actor: str, now: datetime, tenant_id: int | None = None) -> Job:
    """Let a waiting job go before others, or behind them; ``tenant_id`` narrows it to one tenant's jobs.

    Raises ``NotFound``, and ``NotWaiting`` for a job that runs or has ended.
    """
    job = _lock_job(job_id, tenant_id)
    if job.status not in WAITING:
        detail = f"A {job.status} job's priority decides nothing any more."
        raise NotWaiting(detail, current=job.status, legal=list(legal_moves(job.status)))
    if job.priority != priority:
        before, job.priority = job.priority, priority
        job.save(update_fields=["priority"])
        note(job, from_status=job.status, actor=actor, reason=f"priority {before} → {priority}", now=now)
        ring_doorbell()
    return job


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
    job = _lock_for_scheduler(job_id, FAILED)
    if job is not None:
        _end(job, FAILED, actor="scheduler", reason=reason, now=now, lost_at=lost_at)
    return job is not None


@transaction.atomic
def requeue_lost_job(*, job_id: int, reason: str, lost_at: Mapping[int, datetime], now: datetime) -> bool:
    """The same, with the job back in the queue instead."""
    job = _lock_for_scheduler(job_id, QUEUED)
    if job is not None:
        requeue_job(job, actor="scheduler", reason=reason, now=now, lost_at=lost_at)
    return job is not None


def _lock_for_scheduler(job_id: int, target: str) -> Job | None:
    """The job, if the scheduler may still move it there. Its tenant is locked too, since an invoice that is being made
    would bill what is found to be lost here."""
    lock_rows(
        Tenant.objects.all(), Job.objects.filter(pk=job_id, tenant__isnull=False).values_list("tenant", flat=True)
    )
    return Job.objects.select_for_update().filter(pk=job_id, status__in=scheduler_sources(target)).first()


@transaction.atomic
def cancel_waiting_jobs(*, job_ids: Collection[int], reason: str, now: datetime) -> int:
    """Cancel those of the jobs that still wait: what they wait for is gone. Returns how many it was."""
    waiting = take_from_queue(job_ids, now=now, statuses=scheduler_sources(CANCELLED))
    Job.objects.filter(pk__in=waiting).update(status=CANCELLED, ended_at=now, block_reason="", claimed_at=None)
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
    with connection.cursor() as cursor:
        cursor.execute(LOCK_WAITING, [list(job_ids), list(statuses)])
        jobs = dict(cursor.fetchall())
        cursor.execute(WAITED_SINCE, [list(jobs), now])
        for (job_id,) in cursor.fetchall():
            del jobs[job_id]
    return jobs


def take_from_queue(job_ids: Collection[int], *, now: datetime, statuses: Collection[str]) -> dict[int, str]:
    """The same, and end their wait: the caller gives them another status in the same transaction."""
    with connection.cursor() as cursor:
        cursor.execute(LOCK_WAITING, [list(job_ids), list(statuses)])
        jobs = dict(cursor.fetchall())
        cursor.execute(CLOSE_WAITS, {"jobs": list(jobs), "now": now, "late_too": False})
        for (job_id,) in cursor.fetchall():
            del jobs[job_id]
    return jobs


def keep_estimates(*, estimates: Mapping[int, datetime], source: EstimateSource, now: datetime) -> int:
    """Keep when these jobs are expected to start, by id, where that is another minute than this source said last.

    Returns how many were new.
    """
    parameters: dict[str, Any] = {
        "jobs": list(estimates),
        "starts": list(estimates.values()),
        "source": source.value,
        "now": now,
        "differ": ESTIMATES_DIFFER_BY,
    }
    with connection.cursor() as cursor:
        cursor.execute(KEEP_ESTIMATES, parameters)
        return int(cursor.rowcount)


def ring_doorbell() -> None:
    """Wake the scheduler once this transaction has committed."""
    transaction.on_commit(lambda: doorbell.ask())


def close_waits(job_ids: Collection[int], now: datetime) -> None:
    """End the open wait periods of these jobs; one that lasted no time leaves no row."""
    with connection.cursor() as cursor:
        cursor.execute(CLOSE_WAITS, {"jobs": list(job_ids), "now": now, "late_too": True})


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
    _forget_preemption(job)
    job.save(update_fields=["status", "ended_at", "block_reason", *PREEMPTION])
    note(job, from_status=before, actor=actor, reason=reason, now=ended_at)
    ring_doorbell()
    return job


def _hold(job: Job, *, actor: str, reason: str, now: datetime) -> Job:
    if not reason:
        detail = "block_reason says why the job is held; it is required when status is blocked."
        raise InvalidInput(FieldProblem("#/block_reason", "required", detail))
    claimed = job.claimed_at is not None
    job = _wait_on(job, JobStatus.BLOCKED, actor=actor, reason=reason, now=now)
    if claimed:  # Those that were to be preempted for it may stay, and hear of it at once.
        ring_doorbell()
    return job


def _release(job: Job, *, actor: str, reason: str, now: datetime) -> Job:
    job = _wait_on(job, JobStatus.QUEUED, actor=actor, reason=reason, now=now)
    ring_doorbell()
    return job


def requeue_job(
    job: Job, *, actor: str, reason: str, now: datetime, lost_at: Mapping[int, datetime] | None = None
) -> Job:
    """A running job, locked with its tenant, goes back into the queue with the age that it has."""
    now = max(now, job.started_at or now)
    _close_allocations(job.pk, now, lost_at or {})
    job.started_at = None
    return _release(job, actor=actor, reason=reason, now=now)


def _wait_on(job: Job, status: JobStatus, *, actor: str, reason: str, now: datetime) -> Job:
    before, job.status = job.status, status
    _forget_preemption(job)
    now = max([now, *_open_waits(job).values_list(Lower("during"), flat=True)])  # Clocks differ; the ledger goes on.
    close_waits([job.pk], now)
    _begin_wait(job, reason, now=now)
    note(job, from_status=before, actor=actor, reason=reason, now=now)
    return job


def _forget_preemption(job: Job) -> None:
    """A claim is for as long as a job is queued, and a notice for as long as it runs."""
    job.claimed_at = job.preempt_at = job.preempt_for = None


def _open_waits(job: Job) -> QuerySet[WaitPeriod]:
    return WaitPeriod.objects.filter(job=job, during__upper_inf=True)


def _begin_wait(job: Job, reason: str, *, now: datetime) -> None:
    """Open a period of waiting, as the job's kind does or on hold for ``reason``, and save the job, which says so."""
    is_held = job.status == JobStatus.BLOCKED
    code, figures = (WaitCode.HELD, {"reason": reason}) if is_held else (AS_ITS_KIND, {})
    job.block_reason = sentence(WaitCode.HELD, figures)[:500] if is_held else ""
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


def note(job: Job, *, from_status: str, actor: str, reason: str, now: datetime) -> None:
    """Put a change of the job's state on record."""
    JobEvent.objects.create(
        job=job, at=now, from_status=from_status, to_status=job.status, actor=actor, reason=reason[:500]
    )
