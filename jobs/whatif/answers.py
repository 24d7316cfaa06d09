"""What a simulation answers, made of its course."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from jobs.simulation import Course, Source, Waits, held_by, waits_of
from jobs.whatif.money import Money, Pricing


@dataclass(frozen=True, slots=True)
class Outlook:
    """When the job that was asked about starts, and on what; None: not within what was simulated, for this reason."""

    job_id: int | None
    starts_at: datetime | None
    waits_s: float | None
    model: str | None
    nodes: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Figures:
    """What the time up to ``until`` comes to. A tenant's are of its own jobs, without those of the fleet."""

    waits: Waits
    sold_gpu_seconds: float
    registered_gpu_seconds: float | None
    utilization: float | None
    revenue: Sequence[Money]
    leakage: Sequence[Money] | None


@dataclass(frozen=True, slots=True)
class Scenario:
    """A world and what comes of it. ``lengths``: how many of the jobs that ran are taken to last as they say, as the
    ledger has measured, and beyond the horizon since nobody knows."""

    job: Outlook | None
    figures: Figures
    plans: int
    lengths: Mapping[Source, int]


@dataclass(frozen=True, slots=True)
class Answer:
    """Figures are of ``[made_at, until)``; ``cut``: the time limit came before the horizon."""

    made_at: datetime
    horizon: datetime
    until: datetime
    cut: bool
    present: Scenario
    changed: Scenario | None
    assumptions: Sequence[str]


def scenario_of(
    course: Course,
    until: datetime,
    pricing: Pricing,
    *,
    registered: Mapping[str, int],
    hostnames: Mapping[int, str],
    asked: int | None,
    of_tenant: int | None,
) -> Scenario:
    """The course up to ``until``, in figures. ``registered``: GPUs by model."""
    job = None if asked is None else _outlook(course, asked, until, hostnames)
    figures = _figures(course, until, pricing, registered, of_tenant)
    sources = Counter(one.source for one in course.holdings if of_tenant in (None, one.tenant_id))
    return Scenario(job, figures, course.plans, {source: sources[source] for source in Source})


def _outlook(course: Course, job_id: int, until: datetime, hostnames: Mapping[int, str]) -> Outlook:
    job = course.submitted[job_id]
    held = next((one for one in course.holdings if one.job_id == job_id and one.start <= until), None)
    if held is None:
        return Outlook(job_id, None, None, None, (), course.reason)
    waits_s = (held.start - job.submitted_at).total_seconds()
    return Outlook(job_id, held.start, waits_s, held.model, tuple(hostnames[node_id] for node_id in held.nodes), "")


def _figures(
    course: Course, until: datetime, pricing: Pricing, registered: Mapping[str, int], of_tenant: int | None
) -> Figures:
    held = [one for one in course.holdings if of_tenant in (None, one.tenant_id)]
    sold = sum(held_by(held, course.began, until, lambda one: one.model).values())
    revenue = pricing.revenue(held, course.began, until)
    waits = waits_of(course, until, of_tenant=of_tenant)
    if of_tenant is not None:
        return Figures(waits, sold, None, None, revenue, None)
    total = sum(registered.values()) * (until - course.began).total_seconds()
    leakage = pricing.leakage(course, until, registered)
    return Figures(waits, sold, total, sold / total if total else None, revenue, leakage)
