"""Whom to preempt for a job that finds no GPUs: the fewest jobs, and of those the least lost work. Pure.

Two reasons make a running job a victim. *Priority*: it has a lower one, and would stand behind the job if both waited.
*Reclaim*: its tenant holds more than its quota, and the job's tenant stays within its own; the jobs that started last
are the ones on borrowed quota. Neither touches a job that has not run for its cluster's minimum, nor one that is being
preempted already.

What is freed is given to the job it was freed for, before any other, so that a preempted job that outranks others can't
take its GPUs back and be preempted again (kueue#3779). One that has aged goes before every priority, and so is no
victim of any.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from itertools import combinations
from math import comb

from jobs.placement.queue import Wish, wish_of
from jobs.placement.shapes import AGES_IN, RunningJob, Snapshot, TenantView, WaitingJob

# So many sets of jobs on one node are compared; where there are more, the largest jobs are taken first.
MOST_SETS = 5_000
# And for so many jobs others are preempted in one plan; the next one goes on.
MOST_PREEMPTIONS = 100

_Victims = tuple[RunningJob, ...]


class Preemptor:
    """What could be preempted while one plan is made. What a plan takes for one job, it does not take for another."""

    def __init__(self, snapshot: Snapshot, now: datetime) -> None:
        self.now = now
        self.by_pool: dict[tuple[int, str], list[RunningJob]] = defaultdict(list)
        # Who could be preempted only become fewer, so what nobody could be preempted for once, never will be.
        self.in_vain: set[tuple[Wish, str, int, bool]] = set()
        self.preemptions = 0
        self.borrowed = _borrowed(snapshot.running, snapshot.tenants)
        for running in snapshot.running:
            terms = snapshot.preempting.get(running.cluster_id)
            if terms is not None and running.preempt_at is None and running.started_at + terms.min_run <= now:
                self.by_pool[running.cluster_id, running.model].append(running)
        self.lowest = {pool: max(one.priority for one in found) for pool, found in self.by_pool.items()}

    def victims(
        self, job: WaitingJob, model: str, free: Mapping[int, int], *, one_node: bool, reclaims: bool
    ) -> _Victims | None:
        """The jobs whose end, with what is ``free`` by node, gives the job its GPUs; None where none would."""
        wish = wish_of(job), model, job.priority, reclaims
        if wish in self.in_vain or not self.could(job.priority):
            return None
        able = [one for one in self.by_pool[job.cluster_id, model] if self._yields(one, job, reclaims=reclaims)]
        found = self._on_one(able, free, job.gpu_count) if one_node else self._on_many(able, free, job.gpu_count)
        if not found:
            self.in_vain.add(wish)
        return found

    def take(self, victims: Collection[RunningJob]) -> None:
        """These are preempted, and nobody else's to preempt."""
        self.preemptions += 1
        for victim in victims:
            self.by_pool[victim.cluster_id, victim.model].remove(victim)

    def is_borrowed(self, running: RunningJob) -> bool:
        """Whether the job runs on quota that its tenant has borrowed."""
        return running.job_id in self.borrowed

    def _yields(self, running: RunningJob, job: WaitingJob, *, reclaims: bool) -> bool:
        if reclaims and self.is_borrowed(running) and running.tenant_id != job.tenant_id:
            return True
        return running.priority > job.priority and not self._is_aged(running)

    def _is_aged(self, running: RunningJob) -> bool:
        return running.submitted_at is not None and running.submitted_at <= self.now - running.priority * AGES_IN

    def _on_one(self, able: Iterable[RunningJob], free: Mapping[int, int], count: int) -> _Victims | None:
        by_node: dict[int, list[RunningJob]] = defaultdict(list)
        for running in able:
            for node_id in running.nodes:
                by_node[node_id].append(running)
        found = []
        for node_id, here in by_node.items():
            gives = {one.job_id: one.nodes[node_id] for one in here}
            victims = self._fewest(here, gives, count - free.get(node_id, 0))
            if victims:
                found.append((*self.price(victims), node_id, victims))
        return min(found, key=lambda item: item[:3])[3] if found else None

    def could(self, priority: int) -> bool:
        """Whether there is anything at all that a job of this priority might preempt."""
        if self.preemptions >= MOST_PREEMPTIONS:
            return False
        return bool(self.borrowed) or any(lowest > priority for lowest in self.lowest.values())

    def _on_many(self, able: Collection[RunningJob], free: Mapping[int, int], count: int) -> _Victims | None:
        gives = {one.job_id: sum(one.nodes.values()) for one in able}
        return self._fewest(able, gives, count - sum(free.values()))

    def _fewest(self, able: Collection[RunningJob], gives: Mapping[int, int], wanted: int) -> _Victims | None:
        """The largest first are the fewest; of all sets of so many, the one that loses the least work."""
        chosen: list[RunningJob] = []
        for running in sorted(able, key=lambda one: (-gives[one.job_id], self._lost(one), one.job_id)):
            if wanted <= sum(gives[one.job_id] for one in chosen):
                break
            chosen.append(running)
        if sum(gives[one.job_id] for one in chosen) < wanted:
            return None
        if comb(len(able), len(chosen)) > MOST_SETS:
            return tuple(chosen)
        enough = (
            victims
            for victims in combinations(sorted(able, key=lambda one: one.job_id), len(chosen))
            if sum(gives[one.job_id] for one in victims) >= wanted
        )
        return min(enough, key=self.price)

    def price(self, victims: Collection[RunningJob]) -> tuple[int, float]:
        """What to compare choices by: how many jobs, and how many GPU-seconds of work are lost."""
        return len(victims), sum(map(self._lost, victims))

    def _lost(self, running: RunningJob) -> float:
        """GPU-seconds that are lost when the job begins anew."""
        return running.held * (self.now - running.started_at).total_seconds()


def _borrowed(running: Collection[RunningJob], tenants: Mapping[int, TenantView]) -> frozenset[int]:
    """The jobs that hold what their tenant has above its quota: those that started last. Who may not borrow holds more
    than its quota only because that was lowered, which evicts nobody."""
    above = {
        pk: tenant.held - tenant.quota
        for pk, tenant in tenants.items()
        if tenant.borrow_limit and tenant.held > tenant.quota
    }
    found = set()
    if above:
        for one in sorted(running, key=lambda one: (one.started_at, one.job_id), reverse=True):
            if one.tenant_id is not None and above.get(one.tenant_id, 0) > 0:
                found.add(one.job_id)
                above[one.tenant_id] -= one.held
    return frozenset(found)
