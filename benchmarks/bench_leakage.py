"""The leakage report of 90 days over 10,000 GPUs and 1 million allocations, raw and from the daily rollup.

    make bench-leakage

It fills an empty database of its own, rolls the days up as the beat does, and times the very query of the API. The last
line is JSON: ``report_90d_s`` is the median report after the rollup, ``raw_equals_rollup`` whether the report says
exactly the same without it.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gpufleet.settings")
django.setup()

from django.core.management import call_command  # noqa: E402  (Django must be set up before its apps are imported)
from django.db import connection  # noqa: E402

from apikeys.models import ApiKey, KeyKind  # noqa: E402
from billing.models import Rate  # noqa: E402
from billing.queries import list_price_changes  # noqa: E402
from clusters.models import Cluster, Node  # noqa: E402
from dashboard.queries import leakage  # noqa: E402
from jobs.ledger.rollups import roll_up  # noqa: E402
from jobs.models import Allocation  # noqa: E402
from tenants.models import Tenant  # noqa: E402

NOW = datetime(2026, 11, 23, 15, 30, tzinfo=UTC)
DAYS = 90
BEGAN = NOW - timedelta(days=DAYS + 10)
CLUSTERS, MODELS, TENANTS, GPUS_A_NODE = 4, 4, 50, 8

# A job holds the eight GPUs of its node for the first part of a cycle, and there are 100 cycles in 90 days.
CYCLE = timedelta(days=DAYS) / 100
CYCLES = (NOW - BEGAN) // CYCLE - 1
REPEATS = 7

ALLOCATIONS = """
    INSERT INTO jobs_allocation (job_id, gpu_id, tenant_id, during, rate_id, price_per_gpu_hour, currency)
    SELECT job.id, gpu.id, job.tenant_id, tstzrange(job.started_at, job.ended_at), rate.id, rate.price_per_gpu_hour,
           rate.currency
      FROM jobs_job AS job
      JOIN clusters_gpu AS gpu ON gpu.node_id = (job.env ->> 'node')::bigint
      JOIN billing_rate AS rate ON rate.id = (SELECT max(id) FROM billing_rate AS list
           WHERE list.gpu_model = gpu.model AND list.valid_from <= job.started_at
             AND (list.tenant_id = job.tenant_id OR list.tenant_id IS NULL))
     WHERE job.started_at IS NOT NULL
"""
GPUS = """
    INSERT INTO clusters_gpu (node_id, gpu_index, model, uuid, pci_bus_id, health, health_cause, health_reason, state,
                              registered_at)
    SELECT node.id, slot, 'Model-' || 1 + node.id / %(clusters)s %% %(models)s, '', '', 'healthy', '', '', 'available',
           %(began)s
      FROM clusters_node AS node CROSS JOIN generate_series(0, 7) AS slot
"""
JOBS = """
    INSERT INTO jobs_job (cluster_id, tenant_id, name, gpu_count, gpu_type, priority, status, block_reason,
                          submitted_by, image, env, submitted_at, started_at, ended_at)
    SELECT node.cluster_id, nullif(1 + (random() * %(tenants)s)::int, %(tenants)s + 1), 'job', 8, '', 5, 'completed',
           '', '', '', jsonb_build_object('node', node.id), at - interval '5 minutes', at,
           at + %(cycle)s * (0.5 + 0.45 * random())
      FROM clusters_node AS node
     CROSS JOIN generate_series(0, %(cycles)s - 1) AS number
     CROSS JOIN LATERAL (
           SELECT %(began)s + %(cycle)s * (number + node.id * 37 %% 100 / 100.0 + 0.05 * random()) AS at) AS start
"""
# Two days in a hundred a node is in some other state.
STATES = """
    INSERT INTO clusters_gpustateperiod (gpu_id, state, reason, during)
    SELECT gpu.id, CASE WHEN number %% 2 = 0 THEN 'available'
                        ELSE (ARRAY['unhealthy', 'offline', 'draining', 'maintenance'])[1 + (random() * 3)::int] END,
           '', tstzrange(%(began)s + interval '1 day' * (number / 2 * 25 + 24.5 * (number %% 2)),
                         %(began)s + interval '1 day' * ((number + 1) / 2 * 25 + 24.5 * ((number + 1) %% 2)))
      FROM clusters_gpu AS gpu CROSS JOIN generate_series(0, 7) AS number
