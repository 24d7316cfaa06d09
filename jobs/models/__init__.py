"""Jobs, the GPUs they hold, the time they wait and why, and every change of their state.

Ledger times are half-open ranges ``[from, to)`` in UTC; an open one has no upper bound.
"""

from jobs.models.rollups import GpuBlock, GpuDay, LedgerBlock, LedgerDay, SalesDay
from jobs.models.work import (
    AS_ITS_KIND,
    Allocation,
    EstimateSource,
    Job,
    JobEvent,
    JobStatus,
    KindWait,
    Run,
    RunState,
    SchedulerCycle,
    StartEstimate,
    WaitPeriod,
)

__all__ = [
    "AS_ITS_KIND",
    "Allocation",
    "EstimateSource",
    "GpuBlock",
    "GpuDay",
    "Job",
    "JobEvent",
    "JobStatus",
    "KindWait",
    "LedgerBlock",
    "LedgerDay",
    "Run",
    "RunState",
    "SalesDay",
    "SchedulerCycle",
    "StartEstimate",
    "WaitPeriod",
]
