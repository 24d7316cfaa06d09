"""Preemption, from the notice to the end of its grace: who goes, for whom, and that both are told."""

from collections.abc import Collection, Mapping
from datetime import datetime

from django.db import transaction

from gpufleet.common.locks import lock_rows
from jobs.models import Job, JobEvent, JobStatus
from jobs.services.moving import note, requeue_job, ring_doorbell
from tenants.models import Tenant

SCHEDULER = "scheduler"


@transaction.atomic
def announce_preemption(*, job_id: int, victims: Mapping[int, str], at: datetime, now: datetime) -> bool:
    """Give a waiting job a claim on what ``victims`` hold, who must give it back at ``at``; each is told why.

    Returns False, having changed nothing, when any of them is not what the plan saw any more.
    """
    jobs = _lock([job_id, *victims])
    job = jobs.pop(job_id, None)
    if job is None or job.status != JobStatus.QUEUED or jobs.keys() != victims.keys():
        return False
    if any(victim.status != JobStatus.RUNNING or victim.preempt_at is not None for victim in jobs.values()):
        return False
    Job.objects.filter(pk=job_id).update(claimed_at=now)
    Job.objects.filter(pk__in=victims).update(preempt_at=at, preempt_for=job_id)
    reason = f"preempts {_named(victims)}, at {at:%Y-%m-%d %H:%M:%S} UTC"
    note(job, from_status=job.status, actor=SCHEDULER, reason=reason, now=now)
    for pk, why in victims.items():
        reason = f"will be preempted at {at:%Y-%m-%d %H:%M:%S} UTC {why}"
        note(jobs[pk], from_status=JobStatus.RUNNING, actor=SCHEDULER, reason=reason, now=now)
    return True


@transaction.atomic
def spare_jobs(*, job_ids: Collection[int], now: datetime) -> int:
    """Take back the notice of these jobs: whom they were to be preempted for needs it no more. Returns how many."""
    return _spare(_lock(job_ids), now)


@transaction.atomic
def withdraw_claims(*, job_ids: Collection[int], now: datetime) -> int:
    """These jobs wait like everybody else again: what was to be freed for them does not help them. Returns how many."""
    jobs = [job for job in _lock(job_ids).values() if job.claimed_at is not None]
    Job.objects.filter(pk__in=[job.pk for job in jobs]).update(claimed_at=None)
    JobEvent.objects.bulk_create(
        JobEvent(job=job, at=now, from_status=job.status, to_status=job.status, actor=SCHEDULER, reason=_GIVEN_UP)
        for job in jobs
    )
    return len(jobs)


_GIVEN_UP = "gave up what others were to be preempted for: it may not start, or does not fit there any more"


@transaction.atomic
def preempt_job(*, job_id: int, now: datetime) -> bool:
    """End the grace of a job: it goes back into the queue, and its GPUs to whom they were claimed for.

    It is spared instead when nobody claims them any more. Returns whether it was preempted.
    """
    lock_rows(
        Tenant.objects.all(), Job.objects.filter(pk=job_id, tenant__isnull=False).values_list("tenant", flat=True)
    )
    claimant = Job.objects.filter(pk=job_id).values_list("preempt_for", flat=True).first()
    jobs = _lock([job_id] if claimant is None else [job_id, claimant])
    job = jobs.get(job_id)
    if job is None or job.preempt_at is None or job.preempt_at > now or job.preempt_for != claimant:
        return False
    if claimant not in jobs or jobs[claimant].claimed_at is None:
        _spare({job_id: job}, now)
        return False
    notice = job.events.filter(to_status=JobStatus.RUNNING, from_status=JobStatus.RUNNING).first()
    why = notice.reason.partition(" UTC ")[2] if notice is not None else f"for job {claimant}"
    requeue_job(job, actor=SCHEDULER, reason=f"preempted {why}", now=now)
    return True


def _lock(job_ids: Collection[int]) -> dict[int, Job]:
    """Jobs by id, in the order in which everybody locks several of them."""
    rows = Job.objects.filter(pk__in=job_ids, status__in=[JobStatus.QUEUED, JobStatus.RUNNING]).order_by("pk")
    return {job.pk: job for job in rows.select_for_update()}


def _spare(jobs: Mapping[int, Job], now: datetime) -> int:
    marked = [job for job in jobs.values() if job.preempt_at is not None]
    Job.objects.filter(pk__in=[job.pk for job in marked]).update(preempt_at=None, preempt_for=None)
    for job in marked:
        reason = f"stays: job {job.preempt_for} does not need its GPUs any more"
        note(job, from_status=job.status, actor=SCHEDULER, reason=reason, now=now)
    if marked:
        ring_doorbell()
    return len(marked)


def _named(victims: Collection[int]) -> str:
    return f"job {next(iter(victims))}" if len(victims) == 1 else "jobs " + ", ".join(map(str, sorted(victims)))
