"""The promises as queries, and a small world to try them in: for tests with real threads and processes."""

from django.db import connection

from clusters.models import GPU, Cluster
from clusters.tests.factories import make_cluster, make_gpu, make_node
from jobs.models import Job
from jobs.placement import Plan
from tenants.models import Tenant
from tenants.tests.factories import make_tenant

# Each gives the rows that break a promise; all of them are empty at every instant, whoever is killed when.
BREACHES = {
    "a GPU is held twice": """
        SELECT a.gpu_id FROM jobs_allocation a JOIN jobs_allocation b
            ON a.gpu_id = b.gpu_id AND a.id < b.id AND a.during && b.during""",
    "a tenant is over its quota": """
        SELECT t.id FROM tenants_tenant t JOIN jobs_allocation a ON a.tenant_id = t.id AND upper_inf(a.during)
        GROUP BY t.id HAVING count(*) > t.gpu_quota""",
    "a running job holds not what it asked for, or another job holds something": """
        SELECT j.id FROM jobs_job j LEFT JOIN jobs_allocation a ON a.job_id = j.id AND upper_inf(a.during)
        GROUP BY j.id HAVING count(a.id) <> CASE WHEN j.status = 'running' THEN j.gpu_count ELSE 0 END""",
    "a waiting job has not one open reason, or another job has one": """
        SELECT j.id FROM jobs_job j LEFT JOIN jobs_waitperiod w ON w.job_id = j.id AND upper_inf(w.during)
        GROUP BY j.id HAVING count(w.id) <> CASE WHEN j.status IN ('queued', 'blocked') THEN 1 ELSE 0 END""",
    "a job that has started, and was not requeued since, has not one start more on record than requeues": """
        SELECT j.id FROM jobs_job j LEFT JOIN jobs_jobevent e ON e.job_id = j.id
        GROUP BY j.id HAVING count(e.id) FILTER (WHERE e.to_status = 'running' AND e.from_status <> 'running')
             <> count(e.id) FILTER (WHERE e.from_status = 'running' AND e.to_status = 'queued')
              + CASE WHEN j.started_at IS NULL THEN 0 ELSE 1 END""",
}


def breaches() -> list[str]:
    """The promises that are broken now, with the rows that break them, read in one statement."""
    queries = [f"SELECT {index}, id FROM ({query}) AS b (id)" for index, query in enumerate(BREACHES.values())]
    with connection.cursor() as cursor:
        cursor.execute(" UNION ALL ".join(queries))
        names = list(BREACHES)
        return [f"{names[index]}: {row_id}" for index, row_id in cursor.fetchall()]


def build(*, nodes: int = 2, gpus_per_node: int = 8, quotas: tuple[int, ...] = (6, 8)) -> tuple[Cluster, list[Tenant]]:
    """A cluster of H100 nodes that preempts at once, and tenants whose quotas together are less than it has."""
    cluster = make_cluster(preemption=True, preemption_grace_s=0, preemption_min_run_s=0)
    for _ in range(nodes):
        node = make_node(cluster)
        for _ in range(gpus_per_node):
            make_gpu(node)
    tenants = [make_tenant(f"tenant-{number}", gpu_quota=quota) for number, quota in enumerate(quotas)]
    return cluster, tenants


def leaked_gpus() -> int:
    """GPUs that are held although every job has ended."""
    alive = Job.objects.filter(ended_at__isnull=True).exists()
    return 0 if alive else GPU.objects.filter(allocations__during__upper_inf=True).count()


def decided(result: Plan) -> object:
    """All that a plan says."""
    return (
        result.starts,
        result.reservations,
        result.preemptions,
        sorted(result.spared),
        result.unclaimed,
        result.reasons,
        result.exceptions,
        result.waiting(),
        result.waiting_count,
    )
