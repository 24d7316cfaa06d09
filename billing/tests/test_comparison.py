"""The nightly comparison finds what was changed behind our back, and mends nothing."""

from datetime import timedelta

import pytest
from django.utils import timezone
from pytest_django import Settings

from billing import services
from billing.gateway import GatewayError
from billing.models import Invoice, OutboxMessage, StripeDifference
from billing.tests.fake_stripe import FakeStripe
from billing.tests.test_sending import draft, gateway, move, send

pytestmark = pytest.mark.django_db


@pytest.fixture
def invoice(stripe: FakeStripe) -> Invoice:
    made = move(draft(), "open")
    send()
    made.refresh_from_db()
    return made


def compare(after: timedelta = timedelta(hours=2)) -> set[tuple[str, str, str]]:
    """The open differences of a comparison so much later."""
    count = services.compare_with_stripe(gateway(), now=timezone.now() + after)
    found = set(StripeDifference.objects.filter(gone_at__isnull=True).values_list("what", "ours", "theirs"))
    assert len(found) == count
    return found


def test_what_agrees_is_not_listed(stripe: FakeStripe, invoice: Invoice) -> None:
    assert compare() == set()


def test_what_was_changed_at_stripe_is_listed_once_and_mended_nowhere(stripe: FakeStripe, invoice: Invoice) -> None:
    there = stripe.things[invoice.stripe_invoice_id]
    there["status"], there["total"] = "paid", 100
    expected = {("status", "open", "paid"), ("total", "667 USD", "100 USD")}
    assert compare() == expected
    assert compare(timedelta(hours=3)) == expected
    assert StripeDifference.objects.count() == 2
    invoice.refresh_from_db()
    assert (invoice.status, there["status"]) == ("open", "paid")

    there["total"] = 667
    assert compare() == {("status", "open", "paid")}
    assert StripeDifference.objects.get(what="total").gone_at is not None


def test_an_invoice_that_is_gone_at_stripe_is_listed(stripe: FakeStripe, invoice: Invoice) -> None:
    del stripe.things[invoice.stripe_invoice_id]
    assert compare() == {("status", "open", "missing")}


def test_a_draft_that_was_deleted_for_a_void_invoice_is_no_difference(stripe: FakeStripe) -> None:
    made = move(draft(), "open")
    for _ in range(2):
        services.send_next(gateway(), now=timezone.now())
    move(made, "void")
    send()
    assert stripe.of("invoice") == []
    assert compare() == set()


def test_a_second_invoice_with_our_reference_is_listed(stripe: FakeStripe, invoice: Invoice) -> None:
    twin = stripe.new("invoice", "in", **{**stripe.things[invoice.stripe_invoice_id], "id": None})
    stripe.things[f"{invoice.stripe_invoice_id}_2"] = {**twin, "id": f"{invoice.stripe_invoice_id}_2"}
    stripe.things = {key: thing for key, thing in stripe.things.items() if thing["id"]}
    assert compare() == {("identity", invoice.stripe_invoice_id, f"{invoice.stripe_invoice_id}_2")}


def test_a_stranger_with_a_reference_is_listed_and_one_without_is_none_of_ours(
    stripe: FakeStripe, invoice: Invoice
) -> None:
    like = {**stripe.things[invoice.stripe_invoice_id]}
    like.pop("id")
    unknown = "00000000-0000-4000-8000-000000000000"
    stray = stripe.new("invoice", "in", **{**like, "metadata": {"gpufleet_reference": unknown}})
    stripe.new("invoice", "in", **{**like, "metadata": {}})
    assert compare() == {("identity", "no such invoice", stray["id"])}


def test_what_is_on_its_way_is_not_compared_yet(stripe: FakeStripe, invoice: Invoice) -> None:
    stripe.things[invoice.stripe_invoice_id]["status"] = "paid"
    assert compare(timedelta(minutes=5)) == set()
    OutboxMessage.objects.filter(invoice=invoice, step="send").update(status="dead")
    assert compare() == set()


def test_a_stripe_that_can_not_be_read_changes_nothing(
    stripe: FakeStripe, invoice: Invoice, settings: Settings
) -> None:
    stripe.things[invoice.stripe_invoice_id]["status"] = "paid"
    found = compare()
    settings.STRIPE_API_BASE = "http://127.0.0.1:9"
    with pytest.raises(GatewayError):
        services.compare_with_stripe(gateway(), now=timezone.now() + timedelta(hours=3))
    assert set(StripeDifference.objects.values_list("what", "ours", "theirs")) == found
    assert not StripeDifference.objects.filter(gone_at__isnull=False).exists()


def test_many_invoices_are_read_page_by_page(stripe: FakeStripe, invoice: Invoice) -> None:
    like = {**stripe.things[invoice.stripe_invoice_id], "metadata": {}}
    like.pop("id")
    for _ in range(250):
        stripe.new("invoice", "in", **like)
    assert compare() == set()
    assert stripe.calls.count(("GET", "/v1/invoices")) == 3
