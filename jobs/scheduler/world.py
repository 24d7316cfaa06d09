"""What the planner must know, kept from one cycle to the next, so that a cycle reads only what has changed.

Every change of a job that the planner cares for puts an event on record, and every event carries the transaction that
wrote it. A refresh first asks for the oldest transaction that is still under way, and then reads the events of that
one and of all younger ones than the refresh before had asked: what was committed by then has been seen, and everything
else is read again, until it has been. GPUs are found in the same way by the transaction that last wrote their rows.

A world belongs to one process. It is forgotten when the server was started anew, when the table of jobs was emptied or
restored, and when an hour has passed, so that nothing that could go wrong with it stays wrong.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from jobs.models import AS_ITS_KIND
from jobs.placement import (
    Kind,
    NodeView,
    Preempting,
    Queue,
    Running,
    RunningJob,
    Snapshot,
    TenantView,
    WaitingJob,
    Wish,
)
from jobs.placement.resting import FAILS_WITHIN, LONGEST_REST, Failure, resting
from jobs.scheduler.statements import (
    CHANGED_JOBS,
    CLUSTERS,
    ENDED,
    GPU_CHANGED,
    GPU_MATTERS,
    GPUS,
    HELD,
    HELD_UNTIL,
    HORIZON,
    JOBS,
    SILENT_NODES,
    SOME_HELD,
    SOME_JOBS,
    TENANTS,
    TOLD_JOBS,
    TOLD_KINDS,
)
from jobs.scheduler.together import Question, ask_together

FORGOTTEN_AFTER = timedelta(hours=1)

ENDED_ITSELF = ("failed", "completed")

Rows = Sequence[tuple[Any, ...]]


class GpuView(NamedTuple):
    """A GPU: where it is, and whether it takes jobs. One that is not ``registered`` is retired. ``from_then``: it came
    later than the clock of the cycle that read it, and takes no job before."""

    gpu_id: int
    node_id: int
    cluster_id: int
    hostname: str
    model: str
    available: bool
    registered: bool
    from_then: datetime | None


class Told(NamedTuple):
    """Why a kind of jobs waits, or a job apart from its kind, as it is on record."""

    code: str
    figures: Mapping[str, Any]


class World:
    """The queue, what runs, and the hardware, as of the last refresh."""

    def __init__(self) -> None:
        self.since: str | None = None
        self.identity: tuple[Any, ...] | None = None
        self.loaded_at: datetime | None = None
        self._forget()

    def _forget(self) -> None:
        self.queue = Queue()
        self.later: dict[int, WaitingJob] = {}
        self.left_out: dict[int, WaitingJob] = {}
        self.running = Running()
        self.gpus_of: dict[int, list[int]] = {}  # By running job, those that it holds.
        self.gpus: dict[int, GpuView] = {}
        self.holder: dict[int, int] = {}
        self.by_node: dict[int, set[int]] = defaultdict(set)
        self.free: dict[int, set[int]] = defaultdict(set)
        self.held: Counter[int | None] = Counter()
        self.held_until: dict[int, datetime] = {}
        self.tenants: dict[int, TenantView] = {}
        self.largest_node: dict[tuple[int, str], int] = {}
        self.registered: Counter[tuple[int, str]] = Counter()
        self.nodes: dict[int, set[int]] = defaultdict(set)  # Those with GPUs, by cluster.
        self.gpu_total = 0
        self.retired: set[int] = set()
        self.clusters: list[tuple[Any, ...]] = []
        self.silent: list[int] = []
        # Why each kind of waiting jobs waits, and each job that waits apart from its kind, as of the ``count``-th time
        # that anybody was told.
        self.count: int | None = None
        self.told_kinds: dict[Kind, Told] = {}
        self.told_jobs: dict[int, Told] = {}
        self.estimates: dict[int, datetime] = {}
        # By node, those of its last jobs that failed as soon as they had started, with nothing else since.
        self.failures: dict[int, list[Failure]] = {}

    def refresh(self, now: datetime) -> None:
        """Take in what has been committed since the last refresh."""
        [(horizon, count, *identity)], changed = ask_together([(HORIZON, {}), (CHANGED_JOBS, {"since": self.since})])
        if self._is_stale(tuple(identity), now):
            self._forget()
            self.identity, self.loaded_at, self.since = tuple(identity), now, None
        ids = None if self.since is None else [job_id for (job_id,) in changed]
        # What all were told is read where another process has run a cycle, or this one is new.
        told: list[Question] = [(TOLD_KINDS, {}), (TOLD_JOBS, {})] if ids is None or count != self.count else []
        of_jobs = self._about_jobs(ids, now)
        clusters, silent, tenants, gpus, *rest = ask_together(
            [(CLUSTERS, {}), (SILENT_NODES, {}), (TENANTS, {}), self._about_gpus(now), *told, *of_jobs]
        )
        self.clusters, self.silent = clusters, [node_id for (node_id,) in silent]
        if told:
            self._learn_reasons(count, *rest[:2])
        self._learn_gpus(gpus)
        jobs = rest[len(told) :]
        self._learn_jobs(ids, jobs, now)
        self.tenants = {pk: TenantView(quota, self.held[pk], *terms) for pk, quota, *terms in tenants}
        self.since = horizon

    def _is_stale(self, identity: tuple[Any, ...], now: datetime) -> bool:
        if self.loaded_at is None or identity != self.identity:
            return True
        return not self.loaded_at <= now < self.loaded_at + FORGOTTEN_AFTER

    def _learn_reasons(self, count: int | None, kinds: Rows, jobs: Rows) -> None:
        self.count = count
        self.told_kinds = {
            Kind(Wish(cluster_id, gpu_type, gpu_count), tenant_id): Told(code, json.loads(figures))
            for cluster_id, gpu_type, gpu_count, tenant_id, code, figures in kinds
        }
        self.told_jobs = {job_id: Told(code, json.loads(figures)) for job_id, code, figures in jobs}

    def _about_gpus(self, now: datetime) -> Question:
        which = GPU_MATTERS if self.since is None else GPU_CHANGED
        return GPUS.format(which=which), {"since": self.since, "now": now}

    def _learn_gpus(self, gpus: Rows) -> None:
        rows = [GpuView(*row) for row in gpus]
        changed = [view for view in rows if self.gpus.get(view.gpu_id) != view]
        for view in changed:
            self.gpus[view.gpu_id] = view
            self.by_node[view.node_id].add(view.gpu_id)
            self._file(view.gpu_id)
        self.retired |= {view.gpu_id for view in changed if not view.registered}
        if changed:
            self._count_hardware()
        for job_id in {self.holder[view.gpu_id] for view in changed if view.gpu_id in self.holder}:
            self.running.put(self._running_job(self.running.jobs[job_id], self.gpus_of[job_id]))

    def _count_hardware(self) -> None:
        sizes = Counter((view.cluster_id, view.model, view.node_id) for view in self.gpus.values() if view.registered)
        self.gpu_total = sizes.total()
        self.largest_node, self.registered, self.nodes = {}, Counter(), defaultdict(set)
        for (cluster_id, model, node_id), size in sizes.items():
            key = cluster_id, model
            self.nodes[cluster_id].add(node_id)
            self.registered[key] += size
            self.largest_node[key] = max(self.largest_node.get(key, 0), size)

    def _file(self, gpu_id: int) -> None:
        """Free is what takes jobs and nobody holds."""
        view = self.gpus[gpu_id]
        if view.available and view.registered and gpu_id not in self.holder:
            self.free[view.node_id].add(gpu_id)
        elif view.node_id in self.free:
            self.free[view.node_id].discard(gpu_id)
            if not self.free[view.node_id]:
                del self.free[view.node_id]

    def _about_jobs(self, ids: list[int] | None, now: datetime) -> list[Question]:
        """Of these jobs, or of all. In this order: what is given back between ``HELD`` and ``HELD_UNTIL`` is held by
        the first, and not forgotten by both."""
        parameters = {"now": now, "within": FAILS_WITHIN, "ids": ids}
        if ids is None:
            return [(statement, parameters) for statement in (ENDED, JOBS, HELD, HELD_UNTIL)]
        return [(statement, parameters) for statement in (SOME_JOBS, SOME_HELD)] if ids else []

    def _learn_jobs(self, ids: Iterable[int] | None, answers: Sequence[Rows], now: datetime) -> None:
        self.held_until = {gpu_id: until for gpu_id, until in self.held_until.items() if until > now}
        for job_id in ids or ():
            self._leave(job_id)
        self._readmit(now)
        if answers:
            ended, rows, held, held_until = answers if ids is None else self._sorted_out(answers, now)
            self._learn(ended)
            self.held_until.update(held_until)
            self._enter(rows, held, now)

    def _sorted_out(self, answers: Sequence[Rows], now: datetime) -> Sequence[Rows]:
        """What ``SOME_JOBS`` and ``SOME_HELD`` say, as ``ENDED``, ``JOBS``, ``HELD`` and ``HELD_UNTIL`` say it.

        A GPU that is not known was retired and given back before this world began, which knows how that job ended.
        """
        jobs, allocations = answers
        until: dict[int, datetime] = {}
        nodes: dict[int, set[int]] = defaultdict(set)
        started = {row[3]: row[2] for row in jobs}
        for job_id, gpu_id, start, end in allocations:
            if end is not None and end > now:
                until[gpu_id] = max(until.get(gpu_id, end), end)
            since = started.get(job_id)
            if since is not None and start >= since and gpu_id in self.gpus:
                nodes[job_id].add(self.gpus[gpu_id].node_id)
        over = [(ended_at, job[0], at_once, job[2]) for at_once, ended_at, _, *job in jobs if job[9] in ENDED_ITSELF]
        return (
            [(at_once, at, tenant_id, list(nodes[job_id])) for at, job_id, at_once, tenant_id in sorted(over)],
            [row[3:] for row in jobs if row[12] in ("queued", "running")],
            [(job_id, gpu_id, start) for job_id, gpu_id, start, end in allocations if end is None],
            list(until.items()),
        )

    def _learn(self, ended: Iterable[tuple[bool, datetime, int | None, list[int]]]) -> None:
        """An end that is read once more is known by its time."""
        for at_once, at, tenant_id, node_ids in ended:
            for node_id in node_ids:
                failures = self.failures.setdefault(node_id, [])
                if failures and failures[-1].at >= at:
                    continue
                if not at_once:
                    failures.clear()
                else:
                    failures.append(Failure(at, tenant_id))

    def _leave(self, job_id: int) -> None:
        self.queue.remove(job_id)
        self.later.pop(job_id, None)
        self.left_out.pop(job_id, None)
        self.told_jobs.pop(job_id, None)
        running = self.running.remove(job_id)
        if running is not None:
            gpu_ids = self.gpus_of.pop(job_id)
            self.held[running.tenant_id] -= len(gpu_ids)
            for gpu_id in gpu_ids:
                del self.holder[gpu_id]
                self._file(gpu_id)

    def _readmit(self, now: datetime) -> None:
        """Those that were submitted later than the clock was then, and those that were left out of a plan."""
        for job in [*self.left_out.values(), *self.later.values()]:
            if job.submitted_at <= now:
                self.left_out.pop(job.job_id, None)
                self.later.pop(job.job_id, None)
                self.queue.add(job)

    def _enter(self, rows: Iterable[tuple[Any, ...]], held: Iterable[tuple[Any, ...]], now: datetime) -> None:
        gpu_ids: dict[int, list[int]] = defaultdict(list)
        begun: dict[int, datetime] = {}
        for job_id, gpu_id, start in held:
            gpu_ids[job_id].append(gpu_id)
            begun[job_id] = min(begun.get(job_id, start), start)
        waiting = []
        for *fields, status, preempt_at, preempt_for, code, figures in rows:
            job = WaitingJob(*fields)
            if status == "queued":
                waiting.append(job)
                if code != AS_ITS_KIND:
                    self.told_jobs[job.job_id] = Told(code or "", json.loads(figures or "{}"))
            elif job.job_id in gpu_ids:
                self._hold(job, gpu_ids[job.job_id], begun[job.job_id], preempt_at, preempt_for)
        for job in sorted(waiting, key=lambda one: (one.submitted_at, one.job_id)):
            if job.submitted_at <= now:
                self.queue.add(job)
            else:
                self.later[job.job_id] = job

    def _hold(
        self, job: WaitingJob, gpu_ids: list[int], begun: datetime, preempt_at: datetime | None, preempt_for: int | None
    ) -> None:
        gpu_ids = [gpu_id for gpu_id in gpu_ids if gpu_id in self.gpus]
        model = self.gpus[gpu_ids[0]].model if gpu_ids else ""
        running = RunningJob(
            job.job_id, job.cluster_id, job.tenant_id, model, {}, begun, job.minutes, len(gpu_ids), job.priority,
            job.submitted_at, preempt_at, preempt_for,
        )  # fmt: skip
        self.running.put(self._running_job(running, gpu_ids))
        self.gpus_of[job.job_id] = gpu_ids
        self.held[job.tenant_id] += len(gpu_ids)
        for gpu_id in gpu_ids:
            self.holder[gpu_id] = job.job_id
            self._file(gpu_id)

    def _running_job(self, job: RunningJob, gpu_ids: Collection[int]) -> RunningJob:
        """The job, with how many of its GPUs take jobs again when it ends, by node."""
        views = [self.gpus[gpu_id] for gpu_id in gpu_ids]
        nodes = Counter(view.node_id for view in views if view.available and view.registered)
        return replace(job, nodes=dict(nodes))

    def snapshot(self, now: datetime, *, without: Collection[int] = ()) -> Snapshot:
        """The world at ``now``, ``without`` these jobs, until the next refresh."""
        for job_id in without:
            job = self.queue.remove(job_id)
            if job is not None:
                self.left_out[job_id] = job
        resting_nodes = self._resting(now)
        return Snapshot(
            jobs=self.queue,
            nodes=self._free_nodes(now, resting_nodes),
            resting=resting_nodes,
            tenants=self.tenants,
            largest_node=self.largest_node,
            registered=self.registered,
            closed_clusters=frozenset(pk for pk, is_open, *_ in self.clusters if not is_open),
            unassigned_held=self.held[None],
            gpu_total=self.gpu_total,
            running=self.running,
            preempting={
                pk: Preempting(timedelta(seconds=grace), timedelta(seconds=min_run))
                for pk, *_, allowed, grace, min_run in self.clusters
                if allowed
            },
        )

    def _resting(self, now: datetime) -> dict[int, datetime]:
        lately = {
            node_id: [one for one in failures if one.at > now - LONGEST_REST]
            for node_id, failures in self.failures.items()
        }
        if not any(lately.values()):
            return {}
        return resting(lately, self.nodes, now)

    def _free_nodes(self, now: datetime, without: Collection[int]) -> list[NodeView]:
        found = []
        for node_id, gpu_ids in self.free.items():
            if node_id in without:
                continue
            by_model: dict[str, list[int]] = defaultdict(list)
            for view in map(self.gpus.__getitem__, gpu_ids):
                if (view.from_then is None or view.from_then <= now) and view.gpu_id not in self.held_until:
                    by_model[view.model].append(view.gpu_id)
            if by_model:
                found.append(NodeView(node_id, view.cluster_id, view.hostname, by_model))
        return found

    @property
    def decommissioned(self) -> list[int]:
        """The clusters that are gone."""
        return [pk for pk, _, is_gone, *_ in self.clusters if is_gone]

    @property
    def enforcing(self) -> list[int]:
        """The clusters that hold jobs to their estimates."""
        return [pk for pk, _, _, enforces, *_ in self.clusters if enforces]

    def with_lost_gpus(self) -> set[int]:
        """The running jobs that hold a GPU that is retired or on a silent node."""
        silent = (gpu_id for node_id in self.silent for gpu_id in self.by_node.get(node_id, ()))
        return {self.holder[gpu_id] for gpu_id in (*silent, *self.retired) if gpu_id in self.holder}

    def due(self, now: datetime) -> list[RunningJob]:
        """The running jobs whose time of grace is over."""
        return [job for job in self.running.noticed.values() if job.preempt_at is not None and job.preempt_at <= now]


def take_snapshot(now: datetime) -> Snapshot:
    """The world at ``now``, read anew."""
    world = World()
    world.refresh(now)
    return world.snapshot(now)
