"""Writing down why jobs wait: for each kind of them, and for those that wait apart from theirs, only where it changed,
set-based, in short transactions."""

import json
from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, TypeVar

from django.db import connection, transaction

from jobs.models import AS_ITS_KIND, JobStatus
from jobs.placement import Kind, Plan, Reason, kind_of
from jobs.scheduler.pieces import write_in_pieces
from jobs.scheduler.world import Told, World
from jobs.services import lock_waiting_jobs

ROWS_IN_ONE_TRANSACTION = 1_000
# A client's PATCH of one of these jobs waits for as long as a transaction lasts: a few hundredths of a second.
JOBS_IN_ONE_TRANSACTION = 1_000

KINDS = """
WITH decided AS (
    SELECT * FROM unnest(%(clusters)s::bigint[], %(tenants)s::bigint[], %(gpu_types)s::text[], %(gpu_counts)s::int[],
                         %(codes)s::text[], %(figures)s::jsonb[], %(sentences)s::text[])
        AS kind (cluster_id, tenant, gpu_type, gpu_count, code, figures, sentence))
"""
OPEN_ONE = """
       told.cluster_id = decided.cluster_id AND coalesce(told.tenant_id, 0) = decided.tenant
   AND told.gpu_type = decided.gpu_type AND told.gpu_count = decided.gpu_count AND upper_inf(told.during)
"""
# The same reason with other figures, and a reason that began at this very instant, stay one row. A kind of which nobody
# waits any more has no code here.
DROP = f"""{KINDS}
DELETE FROM jobs_kindwait AS told
 USING decided
 WHERE {OPEN_ONE} AND decided.code IS NULL AND lower(told.during) >= %(now)s
"""  # noqa: S608  (SQL of this module alone)
REFRESH = f"""{KINDS}
UPDATE jobs_kindwait AS told
   SET code = decided.code, figures = decided.figures, sentence = decided.sentence
  FROM decided
 WHERE {OPEN_ONE} AND (told.code = decided.code OR decided.code IS NOT NULL AND lower(told.during) >= %(now)s)
"""  # noqa: S608
CLOSE = f"""{KINDS}
UPDATE jobs_kindwait AS told
   SET during = tstzrange(lower(told.during), %(now)s)
  FROM decided
 WHERE {OPEN_ONE} AND told.code IS DISTINCT FROM decided.code
"""  # noqa: S608
OPEN = f"""{KINDS}
INSERT INTO jobs_kindwait (cluster_id, tenant_id, gpu_type, gpu_count, code, figures, sentence, during)
SELECT cluster_id, nullif(tenant, 0), gpu_type, gpu_count, code, figures, sentence, tstzrange(%(now)s, NULL)
  FROM decided
 WHERE decided.code IS NOT NULL AND NOT EXISTS (SELECT FROM jobs_kindwait AS told WHERE {OPEN_ONE})
"""  # noqa: S608

JOBS = """
WITH decided AS (
    SELECT * FROM unnest(%(jobs)s::bigint[], %(codes)s::text[], %(figures)s::jsonb[], %(sentences)s::text[])
        AS job (job_id, code, figures, sentence))
"""
REFRESH_JOBS = f"""{JOBS}
UPDATE jobs_waitperiod AS period
   SET code = decided.code, figures = decided.figures
  FROM decided
 WHERE period.job_id = decided.job_id AND upper_inf(period.during)
   AND (period.code = decided.code OR lower(period.during) = %(now)s)
"""  # noqa: S608
CLOSE_JOBS = f"""{JOBS}
UPDATE jobs_waitperiod AS period
   SET during = tstzrange(lower(period.during), %(now)s)
  FROM decided
 WHERE period.job_id = decided.job_id AND upper_inf(period.during) AND period.code <> decided.code
"""  # noqa: S608
OPEN_JOBS = f"""{JOBS}
INSERT INTO jobs_waitperiod (job_id, code, figures, during)
SELECT job_id, code, figures, tstzrange(%(now)s, NULL)
  FROM decided
 WHERE NOT EXISTS (SELECT FROM jobs_waitperiod AS period
                    WHERE period.job_id = decided.job_id AND upper_inf(period.during))
"""  # noqa: S608
SHOW = f"""{JOBS}
UPDATE jobs_job AS job SET block_reason = decided.sentence FROM decided WHERE job.id = decided.job_id
"""  # noqa: S608
COUNT_UP = """
INSERT INTO jobs_schedulercycle (id, finished_at, duration_ms, jobs_started, jobs_waiting, told)
VALUES (1, %s, 0, 0, 0, 1)
    ON CONFLICT (id) DO UPDATE SET told = jobs_schedulercycle.told + 1
RETURNING told
"""


_Key = TypeVar("_Key", Kind, int)


