"""Invoices over HTTP: drafts, lines, proof, status and summary, by keys of all kinds."""

import csv
import io
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django import Settings
from rest_framework.test import APIClient

from apikeys.tests.factories import client_with, make_admin_key, make_key
from billing.models import Invoice, InvoiceEvent, OutboxMessage
from billing.proofs import Proof, ProofRow
from billing.serializers import proof_csv
from billing.tests.factories import NOW, make_rate, sell
from jobs.models import Job
from tenants.models import Tenant
from tenants.tests.factories import alice, bob

pytestmark = pytest.mark.django_db
URL = "/api/billing/invoices"
DAY = timedelta(days=1)


@pytest.fixture
def admin() -> APIClient:
    return client_with(make_admin_key())


def sell_hours(tenant: Tenant, count: int = 2, **rate: Any) -> None:
    """Sold hours, ended an hour ago by the real clock, which the API reads."""
    end = timezone.now() - timedelta(hours=1)
    sell(tenant, end - timedelta(hours=count), end, rate=make_rate(**rate))


def draft(admin: APIClient, tenant: Tenant) -> dict[str, Any]:
    answer = admin.post(URL, {"tenant_id": tenant.pk})
    assert answer.status_code == 201, answer.json()
    shown: dict[str, Any] = answer.json()
    return shown


def move(admin: APIClient, invoice_id: int, status: str) -> Any:
    return admin.patch(f"{URL}/{invoice_id}/status", {"status": status})


def test_a_draft_is_made_finalised_and_paid(admin: APIClient) -> None:
    acme = alice()
    sell_hours(acme)
    made = draft(admin, acme)
    assert (made["status"], made["number"], made["total"], made["currency"]) == ("draft", None, "4.00", "USD")
    assert [line["amount"] for line in made["lines"]] == ["4.00"]
    opened = move(admin, made["id"], "open").json()
    assert (opened["status"], opened["number"], opened["amount_due"]) == ("open", 1, "4.00")
    paid = move(admin, made["id"], "paid").json()
    assert (paid["status"], paid["amount_due"]) == ("paid", "0.00")
    assert admin.get(f"{URL}/{made['id']}").json() == paid
    refused = move(admin, made["id"], "void")
    assert (refused.status_code, refused.json()["legal"]) == (409, [])


def test_nothing_to_bill_is_a_409(admin: APIClient) -> None:
    answer = admin.post(URL, {"tenant_id": alice().pk})
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:gpufleet:problem:nothing_to_bill")


def test_days_limit_the_draft(admin: APIClient) -> None:
    acme = alice()
    end = timezone.now() - 2 * DAY
    sell(acme, end - DAY, end, rate=make_rate())
    assert admin.post(f"{URL}?days=1", {"tenant_id": acme.pk}).status_code == 409
    assert admin.post(f"{URL}?days=91", {"tenant_id": acme.pk}).status_code == 400
    assert admin.post(f"{URL}?days=7", {"tenant_id": acme.pk}).status_code == 201


@pytest.mark.parametrize("body", [{}, {"tenant_id": "x"}, {"tenant_id": 1, "days": 3}, {"tenant_id": None}])
def test_a_wrong_body_is_a_400(admin: APIClient, body: dict[str, Any]) -> None:
    assert admin.post(URL, body).status_code == 400


def test_what_is_not_there_is_a_404(admin: APIClient) -> None:
    assert admin.post(URL, {"tenant_id": 999}).status_code == 404
    assert move(admin, 999, "open").status_code == 404
    assert move(admin, 999, "draft").status_code == 400
    for part in ("", "/lines", "/proof", "/proof?format=csv"):
        assert admin.get(f"{URL}/999{part}").status_code == 404


