"""Everything that keeps a waiting job from its start, and what would let it start now."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from jobs.placement.forecasting import forecast
from jobs.placement.matching import preferences
from jobs.placement.planner import Planner
from jobs.placement.plans import plan
from jobs.placement.reasoning import Reasoning
from jobs.placement.reserving import NEVER
from jobs.placement.shapes import Snapshot, Start, WaitCode, WaitingJob, sentence

# How much planning one explanation may cost: plans times jobs in the queue.
MOST_WORK: Final = 200_000
MOST_PLANS: Final = 200


@dataclass(frozen=True, slots=True)
class Blocker:
    """One thing that keeps the job from its start, in words and figures."""

    code: str
    text: str
    figures: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Remedy:
    """A change of one thing with which the job would start in the next cycle."""

    name: str
    value: int | str
    text: str


@dataclass(frozen=True, slots=True)
class Prospect:
    """How a waiting job stands. The first blocker binds; without one the next cycle starts the job.

    ``place`` among the ``queued`` jobs of its cluster that can't start now, from 1. ``earliest``: when its GPUs would
    be there if nobody were ahead; ``estimated``: when it would start by the plan run forward. Both None where too few
    of the jobs that run say how long they take.
    """

    blockers: tuple[Blocker, ...]
    place: int | None
    queued: int
    earliest: datetime | None
    estimated: datetime | None
    without_estimate: int
    remedies: tuple[Remedy, ...]


def prospect_of(job_id: int, snapshot: Snapshot, now: datetime) -> Prospect:
    """How the job of the snapshot stands; what waits on other clusters is left out of account."""
    job = next(one for one in snapshot.jobs if one.job_id == job_id)
    snapshot = _narrowed(snapshot, job.cluster_id)
    planner = Planner(snapshot, now)
    planner.run()
    waiting = [one.job_id for one in planner.waiting()]
    most_plans = max(1, min(MOST_PLANS, MOST_WORK // len(snapshot.jobs)))
    waits = job_id in waiting
    return Prospect(
        blockers=_blockers(job, planner) if waits else (),
        place=waiting.index(job_id) + 1 if waits else None,
        queued=len(waiting),
        earliest=_earliest(job, planner) if waits else now,
        estimated=forecast(snapshot, now, wanted=[job_id], most_plans=most_plans).get(job_id),
        without_estimate=sum(running.minutes is None for running in snapshot.running),
        remedies=_remedies(job, snapshot, planner, now) if waits else (),
    )


def _narrowed(snapshot: Snapshot, cluster_id: int) -> Snapshot:
    """What concerns one cluster; what tenants hold is counted over the fleet all the same."""
    return replace(
        snapshot,
        jobs=[one for one in snapshot.jobs if one.cluster_id == cluster_id],
        nodes=[node for node in snapshot.nodes if node.cluster_id == cluster_id],
        running=[running for running in snapshot.running if running.cluster_id == cluster_id],
    )


def _earliest(job: WaitingJob, planner: Planner) -> datetime | None:
    shadows = [planner.shadow_of(job, model) for model in planner.models(job)]
    known = [found.at for found in shadows if found is not None and found.at < NEVER]
    return planner.now if _fits_now(job, planner) else min(known, default=None)


def _fits_now(job: WaitingJob, planner: Planner) -> bool:
    return Reasoning(planner).reason(job, None).code is WaitCode.RESERVED


def _blockers(job: WaitingJob, planner: Planner) -> tuple[Blocker, ...]:
    """The rules, each looked at by itself, and then the hardware, model by model."""
    snapshot, found = planner.snapshot, []
    if job.cluster_id in snapshot.closed_clusters:
        found.append(_plain(WaitCode.CLUSTER_MAINTENANCE, {}))
    if job.tenant_id is not None:
        tenant = snapshot.tenants[job.tenant_id]
        if not tenant.active:
            found.append(_plain(WaitCode.TENANT_INACTIVE, {}))
        held = planner.quotas.held[job.tenant_id]
        if planner.is_passed_over(job) or not planner.quotas.admits(job):
            figures = dict(Reasoning(planner).reason(job, WaitCode.QUOTA).figures)
            figures["short_by"] = max(0, held + job.gpu_count - tenant.quota)
            found.append(_plain(WaitCode.QUOTA, figures))
    return tuple(found + _of_hardware(job, planner))


def _plain(code: WaitCode, figures: Mapping[str, Any]) -> Blocker:
    return Blocker(code, sentence(code, figures), figures)


def _of_hardware(job: WaitingJob, planner: Planner) -> list[Blocker]:
    models = planner.models(job)
    if not models:
        wants = " or ".join(preferences(job.gpu_type))
        text = f"The cluster has no GPU of {wants}." if wants else "The cluster has no GPU."
        return [Blocker(WaitCode.CAPACITY, text, {"needs": job.gpu_count, "free": 0})]
    found = [_of_model(job, model, planner) for model in models]
    # One model that would do is enough, so that nothing is said against the hardware then.
    return [] if None in found else [blocker for blocker in found if blocker is not None]


def _of_model(job: WaitingJob, model: str, planner: Planner) -> Blocker | None:
    """What is wrong with this model; None where the job would fit."""
    code = Reasoning(planner).reason(replace(job, gpu_type=model), None).code
    pool = planner.pools[job.cluster_id][model]
    sizes = {node_id: len(gpus) + len(pool.kept.get(node_id, ())) for node_id, gpus in pool.free.items()}
    if code is WaitCode.RESERVED and pool.most_on_one_node() >= job.gpu_count:
        return None
    best = max(sizes, key=lambda node_id: (sizes[node_id], -node_id), default=None)
    one_node = job.gpu_count <= pool.largest_node
    figures: dict[str, Any] = {
        "model": model,
        "needs": job.gpu_count,
        "one_node": one_node,
        "free": pool.total_with_kept,
        "free_on_best_node": 0 if best is None else sizes[best],
        "best_node": next((node.hostname for node in planner.snapshot.nodes if node.node_id == best), None),
    }
    figures |= _release(job, model, planner)
    return Blocker(code, _words(code, figures), figures)


def _release(job: WaitingJob, model: str, planner: Planner) -> dict[str, Any]:
    """When enough would be free, and how many jobs end until then where it would be."""
    kept = planner.reservations.get(job.cluster_id)
    if kept is not None and kept.model == model and kept.job.job_id != job.job_id:
        figures = {"kept": sum(kept.nodes.values()), "kept_from": kept.at}
    else:
        figures = {}
    figures["out_of_service"] = _out_of_service(job.cluster_id, model, planner)
    first = planner.shadow_of(job, model)
    figures["enough_in_service"] = first is not None
    if first is None or first.at == NEVER:
        return {**figures, "free_at": None, "jobs_ending": 0}
    ends = [end for end in planner.ends(job.cluster_id, model) if end.at <= first.at and end.node_id in first.nodes]
    return {**figures, "free_at": first.at, "jobs_ending": len(ends)}


def _out_of_service(cluster_id: int, model: str, planner: Planner) -> int:
    """GPUs of the model that are neither held nor free: drained, in maintenance, unhealthy, offline, or resting."""
    registered = planner.snapshot.registered.get((cluster_id, model), 0)
    running = (one for one in planner.snapshot.running if (one.cluster_id, one.model) == (cluster_id, model))
    given = sum(start.job.gpu_count for start in planner.starts if _is_of(start, cluster_id, model))
    free = planner.pools[cluster_id][model].total_with_kept
    return max(0, registered - free - given - sum(one.held for one in running))


def _is_of(start: Start, cluster_id: int, model: str) -> bool:
    return (start.job.cluster_id, start.model) == (cluster_id, model)


def _words(code: WaitCode, figures: Mapping[str, Any]) -> str:
    together = " on one node" if figures["one_node"] else ""
    gpus = "GPU" if figures["needs"] == 1 else "GPUs"
    text = f"Needs {figures['needs']} {gpus} of {figures['model']}{together}; {figures['free']} are free"
    if figures["out_of_service"]:
        text += f", {figures['out_of_service']} are out of service"
    if figures["best_node"] is not None and figures["one_node"]:
        text += f", and the freest node ({figures['best_node']}) has {figures['free_on_best_node']}"
    text += "."
    if "kept" in figures:
        until = "" if figures["kept_from"] is None else f" from {figures['kept_from']:%Y-%m-%d %H:%M} UTC on"
        text += f" {figures['kept']} are kept{until} for another job."
    if code is WaitCode.RESERVED:
        return text
    if not figures["enough_in_service"]:
        return text + " Nothing that runs would free enough."
    if figures["free_at"] is None:
        return text + " Too few of the jobs that run say when they end."
    jobs = "job ends" if figures["jobs_ending"] == 1 else "jobs end"
    return text + f" {figures['jobs_ending']} {jobs} by {figures['free_at']:%Y-%m-%d %H:%M} UTC and would free them."


def _remedies(job: WaitingJob, snapshot: Snapshot, planner: Planner, now: datetime) -> tuple[Remedy, ...]:
    """Changes of one thing alone, each tried by the same plan."""
    found = []
    if job.tenant_id is not None:
        tenant = snapshot.tenants[job.tenant_id]
        short = planner.quotas.held[job.tenant_id] + job.gpu_count - tenant.quota
        larger = {**snapshot.tenants, job.tenant_id: replace(tenant, quota=tenant.quota + max(short, 0))}
        if short > 0 and _starts(job, replace(snapshot, tenants=larger), now):
            text = f"A quota larger by {short}: {tenant.quota + short}."
            found.append(Remedy("gpu_quota", tenant.quota + short, text))
    if job.gpu_type and _starts(replace(job, gpu_type=""), snapshot, now):
        found.append(Remedy("gpu_type", "", "Any model."))
    count = _fewer(job, snapshot, planner, now)
    if count is not None:
        gpus = "GPU" if count == 1 else "GPUs"
        found.append(Remedy("gpu_count", count, f"{count} {gpus} instead of {job.gpu_count}."))
    return tuple(found)


def _fewer(job: WaitingJob, snapshot: Snapshot, planner: Planner, now: datetime) -> int | None:
    """The most GPUs, fewer than it asks for, with which the job would start."""
    pools = [planner.pools[job.cluster_id][model] for model in planner.models(job)]
    sizes = {size for pool in pools for size in (pool.most_with_kept(), pool.total_with_kept, pool.most_on_one_node())}
    if job.tenant_id is not None:
        sizes.add(snapshot.tenants[job.tenant_id].quota - planner.quotas.held[job.tenant_id])
    for count in sorted((size for size in sizes if 0 < size < job.gpu_count), reverse=True):
        if _starts(replace(job, gpu_count=count), snapshot, now):
            return count
    return None


def _starts(job: WaitingJob, snapshot: Snapshot, now: datetime) -> bool:
    jobs = [job if one.job_id == job.job_id else one for one in snapshot.jobs]
    return any(start.job.job_id == job.job_id for start in plan(replace(snapshot, jobs=jobs), now).starts)
