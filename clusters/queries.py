"""Reads of clusters, nodes and GPUs, and the questions about them that the jobs app answers."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from django.db import connection
from django.db.models import Count, Exists, F, IntegerField, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce

from clusters import series
from clusters.models import GPU, Cluster, GPUFault, GPUHealth, GPUState, LatestReading, Node
from clusters.sampledb import samples_connection
from clusters.series import Buckets
from gpufleet.common.errors import FieldProblem, InvalidInput, NotFound
from gpufleet.common.ports import Port
from gpufleet.common.snapshots import snapshot
from tenants.callers import Caller


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


# (start, end): each GPU-hour of the window in which the GPU was sold, as (gpu id, start of the hour, seconds sold).
sold_hours: Port[Callable[[datetime, datetime], Iterable[tuple[int, datetime, float]]]] = Port("clusters.sold_hours")


RECENT_JOBS = 20
# How long a fault that took no GPU out of service is news.
HELD_BACK_FOR = timedelta(hours=24)

COUNTED_MODELS = "SELECT ARRAY(SELECT jsonb_object_keys(by_model)) FROM clusters_gpucount WHERE cluster_id = %s"


@dataclass(frozen=True, slots=True)
class ClusterReport:
    """A cluster as ``list_clusters`` gives it, with its workload as far as the caller may see it."""

    cluster: Cluster
    workload: Workload


@dataclass(frozen=True, slots=True)
class ClusterDetail:
    """A cluster with its nodes and its most recent jobs, as far as the caller may see them."""

    report: ClusterReport
    nodes: list[Node]
    jobs: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class GpuReport:
    """A GPU with its newest reading and the job that holds it."""

    gpu: GPU
    latest: LatestReading | None
    holder: Holder | None
    fault: GPUFault | None


def held_back_lately(*, now: datetime) -> QuerySet[GPUFault]:
    """The faults of the last day that left their GPU in service since too many others were out, and nothing has come
    of since: only a person can look at them. Of each GPU the newest.
    """
    later = GPUFault.objects.filter(gpu=OuterRef("gpu"), pk__gt=OuterRef("pk"))
    recent = GPUFault.objects.filter(held_back=True, began_at__gt=now - HELD_BACK_FOR)
    return recent.filter(~Exists(later), gpu__health=GPUHealth.HEALTHY, gpu__retired_at__isnull=True)


def list_clusters() -> QuerySet[Cluster]:
    """The clusters in service, each with ``node_count``, ``gpu_count`` and ``idle_gpus`` (available and not held)."""
    nodes = Node.objects.filter(cluster=OuterRef("pk"), decommissioned_at__isnull=True)
    gpus = GPU.objects.filter(node__cluster=OuterRef("pk"), retired_at__isnull=True)
    idle = gpus.filter(state=GPUState.AVAILABLE).exclude(pk__in=held_gpu_ids.ask(None))
    return Cluster.objects.filter(decommissioned_at__isnull=True).annotate(
        node_count=_count(nodes, by=F("cluster")),
        gpu_count=_count(gpus, by=F("node__cluster")),
        idle_gpus=_count(idle, by=F("node__cluster")),
    )


def describe_clusters(clusters: Collection[Cluster], caller: Caller) -> list[ClusterReport]:
    """The clusters with their workloads; of a tenant-bound caller only its own jobs count."""
    workloads = cluster_workload.ask([cluster.pk for cluster in clusters], caller.tenant_id)
    return [ClusterReport(cluster, workloads.get(cluster.pk, Workload())) for cluster in clusters]


def get_cluster(cluster_id: int, caller: Caller) -> ClusterReport:
    """One cluster in service. Raises ``NotFound``."""
    cluster = list_clusters().filter(pk=cluster_id).first()
    if cluster is None:
        raise NotFound
    return describe_clusters([cluster], caller)[0]


def get_cluster_detail(cluster_id: int, caller: Caller) -> ClusterDetail:
    """One cluster with nodes and jobs, all of one instant. Raises ``NotFound``."""
    with snapshot():
        report = get_cluster(cluster_id, caller)
        nodes = list(list_nodes(caller).filter(cluster=cluster_id).order_by("-pk"))
        return ClusterDetail(report, nodes, recent_jobs.ask(cluster_id, caller.tenant_id, RECENT_JOBS))


def list_nodes(caller: Caller) -> QuerySet[Node]:
    """The nodes in service that the caller may see, each with ``gpu_count``: its registered GPUs."""
    rows = Node.objects.filter(decommissioned_at__isnull=True)
    if caller.tenant_id is not None:
        rows = rows.filter(pk__in=GPU.objects.filter(_held_by(caller.tenant_id)).values("node"))
    gpus = GPU.objects.filter(node=OuterRef("pk"), retired_at__isnull=True)
    return rows.annotate(gpu_count=_count(gpus, by=F("node")))


def get_node(node_id: int, caller: Caller) -> Node:
    """One node. Raises ``NotFound`` when there is none that the caller may know of."""
    node = list_nodes(caller).filter(pk=node_id).first()
    if node is None:
        raise NotFound
    return node


def visible_gpus(caller: Caller) -> QuerySet[GPU]:
    """The GPUs that the caller may see, retired ones too: all, or those that its tenant's jobs hold now."""
    rows = GPU.objects.select_related("node", "latest_reading")
    return rows if caller.tenant_id is None else rows.filter(_held_by(caller.tenant_id))


