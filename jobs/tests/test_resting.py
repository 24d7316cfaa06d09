"""A node that fails everything put on it (pytorch/ci-infra#1058) does not draw the queue into its grave."""

from datetime import datetime, timedelta

import pytest

from clusters.models import Cluster
from clusters.tests.factories import make_cluster, make_gpu, make_node
from jobs.models import Allocation, Job
from jobs.placement.resting import Failure, resting, rests_until
from jobs.scheduler import run_cycle
from jobs.scheduler.world import World
from jobs.services import change_status, submit_job
from jobs.tests.factories import NOW
from tenants.models import Tenant
from tenants.tests.factories import make_tenant

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)


def failures(*tenants: int | None) -> list[Failure]:
    return [Failure(NOW + number * SECOND, tenant) for number, tenant in enumerate(tenants)]


def test_a_node_rests_after_three_failures_of_two_tenants_and_longer_with_each() -> None:
    assert rests_until(failures(1, 2)) is None
    assert rests_until(failures(1, 1, 2)) == NOW + 2 * SECOND + 5 * MINUTE
    assert rests_until(failures(1, 1, 2, 2)) == NOW + 3 * SECOND + 10 * MINUTE
    assert rests_until(failures(*[1, 2] * 20)) == NOW + 39 * SECOND + 60 * MINUTE


def test_one_tenants_broken_jobs_cost_no_node() -> None:
    assert rests_until(failures(*[1] * 20)) is None


def test_no_more_than_a_tenth_of_a_cluster_rests_and_at_least_one_may() -> None:
    broken = {node: failures(*[1, 2] * node) for node in range(2, 6)}
    assert resting(broken, {1: range(1, 6)}, NOW).keys() == {5}
    assert resting(broken, {1: range(1, 31)}, NOW).keys() == {5, 4, 3}


@pytest.fixture
def fleet() -> tuple[Cluster, list[Tenant]]:
    cluster = make_cluster()
    for hostname in ("broken", "sound"):
        node = make_node(cluster, hostname)
        for _ in range(2):
            make_gpu(node)
    return cluster, [make_tenant("alice"), make_tenant("bob")]


def submit(cluster: Cluster, tenant: Tenant, now: datetime) -> Job:
    return submit_job(cluster_id=cluster.pk, tenant_id=tenant.pk, name="job", actor="test", now=now, gpu_count=2)


def place_of(job: Job) -> str | None:
    held = Allocation.objects.filter(job=job, during__upper_inf=True)
    return held.values_list("gpu__node__hostname", flat=True).first()


@pytest.mark.django_db
@pytest.mark.parametrize("remembers", [True, False])
def test_the_third_failure_sends_the_next_job_elsewhere(fleet: tuple[Cluster, list[Tenant]], remembers: bool) -> None:
    """Whether the process has seen the failures or reads them."""
    cluster, (alice, bob) = fleet
    world = World() if remembers else None
    now = NOW
    for tenant in (alice, bob, alice):
        job = submit(cluster, tenant, now)
        run_cycle(now=now, world=world)
        assert place_of(job) == "broken"
        now += 10 * SECOND
        change_status(job_id=job.pk, status="failed", actor="test", now=now)
    job = submit(cluster, bob, now)
    run_cycle(now=now, world=world)
    assert place_of(job) == "sound"
    waits = submit(cluster, alice, now)
    run_cycle(now=now + 4 * MINUTE, world=world)
    assert place_of(waits) is None
    run_cycle(now=now + 6 * MINUTE, world=world)
    assert place_of(waits) == "broken"
