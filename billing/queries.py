"""Reads of rates, invoices and what is billed."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import repeat
from typing import Any, TypeVar, cast

from django.conf import settings
from django.db import connection
from django.db.models import DecimalField, Max, Prefetch, Q, QuerySet, Sum, Value
from django.db.models.functions import Coalesce, Upper

from billing.ledger import UsedPiece, job_lines, used_pieces
from billing.models import (
    BilledRange,
    CreditNote,
    CreditNoteStatus,
    Invoice,
    InvoiceStatus,
    NoteKind,
    OutboxMessage,
    OutboxStatus,
    Rate,
    ServiceLevel,
)
from billing.pricing import MICROSECONDS, Stretch, Terms, price
from gpufleet.common.currencies import minor_unit
from gpufleet.common.errors import NotFound
from jobs import ledger
from jobs.ledger import By, Scope
from jobs.queries import Cost, count_jobs
from tenants.callers import Caller, visible_to
from tenants.models import Tenant
from tenants.queries import get_tenant

# What GPU time without a tenant is priced in; the currency of the demo's list prices and of new tenants.
DEFAULT_CURRENCY = "USD"

Key = TypeVar("Key", str, date)

# A tenant (or nobody) and a GPU model, exactly as the GPU's row has it.
RateKey = tuple[int | None, str]


@dataclass(frozen=True, slots=True)
class RateInForce:
    """The rate that applies to a tenant and a GPU model at an instant."""

    rate_id: int
    terms: Terms

    @property
    def price_per_gpu_hour(self) -> Decimal:
        """In ``currency``, with up to six decimals."""
        return self.terms.price_per_gpu_hour

    @property
    def currency(self) -> str:
        """ISO 4217."""
        return self.terms.currency


RATES_IN_FORCE = """
    SELECT wanted.tenant_id, wanted.gpu_model,
           best.id, best.price_per_gpu_hour, best.currency, best.minimum_seconds, best.increment_seconds
      FROM unnest(%(tenants)s::bigint[], %(models)s::text[]) AS wanted (tenant_id, gpu_model)
      LEFT JOIN tenants_tenant AS tenant ON tenant.id = wanted.tenant_id
     CROSS JOIN LATERAL (
           SELECT rate.*
             FROM billing_rate AS rate
            WHERE rate.gpu_model = wanted.gpu_model
              AND rate.valid_from <= %(now)s
              AND rate.currency = coalesce(tenant.currency, %(currency)s)
              AND (rate.tenant_id = wanted.tenant_id
                   OR rate.tenant_id IS NULL AND rate.plan_tier IN ('', coalesce(tenant.plan_tier, '')))
            ORDER BY rate.tenant_id IS NULL, rate.plan_tier = '',
                     rate.valid_from DESC, rate.recorded_at DESC, rate.id DESC
            LIMIT 1
           ) AS best
"""


def rates_in_force(keys: Collection[RateKey], *, now: datetime) -> dict[RateKey, RateInForce]:
    """The rate of each (tenant, GPU model) at ``now``, in one query; a key without a price is left out.

    The tenant's own rate wins over its plan's, and that over the list price; then the latest ``valid_from``, then
    the one recorded last. Only rates in the tenant's currency count, and GPU models match exactly.
    """
    wanted = sorted(set(keys), key=lambda key: (key[0] or 0, key[1]))
    parameters: dict[str, Any] = {
        "tenants": [tenant_id for tenant_id, _ in wanted],
        "models": [model for _, model in wanted],
        "now": now,
        "currency": DEFAULT_CURRENCY,
    }
    with connection.cursor() as cursor:
        cursor.execute(RATES_IN_FORCE, parameters)
        rows = cursor.fetchall()
    return {(tenant_id, model): RateInForce(rate_id, Terms(*terms)) for tenant_id, model, rate_id, *terms in rows}


def minor_unit_of(currency: str) -> Decimal:
    """The smallest amount of a currency: 0.01 USD, 1 JPY. Raises ``KeyError`` for an unknown code."""
    return minor_unit(currency)


def list_price_changes() -> list[datetime]:
    """The instants from which a list price is in force: the answer to ``jobs.price_changes``."""
    rates = Rate.objects.filter(tenant__isnull=True, plan_tier="").order_by("valid_from")
    return list(rates.values_list("valid_from", flat=True).distinct())


def first_list_price(gpu_model: str) -> datetime | None:
    """Since when a model has had a list price in ``DEFAULT_CURRENCY``; None: it never had one."""
    rates = Rate.objects.filter(tenant__isnull=True, plan_tier="", currency=DEFAULT_CURRENCY, gpu_model=gpu_model)
    return rates.order_by("valid_from").values_list("valid_from", flat=True).first()


def billed_until(allocation_ids: Collection[int]) -> dict[int, datetime]:
    """The end of each allocation's last billed range, on a void invoice too, since its proof names the time: the
    answer to ``jobs.billed_until``."""
    ranges = BilledRange.objects.filter(allocation_id__in=allocation_ids).order_by()
    return dict(ranges.values_list("allocation_id").annotate(until=Max(Upper("during"))))


def job_costs(job_ids: Collection[int], *, now: datetime) -> dict[int, Cost]:
    """What each job has cost up to ``now``, by the function that will price its invoice, in one query.

    A job that held nothing with a price is left out. Each rate is rounded as an invoice's line of this job alone.
    """
    costs: dict[int, Cost] = {}
    for line in job_lines(job_ids=job_ids, now=now):
        before = costs.get(line.owner_id, Cost(Decimal(0), line.terms.currency))
        costs[line.owner_id] = Cost(before.amount + line.price.amount, line.terms.currency)
    return costs


def quotes(keys: Collection[RateKey], *, gpus: int, seconds: int, now: datetime) -> dict[RateKey, Cost]:
    """What so many GPUs would cost for so long, from ``now`` on, as one line of one invoice; a key without a price is
    left out. One query."""
    stretch = Stretch(now, now, now + timedelta(seconds=seconds))
    return {
        key: Cost(price(repeat(stretch, gpus), rate.terms).amount, rate.currency)
        for key, rate in rates_in_force(keys, now=now).items()
    }


def list_rates(caller: Caller) -> QuerySet[Rate]:
    """The rates the caller may know of: all; or the list prices, those of its tenant's plan, and its tenant's own."""
    return Rate.objects.filter(_concerns(caller))


def list_service_levels(caller: Caller) -> QuerySet[ServiceLevel]:
    """The service-level rules the caller may know of: all; or everybody's, its plan's, and its tenant's own."""
    return ServiceLevel.objects.filter(_concerns(caller))