def list_gpus(caller: Caller) -> QuerySet[GPU]:
    """The GPUs in service that the caller may see."""
    return visible_gpus(caller).filter(retired_at__isnull=True)


def get_gpu(gpu_id: int, caller: Caller) -> GpuReport:
    """One GPU; a retired one too, since bills speak of it. Raises ``NotFound``."""
    gpu = visible_gpus(caller).filter(pk=gpu_id).first()
    if gpu is None:
        raise NotFound
    reports = describe_gpus([gpu], caller)
    if not reports:
        raise NotFound
    return reports[0]


def describe_gpus(gpus: Collection[GPU], caller: Caller) -> list[GpuReport]:
    """The GPUs with their readings and holders.

    A tenant sees no reading from before its present allocation, and no GPU that it let go of a moment ago.
    """
    held = holders.ask([gpu.pk for gpu in gpus])
    ill = [gpu.pk for gpu in gpus if gpu.health == GPUHealth.UNHEALTHY]
    faults = {fault.gpu_id: fault for fault in GPUFault.objects.filter(gpu__in=ill, ended_at=None)} if ill else {}
    reports = [
        GpuReport(gpu, getattr(gpu, "latest_reading", None), held.get(gpu.pk), faults.get(gpu.pk)) for gpu in gpus
    ]
    if caller.tenant_id is None:
        return reports
    return [_for_tenant(report) for report in reports if _is_held_by(report, caller.tenant_id)]


def gpu_models(cluster_id: int) -> list[str]:
    """The models of a cluster's GPUs in service, in order: those that were counted, or found anew where none were."""
    with connection.cursor() as cursor:
        cursor.execute(COUNTED_MODELS, [cluster_id])
        counted = cursor.fetchone()
    if counted is not None:
        return sorted(counted[0])
    gpus = GPU.objects.filter(node__cluster_id=cluster_id, retired_at__isnull=True).order_by()
    return sorted(gpus.values_list("model", flat=True).distinct())


def reportable_clusters(cluster_key_id: int | None) -> QuerySet[Cluster]:
    """The clusters in service whose hardware may be reported: all, or that of a cluster's own key."""
    rows = Cluster.objects.filter(decommissioned_at__isnull=True)
    return rows if cluster_key_id is None else rows.filter(key=cluster_key_id)


def reportable_nodes(cluster_key_id: int | None) -> QuerySet[Node]:
    """The nodes in service whose GPUs may be reported."""
    rows = Node.objects.filter(decommissioned_at__isnull=True)
    return rows if cluster_key_id is None else rows.filter(cluster__key=cluster_key_id)


def reportable_gpus(cluster_key_id: int | None) -> QuerySet[GPU]:
    """The GPUs, retired ones too, whose readings may be reported."""
    rows = GPU.objects.all()
    return rows if cluster_key_id is None else rows.filter(node__cluster__key=cluster_key_id)


@dataclass(frozen=True, slots=True)
class Step:
    """How a window of samples is cut. ``width`` None: not at all. ``default_span``: the window when none is named."""

    width: timedelta | None
    default_span: timedelta


STEPS = {
    "raw": Step(None, timedelta(hours=1)),
    "5m": Step(timedelta(minutes=5), timedelta(hours=24)),
    "1h": Step(timedelta(hours=1), timedelta(days=7)),
    "1d": Step(timedelta(days=1), timedelta(days=30)),
}
MAX_POINTS = 20_000


@dataclass(frozen=True, slots=True)
class Series:
    """A GPU's samples in ``[start, end)``, oldest first: readings where ``step`` is raw, else buckets."""

    gpu_id: int
    start: datetime
    end: datetime
    step: str
    readings: list[tuple[Any, ...]]
    buckets: Buckets


def gpu_metrics(
    gpu_id: int, caller: Caller, *, start: datetime | None, end: datetime | None, step: str, now: datetime
) -> Series:
    """A GPU's metrics in a window; a tenant's begins at the earliest with its present allocation.

    The window ends now and has the step's default length where the caller does not say. Hours and days come from the
    rollups as far as these go, which are kept longer than the samples. Raises ``NotFound``, and ``InvalidInput`` for
    a window that is empty or would give more than 20,000 points.
    """
    report = get_gpu(gpu_id, caller)
    end = end or now
    start = start or end - STEPS[step].default_span
    width = STEPS[step].width
    _check_window(start, end, width)
    if caller.tenant_id is not None and report.holder is not None:
        start = min(max(start, report.holder.since), end)
    node_id = report.gpu.node_id
    if width is None:
        rows = series.readings(node_id=node_id, gpu_id=gpu_id, start=start, end=end, limit=MAX_POINTS + 1)
        if len(rows) > MAX_POINTS:
            raise _too_many_points()
        return Series(gpu_id, start, end, step, rows, Buckets([], [], []))
    buckets = series.buckets(node_id=node_id, gpu_id=gpu_id, start=start, end=end, width=width)
    return Series(gpu_id, start, end, step, [], buckets)


