"""Which waiting job gets which GPUs now, and why the others wait. Pure: plain objects in, a plan out.

The policy, in this order:

1. strict priority, 1 before 10;
2. within a priority, fair share: the tenant that holds the smaller part of its quota goes first, counting what this
   plan has already given it;
3. then age.

A job gets all of its GPUs at once or none (gang scheduling), all of one model. A job that fits on one node of that
model gets one node, the one where the fewest GPUs stay free (tightest fit); a larger one gets the fewest nodes. A job
that can't start does not hold back those behind it.

``gpu_type`` is a list of preferences, ``A|B``; empty means any model. Of models that are equally welcome those come
first that have a node large enough for the whole job, and then the one with the most free GPUs. An entry matches a
model that is equal to it or begins with it at a word's end, whatever the case, with or without the vendor's name in
front: ``A100`` matches ``NVIDIA A100-SXM4-80GB``, and ``A10`` does not.

A reason says how things stand after the plan. A plan made anew of what this one leaves starts nothing and gives every
job the same reason, so that a queue in which nothing happens costs no writes.
"""

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

VENDORS = ("nvidia ", "amd ", "intel ")


class WaitCode(StrEnum):
    """Why a job waits. The ledger splits idle GPU-seconds by these codes."""

    SCHEDULER = "scheduler"  # Nobody has looked at it yet: the scheduler's own delay.
    HELD = "held"  # A person or a client put it on hold.
    TENANT_INACTIVE = "tenant_inactive"
    CLUSTER_MAINTENANCE = "cluster_maintenance"
    QUOTA = "quota"
    CAPACITY = "capacity"  # Too few free GPUs of the models it takes.
    FRAGMENTED = "fragmented"  # Enough free GPUs, but not together.


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node that takes jobs, and its free GPUs by model."""

    node_id: int
    cluster_id: int
    hostname: str
    free: Mapping[str, Sequence[int]]


@dataclass(frozen=True, slots=True)
class TenantView:
    """What a tenant may hold, and holds now."""

    quota: int
    held: int
    active: bool = True


@dataclass(frozen=True, slots=True)
class WaitingJob:
    """A job in the queue."""

    job_id: int
    cluster_id: int
    tenant_id: int | None
    gpu_count: int
    gpu_type: str
    priority: int
    submitted_at: datetime


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The world at one instant. ``largest_node``: the most GPUs of a model that one node of the cluster has, free or
    not, by (cluster id, model). ``unassigned_held``: GPUs held by jobs without a tenant; ``gpu_total``: all GPUs."""

    jobs: Sequence[WaitingJob]
    nodes: Sequence[NodeView]
    tenants: Mapping[int, TenantView]
    largest_node: Mapping[tuple[int, str], int]
    closed_clusters: frozenset[int] = frozenset()
    unassigned_held: int = 0
    gpu_total: int = 0


@dataclass(frozen=True, slots=True)
class Start:
    """Give these GPUs to this job."""

    job: WaitingJob
    model: str
    gpu_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Reason:
    """Why jobs wait, with the figures behind it."""

    code: WaitCode
    figures: Mapping[str, Any]

    @property
    def sentence(self) -> str:
        """The reason in words, for people."""
        return sentence(self.code, self.figures)


@dataclass(frozen=True, slots=True)
class Wait:
    """These jobs wait, all for this reason."""

    reason: Reason
    job_ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do about every job of the snapshot: each is in exactly one start or wait. Starts are in their order."""

    starts: Sequence[Start]
    waits: Sequence[Wait]


def plan(snapshot: Snapshot) -> Plan:
    """Decide about every waiting job, in the policy's order."""
    planner = _Planner(snapshot)
    starts: list[Start] = []
    left: list[WaitingJob] = []
    for job in planner.in_order():
        start = planner.try_to_start(job)
        if start is None:
            left.append(job)
        else:
            starts.append(start)
    return Plan(starts, planner.explain(left))


def preferences(gpu_type: str) -> tuple[str, ...]:
    """The entries of a preference list, in order; empty for any model."""
    return tuple(entry.strip() for entry in gpu_type.split("|") if entry.strip())


def matches(entry: str, model: str) -> bool:
    """Whether one entry of a preference list takes a model; see the module's text."""
    wanted, name = entry.casefold(), model.casefold()
    return any(_begins(wanted, candidate) for candidate in (name, _without_vendor(name)))


def takes(gpu_type: str, model: str) -> bool:
    """Whether a job with this preference list may run on this model."""
    entries = preferences(gpu_type)
    return not entries or any(matches(entry, model) for entry in entries)


def sentence(code: str, figures: Mapping[str, Any]) -> str:
    """The reason in words, for people."""
    return SENTENCES[WaitCode(code)].format_map(defaultdict(str, figures))


