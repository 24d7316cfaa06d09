"""The queue in the console, as staff of different rights see it."""

from threading import Thread

import pytest
from django.db import connection
from django.http import HttpResponse
from django.test import Client
from django.utils import timezone

from clusters.tests.factories import make_gpu, make_node
from gpufleet.common.models import AuditEntry
from gpufleet.common.tests.factories import staff
from jobs.models import Allocation, Job, JobEvent
from jobs.tests.factories import allocate, make_job

pytestmark = pytest.mark.django_db

JOBS = "/admin/jobs/job/"


def run(client: Client, action: str, *ids: int) -> str:
    form = {"action": action, "_selected_action": ids, "agreed": "yes", "reason": "by the book"}
    return client.post(JOBS, form, follow=True).content.decode()


def test_an_operator_holds_releases_and_cancels_and_is_told_what_was_refused() -> None:
    client = staff("view_job", "change_job")
    job, done = make_job(), make_job(status="completed")
    page = run(client, "hold", job.pk, done.pk)
    assert "1 job is now blocked." in page
    assert "1 job is as before: the status does not allow it." in page
    job.refresh_from_db()
    assert job.block_reason == "On hold: by the book"
    run(client, "release", job.pk)
    run(client, "cancel", job.pk)
    job.refresh_from_db()
    assert job.status == "cancelled"
    assert set(JobEvent.objects.values_list("actor", flat=True)) == {"user:eve"}


@pytest.mark.parametrize(
    ("action", "status", "one", "many"),
    [
        ("hold", "queued", "leaves it alone until it is released", "leaves them alone until they are released"),
        ("release", "blocked", "It waits", "They wait"),
        ("requeue", "running", "It stops", "They stop"),
        ("change_priority", "queued", "It goes", "They go"),
    ],
)
def test_an_action_asks_about_one_job_as_about_one(action: str, status: str, one: str, many: str) -> None:
    client = staff("view_job", "change_job")
    ids = [make_job(status=status).pk for _ in range(2)]
    of_one, of_both = (
        client.post(JOBS, {"action": action, "_selected_action": some}).content.decode() for some in (ids[:1], ids)
    )
    assert one in of_one
    assert many not in of_one
    assert many in of_both


def test_what_was_done_says_how_many_gpus_it_freed() -> None:
    node = make_node()
    jobs = [make_job(status="running", cluster=node.cluster) for _ in range(2)]
    for job in jobs:
        allocate(job, [make_gpu(node) for _ in range(2)])
    page = run(staff("view_job", "change_job"), "cancel", *(job.pk for job in jobs))
    assert "2 jobs are now cancelled, and 4 GPUs are freed." in page


def test_a_viewer_moves_nothing() -> None:
    job = make_job()
    run(staff("view_job"), "cancel", job.pk)
    job.refresh_from_db()
    assert job.status == "queued"


@pytest.mark.parametrize("model", ["job", "allocation", "waitperiod", "jobevent", "schedulercycle"])
def test_the_ledger_is_read_only_even_for_a_superuser(admin_client: Client, model: str) -> None:
    job = make_job()
    assert admin_client.get(f"/admin/jobs/{model}/").status_code == 200
    assert admin_client.get(f"/admin/jobs/{model}/add/").status_code == 403
    assert admin_client.post(f"/admin/jobs/job/{job.pk}/change/", {"name": "x"}).status_code == 403
    assert admin_client.get(f"/admin/jobs/job/{job.pk}/change/").status_code == 200
    assert not Allocation.objects.exists()


def ask(client: Client, action: str, *ids: int, **answers: str) -> HttpResponse:
    return client.post(JOBS, {"action": action, "_selected_action": ids, **answers})  # type: ignore[return-value]


def busy_job() -> Job:
    job, node = make_job("fold", status="running"), make_node()
    allocate(job, [make_gpu(node) for _ in range(3)])
    return job


def test_an_action_says_what_it_will_do_before_it_does_it() -> None:
    job, done = busy_job(), make_job("over", status="completed")
    page = ask(staff("view_job", "change_job"), "cancel", job.pk, done.pk).content.decode()
    assert "Cancels 1 job and frees 3 GPUs." in page
    assert "1 job is in a status that does not allow it, and left as before." in page
    job.refresh_from_db()
    assert job.status == "running"
    assert not AuditEntry.objects.exists()


def test_an_action_needs_its_reason() -> None:
    job = busy_job()
    page = ask(staff("view_job", "change_job"), "cancel", job.pk, agreed="yes", reason=" ").content.decode()
    assert "This field is required." in page
    job.refresh_from_db()
    assert job.status == "running"


