"""Asking what if: look once, run the copy as it is, run it as it might be, and compare."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from threading import Lock

from django.db.models import Count

from clusters.models import GPU, Cluster, Node
from gpufleet.common.errors import Conflict, FieldProblem, Forbidden, InvalidInput, Unavailable
from gpufleet.common.snapshots import snapshot as one_instant
from jobs.models import EstimateSource, JobStatus
from jobs.placement import Snapshot, WaitingJob
from jobs.queries import get_job
from jobs.scheduler.world import take_snapshot
from jobs.services import keep_estimates
from jobs.simulation import FIRST_ID, Changes, Course, Lengths, changed, simulate
from jobs.whatif.answers import Answer, Scenario, scenario_of
from jobs.whatif.durations import FEWEST_JOBS, MEASURED_OVER, lengths_at
from jobs.whatif.money import Pricing, locked_prices, rates_for
from tenants.models import Tenant

# The beat looks at what happened since the last one together; so does the simulation.
COALESCE = timedelta(seconds=30)
ASSUMPTIONS = (
    "The scheduler's own plan decides, after every event; events within 30 seconds are looked at together.",
    "A job ends when its estimate says; one that is past it goes on for as long as it is past it, at least a minute.",
    "A job without an estimate runs as long as the median of its tenant's jobs of that size and model, else of all jobs"
    f" of that size and model, of the model, of all, that ended in the last {MEASURED_OVER.days} days and are"
    f" {FEWEST_JOBS} at least; without these, beyond the horizon.",
    "Nothing new is submitted, nothing breaks, nobody cancels, and what is on hold stays so.",
    "A drained node's jobs run on, and nothing starts there again.",
    "Running jobs keep their locked price; what starts has the rate of now, without minimum times, and no other demand"
    " at another price. Leakage is the unsold time of all registered GPUs at list price.",
)


# A simulation is seconds of nothing but Python, beside which everybody else of this process waits; so one at a time.
_turn = Lock()


class Busy(Unavailable):
    """Another question is being answered."""

    code = "busy"


class NotQueued(Conflict):
    """Only a job in the queue has a start to come."""

    code = "not_queued"


class NotYours(Forbidden):
    """A tenant asks about its own jobs and quota; the fleet and prices are the operator's."""

    code = "not_yours"


@dataclass(frozen=True, slots=True)
class Asked:
    """A question: about a queued job by id, or one that might be submitted, or neither; in a world with ``changes``,
    ``horizon`` from now, and answered within so many ``seconds``."""

    changes: Changes
    horizon: timedelta
    seconds: float
    job_id: int | None = None
    job: WaitingJob | None = None


@dataclass(frozen=True, slots=True)
class _World:
    """All that is read, at one instant."""

    snapshot: Snapshot
    lengths: Lengths
    gpus: Mapping[str, int]
    hostnames: Mapping[int, str]
    pricing: Pricing


def ask(asked: Asked, *, of_tenant: int | None, now: datetime) -> Answer:
    """Answer a caller of this tenant; None stands for the whole fleet's. When it tells of a queued job in the world as
    it is, the estimate is kept to be scored; nothing else is written.

    Raises ``NotFound`` for a job that the caller may not know of, ``NotQueued`` for one that does not wait,
    ``NotYours`` for changes that a tenant may not ask about, ``InvalidInput`` for what is not there, and ``Busy``.
    """
    with one_instant():
        now = _check(asked, of_tenant, now)
        world = _look(asked, now)
    if not _turn.acquire(timeout=asked.seconds):
        raise Busy("Another question is being answered; ask again in a few seconds.")
    try:
        answer = _answer(asked, world, of_tenant, now)
    finally:
        _turn.release()
    _keep(asked, answer, now)
    return answer


def _check(asked: Asked, of_tenant: int | None, now: datetime) -> datetime:
    """Returns the instant to begin at: a clock behind the job's submission would not find it in the queue."""
    if of_tenant is not None and (asked.changes.drained or asked.changes.additions or asked.changes.prices):
        raise NotYours("A tenant's key may ask about its own jobs and its own quota, not about the fleet or prices.")
    _check_references(asked, of_tenant)
    if asked.job_id is None:
        return now
    job = get_job(asked.job_id, of_tenant=of_tenant)
    if job.status != JobStatus.QUEUED:
        raise NotQueued(f"The job is {job.status}; only a queued one has a start to come.", current=job.status)
    return max(now, job.submitted_at)


