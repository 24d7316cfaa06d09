"""What jobs answer about tenants and clusters, through the ports that those ask."""

from datetime import timedelta

import pytest

import clusters.queries as of_clusters
import tenants.queries as of_tenants
from clusters.models import Node
from clusters.queries import Holder, Workload
from clusters.tests.factories import make_cluster
from jobs import queries
from jobs.models import SchedulerCycle
from jobs.tests.factories import NOW, allocate, make_job
from tenants.models import Tenant
from tenants.queries import TenantWorkload
from tenants.tests.factories import alice, bob

pytestmark = pytest.mark.django_db

DAY = timedelta(days=1)


@pytest.fixture
def cast(node: Node) -> tuple[Tenant, Tenant]:
    """Alice runs a job on two GPUs and has two that wait, one on hold; Bob runs one, and one of nobody's runs too."""
    acme, bluefin = alice(), bob()
    gpus = list(node.gpus.order_by("pk"))
    allocate(make_job("hers", cluster=node.cluster, tenant=acme, status="running", gpu_count=2), gpus[:2])
    allocate(make_job("his", cluster=node.cluster, tenant=bluefin, status="running"), gpus[2:3])
    allocate(make_job("nobody's", cluster=node.cluster, status="running"), gpus[3:])
    for status in ("queued", "blocked", "completed", "cancelled"):
        make_job(cluster=node.cluster, tenant=acme, status=status)
    done = make_job(cluster=node.cluster, tenant=bluefin, status="completed")
    allocate(done, gpus[:1], start=NOW - DAY, end=NOW)
    return acme, bluefin


def test_a_tenants_workload_is_what_it_holds_and_waits_for_now(cast: tuple[Tenant, Tenant]) -> None:
    acme, bluefin = cast
    answer = of_tenants.tenant_workload.ask([acme.pk, bluefin.pk])
    assert answer == {acme.pk: TenantWorkload(2, 2), bluefin.pk: TenantWorkload(1, 0)}


def test_a_tenant_has_history_once_a_job_was_submitted_for_it(cast: tuple[Tenant, Tenant]) -> None:
    assert of_tenants.has_history.ask(cast[0].pk)
    assert not of_tenants.has_history.ask(Tenant.objects.create(name="new", gpu_quota=1, created_at=NOW).pk)


def test_a_clusters_workload_is_everybodys_or_one_tenants(node: Node, cast: tuple[Tenant, Tenant]) -> None:
    other = make_cluster()
    make_job(cluster=other)
    ids = [node.cluster_id, other.pk]
    everybodys = {node.cluster_id: Workload(3, 2), other.pk: Workload(0, 1)}
    assert of_clusters.cluster_workload.ask(ids, None) == everybodys
    assert of_clusters.cluster_workload.ask(ids, cast[1].pk) == {node.cluster_id: Workload(1, 0)}
    assert of_clusters.count_running_jobs.ask(node.cluster_id) == 3
    assert of_clusters.count_running_jobs.ask(other.pk) == 0


def test_recent_jobs_are_the_newest_as_the_api_shows_them(node: Node, cast: tuple[Tenant, Tenant]) -> None:
    newest = of_clusters.recent_jobs.ask(node.cluster_id, None, 2)
    assert [job["status"] for job in newest] == ["completed", "cancelled"]
    assert {job["tenant_id"] for job in of_clusters.recent_jobs.ask(node.cluster_id, cast[1].pk, 20)} == {cast[1].pk}


def test_who_holds_what_now(node: Node, cast: tuple[Tenant, Tenant]) -> None:
    acme, _ = cast
    gpu_ids = list(node.gpus.order_by("pk").values_list("pk", flat=True))
    found = of_clusters.holders.ask(gpu_ids)
    assert {gpu_id: holder.job_name for gpu_id, holder in found.items()} == dict(
        zip(gpu_ids, ["hers", "hers", "his", "nobody's"], strict=True)
    )
    hers = found[gpu_ids[0]]
    assert hers == Holder(hers.job_id, "hers", acme.pk, NOW)
    assert sorted(of_clusters.held_gpu_ids.ask(None)) == gpu_ids
    assert sorted(of_clusters.held_gpu_ids.ask(acme.pk)) == gpu_ids[:2]


def test_jobs_are_counted_in_a_half_open_window(node: Node) -> None:
    acme = alice()
    for ended_at in (NOW - DAY, NOW, NOW + DAY):
        make_job(cluster=node.cluster, tenant=acme, status="completed", submitted_at=NOW - DAY, ended_at=ended_at)
    make_job(cluster=node.cluster, tenant=acme, status="failed", submitted_at=NOW, ended_at=NOW)
    make_job(cluster=node.cluster, tenant=acme, status="queued", submitted_at=NOW + DAY)
    make_job(cluster=node.cluster, tenant=bob(), status="running", submitted_at=NOW)
    assert queries.count_jobs(acme.pk, start=NOW, end=NOW + DAY) == {
        "submitted": 1,
        "completed": 1,
        "failed": 1,
        "cancelled": 0,
        "queued": 1,
        "blocked": 0,
        "running": 0,
    }


def test_the_last_cycles_end_is_known_once_there_was_one() -> None:
    assert queries.last_cycle_finished_at() is None
    SchedulerCycle.objects.create(finished_at=NOW, duration_ms=1)
    assert queries.last_cycle_finished_at() == NOW
