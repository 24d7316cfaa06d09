"""One cycle: reap what can't go on, look, plan, and write the plan down.

What a cycle writes, it writes in short transactions, each of which leaves the house in order: a cycle that is killed
between two of them is carried on by the next.
"""

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from django.db import connection

from jobs.models import EstimateSource
from jobs.placement import Plan, plan
from jobs.scheduler.reaping import preempt, preempt_due, reap
from jobs.scheduler.starting import start_jobs
from jobs.scheduler.waits import Telling, write_waits
from jobs.scheduler.world import World
from jobs.services import ESTIMATES_DIFFER_BY, announce_preemption, keep_estimates, spare_jobs, withdraw_claims

# A plan is made anew when some of it could not be written, so that the GPUs it meant for a job that can't have them
# go to the next one. Jobs that the database refuses are left out of it; whatever else came between may come again.
MOST_PLANS = 3
# So many jobs at the head of the queue show the figures of this very cycle; those behind them show the figures as they
# were when their reason was last written. An explanation gives everybody's figures as they are now.
FIGURES_UP_TO_DATE = 100

WRITE_CYCLE = """
INSERT INTO jobs_schedulercycle AS cycle (id, finished_at, duration_ms, jobs_started, jobs_waiting)
VALUES (1, %s, %s, %s, %s)
    ON CONFLICT (id) DO UPDATE
   SET finished_at = excluded.finished_at, duration_ms = excluded.duration_ms,
       jobs_started = excluded.jobs_started, jobs_waiting = excluded.jobs_waiting
"""


@dataclass(frozen=True, slots=True)
class CycleResult:
    """What a cycle did."""

    started: int
    waiting: int
    failed: int


def run_cycle(*, now: datetime, world: World | None = None) -> CycleResult:
    """Run one cycle at ``now``. The caller has the turn; see ``turn``. ``world`` is what he knows from the cycle before
    this one; without it, everything is read."""
    with _collecting_later():
        return _run(world or World(), now)


def _run(world: World, now: datetime) -> CycleResult:
    began = time.monotonic()
    world.refresh(now)
    failed = reap(world, now)
    if failed + preempt_due(world, now):
        world.refresh(now)
    started, telling = _start_what_can(world, now)
    decided = telling.decided
    write_waits(telling, now)
    _keep_estimates(decided, world, now)
    _write_cycle(now, (time.monotonic() - began) * 1000, started, decided.waiting_count)
    return CycleResult(started=started, waiting=decided.waiting_count, failed=failed)


@contextmanager
def _collecting_later() -> Iterator[None]:
    """A full collection looks at every job of the queue, a sixth of a second for 100,000, and finds next to nothing: it
    can wait until the cycle is over."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def run_cycle_of_process(*, now: datetime) -> CycleResult:
    """The same, with what this process knows from its last cycle.

    A world that a cycle failed in is forgotten; and two threads never share one, whatever becomes of the turn. Nothing
    is kept of what was read inside a transaction, since that may be undone.
    """
    if connection.in_atomic_block:
        return run_cycle(now=now)
    try:
        world = _worlds.pop()
    except IndexError:
        world = World()
    result = run_cycle(now=now, world=world)
    _worlds[:] = [world]
    return result


_worlds: list[World] = []


def _start_what_can(world: World, now: datetime) -> tuple[int, Telling]:
    """Plan and start until a plan was written whole. Returns how many jobs started, and what the last plan says to the
    others, which is made while the database writes down the starts."""
    started, faulty = 0, frozenset[int]()
    for attempt in range(MOST_PLANS):
        if attempt:
            world.refresh(now)
        decided = plan(world.snapshot(now, without=faulty), now)
        telling = Telling(decided, world, up_to_date=FIGURES_UP_TO_DATE)
        outcome = start_jobs(decided.starts, now, meanwhile=telling.make)
        started += outcome.started
        faulty |= outcome.faulty
        freed = _write_preemptions(decided, now)
        if outcome.started == len(decided.starts) and not freed:
            break
    return started, telling


def _write_preemptions(decided: Plan, now: datetime) -> int:
    """Tell those who must go, and those who may stay. Returns how many are gone already, where there is no grace.

    The world stays as it is: what the plan says of those who wait is made of its queue.
    """
    if decided.unclaimed:
        withdraw_claims(job_ids=decided.unclaimed, now=now)
    if decided.spared:
        spare_jobs(job_ids=decided.spared, now=now)
    at_once: list[int] = []
    for one in decided.preemptions:
        announced = announce_preemption(job_id=one.job.job_id, victims=one.why, at=one.at, now=now)
        if announced and one.at <= now:
            at_once += one.why
    return preempt(at_once, now)


def _keep_estimates(decided: Plan, world: World, now: datetime) -> None:
    estimates = {one.job.job_id: one.at for one in decided.reservations.values() if one.at is not None}
    news = {
        job_id: at
        for job_id, at in estimates.items()
        if job_id not in world.estimates or abs(world.estimates[job_id] - at) >= ESTIMATES_DIFFER_BY
    }
    if news:
        keep_estimates(estimates=news, source=EstimateSource.SCHEDULER, now=now)
    world.estimates = {job_id: news.get(job_id, world.estimates.get(job_id, at)) for job_id, at in estimates.items()}


def _write_cycle(now: datetime, duration_ms: float, started: int, waiting: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute(WRITE_CYCLE, [now, duration_ms, started, waiting])