def test_the_same_idempotency_key_makes_one_draft(admin: APIClient) -> None:
    acme = alice()
    sell_hours(acme)
    answers = [admin.post(URL, {"tenant_id": acme.pk}, HTTP_IDEMPOTENCY_KEY="k") for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    assert Invoice.objects.count() == 1


def test_a_tenants_key_sees_its_own_invoices_and_changes_none(admin: APIClient) -> None:
    acme, bluefin = alice(), bob()
    sell_hours(acme)
    sell_hours(bluefin)
    own, other = draft(admin, acme), draft(admin, bluefin)
    client = client_with(make_key(acme))
    assert [row["id"] for row in client.get(URL).json()] == [own["id"]]
    assert client.get(f"{URL}?tenant_id={bluefin.pk}").json() == []
    for part in ("", "/lines", "/proof"):
        assert client.get(f"{URL}/{own['id']}{part}").status_code == 200
        assert client.get(f"{URL}/{other['id']}{part}").status_code == 404
    assert client.post(URL, {"tenant_id": acme.pk}).status_code == 403
    assert move(client, own["id"], "open").status_code == 403


def test_lists_filter_and_cost_the_same_queries_for_any_length(admin: APIClient) -> None:
    acme, bluefin = alice(), bob()
    for tenant in (acme, bluefin):
        sell_hours(tenant)
        draft(admin, tenant)
    with CaptureQueriesContext(connection) as two:
        assert len(admin.get(URL).json()) == 2
    with CaptureQueriesContext(connection) as one:
        assert len(admin.get(f"{URL}?status=draft&tenant_id={acme.pk}&currency=USD").json()) == 1
    assert len(one) == len(two) <= 5
    assert admin.get(f"{URL}?state=draft").status_code == 400


def test_the_proof_holds_every_second_and_its_digest(admin: APIClient) -> None:
    acme = alice()
    sell_hours(acme)
    made = draft(admin, acme)
    proof = admin.get(f"{URL}/{made['id']}/proof").json()
    assert (proof["matches"], proof["issued_sha256"]) == (None, "")
    move(admin, made["id"], "open")
    proof = admin.get(f"{URL}/{made['id']}/proof").json()
    assert (proof["matches"], proof["issued_sha256"]) == (True, proof["sha256"])
    (row,) = proof["rows"]
    assert (row["held_seconds"], row["billed_seconds"]) == ("7200.000000", 7200)


def test_the_proof_as_csv_runs_no_formula(admin: APIClient) -> None:
    acme = alice()
    sell_hours(acme, gpu_model="=cmd|' /C calc'!A0")
    Job.objects.update(name='@SUM(1+1),"x"')
    made = draft(admin, acme)
    answer = admin.get(f"{URL}/{made['id']}/proof?format=csv")
    assert answer.headers["Content-Type"].startswith("text/csv")
    (row,) = csv.DictReader(io.StringIO(answer.content.decode()))
    assert row["gpu_model"] == "'=cmd|' /C calc'!A0"
    assert row["job_name"] == '\'@SUM(1+1),"x"'
    assert admin.get(f"{URL}/{made['id']}/proof?format=xml").status_code == 400


def test_a_move_is_put_on_record_with_its_reason(admin: APIClient) -> None:
    acme = alice()
    sell_hours(acme)
    made = draft(admin, acme)
    url = f"{URL}/{made['id']}/status"
    assert admin.patch(url, {"status": "open", "reason": "x" * 501}).status_code == 400
    assert not InvoiceEvent.objects.exists()
    admin.patch(url, {"status": "open"})
    admin.patch(url, {"status": "void", "reason": "The wrong tenant."})
    assert admin.patch(url, {"status": "paid"}).status_code == 409
    first, second = InvoiceEvent.objects.order_by("pk")
    assert (first.from_status, first.to_status, first.reason) == ("draft", "open", "")
    assert (second.from_status, second.to_status, second.reason) == ("open", "void", "The wrong tenant.")
    assert first.actor == second.actor == made["created_by"]


@pytest.mark.parametrize("name", ["=1", "+1", "-1", "@x", "\t=1", "\r1", "\n1", "  =1", "＝1", "＋1", "－1", "＠x"])
def test_whatever_begins_a_formula_is_text_in_the_csv(name: str) -> None:
    invoice = Invoice(pk=1, currency="USD", total=Decimal(1))
    row = ProofRow(1, 2, 3, name, 4, name, NOW, NOW, Decimal(1), 1, 5, Decimal(1))
    (shown,) = csv.DictReader(io.StringIO(proof_csv(Proof(invoice, (row,), "")), newline=""))
    assert (shown["job_name"], shown["gpu_model"]) == (f"'{name}", f"'{name}")
    assert [key for key, value in shown.items() if value.startswith("'")] == ["job_name", "gpu_model"]


def test_amounts_have_the_decimals_of_their_currency(admin: APIClient) -> None:
    acme, bluefin = alice(currency="JPY"), bob(currency="KWD")
    sell_hours(acme, currency="JPY", price="300")
    sell_hours(bluefin, currency="KWD", price="0.5")
    assert (draft(admin, acme)["total"], draft(admin, bluefin)["total"]) == ("600", "1.000")


def test_the_summary_tells_billed_paid_open_and_unbilled_apart(admin: APIClient) -> None:
    acme, bluefin = alice(), bob()
    for _ in range(3):
        sell_hours(acme)
        made = draft(admin, acme)
        move(admin, made["id"], "open")
    move(admin, made["id"], "paid")
    sell_hours(bluefin, gpu_model="L4", price="1.00")
    end = timezone.now() - timedelta(hours=1)
    sell(bluefin, end - timedelta(hours=1), end, rate=None)
    summary = admin.get("/api/billing/summary?days=7").json()
    picked = {key: summary[key] for key in ("billed", "paid", "open", "overdue", "unbilled", "currency")}
    assert picked == {
        "billed": "12.00", "paid": "4.00", "open": "8.00", "overdue": "0.00", "unbilled": "2.00", "currency": "USD",
    }  # fmt: skip
    assert summary["unpriced_gpu_seconds"] == "3600.000000"
    assert [(row["tenant_id"], row["billed"], row["unbilled"]) for row in summary["by_tenant"]] == [
        (acme.pk, "12.00", "0.00"),
        (bluefin.pk, "0.00", "2.00"),
    ]
    assert summary["by_model"] == [
        {"gpu_model": "H100", "billed": "12.00", "unbilled": "0.00"},
        {"gpu_model": "L4", "billed": "0.00", "unbilled": "2.00"},
    ]
    own = client_with(make_key(bluefin)).get("/api/billing/summary").json()
    assert (own["billed"], own["unbilled"], len(own["by_tenant"])) == ("0.00", "2.00", 1)


def test_the_summary_is_of_one_currency(admin: APIClient) -> None:
    acme = alice(currency="JPY")
    sell_hours(acme, currency="JPY", price="300")
    assert admin.get("/api/billing/summary").json()["unbilled"] == "0.00"
    yen = admin.get("/api/billing/summary?currency=JPY").json()
    assert (yen["unbilled"], yen["currencies"]) == ("600", ["JPY"])
    assert client_with(make_key(acme)).get("/api/billing/summary").json()["currency"] == "JPY"
    for wrong in ("currency=ZZZ", "days=0", "month=3"):
        assert admin.get(f"/api/billing/summary?{wrong}").status_code == 400


def test_an_open_invoice_past_its_due_date_is_overdue(admin: APIClient, settings: Any) -> None:
    settings.INVOICE_DUE_DAYS = 0
    acme = alice()
    sell_hours(acme)
    move(admin, draft(admin, acme)["id"], "open")
    summary = admin.get("/api/billing/summary").json()
    assert (summary["open"], summary["overdue"]) == ("4.00", "4.00")


def test_an_invoice_says_how_far_it_is_on_its_way_through_stripe(admin: APIClient, settings: Settings) -> None:
    acme = alice(contact_email="pay@acme.example")
    sell_hours(acme)
    shown = move(admin, draft(admin, acme)["id"], "open").json()
    assert (shown["sending"], shown["stripe_invoice_id"]) == ("not_sent", "")
    assert shown["sending_detail"] == "Not sent. Stripe is not set up: there is no STRIPE_API_KEY."
    settings.STRIPE_API_KEY = "sk_test_x"
    sell_hours(acme, gpu_model="L4")
    on_its_way = move(admin, draft(admin, acme)["id"], "open").json()
    assert on_its_way["sending"] == "on_its_way"
    messages = OutboxMessage.objects.filter(invoice=on_its_way["id"])
    messages.update(status="done")
    assert [row["sending"] for row in admin.get(URL).json()] == ["sent", "not_sent"]
    messages.filter(step="send").update(status="dead", last_error="No such customer")
    failed = admin.get(f"{URL}/{on_its_way['id']}").json()
    assert (failed["sending"], failed["sending_detail"]) == ("failed", "Failed at “Send”: No such customer")
