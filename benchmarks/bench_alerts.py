"""1,000 rules over 10,000 GPUs, evaluated as the beat does.

    make bench-alerts

It fills an empty database of its own: 10,000 GPUs in 1,250 nodes, 5,000 running jobs of 50 tenants, and rules of every
type over the fleet, its clusters, tenants and models. Between two runs every reading changes; one GPU in 500 stays in
trouble, and one in 2,500 comes into it and out again. The last line is JSON: ``median_s`` is the median evaluation,
``open_incidents`` how many incidents it carries along.
"""

import argparse
import json
import os
import random
import statistics
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gpufleet.settings")
django.setup()

from django.core.management import call_command  # noqa: E402  (Django must be set up before its apps are imported)
from django.db import connection  # noqa: E402

from alerts.models import AlertEvent, AlertRule, Channel  # noqa: E402
from alerts.services import evaluate_rules  # noqa: E402
from alerts.types import TYPES  # noqa: E402
from apikeys.models import ApiKey, KeyKind  # noqa: E402
from billing.models import Rate  # noqa: E402
from clusters.models import GPU, Cluster, LatestReading, Node  # noqa: E402
from jobs.models import Allocation, Job, SchedulerCycle  # noqa: E402
from tenants.models import Tenant  # noqa: E402

NOW = datetime(2026, 11, 23, 15, 30, tzinfo=UTC)
CLUSTERS, MODELS, TENANTS, GPUS_A_NODE = 10, 4, 50, 8
REPEATS = 11
BEAT = timedelta(seconds=30)
# What is unusual for each type, so that a few of a hundred subjects are in trouble.
THRESHOLDS = {
    "utilization_low": 3.0,
    "quota_breach": 95.0,
    "health_degraded": 5.0,
    "node_silent": 60.0,
    "gpu_temperature": 92.0,
    "queue_stalled": 15.0,
    "job_overrun": 150.0,
    "leakage_rate": 100.0,
    "unpriced_gpu": 1.0,
    "invoice_sync_failed": 60.0,
    "scheduler_late": 120.0,
}
READ = """
    UPDATE clusters_latestreading
       SET recorded_at = %(now)s,
           utilization_pct = CASE WHEN gpu_id %% 500 = 0 OR gpu_id %% 2500 = %(turn)s THEN random()
                                  ELSE 10 + 90 * random() END,
           temperature_c = CASE WHEN gpu_id %% 500 = 1 OR gpu_id %% 2500 = %(turn)s THEN 95 ELSE 40 + 45 * random() END
"""


def fill(gpus: int) -> None:
    """A fleet that is half sold."""
    tenants = Tenant.objects.bulk_create(
        Tenant(name=f"tenant-{n}", gpu_quota=200, created_at=NOW) for n in range(TENANTS)
    )
    clusters = []
    for number in range(CLUSTERS):
        key = ApiKey.objects.create(
            label="bench", kind=KeyKind.CLUSTER, digest=f"{number:064d}", permissions=["write"], created_at=NOW
        )
        clusters.append(Cluster.objects.create(name=f"cluster-{number}", key=key, created_at=NOW))
    nodes = Node.objects.bulk_create(
        Node(
            cluster=clusters[n % CLUSTERS],
            hostname=f"node-{n}",
            last_heartbeat_at=NOW,
            created_at=NOW,
            silent=n % 400 == 0,
        )
        for n in range(gpus // GPUS_A_NODE)
    )
    devices = GPU.objects.bulk_create(
        GPU(
            node=nodes[n // GPUS_A_NODE],
            gpu_index=n % GPUS_A_NODE,
            model=f"Model-{n // GPUS_A_NODE % MODELS}",
            state="available",
            registered_at=NOW,
        )
        for n in range(gpus)
    )
    LatestReading.objects.bulk_create(LatestReading(gpu=gpu, recorded_at=NOW) for gpu in devices)
    for number in range(MODELS):
        Rate.objects.create(
            gpu_model=f"Model-{number}",
            price_per_gpu_hour=Decimal(2),
            valid_from=NOW,
            recorded_at=NOW,
            recorded_by="bench",
        )
    began = NOW - timedelta(hours=1)
    jobs = Job.objects.bulk_create(
        Job(
            cluster_id=gpu.node.cluster_id,
            tenant=tenants[n % TENANTS],
            name=f"job-{n}",
            status="running",
            submitted_at=began,
            started_at=began,
            estimated_duration_min=50 + n % 400,
        )
        for n, gpu in enumerate(devices[: gpus // 2])
    )
    Allocation.objects.bulk_create(
        Allocation(job=job, gpu=gpu, tenant_id=job.tenant_id, during=(began, None))
        for job, gpu in zip(jobs, devices, strict=False)
    )
    SchedulerCycle.objects.create(finished_at=NOW, duration_ms=1)


def add_rules(count: int) -> None:
    """Rules of every type in turn, over every scope that the type has."""
    AlertRule.objects.all().delete()
    Channel.objects.create(name="ops", kind="email", target="ops@example.com", min_severity="critical", created_at=NOW)
    clusters = list(Cluster.objects.order_by("pk"))
    tenants = list(Tenant.objects.order_by("pk"))
    rules = []
    for number in range(count):
        kind = list(TYPES.values())[number % len(TYPES)]
        turn = number // len(TYPES)
        rule = AlertRule(name=f"rule-{number}", type=kind.code, threshold=THRESHOLDS[kind.code], created_at=NOW)
        scope = [*sorted(kind.scopes), ""][turn % (len(kind.scopes) + 1)]
        if scope == "cluster":
            rule.cluster = clusters[turn % CLUSTERS]
        elif scope == "tenant":
            rule.tenant = tenants[turn % TENANTS]
        elif scope == "gpu_model":
            rule.gpu_model = f"Model-{turn % MODELS}"
        rules.append(rule)
    AlertRule.objects.bulk_create(rules)


def main() -> None:
    """Fill, evaluate again and again, tell the median."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, default=10_000)
    parser.add_argument("--rules", type=int, default=1_000)
    options = parser.parse_args()
    random.seed(6)
    call_command("migrate", verbosity=0)
    fill(options.gpus)
    add_rules(options.rules)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    runs = []
    for turn in range(REPEATS + 1):
        now = NOW + turn * BEAT
        with connection.cursor() as cursor:
            cursor.execute(READ, {"now": now, "turn": turn})
        began = time.perf_counter()
        evaluate_rules(now=now)
        runs.append(time.perf_counter() - began)
    print("first:", f"{runs[0]:.2f} s; then:", " ".join(f"{seconds:.2f}" for seconds in runs[1:]))
    result = {
        "gpus": options.gpus,
        "rules": options.rules,
        "open_incidents": AlertEvent.objects.exclude(status="resolved").count(),
        "first_s": round(runs[0], 3),
        "median_s": round(statistics.median(runs[1:]), 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
