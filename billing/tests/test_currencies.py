"""Currencies without decimals, with two and with three, from the tenant to the paper, through the API alone."""

import csv
import io
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone
from pypdf import PdfReader
from rest_framework.test import APIClient

from apikeys.tests.factories import client_with, make_admin_key
from billing import services
from billing.models import CreditNote, Rate
from billing.tests.factories import sell
from clusters.tests.factories import make_gpu
from gpufleet.common.errors import InvalidInput
from tenants.models import Tenant

pytestmark = pytest.mark.django_db

INVOICES = "/api/billing/invoices"
# Three GPUs for 90 minutes, at prices whose 4.5 hours lie between two of the smallest units: the even one is billed.
CASES = [
    ("JPY", "411", "1,850", "1850"),
    ("JPY", "413", "1,858", "1858"),
    ("USD", "4.11", "18.50", "18.50"),
    ("KWD", "4.111", "18.500", "18.500"),
]


@pytest.fixture
def admin() -> APIClient:
    return client_with(make_admin_key())


def sold(admin: APIClient, currency: str, price: str) -> tuple[Tenant, Any]:
    """The tenant, and the job's quote at its submission."""
    tenant = admin.post("/api/tenants", {"name": "acme", "gpu_quota": 8, "currency": currency}).json()
    acme = Tenant.objects.get(pk=tenant["id"])
    rate = admin.post(
        "/api/billing/rates",
        {
            "gpu_model": "H100",
            "price_per_gpu_hour": price,
            "currency": currency,
            "effective_from": "2020-01-01T00:00:00Z",
        },
    ).json()
    gpus = [make_gpu(model="H100") for _ in range(3)]
    job = admin.post(
        "/api/jobs",
        {
            "cluster_id": gpus[0].node.cluster_id,
            "name": "train",
            "tenant_id": acme.pk,
            "gpu_count": 1,
            "gpu_type": "H100",
            "estimated_duration_min": 270,
        },
    ).json()
    start = timezone.now() - timedelta(hours=3)
    for gpu in gpus:
        sell(acme, start, start + timedelta(minutes=90), rate=Rate.objects.get(pk=rate["id"]), gpu=gpu)
    return acme, job["quote"]


@pytest.mark.parametrize(("currency", "price", "on_paper", "total"), CASES)
def test_every_amount_has_the_decimals_of_its_currency(
    admin: APIClient, currency: str, price: str, on_paper: str, total: str
) -> None:
    acme, quote = sold(admin, currency, price)
    assert (quote["lowest"], quote["currency"]) == (total, currency)
    preview = admin.get(f"/api/tenants/{acme.pk}/invoice-preview").json()
    assert (preview["total"], preview["currency"], preview["lines"][0]["amount"]) == (total, currency, total)
    draft = admin.post(INVOICES, {"tenant_id": acme.pk}).json()
    assert (draft["total"], draft["lines"][0]["amount"]) == (total, total)
    invoice = admin.patch(f"{INVOICES}/{draft['id']}/status", {"status": "open"}).json()
    assert (invoice["total"], invoice["amount_due"], invoice["currency"]) == (total, total, currency)
    paper = PdfReader(io.BytesIO(admin.get(f"{INVOICES}/{draft['id']}/pdf").content))
    assert f"Due {on_paper} {currency}" in " ".join(paper.pages[0].extract_text().split())
    summary = admin.get(f"/api/billing/summary?currency={currency}").json()
    assert (summary["billed"], summary["open"], summary["by_tenant"][0]["open"]) == (total, total, total)
    usage = admin.get(f"/api/tenants/{acme.pk}/usage").json()
    assert (usage["cost"], usage["currency"]) == (total, currency)
    proof = csv.DictReader(io.StringIO(admin.get(f"{INVOICES}/{draft['id']}/proof?format=csv").content.decode()))
    assert [row["billed_seconds"] for row in proof] == ["5400"] * 3


@pytest.mark.parametrize(("currency", "unit", "left"), [("JPY", "1", "1849"), ("KWD", "0.001", "1849.499")])
def test_a_note_is_of_whole_smallest_units(admin: APIClient, currency: str, unit: str, left: str) -> None:
    acme, _ = sold(admin, currency, "411")
    invoice = admin.post(INVOICES, {"tenant_id": acme.pk}).json()
    admin.patch(f"{INVOICES}/{invoice['id']}/status", {"status": "open"})

    def propose(amount: Decimal) -> CreditNote:
        return services.draft_credit_note(
            invoice_id=invoice["id"], amount=amount, reason="slow", created_by="test", now=timezone.now()
        )

    with pytest.raises(InvalidInput):
        propose(Decimal(unit) / 2)
    note = propose(Decimal(unit))
    admin.patch(f"/api/billing/credit-notes/{note.pk}/status", {"status": "issued"})
    shown = admin.get(f"{INVOICES}/{invoice['id']}").json()
    assert (shown["credited"], shown["amount_due"], shown["credit_notes"][0]["amount"]) == (unit, left, unit)
