"""Random histories, billed in random steps, against an oracle that counts second by second and shares no code."""

from collections import Counter
from contextlib import suppress
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing import services
from billing.models import BilledRange, Invoice, Rate
from billing.services import NothingToBill
from billing.tests.factories import NOW, make_rate, sell
from tenants.models import Tenant
from tenants.tests.factories import alice

HORIZON = 240  # seconds of history, all before noon
ORIGIN = NOW - timedelta(seconds=HORIZON)

held = st.tuples(st.integers(0, HORIZON - 1), st.integers(1, HORIZON), st.integers(0, 2)).map(
    lambda spec: (spec[0], min(HORIZON, spec[0] + spec[1]), spec[2])
)
steps = st.lists(st.tuples(st.integers(0, HORIZON), st.integers(1, HORIZON), st.booleans()), max_size=5)


class Undo(Exception):
    """Ends an example's transaction."""


def moment(second: int) -> datetime:
    return ORIGIN + timedelta(seconds=second)


@pytest.mark.django_db(transaction=True)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=st.lists(held, min_size=1, max_size=5), windows=steps)
def test_every_sold_second_is_billed_exactly_once(
    history: list[tuple[int, int, int]], windows: list[tuple[int, int, bool]]
) -> None:
    with suppress(Undo), transaction.atomic():
        _check(history, windows)
        raise Undo


def _check(history: list[tuple[int, int, int]], windows: list[tuple[int, int, bool]]) -> None:
    acme = alice()
    rates = [
        make_rate(price="3600.00"),
        make_rate(price="1799.37", minimum_seconds=45, increment_seconds=10),
        make_rate("L4", "0.333333", increment_seconds=60),
    ]
    sold = [sell(acme, moment(start), moment(end), rate=rates[kind]) for start, end, kind in history]
    for start, length, voided in windows:
        invoice = _bill(acme, start, start + length)
        if invoice is not None and voided:
            services.move_invoice(invoice_id=invoice.pk, to="void", actor="test", now=NOW)
    _bill(acme, 0, HORIZON)
    _assert_each_second_once(history, {row.pk: index for index, row in enumerate(sold)})
    _assert_the_money(history, rates)


def _bill(tenant: Tenant, start: int, end: int) -> Invoice | None:
    try:
        return services.create_invoice(
            tenant_id=tenant.pk,
            start=ORIGIN + timedelta(seconds=start),
            end=ORIGIN + timedelta(seconds=end),
            created_by="test",
            now=NOW + timedelta(minutes=1),
        )
    except NothingToBill:
        return None


def _assert_each_second_once(history: list[tuple[int, int, int]], places: dict[int, int]) -> None:
    billed: Counter[tuple[int, int]] = Counter()
    for row in BilledRange.objects.filter(released_at__isnull=True):
        first = int((row.during.lower - ORIGIN).total_seconds())
        last = int((row.during.upper - ORIGIN).total_seconds())
        billed.update((places[row.allocation_id], second) for second in range(first, last))
    expected = {(index, second) for index, (start, end, _) in enumerate(history) for second in range(start, end)}
    assert billed == dict.fromkeys(expected, 1)


def _assert_the_money(history: list[tuple[int, int, int]], rates: list[Rate]) -> None:
    invoices = Invoice.objects.exclude(status="void")
    for invoice in invoices:
        amounts = [line.amount for line in invoice.lines.all()]
        assert invoice.total == sum(amounts, Decimal(0))
    lines = [line for invoice in invoices for line in invoice.lines.all()]
    for kind, rate in enumerate(rates):
        seconds = sum(_paid_seconds(end - start, rate) for start, end, which in history if which == kind)
        mine = [line for line in lines if line.rate_id == rate.pk]
        assert sum(line.billed_seconds for line in mine) == seconds
        exact = Fraction(rate.price_per_gpu_hour) * seconds / 3600
        # Each line is rounded once, by half a cent at most.
        assert abs(sum(Fraction(line.amount) for line in mine) - exact) <= Fraction(len(mine), 200)


def _paid_seconds(length: int, rate: Rate) -> int:
    """By counting up, second by second."""
    paid = 0
    while paid < length or paid < rate.minimum_seconds or paid % rate.increment_seconds:
        paid += 1
    return paid


@pytest.mark.django_db(transaction=True)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=st.lists(held, min_size=1, max_size=5), windows=steps)
def test_a_preview_says_what_the_invoice_then_says(
    history: list[tuple[int, int, int]], windows: list[tuple[int, int, bool]]
) -> None:
    with suppress(Undo), transaction.atomic():
        acme = alice()
        rates = [make_rate(price="1.37", increment_seconds=7), make_rate(price="3.99"), make_rate("L4", "0.3333")]
        for start, end, kind in history:
            sell(acme, moment(start), moment(end), rate=rates[kind])
        for start, length, _ in windows:
            _preview_then_bill(acme, moment(start), moment(start + length))
        raise Undo


def _preview_then_bill(tenant: Tenant, start: datetime, end: datetime) -> None:
    now = NOW + timedelta(minutes=1)
    try:
        preview = services.preview_invoice(tenant, start=start, end=end, now=now)
    except NothingToBill:
        with pytest.raises(NothingToBill), transaction.atomic():
            services.create_invoice(tenant_id=tenant.pk, start=start, end=end, created_by="test", now=now)
        return
    invoice = services.create_invoice(tenant_id=tenant.pk, start=start, end=end, created_by="test", now=now)
    said = [
        (line.gpu_model, line.rate_id, line.period, line.price.billed_seconds, line.price.amount)
        for line in preview.lines
    ]
    assert said == [
        (line.gpu_model, line.rate_id, (line.period.lower, line.period.upper), line.billed_seconds, line.amount)
        for line in invoice.lines.all()
    ]
    assert (invoice.total, invoice.currency) == (preview.total, preview.currency)
