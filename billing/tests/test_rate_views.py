"""Rates over HTTP and in the console."""

from typing import Any

import pytest

from apikeys.tests.factories import client_with, make_admin_key, make_key
from billing.models import Rate
from billing.tests.factories import make_rate
from gpufleet.common.tests.factories import staff
from tenants.tests.factories import alice, bob

pytestmark = pytest.mark.django_db
URL = "/api/billing/rates"
BODY: dict[str, Any] = {"gpu_model": "H100", "price_per_gpu_hour": "2.50"}


def test_an_admin_adds_a_rate() -> None:
    key = make_admin_key()
    body = {**BODY, "effective_from": "2026-12-01T01:00:00+01:00", "minimum_seconds": 60}
    answer = client_with(key).post(URL, body)
    assert answer.status_code == 201
    shown = answer.json()
    assert (shown["price_per_gpu_hour"], shown["currency"]) == ("2.500000", "USD")
    assert (shown["effective_from"], shown["minimum_seconds"]) == ("2026-12-01T00:00:00.000000Z", 60)
    assert shown["recorded_by"] == f"key:{key.key.pk}"
    assert shown == client_with(make_key()).get(URL).json()[0]


def test_the_same_idempotency_key_adds_one_rate() -> None:
    client = client_with(make_admin_key())
    answers = [client.post(URL, BODY, HTTP_IDEMPOTENCY_KEY="once") for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    assert Rate.objects.count() == 1


def test_only_an_admin_adds_rates() -> None:
    for key in (make_key(), make_key(alice())):
        assert client_with(key).post(URL, BODY).status_code == 403


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"price_per_gpu_hour": "-1"}, "#/price_per_gpu_hour"),
        ({"price_per_gpu_hour": "NaN"}, "#/price_per_gpu_hour"),
        ({"price_per_gpu_hour": "1e400"}, "#/price_per_gpu_hour"),
        ({"currency": "ZZZ"}, "#/currency"),
        ({"gpu_model": ""}, "#/gpu_model"),
        ({"plan_tier": "gold"}, "#/plan_tier"),
        ({"tenant_id": 999}, "#/tenant_id"),
        ({"increment_seconds": 0}, "#/increment_seconds"),
        ({"effective_from": "2026-12-01"}, "#/effective_from"),
        ({"valid_from": "2026-12-01T00:00:00Z"}, "#/valid_from"),
    ],
)
def test_a_wrong_rate_is_a_400_that_names_the_field(change: dict[str, Any], pointer: str) -> None:
    answer = client_with(make_admin_key()).post(URL, {**BODY, **change})
    assert answer.status_code == 400
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
    assert not Rate.objects.exists()


def test_a_tenants_key_sees_list_prices_its_plans_and_its_own() -> None:
    acme, bluefin = alice(plan_tier="pro"), bob(plan_tier="starter")
    visible = [make_rate(), make_rate(plan_tier="pro"), make_rate(tenant_id=acme.pk)]
    make_rate(plan_tier="starter")
    make_rate(tenant_id=bluefin.pk)
    client = client_with(make_key(acme))
    assert [row["id"] for row in client.get(URL).json()] == [rate.pk for rate in reversed(visible)]
    assert client.get(URL, {"tenant_id": bluefin.pk}).json() == []
    assert len(client_with(make_key()).get(URL).json()) == 5


def test_rates_are_filtered_by_their_fields() -> None:
    acme = alice()
    own = make_rate("A100", tenant_id=acme.pk)
    make_rate("A100", plan_tier="pro", currency="EUR")
    client = client_with(make_key())
    assert [row["id"] for row in client.get(f"{URL}?gpu_model=A100&tenant_id={acme.pk}").json()] == [own.pk]
    assert len(client.get(URL, {"plan_tier": "pro", "currency": "EUR"}).json()) == 1
    assert client.get(URL, {"plan": "pro"}).status_code == 400


FORM = {
    "gpu_model": "H100",
    "price_per_gpu_hour": "2.5",
    "currency": "USD",
    "minimum_seconds": 0,
    "increment_seconds": 1,
    "valid_from_0": "2026-11-01",
    "valid_from_1": "00:00:00",
}


def test_finance_adds_a_rate_in_the_console_and_nobody_edits_one() -> None:
    client = staff("view_rate", "add_rate", "change_rate", "delete_rate", name="fred")
    assert client.post("/admin/billing/rate/add/", FORM).status_code == 302
    rate = Rate.objects.get()
    assert rate.recorded_by == "user:fred"
    page = f"/admin/billing/rate/{rate.pk}"
    assert client.get(f"{page}/change/").status_code == 200
    assert client.post(f"{page}/change/", {**FORM, "price_per_gpu_hour": "1"}).status_code == 403
    assert client.post(f"{page}/delete/", {"post": "yes"}).status_code == 403


def test_what_the_service_refuses_is_a_message_in_the_console() -> None:
    client = staff("view_rate", "add_rate", name="fred")
    answer = client.post("/admin/billing/rate/add/", {**FORM, "currency": "ZZZ"}, follow=True)
    assert "not a currency code" in answer.content.decode()
    assert not Rate.objects.exists()
