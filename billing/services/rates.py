"""Adding rates."""

from datetime import datetime
from decimal import Decimal

import structlog
from django.db import transaction

from billing.models import Rate
from billing.pricing import Terms
from billing.queries import DEFAULT_CURRENCY, RateInForce
from billing.services.corrections import correct_invoices
from gpufleet.common.currencies import CURRENCIES
from gpufleet.common.errors import FieldProblem, InvalidInput
from gpufleet.common.locks import lock_rows
from jobs.services import price_unpriced_time
from tenants.models import PlanTier, Tenant

logger = structlog.stdlib.get_logger(__name__)

LARGEST_PRICE = Decimal("99999999.999999")
LONGEST_STEP_SECONDS = 31 * 86_400


@transaction.atomic
def add_rate(
    *,
    gpu_model: str,
    price_per_gpu_hour: Decimal,
    recorded_by: str,
    now: datetime,
    currency: str | None = None,
    plan_tier: str = "",
    tenant_id: int | None = None,
    minimum_seconds: int = 0,
    increment_seconds: int = 1,
    valid_from: datetime | None = None,
    reason: str = "",
) -> Rate:
    """Add a price of a GPU-hour: a list price, or one for a plan tier or for a tenant.

    It is in force from ``valid_from`` (``now`` when None), also one in the past; what runs keeps the price that was
    locked in at its start. What a past one changes on finalised invoices becomes draft notes on them; see
    ``billing.services.corrections``. Time that was sold without any price since then gets this one, and stands on the
    next invoice. ``currency`` is the tenant's own when None, or USD without a tenant.
    Raises ``InvalidInput`` for an unknown tenant, plan or currency, for a currency that isn't the tenant's, for a
    price that is negative or too exact to store, and for a minimum or increment beyond 31 days.
    """
    tenant = None if tenant_id is None else lock_rows(Tenant.objects.all(), [tenant_id]).get(tenant_id)
    currency = currency or (tenant.currency if tenant else DEFAULT_CURRENCY)
    problems = [
        *_scope_problems(gpu_model, plan_tier, tenant_id, tenant),
        *_currency_problems(currency, tenant),
        *_figure_problems(price_per_gpu_hour, minimum_seconds, increment_seconds),
    ]
    if problems:
        raise InvalidInput(*problems)
    rate = Rate.objects.create(
        gpu_model=gpu_model,
        plan_tier=plan_tier,
        tenant=tenant,
        currency=currency,
        price_per_gpu_hour=price_per_gpu_hour,
        minimum_seconds=minimum_seconds,
        increment_seconds=increment_seconds,
        valid_from=valid_from or now,
        recorded_at=now,
        recorded_by=recorded_by,
        reason=reason,
    )
    if rate.valid_from < now:
        _price_unpriced_time(rate)
        correct_invoices(rate_id=rate.pk, now=now)
    logger.info("rate added", rate_id=rate.pk, gpu_model=gpu_model, price=str(price_per_gpu_hour), currency=currency)
    return rate


def _price_unpriced_time(rate: Rate) -> None:
    tenants = Tenant.objects.filter(currency=rate.currency)
    if rate.tenant_id is not None:
        tenants = tenants.filter(pk=rate.tenant_id)
    if rate.plan_tier:
        tenants = tenants.filter(plan_tier=rate.plan_tier)
    priced = price_unpriced_time(
        gpu_model=rate.gpu_model,
        since=rate.valid_from,
        tenant_ids=list(tenants.values_list("pk", flat=True)),
        nobody=rate.tenant_id is None and not rate.plan_tier and rate.currency == DEFAULT_CURRENCY,
        rate=RateInForce(rate.pk, Terms(rate.price_per_gpu_hour, rate.currency)),
    )
    if priced:
        logger.info("unpriced time has a price", rate_id=rate.pk, allocations=priced)


def _scope_problems(gpu_model: str, plan_tier: str, tenant_id: int | None, tenant: Tenant | None) -> list[FieldProblem]:
    problems = []
    if not gpu_model.strip():
        problems.append(FieldProblem("#/gpu_model", "blank", "gpu_model names the model as the GPUs report it."))
    if plan_tier not in {"", *PlanTier.values}:
        problems.append(FieldProblem("#/plan_tier", "invalid_choice", f"There is no plan {plan_tier!r}."))
    if plan_tier and tenant_id is not None:
        problems.append(FieldProblem("#/plan_tier", "plan_and_tenant", "A rate is for a plan or a tenant, not both."))
    if tenant_id is not None and tenant is None:
        problems.append(FieldProblem("#/tenant_id", "does_not_exist", f"There is no tenant {tenant_id}."))
    return problems


def _currency_problems(currency: str, tenant: Tenant | None) -> list[FieldProblem]:
    if currency not in CURRENCIES:
        detail = f"{currency!r} is not a currency code of ISO 4217, such as USD."
        return [FieldProblem("#/currency", "unknown_currency", detail)]
    if tenant is not None and currency != tenant.currency:
        detail = f"This tenant pays in {tenant.currency}; a rate in {currency} would never apply."
        return [FieldProblem("#/currency", "not_the_tenants_currency", detail)]
    return []


def _figure_problems(price: Decimal, minimum_seconds: int, increment_seconds: int) -> list[FieldProblem]:
    problems = []
    if not price.is_finite() or not 0 <= price <= LARGEST_PRICE or price != price.quantize(Decimal("0.000001")):
        detail = f"The price is from 0 to {LARGEST_PRICE}, with at most 6 decimals."
        problems.append(FieldProblem("#/price_per_gpu_hour", "invalid_price", detail))
    if not 0 <= minimum_seconds <= LONGEST_STEP_SECONDS:
        detail = f"minimum_seconds is from 0 to {LONGEST_STEP_SECONDS}."
        problems.append(FieldProblem("#/minimum_seconds", "out_of_range", detail))
    if not 1 <= increment_seconds <= LONGEST_STEP_SECONDS:
        detail = f"increment_seconds is from 1 to {LONGEST_STEP_SECONDS}."
        problems.append(FieldProblem("#/increment_seconds", "out_of_range", detail))
    return problems
