"""Sold time that its holder hardly uses: not lost, since it is paid for, but somebody else could have it."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import connection

from dashboard.queries.losses import Behind, Bucket

# Whatever the window: what can be reclaimed is what is held now.
WATCHED_FOR: Final = timedelta(hours=1)
UNDERUSED_BELOW_PCT: Final = 20
READINGS_ARE_FRESH_FOR: Final = timedelta(minutes=2)

# The latest readings say who may be idle at all; only their samples are read, each once, also if stored twice.
UNDERUSED: Final = """
    WITH suspect AS MATERIALIZED (
        SELECT allocation.job_id, allocation.tenant_id, allocation.gpu_id, gpu.node_id, gpu.model,
               greatest(lower(allocation.during), %(since)s) AS since
          FROM jobs_allocation AS allocation
          JOIN clusters_latestreading AS latest USING (gpu_id)
          JOIN clusters_gpu AS gpu ON gpu.id = allocation.gpu_id
         WHERE upper_inf(allocation.during)
           AND lower(allocation.during) < %(now)s
           AND latest.recorded_at > %(fresh)s
           AND latest.utilization_pct < %(below)s
    )
    SELECT job_id, tenant_id, model, sum((extract(epoch FROM %(now)s - since) * 1000000)::bigint)::bigint
      FROM suspect
     CROSS JOIN LATERAL (
           SELECT avg(utilization_pct) AS busy
             FROM (SELECT DISTINCT ON (frame.recorded_at) reading.utilization / 1000.0 AS utilization_pct
                     FROM clusters_metricframe AS frame
                    CROSS JOIN LATERAL unnest(frame.gpu_ids, frame.utilization) AS reading (gpu_id, utilization)
                    WHERE frame.node_id = suspect.node_id AND reading.gpu_id = suspect.gpu_id
                      AND frame.recorded_at >= suspect.since AND frame.recorded_at <= %(now)s
                    ORDER BY frame.recorded_at, reading.utilization) AS once
           ) AS average
     WHERE busy < %(below)s
     GROUP BY job_id, tenant_id, model
"""


def underused(prices: Mapping[str, int], *, below_pct: int, now: datetime) -> Bucket:
    """The GPU-time of the last hour, by job, of GPUs that a job holds now and used less than ``below_pct`` on average.

    Valued at ``prices``, those in force now, in millionths by GPU model. A GPU that does not report, or had not while
    it was held, is not judged. One query.
    """
    parameters: dict[str, Any] = {
        "now": now,
        "since": now - WATCHED_FOR,
        "fresh": now - READINGS_ARE_FRESH_FOR,
        "below": below_pct,
    }
    with connection.cursor() as cursor:
        cursor.execute(UNDERUSED, parameters)
        rows = cursor.fetchall()
    bucket = Bucket()
    for job_id, tenant_id, model, microseconds in rows:
        about = Behind(job_id=job_id, tenant_id=tenant_id, gpu_model=model)
        bucket.add(about, microseconds, prices.get(model))
    return bucket
