"""A large fleet with a history, made set by set: to see how the console does at scale."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from django.db import connection, transaction

from apikeys.models import ApiKey, KeyKind
from billing.models import Rate
from billing.services import create_invoices, preview_invoices
from clusters.models import Cluster, Node
from dashboard.demo.seeding import is_empty
from gpufleet.common.locks import lock_name
from tenants.models import Tenant

DAYS: Final = 90
CLUSTERS, MODELS, TENANTS, GPUS_A_NODE = 4, 4, 50, 8
WAITING_SHARE: Final = 0.02
INVOICED: Final = 10
# No agent beats or measures here: it is as if all had done so ahead, lest they fall silent while they are looked at.
QUIET_FOR: Final = timedelta(days=1)

GPUS = """
    INSERT INTO clusters_gpu (node_id, gpu_index, model, uuid, pci_bus_id, health, health_cause, health_reason, state,
                              registered_at)
    SELECT node.id, slot, 'Model-' || 1 + node.id / %(clusters)s %% %(models)s, '', '', sick.health, sick.cause, '',
           CASE sick.health WHEN 'healthy' THEN 'available' ELSE 'unhealthy' END, %(began)s
      FROM clusters_node AS node CROSS JOIN generate_series(0, 7) AS slot
     CROSS JOIN LATERAL (SELECT * FROM (VALUES (true, 'unhealthy', 'operator'), (false, 'healthy', ''))
           AS one (is_sick, health, cause) WHERE is_sick = (node.id %% 50 = 0 AND slot = 0)) AS sick
"""
# The last day but one in ten a node is draining for six hours; what is sick is so since yesterday.
STATES = """
    INSERT INTO clusters_gpustateperiod (gpu_id, state, reason, during)
    SELECT gpu.id, part.state, '', part.during
      FROM clusters_gpu AS gpu
     CROSS JOIN LATERAL (
           SELECT 'available' AS state, tstzrange(%(began)s, %(now)s - interval '3 days') AS during
            UNION ALL SELECT CASE WHEN gpu.node_id %% 10 = 0 THEN 'draining' ELSE 'maintenance' END,
                   tstzrange(%(now)s - interval '3 days', %(now)s - interval '66 hours')
            UNION ALL SELECT 'available', tstzrange(%(now)s - interval '66 hours', %(now)s - interval '1 day')
            UNION ALL SELECT gpu.state, tstzrange(%(now)s - interval '1 day', NULL)) AS part
"""
# Each job holds a node for most of its turn, and the last turn of most nodes is not over.
JOBS = """
    INSERT INTO jobs_job (cluster_id, tenant_id, name, gpu_count, gpu_type, priority, status, block_reason,
                          submitted_by, image, env, submitted_at, started_at, ended_at)
    SELECT node.cluster_id, 1 + (random() * (%(tenants)s - 1))::int + %(first_tenant)s,
           'job-' || node.id || '-' || number, 8, '', 1 + (random() * 9)::int,
           CASE WHEN ends.at IS NULL THEN 'running' ELSE 'completed' END, '', 'seed', '',
           jsonb_build_object('node', node.id::text), start.at - interval '5 minutes' * random(), start.at, ends.at
      FROM clusters_node AS node
     CROSS JOIN generate_series(0, %(turns)s - 1) AS number
     CROSS JOIN LATERAL (SELECT %(began)s + %(turn)s * (number + 0.05 * random()) AS at) AS start
     CROSS JOIN LATERAL (SELECT CASE WHEN number < %(turns)s - 1 OR node.id %% 5 = 0
           THEN start.at + %(turn)s * (0.4 + 0.5 * random()) END AS at) AS ends
"""
ALLOCATIONS = """
    INSERT INTO jobs_allocation (job_id, gpu_id, tenant_id, during, rate_id, price_per_gpu_hour, currency)
    SELECT job.id, gpu.id, job.tenant_id, tstzrange(job.started_at, job.ended_at), rate.id, rate.price_per_gpu_hour,
           rate.currency
      FROM jobs_job AS job
      JOIN clusters_gpu AS gpu ON gpu.node_id = (job.env ->> 'node')::bigint
      JOIN billing_rate AS rate ON rate.gpu_model = gpu.model
"""
EVENTS = """
    INSERT INTO jobs_jobevent (job_id, at, from_status, to_status, actor, reason)
    SELECT job.id, event.at, event.was, event.became, event.actor, ''
      FROM jobs_job AS job
     CROSS JOIN LATERAL (VALUES (job.submitted_at, '', 'queued', 'user:seed'),
           (job.started_at, 'queued', 'running', 'scheduler'), (job.ended_at, 'running', 'completed', 'user:seed'))
           AS event (at, was, became, actor)
     WHERE event.at IS NOT NULL
