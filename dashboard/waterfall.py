"""From what the fleet could have earned to what was paid, as a waterfall whose steps are exact and add up."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from django.urls import reverse
from django.utils.safestring import SafeString

from dashboard import plots, queries
from dashboard.queries.causes import ABOUT, Cause, Nature
from dashboard.queries.prices import amount_of
from dashboard.queries.revenue import Earned


@dataclass(frozen=True, slots=True)
class Step:
    """A bar of the waterfall: a level that ``stands``, or what is taken off it. ``link`` leads to the console's list
    of such rows as it is now; ``key`` names the bar in the address of the page of the rows that it is made of."""

    key: str
    name: str
    amount: Decimal
    stands: bool
    link: str
    said: str
    bar: SafeString


@dataclass(frozen=True, slots=True)
class Part:
    """What is taken off, before it is drawn."""

    key: str
    name: str
    amount: Decimal
    link: str
    said: str


# The bars that are no cause of leakage: their names, and what they are.
LEVELS: Final = {
    "potential": ("Potential", "Sold at its price, unsold at list"),
    "earned": ("Earned", "Sold to tenants, at the prices that were locked in"),
    "not_billed": ("Not billed yet", "Drafts, and on no invoice"),
    "billed": ("Billed", "On finalised invoices, before minimums and rounding"),
    "not_paid": ("Not paid yet", "On open or uncollectible invoices"),
    "collected": ("Collected", "On paid invoices"),
}


def waterfall(lost: queries.Leakage, earned: queries.Revenue) -> list[Step]:
    """From what the fleet could have earned to what was paid; each step is exact, and they add up."""
    currency, total = lost.currency, earned.total
    of_tenants = amount_of(total.metered - earned.by_tenant.get(None, Earned()).metered, currency)
    billed, paid = amount_of(total.billed, currency), amount_of(total.collected, currency)
    losses = [
        Part(loss.cause.value, ABOUT[loss.cause].title, loss.amount, link_of(loss.cause), ABOUT[loss.cause].meaning)
        for loss in sorted(lost.losses, key=lambda loss: list(Cause).index(loss.cause))
        if ABOUT[loss.cause].nature is Nature.LOST and loss.amount
    ]
    invoices, jobs = reverse("admin:billing_invoice_changelist"), reverse("admin:jobs_allocation_changelist")
    potential = of_tenants + sum((part.amount for part in losses), Decimal(0))
    drafts, unpaid = f"{invoices}?status__exact=draft", f"{invoices}?status__exact=open"
    levels: list[tuple[Part, list[Part]]] = [
        (_bar("potential", potential, reverse("admin:clusters_gpu_changelist")), losses),
        (_bar("earned", of_tenants, jobs), [_bar("not_billed", of_tenants - billed, drafts)]),
        (_bar("billed", billed, invoices), [_bar("not_paid", billed - paid, unpaid)]),
        (_bar("collected", paid, f"{invoices}?status__exact=paid"), []),
    ]
    return list(_steps(levels, potential))


def _bar(key: str, amount: Decimal, link: str) -> Part:
    name, said = LEVELS[key]
    return Part(key, name, amount, link, said)


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
        part.key,
        part.name,
        part.amount,
        stands,
        part.link,
        part.said,
        plots.stack(pieces, f"{part.name}: {part.amount:,}"),
    )


def link_of(cause: Cause) -> str:
    """Where the console lists the rows behind a cause."""
    about = ABOUT[cause]
    return reverse(about.page) + (f"?{about.query}" if about.query else "")
