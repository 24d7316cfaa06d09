"""Work on many invoices in steps: how far it has come, killed in the middle, clicked twice, refused in part."""

import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from billing import moves_admin, services
from billing.drafts_admin import DRAFT
from billing.models import Invoice, InvoiceEvent, OutboxMessage
from billing.tests.factories import make_rate
from billing.tests.test_admin import INVOICES, agree, preview, sold
from gpufleet.common import bulk
from gpufleet.common.failpoints import VARIABLE
from gpufleet.common.models import AuditEntry, BulkRun, BulkStep
from gpufleet.common.tests.factories import staff
from gpufleet.common.tests.processes import database_url
from tenants.models import Tenant
from tenants.tests.factories import make_tenant

pytestmark = pytest.mark.django_db
RUNS = "/admin/common/bulkrun/"
HTMX = {"HX-Request": "true"}


@pytest.fixture
def finance() -> Client:
    models = ("invoice", "invoiceline", "invoiceevent", "creditnote")
    return staff(*(f"{verb}_{model}" for verb in ("view", "add", "change") for model in models), name="fred")


def tenants(number: int) -> list[Tenant]:
    make_rate()
    return [sold(make_tenant(f"tenant-{one:02}", contact_email="pay@example.com")) for one in range(number)]


def drafts(number: int) -> list[Invoice]:
    now = timezone.now()
    window: dict[str, Any] = {"start": now - timedelta(days=30), "end": now, "created_by": "test", "now": now}
    made = services.create_invoices(expected_totals={one.pk: None for one in tenants(number)}, **window)
    return made.invoices


def asked(invoices: list[Invoice], reason: str = "the month") -> dict[str, str]:
    return {"ids": ",".join(str(one.pk) for one in invoices), "reason": reason, "token": str(uuid4())}


def go(client: Client, run: BulkRun) -> str:
    """What the page fetches."""
    return client.post(f"{RUNS}{run.pk}/go/", headers=HTMX).content.decode()


def test_many_are_moved_in_steps_that_say_how_far_they_have_come(
    finance: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "AT_ONCE", 2)
    invoices = drafts(5)
    services.move_invoice(invoice_id=invoices[1].pk, to="open", actor="test", now=timezone.now())
    answer = finance.post(f"{INVOICES}move/open", asked(invoices))
    run = BulkRun.objects.get()
    assert answer.headers["Location"] == f"{RUNS}{run.pk}/change/?go=1"
    page = finance.get(answer.headers["Location"]).content.decode()
    assert "1 of 5 invoices now open." in page
    assert "1 refused" in page
    assert "This invoice is open; it can&#x27;t become open." in page
    assert "3 left" in page
    assert 'hx-trigger="load, every 10s, submit"' in page
    part = go(finance, run)
    assert "3 of 5 invoices now open." in part
    assert "<html" not in part
    part = go(finance, run)
    assert "4 of 5 invoices now open." in part
    assert "hx-post" not in part
    run.refresh_from_db()
    assert run.finished_at is not None
    assert "draft" not in set(Invoice.objects.values_list("status", flat=True))
    assert InvoiceEvent.objects.filter(reason="the month", actor="user:fred").count() == 4


def test_each_step_is_in_the_audit_log_once(finance: Client) -> None:
    invoices = drafts(3)
    services.move_invoice(invoice_id=invoices[1].pk, to="open", actor="test", now=timezone.now())
    form = asked(invoices)
    for _ in range(2):
        finance.post(f"{INVOICES}move/open", form)
        go(finance, BulkRun.objects.get())
    entries = AuditEntry.objects.order_by("object_id")
    assert [(one.object_id, one.action, one.actor, one.reason) for one in entries] == [
        (invoice.pk, "finalise", "user:fred", "the month") for invoice in invoices
    ]
    first, second, _ = entries
    assert first.before == {"status": "draft", "number": None}
    assert first.after == {"status": "open", "number": 2}
    assert second.before == {"status": "open", "number": 1}
    assert second.after == {**second.before, "refused": "This invoice is open; it can't become open."}


