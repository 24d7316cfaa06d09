"""What tenants may hold while a plan is made: their quota, and what others leave idle of theirs. Pure.

A tenant that lends leaves idle what of its quota it neither holds nor has jobs in the queue for. Who may borrow gets it
up to its own limit, as long as all that is borrowed together is no more than all that is left idle. Borrowing is for
clusters that allow preemption, since elsewhere nothing could be reclaimed.
"""

from jobs.placement.queue import Queue
from jobs.placement.shapes import Snapshot, WaitingJob


class Quotas:
    """What each tenant holds, with what the plan has given away so far."""

    def __init__(self, snapshot: Snapshot, queue: Queue) -> None:
        self.tenants = snapshot.tenants
        self.gpu_total = max(snapshot.gpu_total, 1)
        self.preempting = snapshot.preempting
        self.held = {tenant_id: tenant.held for tenant_id, tenant in snapshot.tenants.items()}
        self.unassigned_held = snapshot.unassigned_held
        # What a tenant is given leaves its queue, so that this stays the same while a plan is made.
        self.idle = {
            pk: max(0, tenant.quota - tenant.held - queue.wanted[pk])
            for pk, tenant in snapshot.tenants.items()
            if tenant.lends and tenant.active
        }
        self.idle_total = sum(self.idle.values())
        self.above_total = sum(max(0, tenant.held - tenant.quota) for tenant in snapshot.tenants.values())

    def share(self, tenant_id: int | None) -> float:
        """GPUs held over quota; for jobs without a tenant, over the whole fleet."""
        if tenant_id is None:
            return self.unassigned_held / self.gpu_total
        return self.held[tenant_id] / self.tenants[tenant_id].quota

    def admits(self, job: WaitingJob) -> bool:
        """Whether the job's tenant may hold its GPUs too."""
        if job.tenant_id is None:
            return True
        return self.own_admits(job) or job.gpu_count <= self._left(job.tenant_id) + self.borrowable(job)

    def own_admits(self, job: WaitingJob) -> bool:
        """Whether it may without borrowing."""
        return job.tenant_id is None or job.gpu_count <= self.tenants[job.tenant_id].quota - self.held[job.tenant_id]

    def borrowable(self, job: WaitingJob) -> int:
        """How much of others' idle quota the job's tenant may have now, on the job's cluster."""
        if job.tenant_id is None or job.cluster_id not in self.preempting:
            return 0
        tenant = self.tenants[job.tenant_id]
        above = max(0, self.held[job.tenant_id] - tenant.quota)
        idle = self.idle_total - self.idle.get(job.tenant_id, 0) - self.above_total
        return max(0, min(tenant.borrow_limit - above, idle))

    def count(self, job: WaitingJob) -> None:
        """The job holds its GPUs from now on, or is sure to."""
        if job.tenant_id is None:
            self.unassigned_held += job.gpu_count
            return
        quota = self.tenants[job.tenant_id].quota
        before = self.held[job.tenant_id]
        self.held[job.tenant_id] = before + job.gpu_count
        self.above_total += max(0, before + job.gpu_count - quota) - max(0, before - quota)

    def _left(self, tenant_id: int) -> int:
        return max(0, self.tenants[tenant_id].quota - self.held[tenant_id])
