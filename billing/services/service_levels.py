"""Service-level rules, and the draft credit notes that they raise for faults of GPUs, before the tenant asks."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

import structlog
from django.db import transaction

from billing.faults import Fault, unjudged_faults
from billing.models import FAULT_STATES, CreditBasis, CreditNote, Invoice, NoteOrigin, ServiceLevel
from billing.repricing import DuePiece, due_pieces
from billing.services.notes import (
    BILLING,
    CREDITABLE,
    Ground,
    credit_seconds,
    left_to_credit,
    lock_invoice,
    not_credited,
)
from gpufleet.common.errors import FieldProblem, InvalidInput, NotFound
from gpufleet.common.locks import lock_rows
from tenants.models import PlanTier, Tenant

logger = structlog.stdlib.get_logger(__name__)

# Invoices that were finalised longer ago are left to a person; it bounds what each run looks at.
LOOK_BACK = timedelta(days=100)
LONGEST_SECONDS = 31 * 86_400


@transaction.atomic
def add_service_level(
    *,
    name: str,
    states: Collection[str],
    longer_than_seconds: int,
    credit_percent: int,
    created_by: str,
    now: datetime,
    basis: str = CreditBasis.OVERLAP,
    tenant_id: int | None = None,
    plan_tier: str = "",
    reason_starts_with: str = "",
    effective_from: datetime | None = None,
    enabled: bool = True,
) -> ServiceLevel:
    """Add a rule for a tenant, for a plan, or for everybody. Faults count that begin at ``effective_from`` or later.

    That is ``now`` when None. Raises ``InvalidInput`` for what is unknown or out of range, and for a rule of both a
    plan and a tenant.
    """
    tenant = None if tenant_id is None else lock_rows(Tenant.objects.all(), [tenant_id]).get(tenant_id)
    problems = [
        *_scope_problems(name, plan_tier, tenant_id, tenant),
        *_fault_problems(states, longer_than_seconds),
        *_credit_problems(credit_percent, basis),
    ]
    if problems:
        raise InvalidInput(*problems)
    rule = ServiceLevel.objects.create(
        name=name,
        tenant=tenant,
        plan_tier=plan_tier,
        states=sorted(set(states)),
        reason_starts_with=reason_starts_with,
        longer_than_seconds=longer_than_seconds,
        credit_percent=credit_percent,
        basis=basis,
        effective_from=effective_from or now,
        enabled=enabled,
        created_at=now,
        created_by=created_by,
    )
    logger.info("service level added", service_level_id=rule.pk, name=name)
    return rule


@transaction.atomic
def switch_service_level(*, service_level_id: int, enabled: bool, actor: str) -> ServiceLevel:
    """Turn a rule on or off; what it raised stays, and its terms never change. Raises ``NotFound``."""
    rule = lock_rows(ServiceLevel.objects.all(), [service_level_id]).get(service_level_id)
    if rule is None:
        raise NotFound
    rule.enabled = enabled
    rule.save(update_fields=["enabled"])
    logger.info("service level switched", service_level_id=rule.pk, enabled=enabled, actor=actor)
    return rule


def raise_service_level_credits(*, now: datetime) -> int:
    """Draft a credit note for each fault that a rule gives something back for. Returns how many were drafted.

    A note is about one fault on one invoice under one rule, and is raised once, whatever becomes of it. A second that
    another note gives back, or that was declined under a rule, is not raised again by any rule; and no note is larger
    than what is left to credit. Running it again, also at the same time, changes nothing.
    """
    touched = sorted({fault.invoice_id for fault in unjudged_faults(since=now - LOOK_BACK, now=now)})
    return sum(_raise_on(invoice_id, now) for invoice_id in touched)


@transaction.atomic
def _raise_on(invoice_id: int, now: datetime) -> int:
    """The faults are read again under the invoice's lock: somebody else may have been here."""
    invoice = lock_invoice(invoice_id)
    if invoice.status not in CREDITABLE:
        return 0
    faults = unjudged_faults(since=now - LOOK_BACK, now=now, invoice_ids=[invoice_id])
    rules = ServiceLevel.objects.in_bulk({fault.rule_id for fault in faults})
    pieces = {piece.billed_id: piece for piece in due_pieces([invoice_id]).get(invoice_id, [])}
    raised = 0
    for fault in faults:
        parts = [pieces[billed_id].part(start, end) for billed_id, start, end in fault.spans]
        raised += _raise(invoice, fault, rules[fault.rule_id], parts, now) is not None
    return raised


