"""Writing down why jobs wait: only where it changed, set-based, in short transactions."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import connection, transaction

from jobs.models import JobStatus
from jobs.placement import Reason, Wait
from jobs.scheduler.pieces import write_in_pieces
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
SELECT decided.job_id, period.code IS NOT DISTINCT FROM decided.code
  FROM decided
  LEFT JOIN jobs_waitperiod AS period ON period.job_id = decided.job_id AND upper_inf(period.during)
 WHERE period.id IS NULL OR period.code <> decided.code OR period.figures <> decided.figures
 ORDER BY decided.job_id
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


def write_waits(waits: Sequence[Wait], now: datetime, *, up_to_date: Collection[int]) -> None:
    """Give every job its reason from ``now`` on. A job whose reason is on record as it is costs no write.

    One that waits for the same reason with other figures gets them only if it is among those ``up_to_date``: a GPU that
    comes free changes the figures of a whole queue, and would cost a write for each job of it.
    """
    if not waits:
        return
    reasons = _columns([wait.reason for wait in waits])
    number_of = {job_id: number for number, wait in enumerate(waits, start=1) for job_id in wait.job_ids}
    everyone = [_Waiter(*item) for item in number_of.items()]
    with connection.cursor() as cursor:
        cursor.execute(CHANGED, {**reasons, **_pairs(everyone)})
        rows = cursor.fetchall()
    changed = [
        _Waiter(job_id, number_of[job_id]) for job_id, same_code in rows if not same_code or job_id in up_to_date
    ]
    write_in_pieces(changed, JOBS_IN_ONE_TRANSACTION, lambda piece: _write(piece, reasons, now))


@transaction.atomic
def _write(waiters: Sequence[_Waiter], reasons: dict[str, Any], now: datetime) -> int:
    """The jobs are locked first: one that was cancelled meanwhile must not get an open period again."""
    waiting = lock_waiting_jobs([waiter.job_id for waiter in waiters], now=now, statuses=[JobStatus.QUEUED])
    still = [waiter for waiter in waiters if waiter.job_id in waiting]
    parameters = {**reasons, **_pairs(still), "now": now}
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


def _pairs(waiters: Sequence[_Waiter]) -> dict[str, Any]:
    return {"jobs": [waiter.job_id for waiter in waiters], "numbers": [waiter.number for waiter in waiters]}
