"""Jobs that can't go on: what lost its hardware fails or is queued again, as its cluster has it; what waits for a
cluster that is gone is cancelled; and where the cluster enforces it, what is past its own time limit fails."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime

from django.db.models import DurationField, F, Func, Q

from clusters.models import OnNodeLoss
from jobs.models import Allocation, Job, JobStatus
from jobs.scheduler.pieces import write_in_pieces
from jobs.scheduler.world import World
from jobs.services import cancel_waiting_jobs, fail_lost_job, preempt_job, requeue_lost_job
from jobs.states import scheduler_sources

JOBS_IN_ONE_TRANSACTION = 500


def reap(world: World, now: datetime) -> int:
    """End or requeue what can't go on. Returns how many running jobs it was."""
    if world.decommissioned:
        _cancel_stranded(world.decommissioned, now)
    failed, _ = write_in_pieces(_lost_gpus(world.with_lost_gpus()), 1, lambda jobs: sum(_end(one, now) for one in jobs))
    overdue, _ = write_in_pieces(
        _past_their_limit(world.enforcing, now), 1, lambda jobs: sum(_stop(job, now) for job in jobs)
    )
    return failed + overdue


def preempt_due(world: World, now: datetime) -> int:
    """Preempt the jobs whose time of grace is over. Returns how many."""
    return preempt([job.job_id for job in world.due(now)], now)


def preempt(job_ids: Collection[int], now: datetime) -> int:
    """Preempt those of the jobs whose time of grace is over. Returns how many."""
    done, _ = write_in_pieces(job_ids, 1, lambda ids: sum(preempt_job(job_id=job_id, now=now) for job_id in ids))
    return done


def _cancel_stranded(cluster_ids: Collection[int], now: datetime) -> None:
    stranded = Job.objects.filter(status__in=scheduler_sources(JobStatus.CANCELLED), cluster__in=cluster_ids)
    write_in_pieces(
        stranded.order_by("pk").values_list("pk", flat=True),
        JOBS_IN_ONE_TRANSACTION,
        lambda ids: cancel_waiting_jobs(job_ids=ids, reason="The cluster was decommissioned.", now=now),
    )


def _past_their_limit(cluster_ids: Collection[int], now: datetime) -> list[Job]:
    """Running jobs of these clusters that are past their own estimate."""
    if not cluster_ids:
        return []
    limit = F("started_at") + Func(
        "estimated_duration_min", template="make_interval(mins => %(expressions)s)", output_field=DurationField()
    )
    running = Job.objects.filter(status=JobStatus.RUNNING, cluster__in=cluster_ids)
    return list(running.filter(estimated_duration_min__isnull=False).alias(limit=limit).filter(limit__lt=now))


def _stop(job: Job, now: datetime) -> bool:
    reason = f"Ran past its limit of {job.estimated_duration_min} minutes."
    return fail_lost_job(job_id=job.pk, reason=reason, lost_at={}, now=now)


def _lost_gpus(job_ids: Collection[int]) -> list[list[Allocation]]:
    """Of these jobs, the open allocations whose node is silent or whose GPU is retired, a list for each job."""
    if not job_ids:
        return []
    lost = Allocation.objects.filter(
        Q(gpu__retired_at__isnull=False) | Q(gpu__node__silent=True), job__in=job_ids, during__upper_inf=True
    ).select_related("gpu__node__cluster")
    by_job: dict[int, list[Allocation]] = defaultdict(list)
    for allocation in lost.order_by("job_id", "gpu_id"):
        by_job[allocation.job_id].append(allocation)
    return list(by_job.values())


def _end(losses: Sequence[Allocation], now: datetime) -> bool:
    lost_at = {loss.gpu_id: loss.gpu.retired_at or loss.gpu.node.last_heartbeat_at for loss in losses}
    gpu = losses[0].gpu
    what = f"GPU {gpu.gpu_index} was retired" if gpu.retired_at else "the node went silent"
    reason = f"Lost {len(losses)} of its GPUs: {what} ({gpu.node.hostname}). {gpu.retired_reason}".strip()
    requeue = gpu.node.cluster.on_node_loss == OnNodeLoss.REQUEUE
    end = requeue_lost_job if requeue else fail_lost_job
    return end(job_id=losses[0].job_id, reason=reason, lost_at=lost_at, now=now)
