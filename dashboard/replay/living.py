"""A trace lived through by the real services, on a clock of its own: registration, submission, cycles, ends."""

import heapq
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import groupby

from django.db import connection

from billing.services import add_rate
from clusters.models import GPU, Cluster
from clusters.services import GpuFields, NodeFields, create_cluster, register_gpus, register_node
from dashboard.replay.trace import Task, Trace
from jobs.models import Allocation, Job, JobStatus, SchedulerCycle
from jobs.scheduler import run_cycle, turn
from jobs.services import JobWish, change_status, doorbell, submit_jobs
from jobs.simulation import Holding
from tenants.models import Tenant
from tenants.services import create_tenant

# When the trace begins; it says no date itself.
START = datetime(2023, 1, 1, tzinfo=UTC)
ACTOR = "replay"
PRICE = Decimal("1.00")
PRIORITY = 5

HELD = """
SELECT allocation.job_id, gpu.model, job.tenant_id, lower(allocation.during), upper(allocation.during),
       array_agg(gpu.node_id)
  FROM jobs_allocation AS allocation
  JOIN clusters_gpu AS gpu ON gpu.id = allocation.gpu_id
  JOIN jobs_job AS job ON job.id = allocation.job_id
 GROUP BY 1, 2, 3, 4, 5
"""
REVENUE = """
SELECT coalesce(sum(extract(epoch FROM upper(held) - lower(held))::numeric * price_per_gpu_hour / 3600), 0)
  FROM (SELECT during * tstzrange(%s, %s) AS held, price_per_gpu_hour FROM jobs_allocation) AS allocation
 WHERE NOT isempty(held)
"""


class NotEmpty(Exception):
    """The database is somebody's."""


def refuse_if_used() -> None:
    """Raise ``NotEmpty`` for a database in which there is anything, or in which a scheduler has ever run."""
    for model in (Cluster, Tenant, Job, SchedulerCycle):
        if model._default_manager.exists():
            raise NotEmpty(
                f"The database holds {model._meta.verbose_name_plural}. A replay needs an empty one of its own that no"
                " scheduler works on; `make replay` starts one for as long as it runs."
            )


class Life:
    """The trace's cluster, and what becomes of its tasks."""

    def __init__(self, trace: Trace) -> None:
        self.trace, self.now = trace, START
        self.cluster_id = create_cluster(name="trace", actor=ACTOR, now=START).cluster.pk
        self.tenants = self._tenants()
        self._hardware()
        self.tasks: dict[int, Task] = {}
        self.ends: list[tuple[datetime, int]] = []
        self.queued = 0

    def _tenants(self) -> dict[str, int]:
        """A tenant for each class of service, whose quota is the whole cluster."""
        names = sorted({task.tenant for task in self.trace.tasks})
        return {name: create_tenant(name=name, gpu_quota=self.trace.gpus, now=START).pk for name in names}

    def _hardware(self) -> None:
        for node in self.trace.nodes:
            fields = NodeFields(total_gpus=node.gpus)
            row = register_node(cluster_id=self.cluster_id, hostname=node.hostname, fields=fields, now=START).node
            gpus = [GpuFields(gpu_index=slot, model=node.model) for slot in range(node.gpus)]
            register_gpus(node_id=row.pk, gpus=gpus, now=START)
        for model in sorted({node.model for node in self.trace.nodes}):
            add_rate(gpu_model=model, price_per_gpu_hour=PRICE, recorded_by=ACTOR, now=START)

    def live(self) -> int:
        """Go through all that happens; every end and submission of an instant, and then a cycle if anybody waits.
        Returns the number of cycles."""
        coming = [(START + timedelta(seconds=at), list(tasks)) for at, tasks in groupby(self.trace.tasks, _at)]
        coming.reverse()
        cycles = 0
        with turn() as mine, doorbell.stand_in(lambda: None):
            assert mine  # noqa: S101  (nobody else is here)
            while coming or self.ends:
                self.now = min([*(at for at, _ in coming[-1:]), *(at for at, _ in self.ends[:1])])
                while self.ends and self.ends[0][0] <= self.now:
                    job_id = heapq.heappop(self.ends)[1]
                    change_status(job_id=job_id, status=JobStatus.COMPLETED, actor=ACTOR, now=self.now)
                if coming and coming[-1][0] <= self.now:
                    self._submit(coming.pop()[1])
                if self.queued:
                    cycles += 1
                    self._cycle()
        return cycles

    def _submit(self, tasks: Sequence[Task]) -> None:
        wishes = [
            JobWish(
                cluster_id=self.cluster_id,
                tenant_id=self.tenants[task.tenant],
                name=task.name,
                gpu_count=task.gpus,
                gpu_type=task.gpu_type,
                priority=PRIORITY,
                estimated_duration_min=task.minutes,
            )
            for task in tasks
        ]
        for job, task in zip(submit_jobs(wishes=wishes, actor=ACTOR, now=self.now), tasks, strict=True):
            self.tasks[job.pk] = task
        self.queued += len(tasks)

    def _cycle(self) -> None:
        if not run_cycle(now=self.now).started:
            return
        started = Job.objects.filter(status=JobStatus.RUNNING, started_at=self.now).values_list("pk", flat=True)
        for job_id in started:
            heapq.heappush(self.ends, (self.now + timedelta(seconds=self.tasks[job_id].lasts), job_id))
        self.queued -= len(started)

    def holdings(self) -> list[Holding]:
        """What the ledger says was held."""
        with connection.cursor() as cursor:
            cursor.execute(HELD)
            rows = cursor.fetchall()
        return [
            Holding(
                job_id=job_id,
                cluster_id=self.cluster_id,
                tenant_id=tenant_id,
                model=model,
                nodes={node_id: nodes.count(node_id) for node_id in set(nodes)},
                gpus=len(nodes),
                start=start,
                end=end,
            )
            for job_id, model, tenant_id, start, end, nodes in rows
        ]

    def revenue(self, until: datetime) -> Decimal:
        """What the ledger's allocations bring up to ``until``, at the prices that were locked in."""
        with connection.cursor() as cursor:
            cursor.execute(REVENUE, [START, until])
            return Decimal(cursor.fetchone()[0])

    def gpus(self) -> list[tuple[int, str, str, int]]:
        """(node, host name, model, GPU) of the whole cluster."""
        rows = GPU.objects.order_by("pk").values_list("node_id", "node__hostname", "model", "pk")
        return [(node_id, hostname, model, pk) for node_id, hostname, model, pk in rows]

    def is_clean(self) -> bool:
        """Whether nothing is held when everybody has ended."""
        return not Allocation.objects.filter(during__upper_inf=True).exists()


def _at(task: Task) -> int:
    return task.at
