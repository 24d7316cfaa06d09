"""The rows that a bar of the leakage page is made of: GPUs, rates, jobs, tenants or invoices, which add up to it."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from django.contrib import admin
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse

from dashboard.exports import Cell, Table
from dashboard.money_pages import Asked, asked_in, file_of, hours_of
from dashboard.queries import Money
from dashboard.queries.causes import ABOUT, Cause
from dashboard.queries.losses import Behind, Loss
from dashboard.queries.prices import amount_of
from dashboard.queries.revenue import Earned
from dashboard.waterfall import LEVELS, link_of, waterfall

INVOICES: Final = "admin:billing_invoice_changelist"
# A bar by tenants: what it is of each, in millionths and microseconds, and where the tenant's rows are.
BY_TENANT: Final[dict[str, tuple[Callable[[Earned], int], str, str]]] = {
    "earned": (lambda part: part.metered, "admin:jobs_allocation_changelist", ""),
    "not_billed": (lambda part: part.metered - part.billed, "admin:tenants_tenant_change", ""),
    "billed": (lambda part: part.billed, INVOICES, ""),
    "not_paid": (lambda part: part.billed - part.collected, INVOICES, "&status__in=open,uncollectible"),
    "collected": (lambda part: part.collected, INVOICES, "&status__exact=paid"),
}
CHANGE: Final = (
    ("gpu_id", "admin:clusters_gpu_change"),
    ("invoice_id", "admin:billing_invoice_change"),
    ("job_id", "admin:jobs_job_change"),
    ("rate_id", "admin:billing_rate_change"),
    ("tenant_id", "admin:tenants_tenant_change"),
)


def rows_page(request: HttpRequest, key: str) -> HttpResponse:
    """What the bar is, and its rows, which the page fetches; or with ``?export=`` the rows as a file."""
    asked = asked_in(request)
    title, said, advice = _words(key)
    if "export" in request.GET:
        table, at = _rows(asked, key)
        return file_of(asked, [table], at, request.GET.get("as", "csv"))
    shown = {"asked": asked, "key": key, "said": said, "advice": advice, "now": _list_of(key)}
    context = {**admin.site.each_context(request), "title": f"{title}, {asked.currency}", **shown}
    return TemplateResponse(request, "dashboard/rows.html", context)


def rows_part(request: HttpRequest, key: str) -> HttpResponse:
    """The rows, as a fragment."""
    asked = asked_in(request)
    _words(key)
    table, at = _rows(asked, key)
    shown = {"asked": asked, "key": key, "table": table, "at": at, "start": at - timedelta(days=asked.days)}
    return TemplateResponse(request, "dashboard/rows_part.html", shown)


def _words(key: str) -> tuple[str, str, str]:
    if key in LEVELS:
        return (*LEVELS[key], "")
    if key not in set(Cause):
        raise Http404
    about = ABOUT[Cause(key)]
    return about.title, about.meaning, about.advice


def _list_of(key: str) -> str:
    """The list of the console that shows what is so now; a bar that is made of other bars has none."""
    return link_of(Cause(key)) if key in set(Cause) else ""


def _rows(asked: Asked, key: str) -> tuple[Table, datetime]:
    """Of the instant that the bars are of."""
    kept = asked.money()
    if key == "potential":
        return _potential(asked, kept.figures), kept.at
    if key in BY_TENANT:
        return _by_tenant(key, kept.figures), kept.at
    (loss,) = (loss for loss in kept.figures.lost.losses if loss.cause == key)
    return _of_cause(loss), kept.at


def _potential(asked: Asked, money: Money) -> Table:
    """The bars that stand below it."""
    steps = waterfall(money.lost, money.earned)
    top, rest = steps[0], [step for step in steps[1:] if step.key == "earned" or step.key in set(Cause)]
    links = [f"{reverse('admin:leakage_rows', args=[step.key])}?{asked.query}" for step in rest]
    rows: list[Sequence[Cell]] = [[step.name, step.amount] for step in rest]
    return _table("potential", ["Bar", "Amount"], rows, top.amount, links)


def _by_tenant(key: str, money: Money) -> Table:
    worth, page, query = BY_TENANT[key]
    parts = (
        (pk, amount_of(worth(part), money.earned.currency))
        for pk, part in money.earned.by_tenant.items()
        if pk is not None
    )
    shown = sorted((part for part in parts if part[1]), key=lambda part: -part[1])
    links = [
        reverse(page, args=[pk]) if page.endswith("_change") else f"{reverse(page)}?tenant__id__exact={pk}{query}"
        for pk, _ in shown
    ]
    rows: list[Sequence[Cell]] = [[money.earned.tenants.get(pk, ""), amount] for pk, amount in shown]
    bar = next((step.amount for step in waterfall(money.lost, money.earned) if step.key == key), Decimal(0))
    return _table(key, ["Tenant", "Amount"], rows, bar, links)


def _of_cause(loss: Loss) -> Table:
    rows: list[Sequence[Cell]] = [[row.label, hours_of(row.microseconds), row.amount] for row in loss.rows]
    links = [_page_of(row.about) for row in loss.rows]
    if more := loss.rows_total - len(loss.rows):
        rows.append([f"{more:,} more", hours_of(loss.other_microseconds), loss.other_amount])
        links.append("")
    headers = ["What", "GPU-hours", "Amount"]
    if not loss.microseconds:  # Invoices have no hours.
        headers, rows = ["What", "Amount"], [[row[0], row[-1]] for row in rows]
    return _table(
        loss.cause.value, headers, rows, loss.amount, links, *([hours_of(loss.microseconds)] * (len(headers) - 2))
    )


def _table(
    key: str, headers: Sequence[str], rows: Sequence[Sequence[Cell]], bar: Decimal, links: Sequence[str], *sums: Cell
) -> Table:
    """With a row for what rounding each row made, so that they add up to the bar."""
    title, said, _ = _words(key)
    rounding = bar - sum((row[-1] for row in rows if isinstance(row[-1], Decimal)), Decimal(0))
    if rounding:
        rows, links = [*rows, ["Rounding", *([""] * len(sums)), rounding]], [*links, ""]
    return Table(key, title, headers, rows, "Nothing.", ["Together", *sums, bar] if rows else (), said, links)


def _page_of(about: Behind) -> str:
    """Of the most particular thing that a row is about."""
    found = ((page, getattr(about, name)) for name, page in CHANGE)
    return next((reverse(page, args=[pk]) for page, pk in found if pk is not None), "")