class Telling:
    """What a plan says to those who wait that is not on record, made when it is first asked for.

    A kind that waits for the same reason with other figures gets them only if one of its jobs is among the first
    ``up_to_date`` of the queue: a GPU that comes free changes the figures of a whole queue.
    """

    def __init__(self, decided: Plan, world: World, *, up_to_date: int) -> None:
        self.decided, self.world, self._up_to_date = decided, world, up_to_date

    def make(self) -> tuple[Sequence[tuple[Kind, Reason | None]], Sequence[tuple[int, Reason | None]]]:
        """Of the kinds, and of the jobs that wait apart from theirs."""
        return self._news

    @cached_property
    def _news(self) -> tuple[Sequence[tuple[Kind, Reason | None]], Sequence[tuple[int, Reason | None]]]:
        head = {kind_of(job) for job in self.decided.waiting(self._up_to_date)}
        return _news_of_kinds(self.decided, self.world, head), _news_of_jobs(self.decided, self.world)


def write_waits(telling: Telling, now: datetime) -> None:
    """Give every job its reason from ``now`` on. A kind whose reason is on record as it is costs nothing, and so do its
    jobs."""
    world, (kinds, jobs) = telling.world, telling.make()
    if kinds:
        _, refused = write_in_pieces(kinds, ROWS_IN_ONE_TRANSACTION, lambda piece: _write_kinds(piece, world, now))
        _remember(world.told_kinds, kinds, refused)
    if jobs:
        _, faulty = write_in_pieces(jobs, JOBS_IN_ONE_TRANSACTION, lambda piece: _write_jobs(piece, world, now))
        _remember(world.told_jobs, jobs, faulty)


def _news_of_kinds(decided: Plan, world: World, head: set[Kind]) -> list[tuple[Kind, Reason | None]]:
    news: list[tuple[Kind, Reason | None]] = [(kind, None) for kind in world.told_kinds if kind not in decided.reasons]
    for kind, reason in decided.reasons.items():
        told = world.told_kinds.get(kind)
        if told is None or told.code != reason.code or (kind in head and told.figures != reason.figures):
            news.append((kind, reason))
    return news


def _news_of_jobs(decided: Plan, world: World) -> list[tuple[int, Reason | None]]:
    left = {start.job.job_id for start in decided.starts}
    news: list[tuple[int, Reason | None]] = [
        (job_id, None)
        for job_id in world.told_jobs
        if job_id in world.queue.jobs and job_id not in left and job_id not in decided.exceptions
    ]
    for job_id, reason in decided.exceptions.items():
        told = world.told_jobs.get(job_id)
        if told is None or (told.code, told.figures) != (reason.code, reason.figures):
            news.append((job_id, reason))
    return news


def _remember(
    told: dict[_Key, Told], news: Sequence[tuple[_Key, Reason | None]], refused: Sequence[tuple[_Key, Reason | None]]
) -> None:
    """What was written is on record from now on; what the database refused is tried again in the next cycle."""
    not_written = {key for key, _ in refused}
    for key, reason in news:
        if key in not_written:
            continue
        if reason is None:
            told.pop(key, None)
        else:
            told[key] = Told(reason.code, reason.figures)


@transaction.atomic
def _write_kinds(kinds: Sequence[tuple[Kind, Reason | None]], world: World, now: datetime) -> int:
    """No job is locked: whether one of the kind waits is said by its own period."""
    parameters = {
        "clusters": [kind.wish.cluster_id for kind, _ in kinds],
        "tenants": [kind.tenant_id or 0 for kind, _ in kinds],
        "gpu_types": [kind.wish.gpu_type for kind, _ in kinds],
        "gpu_counts": [kind.wish.gpu_count for kind, _ in kinds],
        **_columns([reason for _, reason in kinds]),
        "now": now,
    }
    with connection.cursor() as cursor:
        for statement in (DROP, REFRESH, CLOSE, OPEN):
            cursor.execute(statement, parameters)
        _count_up(cursor, world, now)
    return len(kinds)


@transaction.atomic
def _write_jobs(jobs: Sequence[tuple[int, Reason | None]], world: World, now: datetime) -> int:
    """The jobs are locked first: one that was cancelled meanwhile must not get an open period again."""
    waiting = lock_waiting_jobs([job_id for job_id, _ in jobs], now=now, statuses=[JobStatus.QUEUED])
    still = [(job_id, reason) for job_id, reason in jobs if job_id in waiting]
    columns = _columns([reason for _, reason in still])
    columns["codes"] = [code or AS_ITS_KIND for code in columns["codes"]]
    parameters = {"jobs": [job_id for job_id, _ in still], **columns, "now": now}
    with connection.cursor() as cursor:
        for statement in (REFRESH_JOBS, CLOSE_JOBS, OPEN_JOBS, SHOW):
            cursor.execute(statement, parameters)
        _count_up(cursor, world, now)
    return len(still)


def _count_up(cursor: Any, world: World, now: datetime) -> None:
    cursor.execute(COUNT_UP, [now])
    (world.count,) = cursor.fetchone()


def _columns(reasons: Sequence[Reason | None]) -> dict[str, Any]:
    return {
        "codes": [None if reason is None else reason.code.value for reason in reasons],
        "figures": [json.dumps({} if reason is None else reason.figures) for reason in reasons],
        "sentences": ["" if reason is None else reason.sentence[:500] for reason in reasons],
    }
