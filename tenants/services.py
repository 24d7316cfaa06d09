"""Making, changing and ending tenants."""

from datetime import datetime
from typing import TypedDict

import structlog
from django.db import IntegrityError, transaction
from django.db.models import ProtectedError

from gpufleet.common.currencies import CURRENCIES
from gpufleet.common.errors import Conflict, FieldProblem, InvalidInput, NotFound, violated_constraint
from gpufleet.common.locks import lock_rows
from tenants.models import PlanTier, Tenant, TenantStatus
from tenants.queries import has_history

logger = structlog.stdlib.get_logger(__name__)


class TenantNameTaken(Conflict):
    """Another tenant has this name."""

    code = "tenant_name_taken"


class TenantChanges(TypedDict, total=False):
    """What may be changed of a tenant; what is left out stays."""

    name: str
    gpu_quota: int
    contact_email: str
    plan_tier: str
    status: str
    currency: str
    billing_address: str
    tax_id: str
    lends_idle_quota: bool
    borrow_limit: int


@transaction.atomic
def create_tenant(
    *,
    name: str,
    gpu_quota: int,
    now: datetime,
    contact_email: str = "",
    plan_tier: str = PlanTier.STARTER,
    status: str = TenantStatus.ACTIVE,
    currency: str = "USD",
    billing_address: str = "",
    tax_id: str = "",
    lends_idle_quota: bool = False,
    borrow_limit: int = 0,
) -> Tenant:
    """Add a tenant that may hold ``gpu_quota`` (at least 1) GPUs at once.

    Raises ``TenantNameTaken``, and ``InvalidInput`` for a currency that is none.
    """
    tenant = Tenant(
        name=name,
        gpu_quota=gpu_quota,
        contact_email=contact_email,
        plan_tier=plan_tier,
        status=status,
        currency=currency,
        billing_address=billing_address,
        tax_id=tax_id,
        lends_idle_quota=lends_idle_quota,
        borrow_limit=borrow_limit,
        created_at=now,
    )
    _write(tenant)
    logger.info("tenant created", tenant_id=tenant.pk, gpu_quota=gpu_quota)
    return tenant


@transaction.atomic
def update_tenant(*, tenant_id: int, changes: TenantChanges) -> Tenant:
    """Change a tenant. A lower quota evicts nobody: it stops new starts until enough GPUs are free again.

    An inactive tenant starts nothing new, and its keys are refused until it is active again. Another currency is for
    what starts from now on: what was sold before is billed in the one that it was sold in.
    Raises ``NotFound``, ``TenantNameTaken``, and ``InvalidInput`` for a currency that is none.
    """
    tenant = _lock(tenant_id)
    for name, value in changes.items():
        setattr(tenant, name, value)
    _write(tenant)
    logger.info("tenant changed", tenant_id=tenant_id, fields=sorted(changes))
    return tenant


@transaction.atomic
def delete_tenant(*, tenant_id: int) -> Tenant | None:
    """Delete a tenant that nothing speaks of, and return None; one with history is made inactive and returned.

    History is any job or allocation, and whatever else refers to it: its keys, rates or invoices.
    Raises ``NotFound``.
    """
    tenant = _lock(tenant_id)
    if not has_history.ask(tenant_id) and _deleted(tenant):
        logger.info("tenant deleted", tenant_id=tenant_id)
        return None
    tenant.status = TenantStatus.INACTIVE
    tenant.save(update_fields=["status"])
    logger.info("tenant made inactive", tenant_id=tenant_id)
    return tenant


def _lock(tenant_id: int) -> Tenant:
    """The tenant, alone: a job that is being submitted for it is on record before, or finds what it becomes here."""
    tenant = lock_rows(Tenant.objects.all(), [tenant_id], alone=True).get(tenant_id)
    if tenant is None:
        raise NotFound
    return tenant


def _write(tenant: Tenant) -> None:
    if tenant.currency not in CURRENCIES:
        detail = f"{tenant.currency!r} is not a currency code of ISO 4217, such as USD."
        raise InvalidInput(FieldProblem("#/currency", "unknown_currency", detail))
    try:
        with transaction.atomic():
            tenant.save()
    except IntegrityError as error:
        if violated_constraint(error) == "tenant_name_unique":
            raise TenantNameTaken(f"There is a tenant named {tenant.name!r} already.") from error
        raise


def _deleted(tenant: Tenant) -> bool:
    try:
        with transaction.atomic():
            tenant.delete()
    except ProtectedError:
        return False
    return True
