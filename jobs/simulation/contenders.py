"""Which jobs of a long queue a plan has to look at: the others start in no plan, and change none.

Jobs of one cluster, model wish and size have one *need*. What is free now holds only so many of a need, and is never
more in the course of a plan. So once the plan has come by one job more of a need than that, which no quota can stop,
those behind it find nothing; and that one got the cluster's reservation or could not, as those behind it could not.
Of the GPUs that are kept for a reservation the same holds among the jobs that end before it begins. An aged job that
its tenant's quota stops has the quota kept for it, so that every aged job that may come to that is looked at.

This knows the rules of ``plan``; a property test holds each plan of the contenders against the plan of everybody.
"""

from bisect import bisect_left, bisect_right, insort
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from heapq import nsmallest
from itertools import islice
from typing import NamedTuple

from jobs.placement import Plan, Reservation, Snapshot, WaitingJob, takes
from jobs.placement.shapes import AGES_IN


class Need(NamedTuple):
    """What jobs ask of the hardware."""

    cluster_id: int
    gpu_type: str
    gpu_count: int


@dataclass(slots=True)
class _Line:
    """Jobs of one need, priority and tenant, the oldest first; and those with an estimate, the shortest first."""

    jobs: dict[int, WaitingJob] = field(default_factory=dict)
    by_length: list[tuple[int, datetime, int]] = field(default_factory=list)

    def add(self, job: WaitingJob) -> None:
        if self.jobs and _age(next(reversed(self.jobs.values()))) > _age(job):
            self.jobs = {one.job_id: one for one in sorted([*self.jobs.values(), job], key=_age)}
        self.jobs[job.job_id] = job
        if job.minutes is not None:
            insort(self.by_length, (job.minutes, *_age(job)))

    def remove(self, job: WaitingJob) -> None:
        del self.jobs[job.job_id]
        if job.minutes is not None:
            self.by_length.remove((job.minutes, *_age(job)))

    def oldest(self, most: int) -> list[WaitingJob]:
        return list(islice(self.jobs.values(), most))

    def oldest_within(self, minutes: float, most: int) -> list[WaitingJob]:
        end = bisect_right(self.by_length, minutes, key=lambda item: item[0])
        return [self.jobs[job_id] for _, _, job_id in nsmallest(most, self.by_length[:end], key=lambda item: item[1:])]


@dataclass(slots=True)
class _Level:
    """Jobs of one need: all of them, with when each is aged, in that order; and by priority and tenant."""

    by_ageing: list[tuple[datetime, int]] = field(default_factory=list)
    jobs: dict[int, WaitingJob] = field(default_factory=dict)
    lines: dict[int, dict[int | None, _Line]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(_Line)))

    def add(self, job: WaitingJob) -> None:
        self.jobs[job.job_id] = job
        insort(self.by_ageing, _aged_at(job))
        self.lines[job.priority][job.tenant_id].add(job)

    def remove(self, job: WaitingJob) -> None:
        del self.jobs[job.job_id]
        del self.by_ageing[bisect_left(self.by_ageing, _aged_at(job))]
        lines = self.lines[job.priority]
        lines[job.tenant_id].remove(job)
        if not lines[job.tenant_id].jobs:
            del lines[job.tenant_id]

    def aged(self, now: datetime) -> Iterator[WaitingJob]:
        """Those that are aged, in the plan's order."""
        for at, job_id in self.by_ageing:
            if at > now:
                return
            yield self.jobs[job_id]


class Queue:
    """The waiting jobs, by need."""

    def __init__(self, jobs: Iterable[WaitingJob]) -> None:
        self.needs: dict[Need, _Level] = defaultdict(_Level)
        self.size = 0
        for job in sorted(jobs, key=_aged_at):
            self.add(job)

    def add(self, job: WaitingJob) -> None:
        """A job comes, or comes back with the age that it has."""
        self.needs[_need(job)].add(job)
        self.size += 1

    def remove(self, job: WaitingJob) -> None:
        """The job waits no longer."""
        self.needs[_need(job)].remove(job)
        self.size -= 1

    def jobs(self) -> list[WaitingJob]:
        """Everyone."""
        return [job for level in self.needs.values() for job in level.jobs.values()]

    def contenders(self, view: Snapshot, now: datetime) -> list[WaitingJob]:
        """Those that may start on free GPUs, get a reservation, or have their tenant's quota kept."""
        judge = _Judge(view, now, self)
        found = {job.job_id: job for job in judge.savers}
        for need, level in self.needs.items():
            if need.cluster_id not in view.closed_clusters:
                most = judge.capacity(need) + 1
                found |= {job.job_id: job for job in _walk(need, level, judge, most)}
        return list(found.values())

    def fillers(self, view: Snapshot, now: datetime, decided: Plan) -> list[WaitingJob]:
        """Those that may start on GPUs that are kept for a reservation of this plan."""
        if all(kept.at is None for kept in decided.reservations.values()):
            return []
        judge = _Judge(view, now, self)
        found: list[WaitingJob] = []
        for need, level in self.needs.items():
            kept = decided.reservations.get(need.cluster_id)
            if kept is not None and kept.at is not None and takes(need.gpu_type, kept.model):
                most = judge.capacity_of(kept, need.gpu_count)
                if most:
                    found += _walk_within(need, level, judge, most, (kept.at - now).total_seconds() / 60)
        return found