def _concerns(caller: Caller) -> Q:
    if caller.tenant_id is None:
        return Q()
    plan = Tenant.objects.filter(pk=caller.tenant_id).values("plan_tier")
    general = Q(tenant__isnull=True) & (Q(plan_tier="") | Q(plan_tier__in=plan))
    return general | Q(tenant_id=caller.tenant_id)


def list_credit_notes(caller: Caller) -> QuerySet[CreditNote]:
    """The notes the caller may know of: all, or those that were issued on its tenant's invoices."""
    notes = visible_to(CreditNote.objects.all(), caller, field="invoice__tenant_id")
    return notes if caller.tenant_id is None else notes.filter(status=CreditNoteStatus.ISSUED)


def get_credit_note(credit_note_id: int, caller: Caller) -> CreditNote:
    """One note with its invoice. Raises ``NotFound`` when there is none that the caller may know of."""
    note = list_credit_notes(caller).select_related("invoice").filter(pk=credit_note_id).first()
    if note is None:
        raise NotFound
    return note


@dataclass(frozen=True, slots=True)
class InvoiceReport:
    """An invoice, and what issued notes took off it and put on it; ``owed``: its debit notes that are not settled."""

    invoice: Invoice
    credited: Decimal
    debited: Decimal = Decimal(0)
    owed: Decimal = Decimal(0)
    sending: str = "not_sent"

    @property
    def balance(self) -> Decimal:
        """What the invoice comes to with its notes."""
        return self.invoice.total + self.debited - self.credited

    @property
    def amount_due(self) -> Decimal:
        """What is still to be paid: an open invoice without what was credited, and debit notes that are not settled."""
        if self.invoice.status == InvoiceStatus.OPEN:
            return self.invoice.total - self.credited + self.owed
        return self.owed if self.invoice.status == InvoiceStatus.PAID else Decimal(0)


def list_invoices(caller: Caller) -> QuerySet[Invoice]:
    """The invoices the caller may know of: all, or its tenant's."""
    return visible_to(Invoice.objects.all(), caller)


def describe_invoices(invoices: Iterable[Invoice]) -> list[InvoiceReport]:
    """The invoices with what notes did to each and whether it was sent, in the same order; two queries for all."""
    rows = list(invoices)
    sending = sending_of([invoice.pk for invoice in rows])
    notes = CreditNote.objects.filter(invoice__in=rows).order_by().values_list("invoice_id")
    sums = {pk: (credited, debited, owed) for pk, credited, debited, owed in notes.annotate(**note_sums())}
    nothing = (Decimal(0), Decimal(0), Decimal(0))
    return [InvoiceReport(invoice, *sums.get(invoice.pk, nothing), sending=sending[invoice.pk]) for invoice in rows]


def note_sums(prefix: str = "") -> dict[str, Any]:
    """Issued credit notes, issued debit notes, and those of them that are not settled."""
    return {
        "credited": sum_of_issued(prefix, kind=NoteKind.CREDIT),
        "debited": sum_of_issued(prefix, kind=NoteKind.DEBIT),
        "owed": sum_of_issued(prefix, kind=NoteKind.DEBIT, settled_at=None),
    }


def sum_of_issued(prefix: str, **conditions: Any) -> Any:
    """The aggregate of issued notes' amounts with these values; ``prefix`` is the path to them, such as ``notes__``."""
    wanted = {f"{prefix}{name}": value for name, value in {"status": CreditNoteStatus.ISSUED, **conditions}.items()}
    nothing = Value(Decimal(0), DecimalField(max_digits=18, decimal_places=3))
    return Coalesce(Sum(f"{prefix}amount", filter=Q(**wanted)), nothing)


