"""The leakage page: who may see it, which instant its figures are of, and its tables as files."""

import io
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pypdf import PdfReader
from pytest_django.fixtures import Settings

from billing.models import InvoiceStatus
from billing.services import create_invoice, move_invoice
from billing.tests.factories import make_rate, sell
from dashboard.tasks import keep_figures
from tenants.models import Tenant
from tenants.tests.factories import alice, bob, make_tenant

pytestmark = pytest.mark.django_db


def sold_hours(tenant: Tenant | None, most: int, least: int) -> None:
    now, rate = timezone.now(), make_rate(price="2.00")
    sell(tenant, now - timedelta(hours=most), now - timedelta(hours=least), rate=rate)


def figures(client: Client, query: str = "?days=7") -> str:
    answer = client.get(reverse("admin:live_leakage") + query)
    assert answer.status_code == 200
    return answer.content.decode()


def file(client: Client, query: str) -> bytes:
    answer = client.get(f"{reverse('admin:leakage')}?days=7&{query}")
    assert answer.status_code == 200, query
    return answer.content


@pytest.mark.parametrize("page", ["leakage", "live_leakage"])
def test_it_is_for_whoever_may_see_the_ledger_and_the_invoices(page: str, finance: Client) -> None:
    client = Client()
    user = User.objects.create_user("somebody", password="x", is_staff=True)
    client.force_login(user)
    assert client.get(reverse(f"admin:{page}")).status_code == 403
    assert finance.get(reverse(f"admin:{page}")).status_code == 200
    assert finance.get(reverse(f"admin:{page}"), {"days": "many"}).status_code == 404
    assert finance.get(reverse(f"admin:{page}"), {"currency": "XXX"}).status_code == 404
    assert b"From potential" not in Client().get(reverse(f"admin:{page}")).content


def test_its_figures_are_kept_say_of_when_they_are_and_can_be_made_anew(finance: Client) -> None:
    sold_hours(alice(), 10, 9)
    first = figures(finance)
    assert "From potential to collected, USD" in first
    assert "acme" in first
    sold_hours(bob(), 5, 4)
    assert "bluefin" not in figures(finance)
    assert "bluefin" in figures(finance, "?days=7&anew=1")
    assert "bluefin" in figures(finance)
    assert "As of <time" in first


def test_beat_makes_them_anew_for_whoever_looks(finance: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    sold_hours(alice(), 10, 9)
    figures(finance)
    sold_hours(bob(), 5, 4)
    later = timezone.now() + timedelta(seconds=61)
    monkeypatch.setattr("dashboard.tasks.timezone.now", lambda: later)
    keep_figures()
    assert "bluefin" in figures(finance)


def test_what_is_owed_is_of_now(finance: Client) -> None:
    tenant, now = alice(), timezone.now()
    sold_hours(tenant, 10, 9)
    assert "Nobody owes anything" in finance.get(reverse("admin:leakage")).content.decode()
    invoice = create_invoice(
        tenant_id=tenant.pk, start=now - timedelta(hours=12), end=now - timedelta(hours=8), created_by="test", now=now
    )
    move_invoice(invoice_id=invoice.pk, to=InvoiceStatus.OPEN, actor="test", now=now)
    owed = file(finance, "export=receivables").decode().splitlines()
    assert owed == [
        "Tenant,Not due yet,1–30 days,31–60 days,61–90 days,Older,Total",
        "acme,2.00,0.00,0.00,0.00,0.00,2.00",
    ]


def test_its_tables_are_spreadsheets(finance: Client) -> None:
    sold_hours(alice(), 10, 9)
    sold_hours(bob(), 8, 5)
    assert file(finance, "export=tenants").decode().splitlines() == [
        "Tenant,GPU-hours sold,Metered,Billed,Not billed",
        "bluefin,3.0,6.00,0.00,6.00",
        "acme,1.0,2.00,0.00,2.00",
    ]
    for query in ("export=nothing", "export=tenants&as=doc"):
        assert finance.get(f"{reverse('admin:leakage')}?days=7&{query}").status_code == 404


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("tenants", ["Revenue by tenant, USD", "acme", "bluefin", "Together", "8.00"]),
        ("models", ["Revenue by GPU model, USD", "8.00"]),
        ("receivables", ["Aged receivables, USD", "Nobody owes anything."]),
        (
            "waterfall",
            ["From potential to collected, USD", "Earned", "8.00", "The same time in GPU-hours", "Registered"],
        ),
    ],
)
def test_its_tables_are_papers(name: str, says: list[str], finance: Client, settings: Settings) -> None:
    settings.COMPANY_NAME = "Fleet & Söhne"
    sold_hours(alice(), 10, 9)
    sold_hours(bob(), 8, 5)
    paper = file(finance, f"export={name}&as=pdf")
    text = "\n".join(page.extract_text() for page in PdfReader(io.BytesIO(paper)).pages)
    for said in ("Fleet & Söhne", "UTC", "Page 1 of 1", *says):
        assert said in text, text


def test_a_long_paper_has_its_head_on_each_page(finance: Client) -> None:
    now, rate = timezone.now(), make_rate(price="2.00")
    for number in range(60):
        tenant = make_tenant(f"tenant-{number}")
        sell(tenant, now - timedelta(hours=10), now - timedelta(hours=9), rate=rate)
    pages = PdfReader(io.BytesIO(file(finance, "export=tenants&as=pdf"))).pages
    assert len(pages) > 1
    assert all("GPU-hours sold" in page.extract_text() for page in pages)
    assert "120.00" in pages[-1].extract_text()


def test_a_name_in_a_file_is_no_formula_and_no_markup(finance: Client) -> None:
    tenant = alice()
    tenant.name = "=1+1<b>"
    tenant.save()
    sold_hours(tenant, 10, 9)
    assert "'=1+1<b>" in file(finance, "export=tenants").decode()
    assert "=1+1<b>" in PdfReader(io.BytesIO(file(finance, "export=tenants&as=pdf"))).pages[0].extract_text()


def test_only_currencies_that_there_is_a_rate_in_are_offered(finance: Client) -> None:
    make_rate(price="2.00", currency="EUR")
    page = finance.get(reverse("admin:leakage")).content.decode()
    assert 'value="EUR"' in page
    assert 'value="USD"' in page
    assert 'value="JPY"' not in page


def test_hours_in_a_spreadsheet_are_numbers(finance: Client) -> None:
    sold_hours(alice(), 1500 + 100, 100)
    answer = finance.get(f"{reverse('admin:leakage')}?days=90&export=tenants").content.decode()
    assert answer.splitlines()[1] == "acme,1500.0,3000.00,0.00,3000.00"


def test_who_owes_leads_to_the_open_invoices(finance: Client) -> None:
    tenant, now = alice(), timezone.now()
    sold_hours(tenant, 10, 9)
    invoice = create_invoice(tenant_id=tenant.pk, start=now - timedelta(days=1), end=now, created_by="test", now=now)
    move_invoice(invoice_id=invoice.pk, to=InvoiceStatus.OPEN, actor="test", now=now)
    page = finance.get(reverse("admin:leakage")).content.decode()
    assert f'/admin/billing/invoice/?status__exact=open&amp;tenant__id__exact={tenant.pk}">acme</a>' in page
