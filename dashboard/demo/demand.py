"""What the customers of the demo do next: submit, finish, give up. Pure: everything follows from the arguments.

The history's replay and the live simulation both decide here; they differ only in how long their jobs last.
"""

import math
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from dashboard.demo.catalog import CUSTOMERS, Customer, DemoCluster, Work

FAILS = 0.06
LONGEST_QUEUE = 9
# How often a customer looks at its quota before it submits.
LOOKS_AT_QUOTA = 0.8


@dataclass(frozen=True, slots=True)
class JobView:
    """A job that is alive, as the customers see it. ``ours``: one of them submitted it; others are left alone."""

    job_id: int
    name: str
    customer: str
    gpu_count: int
    running: bool
    submitted_at: datetime
    started_at: datetime | None
    estimated_duration_min: int | None
    ours: bool = True


@dataclass(frozen=True, slots=True)
class Board:
    """All that is alive, and how many GPUs can work at all."""

    jobs: Collection[JobView]
    capacity: int

    @property
    def sold(self) -> int:
        """GPUs that jobs hold."""
        return sum(job.gpu_count for job in self.jobs if job.running)

    @property
    def waiting(self) -> list[JobView]:
        """The queue."""
        return [job for job in self.jobs if not job.running]

    def claimed_by(self, customer: str) -> int:
        """GPUs that a customer holds or waits for."""
        return sum(job.gpu_count for job in self.jobs if job.customer == customer)


@dataclass(frozen=True, slots=True)
class Request:
    """A job that a customer submits."""

    customer: str
    cluster: str
    name: str
    gpu_count: int
    gpu_type: str
    priority: int
    submitted_by: str
    estimated_duration_min: int


@dataclass(frozen=True, slots=True)
class Ending:
    """When a running job ends, and how."""

    at: datetime
    status: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Pace:
    """How long jobs last: a job of ``hours`` in the catalogue takes ``scale`` times as long, within the limits."""

    scale: float
    shortest: timedelta
    longest: timedelta


IN_HISTORY = Pace(scale=1.35, shortest=timedelta(minutes=45), longest=timedelta(hours=80))
LIVE = Pace(scale=0.006, shortest=timedelta(minutes=2), longest=timedelta(minutes=15))


def busy_share(at: datetime) -> float:
    """What part of the fleet customers want at this time of the week: most in the European afternoon, less at
    weekends.
    """
    hour = at.hour + at.minute / 60
    daily = math.cos((hour - 14.5) / 24 * 2 * math.pi)
    return 0.86 + 0.09 * daily - (0.07 if at.weekday() >= 5 else 0.0)


def next_requests(
    board: Board, *, share: float, pace: Pace, clusters: Sequence[DemoCluster], rng: random.Random
) -> list[Request]:
    """What is submitted now, so that about ``share`` of the capacity is sold and a small queue stands."""
    requests: list[Request] = []
    wanted = share * board.capacity - board.sold - 0.4 * sum(job.gpu_count for job in board.waiting)
    room = LONGEST_QUEUE - len(board.waiting)
    claimed = {customer.name: board.claimed_by(customer.name) for customer in CUSTOMERS}
    while wanted > 0 and len(requests) < room:
        request = _draw(claimed, pace, clusters, rng)
        requests.append(request)
        claimed[request.customer] += request.gpu_count
        wanted -= request.gpu_count
    return requests


def ending_of(job: JobView, *, seed: int) -> Ending:
    """When and how a running job ends: the same for the same job, so that a restart changes nothing."""
    fate = random.Random(f"{seed}:{job.name}")  # noqa: S311  (a fate, not a secret)
    began = job.started_at or job.submitted_at
    planned = timedelta(minutes=job.estimated_duration_min or 10)
    if fate.random() < FAILS:
        reason = fate.choice(["CUDA out of memory", "NCCL timeout on rank 3", "exit code 1", "checkpoint not readable"])
        return Ending(began + planned * fate.uniform(0.05, 0.8), "failed", reason)
    return Ending(began + planned * fate.uniform(0.7, 1.04), "completed")


def given_up(board: Board, *, now: datetime, patience: timedelta, since: datetime | None = None) -> list[int]:
    """Jobs whose customers have waited too long for them, counted from ``since`` for those that came earlier."""
    waiting = [job for job in board.waiting if job.ours]
    return [job.job_id for job in waiting if now - max(job.submitted_at, since or job.submitted_at) > patience]


def _draw(claimed: Mapping[str, int], pace: Pace, clusters: Sequence[DemoCluster], rng: random.Random) -> Request:
    customer, work, size = _choose(rng)
    if rng.random() < LOOKS_AT_QUOTA:
        for _ in range(6):
            if claimed[customer.name] + size <= customer.gpu_quota:
                break
            customer, work, size = _choose(rng)
    minutes = _minutes(work, pace, rng)
    return Request(
        customer=customer.name,
        cluster=_cluster_for(work, size, clusters, rng),
        name=f"{work.name}-{rng.randrange(16**4):04x}",
        gpu_count=size,
        gpu_type=work.gpu_type,
        priority=work.priority,
        submitted_by=f"{rng.choice(customer.people)}@{customer.domain}",
        estimated_duration_min=minutes,
    )


def _choose(rng: random.Random) -> tuple[Customer, Work, int]:
    (customer,) = rng.choices(CUSTOMERS, weights=[one.weight for one in CUSTOMERS])
    work = rng.choice(customer.works)
    (size,) = rng.choices(list(work.sizes), weights=list(work.sizes.values()))
    return customer, work, size


def _minutes(work: Work, pace: Pace, rng: random.Random) -> int:
    drawn = timedelta(hours=work.hours * pace.scale * rng.lognormvariate(0, 0.5))
    return round(min(max(drawn, pace.shortest), pace.longest) / timedelta(minutes=1))


def _cluster_for(work: Work, size: int, clusters: Sequence[DemoCluster], rng: random.Random) -> str:
    """A cluster that has what the work prefers, and enough of it; the larger one more often."""
    preferred = work.gpu_type.split("|")[0].lower()
    counts = {cluster.name: _gpus_of(cluster, preferred) for cluster in clusters}
    able = {name: count for name, count in counts.items() if count >= size} or counts
    (name,) = rng.choices(list(able), weights=[count or 1 for count in able.values()])
    return name


def _gpus_of(cluster: DemoCluster, short: str) -> int:
    return sum(len(node.gpus()) for node in cluster.nodes() if node.model.short == short)
