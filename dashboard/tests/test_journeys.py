"""What operators and administrators do all day on the demo fleet, from the login to the effect that the API shows.

They find what they work on as a person would; the API or the rows say what it should look like. See ``browsing``.
"""

from datetime import timedelta
from typing import Any

from django.template.defaultfilters import floatformat
from django.utils import timezone
from playwright.sync_api import Browser, Locator, expect
from rest_framework.test import APIClient

from clusters.models import GPU, Node
from clusters.services import record_batch
from dashboard.tests.browsing import MARKS, Visit, api, as_person
from dashboard.tests.demo_fleet import held_gpus
from gpufleet.common.models import AuditEntry
from jobs.models import Allocation, Job

pytestmark = MARKS


def queue_of(console: Visit) -> Locator:
    """The jobs at the head of the queue, on the home page."""
    return console.page.get_by_role("region", name="Next in the queue").get_by_role("rowheader").get_by_role("link")


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def test_an_operator_drains_a_node_and_resumes_it(browser: Browser, live_server: Any, demo: None) -> None:
    node = held_gpus()[0].node
    held = Allocation.objects.filter(gpu__node=node, during__upper_inf=True)
    jobs = set(held.values_list("job_id", flat=True))
    console = as_person(browser, live_server, "operator")
    console.follow(console.page.get_by_role("link", name=node.hostname, exact=True))
    console.press("Cordon and drain")
    of_jobs = f"{counted(held.count(), 'GPU')} held by {counted(len(jobs), 'job')}"
    expect(console.page.get_by_text(f"1 node with 8 GPUs, {of_jobs}.")).to_be_visible()
    console.give_reason("Cordon and drain", "a fan is loud")
    expect(console.page.get_by_role("heading", name=f"{node.hostname} is draining: a fan is loud")).to_be_visible()
    assert api(f"clusters/nodes/{node.pk}")["status"] == "draining"
    assert {api(f"jobs/{job}")["status"] for job in jobs} == {"running"}
    console.go("/admin/")
    states = console.page.get_by_role("region", name="GPUs by state")
    expect(states).to_contain_text(f"draining {8 - held.count()}")
    console.follow(console.page.get_by_role("link", name=node.hostname))
    console.press("Resume")
    console.give_reason("Resume", "it was a leaf")
    assert api(f"clusters/nodes/{node.pk}")["status"] == "online"
    assert {gpu["state"] for gpu in api(f"clusters/gpus?node_id={node.pk}")} == {"available"}
    console.assert_clean()


def test_an_operator_reads_why_a_job_waits_and_moves_it_up(browser: Browser, live_server: Any, demo: None) -> None:
    console = as_person(browser, live_server, "operator")
    last = queue_of(console).last
    job = Job.objects.get(name=last.inner_text())
    assert job.priority > 1
    console.follow(last)
    explained = api(f"jobs/{job.pk}/explain")
    why = console.page.get_by_role("region", name="Why it stands where it stands")
    expect(why).to_contain_text(explained["summary"])
    for holder in explained["holders"][:3]:
        expect(why).to_contain_text(f"{holder['gpus']} × {holder['model']}")
    console.press("Change the priority")
    console.page.get_by_role("spinbutton", name="Priority").fill("1")
    console.give_reason("Change the priority", "the customer called")
    assert api(f"jobs/{job.pk}")["priority"] == 1
    console.go("/admin/")
    expect(queue_of(console).first).to_have_text(job.name)
    console.assert_clean()


def test_an_operator_holds_a_job_and_releases_it(browser: Browser, live_server: Any, demo: None) -> None:
    console = as_person(browser, live_server, "operator")
    head = queue_of(console).first
    job = Job.objects.get(name=head.inner_text())
    console.follow(head)
    console.press("Hold")
    console.give_reason("Hold", "until Monday")
    assert api(f"jobs/{job.pk}")["status"] == "blocked"
    console.press("Release")
    console.give_reason("Release", "it is Monday")
    assert api(f"jobs/{job.pk}")["status"] == "queued"
    console.go("/admin/")
    expect(queue_of(console).first).to_have_text(job.name)
    console.assert_clean()


def test_an_operator_cancels_jobs_from_the_list(browser: Browser, live_server: Any, demo: None) -> None:
    """The two newest that run and the one that waits at the head: what they held is idle at once."""
    idle = sum(cluster["idle_gpus"] for cluster in api("clusters"))
    console = as_person(browser, live_server, "operator")
    waits = queue_of(console).first.inner_text()
    console.go("/admin/jobs/job/?status__in=queued,running")
    runs = console.page.get_by_role("row").filter(has_text="Running")
    rows = [runs.nth(0), runs.nth(1), console.page.get_by_role("row").filter(has_text=waits)]
    jobs = [Job.objects.get(name=row.get_by_role("link").first.inner_text()) for row in rows]
    for row in rows:
        row.locator("input[name=_selected_action]").check()
    freed = Allocation.objects.filter(job__in=jobs, during__upper_inf=True).count()
    assert freed > 0
    console.page.select_option("select[name=action]", "cancel")
    console.press("Run")
    expect(console.page.get_by_text(f"Cancels 3 jobs and frees {counted(freed, 'GPU')}.")).to_be_visible()
    console.give_reason("Cancel", "the cluster moves")
    assert {api(f"jobs/{job.pk}")["status"] for job in jobs} == {"cancelled"}
    assert sum(cluster["idle_gpus"] for cluster in api("clusters")) == idle + freed
    assert AuditEntry.objects.filter(action="cancel", actor="user:operator", reason="the cluster moves").count() == 3
    console.assert_clean()