"""
WAITS = """
    WITH waiter AS (
        INSERT INTO jobs_job (cluster_id, tenant_id, name, gpu_count, gpu_type, priority, status, block_reason,
                              submitted_by, image, env, submitted_at, ended_at)
        SELECT 1 + (random() * (%(clusters)s - 1))::int, 1, 'waiter', 64,
               (ARRAY['', 'Model-1', 'Model-2', 'Model-3|Model-4'])[1 + (random() * 3)::int], 5, 'cancelled', '', '',
               '', '{}', at, at + interval '1 hour'
          FROM generate_series(1, %(waiters)s) AS number
         CROSS JOIN LATERAL (
               SELECT %(began)s + random() * (%(now)s - %(began)s) + number * interval '0 s' AS at) AS start
        RETURNING id, submitted_at)
    INSERT INTO jobs_waitperiod (job_id, code, figures, during)
    SELECT id, (ARRAY['scheduler', 'quota', 'fragmented', 'capacity', 'held'])[1 + (random() * 4)::int], '{}',
           tstzrange(submitted_at + interval '2 minutes' * number, submitted_at + interval '2 minutes' * (number + 1))
      FROM waiter CROSS JOIN generate_series(0, 1) AS number
"""


def fill(gpus: int) -> None:
    """A fleet with 100 days of history. The same one each time."""
    Tenant.objects.bulk_create(Tenant(name=f"tenant-{n}", gpu_quota=1000, created_at=BEGAN) for n in range(TENANTS))
    clusters = []
    for number in range(CLUSTERS):
        key = ApiKey.objects.create(
            label="bench", kind=KeyKind.CLUSTER, digest=f"{number:064d}", permissions=["write"], created_at=BEGAN
        )
        clusters.append(Cluster.objects.create(name=f"cluster-{number}", key=key, created_at=BEGAN))
    Node.objects.bulk_create(
        Node(cluster=clusters[n % CLUSTERS], hostname=f"node-{n}", last_heartbeat_at=NOW, created_at=BEGAN)
        for n in range(gpus // GPUS_A_NODE)
    )
    for number in range(MODELS):
        model = f"Model-{number + 1}"
        add_rate(model, Decimal(number + 1), BEGAN)
        add_rate(model, Decimal(number + 1) * Decimal("1.1"), NOW - timedelta(days=40, hours=3))
        add_rate(model, Decimal(number + 1) * Decimal("0.8"), BEGAN, tenant_id=Tenant.objects.order_by("pk")[number].pk)
    figures: dict[str, Any] = {
        "began": BEGAN,
        "now": NOW,
        "cycle": CYCLE,
        "cycles": CYCLES,
        "tenants": TENANTS,
        "clusters": CLUSTERS,
        "models": MODELS,
        "waiters": 20 * gpus,
    }
    with connection.cursor() as cursor:
        cursor.execute("SELECT setseed(0.42)")
        for statement in (GPUS, STATES, JOBS, ALLOCATIONS, WAITS, "ANALYZE"):
            cursor.execute(statement, None if statement == "ANALYZE" else figures)


def add_rate(model: str, price: Decimal, valid_from: datetime, tenant_id: int | None = None) -> None:
    """A list price, or a tenant's own."""
    Rate.objects.create(
        gpu_model=model,
        price_per_gpu_hour=price,
        tenant_id=tenant_id,
        valid_from=valid_from,
        recorded_at=valid_from,
        recorded_by="bench",
    )


def timed(what: Callable[[], Any]) -> tuple[float, Any]:
    """How long a call takes in seconds, and its answer."""
    began = time.perf_counter()
    answer = what()
    return time.perf_counter() - began, answer


def report() -> dict[str, Any]:
    """The report of the API, as plain values."""
    return asdict(leakage("USD", start=NOW - timedelta(days=DAYS), end=NOW))


def main() -> None:
    """Fill, measure raw, roll up, measure again, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, default=10_000)
    options = parser.parse_args()
    call_command("migrate", verbosity=0)
    seconds, _ = timed(lambda: fill(options.gpus))
    print(f"filled in {seconds:.0f} s")
    raw_s, raw = timed(report)
    print(f"raw report: {raw_s:.1f} s")
    seconds, days = timed(lambda: roll_up(now=NOW, cuts=list_price_changes()))
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    print(f"rolled up {days} days in {seconds:.0f} s, {1000 * seconds / days:.0f} ms a day")
    runs = [timed(report) for _ in range(REPEATS)]
    print("reports after the rollup:", " ".join(f"{seconds:.2f} s" for seconds, _ in runs))
    result = {
        "gpus": options.gpus,
        "allocations": Allocation.objects.filter(during__overlap=(NOW - timedelta(days=DAYS), NOW)).count(),
        "report_90d_s": round(statistics.median(seconds for seconds, _ in runs), 3),
        "raw_90d_s": round(raw_s, 1),
        "rollup_s_per_day": round(seconds / days, 3),
        "raw_equals_rollup": all(rolled == raw for _, rolled in runs),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
