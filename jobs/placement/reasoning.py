"""Why jobs wait, as things stand when a plan has given everything away."""

import sys
from collections.abc import Iterable, Mapping

from jobs.placement.matching import preferences
from jobs.placement.planner import Planner
from jobs.placement.pools import Pool
from jobs.placement.queue import Kind, Line, Wish, kind_of
from jobs.placement.shapes import Reason, WaitCode, WaitingJob


class Reasoning:
    """What a planner that has run says to those who wait."""

    def __init__(self, planner: Planner) -> None:
        self.planner = planner
        self._misfits: dict[Wish, Reason] = {}
        self._barred: dict[tuple[object, ...], Reason] = {}

    def of_kinds(self) -> Mapping[Kind, Reason]:
        """Why these kinds of jobs wait; those with one reason share it. A few jobs have one of their own: see
        ``of_jobs``."""
        misfits, apart, rooms = self._misfits, self._kinds_apart(), self._rooms()
        found = {}
        for kind, lines in self.planner.queue.by_kind.items():
            wish, tenant_id = kind
            # Most jobs wait for hardware alone, which is the same for all tenants.
            if wish in misfits and wish.gpu_count <= rooms[tenant_id] and kind not in apart:
                found[kind] = misfits[wish]
                continue
            job = self._one_that_waits(lines) if kind in apart else next(iter(lines)).jobs[0]
            if job is not None:
                found[kind] = self._of_kind(kind, job)
        return found

    def _of_kind(self, kind: Kind, job: WaitingJob) -> Reason:
        """Why the job waits, which does for what its kind does."""
        (wish, tenant_id), code = kind, self.planner.barred(job)
        if code is None:
            if wish not in self._misfits:
                self._misfits[wish] = self.reason(job, None)
            return self._misfits[wish]
        quota = code is WaitCode.QUOTA
        key = (code, tenant_id, wish.gpu_count, wish.cluster_id) if quota else (code, wish)
        if key not in self._barred:
            self._barred[key] = self.reason(job, code)
        return self._barred[key]

    def _rooms(self) -> Mapping[int | None, int]:
        """By tenant, for how many GPUs at least it is certain that no rule about tenants bars a job."""
        planner = self.planner
        rooms: dict[int | None, int] = {None: sys.maxsize}
        for pk, tenant in planner.snapshot.tenants.items():
            free = tenant.active and pk not in planner.savers
            rooms[pk] = tenant.quota - planner.quotas.held[pk] if free else 0
        return rooms

    def _kinds_apart(self) -> set[Kind]:
        """The kinds of which not every job waits, or not every one for what its kind does."""
        planner = self.planner
        apart = {line.kind for line in planner.turns.served}
        return apart | {kind_of(planner.queue.jobs[job_id]) for job_id in (*planner.claims, *planner.savers.values())}

    def _one_that_waits(self, lines: Iterable[Line]) -> WaitingJob | None:
        """Any job of the lines that waits for what all of its kind do."""
        claims, savers = self.planner.claims, self.planner.savers.values()
        for line in lines:
            for job in self.planner.turns.rest_of(line):
                if job.job_id not in claims and job.job_id not in savers:
                    return job
        return None

    def of_jobs(self) -> Mapping[int, Reason]:
        """Why those jobs wait, by id, that wait for something of their own."""
        found = {}
        for job_id in self.planner.savers.values():
            job = self.planner.queue.jobs[job_id]
            found[job_id] = self.reason(job, self.planner.barred(job))
        for job_id, victims in self.planner.claims.items():
            reason = self._misfit(self.planner.queue.jobs[job_id])
            at = min((one.preempt_at for one in victims if one.preempt_at is not None), default=None)
            at = at or self.planner.now + self.planner.snapshot.preempting[victims[0].cluster_id].grace
            figures = {**reason.figures, "preempting": len(victims), "preempt_at": f"{at:%Y-%m-%d %H:%M:%S}"}
            found[job_id] = Reason(reason.code, figures)
        return found

    def reason(self, job: WaitingJob, code: WaitCode | None) -> Reason:
        """Why the job waits: by this rule, or for hardware."""
        if code is None:
            return self._misfit(job)
        if code is not WaitCode.QUOTA or job.tenant_id is None:
            return Reason(code, {})
        held, tenant = self.planner.quotas.held[job.tenant_id], self.planner.snapshot.tenants[job.tenant_id]
        figures = {"needs": job.gpu_count, "held": held, "quota": tenant.quota}
        if tenant.borrow_limit and job.cluster_id in self.planner.snapshot.preempting:
            figures["borrowable"] = self.planner.quotas.borrowable(job)
        if self.planner.is_passed_over(job):
            figures["kept_for"] = self.planner.savers[job.tenant_id]
        return Reason(code, figures)

    def _misfit(self, job: WaitingJob) -> Reason:
        pools = [self.planner.pools[job.cluster_id][model] for model in self.planner.models(job)]
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