def test_drafts_are_made_in_steps_of_exactly_what_the_preview_said(
    finance: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "AT_ONCE", 2)
    five = tenants(5)
    stale = preview(finance, *five)
    services.create_invoice(
        tenant_id=five[3].pk,
        start=timezone.now() - timedelta(days=30),
        end=timezone.now(),
        created_by="test",
        now=timezone.now(),
    )
    page = agree(finance, stale)
    assert "2 of 5 tenants with a draft now." in page
    run = BulkRun.objects.get()
    go(finance, run)
    page = go(finance, run)
    assert "4 of 5 tenants with a draft now." in page
    assert "no sold and priced GPU time" in page
    assert Invoice.objects.filter(created_by="user:fred").count() == 4
    made = AuditEntry.objects.filter(model="billing.invoice", action="draft")
    assert [(one.before, one.after) for one in made] == [
        ({}, {"tenant": one.tenant.name, "total": f"{one.total:.2f} USD"})
        for one in Invoice.objects.filter(created_by="user:fred").order_by("-pk")
    ]
    assert AuditEntry.objects.get(model="tenants.tenant").object_id == five[3].pk


def test_many_are_sent_in_steps(finance: Client, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "AT_ONCE", 2)
    invoices = drafts(3)
    for invoice in invoices:
        services.move_invoice(invoice_id=invoice.pk, to="open", actor="test", now=timezone.now())
    Tenant.objects.filter(pk=invoices[0].tenant_id).update(contact_email="")
    settings.STRIPE_API_KEY = "sk_test_x"
    finance.post(f"{INVOICES}move/send", asked(invoices, reason=""))
    page = go(finance, BulkRun.objects.get())
    assert "2 of 3 invoices on the way to Stripe." in page
    assert "The tenant has no contact e-mail to send it to." in page
    assert set(OutboxMessage.objects.values_list("invoice", flat=True)) == {one.pk for one in invoices[1:]}
    entry = AuditEntry.objects.get(object_id=invoices[2].pk)
    assert entry.before == {"sending": "Not sent."}
    assert entry.after == {"sending": "On its way; next: “Create the customer”"}


