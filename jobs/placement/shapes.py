"""What the planner is given, and what it answers."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

# How long a job waits, for each step of its priority, before it goes ahead of everything that has not.
AGES_IN: Final = timedelta(days=1)


class WaitCode(StrEnum):
    """Why a job waits. The ledger splits idle GPU-seconds by these codes."""

    SCHEDULER = "scheduler"  # Nobody has looked at it yet: the scheduler's own delay.
    HELD = "held"  # A person or a client put it on hold.
    TENANT_INACTIVE = "tenant_inactive"
    CLUSTER_MAINTENANCE = "cluster_maintenance"
    QUOTA = "quota"
    CAPACITY = "capacity"  # Too few free GPUs of the models it takes.
    FRAGMENTED = "fragmented"  # Enough free GPUs, but not together.
    RESERVED = "reserved"  # Enough free GPUs, but kept for a job that is ahead.


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node that takes jobs, and its free GPUs by model."""

    node_id: int
    cluster_id: int
    hostname: str
    free: Mapping[str, Sequence[int]]


@dataclass(frozen=True, slots=True)
class TenantView:
    """What a tenant may hold, and holds now."""

    quota: int
    held: int
    active: bool = True


@dataclass(frozen=True, slots=True)
class WaitingJob:
    """A job in the queue. ``minutes``: its own estimate of how long it runs."""

    job_id: int
    cluster_id: int
    tenant_id: int | None
    gpu_count: int
    gpu_type: str
    priority: int
    submitted_at: datetime
    minutes: int | None = None


@dataclass(frozen=True, slots=True)
class RunningJob:
    """A job that holds GPUs of one model. ``nodes``: how many, by node, of those that take jobs again when it ends;
    ``held``: how many in all. ``minutes``: its own estimate of how long it runs."""

    job_id: int
    cluster_id: int
    tenant_id: int | None
    model: str
    nodes: Mapping[int, int]
    started_at: datetime
    minutes: int | None = None
    held: int = 0

    def ends_at(self, now: datetime) -> datetime | None:
        """When it is expected to end; None when it did not say.

        A job that is past its estimate is expected to go on for as long as it is past it, at least a minute: the
        further off an estimate was, the less is known.
        """
        if self.minutes is None:
            return None
        end = self.started_at + timedelta(minutes=self.minutes)
        return end if end > now else now + max(now - end, timedelta(minutes=1))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The world at one instant. ``largest_node``: the most GPUs of a model that one node of the cluster has, free or
    not, by (cluster id, model). ``unassigned_held``: GPUs held by jobs without a tenant; ``gpu_total``: all GPUs."""

    jobs: Sequence[WaitingJob]
    nodes: Sequence[NodeView]
    tenants: Mapping[int, TenantView]
    largest_node: Mapping[tuple[int, str], int]
    closed_clusters: frozenset[int] = frozenset()
    unassigned_held: int = 0
    gpu_total: int = 0
    running: Sequence[RunningJob] = ()


@dataclass(frozen=True, slots=True)
class Start:
    """Give these GPUs to this job. ``why`` says, for people, why these and why now."""

    job: WaitingJob
    model: str
    gpu_ids: tuple[int, ...]
    nodes: Mapping[int, int]
    why: str


@dataclass(frozen=True, slots=True)
class Reservation:
    """These GPUs, by node, are kept for this job, which will have them all at ``at``; None: nobody knows when."""

    job: WaitingJob
    model: str
    nodes: Mapping[int, int]
    at: datetime | None

    def outlasts(self, job: WaitingJob, now: datetime) -> bool:
        """Whether a job that starts now ends, by its own estimate, before the reservation begins."""
        return self.at is not None and job.minutes is not None and now + timedelta(minutes=job.minutes) <= self.at


@dataclass(frozen=True, slots=True)
class Reason:
    """Why jobs wait, with the figures behind it."""

    code: WaitCode
    figures: Mapping[str, Any]

    @property
    def sentence(self) -> str:
        """The reason in words, for people."""
        return sentence(self.code, self.figures)


@dataclass(frozen=True, slots=True)
class Wait:
    """These jobs wait, all for this reason."""

    reason: Reason
    job_ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do about every job of the snapshot: each is in exactly one start or wait. Starts are in their order,
    and so are ``waiting``, the jobs that wait. ``reservations`` by cluster."""

    starts: Sequence[Start]
    waits: Sequence[Wait]
    waiting: Sequence[WaitingJob]
    reservations: Mapping[int, Reservation]


def sentence(code: str, figures: Mapping[str, Any]) -> str:
    """The reason in words, for people."""
    kept = KEPT_QUOTA if "kept_for" in figures else ""
    return (SENTENCES[WaitCode(code)] + kept).format_map(defaultdict(str, figures))


SENTENCES: Mapping[WaitCode, str] = {
    WaitCode.SCHEDULER: "Waits for the scheduler's next cycle.",
    WaitCode.HELD: "On hold: {reason}",
    WaitCode.TENANT_INACTIVE: "The tenant is inactive.",
    WaitCode.CLUSTER_MAINTENANCE: "The cluster is in maintenance.",
    WaitCode.QUOTA: "Needs {needs} GPUs; the tenant holds {held} of its quota of {quota}.",
    WaitCode.CAPACITY: "Needs {needs} GPUs of {wants}; {free} are free.",
    WaitCode.FRAGMENTED: "Needs {needs} GPUs of {wants} together; {free} are free, at most {best} on one node.",
    WaitCode.RESERVED: "Needs {needs} GPUs of {wants}; {free} are free, but kept for a job that is ahead.",
}
KEPT_QUOTA = " The rest is kept for the tenant's job {kept_for}, which has waited longest."