SENTENCES: Mapping[WaitCode, str] = {
    WaitCode.SCHEDULER: "Waits for the scheduler's next cycle.",
    WaitCode.HELD: "On hold: {reason}",
    WaitCode.TENANT_INACTIVE: "The tenant is inactive.",
    WaitCode.CLUSTER_MAINTENANCE: "The cluster is in maintenance.",
    WaitCode.QUOTA: "Needs {needs} GPUs; the tenant holds {held} of its quota of {quota}.",
    WaitCode.CAPACITY: "Needs {needs} GPUs of {wants}; {free} are free.",
    WaitCode.FRAGMENTED: "Needs {needs} GPUs of {wants} together; {free} are free, at most {best} on one node.",
}


# Jobs with the same key wait for the same reason.
_Key = tuple[WaitCode | int | str | None, ...]


def _begins(wanted: str, name: str) -> bool:
    return name.startswith(wanted) and not name[len(wanted) : len(wanted) + 1].isalnum()


def _without_vendor(name: str) -> str:
    for vendor in VENDORS:
        if name.startswith(vendor):
            return name[len(vendor) :]
    return name


@dataclass(slots=True)
class _Pool:
    """The free GPUs of one model in one cluster, by node, with the nodes in buckets by how many they have free."""

    largest_node: int = 0
    total: int = 0
    free: dict[int, list[int]] = field(default_factory=dict)
    buckets: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))

    def add(self, node_id: int, gpu_ids: Iterable[int]) -> None:
        self.free[node_id] = sorted(gpu_ids, reverse=True)
        self.total += len(self.free[node_id])
        self._file(node_id)

    def _file(self, node_id: int) -> None:
        heapq.heappush(self.buckets[len(self.free[node_id])], node_id)

    def _head(self, count: int) -> int | None:
        """The node with exactly this many free that has the smallest id. Stale entries are dropped on the way."""
        bucket = self.buckets.get(count)
        while bucket:
            if len(self.free[bucket[0]]) == count:
                return bucket[0]
            heapq.heappop(bucket)
        return None

    def most_on_one_node(self) -> int:
        return max((count for count in self.buckets if count and self._head(count) is not None), default=0)

    def take(self, count: int) -> tuple[int, ...] | None:
        """Take GPUs on one node where one node could hold them all, else on the fewest; None when it can't be now."""
        if count > self.total:
            return None
        if count <= self.largest_node:
            node_id = self._tightest(count)
            return None if node_id is None else self._take_from(node_id, count)
        return self._take_spread(count)

    def _tightest(self, count: int) -> int | None:
        for size in sorted(size for size in self.buckets if size >= count):
            node_id = self._head(size)
            if node_id is not None:
                return node_id
        return None

    def _take_from(self, node_id: int, count: int) -> tuple[int, ...]:
        gpus = self.free[node_id]
        taken = tuple(gpus.pop() for _ in range(count))
        self.total -= count
        self._file(node_id)
        return taken

    def _take_spread(self, count: int) -> tuple[int, ...]:
        """The fullest nodes first, which makes them the fewest; the rest goes where it fits tightest."""
        taken: tuple[int, ...] = ()
        while len(taken) < count:
            rest = count - len(taken)
            node_id = self._tightest(min(rest, self.most_on_one_node()))
            assert node_id is not None  # noqa: S101  (there are enough free GPUs in all)
            taken += self._take_from(node_id, min(rest, len(self.free[node_id])))
        return taken


