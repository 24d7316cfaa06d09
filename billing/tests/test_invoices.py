"""Drafts of exactly the unbilled seconds, and the life of an invoice."""

from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from django.db import IntegrityError, connection, transaction
from django.db.backends.postgresql.psycopg_any import DateTimeTZRange

from billing import ledger, proofs, queries, services
from billing.models import BilledRange, Invoice, InvoiceLine
from billing.services import IllegalInvoiceMove, NothingToBill
from billing.tests.factories import LONG_AGO, NOW, hours, make_rate, sell
from gpufleet.common.errors import NotFound
from jobs.models import Allocation
from jobs.queries import Cost
from tenants.models import Tenant
from tenants.tests.factories import alice, bob

pytestmark = pytest.mark.django_db
MONTH = timedelta(days=30)
SECOND = timedelta(seconds=1)


def bill(tenant: Tenant, *, now: datetime = NOW, days: float = 30) -> Invoice:
    start = now - timedelta(days=days)
    return services.create_invoice(tenant_id=tenant.pk, start=start, end=now, created_by="test", now=now)


def move(invoice: Invoice, to: str, now: datetime = NOW) -> Invoice:
    return services.move_invoice(invoice_id=invoice.pk, to=to, actor="test", now=now)


def ranges(allocation: Allocation) -> list[tuple[datetime, datetime]]:
    rows = BilledRange.objects.filter(allocation=allocation, released_at__isnull=True).order_by("during")
    return [(row.during.lower, row.during.upper) for row in rows]


def test_a_draft_has_a_line_for_each_model_and_rate_and_its_total_is_their_sum() -> None:
    acme = alice()
    old, new, other = make_rate(price="2.00"), make_rate(price="3.00"), make_rate("A100", "1.00")
    sell(acme, hours(5), hours(3), rate=old)
    sell(acme, hours(4), hours(2), rate=old)
    sell(acme, hours(2), hours(1), rate=new)
    sell(acme, hours(1), hours(0.5), rate=other)
    invoice = bill(acme)
    lines = [(row.gpu_model, row.rate_id, row.billed_seconds, row.amount) for row in invoice.lines.all()]
    assert lines == [
        ("A100", other.pk, 1800, Decimal("0.5")),
        ("H100", old.pk, 14_400, Decimal("8")),
        ("H100", new.pk, 3600, Decimal("3")),
    ]
    assert invoice.total == Decimal("11.5")
    old_line = invoice.lines.get(rate=old)
    assert (old_line.period.lower, old_line.period.upper) == (hours(5), hours(2))


def test_only_the_tenants_seconds_within_the_window_are_billed() -> None:
    acme, rate = alice(), make_rate()
    clipped = sell(acme, NOW - timedelta(days=8), hours(167), rate=rate)
    sell(acme, NOW - timedelta(days=20), NOW - timedelta(days=10), rate=rate)
    sell(bob(), hours(3), hours(2), rate=rate)
    sell(None, hours(3), hours(2), rate=rate)
    sell(acme, hours(3), hours(2), rate=None)
    bill(acme, days=7)
    assert ranges(clipped) == [(NOW - timedelta(days=7), hours(167))]
    assert BilledRange.objects.count() == 1


def test_nothing_to_bill_and_an_unknown_tenant_are_refused() -> None:
    acme = alice()
    sell(acme, hours(3), hours(2), rate=None)
    with pytest.raises(NothingToBill):
        bill(acme)
    with pytest.raises(NotFound):
        bill(Tenant(pk=10**9))
    sell(acme, hours(3), hours(2), rate=make_rate())
    bill(acme)
    with pytest.raises(NothingToBill):
        bill(acme)
    assert Invoice.objects.count() == 1


def test_what_still_runs_goes_on_with_the_next_invoice_without_gap_or_overlap() -> None:
    acme = alice()
    rate = make_rate(price="3.60", minimum_seconds=7200, increment_seconds=3600)
    allocation = sell(acme, hours(1.5), rate=rate)
    first = bill(acme)
    later = NOW + timedelta(hours=1, seconds=1)
    Allocation.objects.filter(pk=allocation.pk).update(during=DateTimeTZRange(hours(1.5), later))
    second = bill(acme, now=later + timedelta(hours=1))
    assert ranges(allocation) == [(hours(1.5), NOW), (NOW, later)]
    # 2.5 h and a second bill 3 h: the minimum of 2 h first, and what an increment has begun since.
    assert [first.lines.get().billed_seconds, second.lines.get().billed_seconds] == [7200, 3600]


