"""What the planner is given, and what it answers."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
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
    RESERVED = "reserved"  # Enough free GPUs, but kept for another job.


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node that takes jobs, and its free GPUs by model."""

    node_id: int
    cluster_id: int
    hostname: str
    free: Mapping[str, Sequence[int]]


@dataclass(frozen=True, slots=True)
class TenantView:
    """What a tenant may hold, and holds now. ``lends``: others may use what it leaves idle of its quota;
    ``borrow_limit``: how many GPUs above its own quota it may hold while others lend."""

    quota: int
    held: int
    active: bool = True
    lends: bool = False
    borrow_limit: int = 0


@dataclass(frozen=True, slots=True)
class WaitingJob:
    """A job in the queue. ``minutes``: its own estimate of how long it runs; ``claimed_at``: since when others are
    preempted for it."""

    job_id: int
    cluster_id: int
    tenant_id: int | None
    gpu_count: int
    gpu_type: str
    priority: int
    submitted_at: datetime
    minutes: int | None = None
    claimed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class RunningJob:
    """A job that holds GPUs of one model. ``nodes``: how many, by node, of those that take jobs again when it ends;
    ``held``: how many in all. ``minutes``: its own estimate of how long it runs. ``preempt_at``: when it must give its
    GPUs back, to the job ``preempt_for``."""

    job_id: int
    cluster_id: int
    tenant_id: int | None
    model: str
    nodes: Mapping[int, int]
    started_at: datetime
    minutes: int | None = None
    held: int = 0
    priority: int = 5
    submitted_at: datetime | None = None
    preempt_at: datetime | None = None
    preempt_for: int | None = None

    def ends_at(self, now: datetime) -> datetime | None:
        """When it is expected to end; None when it did not say, and nobody preempts it.

        A job that is past its estimate is expected to go on for as long as it is past it, at least a minute: the
        further off an estimate was, the less is known.
        """
        if self.minutes is None:
            return self.preempt_at
        end = self.started_at + timedelta(minutes=self.minutes)
        expected = end if end > now else now + max(now - end, timedelta(minutes=1))
        return expected if self.preempt_at is None else min(expected, self.preempt_at)


@dataclass(frozen=True, slots=True)
class Preempting:
    """A cluster's terms of preemption: how long a job is left between the notice and its end, and how long it runs
    undisturbed."""

    grace: timedelta
    min_run: timedelta


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The world at one instant. ``largest_node``: the most GPUs of a model that one node of the cluster has, free or
    not, by (cluster id, model); ``registered``: all of them. ``unassigned_held``: GPUs held by jobs without a tenant;
    ``gpu_total``: all GPUs. ``preempting``: the terms of the clusters that allow it. ``resting``: nodes on which
    everything fails, and until when they are not among the ``nodes``. ``jobs`` may be a ``Queue`` and ``running`` what
    is ``Running``, which a plan reads fastest."""

    jobs: Collection[WaitingJob]
    nodes: Sequence[NodeView]
    tenants: Mapping[int, TenantView]
    largest_node: Mapping[tuple[int, str], int]
    closed_clusters: frozenset[int] = frozenset()
    unassigned_held: int = 0
    gpu_total: int = 0
    running: Collection[RunningJob] = ()
    preempting: Mapping[int, Preempting] = field(default_factory=dict)
    registered: Mapping[tuple[int, str], int] = field(default_factory=dict)
    resting: Mapping[int, datetime] = field(default_factory=dict)


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

    def outlasts(self, minutes: int | None, now: datetime) -> bool:
        """Whether a job that starts now ends, by its own estimate, before the reservation begins."""
        return self.at is not None and minutes is not None and now + timedelta(minutes=minutes) <= self.at


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
    job_ids: list[int]


@dataclass(frozen=True, slots=True)
class Preemption:
    """These jobs must give their GPUs back at ``at``, so that ``job`` can start. ``why`` tells them, by id."""

    job: WaitingJob
    victims: Sequence[RunningJob]
    at: datetime
    why: Mapping[int, str]


def sentence(code: str, figures: Mapping[str, Any]) -> str:
    """The reason in words, for people."""
    more = "".join(text for figure, text in ADDENDA.items() if figure in figures)
    words = {**figures, "gpus": "GPU" if figures.get("needs") == 1 else "GPUs"}
    return (SENTENCES[WaitCode(code)] + more).format_map(defaultdict(str, words))


SENTENCES: Mapping[WaitCode, str] = {
    WaitCode.SCHEDULER: "Waits for the scheduler's next cycle.",
    WaitCode.HELD: "On hold: {reason}",
    WaitCode.TENANT_INACTIVE: "The tenant is inactive.",
    WaitCode.CLUSTER_MAINTENANCE: "The cluster is in maintenance.",
    WaitCode.QUOTA: "Needs {needs} {gpus}; the tenant holds {held} of its quota of {quota}.",
    WaitCode.CAPACITY: "Needs {needs} {gpus} of {wants}; {free} are free.",
    WaitCode.FRAGMENTED: "Needs {needs} {gpus} of {wants} together; {free} are free, at most {best} on one node.",
    WaitCode.RESERVED: "Needs {needs} {gpus} of {wants}; {free} are free, but kept for another job.",
}
# What is added to the sentence where the figures have this one.
ADDENDA: Mapping[str, str] = {
    "kept_for": " The rest is kept for the tenant's job {kept_for}, which has waited longest.",
    "borrowable": " Of others' idle quota it may borrow {borrowable} more now.",
    "preempting": " For it {preempting} of those that run must go, at {preempt_at} UTC.",
}
