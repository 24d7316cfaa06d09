"""Corrections and service levels on real threads: what happens at once happens once."""

from datetime import timedelta
from decimal import Decimal
from functools import partial

import pytest

from billing import services
from billing.models import CreditNote, Invoice
from billing.tests.factories import LONG_AGO, NOW, hours, make_rate, sell
from billing.tests.test_concurrency import at_once
from billing.tests.test_service_levels import fail, make_rule
from tenants.tests.factories import alice

pytestmark = pytest.mark.django_db(transaction=True)


def finalise(pk: int) -> Invoice:
    return services.move_invoice(invoice_id=pk, to="open", actor="test", now=NOW)


def drafts(count: int) -> list[Invoice]:
    """So many drafts of one GPU-hour for 2.00 USD each."""
    acme, rate = alice(), make_rate()
    made = []
    for number in range(count):
        start = hours(2 * count - 2 * number)
        sell(acme, start, start + timedelta(hours=1), rate=rate)
        end = start + timedelta(hours=2)
        made.append(services.create_invoice(tenant_id=acme.pk, start=start, end=end, created_by="test", now=NOW))
    return made


def test_a_late_rate_and_finalising_at_once_never_miss_each_other() -> None:
    made = drafts(4)
    add = partial(make_rate, price="1.00", valid_from=LONG_AGO + timedelta(days=1), now=NOW)
    results = at_once([*(partial(finalise, draft.pk) for draft in made), add])
    assert [result for result in results if isinstance(result, Exception)] == []
    notes = CreditNote.objects.filter(status="draft").order_by("invoice_id")
    assert [(note.invoice_id, note.amount) for note in notes] == [(draft.pk, Decimal(1)) for draft in made]


def test_two_late_rates_at_once_leave_the_stronger_ones_draft() -> None:
    (made,) = drafts(1)
    finalise(made.pk)
    late = [
        partial(make_rate, price=price, valid_from=LONG_AGO + timedelta(days=day), now=NOW)
        for price, day in (("1.50", 1), ("1.25", 2), ("1.75", 3))
    ]
    at_once(late)
    note = CreditNote.objects.get(status="draft")
    assert note.amount == Decimal("0.25")


def test_two_sweeps_at_once_raise_one_note_a_fault() -> None:
    (made,) = drafts(1)
    finalise(made.pk)
    allocation = made.lines.get().billed_ranges.get().allocation
    make_rule()
    fail(allocation.gpu, hours(2), hours(1.5))
    raised = at_once([partial(services.raise_service_level_credits, now=NOW)] * 4)
    assert sorted(raised) == [0, 0, 0, 1]
    assert CreditNote.objects.get().amount == 1
