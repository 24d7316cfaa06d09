"""What is kept from one plan to the next, the queue's order and what runs, says what the same jobs say anew."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from jobs.placement import (
    NodeView,
    Preempting,
    Queue,
    Running,
    RunningJob,
    Snapshot,
    TenantView,
    WaitingJob,
    plan,
)
from jobs.tests.world import decided

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
H100, A100 = "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB"

waiting_jobs = st.builds(
    WaitingJob, job_id=st.integers(1, 30), cluster_id=st.integers(1, 2), tenant_id=st.sampled_from([None, 1, 2]),
    gpu_count=st.sampled_from([1, 2, 4, 9]), gpu_type=st.sampled_from(["", "A100|H100"]), priority=st.integers(1, 2),
    submitted_at=st.integers(0, 2000).map(lambda minutes: NOON - minutes * MINUTE),
    minutes=st.sampled_from([None, 5, 90]), claimed_at=st.sampled_from([None, None, None, NOON - MINUTE]),
)  # fmt: skip


def as_running(job: WaitingJob, minutes_ago: int, preempt_for: int | None) -> RunningJob:
    """It holds GPUs of one node of its cluster, and may be on notice."""
    return RunningJob(
        job.job_id, job.cluster_id, job.tenant_id, H100, {job.cluster_id: job.gpu_count}, NOON - minutes_ago * MINUTE,
        job.minutes, job.gpu_count, job.priority, job.submitted_at,
        None if preempt_for is None else NOON + MINUTE, preempt_for,
    )  # fmt: skip


running_jobs = st.builds(
    as_running, waiting_jobs, st.integers(0, 100), st.sampled_from([None, None, None, *range(1, 5)])
)
changes = st.lists(st.one_of(waiting_jobs, running_jobs, st.integers(1, 30)), max_size=12)


def around(jobs: Queue | Sequence[WaitingJob], running: Running | Sequence[RunningJob]) -> Snapshot:
    nodes = [NodeView(number, number, f"node-{number}", {H100: [number * 10, number * 10 + 1]}) for number in (1, 2)]
    nodes.append(NodeView(3, 2, "node-3", {A100: [30, 31, 32, 33]}))
    return Snapshot(
        jobs, nodes, {1: TenantView(4, 1), 2: TenantView(9, 3)}, {(1, H100): 8, (2, H100): 8, (2, A100): 4},
        running=running, gpu_total=24, preempting={1: Preempting(MINUTE, MINUTE)},
    )  # fmt: skip


@given(st.lists(st.tuples(changes, st.integers(0, 5000)), min_size=1, max_size=5))
def test_what_is_kept_says_what_is_made_anew(lives: list[tuple[list[WaitingJob | RunningJob | int], int]]) -> None:
    """Jobs come, go, start, are given notice and come again, and after each few changes a plan looks at all of it."""
    queue, running = Queue(), Running()
    for steps, minutes in lives:
        for step in steps:
            job_id = step if isinstance(step, int) else step.job_id
            queue.remove(job_id)
            if isinstance(step, RunningJob):
                running.put(step)
            else:
                running.remove(job_id)
            if isinstance(step, WaitingJob):
                queue.add(step)
        now = NOON + minutes * MINUTE
        kept, anew = around(queue, running), around(list(queue), list(running))
        assert decided(plan(kept, now)) == decided(plan(anew, now))


def test_a_plan_changes_nothing_of_what_is_kept() -> None:
    jobs = [
        WaitingJob(number, 1, number % 2 + 1, 1 + number % 3, "", 1, NOON + number * MINUTE) for number in range(20)
    ]
    kept = around(Queue(jobs), Running())
    first = decided(plan(kept, NOON))
    assert decided(plan(kept, NOON)) == first
    assert decided(plan(replace(kept, jobs=jobs), NOON)) == first
