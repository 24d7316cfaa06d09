"""What nodes' agents report of the runs that they were given, and what becomes of the jobs for it."""

from datetime import datetime

from django.db import transaction

from clusters.models import Node
from gpufleet.common.errors import Conflict, NotFound
from jobs.assignments import current_run_id, get_node, nodes_of, open_allocations
from jobs.models import Allocation, Job, JobStatus, Run, RunState
from jobs.services.moving import change_status

LOG_CHARACTERS = 16 * 2**10


class RunIsOver(Conflict):
    """The node's agent has said how the run ended; it can't go on after that."""

    code = "run_is_over"


@transaction.atomic
def report_run(
    *,
    node_id: int,
    job_id: int,
    run_id: int,
    state: str,
    actor: str,
    now: datetime,
    exit_code: int | None = None,
    message: str = "",
    log_tail: str = "",
    cluster_key_id: int | None = None,
) -> Run:
    """Take a node's word on a run. The same word again changes nothing.

    A run that goes on ends its job: completed when the command ended with 0 on every node, failed when it did not on
    one; a node that refuses gives the job back to the queue, and so does one that ends while it is being preempted.
    The word on a run that is over, because the job was cancelled or preempted, is kept and moves nothing.

    Raises ``NotFound`` for a run that this node was never given, and ``RunIsOver``.
    """
    node = get_node(node_id, cluster_key_id)
    job = Job.objects.select_for_update().filter(pk=job_id, cluster_id=node.cluster_id).first()
    if job is None:
        raise NotFound
    run = _known_run(job, node, run_id)
    if run.ended_at is not None:
        if state == RunState.STARTED:
            raise RunIsOver(f"Run {run_id} has ended on {node.hostname}.", state=run.state)
        return run
    run.state, run.exit_code, run.message = state, exit_code, message
    run.log_tail = log_tail[-LOG_CHARACTERS:]
    if state == RunState.STARTED:
        run.started_at = run.started_at or now
    else:
        run.ended_at = max(now, run.started_at or now)
    run.save()
    if state != RunState.STARTED and job.status == JobStatus.RUNNING and current_run_id(job.pk) == run_id:
        _conclude(job, run, actor=actor, now=now)
    return run


def _known_run(job: Job, node: Node, run_id: int) -> Run:
    """The run's row, or a new one, not saved. A run is known by the allocations of its start, which stay."""
    known = Run.objects.filter(job=job, node=node, run_id=run_id).first()
    if known is not None:
        return known
    first = Allocation.objects.filter(pk=run_id, job=job).first()
    if first is None:
        raise NotFound
    of_start = Allocation.objects.filter(job=job, during__startswith=first.during.lower).select_related("gpu__node")
    nodes = [one.pk for one in nodes_of(list(of_start))]
    if node.pk not in nodes:
        raise NotFound
    return Run(job=job, node=node, run_id=run_id, rank=nodes.index(node.pk))


def _conclude(job: Job, run: Run, *, actor: str, now: datetime) -> None:
    where = f"on {run.node.hostname}"
    if run.state == RunState.REFUSED:
        _move(job, JobStatus.QUEUED, f"given back {where}: {run.message}", actor, now)
    elif run.exit_code == 0:
        if _ended_everywhere(job, run.run_id):
            _move(job, JobStatus.COMPLETED, "exit code 0", actor, now)
    elif job.preempt_at is not None:
        _move(job, JobStatus.QUEUED, f"ended {where} to be preempted", actor, now)
    else:
        _move(job, JobStatus.FAILED, run.message or f"{_ending(run.exit_code)} {where}", actor, now)


def _ended_everywhere(job: Job, run_id: int) -> bool:
    nodes = {node.pk for node in nodes_of(list(open_allocations(job.pk)))}
    return Run.objects.filter(run_id=run_id, node__in=nodes, state=RunState.EXITED, exit_code=0).count() == len(nodes)


def _ending(exit_code: int | None) -> str:
    if exit_code is None:
        return "ended unseen"
    return f"exit code {exit_code}" if exit_code >= 0 else f"ended by signal {-exit_code}"


def _move(job: Job, status: str, reason: str, actor: str, now: datetime) -> None:
    change_status(job_id=job.pk, status=status, reason=reason[:500], actor=actor, now=now)