def _raise(
    invoice: Invoice, fault: Fault, rule: ServiceLevel, pieces: Sequence[DuePiece], now: datetime
) -> CreditNote | None:
    ground = Ground(
        origin=NoteOrigin.SERVICE_LEVEL,
        percent=rule.credit_percent,
        reason=_sentence(fault, rule),
        context={"rule": _shown_rule(rule), "fault": _shown_fault(fault)},
        created_by=BILLING,
        service_level=rule,
        fault_id=fault.period_id,
    )
    rest = not_credited(pieces, nor_declined=True)
    return credit_seconds(invoice, rest, ground, left=left_to_credit(invoice), now=now)


def _sentence(fault: Fault, rule: ServiceLevel) -> str:
    until = "still" if fault.ended is None else f"to {fault.ended:%Y-%m-%d %H:%M:%S}"
    cause = f": {fault.reason}" if fault.reason else ""
    return f"{rule.name}: GPU {fault.gpu_id} {fault.state} from {fault.began:%Y-%m-%d %H:%M:%S} {until}{cause}"[:500]


def _shown_rule(rule: ServiceLevel) -> dict[str, Any]:
    return {
        "id": rule.pk,
        "name": rule.name,
        "states": rule.states,
        "reason_starts_with": rule.reason_starts_with,
        "longer_than_seconds": rule.longer_than_seconds,
        "credit_percent": rule.credit_percent,
        "basis": rule.basis,
    }


def _shown_fault(fault: Fault) -> dict[str, Any]:
    return {
        "period_id": fault.period_id,
        "gpu_id": fault.gpu_id,
        "state": fault.state,
        "reason": fault.reason,
        "from": fault.began.isoformat(),
        "to": fault.ended.isoformat() if fault.ended else None,
    }


def _scope_problems(name: str, plan_tier: str, tenant_id: int | None, tenant: Tenant | None) -> list[FieldProblem]:
    problems = []
    if not name.strip():
        problems.append(FieldProblem("#/name", "blank", "The name stands on the notes that the rule raises."))
    if plan_tier not in {"", *PlanTier.values}:
        problems.append(FieldProblem("#/plan_tier", "invalid_choice", f"There is no plan {plan_tier!r}."))
    if plan_tier and tenant_id is not None:
        problems.append(FieldProblem("#/plan_tier", "plan_and_tenant", "A rule is for a plan or a tenant, not both."))
    if tenant_id is not None and tenant is None:
        problems.append(FieldProblem("#/tenant_id", "does_not_exist", f"There is no tenant {tenant_id}."))
    return problems


def _fault_problems(states: Collection[str], longer_than_seconds: int) -> list[FieldProblem]:
    problems = []
    known = [state for state, _ in FAULT_STATES]
    if not states or not set(states) <= set(known):
        problems.append(FieldProblem("#/states", "invalid_choice", f"states are one or more of {', '.join(known)}."))
    if not 0 <= longer_than_seconds <= LONGEST_SECONDS:
        detail = f"longer_than_seconds is from 0 to {LONGEST_SECONDS}."
        problems.append(FieldProblem("#/longer_than_seconds", "out_of_range", detail))
    return problems


def _credit_problems(credit_percent: int, basis: str) -> list[FieldProblem]:
    problems = []
    if not 0 <= credit_percent <= 100:
        problems.append(FieldProblem("#/credit_percent", "out_of_range", "credit_percent is from 0 to 100."))
    if basis not in CreditBasis.values:
        problems.append(FieldProblem("#/basis", "invalid_choice", f"There is no basis {basis!r}."))
    return problems