def _check_references(asked: Asked, of_tenant: int | None) -> None:
    clusters = {one.cluster_id: f"#/add_gpus/{index}/cluster_id" for index, one in enumerate(asked.changes.additions)}
    tenants = {pk: f"#/quotas/{index}/tenant_id" for index, pk in enumerate(asked.changes.quotas)}
    if asked.job is not None:
        clusters[asked.job.cluster_id] = "#/job/cluster_id"
        if asked.job.tenant_id is not None:
            tenants[asked.job.tenant_id] = "#/job/tenant_id"
    known = {one for one in Tenant.objects.values_list("pk", flat=True) if of_tenant in (None, one)}
    alive = set(Cluster.objects.filter(decommissioned_at__isnull=True).values_list("pk", flat=True))
    nodes = set(Node.objects.filter(pk__in=asked.changes.drained).values_list("pk", flat=True))
    places = dict.fromkeys(asked.changes.drained, "#/drain_node_ids")
    problems = _missing(clusters, alive, "cluster") + _missing(tenants, known, "tenant")
    problems += _missing(places, nodes, "node")
    if problems:
        raise InvalidInput(*problems)


def _missing(places: Mapping[int, str], known: Collection[int], what: str) -> list[FieldProblem]:
    return [
        FieldProblem(pointer, "does_not_exist", f"There is no {what} {pk}.")
        for pk, pointer in places.items()
        if pk not in known
    ]


def _look(asked: Asked, now: datetime) -> _World:
    snapshot = take_snapshot(now)
    if asked.job is not None:
        snapshot = replace(snapshot, jobs=[*snapshot.jobs, replace(asked.job, job_id=FIRST_ID, submitted_at=now)])
    gpus = GPU.objects.filter(retired_at__isnull=True).order_by().values_list("model").annotate(count=Count("pk"))
    registered = dict(gpus)
    tenants = {job.tenant_id for job in snapshot.jobs} | {None}
    models = registered.keys() | {one.model for one in asked.changes.additions}
    rates = rates_for([(tenant_id, model) for tenant_id in tenants for model in models], now)
    return _World(
        snapshot=snapshot,
        lengths=lengths_at(now),
        gpus=registered,
        hostnames=dict(Node.objects.values_list("pk", "hostname")),
        pricing=Pricing(locked_prices(), rates, Changes()),
    )


def _answer(asked: Asked, world: _World, of_tenant: int | None, now: datetime) -> Answer:
    horizon = now + asked.horizon
    seconds = asked.seconds / 2 if asked.changes else asked.seconds
    as_it_is = _run(asked, world.snapshot, world, now, horizon, seconds)
    as_it_might_be, until = None, as_it_is.until
    if asked.changes:
        other = changed(world.snapshot, asked.changes)
        as_it_might_be = _run(asked, other, world, now, until, seconds)
        until = min(until, as_it_might_be.until)
    cut = as_it_is.cut or (as_it_might_be is not None and as_it_might_be.cut)
    present = _scenario(asked, as_it_is, until, world, Changes(), of_tenant)
    other_world = None
    if as_it_might_be is not None:
        other_world = _scenario(asked, as_it_might_be, until, world, asked.changes, of_tenant)
    return Answer(now, horizon, until, cut, present, other_world, ASSUMPTIONS)


def _run(asked: Asked, snapshot: Snapshot, world: _World, now: datetime, until: datetime, seconds: float) -> Course:
    return simulate(
        snapshot,
        now,
        lengths=world.lengths,
        until=until,
        seconds=seconds,
        coalesce=COALESCE,
        asked=_id_of(asked),
    )


def _scenario(
    asked: Asked, course: Course, until: datetime, world: _World, changes: Changes, of_tenant: int | None
) -> Scenario:
    gpus = Counter(world.gpus)
    for one in changes.additions:
        gpus[one.model] += one.gpus
    names = {**world.hostnames, **changes.new_hostnames()}
    pricing = Pricing(world.pricing.locked, world.pricing.rates, changes)
    return scenario_of(
        course, until, pricing, registered=gpus, hostnames=names, asked=_id_of(asked), of_tenant=of_tenant
    )


def _id_of(asked: Asked) -> int | None:
    return FIRST_ID if asked.job is not None else asked.job_id


def _keep(asked: Asked, answer: Answer, now: datetime) -> None:
    """Keep what was said of a job that waits. That the next cycle starts it is no prediction."""
    said = answer.present.job
    if asked.job_id is not None and said is not None and said.starts_at is not None and said.starts_at > answer.made_at:
        keep_estimates(estimates={asked.job_id: said.starts_at}, source=EstimateSource.WHAT_IF, now=now)
