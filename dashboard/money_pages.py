"""Where the money went: from potential to collected revenue, what is owed since when, and who brought it.

What is over the whole ledger takes longer than a page may; it is kept (``kept``), and the page says of which instant it
is. What is owed and what failed are few rows, and are of now.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from unfold.widgets import UnfoldAdminSelectWidget

from billing.models import OutboxMessage, OutboxStatus, Rate
from billing.queries import DEFAULT_CURRENCY, minor_unit_of
from dashboard import queries
from dashboard.exports import Table, as_csv, as_pdf
from dashboard.kept import Kept, Maker, kept
from dashboard.period import Balance, balance_of
from dashboard.queries import Money
from dashboard.queries.causes import ABOUT, Nature
from dashboard.queries.prices import amount_of
from dashboard.queries.receivables import AGES, aged_receivables
from dashboard.queries.revenue import Earned
from dashboard.waterfall import Step, waterfall

WINDOWS = (1, 7, 30, 90)
DEFAULT_DAYS = 30
FAILED_SHOWN = 20
# Behind each cause, the largest.
ROWS_KEPT = 500
# Tables that are of an instant, whatever the window.
OF_NOW = {"receivables", *(cause.value for cause, about in ABOUT.items() if about.nature is not Nature.LOST)}
SAID = "Held time at the prices that were locked in, and how much of it invoices hold, before minimums and rounding"
NEEDED = ("jobs.view_allocation", "billing.view_invoice", "billing.view_outboxmessage")


class WindowForm(forms.Form):
    """Which days, and in which of the currencies that there is a rate in."""

    days = forms.TypedChoiceField(
        choices=[(days, f"{days} days" if days > 1 else "24 hours") for days in WINDOWS],
        coerce=int,
        widget=UnfoldAdminSelectWidget,
    )
    currency = forms.ChoiceField(
        choices=lambda: [(code, code) for code in currencies()], widget=UnfoldAdminSelectWidget
    )


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request wants to see."""

    form: WindowForm
    days: int
    currency: str

    @property
    def query(self) -> str:
        """It, as an address's query."""
        return urlencode({"days": self.days, "currency": self.currency})

    @property
    def name(self) -> str:
        """What its figures are kept as."""
        return f"leakage:{self.currency}:{self.days}"

    def money(self, *, anew: bool = False) -> Kept[Money]:
        """Its figures, as they are kept or made anew."""
        return kept(self.name, partial(_money, self.currency, self.days), now=timezone.now(), anew=anew)


def may_see(request: HttpRequest) -> bool:
    """Whoever may see the ledger and the invoices."""
    return all(request.user.has_perm(permission) for permission in NEEDED)


def currencies() -> list[str]:
    """Those that there is a rate in, and the house's."""
    return sorted({DEFAULT_CURRENCY, *Rate.objects.order_by().values_list("currency", flat=True).distinct()})


def makers() -> Mapping[str, Maker]:
    """How the figures of each window are made; those that the page opens with are kept whoever looks."""
    return {
        f"leakage:{currency}:{days}": Maker(
            partial(_money, currency, days), standing=(days, currency) == (DEFAULT_DAYS, DEFAULT_CURRENCY)
        )
        for currency in currencies()
        for days in WINDOWS
    }


def leakage_page(request: HttpRequest) -> HttpResponse:
    """The page without what is kept, which it fetches; or with ``?export=`` one of its tables as a file."""
    asked = asked_in(request)
    if "export" in request.GET:
        return _export(asked, request.GET["export"], as_file=request.GET.get("as", "csv"))
    dead = OutboxMessage.objects.filter(status=OutboxStatus.DEAD).select_related("invoice__tenant").order_by("-pk")
    return TemplateResponse(
        request,
        "dashboard/leakage.html",
        {
            **admin.site.each_context(request),
            "title": "Leakage: from potential to collected revenue",
            "asked": asked,
            "table": _receivables(asked.currency, now=timezone.now()),
            "failed": dead[:FAILED_SHOWN],
            "may_retry": request.user.has_perm("billing.change_outboxmessage"),
        },
    )


def figures(request: HttpRequest) -> HttpResponse:
    """What is kept, as a fragment; with ``?anew=`` it is made first."""
    asked = asked_in(request)
    made = asked.money(anew="anew" in request.GET)
    steps, balance, others = _shown(made.figures)
    shown = {"asked": asked, "at": made.at, "steps": steps, "balance": balance, "others": others}
    return TemplateResponse(
        request, "dashboard/leakage_figures.html", {**shown, "tables": _earned_tables(made.figures.earned)}
    )


def hours_of(microseconds: int) -> Decimal:
    """GPU-hours as tables show them."""
    return round(Decimal(microseconds) / 3_600_000_000, 1)


def asked_in(request: HttpRequest) -> Asked:
    """What the request asks for. Raises what refuses whoever may not see it, and what is no window."""
    if not may_see(request):
        raise PermissionDenied
    form = WindowForm({"days": DEFAULT_DAYS, "currency": DEFAULT_CURRENCY} | request.GET.dict())
    if not form.is_valid():
        raise Http404
    return Asked(form, form.cleaned_data["days"], form.cleaned_data["currency"])


