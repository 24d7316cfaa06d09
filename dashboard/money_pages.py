"""Where the money went: from potential to collected revenue, what is owed since when, and who brought it."""

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.safestring import SafeString
from unfold.widgets import UnfoldAdminSelectWidget

from billing.models import OutboxMessage, OutboxStatus
from billing.queries import DEFAULT_CURRENCY
from dashboard import plots, queries
from dashboard.period import balance_of
from dashboard.queries.causes import ABOUT, Cause, Nature
from dashboard.queries.prices import amount_of
from dashboard.queries.receivables import AGES, aged_receivables
from dashboard.queries.revenue import Earned
from gpufleet.common.currencies import CURRENCIES

WINDOWS = (1, 7, 30, 90)
FAILED_SHOWN = 20
NEEDED = ("jobs.view_allocation", "billing.view_invoice", "billing.view_outboxmessage")


class WindowForm(forms.Form):
    """Which days, and in which currency."""

    days = forms.TypedChoiceField(
        choices=[(days, f"{days} days" if days > 1 else "24 hours") for days in WINDOWS],
        coerce=int,
        initial=30,
        widget=UnfoldAdminSelectWidget,
    )
    currency = forms.ChoiceField(
        choices=[(code, code) for code in sorted(CURRENCIES)], initial=DEFAULT_CURRENCY, widget=UnfoldAdminSelectWidget
    )


@dataclass(frozen=True, slots=True)
class Step:
    """A bar of the waterfall: a level that ``stands``, or what is taken off it. ``link`` leads to its rows."""

    name: str
    amount: Decimal
    stands: bool
    link: str
    said: str
    bar: SafeString


