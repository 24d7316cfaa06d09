"""Kinds of jobs are told why they wait, once for all of them, whichever process does it."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.db.backends.postgresql.psycopg_any import DateTimeTZRange
from django.test.utils import CaptureQueriesContext

from clusters.models import GPU, Cluster, Node
from jobs import services
from jobs.models import Job, KindWait, SchedulerCycle, WaitPeriod
from jobs.queries import describe, waits_of
from jobs.scheduler import run_cycle
from jobs.scheduler.world import World
from jobs.tests.factories import NOW, allocate, make_job
from tenants.models import Tenant
from tenants.tests.factories import make_tenant

pytestmark = pytest.mark.django_db

MINUTE = timedelta(minutes=1)


@pytest.fixture(autouse=True)
def _silence() -> Iterator[None]:
    with services.doorbell.stand_in(lambda: None):
        yield


def submit(node: Node, *, minutes: float = 0, **fields: Any) -> Job:
    now = NOW + minutes * MINUTE
    return services.submit_job(cluster_id=node.cluster_id, name="job", actor="key:1", now=now, **fields)


def waits(job: Job) -> list[tuple[str, datetime, datetime | None]]:
    return [(one.code, one.start, one.end) for one in waits_of(job)]


def cycle(minutes: float, world: World | None = None) -> None:
    run_cycle(now=NOW + minutes * MINUTE, world=world)


def turn_cluster(node: Node, status: str) -> None:
    Cluster.objects.filter(pk=node.cluster_id).update(status=status)


def test_a_thousand_jobs_of_one_kind_are_told_by_one_row(node: Node) -> None:
    services.submit_jobs(
        wishes=[{"cluster_id": node.cluster_id, "name": "job", "gpu_count": 4}] * 300, actor="key:1", now=NOW
    )
    allocate(make_job(cluster=node.cluster, status="running"), node.gpus.all()[:1])
    cycle(1)
    assert KindWait.objects.count() == 1
    assert {report.reason for report in describe(Job.objects.filter(status="queued"), now=NOW)} == {
        "Needs 4 GPUs of one model; 3 are free."
    }


def test_the_work_of_telling_a_queue_does_not_grow_with_it(node: Node) -> None:
    def told(jobs: int, *, gpus: int) -> int:
        wishes: list[services.JobWish] = [{"cluster_id": node.cluster_id, "name": "job", "gpu_count": gpus}] * jobs
        services.submit_jobs(wishes=wishes, actor="key:1", now=NOW)
        GPU.objects.update(state="draining")
        with CaptureQueriesContext(connection) as captured:
            cycle(1)
        return len(captured)

    assert told(3, gpus=3) == told(2_500, gpus=4)


def test_a_new_job_waits_for_what_its_kind_does_at_once_and_one_of_a_new_kind_for_the_scheduler(node: Node) -> None:
    allocate(make_job(cluster=node.cluster, status="running"), node.gpus.all()[:1])
    submit(node, gpu_count=4)
    cycle(1)
    alike, other = submit(node, gpu_count=4, minutes=2), submit(node, gpu_count=4, gpu_type="H100", minutes=2)
    assert (waits(alike), waits(other)) == (
        [("capacity", NOW + 2 * MINUTE, None)],
        [("scheduler", NOW + 2 * MINUTE, None)],
    )
    assert [one.reason for one in describe([alike, other], now=NOW)] == [
        "Needs 4 GPUs of one model; 3 are free.",
        "Waits for the scheduler's next cycle.",
    ]


def test_kinds_differ_by_tenant_and_none_is_one(node: Node) -> None:
    tenants = [make_tenant(name, gpu_quota=2) for name in ("alice", "bob")]
    allocate(make_job(cluster=node.cluster, tenant=tenants[0], status="running"), node.gpus.all()[:2])
    jobs = [submit(node, gpu_count=2, tenant_id=tenant.pk) for tenant in tenants] + [submit(node, gpu_count=3)]
    jobs.append(submit(node, gpu_count=2, tenant_id=tenants[0].pk))
    cycle(1)
    assert [job.pk for job in jobs if Job.objects.get(pk=job.pk).status == "running"] == [jobs[1].pk]
    assert [waits(jobs[place])[-1][0] for place in (0, 2, 3)] == ["quota", "capacity", "quota"]
    assert set(KindWait.objects.values_list("tenant", flat=True)) == {tenants[0].pk, None}


def test_a_kind_of_which_nobody_waits_any_more_is_closed_and_begins_anew(node: Node) -> None:
    first = submit(node, gpu_count=4)
    turn_cluster(node, "maintenance")
    cycle(1)
    services.change_status(job_id=first.pk, status="cancelled", actor="key:1", now=NOW + 2 * MINUTE)
    second = submit(node, gpu_count=4, minutes=2.5)
    assert waits(second) == [("cluster_maintenance", NOW + 2.5 * MINUTE, None)]
    services.change_status(job_id=second.pk, status="cancelled", actor="key:1", now=NOW + 2.5 * MINUTE)
    cycle(3)
    third = submit(node, gpu_count=4, minutes=4)
    assert waits(first) == [("scheduler", NOW, NOW + MINUTE), ("cluster_maintenance", NOW + MINUTE, NOW + 2 * MINUTE)]
    assert (waits(second), waits(third)) == ([], [("scheduler", NOW + 4 * MINUTE, None)])
    assert KindWait.objects.get().during == DateTimeTZRange(NOW + MINUTE, NOW + 3 * MINUTE)


def test_a_reason_that_lasted_no_time_leaves_no_row(node: Node) -> None:
    job = submit(node, gpu_count=4)
    turn_cluster(node, "maintenance")
    cycle(1)
    services.change_status(job_id=job.pk, status="cancelled", actor="key:1", now=NOW + MINUTE)
    cycle(1)
    assert not KindWait.objects.exists()


def test_another_reason_at_the_very_instant_takes_the_place_of_the_first(node: Node) -> None:
    job = submit(node, gpu_count=4)
    allocate(make_job(cluster=node.cluster, status="running"), node.gpus.all()[:1])
    cycle(1)
    turn_cluster(node, "maintenance")
    cycle(1)
    assert waits(job) == [("scheduler", NOW, NOW + MINUTE), ("cluster_maintenance", NOW + MINUTE, None)]


def test_a_clock_behind_that_of_the_process_before_is_no_error(node: Node) -> None:
    job = submit(node, gpu_count=4)
    allocate(make_job(cluster=node.cluster, status="running"), node.gpus.all()[:1])
    cycle(3)
    turn_cluster(node, "maintenance")
    cycle(2)
    assert waits(job)[-1] == ("cluster_maintenance", NOW + 3 * MINUTE, None)


def test_processes_that_take_turns_know_what_the_other_said(node: Node) -> None:
    """Each keeps what it knows; the first has told them all before, and must say it again after the second."""
    job = submit(node, gpu_count=4)
    allocate(make_job(cluster=node.cluster, status="running"), node.gpus.all()[:1])
    first, second = World(), World()
    cycle(1, first)
    turn_cluster(node, "maintenance")
    cycle(2, second)
    turn_cluster(node, "active")
    cycle(3, first)
    assert [code for code, _, _ in waits(job)] == ["scheduler", "capacity", "cluster_maintenance", "capacity"]
    cycle(4, second)
    assert len(waits(job)) == 4


def test_a_process_reads_what_all_were_told_only_after_another_has_spoken(node: Node) -> None:
    submit(node, gpu_count=4)
    turn_cluster(node, "maintenance")
    world = World()
    cycle(1, world)
    count = SchedulerCycle.objects.get().told
    cycle(2, world)
    assert (SchedulerCycle.objects.get().told, world.count) == (count, count)


def test_a_job_that_waits_apart_has_its_own_reason_and_goes_back_to_its_kind(node: Node) -> None:
    """An aged job keeps the rest of its tenant's quota, and no other of its tenant may pass it."""
    tenant = make_tenant(gpu_quota=4)
    runs = make_job(cluster=node.cluster, tenant=tenant, status="running", gpu_count=2)
    allocate(runs, node.gpus.all()[:2])
    aged = submit(node, gpu_count=4, tenant_id=tenant.pk, minutes=-60 * 24 * 9)
    young = submit(node, gpu_count=4, tenant_id=tenant.pk)
    world = World()
    cycle(1, world)
    own = WaitPeriod.objects.get(job=aged, during__upper_inf=True)
    assert own.code == "quota"
    assert f"kept for the tenant's job {aged.pk}" in describe([young], now=NOW)[0].reason
    assert "kept for" not in describe([Job.objects.get(pk=aged.pk)], now=NOW)[0].reason
    turn_cluster(node, "maintenance")
    cycle(2, world)
    own = WaitPeriod.objects.get(job=aged, during__upper_inf=True)
    assert (own.code, Job.objects.get(pk=aged.pk).block_reason) == ("kind", "")
    assert waits(aged)[-2:] == [
        ("quota", NOW + MINUTE, NOW + 2 * MINUTE),
        ("cluster_maintenance", NOW + 2 * MINUTE, None),
    ]


