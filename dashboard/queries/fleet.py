"""The hardware now: what each cluster, node and GPU model does, and how busy it is."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from django.db.models import Count, Exists, F, OuterRef, Q, Sum

from clusters.models import GPU, GPUState
from jobs.models import Allocation

READINGS_ARE_FRESH_FOR: Final = timedelta(minutes=2)
Identity = tuple[int | None, str, int | None]
STATES: Final = ("sold", "idle", "draining", "maintenance", "unhealthy", "offline")


@dataclass(slots=True)
class Present:
    """GPUs in service by what they do now, and the sum of the fresh readings of ``measured`` of them in percent."""

    states: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STATES, 0))
    measured: int = 0
    busy: float = 0.0

    @property
    def gpus(self) -> int:
        """GPUs in service, in whatever state."""
        return sum(self.states.values())

    @property
    def utilization_pct(self) -> float | None:
        """The mean of the fresh readings, to one decimal; None without any."""
        return round(self.busy / self.measured, 1) if self.measured else None

    def add(self, row: Mapping[str, Any]) -> None:
        """Add GPUs of one state."""
        self.states[spent_on(row["state"], row["held"])] += row["gpus"]
        self.measured += row["measured"]
        self.busy += row["busy"] or 0.0


@dataclass(frozen=True, slots=True)
class Part:
    """A cluster, a node of it, or a GPU model, now. ``name``: the cluster's, the hostname, or the model."""

    id: int | None
    name: str
    cluster_id: int | None
    present: Present


@dataclass(frozen=True, slots=True)
class FleetReport:
    """The fleet at one instant."""

    now: datetime
    total: Present
    clusters: list[Part]
    nodes: list[Part]
    models: list[Part]


def fleet(*, now: datetime) -> FleetReport:
    """All GPUs in service by cluster, node and model. One query; readings older than two minutes don't count."""
    fresh = Q(latest_reading__recorded_at__gt=now - READINGS_ARE_FRESH_FOR)
    readings = F("latest_reading__utilization_pct")
    rows: list[Any] = list(
        GPU.objects.filter(retired_at__isnull=True)
        .order_by()
        .annotate(held=Exists(Allocation.objects.filter(gpu=OuterRef("pk"), during__upper_inf=True)))
        .values("node_id", "node__hostname", "node__cluster_id", "node__cluster__name", "model", "state", "held")
        .annotate(gpus=Count("pk"), measured=Count(readings, filter=fresh), busy=Sum(readings, filter=fresh))
    )
    total = Present()
    for row in rows:
        total.add(row)
    return FleetReport(
        now,
        total,
        _parts(rows, lambda row: (row["node__cluster_id"], row["node__cluster__name"], None)),
        _parts(rows, lambda row: (row["node_id"], row["node__hostname"], row["node__cluster_id"])),
        _parts(rows, lambda row: (None, row["model"], None)),
    )


def _parts(rows: Iterable[Mapping[str, Any]], key: Callable[[Mapping[str, Any]], Identity]) -> list[Part]:
    """The rows by whom they are about, in the order of the names."""
    parts: dict[Identity, Part] = {}
    for row in rows:
        pk, name, cluster_id = key(row)
        parts.setdefault((pk, name, cluster_id), Part(pk, name, cluster_id, Present())).present.add(row)
    return sorted(parts.values(), key=lambda part: (part.name, part.id or 0))


def spent_on(state: str, held: bool) -> str:
    """A second that a job holds is sold, whatever else is true of the GPU."""
    if held:
        return "sold"
    return "idle" if state == GPUState.AVAILABLE else state
