"""What a process keeps of the world is what it would read anew: after others' cycles, changes undone, and crashes."""

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from django.db import connection, transaction

from clusters.models import GPU, Cluster
from clusters.services import register_gpus
from jobs import services
from jobs.models import Allocation, Job
from jobs.placement import plan
from jobs.placement.resting import Failure
from jobs.scheduler import run_cycle
from jobs.scheduler.world import World
from jobs.tests.factories import NOW
from jobs.tests.world import build, decided
from tenants.models import Tenant

pytestmark = pytest.mark.django_db(transaction=True)

MINUTE = timedelta(minutes=1)

Fleet = tuple[Cluster, list[Tenant]]


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    """Two nodes of four GPUs, and more jobs than they take, of three priorities."""
    with services.doorbell.stand_in(lambda: None):
        cluster, tenants = build(nodes=2, gpus_per_node=4, quotas=(6, 8))
        for number in range(24):
            submit(cluster, tenants[number % 2], number)
        yield cluster, tenants


def submit(cluster: Cluster, tenant: Tenant, number: int, minutes: float = 0) -> Job:
    return services.submit_job(
        cluster_id=cluster.pk, tenant_id=tenant.pk, name="job", actor="test", gpu_count=(1, 2, 4)[number % 3],
        priority=1 + number % 5, estimated_duration_min=(None, 5)[number % 2],
        now=NOW + minutes * MINUTE + timedelta(seconds=number),
    )  # fmt: skip


def end(jobs: int, minutes: float) -> None:
    for job in Job.objects.filter(status="running").order_by("pk")[:jobs]:
        services.change_status(job_id=job.pk, status="completed", actor="test", now=NOW + minutes * MINUTE)


def check(world: World, minutes: float) -> None:
    """The kept world, when it has looked, against the world read anew."""
    now = NOW + minutes * MINUTE
    read_anew = World()
    for one in (world, read_anew):
        one.refresh(now)
    assert known_failures(world) == known_failures(read_anew)
    kept, anew = world.snapshot(now), read_anew.snapshot(now)
    assert sorted(kept.jobs, key=lambda job: job.job_id) == sorted(anew.jobs, key=lambda job: job.job_id)
    assert {job.job_id: job for job in kept.running} == {job.job_id: job for job in anew.running}
    assert (kept.tenants, kept.unassigned_held) == (anew.tenants, anew.unassigned_held)
    assert decided(plan(kept, now)) == decided(plan(anew, now))


def known_failures(world: World) -> dict[int, list[Failure]]:
    return {node_id: failures for node_id, failures in world.failures.items() if failures}


def test_after_another_process_ran_cycles(fleet: Fleet) -> None:
    """They start jobs, end some, and give back what others get; each of the two then finds what the other did."""
    cluster, tenants = fleet
    first, second = World(), World()
    run_cycle(now=NOW + MINUTE, world=first)
    for round_number in range(2, 6):
        end(2, round_number)
        submit(cluster, tenants[round_number % 2], round_number, round_number)
        run_cycle(now=NOW + round_number * MINUTE, world=second if round_number % 2 else World())
        check(first, round_number + 0.5)
    check(second, 6)
    assert Allocation.objects.filter(during__upper_inf=False).exists()


def test_after_a_change_that_was_under_way_and_is_rolled_back(fleet: Fleet) -> None:
    _check_around(fleet, end_of=lambda: transaction.set_rollback(True))


def test_after_a_change_that_was_under_way_and_commits(fleet: Fleet) -> None:
    _check_around(fleet, end_of=lambda: None)


