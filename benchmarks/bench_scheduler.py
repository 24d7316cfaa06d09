"""How long the scheduler's cycles take, committed, with events, reasons and ledger, and what submissions wait for them.

    make bench-scheduler [SCALE=0.1]

At each of three sizes it fills the database with a fleet of eight-GPU nodes in maintenance and a queue, and times: the
first cycle, which reads everything and tells every job for the first time why it waits (``first``); the next one, when
all GPUs are idle at once (``full``); the same where quota stops nearly all, so that nearly all have another reason than
before (``quota``); cycles in which 50 GPUs came free (``steady``); and one transaction per job as the contrast. Then,
with submissions going on beside it, a cycle that does all of this. The last line is JSON, in seconds: ``full_tick_s``,
``quota_tick_s``, ``steady_tick_s`` and ``first_tick_s`` at 10,000 GPUs and 100,000 jobs, ``huge_tick_s`` at 100,000
GPUs, ``submit_p99_s_during_tick`` and ``peak_rss_mb``. ``SCALE`` shrinks all of it.
"""

import argparse
import json
import os
import resource
import statistics
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gpufleet.settings")
django.setup()

from django.core.management import call_command  # noqa: E402  (Django must be set up before its apps are imported)
from django.db import connection  # noqa: E402

from apikeys.models import ApiKey, KeyKind  # noqa: E402
from clusters.models import Cluster  # noqa: E402
from jobs.models import Allocation, Job, JobEvent  # noqa: E402
from jobs.placement import plan  # noqa: E402
from jobs.scheduler import run_cycle  # noqa: E402
from jobs.scheduler.starting import start_jobs  # noqa: E402
from jobs.scheduler.world import World, take_snapshot  # noqa: E402
from jobs.services import change_status, doorbell, submit_job  # noqa: E402
from tenants.models import Tenant  # noqa: E402

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
CLUSTERS, TENANTS, GPUS_A_NODE = 4, 50, 8
FREED, STEADY_CYCLES, CONTRAST_JOBS = 50, 9, 300

TABLES = (
    "jobs_startestimate, jobs_jobevent, jobs_waitperiod, jobs_kindwait, jobs_allocation, jobs_job, "
    "jobs_schedulercycle, clusters_gpustateperiod, clusters_gpu, clusters_node, clusters_cluster, tenants_tenant, "
    "apikeys_apikey"
)
NODES = """
    INSERT INTO clusters_node (cluster_id, hostname, total_gpus, intent, intent_reason, silent, last_heartbeat_at,
                               created_at)
    SELECT (%(clusters)s::bigint[])[1 + number %% 4], 'node-' || number, 8, 'active', '', false, %(now)s, %(now)s
      FROM generate_series(1, %(nodes)s) AS number
"""
GPUS = """
    INSERT INTO clusters_gpu (node_id, gpu_index, model, uuid, pci_bus_id, health, health_cause, health_reason, state,
                              registered_at)
    SELECT id, slot, 'Model-' || cluster_id %% 4, '', '', 'healthy', '', '', 'available', %(now)s
      FROM clusters_node CROSS JOIN generate_series(0, 7) AS slot
"""
# A third of the jobs say how long they run. setseed makes it the same queue each time.
QUEUE = """
    SELECT setseed(0.5);
    INSERT INTO jobs_job (cluster_id, tenant_id, name, gpu_count, gpu_type, priority, status, block_reason,
                          submitted_by, image, env, submitted_at, estimated_duration_min)
    SELECT (%(clusters)s::bigint[])[1 + floor(random() * 4)::int],
           (%(tenants)s::bigint[])[1 + floor(random() * 50)::int], 'job',
           (ARRAY[1, 1, 1, 2, 2, 4, 8, 16])[1 + floor(random() * 8)::int], '', 1 + floor(random() * 10)::int,
           'queued', '', '', '', '{}', %(now)s - interval '1 ms' * (%(jobs)s - number),
           CASE WHEN number %% 3 = 0 THEN 60 END
      FROM generate_series(1, %(jobs)s) AS number;
    INSERT INTO jobs_waitperiod (job_id, code, figures, during)
    SELECT id, 'kind', '{}', tstzrange(submitted_at, NULL) FROM jobs_job;
    ANALYZE
"""


def fill(gpus: int, jobs: int, *, quota: int) -> None:
    """An idle fleet of four clusters and a queue of fifty tenants, and nothing else."""
    with connection.cursor() as cursor:
        cursor.execute(f"TRUNCATE {TABLES} RESTART IDENTITY CASCADE")
    tenants = [Tenant(name=f"tenant-{number}", gpu_quota=quota, created_at=NOON) for number in range(TENANTS)]
    Tenant.objects.bulk_create(tenants)
    clusters = []
    for number in range(CLUSTERS):
        key = ApiKey.objects.create(
            label="bench", kind=KeyKind.CLUSTER, digest=f"{number:064d}", permissions=["write"], created_at=NOON
        )
        clusters.append(Cluster.objects.create(name=f"cluster-{number}", key=key, created_at=NOON))
    parameters: dict[str, Any] = {
        "now": NOON,
        "jobs": jobs,
        "nodes": gpus // GPUS_A_NODE,
        "clusters": [cluster.pk for cluster in clusters],
        "tenants": [tenant.pk for tenant in tenants],
    }
    with connection.cursor() as cursor:
        for statement in (NODES, GPUS, QUEUE):
            cursor.execute(statement, parameters)


