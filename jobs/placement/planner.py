"""The plan: the queue in its order, each job given its GPUs, a reservation or a reason."""

import heapq
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta

from jobs.placement.matching import matches, preferences
from jobs.placement.pools import Pool, Taken
from jobs.placement.reserving import NEVER, End, Shadow, shadow
from jobs.placement.shapes import AGES_IN, Plan, Reason, Reservation, Snapshot, Start, Wait, WaitCode, WaitingJob

# Jobs with the same key wait for the same reason.
_Key = tuple[WaitCode | int | str | None, ...]


def plan(snapshot: Snapshot, now: datetime) -> Plan:
    """Decide about every waiting job, in the policy's order."""
    planner = Planner(snapshot, now)
    planner.run()
    return Plan(planner.starts, planner.reasons(), planner.left, planner.reservations)


class Planner:
    """The snapshot, with what the plan has given away so far."""

    def __init__(self, snapshot: Snapshot, now: datetime) -> None:
        self.snapshot = snapshot
        self.now = now
        self.aged_since = {priority: now - priority * AGES_IN for priority in {job.priority for job in snapshot.jobs}}
        self.held = {tenant_id: tenant.held for tenant_id, tenant in snapshot.tenants.items()}
        self.unassigned_held = snapshot.unassigned_held
        self.pools: dict[int, dict[str, Pool]] = defaultdict(lambda: defaultdict(Pool))
        # Free GPUs only become fewer while a plan is made, so what did not fit once will not fit again.
        self.misfits: set[tuple[int, str, int]] = set()
        self.starts: list[Start] = []
        self.left: list[WaitingJob] = []
        self.reservations: dict[int, Reservation] = {}
        self.unreservable: set[tuple[tuple[int, str, int], bool]] = set()
        # By tenant, the aged job for which the rest of its quota is kept.
        self.savers: dict[int, int] = {}
        for (cluster_id, model), size in snapshot.largest_node.items():
            self.pools[cluster_id][model].largest_node = size
        for node in snapshot.nodes:
            for model, gpu_ids in node.free.items():
                self.pools[node.cluster_id][model].add(node.node_id, gpu_ids)

    def run(self) -> None:
        """Go through the queue once."""
        for job in self._in_order():
            start = self._try_to_start(job)
            if start is None:
                self.left.append(job)
            else:
                self.starts.append(start)

    def _in_order(self) -> Iterator[WaitingJob]:
        """The queue in the policy's order. The order depends on what has been given, so it is made as it is read."""
        by_priority: dict[int, dict[int | None, list[WaitingJob]]] = defaultdict(lambda: defaultdict(list))
        aged = []
        for job in sorted(self.snapshot.jobs, key=_age, reverse=True):
            if self._is_aged(job):
                aged.append(job)
            else:
                by_priority[job.priority][job.tenant_id].append(job)
        yield from sorted(aged, key=lambda job: (job.submitted_at + job.priority * AGES_IN, job.job_id))
        for priority in sorted(by_priority):
            yield from self._fair(by_priority[priority])

    def _is_aged(self, job: WaitingJob) -> bool:
        return job.submitted_at <= self.aged_since[job.priority]

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

    def _try_to_start(self, job: WaitingJob) -> Start | None:
        """Give the job its GPUs, if it may have them and they are there; else, to the first of its cluster, the
        reservation of those that it will have first."""
        barred = self.barred(job)
        if barred is not None:
            if barred is WaitCode.QUOTA and job.tenant_id is not None and self._is_aged(job):
                self.savers.setdefault(job.tenant_id, job.job_id)
            return None
        start = self._start_on_free(job) or self._start_on_kept(job)
        if start is None:
            if job.cluster_id not in self.reservations:
                self._reserve(job)
            return None
        self._count(job)
        return start

    def _start_on_free(self, job: WaitingJob) -> Start | None:
        if _wish(job) in self.misfits:
            return None
        for model in self.models(job):
            taken = self.pools[job.cluster_id][model].take(job.gpu_count)
            if taken is not None:
                return Start(job, model, taken.gpu_ids, taken.nodes, self._why(job, model, taken))
        self.misfits.add(_wish(job))
        return None

    def _start_on_kept(self, job: WaitingJob) -> Start | None:
        """What ends before the reservation begins may have the GPUs that are kept for it."""
        kept = self.reservations.get(job.cluster_id)
        if kept is None or not kept.outlasts(job, self.now) or kept.model not in self.models(job):
            return None
        taken = self.pools[job.cluster_id][kept.model].take_kept(job.gpu_count)
        if taken is None:
            return None
        why = f"since it ends before {kept.at:%Y-%m-%d %H:%M} UTC, from when on they are kept for a job that is ahead"
        return Start(job, kept.model, taken.gpu_ids, taken.nodes, why)

    def _why(self, job: WaitingJob, model: str, taken: Taken) -> str:
        """Why these GPUs, for people."""
        if len(taken.nodes) > 1:
            return f"on {len(taken.nodes)} nodes, the fewest that have them"
        (node_id,) = taken.nodes
        left = len(self.pools[job.cluster_id][model].free[node_id])
        return f"on one node, the tightest fit: {left} of its GPUs stay free"

    def _reserve(self, job: WaitingJob) -> None:
        """Keep for the job what it will have first. Only an aged job keeps what it may have nobody knows when."""
        aged = self._is_aged(job)
        if (_wish(job), aged) in self.unreservable:
            return
        shadows = [(model, self.shadow_of(job, model)) for model in self.models(job)]
        found = [(model, one) for model, one in shadows if one is not None and (aged or one.at < NEVER)]
        if not found:
            self.unreservable.add((_wish(job), aged))
            return
        model, first = min(found, key=lambda item: item[1].at)
        at = first.at if first.at < NEVER else None
        self.reservations[job.cluster_id] = Reservation(job, model, first.nodes, at)
        pool = self.pools[job.cluster_id][model]
        for node_id, spare in first.spare.items():
            pool.keep(node_id, max(0, len(pool.free.setdefault(node_id, [])) - spare))

    def shadow_of(self, job: WaitingJob, model: str) -> Shadow | None:
        """When the job could have its GPUs of this model, if nothing else started, and which."""
        pool = self.pools[job.cluster_id][model]
        free = {node_id: len(gpus) + len(pool.kept.get(node_id, ())) for node_id, gpus in pool.free.items()}
        ends = self.ends().get((job.cluster_id, model), ())
        return shadow(free, ends, job.gpu_count, one_node=job.gpu_count <= pool.largest_node)

    def ends(self) -> dict[tuple[int, str], list[End]]:
        """When what runs, and what this plan has started, gives its GPUs back, by cluster and model."""
        ends: dict[tuple[int, str], list[End]] = defaultdict(list)
        for running in self.snapshot.running:
            at = running.ends_at(self.now) or NEVER
            ends[running.cluster_id, running.model] += [End(at, *node) for node in running.nodes.items()]
        for start in self.starts:
            minutes = start.job.minutes
            at = NEVER if minutes is None else self.now + timedelta(minutes=minutes)
            ends[start.job.cluster_id, start.model] += [End(at, *node) for node in start.nodes.items()]
        return ends

    def reasons(self) -> list[Wait]:
        """Why these wait, as things stand now that everything is given. Jobs with one reason are together."""
        waits: dict[_Key, Wait] = {}
        job_ids: dict[_Key, list[int]] = defaultdict(list)
        for job in self.left:
            code = self.barred(job)
            key = self._key(job, code)
            if key not in waits:
                waits[key] = Wait(self.reason(job, code), job_ids[key])
            job_ids[key].append(job.job_id)
        return list(waits.values())

    def _key(self, job: WaitingJob, code: WaitCode | None) -> _Key:
        if code is WaitCode.QUOTA:
            return (code, job.tenant_id, job.gpu_count, self.is_passed_over(job))
        return (code, *_wish(job))

    def barred(self, job: WaitingJob) -> WaitCode | None:
        """The rule that stands before the hardware, if one does."""
        if job.cluster_id in self.snapshot.closed_clusters:
            return WaitCode.CLUSTER_MAINTENANCE
        if job.tenant_id is None:
            return None
        tenant = self.snapshot.tenants[job.tenant_id]
        if not tenant.active:
            return WaitCode.TENANT_INACTIVE
        if self.is_passed_over(job):
            return WaitCode.QUOTA
        return WaitCode.QUOTA if self.held[job.tenant_id] + job.gpu_count > tenant.quota else None

    def is_passed_over(self, job: WaitingJob) -> bool:
        """Whether the rest of the tenant's quota is kept for another of its jobs."""
        return job.tenant_id in self.savers and self.savers[job.tenant_id] != job.job_id

    def models(self, job: WaitingJob) -> list[str]:
        """The models the job takes, the preferred one first; see the package's text for equals."""
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

    def reason(self, job: WaitingJob, code: WaitCode | None) -> Reason:
        """Why the job waits: by this rule, or for hardware."""
        if code is None:
            return self._misfit(job)
        if code is not WaitCode.QUOTA or job.tenant_id is None:
            return Reason(code, {})
        held, quota = self.held[job.tenant_id], self.snapshot.tenants[job.tenant_id].quota
        figures = {"needs": job.gpu_count, "held": held, "quota": quota}
        if self.is_passed_over(job):
            figures["kept_for"] = self.savers[job.tenant_id]
        return Reason(code, figures)

    def _misfit(self, job: WaitingJob) -> Reason:
        pools = [self.pools[job.cluster_id][model] for model in self.models(job)]
        free = max((pool.total_with_kept for pool in pools), default=0)
        best = max((pool.most_with_kept() for pool in pools), default=0)
        wants = " or ".join(preferences(job.gpu_type)) or "one model"
        figures = {"needs": job.gpu_count, "wants": wants, "free": free, "best": best}
        if free < job.gpu_count:
            return Reason(WaitCode.CAPACITY, figures)
        fits = any(_fits_with_kept(pool, job.gpu_count) for pool in pools)
        return Reason(WaitCode.RESERVED if fits else WaitCode.FRAGMENTED, figures)


def _fits_with_kept(pool: Pool, count: int) -> bool:
    return count <= (pool.most_with_kept() if count <= pool.largest_node else pool.total_with_kept)


def _wish(job: WaitingJob) -> tuple[int, str, int]:
    """What of a job decides whether the hardware can take it."""
    return job.cluster_id, job.gpu_type, job.gpu_count


def _age(job: WaitingJob) -> tuple[datetime, int]:
    return job.submitted_at, job.job_id
