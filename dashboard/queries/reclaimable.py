"""Sold time that its holder hardly uses: not lost, since it is paid for, but somebody else could have it."""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import connection

from clusters.queries import used_below
from dashboard.queries.losses import Behind, Bucket

# Whatever the window: what can be reclaimed is what is held now.
WATCHED_FOR: Final = timedelta(hours=1)
UNDERUSED_BELOW_PCT: Final = 20
READINGS_ARE_FRESH_FOR: Final = timedelta(minutes=2)

# The latest readings say who may be idle at all; only their samples are read.
SUSPECTS: Final = """
    SELECT allocation.job_id, allocation.tenant_id, gpu.model, allocation.gpu_id, gpu.node_id,
           greatest(lower(allocation.during), %(since)s) AS since
      FROM jobs_allocation AS allocation
      JOIN clusters_latestreading AS latest USING (gpu_id)
      JOIN clusters_gpu AS gpu ON gpu.id = allocation.gpu_id
     WHERE upper_inf(allocation.during)
       AND lower(allocation.during) < %(now)s
       AND latest.recorded_at > %(fresh)s
       AND latest.utilization_pct < %(below)s
"""


def underused(prices: Mapping[str, int], *, below_pct: int, now: datetime) -> Bucket:
    """The GPU-time of the last hour, by job, of GPUs that a job holds now and used less than ``below_pct`` on average.

    Valued at ``prices``, those in force now, in millionths by GPU model. A GPU that does not report, or had not while
    it was held, is not judged. One query of the main database, and one of the samples'.
    """
    parameters: dict[str, Any] = {
        "now": now,
        "since": now - WATCHED_FOR,
        "fresh": now - READINGS_ARE_FRESH_FOR,
        "below": below_pct,
    }
    with connection.cursor() as cursor:
        cursor.execute(SUSPECTS, parameters)
        suspects = cursor.fetchall()
    idle = used_below(below_pct, [suspect[3:] for suspect in suspects], until=now)
    spent: Counter[tuple[int, int, str]] = Counter()
    for job_id, tenant_id, model, gpu_id, _, since in suspects:
        if gpu_id in idle:
            spent[job_id, tenant_id, model] += (now - since) // timedelta(microseconds=1)
    bucket = Bucket()
    for (job_id, tenant_id, model), microseconds in spent.items():
        about = Behind(job_id=job_id, tenant_id=tenant_id, gpu_model=model)
        bucket.add(about, microseconds, prices.get(model))
    return bucket
