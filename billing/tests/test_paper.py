"""Invoices on paper, read back."""

import io
from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from django.db.backends.postgresql.psycopg_any import DateTimeTZRange
from django.utils import timezone
from hypothesis import HealthCheck, given
from hypothesis import settings as how_many
from hypothesis import strategies as st
from pypdf import PdfReader
from pytest_django import Settings
from rest_framework.test import APIClient

from apikeys.tests.factories import client_with, make_admin_key
from billing import services
from billing.models import Invoice, InvoiceLine
from billing.paper import invoice_pdf
from billing.queries import describe_invoices
from billing.tests.factories import NOW, hours, make_rate, sell
from tenants.models import Tenant
from tenants.tests.factories import alice, make_tenant

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def company(settings: Settings) -> None:
    settings.COMPANY_NAME, settings.COMPANY_ADDRESS = "Fleet & Söhne GmbH", "Turmstraße 1|10559 Berlin"
    settings.COMPANY_TAX_ID, settings.COMPANY_PAYMENT = "DE123456789", "IBAN DE02 1203 0000 0000 2020 51"
    settings.TAX_LABEL, settings.TAX_PERCENT, settings.TAX_NOTE = "VAT", "19", "Prices include VAT."


def draft(tenant: Tenant | None = None, *, price: str = "2.00", model: str = "H100") -> Invoice:
    tenant = tenant or alice(
        contact_email="pay@acme.example", billing_address="1 Acme Way\nSpringfield", tax_id="US-99"
    )
    sell(tenant, hours(5), hours(2), rate=make_rate(model, price, currency=tenant.currency))
    return services.create_invoice(tenant_id=tenant.pk, start=hours(48), end=NOW, created_by="test", now=NOW)


def finalised(invoice: Invoice) -> Invoice:
    return services.move_invoice(invoice_id=invoice.pk, to="open", actor="test", now=NOW)


def pdf_of(invoice: Invoice) -> bytes:
    return invoice_pdf(describe_invoices([Invoice.objects.get(pk=invoice.pk)])[0])


def pages_of(invoice: Invoice) -> list[str]:
    pages = PdfReader(io.BytesIO(pdf_of(invoice))).pages
    return [" ".join(page.extract_text().split()) for page in pages]


def test_it_says_what_a_customer_needs_to_pay() -> None:
    (page,) = pages_of(finalised(draft()))
    for words in (
        "Invoice GF-1",
        "Issued: 2026-11-23",
        "Due: 2026-12-23",
        "Fleet & Söhne GmbH",
        "Turmstraße 1",
        "Tax ID: DE123456789",
        "Period: 2026-11-21 – 2026-11-23 (UTC)",
        "acme",
        "1 Acme Way Springfield",
        "Tax ID: US-99",
        "pay@acme.example",
        "H100",
        "3.0000",
        "Total 6.00",
        "Net 5.04",
        "VAT, 19 % 0.96",
        "Due 6.00 USD",
        "IBAN DE02",
        "Prices include VAT.",
        "Page 1 of 1",
    ):
        assert words in page


def test_the_same_invoice_is_the_same_bytes_whatever_the_settings_are_later(settings: Settings) -> None:
    invoice = finalised(draft())
    before = pdf_of(invoice)
    settings.COMPANY_NAME, settings.TAX_PERCENT, settings.INVOICE_NUMBER_PREFIX = "Somebody Else", "7", "SE-"
    Tenant.objects.update(name="renamed", billing_address="elsewhere", tax_id="other")
    assert pdf_of(invoice) == before


def test_a_draft_and_a_void_invoice_say_so_and_ask_for_no_money() -> None:
    invoice = draft()
    (page,) = pages_of(invoice)
    assert f"Draft {invoice.pk}" in page
    assert "DRAFT" in page
    assert "IBAN" not in page
    assert "Due" not in page
    finalised(invoice)
    services.move_invoice(invoice_id=invoice.pk, to="void", actor="test", now=NOW)
    (page,) = pages_of(invoice)
    assert "VOID" in page
    assert "Due (void) 0.00 USD" in page
    assert "IBAN" not in page


def test_issued_notes_stand_on_it_and_change_what_is_due() -> None:
    invoice = finalised(draft())
    for amount, decide in (("1.25", True), ("0.50", False)):
        note = services.draft_credit_note(
            invoice_id=invoice.pk, amount=Decimal(amount), reason=f"slow by {amount}", created_by="test", now=NOW
        )
        if decide:
            services.issue_credit_note(credit_note_id=note.pk, actor="test", now=NOW)
    (page,) = pages_of(invoice)
    assert "Credit note 1, 2026-11-23: slow by 1.25 −1.25" in page
    assert "slow by 0.50" not in page
    assert "Due 4.75 USD" in page


@pytest.mark.parametrize(
    ("currency", "shown", "tax"), [("JPY", "Total 1,235", "% 197"), ("KWD", "Total 1,234.568", "% 197.116")]
)
def test_currencies_without_and_with_three_decimals(currency: str, shown: str, tax: str) -> None:
    (page,) = pages_of(finalised(draft(alice(currency=currency), price="411.522633")))
    assert shown in page
    assert tax in page