def _check_around(fleet: Fleet, end_of: Callable[[], None]) -> None:
    """Another connection ends, cancels and submits jobs and drains a GPU, and is not done when the world looks."""
    cluster, tenants = fleet
    world, done, go_on = World(), threading.Event(), threading.Event()
    run_cycle(now=NOW + MINUTE, world=world)

    def change() -> None:
        try:
            with transaction.atomic():
                end(2, 2)
                waits = Job.objects.filter(status="queued").earliest("submitted_at")
                services.change_status(job_id=waits.pk, status="cancelled", actor="test", now=NOW + 2 * MINUTE)
                submit(cluster, tenants[0], 1, -5)
                GPU.objects.filter(pk=GPU.objects.latest("pk").pk).update(state="draining")
                done.set()
                go_on.wait(20)
                end_of()
        finally:
            done.set()
            connection.close()

    other = threading.Thread(target=change)
    other.start()
    done.wait(20)
    check(world, 2)
    go_on.set()
    other.join()
    check(world, 2)
    run_cycle(now=NOW + 3 * MINUTE, world=world)
    check(world, 4)


@pytest.mark.parametrize("where", ["start_jobs", "write_waits", "_keep_estimates", "_write_cycle"])
def test_after_a_cycle_that_crashed(fleet: Fleet, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a cycle had written by then is found, and what it had not is planned again."""
    world = World()
    run_cycle(now=NOW + MINUTE, world=world)
    end(2, 2)

    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("crash")

    with monkeypatch.context() as patch:
        patch.setattr(f"jobs.scheduler.cycle.{where}", crash)
        with pytest.raises(RuntimeError, match="crash"):
            run_cycle(now=NOW + 2.5 * MINUTE, world=world)
    check(world, 3)
    run_cycle(now=NOW + 3 * MINUTE, world=world)
    check(world, 4)


def test_after_gpus_were_retired_and_a_job_ended_on_them(fleet: Fleet) -> None:
    """Others came into their slots; who held them ends, and the world read anew knows nothing of the old ones."""
    world = World()
    run_cycle(now=NOW + MINUTE, world=world)
    held = Allocation.objects.filter(during__upper_inf=True).earliest("pk").gpu
    register_gpus(
        node_id=held.node_id, gpus=[{"gpu_index": held.gpu_index, "uuid": "new", "model": "H100"}], now=NOW + 2 * MINUTE
    )
    run_cycle(now=NOW + 3 * MINUTE, world=world)
    check(world, 4)
    end(3, 5)
    check(world, 5)


def test_after_jobs_failed_completed_and_ended_by_a_later_clock(fleet: Fleet) -> None:
    world = World()
    run_cycle(now=NOW + MINUTE, world=world)
    later, *others = Job.objects.filter(status="running").order_by("pk")
    services.change_status(job_id=later.pk, status="completed", actor="test", now=NOW + 9 * MINUTE)
    for job in others:
        services.change_status(job_id=job.pk, status="failed", actor="test", now=NOW + 2 * MINUTE)
    check(world, 2)
    assert known_failures(world)
    assert world.held_until
    run_cycle(now=NOW + 10 * MINUTE, world=world)
    check(world, 10.5)
    end(9, 11)
    check(world, 11.5)
    assert not known_failures(world)


def test_a_job_that_came_back_and_failed_elsewhere_says_nothing_of_where_it_was(fleet: Fleet) -> None:
    world = World()
    run_cycle(now=NOW + MINUTE, world=world)
    was = Allocation.objects.filter(during__upper_inf=True).order_by("job__priority", "job__submitted_at")[0]
    end_of = Job.objects.filter(status="running").exclude(pk=was.job_id)
    for job in end_of:
        services.change_status(job_id=job.pk, status="completed", actor="test", now=NOW + 2 * MINUTE)
    services.change_status(job_id=was.job_id, status="queued", actor="test", now=NOW + 2 * MINUTE)
    GPU.objects.filter(node=was.gpu.node_id).update(state="draining")
    run_cycle(now=NOW + 3 * MINUTE, world=world)
    check(world, 3.5)
    services.change_status(job_id=was.job_id, status="failed", actor="test", now=NOW + 4 * MINUTE)
    check(world, 4.5)
    assert was.gpu.node_id not in known_failures(world)
    assert known_failures(world)