def test_a_second_press_a_moment_later_makes_no_draft_of_that_moment() -> None:
    acme = alice()
    allocation = sell(acme, hours(1), rate=make_rate())
    bill(acme)
    with pytest.raises(NothingToBill):
        bill(acme, now=NOW + 4 * SECOND)
    bill(acme, now=NOW + 6 * SECOND)
    assert ranges(allocation) == [(hours(1), NOW), (NOW, NOW + 6 * SECOND)]


def test_time_that_has_not_come_is_not_billed() -> None:
    acme = alice()
    allocation = sell(acme, hours(1), rate=make_rate())
    services.create_invoice(tenant_id=acme.pk, start=hours(2), end=NOW + MONTH, created_by="test", now=NOW)
    assert ranges(allocation) == [(hours(1), NOW)]


def test_a_short_window_after_a_longer_one_bills_the_rest_on_both_sides() -> None:
    acme = alice()
    allocation = sell(acme, hours(48), hours(1), rate=make_rate())
    services.create_invoice(tenant_id=acme.pk, start=hours(24), end=hours(12), created_by="test", now=NOW)
    rest = bill(acme)
    assert ranges(allocation) == [(hours(48), hours(24)), (hours(24), hours(12)), (hours(12), hours(1))]
    assert rest.lines.get().held_seconds == 35 * 3600


def test_the_preview_equals_the_invoice() -> None:
    acme = alice()
    sell(acme, hours(30), rate=make_rate(price="0.777777", minimum_seconds=50, increment_seconds=7))
    sell(acme, hours(3), hours(2.01), rate=make_rate("L4", "0.010001"))
    preview = ledger.unbilled_lines(start=NOW - MONTH, end=NOW, tenant_ids=[acme.pk])
    lines = bill(acme).lines.all()
    assert [line.price.amount for line in preview] == [line.amount for line in lines]
    assert [line.price.billed_seconds for line in preview] == [line.billed_seconds for line in lines]


def test_an_invoice_is_in_one_currency_and_the_rest_makes_the_next_one() -> None:
    acme = alice()
    sell(acme, hours(3), hours(2), rate=make_rate())
    Tenant.objects.update(currency="JPY")
    sell(acme, hours(2), hours(1), rate=make_rate(price="300.50", currency="JPY"))
    first, second = bill(acme), bill(acme)
    assert (first.currency, first.total) == ("JPY", Decimal(300))
    assert (second.currency, second.total) == ("USD", Decimal(2))


def test_finalising_numbers_without_a_gap_and_records_the_proof() -> None:
    acme, rate = alice(), make_rate()
    numbers = []
    for hour in range(4):
        sell(acme, hours(9 - hour), hours(8.5 - hour), rate=rate)
        invoice = bill(acme)
        invoice = move(invoice, "void" if hour == 1 else "open")
        numbers.append(invoice.number)
    assert numbers == [1, None, 2, 3]
    assert proofs.proof_of(invoice).matches
    assert (invoice.finalised_at, invoice.due_at) == (NOW, NOW + MONTH)


def test_the_proof_notices_a_ledger_that_was_changed() -> None:
    acme = alice()
    allocation = sell(acme, hours(3), hours(2), rate=make_rate())
    invoice = move(bill(acme), "open")
    Allocation.objects.filter(pk=allocation.pk).update(during=DateTimeTZRange(hours(3.5), hours(2)))
    assert proofs.proof_of(invoice).matches is True  # The billed seconds and their price are the same …
    Allocation.objects.filter(pk=allocation.pk).update(gpu_id=sell(acme, hours(1), rate=None).gpu_id)
    assert proofs.proof_of(invoice).matches is False  # … on another GPU they are not.


def test_voiding_releases_the_seconds_and_keeps_what_the_invoice_said() -> None:
    acme = alice()
    allocation = sell(acme, hours(3), hours(2), rate=make_rate())
    void = move(move(bill(acme), "open"), "void", NOW + SECOND)
    again = bill(acme)
    assert ranges(allocation) == [(hours(3), hours(2))]
    assert void.lines.get().billed_ranges.get().released_at == NOW + SECOND
    assert again.total == void.total
    assert proofs.proof_of(void).matches


