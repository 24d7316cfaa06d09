"""Why a job waits, or why it went where it went: what ``GET /api/jobs/{id}/explain`` and the console show."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby

from django.db.models import Count

from jobs.models import Allocation, EstimateSource, Job, JobEvent, JobStatus
from jobs.placement import takes
from jobs.placement.explaining import Blocker, Prospect, prospect_of
from jobs.queries import get_job, waits_of
from jobs.scheduler.world import take_snapshot
from jobs.services import keep_estimates

NOBODY = Prospect(blockers=(), place=None, queued=0, earliest=None, estimated=None, without_estimate=0, remedies=())


@dataclass(frozen=True, slots=True)
class Holding:
    """Who holds how many GPUs of a model that the job takes. Without a name: all whom the caller may not know of."""

    model: str
    tenant_id: int | None
    tenant: str | None
    gpus: int
    jobs: int


@dataclass(frozen=True, slots=True)
class Waited:
    """How long the job has waited for one reason, in seconds, up to now."""

    code: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """How a job stands, and why. ``summary`` is the binding constraint, or why it went where it went."""

    job: Job
    summary: str
    prospect: Prospect
    holders: tuple[Holding, ...]
    waited: tuple[Waited, ...]
    placed_on: tuple[str, ...]


def explain_job(*, job_id: int, of_tenant: int | None, now: datetime) -> Explanation:
    """Explain a job to a caller of this tenant; None stands for the whole fleet's. The estimate that it gives is kept.

    Raises ``NotFound`` when there is no such job that the caller may know of.
    """
    job = get_job(job_id, of_tenant=of_tenant)
    prospect = _prospect(job, now)
    if prospect.estimated is not None and prospect.blockers:
        keep_estimates(estimates={job.pk: prospect.estimated}, source=EstimateSource.EXPLANATION, now=now)
    return Explanation(
        job=job,
        summary=_summary(job, prospect),
        prospect=prospect,
        holders=tuple(_holders(job, of_tenant)) if job.status == JobStatus.QUEUED else (),
        waited=tuple(_waited(job, now)),
        placed_on=tuple(_placed_on(job)),
    )


def _prospect(job: Job, now: datetime) -> Prospect:
    if job.status == JobStatus.BLOCKED:
        return replace(NOBODY, blockers=(Blocker("held", job.block_reason, {}),))
    if job.status != JobStatus.QUEUED:
        return NOBODY
    # A clock that is behind the submission's would not find the job in the queue.
    snapshot = take_snapshot(max(now, job.submitted_at))
    if job.pk not in {one.job_id for one in snapshot.jobs}:
        return NOBODY
    return prospect_of(job.pk, snapshot, now)


def _summary(job: Job, prospect: Prospect) -> str:
    if prospect.blockers:
        return prospect.blockers[0].text
    if job.status == JobStatus.QUEUED:
        return "Nothing stands in its way: the scheduler's next cycle starts it."
    events = JobEvent.objects.filter(job=job).order_by("-pk")
    last = events.first()
    start = events.filter(to_status=JobStatus.RUNNING).exclude(from_status=JobStatus.RUNNING).first()
    parts = [f"Started on {start.reason}"] if start is not None else ["It never started."]
    if job.status != JobStatus.RUNNING and last is not None:
        parts.append(f"It is {job.status}" + (f": {last.reason}" if last.reason else "."))
    return " ".join(parts)


def _holders(job: Job, of_tenant: int | None) -> Collection[Holding]:
    """Whoever holds GPUs of a model that the job takes, on its cluster, the largest first."""
    rows = (
        Allocation.objects.filter(gpu__node__cluster_id=job.cluster_id, during__upper_inf=True)
        .order_by()
        .values_list("gpu__model", "tenant_id", "tenant__name")
        .annotate(gpus=Count("pk"), jobs=Count("job_id", distinct=True))
    )
    shown = [
        Holding(model, tenant_id, name, gpus, jobs)
        if of_tenant in (None, tenant_id)
        else Holding(model, None, None, gpus, jobs)
        for model, tenant_id, name, gpus, jobs in rows
        if takes(job.gpu_type, model)
    ]
    return sorted(_together(shown), key=lambda one: (one.model, -one.gpus, one.tenant_id or 0))


def _together(holdings: Collection[Holding]) -> list[Holding]:
    def who(one: Holding) -> tuple[str, int, str]:
        return one.model, one.tenant_id or 0, one.tenant or ""

    together = []
    for _, group in groupby(sorted(holdings, key=who), key=who):
        same = list(group)
        together.append(replace(same[0], gpus=sum(one.gpus for one in same), jobs=sum(one.jobs for one in same)))
    return together


def _waited(job: Job, now: datetime) -> list[Waited]:
    seconds: dict[str, float] = {}
    for one in waits_of(job):
        lasted = max(0.0, ((one.end or now) - one.start).total_seconds())
        seconds[one.code] = seconds.get(one.code, 0.0) + lasted
    return [Waited(*item) for item in seconds.items()]


def _placed_on(job: Job) -> list[str]:
    """The nodes that the job holds GPUs of, or held when it last ran."""
    rows = Allocation.objects.filter(job=job)
    if job.started_at is not None:
        rows = rows.filter(during__startswith__gte=job.started_at)
    return list(rows.order_by("gpu__node__hostname").values_list("gpu__node__hostname", flat=True).distinct())
