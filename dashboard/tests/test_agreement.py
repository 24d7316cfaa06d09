"""Usage, summary, KPIs, revenue and leakage read one ledger: on random histories they agree to the microsecond, with
each other and with an oracle that counts second by second."""

from collections import Counter
from decimal import Decimal
from threading import Thread

import pytest
from django.db import connection, transaction
from django.db.backends.postgresql.psycopg_any import DateTimeTZRange
from hypothesis import given, settings

from billing.figures import summarise
from billing.queries import usage_of
from dashboard.queries import kpis, leakage, revenue
from dashboard.queries.causes import UNSOLD, Cause
from dashboard.tests.test_identity import (
    Device,
    History,
    Stretch,
    as_counts,
    at,
    count,
    histories,
    many_examples,
    windows,
    write,
)
from gpufleet.common.snapshots import snapshot
from jobs import ledger
from jobs.ledger import By, Group, Scope
from jobs.models import Allocation, Job
from tenants.callers import Caller, CallerKind

pytestmark = pytest.mark.django_db

STAFF = Caller(CallerKind.KEY, frozenset(), "key:1")


def sold_to(history: History, low: int, high: int) -> Counter[tuple[int, bool]]:
    """The oracle: seconds by (place of the tenant, whether there was a price)."""
    held: Counter[tuple[int, bool]] = Counter()
    for device in history.devices:
        for stretch in device.allocations:
            tenant, price = stretch.what
            held[(tenant, price is not None)] += sum(stretch.covers(second) for second in range(low, high))
    return held


@given(histories, windows)
@settings(many_examples, max_examples=60)
def test_all_reports_say_the_same_of_the_same_seconds(db: None, history: History, window: list[int]) -> None:
    start, end = at(window[0]), at(window[1])
    with transaction.atomic():
        world = write(history)
        account = ledger.account(Scope(start, end))
        figures, lost = kpis("USD", start=start, end=end), leakage("USD", start=start, end=end)
        earned = revenue("USD", start=start, end=end)
        summary = summarise(STAFF, start=start, end=end)
        usages = [usage_of(tenant or 0, STAFF, start=start, end=end) for tenant in world.tenants[1:]]
        transaction.set_rollback(True)
    held = sold_to(history, *window)
    assert as_counts(account) == dict(count(history, world, set(), window[0], window[1], []).get(Group(), {}))
    assert account == figures.now.account == lost.account
    by_cause = {loss.cause: loss.microseconds for loss in lost.losses}
    assert {kind: by_cause[Cause(kind)] for kind in UNSOLD} == {kind: getattr(account, kind) for kind in UNSOLD}
    assert account.sold == earned.total.sold == sum(held.values()) * 10**6
    assert by_cause[Cause.UNPRICED] == earned.total.unpriced
    assert [usage.total.gpu_seconds for usage in usages] == [
        held[(place, True)] + held[(place, False)] for place in (1, 2)
    ]
    assert summary.unpriced_gpu_seconds == held[(1, False)] + held[(2, False)]
    for usage, tenant in zip(usages, world.tenants[1:], strict=True):
        part = earned.by_tenant.get(tenant)
        assert usage.total.gpu_seconds == Decimal(part.sold if part else 0).scaleb(-6)


HISTORY = History([Device(0, "H100", [Stretch(0, None, "available")], [])], [])


def sell_all_of_it() -> None:
    """In a thread, with a connection of its own."""
    try:
        job = Job.objects.get(name="holder")
        gpu_id = job.cluster.nodes.get(gpus__isnull=False).gpus.get().pk
        Allocation.objects.create(job=job, gpu_id=gpu_id, during=DateTimeTZRange(at(0), None))
    finally:
        connection.close()


@pytest.mark.django_db(transaction=True)
def test_a_snapshot_says_the_same_instant_whoever_writes_meanwhile() -> None:
    write(HISTORY)
    scope = Scope(at(0), at(60))
    with snapshot():
        before = ledger.account(scope)
        writer = Thread(target=sell_all_of_it)
        writer.start()
        writer.join()
        assert ledger.account(scope) == before
        assert ledger.sales(scope, [By.TENANT]) == []
    assert as_counts(ledger.account(scope)) == {"registered": 60, "sold": 60}


def test_inside_a_transaction_a_snapshot_sees_what_the_transaction_sees() -> None:
    write(HISTORY)
    with snapshot():
        assert as_counts(ledger.account(Scope(at(0), at(60)))) == {"registered": 60, "no_demand": 60}
