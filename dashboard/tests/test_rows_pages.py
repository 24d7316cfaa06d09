"""Each bar of the leakage page leads to the rows that it is made of, and they add up to it."""

import csv
import io
import re
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.cache import cache
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pypdf import PdfReader

from billing.models import Invoice
from billing.services import create_invoice, move_invoice
from billing.tests.factories import make_rate, sell
from clusters.tests.factories import make_gpu
from dashboard import money_pages
from dashboard.queries.causes import Cause
from dashboard.waterfall import LEVELS
from tenants.models import Tenant
from tenants.tests.factories import alice, bob, make_tenant

pytestmark = pytest.mark.django_db


def moved(tenant: Tenant, *moves: str) -> Invoice:
    now = timezone.now()
    invoice = create_invoice(
        tenant_id=tenant.pk, start=now - timedelta(days=2), end=now - timedelta(hours=1), created_by="test", now=now
    )
    for move in moves:
        move_invoice(invoice_id=invoice.pk, to=move, actor="test", now=now)
    return invoice


@pytest.fixture
def world() -> dict[str, Any]:
    """Alice has paid, and Bob's invoice is open; three GPUs are idle; Alice pays less than the list price."""
    now, rate = timezone.now(), make_rate(price="2.00")
    acme, bluefin = alice(), bob()
    own = make_rate(price="1.50", tenant_id=acme.pk)
    sell(acme, now - timedelta(hours=10), now - timedelta(hours=9), rate=own)
    sell(bluefin, now - timedelta(hours=10), now - timedelta(hours=7), rate=rate)
    gpus = [make_gpu(model="H100", registered_at=now - timedelta(hours=hours)) for hours in (3, 2, 1)]
    paid, due = moved(acme, "open", "paid"), moved(bluefin, "open")
    sell(bluefin, now - timedelta(minutes=50), now - timedelta(minutes=20), rate=rate)
    return {"acme": acme, "bluefin": bluefin, "gpus": gpus, "own": own, "paid": paid, "due": due}


def bars_of(client: Client) -> list[tuple[str, Decimal]]:
    """Where each bar leads, and what it says."""
    shown = client.get(reverse("admin:live_leakage") + "?days=7").content.decode()
    rows = re.findall(r"<tr.*?</tr>", shown.split("</tbody>")[0], re.S)
    links = [re.findall(r'<a href="([^"]+)"', row)[0].replace("&amp;", "&") for row in rows if "<td" in row]
    amounts = [re.findall(r'class="gf-number">[−]?([\d,.]+)<', row)[-1] for row in rows if "<td" in row]
    return [(link, Decimal(amount.replace(",", ""))) for link, amount in zip(links, amounts, strict=True)]


def rows_of(client: Client, address: str) -> list[list[str]]:
    answer = client.get(f"{address}&export=rows")
    assert answer.status_code == 200, address
    return list(csv.reader(io.StringIO(answer.content.decode())))[1:]


def part_of(client: Client, key: str) -> str:
    answer = client.get(reverse("admin:live_leakage_rows", args=[key]) + "?days=7")
    assert answer.status_code == 200
    return answer.content.decode()


def test_the_rows_of_each_bar_add_up_to_it(finance: Client, world: dict[str, Any]) -> None:
    bars = bars_of(finance)
    keys = [address.split("/")[3] for address, _ in bars]
    assert keys[0] == "potential"
    assert {"no_demand", "below_list", "earned", "not_billed", "billed", "not_paid", "collected"} <= set(keys)
    for address, amount in bars:
        assert sum(Decimal(row[-1]) for row in rows_of(finance, address)) == amount > 0, address


@pytest.mark.parametrize(
    ("key", "tenant", "amount", "link"),
    [
        ("earned", "bluefin", "7.00", "/admin/jobs/allocation/?tenant__id__exact={bluefin}"),
        ("not_billed", "bluefin", "1.00", "/admin/tenants/tenant/{bluefin}/change/"),
        ("billed", "acme", "1.50", "/admin/billing/invoice/?tenant__id__exact={acme}"),
        ("not_paid", "bluefin", "6.00", "/admin/billing/invoice/?tenant__id__exact={bluefin}&amp;status__in=open"),
        ("collected", "acme", "1.50", "/admin/billing/invoice/?tenant__id__exact={acme}&amp;status__exact=paid"),
        ("below_list", "acme", "0.50", "/admin/billing/rate/{own}/change/"),
    ],
)
def test_each_row_leads_on(
    key: str, tenant: str, amount: str, link: str, finance: Client, world: dict[str, Any]
) -> None:
    shown = part_of(finance, key)
    (row,) = (row for row in re.findall(r"<tr>.*?</tr>", shown, re.S) if tenant in row)
    assert link.format(**{name: row.pk for name, row in world.items() if name != "gpus"}) in row
    assert f">{amount}<" in row
    address = re.findall(r'href="([^"]+)"', row)[0].replace("&amp;", "&")
    assert finance.get(address).status_code == 200
    assert amount in str(rows_of(finance, f"{reverse('admin:leakage_rows', args=[key])}?days=7"))


