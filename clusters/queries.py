"""Reads of clusters, nodes and GPUs, and the questions about them that the jobs app answers."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import QuerySet

from gpufleet.common.ports import Port


@dataclass(frozen=True, slots=True)
class Workload:
    """What a cluster does right now: jobs that run on it, and jobs that wait for it."""

    active_jobs: int = 0
    queued_jobs: int = 0


@dataclass(frozen=True, slots=True)
class Holder:
    """The job that holds a GPU now, and since when."""

    job_id: int
    job_name: str
    tenant_id: int | None
    since: datetime


# (cluster ids, tenant id or None for all tenants) in one query; a cluster without jobs may be left out.
cluster_workload: Port[Callable[[Collection[int], int | None], Mapping[int, Workload]]] = Port(
    "clusters.cluster_workload"
)

# (cluster id, tenant id or None, limit): the newest jobs of the cluster, newest first, as the API shows them in a list.
recent_jobs: Port[Callable[[int, int | None, int], list[dict[str, Any]]]] = Port("clusters.recent_jobs")

# (gpu ids) in one query: those that an open allocation holds, and by whom.
holders: Port[Callable[[Collection[int]], Mapping[int, Holder]]] = Port("clusters.holders")

# (tenant id or None for all tenants): a lazy `values_list("gpu_id", flat=True)` of the open allocations, without NULLs.
# It is used as a subquery, so that a list of GPUs stays one query.
held_gpu_ids: Port[Callable[[int | None], QuerySet[Any, int]]] = Port("clusters.held_gpu_ids")

# (cluster id): how many jobs run on it.
count_running_jobs: Port[Callable[[int], int]] = Port("clusters.count_running_jobs")