def _walk(need: Need, level: _Level, judge: "_Judge", most: int) -> Iterator[WaitingJob]:
    """The need's jobs in the plan's order, as far as that is known beforehand, until so many of them could not be
    stopped by a quota: the aged ones first, then by priority."""
    sure = 0
    for job in level.aged(judge.now):
        if judge.ever(job.tenant_id, need.gpu_count):
            yield job
            sure += judge.surely(job.tenant_id, need.gpu_count)
            if sure >= most:
                return
    for priority in sorted(level.lines):
        for tenant_id, line in level.lines[priority].items():
            if judge.ever(tenant_id, need.gpu_count):
                heads = line.oldest(most)
                yield from heads
                sure += judge.surely(tenant_id, need.gpu_count) * sum(not judge.is_aged(job) for job in heads)
        if sure >= most:
            return


def _walk_within(need: Need, level: _Level, judge: "_Judge", most: int, minutes: float) -> Iterator[WaitingJob]:
    """The same of jobs that end within so many minutes, with the aged ones of a priority among the others of it."""
    aged: list[WaitingJob] = []
    others: dict[int, list[WaitingJob]] = defaultdict(list)
    for priority, lines in level.lines.items():
        for tenant_id, line in lines.items():
            if judge.ever(tenant_id, need.gpu_count):
                for job in line.oldest_within(minutes, most):
                    (aged if judge.is_aged(job) else others[priority]).append(job)
    sure = 0
    for jobs in [aged, *(others[priority] for priority in sorted(others))]:
        yield from jobs
        sure += sum(judge.surely(job.tenant_id, need.gpu_count) for job in jobs)
        if sure >= most:
            return


class _Judge:
    """What is known of quotas and hardware before a plan."""

    def __init__(self, view: Snapshot, now: datetime, queue: Queue) -> None:
        self.view, self.now = view, now
        self.sizes: dict[tuple[int, str], Counter[int]] = defaultdict(Counter)
        self.on_node: dict[tuple[int, str], int] = {}
        for node in view.nodes:
            for model, gpu_ids in node.free.items():
                self.sizes[node.cluster_id, model][len(gpu_ids)] += 1
                self.on_node[node.node_id, model] = len(gpu_ids)
        self.models: dict[int, list[str]] = defaultdict(list)
        for cluster_id, model in view.largest_node:
            self.models[cluster_id].append(model)
        self.aged_since = {priority: now - priority * AGES_IN for priority in range(1, 11)}
        self.free = sum(size * number for sizes in self.sizes.values() for size, number in sizes.items())
        self.savers = list(self._savers(queue))
        self.saving = {job.tenant_id for job in self.savers}

    def _savers(self, queue: Queue) -> Iterator[WaitingJob]:
        """Aged jobs that their tenant's quota stops, or may come to stop."""
        first: dict[int, WaitingJob] = {}
        for need, level in queue.needs.items():
            if need.cluster_id in self.view.closed_clusters or not self._may_stop_anybody(need.gpu_count):
                continue
            for job in level.aged(self.now):
                if job.tenant_id is not None and not self._fits_quota_surely(job.tenant_id, job.gpu_count):
                    if self.ever(job.tenant_id, job.gpu_count):
                        yield job
                    elif self.view.tenants[job.tenant_id].active:
                        first[job.tenant_id] = min(first.get(job.tenant_id, job), job, key=_aged_at)
        yield from first.values()

    def _may_stop_anybody(self, gpus: int) -> bool:
        return any(not self._fits_quota_surely(tenant_id, gpus) for tenant_id in self.view.tenants)

    def is_aged(self, job: WaitingJob) -> bool:
        return job.submitted_at <= self.aged_since[job.priority]

    def ever(self, tenant_id: int | None, gpus: int) -> bool:
        """Whether the tenant may get so many GPUs at all."""
        if tenant_id is None:
            return True
        tenant = self.view.tenants[tenant_id]
        return tenant.active and tenant.held + gpus <= tenant.quota

    def surely(self, tenant_id: int | None, gpus: int) -> bool:
        """Whether no quota stops the tenant's job, whatever else the plan starts."""
        return tenant_id is None or (tenant_id not in self.saving and self._fits_quota_surely(tenant_id, gpus))

    def _fits_quota_surely(self, tenant_id: int, gpus: int) -> bool:
        tenant = self.view.tenants[tenant_id]
        return tenant.active and tenant.held + self.free + gpus <= tenant.quota

    def capacity(self, need: Need) -> int:
        """How many jobs of the need what is free now could hold."""
        return sum(self._capacity(need, model) for model in self.models[need.cluster_id] if takes(need.gpu_type, model))

    def _capacity(self, need: Need, model: str) -> int:
        sizes, count = self.sizes[need.cluster_id, model], need.gpu_count
        if count > self.view.largest_node[need.cluster_id, model]:
            return sum(size * number for size, number in sizes.items()) // count
        return sum(size // count * number for size, number in sizes.items())

    def capacity_of(self, kept: Reservation, gpus: int) -> int:
        """How many jobs of so many GPUs the reservation's nodes could hold now."""
        return sum(self.on_node.get((node_id, kept.model), 0) // gpus for node_id in kept.nodes)


def _need(job: WaitingJob) -> Need:
    return Need(job.cluster_id, job.gpu_type, job.gpu_count)


def _age(job: WaitingJob) -> tuple[datetime, int]:
    return job.submitted_at, job.job_id


def _aged_at(job: WaitingJob) -> tuple[datetime, int]:
    return job.submitted_at + job.priority * AGES_IN, job.job_id
