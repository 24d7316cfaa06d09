"""What the operator's home page shows: the fleet at one instant, in a fixed number of queries.

The figures over time (leakage, revenue by day) are those of ``dashboard.queries``; this is only "now", for people.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from django.db.models import Count, Min, Sum

from alerts.models import AlertEvent, EventStatus
from billing.models import Rate
from clusters.models import GPU, Cluster, GPUState, LatestReading, Node
from dashboard.queries import fleet
from dashboard.queries.fleet import READINGS_ARE_FRESH_FOR, spent_on
from dashboard.queries.prices import amount_of, in_millionths
from jobs import ledger
from jobs.ledger import By, Scope
from jobs.models import Allocation, Job, JobStatus
from tenants.models import Tenant

# A grid of more nodes than this helps nobody; the list of nodes has filters and pages.
NODES_SHOWN = 120
QUEUE_SHOWN = 10
INCIDENTS_SHOWN = 5
DAY = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class StateCount:
    """How many GPUs spend this second on something, and what part of the fleet that is (0 to 1)."""

    state: str
    gpus: int
    share: float

    @property
    def percent(self) -> float:
        """The share in percent, to one decimal."""
        return round(self.share * 100, 1)


@dataclass(frozen=True, slots=True)
class GpuCell:
    """One GPU in the grid. ``trouble``: why it would take no new job, also while a job still holds it."""

    gpu_index: int
    state: str
    trouble: str
    sentence: str
    utilization_pct: float | None

    @property
    def sign(self) -> str:
        """What stands in the cell, so that nothing is told by colour alone: utilization, or the state's initial."""
        if self.state == "sold":
            return "–" if self.utilization_pct is None else f"{self.utilization_pct:.0f}"
        return "" if self.state == "idle" else self.state[0].upper()


@dataclass(frozen=True, slots=True)
class NodeRow:
    """One node in the grid."""

    node_id: int
    hostname: str
    status: str
    gpus: Sequence[GpuCell]


@dataclass(frozen=True, slots=True)
class NodeGroup:
    """The nodes of one cluster that have the same GPU model."""

    cluster: str
    model: str
    nodes: Sequence[NodeRow]

    @property
    def sold(self) -> int:
        """GPUs that jobs hold."""
        return sum(gpu.state == "sold" for node in self.nodes for gpu in node.gpus)

    @property
    def gpus(self) -> int:
        """GPUs in service."""
        return sum(len(node.gpus) for node in self.nodes)