@pytest.mark.parametrize(
    ("path", "to", "legal"),
    [
        ([], "paid", ["open", "void"]),
        ([], "uncollectible", ["open", "void"]),
        (["open"], "open", ["paid", "void", "uncollectible"]),
        (["open", "paid"], "void", []),
        (["open", "void"], "open", []),
        (["void"], "open", []),
        (["open", "uncollectible"], "open", ["paid", "void"]),
    ],
)
def test_illegal_moves_are_refused_with_the_legal_ones(path: list[str], to: str, legal: list[str]) -> None:
    acme = alice()
    sell(acme, hours(3), hours(2), rate=make_rate())
    invoice = bill(acme)
    for step in path:
        invoice = move(invoice, step)
    with pytest.raises(IllegalInvoiceMove) as refused:
        move(invoice, to)
    assert refused.value.data == {"current": invoice.status, "legal": legal}
    assert Invoice.objects.get().status == invoice.status


def test_what_was_given_up_may_still_be_paid() -> None:
    acme = alice()
    sell(acme, hours(3), hours(2), rate=make_rate())
    assert move(move(move(bill(acme), "open"), "uncollectible"), "paid").settled_at == NOW


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE billing_invoice SET total = total + 1",
        "UPDATE billing_invoice SET number = 7",
        "UPDATE billing_invoice SET status = 'draft', number = NULL, finalised_at = NULL, proof_sha256 = ''",
        "UPDATE billing_invoice SET tenant_id = (SELECT max(id) FROM tenants_tenant)",
        "DELETE FROM billing_invoice",
        "UPDATE billing_invoiceline SET amount = 0",
        "DELETE FROM billing_invoiceline",
        "UPDATE billing_billedrange SET released_at = now()",
        "UPDATE billing_billedrange SET during = tstzrange(lower(during), upper(during) + interval '1 second')",
        "DELETE FROM billing_billedrange",
        "UPDATE billing_invoiceevent SET actor = 'somebody else'",
        "DELETE FROM billing_invoiceevent",
        "INSERT INTO billing_invoiceline (invoice_id, gpu_model, rate_id, price_per_gpu_hour, period, held_seconds,"
        " billed_seconds, amount) SELECT invoice_id, 'x', rate_id, 1, period, 1, 1, 0 FROM billing_invoiceline",
    ],
)
def test_the_database_freezes_a_finalised_invoice(change: str) -> None:
    acme = alice()
    bob()
    sell(acme, hours(3), hours(2), rate=make_rate())
    move(bill(acme), "open")
    refusal = pytest.raises(IntegrityError, match=r"never change|never deleted|does not go")
    with refusal, transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(change)


def test_the_database_refuses_to_finalise_a_total_that_is_not_the_sum_of_the_lines() -> None:
    acme = alice()
    sell(acme, hours(3), hours(2), rate=make_rate())
    invoice = bill(acme)
    InvoiceLine.objects.update(amount=Decimal("1.99"))
    with pytest.raises(IntegrityError, match="the lines say"):
        move(invoice, "open")


def test_the_database_refuses_a_second_billing_of_a_second() -> None:
    acme = alice()
    allocation = sell(acme, hours(3), hours(2), rate=make_rate())
    line = bill(acme).lines.get()
    with pytest.raises(IntegrityError, match="second_billed_once"):
        BilledRange.objects.create(
            line=line, allocation=allocation, during=DateTimeTZRange(hours(2) - SECOND, hours(1))
        )


def test_a_running_jobs_cost_is_what_its_invoice_will_say() -> None:
    acme = alice()
    rate = make_rate(price="3.333333", minimum_seconds=60, increment_seconds=60)
    allocation = sell(acme, hours(1.234), rate=rate)
    costs = queries.job_costs([allocation.job_id, 10**9], now=NOW)
    invoice = bill(acme)
    assert costs == {allocation.job_id: Cost(invoice.total, "USD")}
    assert queries.job_costs([allocation.job_id], now=LONG_AGO) == {}