def sending_of(invoice_ids: Collection[int]) -> dict[int, str]:
    """How far each invoice is on its way through Stripe; one query.

    ``not_sent``: Stripe never heard of it. ``failed``: a step is a dead letter. ``on_its_way``, or ``sent``: Stripe
    knows all that it must hear.
    """
    rows = OutboxMessage.objects.filter(invoice__in=invoice_ids).order_by().values_list("invoice_id", "status")
    statuses: dict[int, set[str]] = {invoice_id: set() for invoice_id in invoice_ids}
    for invoice_id, status in rows.distinct():
        statuses[invoice_id].add(status)
    return {invoice_id: _sending(found) for invoice_id, found in statuses.items()}


def _sending(statuses: set[str]) -> str:
    if OutboxStatus.DEAD in statuses:
        return "failed"
    if OutboxStatus.PENDING in statuses:
        return "on_its_way"
    return "sent" if statuses else "not_sent"


def get_invoice(invoice_id: int, caller: Caller) -> Invoice:
    """One invoice, with those of its notes that the caller may know of. Raises ``NotFound`` when there is none."""
    notes = Prefetch("credit_notes", list_credit_notes(caller))
    invoice = list_invoices(caller).prefetch_related(notes).filter(pk=invoice_id).first()
    if invoice is None:
        raise NotFound
    return invoice


def number_of(invoice: Invoice) -> str:
    """The number of a finalised invoice as it stands on paper and at Stripe."""
    kept: str = invoice.particulars.get("number", "")
    return kept or f"{settings.INVOICE_NUMBER_PREFIX}{invoice.number}"


def particulars_of(tenant: Tenant) -> dict[str, Any]:
    """Seller, buyer and tax by the settings and the tenant of now; an invoice keeps them when it is finalised."""
    return {
        "seller": {
            "name": settings.COMPANY_NAME,
            "address": settings.COMPANY_ADDRESS,
            "email": settings.COMPANY_EMAIL,
            "tax_id": settings.COMPANY_TAX_ID,
            "payment": settings.COMPANY_PAYMENT,
        },
        "buyer": {
            "name": tenant.name,
            "address": tenant.billing_address,
            "email": tenant.contact_email,
            "tax_id": tenant.tax_id,
        },
        "tax": {"label": settings.TAX_LABEL, "percent": settings.TAX_PERCENT, "note": settings.TAX_NOTE},
    }


@dataclass(frozen=True, slots=True)
class Used:
    """What a tenant held, in GPU-seconds, and what that costs; time without a price costs nothing."""

    gpu_seconds: Decimal
    cost: Decimal


@dataclass(frozen=True, slots=True)
class Usage:
    """A tenant's use in a window, in its currency. The total is the sum of the models, each rounded once as a line of
    an invoice is; the days are rounded by themselves, so that their sum may differ by a minor unit a day."""

    tenant: Tenant
    start: datetime
    end: datetime
    total: Used
    by_day: dict[date, Used]
    by_model: dict[str, Used]
    jobs: dict[str, int]


def usage_of(tenant_id: int, caller: Caller, *, start: datetime, end: datetime) -> Usage:
    """What a tenant used in ``[start, end)``. Raises ``NotFound`` when the caller may not know of it."""
    tenant = get_tenant(tenant_id, of_tenant=caller.tenant_id)
    pieces = used_pieces(tenant_id=tenant_id, start=start, end=end)
    sold = ledger.sales(Scope(start, end), [By.DAY, By.MODEL], tenants=[tenant_id])
    by_model = _used([(str(row.group.model), row.held) for row in sold], pieces, lambda piece: piece.gpu_model)
    by_day = _used([(cast("date", row.group.day), row.held) for row in sold], pieces, lambda piece: piece.day)
    total = Used(
        sum((used.gpu_seconds for used in by_model.values()), Decimal(0)),
        sum((used.cost for used in by_model.values()), Decimal(0)),
    )
    jobs = count_jobs(tenant_id, start=start, end=end)
    return Usage(tenant, start, end, total, by_day, by_model, jobs)


def _used(
    held: Iterable[tuple[Key, int]], pieces: Iterable[UsedPiece], key_of: Callable[[UsedPiece], Key]
) -> dict[Key, Used]:
    """By key, in its order: the ledger's microseconds, and their cost, each of the terms as a line of its own."""
    microseconds: dict[Key, int] = {}
    for key, more in held:
        microseconds[key] = microseconds.get(key, 0) + more
    stretches: dict[Key, dict[Terms, list[Stretch]]] = {}
    for piece in pieces:
        stretches.setdefault(key_of(piece), {}).setdefault(piece.terms, []).append(piece.stretch)
    return {
        key: Used(Decimal(microseconds[key]) / MICROSECONDS, _cost(stretches.get(key, {})))
        for key in sorted(microseconds)
    }


def _cost(stretches: Mapping[Terms, Iterable[Stretch]]) -> Decimal:
    return sum((price(group, terms).amount for terms, group in stretches.items()), Decimal(0))