def test_the_gpus_behind_unsold_time_are_named_and_the_rest_counted(
    finance: Client, world: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = part_of(finance, "no_demand")
    for gpu in world["gpus"]:
        assert f'<a href="/admin/clusters/gpu/{gpu.pk}/change/">{gpu.node.hostname}, GPU {gpu.gpu_index}</a>' in shown
    monkeypatch.setattr(money_pages, "ROWS_KEPT", 1)
    cache.clear()
    rows = rows_of(finance, f"{reverse('admin:leakage_rows', args=['no_demand'])}?days=7")
    assert len(rows) == 2
    assert rows[1][0].endswith(" more")
    assert rows[1][0] in part_of(finance, "no_demand")


@pytest.mark.parametrize("seconds", [6, 4])
def test_what_rounding_each_row_makes_is_a_row(seconds: int, finance: Client) -> None:
    """Three times 0.006 are 0.02, and three times 0.004 are 0.01."""
    now, rate = timezone.now(), make_rate(price="3.60")
    for tenant in (alice(), bob(), make_tenant("corvid")):
        sell(tenant, now - timedelta(hours=1), now - timedelta(hours=1) + timedelta(seconds=seconds), rate=rate)
    rows = rows_of(finance, f"{reverse('admin:leakage_rows', args=['earned'])}?days=7")
    assert rows[-1][0] == "Rounding"
    assert sum(Decimal(row[-1]) for row in rows) == dict(bars_of(finance))["/admin/leakage/earned/?days=7&currency=USD"]


def test_an_overdue_invoice_is_a_row_of_its_own(finance: Client) -> None:
    tenant, then = bob(), timezone.now() - timedelta(days=60)
    sell(tenant, then - timedelta(hours=3), then - timedelta(hours=1), rate=make_rate())
    late = create_invoice(tenant_id=tenant.pk, start=then - timedelta(days=1), end=then, created_by="test", now=then)
    move_invoice(invoice_id=late.pk, to="open", actor="test", now=then)
    shown = part_of(finance, "overdue")
    assert f'<a href="/admin/billing/invoice/{late.pk}/change/">bluefin: Invoice GF-' in shown
    assert "GPU-hours" not in shown
    assert shown.count('<td class="gf-number">4.00</td>') == 2


def test_what_a_bar_is_and_what_to_do_stand_above_its_rows(finance: Client, world: dict[str, Any]) -> None:
    for key in (*LEVELS, *Cause):
        page = finance.get(reverse("admin:leakage_rows", args=[key]) + "?days=7")
        assert page.status_code == 200, key
        part_of(finance, key)
    draining = finance.get(reverse("admin:leakage_rows", args=["draining"]) + "?days=7").content.decode()
    for said in (
        "Draining, USD",
        "takes no new jobs",
        "put it back into service",
        "/admin/clusters/node/?status=draining",
    ):
        assert said in draining, said


def test_the_rows_are_a_paper_too(finance: Client, world: dict[str, Any]) -> None:
    paper = finance.get(reverse("admin:leakage_rows", args=["billed"]) + "?days=7&export=rows&as=pdf").content
    text = PdfReader(io.BytesIO(paper)).pages[0].extract_text()
    for said in ("Billed, USD", "acme", "bluefin", "Together", "7.50"):
        assert said in text, text


@pytest.mark.parametrize("page", ["leakage_rows", "live_leakage_rows"])
def test_they_are_for_whoever_may_see_the_money_and_there_are_no_others(page: str, finance: Client) -> None:
    nobody = Client()
    nobody.force_login(User.objects.create_user("somebody", password="x", is_staff=True))
    assert nobody.get(reverse(f"admin:{page}", args=["billed"])).status_code == 403
    assert finance.get(reverse(f"admin:{page}", args=["billed"])).status_code == 200
    assert finance.get(reverse(f"admin:{page}", args=["profits"])).status_code == 404
