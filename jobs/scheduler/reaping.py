"""Jobs whose hardware is gone: the running ones fail, the waiting ones are cancelled."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime

from django.db.models import Q

from jobs.models import Allocation, Job, JobStatus
from jobs.scheduler.pieces import write_in_pieces
from jobs.services import cancel_waiting_jobs, fail_lost_job
from jobs.states import scheduler_sources

JOBS_IN_ONE_TRANSACTION = 500


def reap(now: datetime) -> int:
    """Cancel what waits for a cluster that is gone, and fail what lost a GPU. Returns how many failed."""
    stranded = Job.objects.filter(
        status__in=scheduler_sources(JobStatus.CANCELLED), cluster__decommissioned_at__isnull=False
    )
    write_in_pieces(
        stranded.order_by("pk").values_list("pk", flat=True),
        JOBS_IN_ONE_TRANSACTION,
        lambda ids: cancel_waiting_jobs(job_ids=ids, reason="The cluster was decommissioned.", now=now),
    )
    failed, _ = write_in_pieces(_lost_gpus(), 1, lambda jobs: sum(_fail(losses, now) for losses in jobs))
    return failed


def _lost_gpus() -> list[list[Allocation]]:
    """Open allocations whose node is silent or whose GPU is retired, a list for each job."""
    lost = Allocation.objects.filter(
        Q(gpu__retired_at__isnull=False) | Q(gpu__node__silent=True), during__upper_inf=True
    ).select_related("gpu__node")
    by_job: dict[int, list[Allocation]] = defaultdict(list)
    for allocation in lost.order_by("job_id", "gpu_id"):
        by_job[allocation.job_id].append(allocation)
    return list(by_job.values())


def _fail(losses: Sequence[Allocation], now: datetime) -> bool:
    lost_at = {loss.gpu_id: loss.gpu.retired_at or loss.gpu.node.last_heartbeat_at for loss in losses}
    gpu = losses[0].gpu
    what = f"GPU {gpu.gpu_index} was retired" if gpu.retired_at else "the node went silent"
    reason = f"Lost {len(losses)} of its GPUs: {what} ({gpu.node.hostname})."
    return fail_lost_job(job_id=losses[0].job_id, reason=reason, lost_at=lost_at, now=now)