def test_a_step_that_breaks_is_named_and_stops_no_other(finance: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    invoices = drafts(3)
    finalise = services.move_invoice

    def broken(**values: object) -> Invoice:
        if values["invoice_id"] == invoices[1].pk:
            raise ZeroDivisionError("secret")
        return finalise(**values)  # type: ignore[arg-type]

    monkeypatch.setattr(services, "move_invoice", broken)
    page = finance.post(f"{INVOICES}move/open", asked(invoices), follow=True).content.decode()
    assert "2 of 3 invoices now open." in page
    assert "Something broke on our side" in page
    assert "secret" not in page
    assert list(Invoice.objects.order_by("pk").values_list("status", flat=True)) == ["open", "draft", "open"]


def test_a_token_of_another_page_starts_nothing(finance: Client) -> None:
    first, second = drafts(2)
    form = asked([first])
    finance.post(f"{INVOICES}move/open", form)
    other = staff("view_invoice", "change_invoice", name="fiona")
    page = other.post(f"{INVOICES}move/void", {**form, "ids": str(second.pk)}, follow=True)
    assert page.status_code == 403  # She may not see the list of runs, to which she is sent.
    second.refresh_from_db()
    assert (second.status, BulkRun.objects.count()) == ("draft", 1)


def test_only_who_may_do_the_work_carries_it_on_or_stops_it(finance: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "AT_ONCE", 1)
    invoices = drafts(3)
    finance.post(f"{INVOICES}move/open", asked(invoices))
    run = BulkRun.objects.get()
    page = f"{RUNS}{run.pk}/"
    viewer = staff("view_invoice", "view_bulkrun", name="victor")
    shown = viewer.get(f"{page}change/?go=1").content.decode()
    assert ("2 left" in shown, "Go on" in shown, "Stop here" in shown) == (True, False, False)
    for door in ("go", "stop"):
        assert viewer.post(f"{page}{door}/").status_code == 403
        assert finance.get(f"{page}{door}/").status_code == 403
    assert Client().post(f"{page}go/", headers=HTMX).headers["HX-Redirect"].startswith("/admin/login/?next=")
    assert BulkStep.objects.filter(status="waiting").count() == 2
    assert staff("view_invoice", name="stranger").get(f"{page}change/").status_code == 403
    stopped = finance.post(f"{page}stop/", follow=True).content.decode()
    assert "2 stopped" in stopped
    go(finance, run)
    assert list(Invoice.objects.order_by("pk").values_list("status", flat=True)) == ["open", "draft", "draft"]
    run.refresh_from_db()
    assert run.finished_at is not None


def test_work_that_was_left_in_the_middle_needs_a_person(finance: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "AT_ONCE", 1)
    finance.post(f"{INVOICES}move/open", asked(drafts(2)))
    home = staff("view_bulkrun", "view_job", name="olga")
    assert "left in the middle" not in home.get("/admin/").content.decode()
    BulkRun.objects.update(started_at=timezone.now() - timedelta(hours=1))
    page = home.get("/admin/").content.decode()
    assert "piece of work in bulk was left in the middle" in page
    (link,) = re.findall(r'href="(/admin/common/bulkrun/\?[^"]*)"', page)
    assert "1 of 2, 1 left" in home.get(link).content.decode()


@pytest.mark.django_db(transaction=True)
@pytest.mark.slow
@pytest.mark.parametrize("place", ["invoice.moving", "bulk.step", "invoice.moved"])
def test_who_is_killed_in_the_middle_leaves_the_rest_and_nothing_twice(finance: Client, place: str) -> None:
    invoices = drafts(3)
    rows = {one.pk: bulk.Row(str(one)) for one in invoices}
    said: dict[str, Any] = {"terms": {}, "actor": "user:fred", "reason": "the month", "now": timezone.now()}
    run, _ = bulk.start_run(work="billing.finalise", token=uuid4(), rows=rows, **said)
    surroundings = {**os.environ, "DATABASE_URL": database_url(), VARIABLE: place}
    command = [sys.executable, "-m", "billing.tests.bulk_process", str(run.pk)]
    for _ in range(2):
        assert subprocess.run(command, env=surroundings, timeout=60, check=False).returncode == -signal.SIGKILL
    done = 2 if place == "invoice.moved" else 0
    assert run.steps.filter(status="done").count() == AuditEntry.objects.count() == InvoiceEvent.objects.count() == done
    go(finance, run)
    assert set(Invoice.objects.values_list("number", flat=True)) == {1, 2, 3}
    assert InvoiceEvent.objects.count() == 3
    assert sorted(AuditEntry.objects.values_list("object_id", flat=True)) == [one.pk for one in invoices]
    run.refresh_from_db()
    assert run.finished_at is not None


@pytest.mark.django_db(transaction=True)
@pytest.mark.slow
def test_two_clicks_and_two_tabs_at_once_do_everything_once(finance: Client) -> None:
    form = asked(drafts(12))

    def click(_: int) -> None:
        try:
            client = Client()
            client.cookies = finance.cookies
            client.post(f"{INVOICES}move/open", form)
            for run in BulkRun.objects.all():
                go(client, run)
                go(client, run)
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(click, range(4)))
    run = BulkRun.objects.get()
    assert run.finished_at is not None
    assert run.steps.filter(status="done").count() == 12
    assert AuditEntry.objects.count() == InvoiceEvent.objects.count() == 12


def test_every_kind_of_work_has_a_permission_of_its_own_doing() -> None:
    moves = {bulk.work_of(BulkRun(work=moves_admin._work(to))).permission for to in moves_admin.MOVES}
    assert moves == {"billing.change_invoice"}
    assert DRAFT.permission == "billing.add_invoice"
    notes = {bulk.work_of(BulkRun(work=f"billing.{name}")).permission for name in ("issue", "decline", "settle")}
    assert notes == {"billing.change_creditnote"}
