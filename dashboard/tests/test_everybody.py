"""Who looks at the demo fleet, from which zone and on what screen, and who may not act. See ``browsing``."""

from datetime import UTC, datetime
from typing import Any

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Browser, expect

from alerts.models import AlertEvent
from billing.models import Invoice
from clusters.models import GPU
from dashboard.tests.browsing import MARKS, PASSPHRASE, api, as_person
from gpufleet.common.models import AuditEntry
from jobs.models import Job

pytestmark = MARKS


def first_job(status: str) -> Job:
    return Job.objects.filter(status=status).order_by("pk")[0]


def test_times_are_of_the_readers_zone_once_with_utc_on_hover(browser: Browser, live_server: Any, demo: None) -> None:
    at = datetime(2026, 5, 4, 22, 30, 15, tzinfo=UTC)
    job = first_job("queued")
    Job.objects.filter(pk=job.pk).update(submitted_at=at)
    console = as_person(browser, live_server, "operator", zone="Asia/Kolkata")
    console.go(f"/admin/jobs/job/{job.pk}/change/")
    field = console.page.locator(".readonly [title], .readonly[title]").filter(has_text="2026-05-05 04:00:15").first
    expect(field).to_have_attribute("title", "2026-05-04 22:30:15 UTC")
    said = console.page.get_by_text("submitted 2026-05-05 04:00:15").locator("time")
    expect(said).to_have_attribute("title", "2026-05-04 22:30:15 UTC")
    console.go(f"/admin/jobs/job/?q={job.name}")
    expect(console.page.locator("#result_list [title='2026-05-04 22:30:15 UTC']")).to_have_text("2026-05-05 04:00:15")
    console.assert_clean()


@pytest.mark.parametrize("group", ["viewer", "finance"])
def test_who_may_not_act_is_refused_by_the_server_too(
    browser: Browser, live_server: Any, demo: None, group: str
) -> None:
    job = first_job("queued")
    console = as_person(browser, live_server, group)
    console.go(f"/admin/jobs/job/?q={job.name}")
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


def test_a_viewer_sees_everything_and_has_no_button(browser: Browser, live_server: Any, demo: None) -> None:
    job = first_job("running")
    console = as_person(browser, live_server, "viewer")
    console.go(f"/admin/jobs/job/{job.pk}/change/")
    expect(console.page.get_by_role("heading", name=f"{job.name}: running")).to_be_visible()
    assert console.page.get_by_role("button", name="Cancel").count() == 0
    console.go("/admin/jobs/job/")
    assert console.page.locator("select[name=action]").count() == 0
    console.assert_clean()


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark"), (1440, "dark"), (390, "light")])
def test_the_main_pages_are_usable_by_everybody(
    browser: Browser, live_server: Any, hot_gpu: GPU, width: int, scheme: str
) -> None:
    User.objects.create_superuser("charlie", password=PASSPHRASE)
    console = as_person(browser, live_server, "charlie", width=width, scheme=scheme)
    job, event = first_job("queued"), AlertEvent.objects.get(status="firing")
    pages = ["", "leakage/", f"jobs/job/{job.pk}/change/", f"clusters/node/{hot_gpu.node_id}/change/"]
    pages += [f"tenants/tenant/{job.tenant_id}/change/", f"alerts/alertevent/{event.pk}/change/", "jobs/job/"]
    pages += [f"billing/invoice/{Invoice.objects.get(status='draft').pk}/change/"]
    for page in pages:
        console.go(f"/admin/{page}")
    console.assert_clean()
