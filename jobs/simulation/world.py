"""A snapshot that time passes in."""

import heapq
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import count

from jobs.placement import NodeView, Plan, Queue, Running, RunningJob, Snapshot, Start, WaitingJob
from jobs.simulation.shapes import Holding, Length, Lengths

# GPUs by (node, model), as ids. Of GPUs that are held at the beginning only the number is known: theirs are below zero.
_Gpus = dict[tuple[int, str], list[int]]


class World:
    """What waits, runs and is free at ``now``; ``holdings`` is what has been held so far."""

    def __init__(self, snapshot: Snapshot, now: datetime, lengths: Lengths) -> None:
        self.first, self.now, self.lengths = snapshot, now, lengths
        self.submitted = {job.job_id: job for job in snapshot.jobs}
        self.queue = Queue(job for job in snapshot.jobs if job.submitted_at <= now)
        later = (job for job in snapshot.jobs if job.submitted_at > now)
        self.coming = sorted(later, key=lambda job: (job.submitted_at, job.job_id), reverse=True)
        self.nodes = {node.node_id: (node.cluster_id, node.hostname) for node in snapshot.nodes}
        self.held = {tenant_id: tenant.held for tenant_id, tenant in snapshot.tenants.items()}
        self.unassigned_held = snapshot.unassigned_held
        self.free: dict[int, dict[str, list[int]]] = {}
        for node in snapshot.nodes:
            for model, gpu_ids in node.free.items():
                self._give_back({(node.node_id, model): list(gpu_ids)})
        self.running, self.taken = Running(), dict[int, tuple[_Gpus, Holding]]()
        # When each job that runs ends, and all such instants that were ever expected, of which some have moved.
        self.ends_at: dict[int, datetime] = {}
        self.ends: list[tuple[datetime, int]] = []
        self.holdings: list[Holding] = []
        names = count(-1, -1)
        for running in snapshot.running:
            self._take_over(running, names)

    def _take_over(self, running: RunningJob, names: "count[int]") -> None:
        """A job that runs at the beginning."""
        gpus: _Gpus = {}
        for node_id, number in running.nodes.items():
            self.nodes.setdefault(node_id, (running.cluster_id, ""))
            gpus[node_id, running.model] = [next(names) for _ in range(number)]
        self._run(running, gpus, ran_before=True)

    def view(self) -> Snapshot:
        """The world as it is now, until the next thing happens."""
        return replace(
            self.first,
            jobs=self.queue,
            nodes=[NodeView(node_id, *self.nodes[node_id], by_model) for node_id, by_model in self.free.items()],
            tenants={pk: replace(tenant, held=self.held[pk]) for pk, tenant in self.first.tenants.items()},
            unassigned_held=self.unassigned_held,
            running=self.running,
        )

    def start(self, start: Start) -> None:
        """The job has its GPUs from now on."""
        job = start.job
        self.queue.remove(job.job_id)
        running = RunningJob(
            job.job_id, job.cluster_id, job.tenant_id, start.model, start.nodes, self.now, job.minutes, job.gpu_count,
            job.priority, job.submitted_at,
        )  # fmt: skip
        taken, gpus = set(start.gpu_ids), {}
        for node_id in start.nodes:
            here = self.free[node_id].pop(start.model)
            gpus[node_id, start.model] = [gpu for gpu in here if gpu in taken]
            left = [gpu for gpu in here if gpu not in taken]
            if left:
                self.free[node_id][start.model] = left
            elif not self.free[node_id]:
                del self.free[node_id]
        self._hold(job.tenant_id, job.gpu_count)
        self._run(running, gpus)

    def _run(self, running: RunningJob, gpus: _Gpus, *, ran_before: bool = False) -> None:
        length = self.lengths(running)
        holding = Holding(
            job_id=running.job_id,
            cluster_id=running.cluster_id,
            tenant_id=running.tenant_id,
            model=running.model,
            nodes=running.nodes,
            gpus=running.held,
            start=self.now,
            ran_before=ran_before,
            source=length.source,
        )
        self.running.put(running)
        self.taken[running.job_id] = gpus, holding
        self.holdings.append(holding)
        end = self._end_of(running, length)
        if running.preempt_at is not None:
            end = running.preempt_at if end is None else min(end, running.preempt_at)
        if end is not None:
            self._expect(running.job_id, end)

    def _expect(self, job_id: int, end: datetime) -> None:
        self.ends_at[job_id] = end
        heapq.heappush(self.ends, (end, job_id))

    def preempt(self, decided: Plan) -> None:
        """Those who must go have their notice from now on, those who may stay none, and claims are as decided."""
        for job_id in decided.unclaimed:
            self._claim(job_id, None)
        for job_id in decided.spared:
            self._notify(job_id, None, None)
        for one in decided.preemptions:
            self._claim(one.job.job_id, self.now)
            for victim in one.victims:
                self._notify(victim.job_id, one.at, one.job.job_id)

    def _claim(self, job_id: int, at: datetime | None) -> None:
        job = self.queue.remove(job_id)
        if job is not None:
            self.queue.add(replace(job, claimed_at=at))

    def _notify(self, job_id: int, at: datetime | None, for_job: int | None) -> None:
        running = replace(self.running.jobs[job_id], preempt_at=at, preempt_for=for_job)
        self.running.put(running)
        end = self._end_of(running, self.lengths(running))
        known = [one for one in (end, at) if one is not None]
        self.ends_at.pop(job_id, None)
        if known:
            self._expect(job_id, max(min(known), self.now))

    def _end_of(self, running: RunningJob, length: Length) -> datetime | None:
        """One that has run for longer than expected goes on for as long as it is past that; see ``RunningJob``."""
        if length.lasts is None:
            return None
        end = running.started_at + length.lasts
        past = running.started_at < self.now and end <= self.now
        return self.now + max(self.now - end, timedelta(minutes=1)) if past else end

    def next_event(self) -> datetime | None:
        """When something happens next; None: nothing will."""
        while self.ends and self.ends_at.get(self.ends[0][1]) != self.ends[0][0]:
            heapq.heappop(self.ends)  # It has moved.
        coming = [self.ends[0][0]] if self.ends else []
        if self.coming:
            coming.append(self.coming[-1].submitted_at)
        return min(coming, default=None)

    def pass_to(self, at: datetime) -> None:
        """Everything that happens up to ``at``, inclusive; ``now`` is the last of it."""
        event = self.next_event()
        while event is not None and event <= at:
            self.now = event
            while self.ends and self.ends[0][0] <= event:
                end, job_id = heapq.heappop(self.ends)
                if self.ends_at.get(job_id) == end:
                    self._end(self.running.jobs[job_id])
            while self.coming and self.coming[-1].submitted_at <= event:
                self.queue.add(self.coming.pop())
            event = self.next_event()

    def _end(self, running: RunningJob) -> None:
        self.running.remove(running.job_id)
        gpus, holding = self.taken.pop(running.job_id)
        holding.end = self.now
        del self.ends_at[running.job_id]
        self._give_back(gpus)
        self._hold(running.tenant_id, -running.held)
        if running.preempt_at is not None and running.preempt_at <= self.now:
            self.queue.add(replace(self.submitted.get(running.job_id) or _as_it_waited(running), claimed_at=None))

    def _give_back(self, gpus: Mapping[tuple[int, str], list[int]]) -> None:
        for (node_id, model), gpu_ids in gpus.items():
            if gpu_ids:
                self.free.setdefault(node_id, {}).setdefault(model, []).extend(gpu_ids)

    def _hold(self, tenant_id: int | None, gpus: int) -> None:
        if tenant_id is None:
            self.unassigned_held += gpus
        else:
            self.held[tenant_id] += gpus


def _as_it_waited(running: RunningJob) -> WaitingJob:
    """A job that ran at the beginning, as it waits once it is preempted: it takes the model that it had."""
    since = running.submitted_at or running.started_at
    return WaitingJob(
        running.job_id, running.cluster_id, running.tenant_id, running.held, running.model, running.priority, since,
        running.minutes,
    )  # fmt: skip
