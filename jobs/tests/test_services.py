"""Submitting and moving jobs, at instants of our choosing."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db.models.functions import Lower, Upper

from clusters.models import Cluster, Node
from clusters.tests.factories import make_cluster, make_node
from gpufleet.common.errors import InvalidInput, NotFound
from jobs import services
from jobs.models import Allocation, Job, JobEvent, JobStatus
from jobs.queries import billed_until, waits_of
from jobs.scheduler import run_cycle
from jobs.services import IllegalMove, NoSuchHardware, OverQuota, TenantInactive
from jobs.states import MOVES
from jobs.tests.factories import NOW, allocate, make_job
from tenants.tests.factories import make_tenant

pytestmark = pytest.mark.django_db

MINUTE = timedelta(minutes=1)


@pytest.fixture(autouse=True)
def rings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often the doorbell was rung."""
    heard: list[int] = []
    monkeypatch.setattr(services.doorbell, "_answer", lambda: heard.append(1))
    return heard


def submit(node: Node, **fields: Any) -> Job:
    return services.submit_job(cluster_id=node.cluster_id, name="train", actor="key:1", now=NOW, **fields)


def waits(job: Job) -> list[tuple[str, datetime, datetime | None]]:
    return [(one.code, one.start, one.end) for one in waits_of(job)]


def move(job: Job, status: str, reason: str = "", minutes: int = 1, **fields: Any) -> Job:
    now = NOW + minutes * MINUTE
    return services.change_status(job_id=job.pk, status=status, reason=reason, actor="key:1", now=now, **fields)


