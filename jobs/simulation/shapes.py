"""What a simulation is given beside a snapshot, and what it answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from jobs.placement import RunningJob, Snapshot, Start, WaitingJob

# Who starts now, and on which GPUs.
Policy = Callable[[Snapshot, datetime], Sequence[Start]]


class Source(StrEnum):
    """Where a job's length is taken from."""

    ESTIMATE = "estimate"
    HISTORY = "history"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Length:
    """How long a job runs; None: nobody knows, and it runs beyond the horizon."""

    lasts: timedelta | None
    source: Source


# How long a job that runs does so, from its start.
Lengths = Callable[[RunningJob], Length]


@dataclass(slots=True)
class Holding:
    """A job holds GPUs of one model, so many of each node, from ``start`` to ``end``; None: beyond the simulation.
    ``source``: where its length is from."""

    job_id: int
    cluster_id: int
    tenant_id: int | None
    model: str
    nodes: Mapping[int, int]
    gpus: int
    start: datetime
    end: datetime | None = None
    ran_before: bool = False
    source: Source = Source.UNKNOWN


@dataclass(frozen=True, slots=True)
class Course:
    """What came to pass between ``began`` and ``until``. ``submitted``: every job that waited at the beginning or came
    later; ``cut``: the time limit ended it before the horizon did; ``plans``: how often it planned; ``reason``: why the
    job that was asked about had not started, in words."""

    began: datetime
    until: datetime
    cut: bool
    plans: int
    holdings: Sequence[Holding]
    submitted: Mapping[int, WaitingJob]
    reason: str = ""
