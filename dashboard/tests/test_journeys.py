"""What operators and finance do all day, from the login to the effect that the API shows. See ``browsing``."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib import import_module
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth.models import Group, User
from django.db import connection
from django.utils import timezone
from playwright.sync_api import Browser, expect
from rest_framework.test import APIClient

from alerts.models import AlertEvent, AlertRule
from apikeys.tests.factories import client_with, make_admin_key
from billing.tests.factories import make_rate
from clusters.models import GPU, Cluster, LatestReading
from clusters.services import record_batch
from clusters.tests.factories import make_cluster, make_gpu, make_node
from dashboard.tests.browsing import MARKS, PASSPHRASE, Visit, visit
from gpufleet.common.models import AuditEntry
from jobs.models import Job
from jobs.tests.factories import allocate, make_job
from tenants.models import Tenant
from tenants.tests.factories import alice

pytestmark = MARKS


@pytest.fixture
def fleet() -> Cluster:
    """Two nodes with two GPUs each; Alice's job holds one of the four, and another of hers waits."""
    with connection.schema_editor() as editor:  # Tests like these empty the tables; what migrations put there is gone.
        import_module("dashboard.migrations.0001_groups").add_groups(apps, editor)
    for group in ("operator", "finance", "viewer", "administrator"):
        User.objects.create_user(group, password=PASSPHRASE, is_staff=True).groups.add(Group.objects.get(name=group))
    now, cluster = timezone.now(), make_cluster("fra-1")
    gpus = [make_gpu(node) for node in (make_node(cluster, "fra-01"), make_node(cluster, "fra-02")) for _ in range(2)]
    tenant, rate = alice(), make_rate(gpus[0].model, "2.00")
    price: dict[str, Any] = {"rate_id": rate.pk, "price_per_gpu_hour": Decimal("2.00"), "currency": "USD"}
    fold = make_job("fold", cluster=cluster, status="running", tenant=tenant, submitted_at=now - timedelta(hours=3))
    allocate(fold, gpus[:1], start=now - timedelta(hours=2), **price)
    LatestReading.objects.create(gpu=gpus[0], recorded_at=now, utilization_pct=93)
    make_job("train", cluster=cluster, tenant=tenant, gpu_count=64, submitted_at=now - timedelta(hours=1))
    rule = AlertRule.objects.create(name="hot", type="gpu_temperature", threshold=90, created_at=now)
    AlertEvent.objects.create(
        rule=rule,
        subject=f"gpu:{gpus[0].pk}",
        status="firing",
        value=96,
        message="GPU 0 is hot",
        since=now,
        fired_at=now,
    )
    return cluster


def api(path: str) -> Any:
    """What the API says to an administrator's key."""
    return client_with(make_admin_key()).get(f"/api/{path}").json()


def as_person(browser: Browser, live_server: Any, name: str, **look: Any) -> Visit:
    console = visit(browser, live_server, **look)
    console.log_in(name)
    return console


def give_reason(console: Visit, button: str, reason: str) -> None:
    """On the page that asks."""
    console.page.get_by_role("textbox", name="Reason").fill(reason)
    console.press(button)


def test_an_operator_drains_a_node_and_resumes_it(browser: Browser, live_server: Any, fleet: Cluster) -> None:
    console = as_person(browser, live_server, "operator")
    console.page.get_by_role("link", name="fra-01", exact=True).click()
    console.press("Cordon and drain")
    expect(console.page.get_by_text("1 node with 2 GPUs, 1 GPU held by 1 job.")).to_be_visible()
    give_reason(console, "Cordon and drain", "a fan is loud")
    expect(console.page.get_by_role("heading", name="fra-01 is draining: a fan is loud")).to_be_visible()
    assert [node["status"] for node in api("clusters/nodes?hostname=fra-01")] == ["draining"]
    console.press("Resume")
    give_reason(console, "Resume", "it was a leaf")
    assert [node["status"] for node in api("clusters/nodes?hostname=fra-01")] == ["online"]
    console.assert_clean()


def test_an_operator_reads_why_a_job_waits_and_moves_it_up(browser: Browser, live_server: Any, fleet: Cluster) -> None:
    console = as_person(browser, live_server, "operator")
    console.page.get_by_role("link", name="train", exact=True).click()
    why = console.page.get_by_role("region", name="Why it stands where it stands")
    expect(why).to_contain_text("64 GPUs")
    console.press("Change the priority")
    console.page.get_by_role("spinbutton", name="Priority").fill("1")
    give_reason(console, "Change the priority", "the customer called")
    job = Job.objects.get(name="train")
    assert api(f"jobs/{job.pk}")["priority"] == 1
    console.assert_clean()


def test_an_operator_holds_a_job_and_releases_it(browser: Browser, live_server: Any, fleet: Cluster) -> None:
    job = Job.objects.get(name="train")
    console = as_person(browser, live_server, "operator")
    console.go(f"/admin/jobs/job/{job.pk}/change/")
    console.press("Hold")
    give_reason(console, "Hold", "until Monday")
    assert api(f"jobs/{job.pk}")["status"] == "blocked"
    console.press("Release")
    give_reason(console, "Release", "it is Monday")
    assert api(f"jobs/{job.pk}")["status"] == "queued"
    console.assert_clean()


