"""What the operator's home page shows: the fleet at one instant, in a fixed number of queries.

The figures over time (leakage, revenue by day) are those of ``dashboard.queries``; this is only "now", for people.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Count, Min, Sum

from alerts.models import AlertEvent, EventStatus
from alerts.queries import rank_by_cost
from billing.models import Rate
from clusters.models import GPU, Cluster, Node
from dashboard.queries import FleetReport, fleet
from jobs.models import Job, JobStatus
from jobs.queries import reason_to_wait
from tenants.models import Tenant

QUEUE_SHOWN = 10
INCIDENTS_SHOWN = 5


@dataclass(frozen=True, slots=True)
class StateCount:
    """How many GPUs spend this second on something, and what part of the fleet that is (0 to 1)."""

    state: str
    gpus: int
    share: float

    @property
    def percent(self) -> float:
        """The share in percent, to one decimal."""
        return round(self.share * 100, 1)


@dataclass(frozen=True, slots=True)
class Fleet:
    """The hardware now."""

    states: Sequence[StateCount]
    report: FleetReport

    @property
    def gpus(self) -> int:
        """GPUs in service, in whatever state."""
        return sum(count.gpus for count in self.states)

    @property
    def sold(self) -> StateCount:
        """The GPUs that jobs hold."""
        return self.states[0]


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job in the queue, how long it has waited, and why it waits."""

    job: Job
    waited: timedelta
    why: str


@dataclass(frozen=True, slots=True)
class Queue:
    """The jobs now. ``held`` jobs are blocked by a person or a client; the head is ordered by priority, then age."""

    running: int
    running_gpus: int
    waiting: int
    waiting_gpus: int
    held: int
    oldest: timedelta | None
    head: Sequence[Waiting]


@dataclass(frozen=True, slots=True)
class Incidents:
    """What fires now: how many, and the costliest of them."""

    firing: int
    first: Sequence[AlertEvent]


@dataclass(frozen=True, slots=True)
class FirstSteps:
    """What a new operator has done already on the way to a fleet that earns."""

    cluster: bool
    node: bool
    gpu: bool
    rate: bool
    tenant: bool
    job: bool


def fleet_now(*, now: datetime) -> Fleet:
    """The hardware, and what its GPUs do. One query."""
    report = fleet(now=now)
    present = report.total
    states = [StateCount(state, gpus, gpus / max(present.gpus, 1)) for state, gpus in present.states.items()]
    return Fleet(states, report)


def queue_now(*, now: datetime) -> Queue:
    """How much runs, how much waits, and what is next. Two queries."""
    rows = (
        Job.objects.filter(status__in=[JobStatus.RUNNING, JobStatus.QUEUED, JobStatus.BLOCKED])
        .order_by()
        .values_list("status")
        .annotate(jobs=Count("pk"), gpus=Sum("gpu_count"), oldest=Min("submitted_at"))
    )
    counts = {status: (jobs, gpus, oldest) for status, jobs, gpus, oldest in rows}
    running, running_gpus, _ = counts.get(JobStatus.RUNNING, (0, 0, None))
    waiting, waiting_gpus, oldest = counts.get(JobStatus.QUEUED, (0, 0, None))
    queued = Job.objects.filter(status=JobStatus.QUEUED).select_related("tenant", "cluster")
    head = queued.annotate(why=reason_to_wait()).order_by("priority", "submitted_at", "pk")[:QUEUE_SHOWN]
    return Queue(
        running=running,
        running_gpus=running_gpus,
        waiting=waiting,
        waiting_gpus=waiting_gpus,
        held=counts.get(JobStatus.BLOCKED, (0, 0, None))[0],
        oldest=None if oldest is None else now - oldest,
        head=[Waiting(job, now - job.submitted_at, job.why) for job in head],
    )


def incidents_now() -> Incidents:
    """The alerts that fire. Two queries."""
    firing = AlertEvent.objects.filter(status=EventStatus.FIRING).select_related("rule")
    return Incidents(firing.count(), list(rank_by_cost(firing)[:INCIDENTS_SHOWN]))


def first_steps() -> FirstSteps:
    """How far a new operator has come. Six queries, each for one row at most."""
    return FirstSteps(
        cluster=Cluster.objects.filter(decommissioned_at__isnull=True).exists(),
        node=Node.objects.filter(decommissioned_at__isnull=True).exists(),
        gpu=GPU.objects.filter(retired_at__isnull=True).exists(),
        rate=Rate.objects.exists(),
        tenant=Tenant.objects.exists(),
        job=Job.objects.exists(),
    )
