"""Adding rates, and which of them is in force."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext

from billing import services
from billing.models import Rate
from billing.queries import rates_in_force
from billing.tests.factories import LONG_AGO, NOW, hours, make_rate, sell
from clusters.tests.factories import make_gpu
from gpufleet.common.errors import InvalidInput
from jobs.models import Allocation
from tenants.tests.factories import alice, bob, make_tenant

pytestmark = pytest.mark.django_db
DAY = timedelta(days=1)


def price_of(tenant_id: int | None, model: str = "H100") -> Decimal | None:
    found = rates_in_force([(tenant_id, model)], now=NOW).get((tenant_id, model))
    return None if found is None else found.price_per_gpu_hour


def test_a_tenants_own_rate_wins_over_its_plans_and_that_over_the_list() -> None:
    acme, bluefin, coral = alice(plan_tier="pro"), bob(plan_tier="pro"), make_tenant("coral", plan_tier="starter")
    make_rate(price="1.00", tenant_id=acme.pk, valid_from=LONG_AGO)
    make_rate(price="2.00", plan_tier="pro", valid_from=LONG_AGO + DAY)
    make_rate(price="3.00", valid_from=LONG_AGO + 2 * DAY)
    tenants = [acme.pk, bluefin.pk, coral.pk, None]
    assert [price_of(tenant) for tenant in tenants] == [Decimal(1), Decimal(2), Decimal(3), Decimal(3)]


def test_the_latest_valid_from_that_has_come_wins_and_then_the_last_recorded() -> None:
    make_rate(price="9.00", valid_from=NOW + timedelta(microseconds=1))
    make_rate(price="4.00", valid_from=NOW - DAY, now=NOW - DAY)
    make_rate(price="5.00", valid_from=NOW - DAY, now=NOW)
    make_rate(price="6.00", valid_from=NOW - 2 * DAY, now=NOW)
    assert price_of(None) == 5
    make_rate(price="7.00", valid_from=NOW, now=NOW - DAY)
    assert price_of(None) == 7


def test_a_model_matches_exactly_and_one_without_a_rate_is_left_out() -> None:
    make_rate("H100")
    assert rates_in_force([(None, "h100"), (None, "H100 "), (None, "H1")], now=NOW) == {}


def test_only_rates_in_the_tenants_currency_count() -> None:
    acme = alice(currency="JPY")
    make_rate(price="2.00")
    assert price_of(acme.pk) is None
    make_rate(price="300", currency="JPY")
    assert price_of(acme.pk) == 300
    assert price_of(None) == 2


def test_many_keys_are_one_query() -> None:
    tenants = [make_tenant(f"t{number}").pk for number in range(5)]
    make_rate("H100")
    make_rate("A100")
    keys = [(tenant, model) for tenant in [*tenants, None] for model in ("H100", "A100", "L4")]
    with CaptureQueriesContext(
        connection,
    ) as captured:
        found = rates_in_force(keys, now=NOW)
    assert (len(captured), len(found)) == (1, 12)


def test_no_keys_is_no_rate() -> None:
    assert rates_in_force([], now=NOW) == {}


def test_a_rate_is_recorded_with_who_and_when() -> None:
    acme = alice(currency="EUR")
    rate = services.add_rate(
        gpu_model="H100", price_per_gpu_hour=Decimal("1.5"), tenant_id=acme.pk, recorded_by="key:1", now=NOW
    )
    rate.refresh_from_db()
    assert (rate.currency, rate.valid_from, rate.recorded_at, rate.recorded_by) == ("EUR", NOW, NOW, "key:1")


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"currency": "ABC"}, "#/currency"),
        ({"currency": "usd"}, "#/currency"),
        ({"price": "-0.01"}, "#/price_per_gpu_hour"),
        ({"price": "0.0000001"}, "#/price_per_gpu_hour"),
        ({"price": "NaN"}, "#/price_per_gpu_hour"),
        ({"price": "1e30"}, "#/price_per_gpu_hour"),
        ({"gpu_model": "  "}, "#/gpu_model"),
        ({"plan_tier": "gold"}, "#/plan_tier"),
        ({"tenant_id": 10**12}, "#/tenant_id"),
        ({"minimum_seconds": -1}, "#/minimum_seconds"),
        ({"increment_seconds": 0}, "#/increment_seconds"),
    ],
)
def test_a_wrong_rate_is_refused_and_nothing_is_written(fields: dict[str, Any], pointer: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        make_rate(**fields)
    assert [problem.pointer for problem in refused.value.problems] == [pointer]
    assert not Rate.objects.exists()


def test_a_rate_is_for_a_plan_or_a_tenant_in_the_tenants_currency() -> None:
    acme = alice()
    with pytest.raises(InvalidInput) as refused:
        make_rate(tenant_id=acme.pk, plan_tier="pro", currency="EUR")
    assert {problem.code for problem in refused.value.problems} == {"plan_and_tenant", "not_the_tenants_currency"}


def test_the_database_refuses_to_change_or_delete_a_rate() -> None:
    rate = make_rate()
    with pytest.raises(IntegrityError, match="never changed"), transaction.atomic():
        Rate.objects.filter(pk=rate.pk).update(price_per_gpu_hour=0)
    with pytest.raises(IntegrityError, match="never changed"), transaction.atomic():
        rate.delete()
    assert Rate.objects.get().price_per_gpu_hour == 2


def test_a_late_rate_prices_what_was_sold_without_one_and_nothing_else() -> None:
    acme, other = alice(plan_tier="pro"), bob(currency="EUR")
    locked = make_rate("A100")
    early, late, running, nobodys, elsewhere = (
        sell(tenant, hours(start), end, rate=None, gpu=make_gpu(model="H100", registered_at=LONG_AGO))
        for tenant, start, end in (
            (acme, 9, hours(8)), (acme, 5, hours(4)), (acme, 3, None), (None, 5, hours(4)), (other, 5, hours(4)),
        )
    )  # fmt: skip
    priced = sell(acme, hours(2), hours(1), rate=locked)

    def rates() -> list[int | None]:
        rows = [early, late, running, nobodys, elsewhere, priced]
        return [Allocation.objects.get(pk=row.pk).rate_id for row in rows]

    plans = make_rate("H100", "2.00", plan_tier="pro", valid_from=hours(5), now=NOW)
    assert rates() == [None, plans.pk, plans.pk, None, None, locked.pk]
    listed = make_rate("H100", "1.00", valid_from=hours(5), now=NOW)
    make_rate("H100", "3.00", tenant_id=acme.pk, valid_from=hours(1), now=NOW)
    make_rate("A100", "1.00", valid_from=hours(9), now=NOW)
    assert rates() == [None, plans.pk, plans.pk, listed.pk, None, locked.pk]
    invoice = services.create_invoice(tenant_id=acme.pk, start=hours(9), end=NOW, created_by="test", now=NOW)
    assert invoice.total == 2 + 6 + 2
