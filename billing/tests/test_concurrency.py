"""Two people of finance at once, on real threads and real connections."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from functools import partial
from threading import Barrier
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone

from billing import services
from billing.models import BilledRange, CreditNote, Invoice
from billing.tests.factories import NOW, hours, make_rate, sell
from billing.tests.test_admin import agree, preview
from gpufleet.common.errors import Conflict
from gpufleet.common.tests.factories import staff
from gpufleet.common.tests.processes import wait_until
from jobs.services import change_status
from tenants.models import Tenant
from tenants.tests.factories import alice

pytestmark = pytest.mark.django_db(transaction=True)
PEOPLE = 4


def at_once(actions: Sequence[Callable[[], Any]]) -> list[Any]:
    """What each action gave, or the conflict that refused it; all begin at the same moment."""
    barrier = Barrier(len(actions))

    def run(action: Callable[[], Any]) -> Any:
        barrier.wait(timeout=10)
        try:
            return action()
        except Conflict as refusal:
            return refusal
        finally:
            connection.close()

    with ThreadPoolExecutor(len(actions)) as pool:
        return list(pool.map(run, actions))


def bill(tenant: Tenant, number: int = 0) -> Invoice:
    now = NOW + timedelta(milliseconds=number)
    return services.create_invoice(tenant_id=tenant.pk, start=hours(100), end=now, created_by="test", now=now)


def test_two_who_press_the_button_at_once_make_one_draft() -> None:
    acme, rate = alice(), make_rate()
    running, ended = sell(acme, hours(3), rate=rate), sell(acme, hours(3), hours(1), rate=rate)
    results = at_once([partial(bill, acme, number) for number in range(PEOPLE)])
    drafts = [result for result in results if isinstance(result, Invoice)]
    assert len(drafts) == Invoice.objects.count() == 1
    assert sorted(BilledRange.objects.values_list("allocation_id", flat=True)) == [running.pk, ended.pk]


def test_two_who_agree_to_the_same_preview_at_once_make_one_draft() -> None:
    """Through the console, as two people in two browsers: the other is told, and no second is billed twice."""
    acme, rate, now = alice(), make_rate(price="3600"), timezone.now()
    running = sell(acme, now - timedelta(hours=3), rate=rate)
    ended = sell(acme, now - timedelta(hours=3), now - timedelta(hours=1), rate=rate)
    people = [staff("view_invoice", "add_invoice", name=name) for name in ("fred", "fay")]
    previews = [preview(person, acme) for person in people]
    answers = at_once([partial(agree, person, page) for person, page in zip(people, previews, strict=True)])
    assert sorted("1 of 1 tenant with a draft now." in answer for answer in answers) == [False, True]
    assert sum("0 of 1 tenant with a draft now." in answer for answer in answers) == 1
    assert Invoice.objects.count() == 1
    assert sorted(BilledRange.objects.values_list("allocation_id", flat=True)) == [running.pk, ended.pk]


def test_invoices_finalised_at_once_get_numbers_without_a_gap() -> None:
    drafts = []
    rate = make_rate()
    for number in range(PEOPLE):
        tenant = Tenant.objects.create(name=f"t{number}", gpu_quota=1, created_at=NOW)
        sell(tenant, hours(3), hours(2), rate=rate)
        drafts.append(bill(tenant))

    def finalise(pk: int) -> Invoice:
        return services.move_invoice(invoice_id=pk, to="open", actor="test", now=NOW)

    at_once([partial(finalise, draft.pk) for draft in drafts])
    numbers = Invoice.objects.order_by("number").values_list("number", flat=True)
    assert list(numbers) == list(range(1, PEOPLE + 1))


def test_one_draft_is_finalised_once() -> None:
    acme = alice()
    sell(acme, hours(3), hours(2), rate=make_rate())
    draft = bill(acme)
    results = at_once([lambda: services.move_invoice(invoice_id=draft.pk, to="open", actor="test", now=NOW)] * PEOPLE)
    assert sum(isinstance(result, Invoice) for result in results) == 1


def test_credit_notes_issued_at_once_never_exceed_the_invoice() -> None:
    acme = alice()
    sell(acme, hours(3), hours(2), rate=make_rate())
    invoice = services.move_invoice(invoice_id=bill(acme).pk, to="open", actor="test", now=NOW)
    notes = [
        services.draft_credit_note(
            invoice_id=invoice.pk, amount=Decimal("0.90"), reason="r", created_by="test", now=NOW
        )
        for _ in range(PEOPLE)
    ]

    def issue(pk: int) -> CreditNote:
        return services.issue_credit_note(credit_note_id=pk, actor="test", now=NOW)

    at_once([partial(issue, note.pk) for note in notes])
    issued = CreditNote.objects.filter(status="issued").order_by("number")
    assert list(issued.values_list("number", flat=True)) == [1, 2]


def test_a_job_that_ends_while_it_is_billed_is_billed_up_to_its_end() -> None:
    """The end is not committed when the invoice is begun: without a lock it would bill the hour after it as well."""
    acme, rate = alice(), make_rate()
    running = sell(acme, hours(3), rate=rate)
    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            change_status(job_id=running.job_id, status="completed", reason="", actor="test", now=hours(1))
            billing = pool.submit(closing(partial(bill, acme)))
            wait_until(somebody_waits, "the invoice waits for the job's end")
        invoice = billing.result(timeout=10)
    assert invoice.total == 4


def closing(action: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        try:
            return action()
        finally:
            connection.close()

    return run


def somebody_waits() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
        return bool(cursor.fetchone()[0])
