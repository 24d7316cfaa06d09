"""The pages of a job, a node, a tenant and an incident: what they say, to whom, and in how many queries."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from alerts.models import AlertEvent, AlertRule
from billing.models import Invoice, InvoiceStatus
from billing.services import create_invoice, move_invoice
from billing.tests.factories import make_rate, sell
from clusters.models import GPUFault, GPUStatePeriod, LatestReading, NodeIntent
from clusters.services import record_batch, turn_nodes
from clusters.tests.factories import make_cluster, make_gpu, make_node
from gpufleet.common.tests.factories import staff
from jobs.models import JobEvent, WaitPeriod
from jobs.tests.factories import allocate, make_job
from tenants.tests.factories import alice

pytestmark = pytest.mark.django_db

MINUTE = timedelta(minutes=1)


@pytest.fixture
def charlie() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("charlie", password="x"))
    return client


def page_of(client: Client, row: Any) -> str:
    meta = row._meta
    answer = client.get(f"/admin/{meta.app_label}/{meta.model_name}/{row.pk}/change/")
    assert answer.status_code == 200
    return answer.content.decode()


def test_a_jobs_page_has_its_life_its_gpus_and_its_cost(charlie: Client) -> None:
    now = timezone.now()
    node = make_node(hostname="fra-01")
    gpus = [make_gpu(node, model="H100") for _ in range(2)]
    job = make_job("fold", status="running", cluster=node.cluster, tenant=alice(), submitted_at=now - 180 * MINUTE)
    WaitPeriod.objects.create(job=job, code="quota", during=(now - 180 * MINUTE, now - 120 * MINUTE))
    price: dict[str, Any] = {"price_per_gpu_hour": Decimal("2.50"), "currency": "USD"}
    price["rate_id"] = make_rate(price="2.50").pk
    allocate(job, gpus, start=now - 120 * MINUTE, **price)
    page = page_of(charlie, job)
    assert "USD 10.00" in page
    assert "waits: quota" in page
    assert "runs on 2 GPUs" in page
    assert "2 × H100: 0, 1" in page
    parts = 'class="gf-waited" x="0.00" y="0.00" width="333.', 'class="gf-fill-sold" x="333.'
    assert all(part in page for part in parts)


def test_a_jobs_page_says_how_each_run_ended_and_that_it_costs_nothing_before_the_first(charlie: Client) -> None:
    now = timezone.now()
    node = make_node()
    job = make_job("fold", status="queued", cluster=node.cluster, tenant=alice(), submitted_at=now - 90 * MINUTE)
    assert "nothing yet" in page_of(charlie, job)
    for begun, ended, reason in ((80, 60, "preempted for job 7"), (50, 20, "a fan is loud")):
        end = now - ended * MINUTE
        allocate(job, [make_gpu(node)], start=now - begun * MINUTE, end=end)
        JobEvent.objects.create(
            job=job, at=end, from_status="running", to_status="queued", actor="scheduler", reason=reason
        )
    page = page_of(charlie, job)
    assert page.index("queued by scheduler: preempted for job 7") < page.index("queued by scheduler: a fan is loud")
    assert "runs on 1 GPU<" in page


def test_a_fault_that_was_held_back_is_on_the_pages_of_its_node_and_gpu_and_needs_a_person(charlie: Client) -> None:
    now = timezone.now()
    node = make_node(hostname="fra-01")
    gpu, ill, old = make_gpu(node), make_gpu(node), make_gpu(node)
    for one, ago, reason in ((gpu, 1, "XID 79"), (ill, 1, "XID 48"), (old, 30, "XID 13")):
        at = now - timedelta(hours=ago)
        GPUFault.objects.create(gpu=one, cause="xid", reason=reason, began_at=at, ended_at=at, held_back=True)
    GPUFault.objects.create(gpu=ill, cause="operator", reason="seen to", began_at=now)
    page = page_of(charlie, node)
    assert "Faulty, but left in service:</strong> XID 79" in page
    assert "XID 48" not in page
    assert "XID 13" not in page
    assert "left in service: too many others were out" in page_of(charlie, old)
    home = charlie.get("/admin/").content.decode()
    link = "/admin/clusters/gpufault/?left=in_service"
    assert f'<a href="{link}"><strong>1</strong> GPU is faulty' in home
    listed = charlie.get(link).context["cl"].result_list
    assert [fault.reason for fault in listed] == ["XID 79"]
    assert "GPU is faulty" not in staff("view_gpu").get("/admin/").content.decode()


def test_a_nodes_page_says_in_words_what_it_is_and_when_its_gpus_were_out(charlie: Client) -> None:
    node = make_node(hostname="fra-01")
    assert "At no time of the week" in page_of(charlie, node)
    gpu = make_gpu(node)
    allocate(make_job("fold", status="running"), [gpu])
    turn_nodes(node_ids=[node.pk], intent=NodeIntent.MAINTENANCE, reason="a new fan", now=timezone.now())
    page = page_of(charlie, node)
    assert "fra-01 is in maintenance: a new fan" in page
    assert "sold, maintenance" in page
    assert "<td>maintenance</td>" in page
    assert "GPU 0 of fra-01" in page_of(charlie, gpu)


def test_the_explanation_is_a_fragment_for_whoever_may_see_jobs(charlie: Client) -> None:
    node = make_node()
    make_gpu(node)
    job = make_job(cluster=node.cluster, gpu_count=2, tenant=None)
    address = f"/admin/live/job/{job.pk}/explanation/"
    assert "Why it stands where it stands" in charlie.get(address).content.decode()
    assert job.name not in Client().get(address).content.decode()
    assert staff("view_node").get(address).status_code == 403
    assert charlie.get("/admin/live/job/999999/explanation/").status_code == 404


def test_a_nodes_page_has_its_gpus_their_week_and_its_jobs(charlie: Client) -> None:
    now = timezone.now()
    node = make_node(hostname="fra-01")
    held, idle = make_gpu(node), make_gpu(node, health="unhealthy", health_reason="XID 79")
    allocate(make_job("fold", status="running"), [held], start=now - timedelta(days=3, hours=12))
    LatestReading.objects.create(gpu=held, recorded_at=now, utilization_pct=93.4, temperature_c=71)
    page = page_of(charlie, node)
    for said in ("fold", "93 %", "71 °C", "unhealthy: XID 79", "sold to fold from"):
        assert said in page
    assert GPUStatePeriod.objects.filter(gpu=idle).exists()
    assert page.count('class="gf-fill-sold" x="500.') == 1


def test_a_nodes_metrics_are_plotted_a_line_for_each_gpu(charlie: Client) -> None:
    now = timezone.now()
    node = make_node()
    gpus = [make_gpu(node), make_gpu(node)]
    for ago in (30, 20, 10):
        at = (now - ago * MINUTE).isoformat()
        samples = [{"gpu_id": gpu.pk, "recorded_at": at, "utilization_pct": 10.0 * ago / 10} for gpu in gpus]
        record_batch(body={"metrics": samples}, now=now)
    page = charlie.get(f"/admin/live/node/{node.pk}/metrics/").content.decode()
    assert page.count("<polyline") == 2
    assert "least 10.0 %, mean 20.0, most 30.0" in page
    assert charlie.get(f"/admin/live/node/{node.pk}/metrics/?window=1y").status_code == 404
    assert staff("view_job").get(f"/admin/live/node/{node.pk}/metrics/").status_code == 403


def test_a_tenants_page_has_quota_use_rates_invoices_and_keys() -> None:
    tenant, rate = alice(), make_rate(price="2.00")
    now = timezone.now()
    sell(tenant, now - timedelta(hours=3), now - timedelta(hours=1), rate=rate)
    allocate(make_job(status="running", tenant=tenant), [make_gpu(make_node())])
    seer = staff("view_tenant", "view_allocation", "view_rate", "view_invoice", "view_apikey")
    page = page_of(seer, tenant)
    assert f"Quota: 1 of {tenant.gpu_quota} GPUs in use" in page
    assert "2 USD" in page
    assert f'<th scope="row">{now:%Y-%m-%d}</th>' in page
    for part in ("GPU-hours by day", "Rates in force", "Invoices", "API keys"):
        assert part in page
    bare = page_of(staff("view_tenant", name="frank"), tenant)
    assert "Quota: 1 of" in bare
    for part in ("GPU-hours by day", "Rates in force", ">Invoices<", ">API keys<"):
        assert part not in bare


def test_an_incidents_page_has_the_series_and_the_threshold(charlie: Client) -> None:
    now = timezone.now()
    gpu = make_gpu(make_node())
    for ago in (30, 20):
        at = (now - ago * MINUTE).isoformat()
        record_batch(body={"metrics": [{"gpu_id": gpu.pk, "recorded_at": at, "temperature_c": 70.0 + ago}]}, now=now)
    rule = AlertRule.objects.get(type="gpu_temperature")
    fields = {"rule": rule, "status": "firing", "value": 96, "since": now - 20 * MINUTE, "fired_at": now}
    page = page_of(charlie, AlertEvent.objects.create(subject=f"gpu:{gpu.pk}", message="too hot", **fields))
    assert "<polyline" in page
    assert "gf-level" in page
    assert "Temperature, °C" in page
    lost = page_of(charlie, AlertEvent.objects.create(subject="gpu:999999", message="gone", **fields))
    assert "No readings are kept" in lost


def test_an_invoices_page_says_what_differs_from_the_one_before(charlie: Client) -> None:
    tenant, now = alice(), timezone.now()
    h100, l40s = make_rate(price="2.00"), make_rate("L40S", price="1.00")

    def bill(most: int, least: int) -> Invoice:
        return create_invoice(
            tenant_id=tenant.pk,
            start=now - timedelta(hours=most),
            end=now - timedelta(hours=least),
            created_by="test",
            now=now,
        )

    sell(tenant, now - timedelta(hours=100), now - timedelta(hours=90), rate=h100)
    first = bill(120, 80)
    assert "this tenant's first in USD" in page_of(charlie, first)
    sell(tenant, now - timedelta(hours=79), now - timedelta(hours=78), rate=h100)
    move_invoice(invoice_id=bill(79, 76).pk, to=InvoiceStatus.VOID, actor="test", reason="by mistake", now=now)
    sell(tenant, now - timedelta(hours=70), now - timedelta(hours=55), rate=h100)
    sell(tenant, now - timedelta(hours=70), now - timedelta(hours=66), rate=l40s)
    page = page_of(charlie, bill(75, 50))
    for row in (
        ("H100", "10.0", "15.0", "20.00", "30.00", "+50.0 %"),
        ("L40S", "0.0", "4.0", "0.00", "4.00", "new"),
        ("Together", "10.0", "19.0", "20.00", "34.00", "+70.0 %"),
    ):
        assert "".join(f'<td class="gf-number">{cell}</td>' for cell in row[1:]) in page, row
        assert f'<th scope="row">{row[0]}</th>' in page
    assert f"/admin/billing/invoice/{first.pk}/change/" in page


def test_the_invoice_before_is_that_of_the_period_that_ended_before_however_long_back_one_asks(charlie: Client) -> None:
    """A draft of the last 30 days begins before the week that was billed last."""
    tenant, now, rate = alice(), timezone.now(), make_rate(price="2.00")
    bounds = [(240, 168), (168, 72), (720, 0)]
    invoices = []
    for most, least in bounds:
        sell(tenant, now - timedelta(hours=least + 2), now - timedelta(hours=least + 1), rate=rate)
        start, end = now - timedelta(hours=most), now - timedelta(hours=least)
        invoices.append(create_invoice(tenant_id=tenant.pk, start=start, end=end, created_by="test", now=now))
    assert f"/admin/billing/invoice/{invoices[1].pk}/change/" in page_of(charlie, invoices[2])
    assert f"/admin/billing/invoice/{invoices[0].pk}/change/" in page_of(charlie, invoices[1])
    assert "this tenant's first in USD" in page_of(charlie, invoices[0])


def queries_of(client: Client, row: Any) -> int:
    page_of(client, row)
    with CaptureQueriesContext(
        connection,
    ) as queries:
        page_of(client, row)
    return len(queries)


def test_the_pages_take_as_many_queries_however_much_there_is_on_them(charlie: Client) -> None:
    cluster = make_cluster()
    small, large = make_node(cluster), make_node(cluster)
    tenant = alice()
    few, many = (
        make_job("few", cluster=cluster, status="running", tenant=tenant),
        make_job("many", cluster=cluster, status="running", tenant=tenant),
    )
    allocate(few, [make_gpu(small)])
    allocate(many, [make_gpu(large) for _ in range(6)])
    for hour in range(5):
        start = timezone.now() - timedelta(days=2, hours=hour)
        WaitPeriod.objects.create(job=many, code="quota", during=(start, start + 10 * MINUTE))
    assert queries_of(charlie, few) == queries_of(charlie, many) <= 30
    assert queries_of(charlie, small) == queries_of(charlie, large) <= 20
    assert queries_of(charlie, tenant) <= 35