def test_many_lines_go_on_over_pages_with_their_heads() -> None:
    invoice, rate = draft(), make_rate("L4", "0.10")
    InvoiceLine.objects.bulk_create(
        InvoiceLine(
            invoice=invoice,
            gpu_model=f"Model {number:03}",
            rate=rate,
            price_per_gpu_hour=rate.price_per_gpu_hour,
            period=invoice.period,
            held_seconds=3600,
            billed_seconds=3600,
            amount=Decimal("0.10"),
        )
        for number in range(300)
    )
    pages = pages_of(invoice)
    assert len(pages) > 5
    assert all(f"Page {number} of {len(pages)}" in page for number, page in enumerate(pages, start=1))
    assert all("GPU-hours" in page for page in pages[:-1])
    assert "Model 299" in " ".join(pages)


@pytest.mark.parametrize(
    "name",
    [
        "<b>Bold</b> & <img src='x'> &lt;",
        '</para><font name="Courier">',
        "Ωμέγα ОАО Łódź",
        "株式会社カナ <i>",
        "주식회사 한국",
        "漢字公司",
        "a" * 200,
    ],
)
def test_names_are_text_whatever_they_are_made_of(name: str) -> None:
    (page,) = pages_of(finalised(draft(make_tenant(name))))
    assert name.replace(" ", "") in page.replace(" ", "")


def test_letters_that_no_font_has_and_what_is_no_letter_break_nothing() -> None:
    (page,) = pages_of(finalised(draft(make_tenant("before 🚀 \x0b مرحبا\nafter"))))
    assert "before" in page
    assert "after" in page


def test_texts_longer_than_a_page_go_on_over_pages(settings: Settings) -> None:
    settings.COMPANY_ADDRESS = "|".join(f"Seller line {number}" for number in range(150))
    settings.COMPANY_PAYMENT = "|".join(f"Payment line {number}" for number in range(150))
    address = "\n".join(f"B{number}" for number in range(110))
    invoice = finalised(draft(alice(billing_address=address)))
    for _ in range(30):
        note = services.draft_credit_note(
            invoice_id=invoice.pk, amount=Decimal("0.01"), reason="x" * 500, created_by="test", now=NOW
        )
        services.issue_credit_note(credit_note_id=note.pk, actor="test", now=NOW)
    pages = " ".join(pages_of(invoice)) + " "
    for words in ("Seller line 149", "Payment line 149", "B109", "Credit note 30", "Due 5.70 USD"):
        assert f"{words}" in pages


@pytest.mark.parametrize(
    ("begin", "end", "days"),
    [
        ("2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z", "2026-02-01 – 2026-02-28"),
        ("2026-02-01T00:00:00Z", "2026-03-01T00:00:01Z", "2026-02-01 – 2026-03-01"),
        ("2026-02-01T00:00:00Z", "2026-02-02T00:00:00Z", "Period: 2026-02-01 (UTC)"),
    ],
)
def test_the_last_day_is_the_last_that_was_billed(begin: str, end: str, days: str) -> None:
    period = DateTimeTZRange(datetime.fromisoformat(begin), datetime.fromisoformat(end))
    invoice = Invoice(tenant=alice(), currency="USD", total=Decimal(0), period=period, pk=1)
    pages = PdfReader(io.BytesIO(invoice_pdf(describe_invoices([invoice])[0]))).pages
    assert days in pages[0].extract_text()


@given(st.text(max_size=200))
@how_many(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_name_breaks_it(name: str) -> None:
    invoice = Invoice(
        tenant=Tenant(name=name), currency="USD", total=Decimal(0), period=DateTimeTZRange(hours(1), NOW), pk=1
    )
    invoice.particulars = {
        "seller": {"name": name, "address": name, "email": name, "tax_id": name, "payment": name},
        "buyer": {"name": name, "address": name, "email": name, "tax_id": name},
        "tax": {"label": name, "percent": "19", "note": name},
    }
    assert invoice_pdf(describe_invoices([invoice])[0]).startswith(b"%PDF")


def test_it_is_a_file_of_the_api() -> None:
    end = timezone.now() - timedelta(hours=1)
    acme = alice()
    sell(acme, end - timedelta(hours=1), end, rate=make_rate())
    invoice = services.create_invoice(
        tenant_id=acme.pk, start=end - timedelta(days=1), end=end, created_by="test", now=timezone.now()
    )
    client: APIClient = client_with(make_admin_key())
    answer = client.get(f"/api/billing/invoices/{invoice.pk}/pdf")
    assert (answer.status_code, answer["Content-Type"]) == (200, "application/pdf")
    assert answer["Content-Disposition"] == f'attachment; filename="draft-{invoice.pk}.pdf"'
    assert answer.content.startswith(b"%PDF")
    assert client.get(f"/api/billing/invoices/{invoice.pk}/pdf?page=1").status_code == 400
