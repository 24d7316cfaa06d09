"""How long jobs run: as they say, or as the ledger has measured it of jobs like them."""

from collections.abc import Mapping
from datetime import datetime, timedelta

from django.db import connection

from jobs.placement import RunningJob
from jobs.simulation import Length, Lengths, Source

MEASURED_OVER = timedelta(days=90)
# A median of fewer jobs than this says nothing.
FEWEST_JOBS = 3

# A job that ran has allocations, all of one model. What was requeued is known by its last run.
MEDIANS = """
SELECT job.tenant_id, job.gpu_count, ran.model,
       grouping(job.tenant_id) = 0, grouping(job.gpu_count) = 0, grouping(ran.model) = 0,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM job.ended_at - job.started_at)::float8)
  FROM jobs_job AS job
 CROSS JOIN LATERAL (SELECT gpu.model
                       FROM jobs_allocation AS allocation
                       JOIN clusters_gpu AS gpu ON gpu.id = allocation.gpu_id
                      WHERE allocation.job_id = job.id
                      ORDER BY allocation.id DESC
                      LIMIT 1) AS ran
 WHERE job.ended_at >= %s AND job.started_at IS NOT NULL
 GROUP BY GROUPING SETS ((job.tenant_id, job.gpu_count, ran.model), (job.gpu_count, ran.model), (ran.model), ())
HAVING count(*) >= %s
"""

# (tenant or None, GPUs or None, model or None), each with whether it counts.
_Key = tuple[int | None, int | None, str | None, bool]


def lengths_at(now: datetime) -> Lengths:
    """How long a job runs: its estimate; else the median of the last 90 days, of its tenant's jobs of that size and
    model; else of all jobs of that size and model, of the model, of all. One query."""
    medians = _medians(now)

    def length_of(job: RunningJob) -> Length:
        if job.minutes is not None:
            return Length(timedelta(minutes=job.minutes), Source.ESTIMATE)
        for key in _keys(job):
            if key in medians:
                return Length(timedelta(seconds=medians[key]), Source.HISTORY)
        return Length(None, Source.UNKNOWN)

    return length_of


def _keys(job: RunningJob) -> list[_Key]:
    return [
        (job.tenant_id, job.held, job.model, True),
        (None, job.held, job.model, False),
        (None, None, job.model, False),
        (None, None, None, False),
    ]


def _medians(now: datetime) -> Mapping[_Key, float]:
    with connection.cursor() as cursor:
        cursor.execute(MEDIANS, [now - MEASURED_OVER, FEWEST_JOBS])
        rows = cursor.fetchall()
    return {
        (tenant_id, gpus if by_gpus else None, model if by_model else None, by_tenant): seconds
        for tenant_id, gpus, model, by_tenant, by_gpus, by_model, seconds in rows
    }