mean_readings = series.mean_readings


def _check_window(start: datetime, end: datetime, width: timedelta | None) -> None:
    if start >= end:
        raise InvalidInput(FieldProblem("?from", "empty_window", "from lies at or after to."))
    if width is not None and (end - start) / width > MAX_POINTS:
        raise _too_many_points()


def _too_many_points() -> InvalidInput:
    detail = f"The window has more than {MAX_POINTS:,} points; take a shorter one or a longer step."
    return InvalidInput(FieldProblem("?from", "too_many_points", detail))


@dataclass(frozen=True, slots=True)
class SoldUtilisation:
    """What sold GPU-seconds did, as far as their GPUs reported: ``busy`` are sold seconds times utilisation, ``idle``
    the sold seconds of hours with less than 5 % on average.
    """

    sold_seconds: float
    busy_seconds: float
    idle_seconds: float


SOLD_UTILISATION = """
SELECT coalesce(sum(sold_seconds), 0), coalesce(sum(busy_seconds), 0), coalesce(sum(idle_seconds), 0)
FROM clusters_metricfleetday
WHERE day >= %s AND day < %s AND (%s::bigint IS NULL OR cluster_id = %s) AND (%s::text IS NULL OR model = %s)
"""
HOURLY_UTILISATION = """
SELECT gpu_id, start, utilization_sum / (1000.0::float8 * utilization_count)
FROM clusters_metrichour
WHERE gpu_id = ANY(%s) AND start >= %s AND start < %s AND utilization_count > 0
ORDER BY gpu_id, start
"""


# Each sample once, also where it is stored twice.
USED_BELOW = """
SELECT asked.gpu_id
FROM unnest(%s::bigint[], %s::bigint[], %s::timestamptz[]) AS asked (gpu_id, node_id, since)
CROSS JOIN LATERAL (
    SELECT avg(utilization) / 1000 AS busy
    FROM (
        SELECT DISTINCT ON (frame.recorded_at) reading.utilization
        FROM clusters_metricframe AS frame
        CROSS JOIN LATERAL unnest(frame.gpu_ids, frame.utilization) AS reading (gpu_id, utilization)
        WHERE frame.node_id = asked.node_id AND reading.gpu_id = asked.gpu_id
          AND frame.recorded_at >= asked.since AND frame.recorded_at <= %s
        ORDER BY frame.recorded_at, reading.utilization
    ) AS once
) AS average
WHERE busy < %s
"""


def used_below(percent: float, gpus: Collection[tuple[int, int, datetime]], *, until: datetime) -> set[int]:
    """Of GPUs, each with its node and a time, those that were used less than this on average from then until now.

    One without samples in that time is not among them.
    """
    if not gpus:
        return set()
    with samples_connection().cursor() as cursor:
        cursor.execute(USED_BELOW, [*map(list, zip(*gpus, strict=True)), until, percent])
        return {gpu_id for (gpu_id,) in cursor.fetchall()}


def sold_utilisation(
    *, start: datetime, end: datetime, cluster_id: int | None = None, model: str | None = None
) -> SoldUtilisation:
    """The fleet's figure over the whole days (UTC) in ``[start, end)`` that are rolled up, from one row for each day,
    cluster and model.
    """
    with samples_connection().cursor() as cursor:
        cursor.execute(SOLD_UTILISATION, [start, end, cluster_id, cluster_id, model, model])
        return SoldUtilisation(*cursor.fetchone())


def hourly_utilisation(
    gpu_ids: Collection[int], *, start: datetime, end: datetime
) -> list[tuple[int, datetime, float]]:
    """(GPU, hour, average utilisation in percent) of the hours in ``[start, end)`` that are rolled up."""
    with samples_connection().cursor() as cursor:
        cursor.execute(HOURLY_UTILISATION, [list(gpu_ids), start, end])
        rows: list[tuple[int, datetime, float]] = cursor.fetchall()
    return rows


def next_to_forward() -> datetime | None:
    """The time of the sample that is first in remote write's line, or None where nothing waits."""
    with samples_connection().cursor() as cursor:
        cursor.execute("SELECT recorded_at FROM clusters_metricoutbox ORDER BY id LIMIT 1")
        row: tuple[datetime] | None = cursor.fetchone()
    return row[0] if row else None


def _held_by(tenant_id: int) -> Q:
    return Q(pk__in=held_gpu_ids.ask(tenant_id))


def _is_held_by(report: GpuReport, tenant_id: int) -> bool:
    return report.holder is not None and report.holder.tenant_id == tenant_id


def _for_tenant(report: GpuReport) -> GpuReport:
    latest, holder = report.latest, report.holder
    if latest is not None and holder is not None and latest.recorded_at < holder.since:
        return replace(report, latest=None)
    return report


def _count(rows: QuerySet[Any], *, by: F) -> Coalesce:
    counted = rows.order_by().values(group=by).annotate(n=Count("pk")).values("n")
    return Coalesce(Subquery(counted), 0, output_field=IntegerField())
