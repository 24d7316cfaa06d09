"""A plan of the contenders is the plan of everybody: the same starts in the same order, the same reservations."""

from dataclasses import replace
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.placement import NodeView, RunningJob, Snapshot, TenantView, WaitingJob, plan
from jobs.simulation.contenders import Queue
from jobs.simulation.engine import plan_of_queue
from jobs.tests.factories import NOW

MODELS = ["A100", "H100"]
LARGEST = {(1, "A100"): 4, (1, "H100"): 8, (2, "A100"): 2}


@st.composite
def jobs(draw: st.DrawFn, job_id: int) -> WaitingJob:
    """A job that is anything from new to aged."""
    return WaitingJob(
        job_id=job_id,
        cluster_id=draw(st.integers(1, 2)),
        tenant_id=draw(st.sampled_from([None, 1, 2, 3])),
        gpu_count=draw(st.sampled_from([1, 1, 1, 2, 3, 4, 8, 12])),
        gpu_type=draw(st.sampled_from(["", "", "A100", "H100|A100"])),
        priority=draw(st.sampled_from([1, 1, 2, 5])),
        submitted_at=NOW - timedelta(hours=draw(st.sampled_from([1, 2, 3, 23, 30, 47, 50, 130]))),
        minutes=draw(st.sampled_from([None, 10, 60, 120, 600])),
    )


@st.composite
def worlds(draw: st.DrawFn) -> Snapshot:
    """Little hardware, much of it busy, and a queue that is long for it."""
    nodes = []
    for node_id in range(1, draw(st.integers(1, 5)) + 1):
        cluster_id, model = draw(st.sampled_from(list(LARGEST)))
        free = draw(st.integers(1, LARGEST[cluster_id, model]))
        gpus = range(node_id * 100, node_id * 100 + free)
        nodes.append(NodeView(node_id, cluster_id, f"node-{node_id}", {model: gpus}))
    running = []
    for number in range(draw(st.integers(0, 5))):
        cluster_id, model = draw(st.sampled_from(list(LARGEST)))
        gpus_held = draw(st.integers(1, LARGEST[cluster_id, model]))
        started_at = NOW - timedelta(minutes=draw(st.integers(0, 300)))
        place = {draw(st.integers(1, 8)): gpus_held}
        minutes = draw(st.sampled_from([None, 30, 100, 400]))
        running.append(
            RunningJob(1_000 + number, cluster_id, None, model, place, started_at, minutes, gpus_held),
        )
    tenants = {
        tenant_id: TenantView(draw(st.integers(2, 20)), draw(st.integers(0, 8)), draw(st.integers(0, 9)) > 0)
        for tenant_id in (1, 2, 3)
    }
    queue = [draw(jobs(number)) for number in range(1, draw(st.integers(1, 25)) + 1)]
    closed = frozenset([2]) if draw(st.integers(0, 9)) == 0 else frozenset()
    return Snapshot(queue, nodes, tenants, LARGEST, closed, 3, 40, running)


@settings(max_examples=300, deadline=None)
@given(worlds())
def test_the_contenders_plan_is_everybodys_plan(world: Snapshot) -> None:
    whole = plan(world, NOW)
    part = plan_of_queue(Queue(world.jobs), replace(world, jobs=()), NOW)
    assert [(start.job.job_id, start.model, start.gpu_ids) for start in part.starts] == [
        (start.job.job_id, start.model, start.gpu_ids) for start in whole.starts
    ]
    assert part.reservations == whole.reservations