@dataclass(frozen=True, slots=True)
class Fleet:
    """The hardware now."""

    states: Sequence[StateCount]
    groups: Sequence[NodeGroup]
    nodes_total: int
    nodes_shown: int

    @property
    def gpus(self) -> int:
        """GPUs in service, in whatever state."""
        return sum(count.gpus for count in self.states)

    @property
    def sold(self) -> StateCount:
        """The GPUs that jobs hold."""
        return self.states[0]


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job in the queue, and how long it has waited."""

    job: Job
    waited: timedelta


@dataclass(frozen=True, slots=True)
class Queue:
    """The jobs now. ``held`` jobs are blocked by a person or a client; the head is ordered by priority, then age."""

    running: int
    running_gpus: int
    waiting: int
    waiting_gpus: int
    held: int
    oldest: timedelta | None
    head: Sequence[Waiting]


@dataclass(frozen=True, slots=True)
class Amount:
    """Money with its currency."""

    amount: Decimal
    currency: str


@dataclass(frozen=True, slots=True)
class Incidents:
    """What fires now: how many, and the newest of them."""

    firing: int
    newest: Sequence[AlertEvent]


@dataclass(frozen=True, slots=True)
class FirstSteps:
    """What a new operator has done already on the way to a fleet that earns."""

    cluster: bool
    node: bool
    gpu: bool
    rate: bool
    tenant: bool
    job: bool


def fleet_now(*, now: datetime) -> Fleet:
    """The hardware, who holds it, and what its last readings say. Five queries."""
    present = fleet(now=now).total
    states = [StateCount(state, gpus, gpus / max(present.gpus, 1)) for state, gpus in present.states.items()]
    in_service = Node.objects.filter(decommissioned_at__isnull=True)
    nodes = list(in_service.select_related("cluster").order_by("cluster__name", "hostname")[:NODES_SHOWN])
    groups = _groups(nodes, _gpus_by_node([node.pk for node in nodes]), now)
    return Fleet(states, groups, nodes_total=in_service.count(), nodes_shown=len(nodes))


def queue_now(*, now: datetime) -> Queue:
    """How much runs, how much waits, and what is next. Two queries."""
    rows = (
        Job.objects.filter(status__in=[JobStatus.RUNNING, JobStatus.QUEUED, JobStatus.BLOCKED])
        .order_by()
        .values_list("status")
        .annotate(jobs=Count("pk"), gpus=Sum("gpu_count"), oldest=Min("submitted_at"))
    )
    counts = {status: (jobs, gpus, oldest) for status, jobs, gpus, oldest in rows}
    running, running_gpus, _ = counts.get(JobStatus.RUNNING, (0, 0, None))
    waiting, waiting_gpus, oldest = counts.get(JobStatus.QUEUED, (0, 0, None))
    queued = Job.objects.filter(status=JobStatus.QUEUED).select_related("tenant", "cluster")
    head = queued.order_by("priority", "submitted_at", "pk")[:QUEUE_SHOWN]
    return Queue(
        running=running,
        running_gpus=running_gpus,
        waiting=waiting,
        waiting_gpus=waiting_gpus,
        held=counts.get(JobStatus.BLOCKED, (0, 0, None))[0],
        oldest=None if oldest is None else now - oldest,
        head=[Waiting(job, now - job.submitted_at) for job in head],
    )


def metered_last_day(*, now: datetime) -> list[Amount]:
    """What the last 24 hours of sold time are worth at the prices they were sold at, by currency.

    Two queries, of the ledger that the invoices and the dashboard's figures read too.
    """
    worth: dict[str, int] = defaultdict(int)
    for row in ledger.sales(Scope(now - DAY, now), [By.RATE]):
        if row.price_per_gpu_hour is not None:
            worth[row.currency] += row.held * in_millionths(row.price_per_gpu_hour)
    return [Amount(amount_of(worth[currency], currency), currency) for currency in sorted(worth)]


def incidents_now() -> Incidents:
    """The alerts that fire. Two queries."""
    firing = AlertEvent.objects.filter(status=EventStatus.FIRING).select_related("rule")
    return Incidents(firing.count(), list(firing.order_by("-fired_at", "-pk")[:INCIDENTS_SHOWN]))


def first_steps() -> FirstSteps:
    """How far a new operator has come. Six queries, each for one row at most."""
    return FirstSteps(
        cluster=Cluster.objects.filter(decommissioned_at__isnull=True).exists(),
        node=Node.objects.filter(decommissioned_at__isnull=True).exists(),
        gpu=GPU.objects.filter(retired_at__isnull=True).exists(),
        rate=Rate.objects.exists(),
        tenant=Tenant.objects.exists(),
        job=Job.objects.exists(),
    )


def _gpus_by_node(node_ids: Collection[int]) -> dict[int, list[tuple[GPU, Allocation | None]]]:
    gpus = GPU.objects.filter(node_id__in=node_ids, retired_at__isnull=True).select_related("latest_reading")
    open_ones = Allocation.objects.filter(gpu__node_id__in=node_ids, during__upper_inf=True)
    holders = {row.gpu_id: row for row in open_ones.select_related("job", "tenant")}
    by_node: dict[int, list[tuple[GPU, Allocation | None]]] = defaultdict(list)
    for gpu in gpus.order_by("node_id", "gpu_index"):
        by_node[gpu.node_id].append((gpu, holders.get(gpu.pk)))
    return by_node


def _groups(
    nodes: Sequence[Node], gpus: dict[int, list[tuple[GPU, Allocation | None]]], now: datetime
) -> list[NodeGroup]:
    rows: dict[tuple[str, str], list[NodeRow]] = defaultdict(list)
    for node in nodes:
        cells = [_cell(gpu, holder, now) for gpu, holder in gpus.get(node.pk, [])]
        row = NodeRow(node.pk, node.hostname, node.status, cells)
        rows[node.cluster.name, _model_of([gpu for gpu, _ in gpus.get(node.pk, [])])].append(row)
    return [NodeGroup(cluster, model, members) for (cluster, model), members in sorted(rows.items())]


def _model_of(gpus: Sequence[GPU]) -> str:
    models = {gpu.model or "unnamed model" for gpu in gpus}
    if not models:
        return "no GPUs yet"
    return models.pop() if len(models) == 1 else "several models"


def _cell(gpu: GPU, holder: Allocation | None, now: datetime) -> GpuCell:
    reading: LatestReading | None = getattr(gpu, "latest_reading", None)
    if reading is not None and reading.recorded_at <= now - READINGS_ARE_FRESH_FOR:
        reading = None
    trouble = "" if gpu.state == GPUState.AVAILABLE else gpu.state
    return GpuCell(
        gpu_index=gpu.gpu_index,
        state=spent_on(gpu.state, holder is not None),
        trouble=trouble,
        sentence=_sentence(gpu, holder, trouble, reading),
        utilization_pct=reading.utilization_pct if reading else None,
    )


def _sentence(gpu: GPU, holder: Allocation | None, trouble: str, reading: LatestReading | None) -> str:
    """The cell in words: what the colour says, and what there is no room for."""
    parts = []
    if holder is not None:
        owner = f" of {holder.tenant.name}" if holder.tenant else ""
        parts.append(f"sold to {holder.job.name} (job {holder.job_id}){owner}")
    if trouble:
        parts.append(f"{trouble}: {gpu.health_reason}" if trouble == "unhealthy" and gpu.health_reason else trouble)
    parts += _readings(reading)
    return f"GPU {gpu.gpu_index}: {', '.join(parts) or 'idle'}"


def _readings(reading: LatestReading | None) -> list[str]:
    if reading is None:
        return []
    figures = ((reading.utilization_pct, "% busy"), (reading.temperature_c, "°C"), (reading.power_draw_w, "W"))
    return [f"{figure:.0f} {unit}" for figure, unit in figures if figure is not None]