def test_what_the_release_before_wrote_is_taken_over(node: Node) -> None:
    """It gave each job a period of its own for each reason."""
    job = submit(node, gpu_count=4)
    WaitPeriod.objects.update(code="capacity", figures={"needs": 4})
    Job.objects.update(block_reason="Needs 4 GPUs of one model; 3 are free.")
    turn_cluster(node, "maintenance")
    cycle(1)
    assert waits(job) == [("capacity", NOW, NOW + MINUTE), ("cluster_maintenance", NOW + MINUTE, None)]
    assert describe([Job.objects.get()], now=NOW)[0].reason == "The cluster is in maintenance."


@pytest.mark.parametrize("tenant", [None, "alice"])
def test_the_database_refuses_a_kind_two_reasons_at_once(node: Node, tenant: str | None) -> None:
    of = None if tenant is None else Tenant.objects.get(pk=make_tenant(tenant).pk)
    kind = {"cluster": node.cluster, "tenant": of, "gpu_type": "", "gpu_count": 1}
    KindWait.objects.create(**kind, code="capacity", during=DateTimeTZRange(NOW, NOW + 2 * MINUTE))
    KindWait.objects.create(**kind, code="capacity", during=DateTimeTZRange(NOW + 2 * MINUTE, None))
    for during in (DateTimeTZRange(NOW + MINUTE, NOW + 3 * MINUTE), DateTimeTZRange(NOW + 9 * MINUTE, None)):
        with pytest.raises(IntegrityError), transaction.atomic():
            KindWait.objects.create(**kind, code="quota", during=during)