def test_an_operator_cancels_jobs_from_the_list(browser: Browser, live_server: Any, fleet: Cluster) -> None:
    console = as_person(browser, live_server, "operator")
    console.go("/admin/jobs/job/")
    for box in console.page.locator("input[name=_selected_action]").all():
        box.check()
    console.page.select_option("select[name=action]", "cancel")
    console.press("Run")
    expect(console.page.get_by_text("Cancels 2 jobs and frees 1 GPU.")).to_be_visible()
    console.assert_usable()
    give_reason(console, "Cancel", "the cluster moves")
    assert {job["status"] for job in api("jobs")} == {"cancelled"}
    assert AuditEntry.objects.filter(action="cancel", actor="user:operator", reason="the cluster moves").count() == 2
    console.assert_clean()


def test_an_operator_takes_a_sick_gpu_out(browser: Browser, live_server: Any, fleet: Cluster) -> None:
    gpu = GPU.objects.order_by("pk")[3]
    console = as_person(browser, live_server, "operator")
    console.go(f"/admin/clusters/gpu/{gpu.pk}/change/")
    footer = "getComputedStyle(document.getElementById('submit-row')).position"
    assert console.page.evaluate(footer) == "static"  # It would cover what stands below, and nothing can be saved.
    console.press("Mark unhealthy")
    give_reason(console, "Mark unhealthy", "it smells")
    assert api(f"clusters/gpus/{gpu.pk}")["state"] == "unhealthy"
    console.go("/admin/")
    expect(console.page.get_by_role("region", name="What needs a person now")).to_contain_text("1 GPU is unhealthy")
    console.assert_clean()


def test_an_operator_acknowledges_an_incident(browser: Browser, live_server: Any, fleet: Cluster) -> None:
    console = as_person(browser, live_server, "operator")
    console.page.get_by_role("link", name="GPU 0 is hot").click()
    console.press("Acknowledge")
    give_reason(console, "Acknowledge", "on my way")
    (event,) = api("alerts/events")
    assert event["acknowledged_by"] == "user:operator"
    console.assert_clean()


def test_an_administrator_makes_a_key_copies_it_and_revokes_it(
    browser: Browser, live_server: Any, fleet: Cluster
) -> None:
    console = as_person(browser, live_server, "administrator")
    console.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    console.go("/admin/apikeys/apikey/add/")
    console.page.fill("#id_label", "for the night shift")
    console.press("Save")
    console.assert_usable()
    console.press("Copy the key")
    raw = console.page.evaluate("navigator.clipboard.readText()")
    assert raw == console.page.locator("#raw-key").inner_text().strip()
    client = APIClient(headers={"Authorization": f"Bearer {raw}"})
    assert client.get("/api/jobs").status_code == 200
    console.go("/admin/apikeys/apikey/?q=night")
    assert raw not in console.page.content()
    console.page.get_by_role("link", name="for the night shift").click()
    console.press("Revoke")
    give_reason(console, "Revoke", "the night is over")
    assert client.get("/api/jobs").status_code == 401
    console.assert_clean()


def test_finance_sees_where_the_money_went(browser: Browser, live_server: Any, fleet: Cluster) -> None:
    console = as_person(browser, live_server, "finance")
    console.page.locator("a[href='/admin/leakage/']").first.click()
    steps = console.page.get_by_role("region", name="From potential to collected, USD")
    expect(steps).to_contain_text("4.00")
    console.assert_usable()
    assert api("dashboard/revenue?days=30")["total"]["metered"] == "4.00"
    with console.page.expect_download() as file:
        console.page.get_by_role("region", name="Revenue by tenant, USD").get_by_role("link", name="As CSV").click()
    assert "acme" in file.value.path().read_text()
    steps.get_by_role("link", name="Not billed yet").click()
    rows = console.page.get_by_role("region", name="Not billed yet, USD")
    expect(rows.get_by_role("row", name="acme 4.00")).to_be_visible()
    console.assert_usable()
    rows.get_by_role("link", name="acme").click()
    expect(console.page.get_by_role("button", name="Create invoices")).to_be_visible()
    console.assert_clean()


def test_finance_bills_a_tenant_and_finalises_the_draft(browser: Browser, live_server: Any, fleet: Cluster) -> None:
    console = as_person(browser, live_server, "finance")
    console.go(f"/admin/tenants/tenant/{Tenant.objects.get(name='acme').pk}/change/")
    console.press("Create invoices")
    expect(console.page.get_by_role("heading", name="Create invoices")).to_be_visible()
    console.page.locator("form button[type=submit]").last.click()
    console.page.wait_for_load_state("networkidle")
    console.press("Create the draft")
    console.press("Finalise: number and freeze")
    console.press("Finalise")
    (invoice,) = api("billing/invoices")
    assert (invoice["status"], invoice["total"]) == ("open", "4.00")
    console.assert_clean()


