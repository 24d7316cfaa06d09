"""One cycle: reap what lost its hardware, look, plan, and write the plan down.

What a cycle writes, it writes in short transactions, each of which leaves the house in order: a cycle that is killed
between two of them is carried on by the next.
"""

import time
from dataclasses import dataclass
from datetime import datetime

from jobs.models import SchedulerCycle
from jobs.placement import Plan, plan
from jobs.scheduler.reaping import reap
from jobs.scheduler.snapshot import take_snapshot
from jobs.scheduler.starting import start_jobs
from jobs.scheduler.waits import write_waits
from jobs.services import keep_estimates

# A plan is made anew when some of it could not be written, so that the GPUs it meant for a job that can't have them
# go to the next one. Jobs that the database refuses are left out of it; whatever else came between may come again.
MOST_PLANS = 3
# So many jobs at the head of the queue show the figures of this very cycle; those behind them show the figures as they
# were when their reason was last written. An explanation gives everybody's figures as they are now.
FIGURES_UP_TO_DATE = 1_000


@dataclass(frozen=True, slots=True)
class CycleResult:
    """What a cycle did."""

    started: int
    waiting: int
    failed: int


def run_cycle(*, now: datetime) -> CycleResult:
    """Run one cycle at ``now``. The caller has the turn; see ``turn``."""
    began = time.monotonic()
    failed = reap(now)
    started, decided = _start_what_can(now)
    head = {job.job_id for job in decided.waiting[:FIGURES_UP_TO_DATE]}
    write_waits(decided.waits, now, up_to_date=head)
    kept = decided.reservations.values()
    keep_estimates(estimates={one.job.job_id: one.at for one in kept if one.at is not None}, now=now)
    waiting = sum(len(wait.job_ids) for wait in decided.waits)
    _write_cycle(now, (time.monotonic() - began) * 1000, started, waiting)
    return CycleResult(started=started, waiting=waiting, failed=failed)


def _start_what_can(now: datetime) -> tuple[int, Plan]:
    """Plan and start until a plan was written whole. Returns how many jobs started, and the last plan."""
    started, faulty = 0, frozenset[int]()
    for _ in range(MOST_PLANS):
        decided = plan(take_snapshot(now, without=faulty), now)
        outcome = start_jobs(decided.starts, now)
        started += outcome.started
        faulty |= outcome.faulty
        if outcome.started == len(decided.starts):
            break
    return started, decided


def _write_cycle(now: datetime, duration_ms: float, started: int, waiting: int) -> None:
    values = {"finished_at": now, "duration_ms": duration_ms, "jobs_started": started, "jobs_waiting": waiting}
    SchedulerCycle.objects.update_or_create(pk=1, defaults=values)
