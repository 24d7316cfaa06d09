"""The policy of ``jobs.placement`` once more, as slow and plain as it can be said, for tests to compare with.

It knows no heaps, buckets or memories: whenever a job is to be chosen, all are looked at; whenever a node is, all are.
"""

from collections import Counter
from collections.abc import Iterable

from jobs.placement import Snapshot, WaitCode, WaitingJob, matches

Free = dict[tuple[int, str, int], list[int]]  # By cluster, model and node.


def naive_plan(snapshot: Snapshot) -> tuple[list[tuple[int, tuple[int, ...]]], dict[int, WaitCode]]:
    """Who starts on which GPUs, in order; and why each of the others waits when all is given."""
    free: Free = {
        (node.cluster_id, model, node.node_id): sorted(gpus)
        for node in snapshot.nodes
        for model, gpus in node.free.items()
    }
    held = Counter({tenant_id: tenant.held for tenant_id, tenant in snapshot.tenants.items()})
    unassigned = snapshot.unassigned_held
    undecided, left, starts = list(snapshot.jobs), [], []
    while undecided:
        shares = {pk: held[pk] / tenant.quota for pk, tenant in snapshot.tenants.items()}
        orphans = unassigned / max(snapshot.gpu_total, 1)
        job = min(
            undecided,
            key=lambda one: (
                one.priority,
                orphans if one.tenant_id is None else shares[one.tenant_id],
                one.submitted_at,
                one.job_id,
            ),
        )
        undecided.remove(job)
        gpus = None if rule_against(job, snapshot, held) else place(job, snapshot, free)
        if gpus is None:
            left.append(job)
            continue
        starts.append((job.job_id, gpus))
        if job.tenant_id is None:
            unassigned += job.gpu_count
        else:
            held[job.tenant_id] += job.gpu_count
    return starts, {job.job_id: rule_against(job, snapshot, held) or shortage(job, free) for job in left}


def rule_against(job: WaitingJob, snapshot: Snapshot, held: Counter[int]) -> WaitCode | None:
    if job.cluster_id in snapshot.closed_clusters:
        return WaitCode.CLUSTER_MAINTENANCE
    if job.tenant_id is None:
        return None
    tenant = snapshot.tenants[job.tenant_id]
    if not tenant.active:
        return WaitCode.TENANT_INACTIVE
    return WaitCode.QUOTA if held[job.tenant_id] + job.gpu_count > tenant.quota else None


def shortage(job: WaitingJob, free: Free) -> WaitCode:
    most = max((total(job.cluster_id, model, free) for model in wanted(job, models_of(job, free))), default=0)
    return WaitCode.FRAGMENTED if most >= job.gpu_count else WaitCode.CAPACITY


def place(job: WaitingJob, snapshot: Snapshot, free: Free) -> tuple[int, ...] | None:
    """Take the GPUs out of ``free``."""

    def one_node_could(model: str) -> bool:
        return snapshot.largest_node.get((job.cluster_id, model), 0) >= job.gpu_count

    models = sorted(
        models_of(job, free), key=lambda model: (not one_node_could(model), -total(job.cluster_id, model, free), model)
    )
    for model in wanted(job, models):
        nodes = {
            node: gpus for (cluster, name, node), gpus in free.items() if (cluster, name) == (job.cluster_id, model)
        }
        large_enough = [node for node in nodes if len(nodes[node]) >= job.gpu_count]
        if one_node_could(model):
            if large_enough:
                return take(nodes, [min(large_enough, key=lambda node: (len(nodes[node]), node))], job.gpu_count)
        elif sum(map(len, nodes.values())) >= job.gpu_count:
            return take(nodes, fewest(nodes, job.gpu_count), job.gpu_count)
    return None


def fewest(nodes: dict[int, list[int]], count: int) -> list[int]:
    """The fullest nodes one by one, and the rest where it fits tightest."""
    chosen: list[int] = []
    rest = count
    while rest > 0:
        others = {node: len(gpus) for node, gpus in nodes.items() if node not in chosen and gpus}
        enough = [node for node in others if others[node] >= rest]
        best = (
            min(enough, key=lambda node: (others[node], node)) if enough else min(others, key=lambda n: (-others[n], n))
        )
        chosen.append(best)
        rest -= others[best]
    return chosen


def take(nodes: dict[int, list[int]], chosen: Iterable[int], count: int) -> tuple[int, ...]:
    taken: list[int] = []
    for node in chosen:
        while nodes[node] and len(taken) < count:
            taken.append(nodes[node].pop(0))
    return tuple(taken)


def models_of(job: WaitingJob, free: Free) -> list[str]:
    return sorted({model for cluster, model, _ in free if cluster == job.cluster_id})


def wanted(job: WaitingJob, models: list[str]) -> list[str]:
    entries = [entry.strip() for entry in job.gpu_type.split("|") if entry.strip()]
    if not entries:
        return models
    return list(dict.fromkeys(model for entry in entries for model in models if matches(entry, model)))


def total(cluster_id: int, model: str, free: Free) -> int:
    return sum(len(gpus) for (cluster, name, _), gpus in free.items() if (cluster, name) == (cluster_id, model))
