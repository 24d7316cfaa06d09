"""What a GPU is worth by the hour, for ranking incidents by what they cost."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal

from billing.queries import DEFAULT_CURRENCY, rates_in_force
from clusters.models import GPU

CURRENCY = DEFAULT_CURRENCY

# Each list price for as long as it was in force; of two from one instant the one recorded last.
LIST_PRICES = """
    SELECT gpu_model, price_per_gpu_hour AS amount,
           tstzrange(valid_from, lead(valid_from) OVER (PARTITION BY gpu_model ORDER BY valid_from, recorded_at, id))
           AS during
      FROM billing_rate
     WHERE tenant_id IS NULL AND plan_tier = '' AND currency = %(currency)s
"""


def list_prices(now: datetime) -> dict[str, Decimal]:
    """The list price in ``CURRENCY`` of an hour of each GPU model in service; those without one are left out."""
    models = GPU.objects.filter(retired_at__isnull=True).order_by().values_list("model", flat=True).distinct()
    rates = rates_in_force([(None, model) for model in models], now=now)
    return {model: rate.price_per_gpu_hour for (_, model), rate in rates.items()}


def worth(prices: Mapping[str, Decimal], counts: Iterable[tuple[str, int]]) -> Decimal | None:
    """What so many GPUs of these models are worth an hour; None where none of them has a price."""
    priced = [prices[model] * count for model, count in counts if model in prices]
    return sum(priced, Decimal()) if priced else None
