"""A node's page: its GPUs now, their last week as timelines, its metrics as plots, and its jobs."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.core.exceptions import PermissionDenied
from django.db.backends.postgresql.psycopg_any import DateTimeTZRange
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.safestring import SafeString

from clusters.models import GPU, GPUFault, GPUState, GPUStatePeriod, LatestReading, Node
from clusters.queries import Series, gpu_metrics, held_back_lately, holders
from dashboard import plots
from dashboard.queries.fleet import spent_on
from gpufleet.common.panels import Panel, panel_on
from jobs.models import Allocation, Job
from tenants.callers import Caller, CallerKind, Scope

WEEK = timedelta(days=7)
JOBS_SHOWN = 20
OUT_SHOWN = 50
# What a second is spent on, in the order of the legend.
STATES = ("sold", "idle", "draining", "maintenance", "unhealthy", "offline")
# What a person may see: everything. The figures are those that the API shows to a key without a tenant.
WHOLE_FLEET = Caller(CallerKind.KEY, frozenset({Scope.READ}), "console")
# Name of a window: its step, and how long it is.
WINDOWS = {
    "6h": ("5m", timedelta(hours=6)),
    "24h": ("5m", timedelta(hours=24)),
    "7d": ("1h", WEEK),
    "30d": ("1d", timedelta(days=30)),
}
# Place among a bucket's spreads, what it is called, its unit, and what one unit is in the integers of the database.
FIGURES = (
    (0, "Utilization", "%", 1000),
    (1, "Memory used", "MB", 1),
    (3, "Temperature", "°C", 1000),
    (4, "Power", "W", 1000),
)
COLOURS = 8


@dataclass(frozen=True, slots=True)
class GpuRow:
    """A GPU of the node: now, and its last week. ``fault``: what would have taken it out, had not too many been out."""

    gpu: GPU
    reading: LatestReading | None
    job_id: int | None
    job_name: str
    fault: GPUFault | None
    week: SafeString

    @property
    def state(self) -> str:
        """What its seconds are spent on, and if it is sold and takes no other job, why."""
        available = self.gpu.state == GPUState.AVAILABLE
        if self.job_id is None:
            return "idle" if available else str(self.gpu.state)
        return "sold" if available else f"sold, {self.gpu.state}"

    @property
    def colour(self) -> str:
        """The state that the cell of the heat map has."""
        return spent_on(self.gpu.state, self.job_id is not None)


@dataclass(frozen=True, slots=True)
class Rows:
    """GPUs now, and in their last week: when they could not have been sold, newest first."""

    gpus: list[GpuRow]
    out: list[GPUStatePeriod]


@dataclass(frozen=True, slots=True)
class NodePanel:
    """The node's GPUs, and the newest jobs that held any of them."""

    node: Node
    since: datetime
    gpus: list[GpuRow]
    out: list[GPUStatePeriod]
    jobs: list[Job]
    states: Sequence[str] = STATES


@dataclass(frozen=True, slots=True)
class Line:
    """What one GPU's line says in words."""

    gpu_index: int
    least: float
    mean: float
    greatest: float


@dataclass(frozen=True, slots=True)
class Drawn:
    """One figure of all GPUs of a node: drawn, in words, and as ``data`` for uPlot, which draws it to be read off.

    ``data``: the instants in seconds, and for each GPU its figures at them, null where there is none.
    """

    key: str
    name: str
    unit: str
    svg: SafeString
    data: dict[str, Any]
    lines: list[Line]
    least: float
    mean: float
    greatest: float


@panel_on(Node)
def node_panel(request: HttpRequest, node: Node) -> Panel:
    """A fixed number of queries."""
    now = timezone.now()
    gpus = list(GPU.objects.filter(node=node, retired_at__isnull=True).order_by("gpu_index"))
    rows = rows_of(gpus, now=now)
    newest = Allocation.objects.filter(gpu_id__in=[gpu.pk for gpu in gpus]).order_by().values("job_id").distinct()
    jobs = list(Job.objects.filter(pk__in=newest).select_related("tenant").order_by("-pk")[:JOBS_SHOWN])
    return Panel("dashboard/pages/node.html", NodePanel(node, now - WEEK, rows.gpus, rows.out[:OUT_SHOWN], jobs))


