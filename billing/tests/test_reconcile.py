"""A small `make reconcile`: it finds nothing, and it would find what breaks the money."""

from collections.abc import Callable
from decimal import ROUND_DOWN
from typing import Any

import pytest

from benchmarks.reconcile import simulate
from billing import ledger, pricing
from billing.services import corrections, invoices, notes

pytestmark = pytest.mark.django_db


def test_a_few_dozen_tenant_months_reconcile_to_the_cent(capsys: pytest.CaptureFixture[str]) -> None:
    counts = simulate(seed=3, tenant_months=44)
    assert capsys.readouterr().out == ""
    assert (counts["tenant_months"], counts["differences"]) == (44, 0)
    assert min(counts["invoices"], counts["lines"], counts["notes"], counts["rates"], counts["kills"]) > 20


def round_down(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pricing, "ROUND_HALF_EVEN", ROUND_DOWN)


def bill_void_time_never_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ledger, "UNBILLED", ledger.UNBILLED.replace("AND billed.released_at IS NULL", ""))


def forget_the_minimum(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pricing, "_billed_until", _without_minimum(pricing._billed_until))


def _without_minimum(function: Callable[..., int]) -> Callable[..., int]:
    return lambda held, terms: function(held, pricing.Terms(terms.price_per_gpu_hour, terms.currency))


def correct_nothing(patch: pytest.MonkeyPatch) -> None:
    def nothing(*_: Any, **__: Any) -> None:
        """No draft is computed anew."""

    patch.setattr(corrections, "refresh_notes", nothing)
    patch.setattr(invoices, "refresh_notes", nothing)


def credit_seconds_twice(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(notes, "_without", lambda piece, spans: [piece])


@pytest.mark.parametrize(
    "mutate", [round_down, bill_void_time_never_again, forget_the_minimum, correct_nothing, credit_seconds_twice]
)
def test_broken_money_is_a_difference(
    mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch)
    assert simulate(seed=3, tenant_months=44)["differences"] > 0
