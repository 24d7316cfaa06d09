"""The world as the planner sees it, in a fixed number of queries."""

from collections import defaultdict
from collections.abc import Collection
from datetime import datetime

from django.db.backends.postgresql.psycopg_any import DateTimeTZRange
from django.db.models import Count, Min, Q
from django.db.models.functions import Lower

from clusters.models import GPU, Cluster, ClusterStatus, GPUState
from jobs.models import Allocation, Job, JobStatus
from jobs.placement import NodeView, RunningJob, Snapshot, TenantView, WaitingJob
from tenants.models import Tenant, TenantStatus


def take_snapshot(now: datetime, *, without: Collection[int] = ()) -> Snapshot:
    """The world at ``now``, ``without`` these jobs."""
    jobs = _waiting_jobs(now, without)
    largest_node, gpu_total = _hardware()
    return Snapshot(
        jobs=jobs,
        nodes=_free_nodes(now) if jobs else [],
        tenants=_tenants(),
        largest_node=largest_node,
        closed_clusters=frozenset(
            Cluster.objects.exclude(status=ClusterStatus.ACTIVE, decommissioned_at__isnull=True).values_list(
                "pk", flat=True
            )
        ),
        unassigned_held=Allocation.objects.filter(tenant__isnull=True, during__upper_inf=True).count(),
        gpu_total=gpu_total,
        running=_running_jobs() if jobs else [],
    )


def _waiting_jobs(now: datetime, without: Collection[int]) -> list[WaitingJob]:
    queue = Job.objects.filter(status=JobStatus.QUEUED, submitted_at__lte=now).exclude(pk__in=without).order_by()
    rows = queue.values_list(
        "pk",
        "cluster_id",
        "tenant_id",
        "gpu_count",
        "gpu_type",
        "priority",
        "submitted_at",
        "estimated_duration_min",
    )
    return [WaitingJob(*row) for row in rows]


def _free_nodes(now: datetime) -> list[NodeView]:
    """GPUs that are available, and that nobody holds now or has held after ``now``.

    The latter happens when a job ends between the reading of the clock and this query; such a GPU is left for the
    next cycle, since its new allocation would begin before the old one ended.
    """
    held = Allocation.objects.filter(during__overlap=DateTimeTZRange(now, None)).values("gpu_id")
    rows = (
        GPU.objects.filter(state=GPUState.AVAILABLE, retired_at__isnull=True, registered_at__lte=now)
        .exclude(pk__in=held)
        .order_by()
        .values_list("node_id", "node__cluster_id", "node__hostname", "model", "pk")
    )
    free: dict[tuple[int, int, str], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for node_id, cluster_id, hostname, model, gpu_id in rows:
        free[node_id, cluster_id, hostname][model].append(gpu_id)
    return [NodeView(*node, by_model) for node, by_model in free.items()]


def _running_jobs() -> list[RunningJob]:
    """What holds GPUs, with how many on each node that takes jobs again when it ends. A job holds one model."""
    rows = (
        Allocation.objects.filter(during__upper_inf=True)
        .order_by()
        .values_list(
            "job_id", "job__cluster_id", "tenant_id", "gpu__model", "job__estimated_duration_min", "gpu__node_id"
        )
        .annotate(
            since=Min(Lower("during")),
            back=Count("pk", filter=Q(gpu__state=GPUState.AVAILABLE, gpu__retired_at=None)),
            held=Count("pk"),
        )
    )
    nodes: dict[int, dict[int, int]] = defaultdict(dict)
    held: dict[int, int] = defaultdict(int)
    jobs: dict[int, RunningJob] = {}
    for job_id, cluster_id, tenant_id, model, minutes, node_id, since, back, count in rows:
        held[job_id] += count
        if back:
            nodes[job_id][node_id] = back
        jobs[job_id] = RunningJob(job_id, cluster_id, tenant_id, model, nodes[job_id], since, minutes, held[job_id])
    return list(jobs.values())


def _tenants() -> dict[int, TenantView]:
    held = Count("allocations", filter=Q(allocations__during__upper_inf=True))
    rows = Tenant.objects.order_by().annotate(held=held).values_list("pk", "gpu_quota", "held", "status")
    return {pk: TenantView(quota, held, status == TenantStatus.ACTIVE) for pk, quota, held, status in rows}


def _hardware() -> tuple[dict[tuple[int, str], int], int]:
    """The most GPUs of a model on one node, by cluster and model, and the number of all GPUs."""
    rows = (
        GPU.objects.filter(retired_at__isnull=True)
        .order_by()
        .values_list("node__cluster_id", "model", "node_id")
        .annotate(count=Count("pk"))
    )
    largest: dict[tuple[int, str], int] = defaultdict(int)
    total = 0
    for cluster_id, model, _, count in rows:
        largest[cluster_id, model] = max(largest[cluster_id, model], count)
        total += count
    return largest, total
