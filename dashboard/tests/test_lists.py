"""Each list of the console takes as many queries for thirty rows as for two, and not many."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.admin import site
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from alerts.models import AlertEvent, AlertRule
from apikeys.tests.factories import make_key
from billing.tests.factories import LONG_AGO, make_rate, sell
from clusters.models import Cluster, LatestReading
from clusters.tests.factories import NOW, make_cluster, make_gpu, make_node
from gpufleet.common.models import AuditEntry
from gpufleet.common.tests.factories import staff
from gpufleet.tests.authorisation_world import make_world
from jobs.models import Allocation, JobEvent, WaitPeriod
from jobs.tests.factories import allocate, make_job
from tenants.tests.factories import make_tenant

pytestmark = pytest.mark.django_db

# A list may take this many: session, person, permissions, the alerts in the sidebar, filters, counts and the rows.
MOST = 20


@pytest.fixture
def charlie() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("charlie", password="x"))
    return client


def queries_of(client: Client, label: str) -> int:
    with CaptureQueriesContext(connection) as queries:
        answer = client.get(reverse(f"admin:{label.replace('.', '_').lower()}_changelist"))
    assert answer.status_code == 200
    return len(queries)


def job_with_all_about_it(number: int) -> None:
    cluster = make_cluster()
    node = make_node(cluster)
    job = make_job(f"job-{number}", cluster=cluster, status="running", tenant=make_tenant(f"tenant-{number}"))
    gpu = make_gpu(node)
    allocate(job, [gpu])
    WaitPeriod.objects.create(job=job, code="quota", during=(NOW - timedelta(hours=2), NOW - timedelta(hours=1)))
    JobEvent.objects.create(job=job, at=NOW, to_status="running", actor="scheduler")
    LatestReading.objects.create(gpu=gpu, recorded_at=NOW)


def money(number: int) -> None:
    rate = make_rate(f"Model-{number}", "2.00", tenant_id=make_tenant(f"payer-{number}").pk)
    make_key(rate.tenant)
    sell(rate.tenant, LONG_AGO, LONG_AGO + timedelta(hours=1), rate=rate)


def incident(number: int) -> None:
    rule = AlertRule.objects.create(name=f"rule-{number}", type="gpu_temperature", threshold=90, created_at=NOW)
    AlertEvent.objects.create(rule=rule, subject=f"gpu:{number}", status="firing", value=1, message="hot", since=NOW)
    AuditEntry.objects.create(at=NOW, actor="user:eve", action="cancel", model="jobs.job", object_id=1, name="x")


GROWING: dict[Callable[[int], None], list[str]] = {
    job_with_all_about_it: [
        "clusters.Cluster",
        "clusters.Node",
        "clusters.GPU",
        "clusters.GPUStatePeriod",
        "clusters.LatestReading",
        "jobs.Job",
        "jobs.Allocation",
        "jobs.WaitPeriod",
        "jobs.JobEvent",
        "tenants.Tenant",
    ],
    money: ["billing.Rate", "apikeys.ApiKey", "tenants.Tenant"],
    incident: ["alerts.AlertRule", "alerts.AlertEvent", "common.AuditEntry"],
}


@pytest.mark.parametrize(("make", "labels"), GROWING.items(), ids=lambda one: getattr(one, "__name__", ""))
def test_a_list_takes_as_many_queries_however_long_it_is(
    charlie: Client, make: Callable[[int], None], labels: list[str]
) -> None:
    for number in range(2):
        make(number)
    queries_of(charlie, labels[0])
    few = {label: queries_of(charlie, label) for label in labels}
    for number in range(2, 12):
        make(number)
    assert {label: queries_of(charlie, label) for label in labels} == few


def test_no_list_takes_many_queries(charlie: Client) -> None:
    make_world(timezone.now())
    labels = [model._meta.label for model in site._registry]
    queries_of(charlie, labels[0])
    assert {label: count for label in labels if (count := queries_of(charlie, label)) > MOST} == {}


def test_lists_say_what_their_rows_do_now(charlie: Client) -> None:
    cluster = make_cluster("fra-1")
    node = make_node(cluster, "fra-01")
    held, _idle = make_gpu(node, model="H100"), make_gpu(node, model="H100", health="unhealthy")
    tenant = make_tenant("Alice", gpu_quota=4)
    allocate(make_job("fold", cluster=cluster, status="running", tenant=tenant), [held])
    make_job("next", cluster=cluster, tenant=tenant)
    LatestReading.objects.create(gpu=held, recorded_at=NOW, utilization_pct=93.4, temperature_c=71)
    said = {
        "tenants.Tenant": ["1 (25 %)"],
        "clusters.Cluster": ["fra-1"],
        "clusters.Node": ["H100", "1\u00a0of\u00a02"],
        "clusters.GPU": [">fold</a>", "93\u00a0%, 71\u00a0°C"],
    }
    for label, parts in said.items():
        page = charlie.get(reverse(f"admin:{label.replace('.', '_').lower()}_changelist")).content.decode()
        for part in parts:
            assert part in page
    admin: Any = site._registry[Cluster]
    (row,) = charlie.get("/admin/clusters/cluster/").context["cl"].result_list
    told = [getattr(admin, name)(row) for name in ("nodes", "gpus", "idle", "running", "queued")]
    assert told == [1, 2, 0, 1, 1]


@pytest.mark.parametrize("chosen", ["abc", "", "\x00"])
def test_an_action_on_what_is_no_row_is_refused(charlie: Client, chosen: str) -> None:
    answer = charlie.post("/admin/jobs/job/", {"action": "cancel", "_selected_action": chosen, "index": "0"})
    assert answer.status_code == 400


def test_ledger_rows_are_written_for_people_on_their_own_pages_too() -> None:
    job, gpu = make_job("fold", status="running"), make_gpu(make_node())
    rate = make_rate(gpu.model, "2.500000")
    price: dict[str, Any] = {"rate_id": rate.pk, "price_per_gpu_hour": Decimal("2.500000"), "currency": "USD"}
    allocate(job, [gpu], start=datetime(2026, 5, 4, 22, 30, 15, tzinfo=UTC), **price)
    client = staff("view_allocation", name="otto")
    row = Allocation.objects.get()
    page = client.get(f"/admin/jobs/allocation/{row.pk}/change/").content.decode()
    assert page.count("2026-05-04 22:30:15 – now") == 1
    assert "2.5 USD" in client.get("/admin/jobs/allocation/").content.decode()


@pytest.mark.parametrize(("query", "said"), [("", "There are no jobs yet"), ("?q=x", "No jobs fit these filters")])
def test_an_empty_list_says_why_it_is_empty(query: str, said: str) -> None:
    page = staff("view_job", name="otto").get(f"/admin/jobs/job/{query}").content.decode()
    assert said in page
    assert ("Reset filters" in page) == bool(query)
