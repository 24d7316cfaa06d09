"""The plan: the queue in its order, each job given its GPUs, a reservation or a reason."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import chain

from jobs.placement.matching import matches, preferences
from jobs.placement.ordering import Turns
from jobs.placement.pools import Pool, Taken
from jobs.placement.preempting import Preemptor
from jobs.placement.queue import Group, Line, Wish, queue_of, wish_of
from jobs.placement.quotas import Quotas
from jobs.placement.reserving import NEVER, End, Shadow, shadow
from jobs.placement.running import running_of
from jobs.placement.shapes import (
    AGES_IN,
    Preemption,
    Reservation,
    RunningJob,
    Snapshot,
    Start,
    WaitCode,
    WaitingJob,
)


class Planner:
    """The snapshot, with what the plan has given away so far."""

    def __init__(self, snapshot: Snapshot, now: datetime) -> None:
        self.snapshot = snapshot
        self.now = now
        self.queue = queue_of(snapshot.jobs)
        self.quotas = Quotas(snapshot, self.queue)
        self.turns = Turns(self.queue, self.quotas, now)
        self.pools: dict[int, dict[str, Pool]] = defaultdict(lambda: defaultdict(Pool))
        # Free GPUs only become fewer while a plan is made, so what did not fit once will not fit again.
        self.misfits: set[Wish] = set()
        self.starts: list[Start] = []
        self.reservations: dict[int, Reservation] = {}
        # Lines of these groups are not looked at any more, whoever they belong to.
        self.hopeless: set[Group] = {
            group for group in self.queue.groups if group[0].cluster_id in snapshot.closed_clusters
        }
        self.unreservable: set[tuple[Wish, bool]] = set()
        # By tenant, the aged job for which the rest of its quota is kept.
        self.savers: dict[int, int] = {}
        self.preemptor = Preemptor(snapshot, now) if snapshot.preempting else None
        self.preemptions: list[Preemption] = []
        self.pending: dict[int, list[RunningJob]] = defaultdict(list)
        # Waiting jobs that others are preempted for, with who they are.
        self.claims: dict[int, tuple[RunningJob, ...]] = {}
        self.unclaimed: list[int] = []
        self.running = running_of(snapshot.running)
        for running in self.running.noticed.values():
            if running.preempt_for is not None:
                self.pending[running.preempt_for].append(running)
        for (cluster_id, model), size in snapshot.largest_node.items():
            self.pools[cluster_id][model].largest_node = size
        for node in snapshot.nodes:
            for model, gpu_ids in node.free.items():
                self.pools[node.cluster_id][model].add(node.node_id, gpu_ids)

    def run(self) -> None:
        """Serve those with a claim, and then everybody in the policy's order."""
        for job in sorted(self.queue.claims.values(), key=lambda job: (job.claimed_at, job.job_id)):
            self._serve_claim(job)
        self.turns.take(self._try, self._is_hopeless, self._is_over)

    @property
    def spared(self) -> list[int]:
        """The jobs that are marked to be preempted, and for nobody any more."""
        return [one.job_id for job_id, victims in self.pending.items() if job_id not in self.claims for one in victims]

    def waiting(self) -> Iterator[WaitingJob]:
        """The jobs that wait, in the order of their turns."""
        claims = [self.queue.jobs[job_id] for job_id in (*self.claims, *self.unclaimed)]
        return chain(claims, self.turns.waiting())

    def _serve_claim(self, job: WaitingJob) -> None:
        """What was freed for a job is its own, and goes to nobody else while the rest of it is still to be freed."""
        victims = tuple(self.pending.get(job.job_id, ()))
        start = None if self.barred(job) is not None else self._start_on_free(job)
        if start is not None:
            self._give(start)
            self.turns.pass_by(job)
        elif not victims or self.barred(job) is not None or not self._claim(job, victims):
            self.unclaimed.append(job.job_id)

    def _claim(self, job: WaitingJob, victims: tuple[RunningJob, ...]) -> bool:
        """Set aside what is free already of what the job will have. Returns False, having done nothing, when that and
        what the victims give back is not enough: some of it may have been taken out of service meanwhile."""
        pool = self.pools[job.cluster_id][victims[0].model]
        freed = Counter[int]()
        for victim in victims:
            freed.update(victim.nodes)
        rooms = {node_id: gpus + len(pool.free.get(node_id, ())) for node_id, gpus in freed.items()}
        if job.gpu_count > pool.largest_node:
            node_id, missing, room = None, job.gpu_count - freed.total(), freed.total() + pool.total
        else:
            node_id = max(rooms, key=lambda node_id: (rooms[node_id], -node_id), default=0)
            missing, room = job.gpu_count - freed[node_id], rooms.get(node_id, 0)
        if room < job.gpu_count:
            return False
        pool.set_aside(missing, node_id)
        self.claims[job.job_id] = victims
        self.quotas.count(job)
        return True

    def _is_hopeless(self, line: Line) -> bool:
        """Whether nothing of the line can start any more, whoever it belongs to."""
        if line.group in self.hopeless:
            return True
        if line.wish not in self.misfits or self._has_hope(line):
            return False
        if not self._may_preempt(line.wish.cluster_id, priority=1):
            self.hopeless.add(line.group)
        return True

    def _is_over(self) -> bool:
        """Whether nothing of the whole queue can start any more."""
        return len(self.hopeless) == len(self.queue.groups)

    def _may_preempt(self, cluster_id: int, priority: int) -> bool:
        preemptor = self.preemptor
        return preemptor is not None and cluster_id in self.snapshot.preempting and preemptor.could(priority)

    def _has_hope(self, line: Line) -> bool:
        if line.wish.cluster_id not in self.reservations and (line.wish, False) not in self.unreservable:
            return True
        if self._may_preempt(line.wish.cluster_id, line.priority):
            return True
        kept = self.reservations.get(line.wish.cluster_id)
        if kept is None or not kept.outlasts(line.minutes, self.now):
            return False
        return line.wish.gpu_count <= self.pools[line.wish.cluster_id][kept.model].most_kept()

    def _try(self, job: WaitingJob) -> bool:
        """Give the job its GPUs, if it may have them and they are there, or preempt others for it. Else, the first of
        its cluster reserves those that it will have first. Whether it was given something."""
        barred = self.barred(job)
        if barred is not None:
            if barred is WaitCode.QUOTA and job.tenant_id is not None and self._is_aged(job):
                self.savers.setdefault(job.tenant_id, job.job_id)
            return False
        start = self._start_on_free(job) or self._start_on_kept(job)
        if start is not None:
            self._give(start)
            return True
        if self._preempt(job):
            return True
        if job.cluster_id not in self.reservations:
            self._reserve(job)
        return False

    def _give(self, start: Start) -> None:
        self.starts.append(start)
        self.quotas.count(start.job)

    def _is_aged(self, job: WaitingJob) -> bool:
        return job.submitted_at <= self.now - job.priority * AGES_IN

    def _start_on_free(self, job: WaitingJob) -> Start | None:
        if wish_of(job) in self.misfits:
            return None
        for model in self.models(job):
            taken = self.pools[job.cluster_id][model].take(job.gpu_count)
            if taken is not None:
                return Start(job, model, taken.gpu_ids, taken.nodes, self._why(job, model, taken))
        self.misfits.add(wish_of(job))
        return None

    def _start_on_kept(self, job: WaitingJob) -> Start | None:
        """What ends before the reservation begins may have the GPUs that are kept for it."""
        kept = self.reservations.get(job.cluster_id)
        if kept is None or not kept.outlasts(job.minutes, self.now) or kept.model not in self.models(job):
            return None
        taken = self.pools[job.cluster_id][kept.model].take_kept(job.gpu_count)
        if taken is None:
            return None
        why = f"since it ends before {kept.at:%Y-%m-%d %H:%M} UTC, from when on they are kept for another job"
        return Start(job, kept.model, taken.gpu_ids, taken.nodes, why)

    def _why(self, job: WaitingJob, model: str, taken: Taken) -> str:
        """Why these GPUs, for people."""
        if len(taken.nodes) > 1:
            return f"on {len(taken.nodes)} nodes, the fewest that have them"
        (node_id,) = taken.nodes
        left = len(self.pools[job.cluster_id][model].free[node_id])
        return f"on one node, the tightest fit: {left} of its GPUs stay free"

    def _preempt(self, job: WaitingJob) -> bool:
        """Preempt others for the job, if that gives it all its GPUs. Who borrows preempts nobody."""
        terms = self.snapshot.preempting.get(job.cluster_id)
        if self.preemptor is None or terms is None or not self.quotas.own_admits(job):
            return False
        reclaims = job.tenant_id is not None and self.snapshot.tenants[job.tenant_id].lends
        found = []
        for model in self.models(job):
            pool = self.pools[job.cluster_id][model]
            free = {node_id: len(gpus) for node_id, gpus in pool.free.items()}
            one_node = job.gpu_count <= pool.largest_node
            victims = self.preemptor.victims(job, model, free, one_node=one_node, reclaims=reclaims)
            if victims:
                found.append(victims)
        if not found:
            return False
        victims = min(found, key=self.preemptor.price)
        if not self._claim(job, victims):
            return False
        self.preemptor.take(victims)
        why = {one.job_id: self._why_preempted(one, job) for one in victims}
        self.preemptions.append(Preemption(job, victims, self.now + terms.grace, why))
        return True

    def _why_preempted(self, victim: RunningJob, job: WaitingJob) -> str:
        if victim.priority > job.priority:
            return f"for job {job.job_id}, whose priority is {job.priority} and this one's {victim.priority}"
        return f"for job {job.job_id}, whose tenant reclaims the idle quota that this one runs on"

    def _reserve(self, job: WaitingJob) -> None:
        """Keep for the job what it will have first. Only an aged job keeps what it may have nobody knows when."""
        aged = self._is_aged(job)
        if (wish_of(job), aged) in self.unreservable:
            return
        shadows = [(model, self.shadow_of(job, model, known=not aged)) for model in self.models(job)]
        found = [(model, one) for model, one in shadows if one is not None]
        if not found:
            self.unreservable |= {(wish_of(job), aged), (wish_of(job), False)}
            return
        model, first = min(found, key=lambda item: item[1].at)
        at = first.at if first.at < NEVER else None
        self.reservations[job.cluster_id] = Reservation(job, model, first.nodes, at)
        pool = self.pools[job.cluster_id][model]
        for node_id, spare in first.spare.items():
            pool.keep(node_id, max(0, len(pool.free.setdefault(node_id, [])) - spare))

    def shadow_of(self, job: WaitingJob, model: str, *, known: bool = False) -> Shadow | None:
        """When the job could have its GPUs of this model, if nothing else started, and which; None where it never
        could, or where it is ``known`` of too few of those that run when they end."""
        pool = self.pools[job.cluster_id][model]
        free = {node_id: len(gpus) + len(pool.kept.get(node_id, ())) for node_id, gpus in pool.free.items()}
        ends = self.ends(job.cluster_id, model, known=known)
        return shadow(free, ends, job.gpu_count, one_node=job.gpu_count <= pool.largest_node)

    def ends(self, cluster_id: int, model: str, *, known: bool = False) -> list[End]:
        """When what runs, and what this plan has started, gives its GPUs of the cluster's model back; those alone of
        which it is ``known``. What is being preempted gives them to another."""
        ends = []
        for running in self.running.ending(cluster_id, model):
            at = running.ends_at(self.now) or NEVER
            ends += [End(at, *node) for node in running.nodes.items()]
        for running in () if known else self.running.lasting(cluster_id, model):
            ends += [End(NEVER, *node) for node in running.nodes.items()]
        for start in self.starts:
            minutes = start.job.minutes
            if start.job.cluster_id == cluster_id and start.model == model and not (known and minutes is None):
                at = NEVER if minutes is None else self.now + timedelta(minutes=minutes)
                ends += [End(at, *node) for node in start.nodes.items()]
        return ends

    def barred(self, job: WaitingJob) -> WaitCode | None:
        """The rule that stands before the hardware, if one does."""
        if job.cluster_id in self.snapshot.closed_clusters:
            return WaitCode.CLUSTER_MAINTENANCE
        if job.tenant_id is None:
            return None
        if not self.snapshot.tenants[job.tenant_id].active:
            return WaitCode.TENANT_INACTIVE
        if self.is_passed_over(job) or not self.quotas.admits(job):
            return WaitCode.QUOTA
        return None

    def is_passed_over(self, job: WaitingJob) -> bool:
        """Whether the rest of the tenant's quota is kept for another of its jobs."""
        return job.tenant_id in self.savers and self.savers[job.tenant_id] != job.job_id

    def models(self, job: WaitingJob) -> list[str]:
        """The models the job takes, the preferred one first; see the package's text for equals."""
        pools = self.pools[job.cluster_id]
        by_merit = list(pools)
        if len(by_merit) > 1:
            by_merit.sort(key=lambda model: (pools[model].largest_node < job.gpu_count, -pools[model].total, model))
        entries = preferences(job.gpu_type)
        if not entries:
            return by_merit
        wanted = [model for entry in entries for model in by_merit if matches(entry, model)]
        return list(dict.fromkeys(wanted))
