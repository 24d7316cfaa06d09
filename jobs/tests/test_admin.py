"""The queue in the console, as staff of different rights see it."""

import pytest
from django.test import Client

from gpufleet.common.tests.factories import staff
from jobs.models import Allocation, JobEvent
from jobs.tests.factories import make_job

pytestmark = pytest.mark.django_db

JOBS = "/admin/jobs/job/"


def run(client: Client, action: str, *ids: int) -> str:
    return client.post(JOBS, {"action": action, "_selected_action": ids}, follow=True).content.decode()


def test_an_operator_holds_releases_and_cancels_and_is_told_what_was_refused() -> None:
    client = staff("view_job", "change_job")
    job, done = make_job(), make_job(status="completed")
    page = run(client, "hold", job.pk, done.pk)
    assert "1 of 2 jobs are now blocked." in page
    assert "A completed job can&#x27;t become blocked." in page
    job.refresh_from_db()
    assert job.block_reason == "On hold: held in the console by eve"
    run(client, "release", job.pk)
    run(client, "cancel", job.pk)
    job.refresh_from_db()
    assert job.status == "cancelled"
    assert set(JobEvent.objects.values_list("actor", flat=True)) == {"user:eve"}


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