class _Planner:
    """The snapshot, with what the plan has given away so far."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.held = {tenant_id: tenant.held for tenant_id, tenant in snapshot.tenants.items()}
        self.unassigned_held = snapshot.unassigned_held
        self.pools: dict[int, dict[str, _Pool]] = defaultdict(lambda: defaultdict(_Pool))
        # Free GPUs only become fewer while a plan is made, so what did not fit once will not fit again.
        self.misfits: set[tuple[int, str, int]] = set()
        for (cluster_id, model), size in snapshot.largest_node.items():
            self.pools[cluster_id][model].largest_node = size
        for node in snapshot.nodes:
            for model, gpu_ids in node.free.items():
                self.pools[node.cluster_id][model].add(node.node_id, gpu_ids)

    def in_order(self) -> Iterator[WaitingJob]:
        """The queue in the policy's order. The order depends on what has been given, so it is made as it is read."""
        by_priority: dict[int, dict[int | None, list[WaitingJob]]] = defaultdict(lambda: defaultdict(list))
        for job in sorted(self.snapshot.jobs, key=_age, reverse=True):
            by_priority[job.priority][job.tenant_id].append(job)
        for priority in sorted(by_priority):
            yield from self._fair(by_priority[priority])

    def _fair(self, queues: dict[int | None, list[WaitingJob]]) -> Iterator[WaitingJob]:
        """Merge the tenants' queues: whose share is smallest goes next. Each queue's oldest job is its last item."""
        heads = [(self._share(tenant_id), *_age(jobs[-1]), tenant_id) for tenant_id, jobs in queues.items()]
        heapq.heapify(heads)
        while heads:
            tenant_id = heads[0][-1]
            jobs = queues[tenant_id]
            yield jobs.pop()
            if jobs:
                heapq.heapreplace(heads, (self._share(tenant_id), *_age(jobs[-1]), tenant_id))
            else:
                heapq.heappop(heads)

    def _share(self, tenant_id: int | None) -> float:
        """GPUs held over quota; for jobs without a tenant, over the whole fleet."""
        if tenant_id is None:
            return self.unassigned_held / max(self.snapshot.gpu_total, 1)
        return self.held[tenant_id] / self.snapshot.tenants[tenant_id].quota

    def try_to_start(self, job: WaitingJob) -> Start | None:
        """Give the job its GPUs, if it may have them and they are there."""
        if self._barred(job) is not None or _wish(job) in self.misfits:
            return None
        for model in self._models(job):
            gpu_ids = self.pools[job.cluster_id][model].take(job.gpu_count)
            if gpu_ids is not None:
                self._count(job)
                return Start(job, model, gpu_ids)
        self.misfits.add(_wish(job))
        return None

    def explain(self, left: Iterable[WaitingJob]) -> list[Wait]:
        """Why these wait, as things stand now that everything is given. Jobs with one reason are together."""
        waits: dict[_Key, Wait] = {}
        job_ids: dict[_Key, list[int]] = defaultdict(list)
        for job in left:
            code = self._barred(job)
            key = (code, job.tenant_id, job.gpu_count) if code is WaitCode.QUOTA else (code, *_wish(job))
            if key not in waits:
                waits[key] = Wait(self._reason(job, code), job_ids[key])
            job_ids[key].append(job.job_id)
        return list(waits.values())

    def _barred(self, job: WaitingJob) -> WaitCode | None:
        """The rule that stands before the hardware, if one does."""
        if job.cluster_id in self.snapshot.closed_clusters:
            return WaitCode.CLUSTER_MAINTENANCE
        if job.tenant_id is None:
            return None
        tenant = self.snapshot.tenants[job.tenant_id]
        if not tenant.active:
            return WaitCode.TENANT_INACTIVE
        return WaitCode.QUOTA if self.held[job.tenant_id] + job.gpu_count > tenant.quota else None

    def _models(self, job: WaitingJob) -> list[str]:
        """The models the job takes, the preferred one first; see the module's text for equals."""
        pools = self.pools[job.cluster_id]
        by_merit = sorted(
            pools, key=lambda model: (pools[model].largest_node < job.gpu_count, -pools[model].total, model)
        )
        entries = preferences(job.gpu_type)
        if not entries:
            return by_merit
        wanted = [model for entry in entries for model in by_merit if matches(entry, model)]
        return list(dict.fromkeys(wanted))

    def _count(self, job: WaitingJob) -> None:
        if job.tenant_id is None:
            self.unassigned_held += job.gpu_count
        else:
            self.held[job.tenant_id] += job.gpu_count

    def _reason(self, job: WaitingJob, code: WaitCode | None) -> Reason:
        if code is None:
            return self._misfit(job)
        if code is not WaitCode.QUOTA or job.tenant_id is None:
            return Reason(code, {})
        held, quota = self.held[job.tenant_id], self.snapshot.tenants[job.tenant_id].quota
        return Reason(code, {"needs": job.gpu_count, "held": held, "quota": quota})

    def _misfit(self, job: WaitingJob) -> Reason:
        pools = [self.pools[job.cluster_id][model] for model in self._models(job)]
        free = max((pool.total for pool in pools), default=0)
        best = max((pool.most_on_one_node() for pool in pools), default=0)
        wants = " or ".join(preferences(job.gpu_type)) or "one model"
        figures = {"needs": job.gpu_count, "wants": wants, "free": free, "best": best}
        return Reason(WaitCode.FRAGMENTED if free >= job.gpu_count else WaitCode.CAPACITY, figures)


def _wish(job: WaitingJob) -> tuple[int, str, int]:
    """What of a job decides whether the hardware can take it."""
    return job.cluster_id, job.gpu_type, job.gpu_count


def _age(job: WaitingJob) -> tuple[datetime, int]:
    return job.submitted_at, job.job_id