@dataclass(frozen=True, slots=True)
class Part:
    """What is taken off, before it is drawn."""

    name: str
    amount: Decimal
    link: str
    said: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the page, which is also a file."""

    name: str
    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str | Decimal]]
    empty: str


def may_see(request: HttpRequest) -> bool:
    """Whoever may see the ledger and the invoices."""
    return all(request.user.has_perm(permission) for permission in NEEDED)


def leakage_page(request: HttpRequest) -> HttpResponse:
    """The page, or with ``?export=`` one of its tables as CSV."""
    if not may_see(request):
        raise PermissionDenied
    asked = {"days": 30, "currency": DEFAULT_CURRENCY} | request.GET.dict()
    form = WindowForm(asked)
    if not form.is_valid():
        raise Http404
    now = timezone.now()
    days, currency = form.cleaned_data["days"], form.cleaned_data["currency"]
    context = _figures(currency, start=now - timedelta(days=days), end=now)
    if "export" in request.GET:
        return _export(request.GET["export"], context["tables"], f"{currency}-{days}d-{now:%Y%m%d}")
    dead = OutboxMessage.objects.filter(status=OutboxStatus.DEAD).select_related("invoice__tenant").order_by("-pk")
    return TemplateResponse(
        request,
        "dashboard/leakage.html",
        {
            **admin.site.each_context(request),
            "title": "Leakage: from potential to collected revenue",
            "form": form,
            "query": urlencode({"days": days, "currency": currency}),
            "currency": currency,
            "failed": dead[:FAILED_SHOWN],
            "may_retry": request.user.has_perm("billing.change_outboxmessage"),
            **context,
        },
    )


def _figures(currency: str, *, start: datetime, end: datetime) -> dict[str, Any]:
    lost = queries.leakage(currency, start=start, end=end)
    earned = queries.revenue(currency, start=start, end=end)
    steps = waterfall(lost, earned)
    others = [loss for loss in lost.losses if ABOUT[loss.cause].nature is not Nature.LOST]
    tables = [
        Table("waterfall", "From potential to collected", ["", currency], [[s.name, s.amount] for s in steps], ""),
        Table(
            "receivables",
            "Aged receivables",
            ["Tenant", *(name for name, _ in AGES), "Total"],
            [[row.tenant.name, *row.amounts, row.total] for row in aged_receivables(currency, now=end)],
            "Nobody owes anything.",
        ),
        _earned_table("tenants", "Revenue by tenant", "Tenant", earned, _by_tenant(earned)),
        _earned_table("models", "Revenue by GPU model", "Model", earned, earned.by_model.items()),
    ]
    return {
        "steps": steps,
        "tables": tables,
        "balance": balance_of(lost.account),
        "others": [(ABOUT[loss.cause], loss, _link(loss.cause)) for loss in others if loss.amount],
    }


def waterfall(lost: queries.Leakage, earned: queries.Revenue) -> list[Step]:
    """From what the fleet could have earned to what was paid; each step is exact, and they add up."""
    currency, total = lost.currency, earned.total
    of_tenants = amount_of(total.metered - earned.by_tenant.get(None, Earned()).metered, currency)
    billed, paid = amount_of(total.billed, currency), amount_of(total.collected, currency)
    losses = [
        Part(ABOUT[loss.cause].title, loss.amount, _link(loss.cause), ABOUT[loss.cause].meaning)
        for loss in sorted(lost.losses, key=lambda loss: list(Cause).index(loss.cause))
        if ABOUT[loss.cause].nature is Nature.LOST and loss.amount
    ]
    invoices, jobs = reverse("admin:billing_invoice_changelist"), reverse("admin:jobs_allocation_changelist")
    potential = of_tenants + sum((part.amount for part in losses), Decimal(0))
    levels: list[tuple[Part, list[Part]]] = [
        (
            Part("Potential", potential, reverse("admin:clusters_gpu_changelist"), "Sold at its price, unsold at list"),
            losses,
        ),
        (
            Part("Earned", of_tenants, jobs, "Sold to tenants, at the prices that were locked in"),
            [
                Part(
                    "Not billed yet",
                    of_tenants - billed,
                    invoices + "?status__exact=draft",
                    "Drafts, and on no invoice",
                )
            ],
        ),
        (
            Part("Billed", billed, invoices, "On finalised invoices, before minimums and rounding"),
            [
                Part(
                    "Not paid yet", billed - paid, invoices + "?status__exact=open", "On open or uncollectible invoices"
                )
            ],
        ),
        (Part("Collected", paid, invoices + "?status__exact=paid", "On paid invoices"), []),
    ]
    return list(_steps(levels, potential))


def _steps(levels: Sequence[tuple[Part, Sequence[Part]]], top: Decimal) -> Iterable[Step]:
    for level, taken in levels:
        yield _step(level, Decimal(0), level.amount, top, stands=True)
        left = level.amount
        for part in taken:
            left -= part.amount
            if part.amount:
                yield _step(part, left, part.amount, top, stands=False)


def _step(part: Part, below: Decimal, size: Decimal, top: Decimal, *, stands: bool) -> Step:
    pieces = [
        plots.Piece("gf-clear", float(below), ""),
        plots.Piece("gf-stands" if stands else "gf-lost", float(size), f"{part.name}: {part.amount:,}"),
        plots.Piece("gf-clear", float(top - below - size), ""),
    ]
    return Step(
        part.name, part.amount, stands, part.link, part.said, plots.stack(pieces, f"{part.name}: {part.amount:,}")
    )


def _link(cause: Cause) -> str:
    about = ABOUT[cause]
    return reverse(about.page) + (f"?{about.query}" if about.query else "")


def _by_tenant(earned: queries.Revenue) -> Iterable[tuple[str, Earned]]:
    return ((earned.tenants.get(pk) or "no tenant", part) for pk, part in earned.by_tenant.items())


def _earned_table(
    name: str, title: str, first: str, report: queries.Revenue, parts: Iterable[tuple[str, Earned]]
) -> Table:
    def money(worth: int) -> Decimal:
        return amount_of(worth, report.currency)

    rows: list[list[str | Decimal]] = [
        [
            key or "unnamed model",
            f"{part.sold / 3_600_000_000:,.1f}",
            money(part.metered),
            money(part.billed),
            money(part.unbilled + part.drafted),
        ]
        for key, part in sorted(parts, key=lambda item: -item[1].metered)
    ]
    headers = [first, "GPU-hours sold", "Metered", "Billed", "Not billed"]
    return Table(name, title, headers, rows, "Nothing was sold.")


def _export(name: str, tables: Iterable[Table], stem: str) -> HttpResponse:
    found = next((table for table in tables if table.name == name), None)
    if found is None:
        raise Http404
    headers = {"Content-Disposition": f'attachment; filename="{name}-{stem}.csv"'}
    answer = HttpResponse(content_type="text/csv; charset=utf-8", headers=headers)
    writer: Callable[[Iterable[Any]], Any] = csv.writer(answer).writerow
    for row in (found.headers, *found.rows):
        writer([_harmless(cell) for cell in row])
    return answer


def _harmless(cell: str | Decimal) -> str:
    """A spreadsheet must not take a tenant's name for a formula."""
    text = str(cell)
    return f"'{text}" if isinstance(cell, str) and text[:1] in ("=", "+", "-", "@", "\t") else text