def test_what_was_done_is_in_the_audit_log_with_who_why_before_and_after() -> None:
    job, done = busy_job(), make_job("over", status="completed")
    ask(staff("view_job", "change_job"), "cancel", job.pk, done.pk, agreed="yes", reason="the customer asked")
    refused, cancelled = AuditEntry.objects.order_by("-object_id")
    assert (cancelled.actor, cancelled.action, cancelled.model) == ("user:eve", "cancel", "jobs.job")
    assert (cancelled.object_id, cancelled.reason) == (job.pk, "the customer asked")
    assert (cancelled.before["status"], (cancelled.after or {})["status"]) == ("running", "cancelled")
    assert refused.before == refused.after
    event = JobEvent.objects.filter(job=job).first()
    assert event is not None
    assert (event.actor, event.reason) == ("user:eve", "the customer asked")
    page = staff("view_auditentry", name="frank").get("/admin/common/auditentry/").content.decode()
    assert "status: running → cancelled" in page


def test_the_history_of_a_row_is_its_part_of_the_audit_log() -> None:
    job, other = busy_job(), make_job("other")
    client = staff("view_job", "change_job", "view_auditentry")
    run(client, "cancel", job.pk, other.pk)
    page = client.get(f"/admin/jobs/job/{job.pk}/history/", follow=True).content.decode()
    assert f"(job {job.pk})" in page
    assert f"(job {other.pk})" not in page
    assert " UTC" in page
    assert "+00:00" not in page
    assert "Show all" in page
    assert "Show all" not in client.get("/admin/common/auditentry/").content.decode()
    blind = staff("view_job", name="frank")
    assert blind.get(f"/admin/jobs/job/{job.pk}/history/").status_code == 200


@pytest.mark.django_db(transaction=True)
def test_a_page_says_one_instant_though_a_job_moves_on(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = []

    def elsewhere(request: object, row: Job) -> list[object]:
        def move() -> None:
            Job.objects.filter(pk=row.pk).update(status="cancelled", ended_at=timezone.now())
            connection.close()

        thread = Thread(target=move)
        thread.start()
        thread.join()
        moved.append(Job.objects.get(pk=row.pk).status)
        return []

    monkeypatch.setattr("gpufleet.common.admin.panels_of", elsewhere)
    job = make_job(status="queued")
    assert staff("view_job").get(f"/admin/jobs/job/{job.pk}/change/").status_code == 200
    assert moved == ["queued"]
    job.refresh_from_db()
    assert job.status == "cancelled"


def test_a_deed_that_dies_half_way_is_in_the_log_without_an_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    def die(**fields: object) -> None:
        raise RuntimeError("the power failed")

    monkeypatch.setattr("jobs.services.change_statuses", die)
    with pytest.raises(RuntimeError):
        ask(staff("view_job", "change_job"), "cancel", busy_job().pk, agreed="yes", reason="no need")
    (entry,) = AuditEntry.objects.all()
    assert entry.after is None


def test_requeue_and_priority_and_back_to_the_page_that_asked() -> None:
    job, client = busy_job(), staff("view_job", "change_job")
    back = f"/admin/jobs/job/{job.pk}/change/"
    answer = ask(client, "requeue", job.pk, agreed="yes", reason="moved", back_to=back)
    assert answer.headers["Location"] == back
    ask(client, "change_priority", job.pk, agreed="yes", reason="urgent", priority="1")
    job.refresh_from_db()
    assert (job.status, job.priority) == ("queued", 1)
    ask(client, "change_priority", job.pk, agreed="yes", reason="urgent", priority="11")
    job.refresh_from_db()
    assert job.priority == 1
    elsewhere = ask(client, "hold", job.pk, agreed="yes", reason="x", back_to="https://elsewhere.example/")
    assert "elsewhere" not in elsewhere.headers["Location"]


@pytest.mark.parametrize(
    ("status", "offered"),
    [
        ("queued", {"hold", "change_priority", "cancel"}),
        ("blocked", {"release", "change_priority", "cancel"}),
        ("running", {"requeue", "cancel"}),
        ("completed", set()),
    ],
)
def test_a_job_has_buttons_for_what_its_status_allows_and_its_reader_may_do(status: str, offered: set[str]) -> None:
    job = make_job(status=status)
    page = f"/admin/jobs/job/{job.pk}/change/"
    assert {name for name, _ in staff("view_job", "change_job").get(page).context["buttons"]} == offered
    assert staff("view_job", name="frank").get(page).context["buttons"] == []