def _money(currency: str, days: int, now: datetime) -> Money:
    return queries.money(currency, start=now - timedelta(days=days), end=now, most=ROWS_KEPT)


def _shown(money: Money) -> tuple[list[Step], Balance, list[tuple[Any, Any]]]:
    """The waterfall, the same time in GPU-hours, and what is late or reclaimable."""
    others = [
        (ABOUT[loss.cause], loss)
        for loss in money.lost.losses
        if ABOUT[loss.cause].nature is not Nature.LOST and loss.amount
    ]
    return waterfall(money.lost, money.earned), balance_of(money.lost.account), others


def _receivables(currency: str, *, now: datetime) -> Table:
    unit = minor_unit_of(currency)
    owed = [
        (row.tenant, [amount.quantize(unit) for amount in (*row.amounts, row.total)])
        for row in aged_receivables(currency, now=now)
    ]
    sums = [sum(column, Decimal(0)) for column in zip(*(amounts for _, amounts in owed), strict=True)]
    debts = reverse("admin:billing_invoice_changelist") + "?status__exact=open&tenant__id__exact={}"
    return Table(
        "receivables",
        "Aged receivables",
        ["Tenant", *(name for name, _ in AGES), "Total"],
        [[tenant.name, *amounts] for tenant, amounts in owed],
        "Nobody owes anything.",
        ["Together", *sums] if len(owed) > 1 else (),
        "What is due on open invoices with their notes, by days past the due date",
        [debts.format(tenant.pk) for tenant, _ in owed],
    )


def _earned_tables(earned: queries.Revenue) -> list[Table]:
    tenants = ((earned.tenants.get(pk) or "no tenant", part) for pk, part in earned.by_tenant.items())
    return [
        _earned_table("tenants", "Revenue by tenant", "Tenant", earned, tenants),
        _earned_table("models", "Revenue by GPU model", "Model", earned, earned.by_model.items()),
    ]


def _earned_table(
    name: str, title: str, first: str, report: queries.Revenue, parts: Iterable[tuple[str, Earned]]
) -> Table:
    def row(key: str, part: Earned) -> list[str | Decimal]:
        metered, billed = (amount_of(worth, report.currency) for worth in (part.metered, part.billed))
        # What is shown adds up to the cent, as the waterfall does.
        return [key, hours_of(part.sold), metered, billed, metered - billed]

    rows = [row(key or "unnamed model", part) for key, part in sorted(parts, key=lambda item: -item[1].metered)]
    headers = [first, "GPU-hours sold", "Metered", "Billed", "Not billed"]
    total = row("Together", report.total) if len(rows) > 1 else ()
    return Table(name, title, headers, rows, "Nothing was sold.", total, SAID)


def _export(asked: Asked, name: str, *, as_file: str) -> HttpResponse:
    if name == "receivables":
        now = timezone.now()
        return file_of(asked, [_receivables(asked.currency, now=now)], now, as_file)
    made = asked.money()
    tables = {table.name: [table] for table in _earned_tables(made.figures.earned)}
    tables["waterfall"] = _report(made.figures)
    if name not in tables:
        raise Http404
    return file_of(asked, tables[name], made.at, as_file)


def _report(money: Money) -> list[Table]:
    steps, balance, others = _shown(money)
    currency = money.lost.currency
    spent: list[list[str | Decimal]] = [
        [part.name, f"{part.hours:,.1f}", f"{part.percent:.1f} %"] for part in balance.parts
    ]
    spent.append(["Registered", f"{balance.registered:,.1f}", "100 %"])
    return [
        Table(
            "waterfall",
            "From potential to collected",
            ["", currency],
            [[step.name, step.amount if step.stands else -step.amount] for step in steps],
            "",
        ),
        Table(
            "late",
            "Late, or reclaimable",
            ["", currency],
            [[a.title, loss.amount] for a, loss in others],
            "Nothing.",
        ),
        Table("hours", "The same time in GPU-hours", ["", "GPU-hours", "Share"], spent, ""),
    ]


def file_of(asked: Asked, tables: list[Table], at: datetime, as_file: str) -> HttpResponse:
    """The first of the tables as CSV, or all of them as PDF."""
    table = tables[0]
    if as_file == "csv":
        return as_csv(table, f"{asked.currency}-{asked.days}d-{at:%Y%m%d}")
    if as_file != "pdf":
        raise Http404
    window = f"{at - timedelta(days=asked.days):%Y-%m-%d %H:%M:%S} to {at:%Y-%m-%d %H:%M:%S} UTC"
    when = f"As of {at:%Y-%m-%d %H:%M:%S} UTC" if table.name in OF_NOW else window
    title = f"{table.title}, {asked.currency}"
    facts = [when, *([table.said] if table.said else [])]
    return as_pdf(title, facts, tables, f"{table.name}-{asked.currency}-{asked.days}d-{at:%Y%m%d}")