def timed_cycle(minutes: float, world: World | None = None) -> float:
    """One cycle so many minutes after noon, in seconds; without a world, all is read anew."""
    began = time.perf_counter()
    run_cycle(now=NOON + minutes * MINUTE, world=world)
    return time.perf_counter() - began


def all_at_once(gpus: int, jobs: int, *, quota: int) -> tuple[World, float, float]:
    """The first cycle, of a fleet in maintenance, and the next one, when all of it is idle; with what the process that
    ran both knows."""
    fill(gpus, jobs, quota=quota)
    world = World()
    _turn_all("maintenance")
    first = timed_cycle(0, world)
    _turn_all("available")
    return world, first, timed_cycle(0.5, world)


def _turn_all(state: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE clusters_gpu SET state = %s", [state])
        cursor.execute("VACUUM ANALYZE clusters_gpu")


def steady(world: World) -> float:
    """The median cycle in which 50 GPUs came free, of a process that ran the cycle before it too."""
    times = []
    for round_number in range(1, STEADY_CYCLES + 1):
        freed = 0
        for job in Job.objects.filter(status="running").order_by("gpu_count", "pk")[:FREED]:
            if freed < FREED:
                change_status(job_id=job.pk, status="completed", actor="bench", now=NOON + round_number * MINUTE)
                freed += job.gpu_count
        times.append(timed_cycle(round_number + 0.5, world))
    return statistics.median(times)


def one_transaction_per_job() -> float:
    """Jobs started per second when each is written by itself, as the contrast."""
    starts = plan(take_snapshot(NOON), NOON).starts[:CONTRAST_JOBS]
    began = time.perf_counter()
    for start in starts:
        start_jobs([start], NOON)
    return len(starts) / (time.perf_counter() - began)


def submissions_during_a_cycle() -> float:
    """The 99th percentile of submissions, each timed from its call to its commit, while a full cycle runs."""
    done, times = threading.Event(), []

    def submit() -> None:
        cluster_id, tenant_id = Cluster.objects.values_list("pk", flat=True)[0], Tenant.objects.earliest("pk").pk
        while not done.is_set():
            began = time.perf_counter()
            submit_job(cluster_id=cluster_id, tenant_id=tenant_id, name="job", actor="bench", now=NOON + MINUTE)
            times.append(time.perf_counter() - began)
        connection.close()

    thread = threading.Thread(target=submit)
    thread.start()
    timed_cycle(0.5)
    done.set()
    thread.join()
    return statistics.quantiles(times, n=100)[98] if len(times) > 1 else 0.0


def measure(gpus: int, jobs: int) -> dict[str, float]:
    """All figures of one size, in seconds."""
    fill(gpus, jobs, quota=gpus)
    figures = {"contrast_jobs_per_s": one_transaction_per_job()}
    world, figures["first_tick_s"], figures["full_tick_s"] = all_at_once(gpus, jobs, quota=gpus)
    figures["started"] = float(JobEvent.objects.count())
    figures["gpus_given"] = float(Allocation.objects.count())
    figures["steady_tick_s"] = steady(world)
    _, _, figures["quota_tick_s"] = all_at_once(gpus, jobs, quota=max(16, gpus // 400))
    print(f"{gpus} GPUs, {jobs} jobs:", {name: round(value, 4) for name, value in figures.items()}, flush=True)
    return figures


def main() -> None:
    """Measure all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0)
    scale = parser.parse_args().scale
    call_command("migrate", verbosity=0)
    with doorbell.stand_in(lambda: None):
        print(json.dumps(measure_all(scale)))


def measure_all(scale: float) -> dict[str, float]:
    """Three sizes, the largest fleet, and submissions beside a cycle; the figures of the largest queue."""
    for share in (0.1, 0.3):
        measure(int(10_000 * share * scale), int(100_000 * share * scale))
    figures = measure(int(10_000 * scale), int(100_000 * scale))
    _, _, huge = all_at_once(int(100_000 * scale), int(100_000 * scale), quota=int(100_000 * scale))
    fill(int(10_000 * scale), int(100_000 * scale), quota=int(10_000 * scale))
    return {
        **{name: round(figures[name], 4) for name in ("full_tick_s", "quota_tick_s", "steady_tick_s", "first_tick_s")},
        "huge_tick_s": round(huge, 3),
        "submit_p99_s_during_tick": round(submissions_during_a_cycle(), 4),
        "contrast_jobs_per_s": round(figures["contrast_jobs_per_s"]),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


if __name__ == "__main__":
    main()
