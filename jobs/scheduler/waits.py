"""Writing down why jobs wait: only where it changed, set-based, in short transactions."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import connection, transaction

from jobs.models import JobStatus
from jobs.placement import Kind, Plan, Reason, WaitingJob, kind_of
from jobs.scheduler.pieces import write_in_pieces
from jobs.scheduler.world import World
from jobs.services import lock_waiting_jobs

# A client's PATCH of one of these jobs waits for as long as a transaction lasts: a few hundredths of a second.
JOBS_IN_ONE_TRANSACTION = 1_000

# Each job with its reason; reasons are few and shared, so that they travel once.
DECIDED = """
WITH decided AS (
    SELECT job_id, code, figures, sentence
      FROM unnest(%(jobs)s::bigint[], %(numbers)s::int[]) AS job (job_id, number)
      JOIN unnest(%(codes)s::text[], %(figures)s::jsonb[], %(sentences)s::text[]) WITH ORDINALITY
           AS reason (code, figures, sentence, number) USING (number))
"""
CHANGED = f"""{DECIDED}
SELECT decided.job_id
  FROM decided
  LEFT JOIN jobs_waitperiod AS period ON period.job_id = decided.job_id AND upper_inf(period.during)
 WHERE period.id IS NULL OR period.code <> decided.code OR period.figures <> decided.figures
"""  # noqa: S608  (SQL of this module alone)

# The same reason with other figures, and a reason that began at this very instant, stay one period.
REFRESH = f"""{DECIDED}
UPDATE jobs_waitperiod AS period
   SET code = decided.code, figures = decided.figures
  FROM decided
 WHERE period.job_id = decided.job_id AND upper_inf(period.during)
   AND (period.code = decided.code OR lower(period.during) = %(now)s)
"""  # noqa: S608
CLOSE = f"""{DECIDED}
UPDATE jobs_waitperiod AS period
   SET during = tstzrange(lower(period.during), %(now)s)
  FROM decided
 WHERE period.job_id = decided.job_id AND upper_inf(period.during) AND period.code <> decided.code
"""  # noqa: S608
OPEN = f"""{DECIDED}
INSERT INTO jobs_waitperiod (job_id, code, figures, during)
SELECT job_id, code, figures, tstzrange(%(now)s, NULL)
  FROM decided
 WHERE NOT EXISTS (SELECT FROM jobs_waitperiod AS period
                    WHERE period.job_id = decided.job_id AND upper_inf(period.during))
"""  # noqa: S608
SHOW = f"""{DECIDED}
UPDATE jobs_job AS job
   SET block_reason = decided.sentence
  FROM decided
 WHERE job.id = decided.job_id AND job.block_reason <> decided.sentence
"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class _Waiter:
    """A job, and the number of its reason, counted from 1."""

    job_id: int
    number: int


def write_waits(decided: Plan, world: World, now: datetime, *, up_to_date: int) -> None:
    """Give every job its reason from ``now`` on. A job whose reason is on record as it is costs nothing.

    One that waits for the same reason with other figures gets them only if it is among the first ``up_to_date`` of the
    queue: a GPU that comes free changes the figures of a whole queue, and would cost a write for each job of it.
    """
    news = _other_code(decided, world)
    same_code = _same_code(decided, [job for job in decided.waiting(up_to_date) if job.job_id not in news])
    reasons = list({id(reason): reason for reason in (*news.values(), *same_code.values())}.values())
    number_of = {id(reason): number for number, reason in enumerate(reasons, start=1)}
    columns = _columns(reasons)
    waiters = [_Waiter(job_id, number_of[id(reason)]) for job_id, reason in news.items()]
    waiters += _other_figures([_Waiter(job_id, number_of[id(reason)]) for job_id, reason in same_code.items()], columns)
    write_in_pieces(waiters, JOBS_IN_ONE_TRANSACTION, lambda piece: _write(piece, columns, now))
    world.told({job_id: reason.code for job_id, reason in news.items()}, decided)


def _other_code(decided: Plan, world: World) -> dict[int, Reason]:
    """The jobs that have another reason than is on record. Where a whole kind is told what it has been told already,
    only those of it that are new are looked at."""
    found = {}
    untold: dict[Kind, list[int]] = defaultdict(list)
    for job_id in world.untold:
        if job_id in world.queue.jobs:
            untold[kind_of(world.queue.jobs[job_id])].append(job_id)
    left = {start.job.job_id for start in decided.starts}
    for kind, reason in decided.reasons.items():
        known = world.codes.get(kind) == reason.code
        for job_id in untold[kind] if known else decided.jobs_of(kind):
            if world.recorded[job_id] != reason.code and job_id not in left and job_id not in decided.exceptions:
                found[job_id] = reason
    for job_id, reason in decided.exceptions.items():
        if world.recorded[job_id] != reason.code:
            found[job_id] = reason
    return found


def _same_code(decided: Plan, jobs: Iterable[WaitingJob]) -> dict[int, Reason]:
    return {job.job_id: decided.reason_of(job) for job in jobs}


def _other_figures(waiters: Sequence[_Waiter], columns: dict[str, Any]) -> list[_Waiter]:
    if not waiters:
        return []
    with connection.cursor() as cursor:
        cursor.execute(CHANGED, _of(waiters, columns))
        changed = {job_id for (job_id,) in cursor.fetchall()}
    return [waiter for waiter in waiters if waiter.job_id in changed]


@transaction.atomic
def _write(waiters: Sequence[_Waiter], reasons: dict[str, Any], now: datetime) -> int:
    """The jobs are locked first: one that was cancelled meanwhile must not get an open period again."""
    waiting = lock_waiting_jobs([waiter.job_id for waiter in waiters], now=now, statuses=[JobStatus.QUEUED])
    still = [waiter for waiter in waiters if waiter.job_id in waiting]
    parameters = {**_of(still, reasons), "now": now}
    with connection.cursor() as cursor:
        for statement in (REFRESH, CLOSE, OPEN, SHOW):
            cursor.execute(statement, parameters)
    return len(still)


def _columns(reasons: Sequence[Reason]) -> dict[str, Any]:
    return {
        "codes": [reason.code.value for reason in reasons],
        "figures": [json.dumps(reason.figures) for reason in reasons],
        "sentences": [reason.sentence[:500] for reason in reasons],
    }


def _of(waiters: Sequence[_Waiter], reasons: dict[str, Any]) -> dict[str, Any]:
    """These jobs with the reasons that are theirs: all reasons of a queue are far more than those of a piece of it."""
    used = sorted({waiter.number for waiter in waiters})
    number_of = {number: here for here, number in enumerate(used, start=1)}
    return {
        **{name: [column[number - 1] for number in used] for name, column in reasons.items()},
        "jobs": [waiter.job_id for waiter in waiters],
        "numbers": [number_of[waiter.number] for waiter in waiters],
    }