"""
WAITS = """
    INSERT INTO jobs_waitperiod (job_id, code, figures, during)
    SELECT id, (ARRAY['scheduler', 'quota', 'fragmented', 'capacity'])[1 + id %% 4], '{}',
           tstzrange(submitted_at, started_at)
      FROM jobs_job WHERE started_at > submitted_at
"""
QUEUE = """
    WITH waiter AS (
        INSERT INTO jobs_job (cluster_id, tenant_id, name, gpu_count, gpu_type, priority, status, block_reason,
                              submitted_by, image, env, submitted_at)
        SELECT %(first_cluster)s + 1 + number %% %(clusters)s, 1 + number %% %(tenants)s + %(first_tenant)s,
               'waits-' || number, 16, 'Model-' || 1 + number %% %(models)s, 1 + number %% 10, 'queued',
               '', 'seed', '', '{}', %(now)s - interval '1 second' * number
          FROM generate_series(1, %(waiting)s) AS number
        RETURNING id, submitted_at, cluster_id, tenant_id, gpu_type),
    told AS (
        INSERT INTO jobs_kindwait (cluster_id, tenant_id, gpu_type, gpu_count, code, figures, sentence, during)
        SELECT cluster_id, tenant_id, gpu_type, 16, 'capacity', '{}', 'Needs 16 GPUs; none are free.',
               tstzrange(min(submitted_at), NULL)
          FROM waiter GROUP BY cluster_id, tenant_id, gpu_type)
    INSERT INTO jobs_waitperiod (job_id, code, figures, during)
    SELECT id, 'kind', '{}', tstzrange(submitted_at, NULL) FROM waiter
"""
READINGS = """
    INSERT INTO clusters_latestreading (gpu_id, recorded_at, utilization_pct, memory_used_mb, memory_total_mb,
                                        temperature_c, power_draw_w)
    SELECT id, %(now)s + %(quiet_for)s, 100 * random(), 40000, 81920, 40 + 30 * random(), 300 FROM clusters_gpu
"""


@transaction.atomic
def seed_large(*, gpus: int, jobs: int, now: datetime) -> bool:
    """Make the fleet and 90 days of its history, ending at ``now``; False where the house isn't empty."""
    lock_name("demo")
    if not is_empty():
        return False
    began = now - timedelta(days=DAYS)
    _make_names(gpus // GPUS_A_NODE, began, now)
    waiting = int(jobs * WAITING_SHARE)
    turns = max(1, (jobs - waiting) // (gpus // GPUS_A_NODE))
    figures: dict[str, Any] = {
        "began": began,
        "now": now,
        "turns": turns,
        "turn": timedelta(days=DAYS) / turns,
        "waiting": waiting,
        "quiet_for": QUIET_FOR,
        "tenants": TENANTS,
        "clusters": CLUSTERS,
        "models": MODELS,
        "first_tenant": _least(Tenant) - 1,
        "first_cluster": _least(Cluster) - 1,
    }
    with connection.cursor() as cursor:
        cursor.execute("SELECT setseed(0.42)")
        for statement in (GPUS, STATES, JOBS, ALLOCATIONS, EVENTS, WAITS, QUEUE, READINGS):
            cursor.execute(statement, figures)
        cursor.execute("ANALYZE")
    _make_invoices(began, now)
    return True


def _make_names(nodes: int, began: datetime, now: datetime) -> None:
    Tenant.objects.bulk_create(Tenant(name=f"tenant-{n}", gpu_quota=1000, created_at=began) for n in range(TENANTS))
    clusters = []
    for number in range(CLUSTERS):
        key = ApiKey.objects.create(
            label="seed", kind=KeyKind.CLUSTER, digest=f"{number:064d}", permissions=["write"], created_at=began
        )
        clusters.append(Cluster.objects.create(name=f"cluster-{number}", key=key, created_at=began))
    Node.objects.bulk_create(
        Node(
            cluster=clusters[n % CLUSTERS],
            hostname=f"node-{n:05}",
            total_gpus=GPUS_A_NODE,
            last_heartbeat_at=now + QUIET_FOR,
            created_at=began,
        )
        for n in range(nodes)
    )
    for number in range(MODELS):
        terms = {"valid_from": began, "recorded_at": began, "recorded_by": "seed"}
        Rate.objects.create(gpu_model=f"Model-{number + 1}", price_per_gpu_hour=Decimal(number + 1), **terms)


def _make_invoices(began: datetime, now: datetime) -> None:
    tenants = list(Tenant.objects.order_by("pk")[:INVOICED])
    end = began + timedelta(days=30)
    previews = preview_invoices(tenants, start=began, end=end, now=now)
    totals = {preview.tenant.pk: preview.total for preview in previews if preview.lines}
    create_invoices(expected_totals=totals, start=began, end=end, created_by="seed", now=now)


def _least(model: type[Tenant] | type[Cluster]) -> int:
    return int(model._default_manager.order_by("pk").values_list("pk", flat=True)[0])
