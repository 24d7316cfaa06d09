"""The heat map of the home page: every GPU of a cluster as a cell, by node; clusters fold, and open on demand."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from clusters.models import GPU, Cluster, GPUState, Node
from dashboard.queries import FleetReport
from dashboard.queries.fleet import READINGS_ARE_FRESH_FOR, Present, spent_on
from jobs.models import Allocation

# From so many GPUs on a cluster's cells are small: a digit or a letter each, and a sentence a node.
DENSE_FROM = 512
# A fleet of at most so many GPUs is shown whole; in a larger one the clusters are folded at first.
OPEN_UP_TO = 512
SHADES = 5
# Who holds a GPU: the job's id and name, and its tenant's name.
Holder = tuple[int, str, str | None]
READ = [f"latest_reading__{name}" for name in ("recorded_at", "utilization_pct", "temperature_c", "power_draw_w")]
COLUMNS = ["pk", "node_id", "gpu_index", "model", "state", "health_reason", *READ]


class _Row(NamedTuple):
    """A GPU with its newest reading. Ten thousand instances of the models would take longer than their query."""

    gpu_id: int
    node_id: int
    gpu_index: int
    model: str
    state: str
    health_reason: str
    recorded_at: datetime | None
    utilization_pct: float | None
    temperature_c: float | None
    power_draw_w: float | None


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

    @property
    def digit(self) -> str:
        """The sign in one character: tenths of the utilization, 9 from 90 % on."""
        if self.state != "sold" or self.utilization_pct is None:
            return self.sign
        return str(min(int(self.utilization_pct // 10), 9))

    @property
    def shade(self) -> str:
        """The class of its colour: the state, and of a sold one how busy it is."""
        if self.state != "sold" or self.utilization_pct is None:
            return f"gf-fill-{self.state}"
        return f"gf-heat-{min(int(self.utilization_pct * SHADES // 100), SHADES - 1)}"


@dataclass(frozen=True, slots=True)
class NodeRow:
    """One node in the grid."""

    node_id: int
    hostname: str
    status: str
    gpus: Sequence[GpuCell]

    @property
    def sentence(self) -> str:
        """The node in words, for a grid whose cells are too small for their own."""
        counts = Counter(gpu.state for gpu in self.gpus)
        parts = [f"{count} {state}" for state, count in counts.most_common()]
        busy = [gpu.utilization_pct for gpu in self.gpus if gpu.utilization_pct is not None and gpu.state == "sold"]
        if busy:
            parts.append(f"the sold ones {sum(busy) / len(busy):.0f} % busy")
        return f"{self.hostname}, {self.status}: {', '.join(parts) or 'no GPUs'}"


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
class ClusterHeat:
    """A cluster in the heat map. ``groups`` are its nodes where it is shown open, and None where it is folded."""

    cluster_id: int
    name: str
    present: Present = field(default_factory=Present)
    groups: Sequence[NodeGroup] | None = None

    @property
    def dense(self) -> bool:
        """Whether its cells are small."""
        return self.present.gpus >= DENSE_FROM

    @property
    def sold(self) -> int:
        """GPUs that jobs hold."""
        return self.present.states["sold"]


def heat_map(report: FleetReport, *, folded: bool = False) -> list[ClusterHeat]:
    """All clusters in service, open where the fleet is small. A query, and three a cluster that is open."""
    parts = {part.id: part.present for part in report.clusters}
    clusters = Cluster.objects.filter(decommissioned_at__isnull=True).order_by("name").values_list("pk", "name")
    shown = not folded and report.total.gpus <= OPEN_UP_TO
    return [
        ClusterHeat(pk, name, parts.get(pk, Present()), grid(pk, now=report.now) if shown else None)
        for pk, name in clusters
    ]


def grid(cluster_id: int, *, now: datetime) -> list[NodeGroup]:
    """The nodes of a cluster by GPU model, each with its GPUs. Three queries."""
    nodes = Node.objects.filter(cluster_id=cluster_id, decommissioned_at__isnull=True).order_by("hostname")
    rows = list(nodes.values_list("pk", "hostname", "status", "cluster__name"))
    gpus, models = _cells(cluster_id, now)
    groups: dict[tuple[str, str], list[NodeRow]] = defaultdict(list)
    for pk, hostname, status, cluster in rows:
        groups[cluster, _model_of(models[pk])].append(NodeRow(pk, hostname, str(status), gpus[pk]))
    return [NodeGroup(cluster, model, members) for (cluster, model), members in sorted(groups.items())]


def _cells(cluster_id: int, now: datetime) -> tuple[Mapping[int, list[GpuCell]], Mapping[int, set[str]]]:
    gpus = GPU.objects.filter(node__cluster_id=cluster_id, retired_at__isnull=True).order_by("node_id", "gpu_index")
    held = Allocation.objects.filter(gpu__node__cluster_id=cluster_id, during__upper_inf=True)
    rows = held.values_list("gpu_id", "job_id", "job__name", "tenant__name")
    holders: dict[int, Holder] = {gpu_id: (job_id, job, tenant) for gpu_id, job_id, job, tenant in rows}
    cells: defaultdict[int, list[GpuCell]] = defaultdict(list)
    models: defaultdict[int, set[str]] = defaultdict(set)
    for gpu in map(_Row._make, gpus.values_list(*COLUMNS)):
        cells[gpu.node_id].append(_cell(gpu, holders.get(gpu.gpu_id), now))
        models[gpu.node_id].add(gpu.model or "unnamed model")
    return cells, models


def _model_of(models: set[str]) -> str:
    if not models:
        return "no GPUs yet"
    return next(iter(models)) if len(models) == 1 else "several models"


def _cell(gpu: _Row, holder: Holder | None, now: datetime) -> GpuCell:
    fresh = gpu.recorded_at is not None and gpu.recorded_at > now - READINGS_ARE_FRESH_FOR
    trouble = "" if gpu.state == GPUState.AVAILABLE else gpu.state
    return GpuCell(
        gpu_index=gpu.gpu_index,
        state=spent_on(gpu.state, holder is not None),
        trouble=trouble,
        sentence=_sentence(gpu, holder, trouble, fresh=fresh),
        utilization_pct=gpu.utilization_pct if fresh else None,
    )


def _sentence(gpu: _Row, holder: Holder | None, trouble: str, *, fresh: bool) -> str:
    """The cell in words: what the colour says, and what there is no room for."""
    parts = []
    if holder is not None:
        job_id, job, tenant = holder
        parts.append(f"sold to {job} (job {job_id}){f' of {tenant}' if tenant else ''}")
    if trouble:
        parts.append(f"{trouble}: {gpu.health_reason}" if trouble == "unhealthy" and gpu.health_reason else trouble)
    if fresh:
        figures = ((gpu.utilization_pct, "% busy"), (gpu.temperature_c, "°C"), (gpu.power_draw_w, "W"))
        parts += [f"{figure:.0f} {unit}" for figure, unit in figures if figure is not None]
    return f"GPU {gpu.gpu_index}: {', '.join(parts) or 'idle'}"
