"""Preemption, written down: notice, end of the grace, and the start of whom it was for."""

from datetime import timedelta
from typing import Any

import pytest

from clusters.tests.factories import make_cluster, make_gpu, make_node
from jobs.models import Job
from jobs.queries import waits_of
from jobs.scheduler import run_cycle
from jobs.scheduler.world import World
from jobs.services import change_status, doorbell, submit_job
from jobs.tests.factories import NOW

pytestmark = pytest.mark.django_db

MINUTE = timedelta(minutes=1)


def submit(cluster_id: int, priority: int, minutes: int) -> Job:
    """A job for two GPUs, submitted so many minutes after noon."""
    return submit_job(
        cluster_id=cluster_id, name="job", actor="test", now=NOW + minutes * MINUTE, gpu_count=2, priority=priority
    )


def make_node_of_two(*, grace_s: int) -> int:
    """A cluster that preempts; returns its id."""
    cluster = make_cluster(preemption=True, preemption_min_run_s=0, preemption_grace_s=grace_s)
    node = make_node(cluster)
    for _ in range(2):
        make_gpu(node)
    return cluster.pk


def status(job: Job) -> str:
    return Job.objects.get(pk=job.pk).status


def test_the_job_that_goes_knows_why_and_what_it_leaves_goes_to_whom_it_left_for() -> None:
    cluster_id = make_node_of_two(grace_s=60)
    low = submit(cluster_id, 9, 0)
    run_cycle(now=NOW)
    urgent = submit(cluster_id, 1, 1)
    run_cycle(now=NOW + MINUTE)
    low.refresh_from_db()
    assert (low.status, low.preempt_at, low.preempt_for) == ("running", NOW + 2 * MINUTE, urgent.pk)
    run_cycle(now=NOW + 2 * MINUTE)
    assert (status(low), status(urgent)) == ("queued", "running")
    reason = low.events.filter(from_status="running", to_status="queued").get().reason
    assert reason == f"preempted for job {urgent.pk}, whose priority is 1 and this one's 9"


def test_without_grace_one_cycle_does_it_all() -> None:
    cluster_id = make_node_of_two(grace_s=0)
    low = submit(cluster_id, 9, 0)
    run_cycle(now=NOW)
    urgent = submit(cluster_id, 1, 1)
    run_cycle(now=NOW + MINUTE)
    assert (status(low), status(urgent)) == ("queued", "running")


def test_a_claimant_that_is_held_rings_and_who_was_to_go_for_it_stays(
    monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any
) -> None:
    cluster_id = make_node_of_two(grace_s=60)
    low = submit(cluster_id, 9, 0)
    run_cycle(now=NOW)
    urgent = submit(cluster_id, 1, 1)
    run_cycle(now=NOW + MINUTE)
    later = NOW + MINUTE + timedelta(seconds=30)
    monkeypatch.setattr(doorbell, "_answer", lambda: run_cycle(now=later))
    with django_capture_on_commit_callbacks(execute=True):
        change_status(job_id=urgent.pk, status="blocked", reason="waits for data", actor="test", now=later)
    low.refresh_from_db()
    assert (low.status, low.preempt_at, low.preempt_for) == ("running", None, None)


@pytest.mark.django_db(transaction=True)
def test_who_waits_behind_is_told_why_though_the_cycle_ends_with_a_preemption(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last plan of a cycle speaks of the queue that it was made of."""
    monkeypatch.setattr("jobs.scheduler.cycle.MOST_PLANS", 1)
    cluster_id, world = make_node_of_two(grace_s=0), World()
    submit(cluster_id, 9, 0)
    run_cycle(now=NOW, world=world)
    submit(cluster_id, 1, 1)
    behind = submit(cluster_id, 1, 1)
    run_cycle(now=NOW + MINUTE, world=world)
    assert waits_of(behind)[-1].code == "capacity"