def test_an_operator_reads_a_nodes_metrics_off_its_plots(browser: Browser, live_server: Any, fleet: Cluster) -> None:
    now, gpus = timezone.now(), list(GPU.objects.filter(node__hostname="fra-01"))
    for ago in (40, 30, 20):
        at = (now - timedelta(minutes=ago)).isoformat()
        samples = [{"gpu_id": gpu.pk, "recorded_at": at, "utilization_pct": 40.0 + ago} for gpu in gpus]
        record_batch(body={"metrics": samples}, now=now)
    console = as_person(browser, live_server, "operator")
    console.go(f"/admin/clusters/node/{gpus[0].node_id}/change/")
    metrics = console.page.get_by_role("region", name="Metrics, a line for each GPU")
    expect(metrics.locator("canvas")).to_have_count(1)
    assert metrics.locator("polyline").count() == 0
    plot = metrics.locator(".u-over")
    box = plot.bounding_box()
    assert box is not None
    console.page.mouse.move(box["x"] + box["width"] - 2, box["y"] + 20)
    expect(metrics.locator(".u-legend")).to_contain_text("60.0 %")
    metrics.get_by_text("Utilization in figures").click()
    expect(metrics.get_by_role("row", name="0 60.0 70.0 80.0")).to_be_visible()
    console.assert_usable()
    metrics.get_by_role("button", name="7d").click()
    expect(metrics.get_by_role("button", name="7d")).to_have_attribute("aria-current", "true")
    console.assert_clean()


def test_times_are_of_the_readers_zone_once_with_utc_on_hover(
    browser: Browser, live_server: Any, fleet: Cluster
) -> None:
    at = datetime(2026, 5, 4, 22, 30, 15, tzinfo=UTC)
    job = Job.objects.get(name="train")
    Job.objects.filter(pk=job.pk).update(submitted_at=at)
    console = as_person(browser, live_server, "operator", zone="Asia/Kolkata")
    console.go(f"/admin/jobs/job/{job.pk}/change/")
    field = console.page.locator(".readonly [title], .readonly[title]").filter(has_text="2026-05-05 04:00:15").first
    expect(field).to_have_attribute("title", "2026-05-04 22:30:15 UTC")
    said = console.page.get_by_text("submitted 2026-05-05 04:00:15").locator("time")
    expect(said).to_have_attribute("title", "2026-05-04 22:30:15 UTC")
    console.go("/admin/jobs/job/?q=train")
    expect(console.page.locator("#result_list [title='2026-05-04 22:30:15 UTC']")).to_have_text("2026-05-05 04:00:15")
    console.assert_clean()


@pytest.mark.parametrize("group", ["viewer", "finance"])
def test_who_may_not_act_is_refused_by_the_server_too(
    browser: Browser, live_server: Any, fleet: Cluster, group: str
) -> None:
    job = Job.objects.get(name="train")
    console = as_person(browser, live_server, group)
    console.go("/admin/jobs/job/")
    form = {"action": "cancel", "_selected_action": str(job.pk), "agreed": "1", "reason": "because"}
    token = console.page.locator("input[name=csrfmiddlewaretoken]").first.input_value()
    answer = console.page.request.post(
        f"{console.url}/admin/jobs/job/",
        form={**form, "csrfmiddlewaretoken": token},
        headers={"Referer": console.page.url},
    )
    assert answer.status == 403
    assert api(f"jobs/{job.pk}")["status"] == "queued"
    assert not AuditEntry.objects.filter(actor=f"user:{group}").exists()


def test_a_viewer_sees_everything_and_has_no_button(browser: Browser, live_server: Any, fleet: Cluster) -> None:
    job = Job.objects.get(name="fold")
    console = as_person(browser, live_server, "viewer")
    console.go(f"/admin/jobs/job/{job.pk}/change/")
    expect(console.page.get_by_role("heading", name="fold: running")).to_be_visible()
    assert console.page.get_by_role("button", name="Cancel").count() == 0
    console.go("/admin/jobs/job/")
    assert console.page.locator("select[name=action]").count() == 0
    console.assert_clean()


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark"), (1440, "dark"), (390, "light")])
def test_the_main_pages_are_usable_by_everybody(
    browser: Browser, live_server: Any, fleet: Cluster, width: int, scheme: str
) -> None:
    User.objects.create_superuser("charlie", password=PASSPHRASE)
    console = as_person(browser, live_server, "charlie", width=width, scheme=scheme)
    job, gpu, event = Job.objects.get(name="train"), GPU.objects.all()[0], AlertEvent.objects.get()
    pages = ["", "leakage/", f"jobs/job/{job.pk}/change/", f"clusters/node/{gpu.node_id}/change/"]
    pages += [f"tenants/tenant/{job.tenant_id}/change/", f"alerts/alertevent/{event.pk}/change/", "jobs/job/"]
    for page in pages:
        console.go(f"/admin/{page}")
        console.assert_usable()
    console.assert_clean()
