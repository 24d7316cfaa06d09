"""An incident's page: the series that it is about, around the time of it."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.http import HttpRequest
from django.utils import timezone
from django.utils.safestring import SafeString

from alerts.models import AlertEvent, RuleType
from clusters.models import GPU
from clusters.queries import gpu_metrics
from dashboard import plots
from dashboard.pages.nodes import FIGURES, WHOLE_FLEET
from gpufleet.common.errors import NotFound
from gpufleet.common.panels import Panel, panel_on
from jobs.models import Allocation

AROUND = timedelta(hours=2)
# A rule's type to the place of its figure among ``FIGURES``.
WATCHED = {RuleType.GPU_TEMPERATURE: 2, RuleType.UTILIZATION_LOW: 0}
GPUS_SHOWN = 16


@dataclass(frozen=True, slots=True)
class IncidentPanel:
    """The plot, or why there is none."""

    event: AlertEvent
    start: datetime
    end: datetime
    name: str
    unit: str
    svg: SafeString | None
    top: float


@panel_on(AlertEvent)
def incident_panel(request: HttpRequest, event: AlertEvent) -> Panel:
    """Of GPUs and of jobs: their readings two hours before and after, with the threshold marked."""
    start = event.since - AROUND
    end = min(timezone.now(), (event.resolved_at or timezone.now()) + AROUND)
    end = min(end, start + timedelta(days=7))
    place, name, unit, scale = FIGURES[WATCHED.get(RuleType(event.rule.type), 0)]
    lines = []
    for turn, gpu_id in enumerate(_gpus(event)):
        try:
            series = gpu_metrics(gpu_id, WHOLE_FLEET, start=start, end=end, step="5m", now=end)
        except NotFound:
            continue
        points = [
            ((bucket.start - start) / (end - start), spread.total / spread.measured / scale)
            for bucket in series.buckets
            if (spread := bucket.spreads[place]).measured and spread.total is not None
        ]
        lines.append((f"gf-line-{turn % 8}", points))
    figures = [y for _, points in lines for _, y in points]
    level = event.rule.threshold if event.rule.type in WATCHED else None
    top = 1.1 * max([*figures, level or 0]) if figures else 1.0
    svg = plots.lines(lines, top, f"{name} around the incident", level) if figures else None
    return Panel("dashboard/pages/incident.html", IncidentPanel(event, start, end, name, unit, svg, top))


def _gpus(event: AlertEvent) -> list[int]:
    kind, _, pk = event.subject.partition(":")
    if not pk.isdecimal():
        return []
    if kind == "gpu":
        return [int(pk)]
    if kind == "node":
        gpus = GPU.objects.filter(node_id=int(pk), retired_at__isnull=True).order_by("gpu_index")
        return list(gpus.values_list("pk", flat=True)[:GPUS_SHOWN])
    if kind == "job":
        return sorted(set(Allocation.objects.filter(job_id=int(pk)).values_list("gpu_id", flat=True)))[:GPUS_SHOWN]
    return []
