"""The same trace under other policies, as pure simulations, and what each comes to."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from dashboard.replay.living import PRICE, PRIORITY, START, Life
from dashboard.replay.trace import Trace
from jobs.placement import NodeView, RunningJob, Snapshot, TenantView, WaitingJob
from jobs.simulation import (
    Holding,
    Length,
    Policy,
    Source,
    Waits,
    fifo,
    seconds_held,
    simulate,
    stranded_share,
    summary,
)

# Longer than any trace; a course ends when nothing is to come.
FOREVER = timedelta(days=36_500)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a policy made of the trace. All but the waits are up to the last submission; times are in seconds, money in
    USD. ``holdings`` are by task name, for comparison and the plot."""

    name: str
    waits: Waits
    wait_mean_s: float
    wait_max_s: float
    utilization: float
    stranded: float | None
    revenue: float
    leakage: float
    makespan_s: float
    holdings: Mapping[str, Holding]


def run_plan(trace: Trace, life: Life) -> dict[str, Holding]:
    """The scheduler's own plan, without a database."""
    return _run(trace, life, None)


def run_fifo(trace: Trace, life: Life) -> dict[str, Holding]:
    """First in, first out, without backfill."""
    return _run(trace, life, fifo)


def _run(trace: Trace, life: Life, policy: Policy | None) -> dict[str, Holding]:
    """On the hardware as it is registered."""
    jobs = [
        WaitingJob(
            job_id=number,
            cluster_id=life.cluster_id,
            tenant_id=life.tenants[task.tenant],
            gpu_count=task.gpus,
            gpu_type=task.gpu_type,
            priority=PRIORITY,
            submitted_at=START + timedelta(seconds=task.at),
            minutes=task.minutes,
        )
        for number, task in enumerate(trace.tasks)
    ]

    def as_in_the_trace(job: RunningJob) -> Length:
        return Length(timedelta(seconds=trace.tasks[job.job_id].lasts), Source.HISTORY)

    course = simulate(_idle(trace, life, jobs), START, lengths=as_in_the_trace, until=START + FOREVER, policy=policy)
    return {trace.tasks[one.job_id].name: one for one in course.holdings}


def _idle(trace: Trace, life: Life, jobs: Sequence[WaitingJob]) -> Snapshot:
    by_node: dict[tuple[int, str, str], list[int]] = defaultdict(list)
    for node_id, hostname, model, gpu_id in life.gpus():
        by_node[node_id, hostname, model].append(gpu_id)
    nodes = [NodeView(pk, life.cluster_id, host, {model: gpus}) for (pk, host, model), gpus in by_node.items()]
    largest: dict[tuple[int, str], int] = {}
    for node in trace.nodes:
        place = life.cluster_id, node.model
        largest[place] = max(node.gpus, largest.get(place, 0))
    tenants = {tenant_id: TenantView(trace.gpus, 0) for tenant_id in life.tenants.values()}
    return Snapshot(jobs, nodes, tenants, largest, gpu_total=trace.gpus)


def outcome_of(name: str, trace: Trace, life: Life, holdings: Mapping[str, Holding]) -> Outcome:
    """The figures of a policy."""
    until = START + timedelta(seconds=trace.ends)
    waits = [(holdings[task.name].start - submitted(task.at)).total_seconds() for task in trace.tasks]
    sold = sum(seconds_held(one, START, until) for one in holdings.values())
    registered = trace.gpus * trace.ends
    sizes: dict[int, int] = defaultdict(int)
    for node_id, _, _, _ in life.gpus():
        sizes[node_id] += 1
    ends = [one.end for one in holdings.values() if one.end is not None]
    return Outcome(
        name=name,
        waits=summary(waits),
        wait_mean_s=sum(waits) / len(waits) if waits else 0.0,
        wait_max_s=max(waits, default=0.0),
        utilization=sold / registered if registered else 0.0,
        stranded=stranded_share(holdings.values(), sizes, START, until),
        revenue=sold / 3_600 * float(PRICE),
        leakage=(registered - sold) / 3_600 * float(PRICE),
        makespan_s=(max(ends, default=START) - START).total_seconds(),
        holdings=holdings,
    )


def submitted(at: int) -> datetime:
    """When a task comes that comes so many seconds after the beginning."""
    return START + timedelta(seconds=at)


def different(one: Mapping[str, Holding], other: Mapping[str, Holding]) -> list[str]:
    """The tasks that did not have the same GPUs' nodes at the same time in both."""
    return [name for name in one.keys() | other.keys() if _of(one.get(name)) != _of(other.get(name))]


def _of(holding: Holding | None) -> object:
    return holding and (holding.start, holding.end, holding.model, dict(holding.nodes))
