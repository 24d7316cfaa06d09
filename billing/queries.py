"""Reads of rates, invoices and what is billed."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.db import connection
from django.db.models import Q, QuerySet

from billing.models import Rate
from billing.pricing import Terms
from tenants.models import Tenant
from tenants.permissions import Caller

# What GPU time without a tenant is priced in; the currency of the demo's list prices and of new tenants.
DEFAULT_CURRENCY = "USD"

# A tenant (or nobody) and a GPU model, exactly as the GPU's row has it.
RateKey = tuple[int | None, str]


@dataclass(frozen=True, slots=True)
class RateInForce:
    """The rate that applies to a tenant and a GPU model at an instant."""

    rate_id: int
    terms: Terms

    @property
    def price_per_gpu_hour(self) -> Decimal:
        """In ``currency``, with up to six decimals."""
        return self.terms.price_per_gpu_hour

    @property
    def currency(self) -> str:
        """ISO 4217."""
        return self.terms.currency


RATES_IN_FORCE = """
    SELECT wanted.tenant_id, wanted.gpu_model,
           best.id, best.price_per_gpu_hour, best.currency, best.minimum_seconds, best.increment_seconds
      FROM unnest(%(tenants)s::bigint[], %(models)s::text[]) AS wanted (tenant_id, gpu_model)
      LEFT JOIN tenants_tenant AS tenant ON tenant.id = wanted.tenant_id
     CROSS JOIN LATERAL (
           SELECT rate.*
             FROM billing_rate AS rate
            WHERE rate.gpu_model = wanted.gpu_model
              AND rate.valid_from <= %(now)s
              AND rate.currency = coalesce(tenant.currency, %(currency)s)
              AND (rate.tenant_id = wanted.tenant_id
                   OR rate.tenant_id IS NULL AND rate.plan_tier IN ('', coalesce(tenant.plan_tier, '')))
            ORDER BY rate.tenant_id IS NULL, rate.plan_tier = '',
                     rate.valid_from DESC, rate.recorded_at DESC, rate.id DESC
            LIMIT 1
           ) AS best
"""


def rates_in_force(keys: Collection[RateKey], *, now: datetime) -> dict[RateKey, RateInForce]:
    """The rate of each (tenant, GPU model) at ``now``, in one query; a key without a price is left out.

    The tenant's own rate wins over its plan's, and that over the list price; then the latest ``valid_from``, then
    the one recorded last. Only rates in the tenant's currency count, and GPU models match exactly.
    """
    wanted = sorted(set(keys), key=lambda key: (key[0] or 0, key[1]))
    parameters: dict[str, Any] = {
        "tenants": [tenant_id for tenant_id, _ in wanted],
        "models": [model for _, model in wanted],
        "now": now,
        "currency": DEFAULT_CURRENCY,
    }
    with connection.cursor() as cursor:
        cursor.execute(RATES_IN_FORCE, parameters)
        rows = cursor.fetchall()
    return {(tenant_id, model): RateInForce(rate_id, Terms(*terms)) for tenant_id, model, rate_id, *terms in rows}


def list_rates(caller: Caller) -> QuerySet[Rate]:
    """The rates the caller may know of: all; or the list prices, those of its tenant's plan, and its tenant's own."""
    if caller.tenant_id is None:
        return Rate.objects.all()
    plan = Tenant.objects.filter(pk=caller.tenant_id).values("plan_tier")
    general = Q(tenant__isnull=True) & (Q(plan_tier="") | Q(plan_tier__in=plan))
    return Rate.objects.filter(general | Q(tenant_id=caller.tenant_id))
