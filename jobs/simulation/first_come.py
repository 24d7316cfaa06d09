"""First in, first out, without backfill: what a cluster does that has no more than a queue. For comparison."""

from collections.abc import Mapping
from datetime import datetime

from jobs.placement import Snapshot, Start, WaitingJob, takes
from jobs.placement.pools import Pool


def fifo(snapshot: Snapshot, now: datetime) -> list[Start]:
    """Start the jobs of each cluster in the order of their submission, up to the first that does not fit, or whose
    tenant's quota does not allow it. GPUs are chosen as ``plan`` does. Needs no clock."""
    del now
    pools = _pools(snapshot)
    held = {tenant_id: tenant.held for tenant_id, tenant in snapshot.tenants.items()}
    starts: list[Start] = []
    stopped = set(snapshot.closed_clusters)
    for job in sorted(snapshot.jobs, key=lambda job: (job.submitted_at, job.job_id)):
        start = None
        if job.cluster_id not in stopped and _may(job, snapshot, held):
            start = _place(job, pools)
        if start is None:
            stopped.add(job.cluster_id)
        else:
            starts.append(start)
            if job.tenant_id is not None:
                held[job.tenant_id] += job.gpu_count
    return starts


def _pools(snapshot: Snapshot) -> dict[tuple[int, str], Pool]:
    pools = {place: Pool(largest_node=size) for place, size in snapshot.largest_node.items()}
    for node in snapshot.nodes:
        for model, gpu_ids in node.free.items():
            pools[node.cluster_id, model].add(node.node_id, gpu_ids)
    return pools


def _may(job: WaitingJob, snapshot: Snapshot, held: Mapping[int, int]) -> bool:
    if job.tenant_id is None:
        return True
    tenant = snapshot.tenants[job.tenant_id]
    return tenant.active and held[job.tenant_id] + job.gpu_count <= tenant.quota


def _place(job: WaitingJob, pools: Mapping[tuple[int, str], Pool]) -> Start | None:
    """On the model that it takes with a node large enough for it, and of those the one with the most free GPUs."""
    models = [model for cluster_id, model in pools if cluster_id == job.cluster_id and takes(job.gpu_type, model)]

    def merit(model: str) -> tuple[bool, int, str]:
        pool = pools[job.cluster_id, model]
        return pool.largest_node < job.gpu_count, -pool.total, model

    for model in sorted(models, key=merit):
        taken = pools[job.cluster_id, model].take(job.gpu_count)
        if taken is not None:
            return Start(job, model, taken.gpu_ids, taken.nodes, "first in, first out")
    return None
