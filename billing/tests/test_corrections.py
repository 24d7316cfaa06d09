"""Rates that are recorded late: what they change on finalised invoices, once."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from billing import queries, services
from billing.models import CreditNote, Invoice, Rate
from billing.services import NothingToBill, correct_invoices, decline_credit_note, issue_credit_note
from billing.tests.factories import LONG_AGO, NOW, hours, make_rate, sell
from tenants.models import Tenant
from tenants.tests.factories import alice, bob

pytestmark = pytest.mark.django_db


def finalise(tenant: Tenant, start: datetime, end: datetime, now: datetime = NOW) -> Invoice:
    draft = services.create_invoice(tenant_id=tenant.pk, start=start, end=end, created_by="test", now=now)
    return services.move_invoice(invoice_id=draft.pk, to="open", actor="test", now=now)


def late(price: str, model: str = "H100", **fields: Any) -> Rate:
    """A rate that is recorded now and valid since the year began, after the first one."""
    return make_rate(model, price, **{"valid_from": LONG_AGO + timedelta(days=1), "now": NOW, **fields})


def drafts() -> list[tuple[str, Decimal]]:
    return [(note.kind, note.amount) for note in CreditNote.objects.filter(status="draft").order_by("invoice_id")]


def issue_all() -> None:
    for note in CreditNote.objects.filter(status="draft").order_by("pk"):
        issue_credit_note(credit_note_id=note.pk, actor="test", now=NOW)


def balance(invoice: Invoice) -> Decimal:
    invoice.refresh_from_db()
    return queries.describe_invoices([invoice])[0].balance


@pytest.fixture
def invoice() -> Invoice:
    """Two GPU-hours for 4.00 USD, finalised."""
    acme = alice()
    sell(acme, hours(3), hours(1), rate=make_rate())
    return finalise(acme, hours(9), NOW)


def test_too_much_is_a_credit_and_too_little_a_debit_and_the_invoice_stays(invoice: Invoice) -> None:
    cheaper = late("1.50")
    assert drafts() == [("credit", Decimal("1.00"))]
    issue_all()
    dearer = late("2.75", valid_from=LONG_AGO + timedelta(days=2))
    assert drafts() == [("debit", Decimal("2.50"))]
    issue_all()
    assert (balance(invoice), invoice.total) == (Decimal("5.50"), Decimal("4.00"))
    first, second = CreditNote.objects.order_by("pk")
    assert (first.rate_ids, second.rate_ids) == ([cheaper.pk], [dearer.pk])


def test_a_note_carries_its_evidence(invoice: Invoice) -> None:
    rate = late("1.50", minimum_seconds=7201)
    note = CreditNote.objects.get()
    (change,) = note.evidence["changes"]
    (billed,) = invoice.lines.all()
    assert change["billed"] | {"billed_seconds": 0} == {
        "rate_id": billed.rate_id, "price_per_gpu_hour": "2.000000", "minimum_seconds": 0, "increment_seconds": 1,
        "billed_seconds": 0,
    }  # fmt: skip
    assert change["due"] == {
        "rate_id": rate.pk, "price_per_gpu_hour": "1.500000", "minimum_seconds": 7201, "increment_seconds": 1,
        "billed_seconds": 7201,
    }  # fmt: skip
    assert (change["billed"]["billed_seconds"], change["held_seconds"]) == (7200, "7200")
    assert change["allocation_ids"] == list(billed.billed_ranges.values_list("allocation_id", flat=True))
    assert [line["amount"] for line in note.evidence["due_lines"]] == ["3.00"]
    assert (note.evidence["is"], note.evidence["should_be"], note.amount) == ("4.000", "3.00", Decimal("1.00"))
    assert (note.origin, note.created_by) == ("rate", "billing")
    assert "2.000000 to 1.500000 USD/GPU-hour" in note.reason


def test_the_same_correction_twice_pays_once(invoice: Invoice) -> None:
    rate = late("1.50")
    correct_invoices(rate_id=rate.pk, now=NOW)
    late("1.50")
    assert drafts() == [("credit", Decimal("1.00"))]
    issue_all()
    correct_invoices(rate_id=rate.pk, now=NOW)
    late("1.50")
    assert drafts() == []
    assert balance(invoice) == 3


def test_a_draft_that_is_overtaken_is_withdrawn_and_replaced(invoice: Invoice) -> None:
    late("1.50")
    late("1.00")
    assert drafts() == [("credit", Decimal("2.00"))]
    late("2.00")
    assert drafts() == []
    assert set(CreditNote.objects.values_list("status", "decided_by")) == {("withdrawn", "billing")}
    assert balance(invoice) == 4


def test_only_time_that_began_while_the_rate_was_valid_is_corrected() -> None:
    acme, rate = alice(), make_rate(price="1.00")
    sell(acme, hours(6), hours(4), rate=rate)
    sell(acme, hours(3), hours(1), rate=rate)
    invoice = finalise(acme, hours(9), NOW)
    late("0.50", valid_from=hours(4))
    assert drafts() == [("credit", Decimal("1.00"))]
    assert [line["billed_seconds"] for line in CreditNote.objects.get().evidence["due_lines"]] == [7200, 7200]
    assert invoice.total == 4


def test_a_weaker_rate_or_another_scope_corrects_nothing() -> None:
    acme, bluefin = alice(plan_tier="pro"), bob(plan_tier="starter")
    own = make_rate(tenant_id=acme.pk)
    make_rate(price="9.00")
    sell(acme, hours(3), hours(2), rate=own)
    finalise(acme, hours(9), NOW)
    late("1.00")
    late("1.00", plan_tier="pro")
    late("1.00", tenant_id=bluefin.pk)
    late("1.00", model="A100", tenant_id=acme.pk)
    late("1.00", tenant_id=acme.pk, valid_from=LONG_AGO - timedelta(days=1))
    late("1.00", tenant_id=acme.pk, valid_from=NOW)
    assert not CreditNote.objects.exists()
    late("1.00", tenant_id=acme.pk)
    assert drafts() == [("credit", Decimal("1.00"))]


def test_a_change_of_plan_reprices_nothing_and_the_plan_at_the_start_counts() -> None:
    acme, bluefin = alice(plan_tier="pro"), bob(plan_tier="starter")
    listed, pro = make_rate(price="2.00"), make_rate(price="1.80", plan_tier="pro")
    sell(acme, hours(3), hours(2), rate=pro)
    sell(bluefin, hours(3), hours(2), rate=listed)
    Tenant.objects.filter(pk=acme.pk).update(plan_tier="starter")
    Tenant.objects.filter(pk=bluefin.pk).update(plan_tier="pro")
    invoices = [finalise(tenant, hours(9), NOW) for tenant in (acme, bluefin)]
    late("1.00", plan_tier="starter")
    assert not CreditNote.objects.exists()
    late("1.50", plan_tier="pro")
    assert drafts() == [("credit", Decimal("0.30")), ("credit", Decimal("0.50"))]
    assert [invoice.total for invoice in invoices] == [Decimal("1.80"), Decimal("2.00")]


def test_a_draft_and_unbilled_time_keep_the_locked_price_and_get_right_when_finalised() -> None:
    acme, rate = alice(), make_rate()
    sell(acme, hours(3), rate=rate)
    draft = services.create_invoice(tenant_id=acme.pk, start=hours(9), end=hours(2), created_by="test", now=NOW)
    late("1.00")
    rest = services.create_invoice(tenant_id=acme.pk, start=hours(9), end=NOW, created_by="test", now=NOW)
    assert [draft.total, rest.total] == [2, 4]
    assert drafts() == []
    for made in (draft, rest):
        services.move_invoice(invoice_id=made.pk, to="open", actor="test", now=NOW)
    assert drafts() == [("credit", Decimal(1)), ("credit", Decimal(2))]
    with pytest.raises(NothingToBill):
        services.create_invoice(tenant_id=acme.pk, start=hours(9), end=NOW, created_by="test", now=NOW)


def test_a_declined_rate_is_passed_over_on_that_invoice_and_a_stronger_one_is_not(invoice: Invoice) -> None:
    rate = late("1.50")
    decline_credit_note(credit_note_id=CreditNote.objects.get().pk, actor="test", now=NOW, reason="agreed at 2.00")
    correct_invoices(rate_id=rate.pk, now=NOW)
    assert drafts() == []
    late("1.75")
    assert drafts() == [("credit", Decimal("0.50"))]


def test_another_models_correction_brings_no_declined_rate_back() -> None:
    acme = alice()
    for model in ("H100", "L4"):
        sell(acme, hours(3), hours(1), rate=make_rate(model))
    finalise(acme, hours(9), NOW)
    late("1.50")
    decline_credit_note(credit_note_id=CreditNote.objects.get().pk, actor="test", now=NOW, reason="agreed at 2.00")
    other = late("1.75", model="L4")
    assert drafts() == [("credit", Decimal("0.50"))]
    assert CreditNote.objects.get(status="draft").rate_ids == [other.pk]


def test_declining_another_models_correction_takes_nothing_of_an_issued_one_back() -> None:
    acme = alice()
    for model in ("H100", "L4"):
        sell(acme, hours(3), hours(1), rate=make_rate(model))
    invoice = finalise(acme, hours(9), NOW)
    late("1.50")
    issue_all()
    other = late("1.75", model="L4")
    note = CreditNote.objects.get(status="draft")
    assert (note.amount, note.rate_ids) == (Decimal("0.50"), [other.pk])
    decline_credit_note(credit_note_id=note.pk, actor="test", now=NOW, reason="agreed at 2.00")
    assert (drafts(), balance(invoice)) == ([], Decimal(7))


def test_seconds_credited_at_a_rate_that_is_then_declined_are_made_good_once(invoice: Invoice) -> None:
    late("1.00")
    window = credit(invoice, 2, 1)
    assert issue_credit_note(credit_note_id=window.pk, actor="test", now=NOW).amount == 1
    for amount in ("2.00", "1.00"):
        note = CreditNote.objects.get(status="draft")
        assert note.amount == Decimal(amount)
        decline_credit_note(credit_note_id=note.pk, actor="test", now=NOW, reason="agreed at 2.00")
    assert (drafts(), balance(invoice)) == ([], Decimal(3))


def test_declining_the_second_correction_leaves_the_first(invoice: Invoice) -> None:
    late("1.50")
    issue_all()
    late("1.00")
    decline_credit_note(
        credit_note_id=CreditNote.objects.get(status="draft").pk, actor="test", now=NOW, reason="no more"
    )
    assert (drafts(), balance(invoice)) == ([], Decimal(3))


def credit(invoice: Invoice, start: float, end: float) -> CreditNote:
    return services.credit_window(
        invoice_id=invoice.pk, start=hours(start), end=hours(end), reason="fault", created_by="test", now=NOW
    )


@pytest.mark.parametrize("price", ["1.00", "3.00"])
@pytest.mark.parametrize("order", ["credit first", "rate first", "both drafts"])
def test_credited_seconds_are_not_corrected_as_well(invoice: Invoice, price: str, order: str) -> None:
    """Half the time is given back, and the other half costs the new price, whichever is first."""
    if order == "rate first":
        late(price)
        issue_all()
    credit(invoice, 2, 1)
    if order == "credit first":
        issue_all()
    if order != "rate first":
        late(price)
    issue_all()
    assert balance(invoice) == Decimal(price)
    assert drafts() == []


def test_an_amount_by_hand_stays_and_a_correction_gives_back_what_is_left(invoice: Invoice) -> None:
    fields: dict[str, Any] = {"invoice_id": invoice.pk, "reason": "goodwill", "created_by": "test", "now": NOW}
    services.draft_credit_note(amount=Decimal("3.00"), **fields)
    issue_all()
    late("1.00")
    assert drafts() == [("credit", Decimal("1.00"))]
    issue_all()
    assert balance(invoice) == 0
    late("2.00")
    issue_all()
    assert balance(invoice) == 1


def test_each_invoice_of_an_allocation_is_corrected_for_its_own_time() -> None:
    acme, rate = alice(), make_rate(price="3600.00", minimum_seconds=90, increment_seconds=60)
    sell(acme, hours(3), hours(3) + timedelta(seconds=100), rate=rate)
    cut = hours(3) + timedelta(seconds=30)
    invoices = [finalise(acme, hours(9), cut), finalise(acme, cut, NOW)]
    assert [invoice.total for invoice in invoices] == [120, 0]
    late("7200.00", increment_seconds=50)
    issue_all()
    assert [balance(invoice) for invoice in invoices] == [100, 100]


def test_a_debit_note_is_due_until_it_is_settled_itself(invoice: Invoice) -> None:
    late("2.50")
    issue_all()

    def due() -> tuple[Any, Any]:
        (report,) = queries.describe_invoices([Invoice.objects.get(pk=invoice.pk)])
        return report.debited, report.amount_due

    assert due() == (1, 5)
    services.move_invoice(invoice_id=invoice.pk, to="paid", actor="test", now=NOW)
    assert due() == (1, 1)
    late("3.00")
    issue_all()
    assert due() == (2, 2)
    for note in CreditNote.objects.order_by("pk"):
        services.settle_debit_note(credit_note_id=note.pk, actor="test", now=NOW)
    assert due() == (2, 0)
    with pytest.raises(services.NotOwed):
        services.settle_debit_note(credit_note_id=note.pk, actor="test", now=NOW)


def test_a_void_invoice_and_its_drafts_are_left(invoice: Invoice) -> None:
    late("1.00")
    services.move_invoice(invoice_id=invoice.pk, to="void", actor="test", now=NOW)
    assert drafts() == []
    late("0.50")
    assert drafts() == []


def test_a_rate_in_another_currency_corrects_nothing(invoice: Invoice) -> None:
    late("1.00", currency="EUR")
    correct_invoices(rate_id=invoice.lines.get().rate_id, now=NOW)
    assert not CreditNote.objects.exists()


def test_a_currency_without_decimals_is_corrected_in_whole_units() -> None:
    acme = alice(currency="JPY")
    sell(acme, hours(3), hours(2), rate=make_rate(price="100.40", currency="JPY"))
    finalise(acme, hours(9), NOW)
    late("99.50", currency="JPY")
    assert drafts() == []  # 100.4 and 99.5 are both 100 yen, half to even.
    late("98.50", currency="JPY")
    assert drafts() == [("credit", Decimal(2))]
