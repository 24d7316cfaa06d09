"""A job's page: its life as a timeline, its GPUs, what it costs, and why it stands where it stands."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from django.core.exceptions import PermissionDenied
from django.db.models import Count
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.safestring import SafeString

from dashboard import plots
from gpufleet.common.errors import NotFound
from gpufleet.common.panels import Panel, panel_on
from jobs.models import Allocation, Job, JobEvent
from jobs.queries import JobReport, Quote, describe, quote_of, waits_of
from jobs.scheduler import explain_job

NODES_SHOWN = 64


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of the job's life. ``end`` is None where it goes on; ``ended``: how a run ended, by whom and why."""

    css: str
    name: str
    start: datetime
    end: datetime | None
    ended: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """The GPUs of one node that the job held, or holds, in one stretch."""

    node_id: int
    hostname: str
    gpus: str
    start: datetime
    end: datetime | None


@dataclass(frozen=True, slots=True)
class JobPanel:
    """Everything but the explanation, which takes a look at the whole queue and is fetched afterwards."""

    job: Job
    report: JobReport
    quote: Quote | None
    timeline: SafeString
    stretches: list[Stretch]
    held: list[Held]


@panel_on(Job)
def job_panel(request: HttpRequest, job: Job) -> Panel:
    """A fixed number of queries."""
    now = timezone.now()
    stretches = sorted([*_waits(job), *_runs(job)], key=lambda one: one.start)
    spans = [plots.Span(one.css, one.start, one.end, one.name) for one in stretches]
    drawn = plots.timeline(spans, job.submitted_at, job.ended_at or now, "The job's life; the table has the same parts")
    (report,) = describe([job], now=now)
    shown = JobPanel(job, report, quote_of(job), drawn, stretches, list(_held(job))[:NODES_SHOWN])
    return Panel("dashboard/pages/job.html", shown)


def explanation(request: HttpRequest, job_id: int) -> HttpResponse:
    """The explanation as a fragment."""
    if not request.user.has_perm("jobs.view_job"):
        raise PermissionDenied
    try:
        explained = explain_job(job_id=job_id, of_tenant=None, now=timezone.now())
    except NotFound as error:
        raise Http404 from error
    return TemplateResponse(request, "dashboard/pages/explanation.html", {"p": explained})


def _waits(job: Job) -> Iterator[Stretch]:
    for one in waits_of(job):
        css = "gf-held" if one.code == "held" else "gf-waited"
        yield Stretch(css, f"waits: {one.code}", one.start, one.end)


def _runs(job: Job) -> Iterator[Stretch]:
    rows = Allocation.objects.filter(job=job).order_by("during").values("during").annotate(gpus=Count("pk"))
    ends = list(JobEvent.objects.filter(job=job, from_status="running").exclude(to_status="running").order_by("pk"))
    for row in rows:
        start, end = row["during"].lower, row["during"].upper
        # Of a GPU that was lost the seconds end before the job does.
        event = next((one for one in ends if end and one.at >= end), None)
        name = f"runs on {row['gpus']} GPU{'' if row['gpus'] == 1 else 's'}"
        yield Stretch("gf-fill-sold", name, start, end, _told(event) if event else "")


def _told(event: JobEvent) -> str:
    """What the job became, by whom, and why."""
    return f"{event.to_status} by {event.actor}{f': {event.reason}' if event.reason else ''}"


def _held(job: Job) -> Iterator[Held]:
    rows = Allocation.objects.filter(job=job).order_by("-during", "gpu__node__hostname", "gpu__gpu_index")
    listed = rows.values_list("during", "gpu__node_id", "gpu__node__hostname", "gpu__gpu_index", "gpu__model")
    for (during, node_id, hostname), group in groupby(listed, key=lambda row: row[:3]):
        gpus = list(group)
        indices = ", ".join(str(row[3]) for row in gpus)
        model = gpus[0][4] or "unnamed model"
        yield Held(node_id, hostname, f"{len(gpus)} × {model}: {indices}", during.lower, during.upper)
