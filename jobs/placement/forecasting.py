"""The plan, run forward in time: when jobs would start if what runs ended as estimated and nothing else came."""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import replace
from datetime import datetime, timedelta

from jobs.placement.plans import Plan, plan
from jobs.placement.running import Running
from jobs.placement.shapes import NodeView, RunningJob, Snapshot, Start, WaitingJob

# GPUs by (node, model), as ids; of GPUs that are held now only the number is known, and they get ids below zero.
_Gpus = dict[tuple[int, str], list[int]]


def forecast(snapshot: Snapshot, now: datetime, *, wanted: Collection[int], most_plans: int) -> dict[int, datetime]:
    """When each of the wanted jobs would start; one that does not within so many plans is left out.

    A job without an estimate never ends here, so a forecast errs on the late side where estimates are missing.
    """
    world = _World(snapshot, now)
    starts: dict[int, datetime] = {}
    for _ in range(most_plans):
        decided = plan(world.snapshot(), world.now)
        for start in decided.starts:
            world.start(start)
            starts.setdefault(start.job.job_id, world.now)
        world.preempt(decided)
        if set(wanted) <= starts.keys() or not world.go_on():
            break
    return {job_id: starts[job_id] for job_id in wanted if job_id in starts}


class _World:
    """A snapshot that time passes in."""

    def __init__(self, snapshot: Snapshot, now: datetime) -> None:
        self.first, self.now = snapshot, now
        self.waiting = {job.job_id: job for job in snapshot.jobs}
        self.clusters = {node.node_id: node.cluster_id for node in snapshot.nodes}
        self.held = {tenant_id: tenant.held for tenant_id, tenant in snapshot.tenants.items()}
        self.unassigned_held = snapshot.unassigned_held
        self.free: _Gpus = defaultdict(list)
        for node in snapshot.nodes:
            for model, gpu_ids in node.free.items():
                self.free[node.node_id, model] = list(gpu_ids)
        self.running, self.gpus = Running(), dict[int, _Gpus]()
        for running in snapshot.running:
            self._take_over(running)

    def _take_over(self, running: RunningJob) -> None:
        """A job that runs at the start, with its end as it is expected now."""
        end = running.ends_at(self.now)
        if end is not None and running.minutes is not None:
            running = replace(running, started_at=end - timedelta(minutes=running.minutes))
        gpus: _Gpus = {}
        for node_id, count in running.nodes.items():
            self.clusters[node_id] = running.cluster_id
            first = -1_000_000 * running.job_id
            gpus[node_id, running.model] = [first - node_id * 1_000 - index for index in range(count)]
        self.running.put(running)
        self.gpus[running.job_id] = gpus

    def snapshot(self) -> Snapshot:
        """The world as it is now."""
        free: dict[int, dict[str, list[int]]] = defaultdict(dict)
        for (node_id, model), gpu_ids in self.free.items():
            free[node_id][model] = list(gpu_ids)
        return replace(
            self.first,
            jobs=list(self.waiting.values()),
            nodes=[NodeView(node_id, self.clusters[node_id], "", by_model) for node_id, by_model in free.items()],
            tenants={pk: replace(tenant, held=self.held[pk]) for pk, tenant in self.first.tenants.items()},
            unassigned_held=self.unassigned_held,
            running=self.running,
        )

    def start(self, start: Start) -> None:
        """The job has its GPUs from now on."""
        job = self.waiting.pop(start.job.job_id)
        running = RunningJob(
            job.job_id, job.cluster_id, job.tenant_id, start.model, start.nodes, self.now, job.minutes, job.gpu_count,
            job.priority, job.submitted_at,
        )  # fmt: skip
        taken, gpus = set(start.gpu_ids), {}
        for node_id in start.nodes:
            here = self.free[node_id, start.model]
            gpus[node_id, start.model] = [gpu for gpu in here if gpu in taken]
            self.free[node_id, start.model] = [gpu for gpu in here if gpu not in taken]
        self.running.put(running)
        self.gpus[job.job_id] = gpus
        self._hold(job.tenant_id, job.gpu_count)

    def preempt(self, decided: Plan) -> None:
        """Those who must go have their notice from now on, and those who may stay none."""
        for job_id in decided.unclaimed:
            self.waiting[job_id] = replace(self.waiting[job_id], claimed_at=None)
        for job_id in decided.spared:
            self._mark(job_id, None, None)
        for one in decided.preemptions:
            self.waiting[one.job.job_id] = replace(one.job, claimed_at=self.now)
            for victim in one.victims:
                self._mark(victim.job_id, one.at, one.job.job_id)

    def _mark(self, job_id: int, at: datetime | None, for_job: int | None) -> None:
        self.running.put(replace(self.running.jobs[job_id], preempt_at=at, preempt_for=for_job))

    def go_on(self) -> bool:
        """To the next end of what runs, with all that ends then. False when there is none."""
        ends = [(running, running.ends_at(self.now)) for running in self.running]
        coming = [end for _, end in ends if end is not None]
        if not coming:
            return False
        self.now = min(coming)
        for running, end in ends:
            if end == self.now:
                self._end(running)
        return True

    def _end(self, running: RunningJob) -> None:
        self.running.remove(running.job_id)
        for place, gpu_ids in self.gpus.pop(running.job_id).items():
            self.free[place] += gpu_ids
        self._hold(running.tenant_id, -running.held)
        if running.preempt_at is not None and running.preempt_at <= self.now and running.submitted_at is not None:
            self.waiting[running.job_id] = WaitingJob(
                running.job_id, running.cluster_id, running.tenant_id, running.held, running.model, running.priority,
                running.submitted_at, running.minutes,
            )  # fmt: skip

    def _hold(self, tenant_id: int | None, count: int) -> None:
        if tenant_id is None:
            self.unassigned_held += count
        else:
            self.held[tenant_id] += count