def test_an_operator_takes_a_sick_gpu_out(browser: Browser, live_server: Any, demo: None) -> None:
    gpu = GPU.objects.exclude(pk__in=[one.pk for one in held_gpus()]).select_related("node").order_by("pk")[0]
    console = as_person(browser, live_server, "operator")
    console.follow(console.page.get_by_role("link", name=gpu.node.hostname, exact=True))
    table = console.page.get_by_role("group", name="GPUs now")
    console.follow(table.get_by_role("link", name=str(gpu.gpu_index), exact=True))
    footer = "getComputedStyle(document.getElementById('submit-row')).position"
    assert console.page.evaluate(footer) == "static"  # It would cover what stands below, and nothing can be saved.
    console.press("Mark unhealthy")
    console.give_reason("Mark unhealthy", "it smells")
    assert api(f"clusters/gpus/{gpu.pk}")["state"] == "unhealthy"
    console.go("/admin/")
    expect(console.page.get_by_role("region", name="What needs a person now")).to_contain_text("1 GPU is unhealthy")
    console.assert_clean()


def test_an_operator_acknowledges_an_incident(browser: Browser, live_server: Any, hot_gpu: GPU) -> None:
    (event,) = [one for one in api("alerts/events") if one["status"] == "firing"]
    assert event["subject"] == f"gpu:{hot_gpu.pk}"
    console = as_person(browser, live_server, "operator")
    needs = console.page.get_by_role("region", name="What needs a person now")
    console.follow(needs.get_by_role("link", name=event["message"]))
    console.press("Acknowledge")
    console.give_reason("Acknowledge", "on my way")
    (event,) = [one for one in api("alerts/events") if one["status"] == "firing"]
    assert event["acknowledged_by"] == "user:operator"
    console.go("/admin/")
    expect(needs).to_contain_text("seen by user:operator")
    console.assert_clean()


def test_an_operator_reads_a_nodes_metrics_off_its_plots(browser: Browser, live_server: Any, demo: None) -> None:
    now, node = timezone.now(), Node.objects.order_by("hostname")[0]
    gpus = list(node.gpus.order_by("gpu_index"))
    for ago in (40, 30, 20):
        at = (now - timedelta(minutes=ago)).isoformat()
        samples = [{"gpu_id": gpu.pk, "recorded_at": at, "utilization_pct": 40.0 + ago} for gpu in gpus]
        record_batch(body={"metrics": samples}, now=now)
    console = as_person(browser, live_server, "operator")
    console.follow(console.page.get_by_role("link", name=node.hostname, exact=True))
    metrics = console.page.get_by_role("region", name="Metrics, a line for each GPU")
    expect(metrics.locator("canvas")).to_have_count(4)
    assert metrics.locator("polyline").count() == 0
    start = (now - timedelta(hours=6)).strftime("%Y-%m-%dT%H:%M:%SZ")
    metrics.get_by_text("Utilization in figures").click()
    for gpu in gpus:
        points = api(f"clusters/gpus/{gpu.pk}/metrics?step=5m&from={start}")["points"]
        means = [point["utilization_pct"]["avg"] for point in points]
        assert {60.0, 70.0, 80.0} < set(means)
        figures = (min(means), sum(means) / len(means), max(means))
        row = " ".join([str(gpu.gpu_index), *(floatformat(figure, "1g") for figure in figures)])
        expect(metrics.get_by_role("row", name=row, exact=True)).to_be_visible()
    plot = metrics.locator(".u-over").first
    box = plot.bounding_box()
    assert box is not None
    console.page.mouse.move(box["x"] + box["width"] - 2, box["y"] + 20)
    expect(metrics.locator(".u-legend").first).to_contain_text(f"{means[-1]:.1f} %")
    console.assert_usable()
    metrics.get_by_role("button", name="7d").click()
    expect(metrics.get_by_role("button", name="7d")).to_have_attribute("aria-current", "true")
    console.assert_clean()


def test_an_administrator_makes_a_key_copies_it_and_revokes_it(browser: Browser, live_server: Any, demo: None) -> None:
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
    assert len(client.get("/api/clusters").json()) == 2
    console.go("/admin/apikeys/apikey/?q=night")
    assert raw not in console.page.content()
    console.page.get_by_role("link", name="for the night shift").click()
    console.press("Revoke")
    console.give_reason("Revoke", "the night is over")
    assert client.get("/api/clusters").status_code == 401
    console.assert_clean()