def rows_of(gpus: Sequence[GPU], *, now: datetime) -> Rows:
    """The GPUs now and in their last week. Five queries."""
    ids = [gpu.pk for gpu in gpus]
    readings, held = LatestReading.objects.in_bulk(ids), holders.ask(ids)
    faults = {fault.gpu_id: fault for fault in held_back_lately(now=now).filter(gpu__in=ids)}
    touched = GPUStatePeriod.objects.filter(gpu_id__in=ids, during__overlap=DateTimeTZRange(now - WEEK, now))
    periods = list(touched.select_related("gpu").order_by("-during"))
    weeks, rows = _weeks(ids, periods, now), []
    for gpu in gpus:
        holder = held.get(gpu.pk)
        label = f"GPU {gpu.gpu_index} in the last seven days"
        week = plots.timeline(weeks[gpu.pk], now - WEEK, now, label)
        job_id, name = (holder.job_id, holder.job_name) if holder else (None, "")
        rows.append(GpuRow(gpu, readings.get(gpu.pk), job_id, name, faults.get(gpu.pk), week))
    return Rows(rows, [period for period in periods if period.state != GPUState.AVAILABLE])


def metrics(request: HttpRequest, node_id: int) -> HttpResponse:
    """The plots as a fragment."""
    if not request.user.has_perm("clusters.view_node"):
        raise PermissionDenied
    window = request.GET.get("window", "6h")
    if window not in WINDOWS:
        raise Http404
    node = get_object_or_404(Node, pk=node_id)
    gpus = list(GPU.objects.filter(node=node, retired_at__isnull=True).order_by("gpu_index"))
    context = {"node": node, "window": window, "windows": list(WINDOWS), "gpus": gpus, "plots": plots_of(gpus, window)}
    return TemplateResponse(request, "dashboard/pages/metrics.html", context)


def plots_of(gpus: Sequence[GPU], window: str) -> list[Drawn]:
    """The four figures of the GPUs, a line each. Three queries a GPU."""
    step, span = WINDOWS[window]
    end = timezone.now()
    start = end - span
    series = [gpu_metrics(gpu.pk, WHOLE_FLEET, start=start, end=end, step=step, now=end) for gpu in gpus]
    drawn = [_draw(figure, gpus, series, start, end) for figure in FIGURES]
    return [one for one in drawn if one is not None]


def _draw(
    figure: tuple[int, str, str, int], gpus: Sequence[GPU], series: Sequence[Series], start: datetime, end: datetime
) -> Drawn | None:
    place, name, unit, scale = figure
    means = [_means(one, place, scale) for one in series]
    figures = [y for points in means for y in points.values()]
    if not figures:
        return None
    top = 100.0 if unit == "%" else 1.1 * max(figures)
    lines = [
        (f"gf-line-{turn % COLOURS}", [((at - start) / (end - start), y) for at, y in points.items()])
        for turn, points in enumerate(means)
    ]
    said = [Line(gpu.gpu_index, *_extremes(points.values())) for gpu, points in zip(gpus, means, strict=True) if points]
    svg = plots.lines(lines, top, f"{name}, a line for each GPU; the table below has their figures")
    data = {**_aligned(means), "from": start.timestamp(), "to": end.timestamp(), "top": top, "unit": unit}
    data["names"] = [f"GPU {gpu.gpu_index}" for gpu in gpus]
    return Drawn(f"gf-plot-{place}", name, unit, svg, data, said, *_extremes(figures))


def _means(series: Series, place: int, scale: int) -> dict[datetime, float]:
    """The mean of each bucket that has one, by its start."""
    return {
        bucket.start: spread.total / spread.measured / scale
        for bucket in series.buckets
        if (spread := bucket.spreads[place]).measured and spread.total is not None
    }


def _aligned(means: Sequence[dict[datetime, float]]) -> dict[str, Any]:
    """All lines on the instants of any of them, as uPlot wants it."""
    instants = sorted({at for points in means for at in points})
    lines = [[None if (y := points.get(at)) is None else round(y, 3) for at in instants] for points in means]
    return {"instants": [at.timestamp() for at in instants], "lines": lines}


def _extremes(figures: Collection[float]) -> tuple[float, float, float]:
    return min(figures), sum(figures) / len(figures), max(figures)


def _weeks(ids: Sequence[int], periods: Sequence[GPUStatePeriod], now: datetime) -> dict[int, list[plots.Span]]:
    """The states of the last seven days, and over them what was sold."""
    weeks: dict[int, list[plots.Span]] = defaultdict(list)
    for period in reversed(periods):
        state = "idle" if period.state == "available" else period.state
        hint = f"{state} from {period.during.lower:%Y-%m-%d %H:%M} UTC: {period.reason}".rstrip(": ")
        weeks[period.gpu_id].append(plots.Span(f"gf-fill-{state}", period.during.lower, period.during.upper, hint))
    held = Allocation.objects.filter(gpu_id__in=ids, during__overlap=DateTimeTZRange(now - WEEK, now)).select_related(
        "job"
    )
    for row in held.only("gpu_id", "during", "job__name"):
        hint = f"sold to {row.job.name} from {row.during.lower:%Y-%m-%d %H:%M} UTC"
        weeks[row.gpu_id].append(plots.Span("gf-fill-sold", row.during.lower, row.during.upper, hint))
    return weeks