def test_a_submitted_job_waits_for_the_scheduler_and_rings_after_the_commit(
    node: Node, rings: list[int], django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks() as callbacks:
        job = submit(node)
    assert (job.status, job.gpu_count, job.priority) == ("queued", 1, 5)
    assert rings == []
    callbacks[0]()
    assert rings == [1]
    assert waits(job) == [("scheduler", NOW, None)]
    event = JobEvent.objects.get()
    assert (event.from_status, event.to_status, event.actor, event.reason) == ("", "queued", "key:1", "submitted")


def test_a_job_over_the_quota_is_refused_with_the_figures(node: Node) -> None:
    tenant = make_tenant(gpu_quota=3)
    with pytest.raises(OverQuota) as refusal:
        submit(node, tenant_id=tenant.pk, gpu_count=4)
    assert refusal.value.data == {"needs": 4, "quota": 3}
    assert not Job.objects.exists()
    assert submit(node, tenant_id=tenant.pk, gpu_count=3).status == "queued"


@pytest.mark.parametrize("wish", [{"gpu_count": 5}, {"gpu_type": "A100"}, {"gpu_type": "A100|B200", "gpu_count": 1}])
def test_a_job_that_the_hardware_can_never_hold_is_refused(node: Node, wish: dict[str, Any]) -> None:
    with pytest.raises(NoSuchHardware) as refusal:
        submit(node, **wish)
    assert refusal.value.data["available"] == {"H100": 4}
    assert not Job.objects.exists()


def test_hardware_that_is_busy_or_broken_counts_and_retired_hardware_does_not(node: Node) -> None:
    gpus = node.gpus.order_by("gpu_index")
    gpus.filter(gpu_index__in=[0, 1, 2]).update(state="offline")
    submit(node, gpu_count=4)
    gpus.filter(gpu_index=3).update(retired_at=NOW)
    with pytest.raises(NoSuchHardware):
        submit(node, gpu_count=4)


def test_who_or_what_is_not_there_is_named(node: Node) -> None:
    with pytest.raises(InvalidInput) as refusal:
        submit(node, tenant_id=10**9)
    assert refusal.value.problems[0].pointer == "#/tenant_id"
    Cluster.objects.filter(pk=node.cluster_id).update(decommissioned_at=NOW)
    with pytest.raises(InvalidInput) as refusal:
        submit(node)
    assert refusal.value.problems[0].pointer == "#/cluster_id"
    with pytest.raises(TenantInactive):
        submit(make_node(make_cluster()), tenant_id=make_tenant(status="inactive").pk)


@pytest.mark.parametrize("before", JobStatus.values)
@pytest.mark.parametrize("after", JobStatus.values)
def test_only_legal_moves_are_made(node: Node, before: str, after: str) -> None:
    job = make_job(cluster=node.cluster, status=before)
    if after in MOVES[before]:
        assert move(job, after, "because").status == after
    else:
        with pytest.raises(IllegalMove) as refusal:
            move(job, after, "because")
        assert refusal.value.data == {"current": before, "requested": after, "legal": list(MOVES[before])}
        job.refresh_from_db()
        assert job.status == before


def test_ending_a_job_frees_its_gpus_in_the_ledger(node: Node, django_capture_on_commit_callbacks: Any) -> None:
    job = make_job(cluster=node.cluster, gpu_count=2, status="running")
    allocate(job, node.gpus.all()[:2])
    with django_capture_on_commit_callbacks() as callbacks:
        move(job, "completed", minutes=5)
    assert len(callbacks) == 1
    assert list(Allocation.objects.values_list(Lower("during"), Upper("during"))) == [(NOW, NOW + 5 * MINUTE)] * 2
    assert Job.objects.get().ended_at == NOW + 5 * MINUTE


def test_a_job_that_ends_as_it_starts_held_nothing(node: Node) -> None:
    job = make_job(cluster=node.cluster, status="running")
    allocate(job, node.gpus.all()[:1])
    move(job, "failed", minutes=0)
    assert not Allocation.objects.exists()


def test_what_an_invoice_names_was_sold_whatever_is_found_out_later(node: Node) -> None:
    """Neither cut shorter nor deleted from under its invoice. What no invoice names ends when it was lost."""
    job = make_job(cluster=node.cluster, gpu_count=3, status="running")
    held = allocate(job, node.gpus.order_by("pk")[:3])
    lost_at = {held[0].gpu_id: NOW + 2 * MINUTE, held[1].gpu_id: NOW - MINUTE, held[2].gpu_id: NOW + 2 * MINUTE}
    billed = {held[0].pk: NOW + 3 * MINUTE, held[1].pk: NOW + 3 * MINUTE}
    with billed_until.stand_in(lambda allocation_ids: {pk: billed[pk] for pk in allocation_ids if pk in billed}):
        assert services.fail_lost_job(job_id=job.pk, reason="lost", lost_at=lost_at, now=NOW + 4 * MINUTE)
    ends = Allocation.objects.order_by("pk").values_list(Upper("during"), flat=True)
    assert [(end - NOW) / MINUTE for end in ends if end] == [3, 3, 2]


def test_a_hold_has_its_reason_and_its_period_and_a_release_ends_it(node: Node) -> None:
    job = make_job(cluster=node.cluster)
    with pytest.raises(InvalidInput) as refusal:
        move(job, "blocked")
    assert refusal.value.problems[0].pointer == "#/block_reason"
    assert move(job, "blocked", "waits for data", minutes=1).block_reason == "On hold: waits for data"
    move(job, "queued", minutes=2)
    move(job, "cancelled", minutes=3)
    assert waits(job) == [
        ("scheduler", NOW, NOW + MINUTE),
        ("held", NOW + MINUTE, NOW + 2 * MINUTE),
        ("scheduler", NOW + 2 * MINUTE, NOW + 3 * MINUTE),
    ]


@pytest.mark.parametrize("status", ["blocked", "cancelled"])
def test_a_clients_clock_behind_the_schedulers_is_no_error(node: Node, status: str) -> None:
    """The request read its clock before the tick did, and waited for the tick's lock."""
    job = make_job(cluster=node.cluster, gpu_count=5)
    run_cycle(now=NOW + 2 * MINUTE)
    assert move(job, status, "data", minutes=1).status == status
    periods = waits(job)
    assert periods[0] == ("scheduler", NOW, NOW + MINUTE)
    assert periods[1:] == ([("held", NOW + MINUTE, None)] if status == "blocked" else [])


def test_a_requeued_job_gives_its_gpus_back_and_waits_anew_with_its_age(node: Node) -> None:
    job = make_job(cluster=node.cluster, gpu_count=2)
    run_cycle(now=NOW + MINUTE)
    moved = move(job, "queued", "a newer image", minutes=5)
    assert (moved.status, moved.started_at, moved.submitted_at) == ("queued", None, NOW)
    during = list(Allocation.objects.values_list(Lower("during"), Upper("during")))
    assert during == [(NOW + MINUTE, NOW + 5 * MINUTE)] * 2
    assert waits(job) == [("scheduler", NOW, NOW + MINUTE), ("scheduler", NOW + 5 * MINUTE, None)]
    last = JobEvent.objects.order_by("pk").last()
    assert (last.from_status, last.to_status, last.reason) == ("running", "queued", "a newer image")  # type: ignore[union-attr]  # it is there
    run_cycle(now=NOW + 6 * MINUTE)
    assert Job.objects.get().started_at == NOW + 6 * MINUTE


def test_no_job_ends_before_it_starts(node: Node) -> None:
    job = make_job(cluster=node.cluster)
    run_cycle(now=NOW + 2 * MINUTE)
    assert move(job, "completed", minutes=1).ended_at == NOW + 2 * MINUTE
    assert not Allocation.objects.exists()
    assert JobEvent.objects.order_by("pk").last().at == NOW + 2 * MINUTE  # type: ignore[union-attr]  # it is there


def test_another_tenants_job_is_not_there(node: Node) -> None:
    tenant = make_tenant()
    job = make_job(cluster=node.cluster, tenant=tenant)
    with pytest.raises(NotFound):
        move(job, "cancelled", tenant_id=tenant.pk + 1)
    with pytest.raises(NotFound):
        services.change_status(job_id=10**9, status="cancelled", actor="key:1", now=NOW)
    assert move(job, "cancelled", tenant_id=job.tenant_id).status == "cancelled"
