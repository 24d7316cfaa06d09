"""Rules are made, changed, switched, deleted and silenced."""

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, transaction

from alerts.conditions import Direction
from alerts.models import AlertRule, Channel, EventStatus, Severity
from alerts.services.evaluation import end_incidents
from alerts.types import TYPES
from clusters.models import Cluster
from gpufleet.common.errors import Conflict, FieldProblem, InvalidInput, NotFound
from tenants.models import Tenant

LONGEST_SILENCE = timedelta(days=7)
EDITABLE = ("name", "threshold", "recovery_threshold", "for_seconds", "severity", "enabled")


class RuleNameTaken(Conflict):
    """There is a rule of that name."""

    code = "rule_name_taken"


class RuleHasHistory(Conflict):
    """Incidents speak of the rule, so it can't be deleted."""

    code = "rule_has_history"


@transaction.atomic
def create_rule(
    *,
    name: str,
    type: str,
    threshold: float,
    now: datetime,
    recovery_threshold: float | None = None,
    for_seconds: int = 0,
    severity: str = Severity.WARNING,
    enabled: bool = True,
    cluster: Cluster | None = None,
    tenant: Tenant | None = None,
    gpu_model: str = "",
    channels: Collection[Channel] = (),
) -> AlertRule:
    """Add a rule. Raises ``RuleNameTaken``, and ``InvalidInput`` for a recovery on the wrong side or a scope by which
    the type's subjects can't be told apart."""
    check_recovery(type=type, threshold=threshold, recovery_threshold=recovery_threshold)
    check_scope(type=type, cluster=cluster, tenant=tenant, gpu_model=gpu_model)
    rule = AlertRule(
        name=name,
        type=type,
        threshold=threshold,
        recovery_threshold=recovery_threshold,
        for_seconds=for_seconds,
        severity=severity,
        enabled=enabled,
        cluster=cluster,
        tenant=tenant,
        gpu_model=gpu_model,
        created_at=now,
    )
    _save(rule)
    rule.channels.set(channels)
    return rule


@transaction.atomic
def update_rule(*, rule_id: int, changes: dict[str, Any], now: datetime) -> AlertRule:
    """Change a rule; one that is turned off resolves its incidents. Raises ``NotFound`` and as ``create_rule``."""
    rule = _lock_rule(rule_id)
    for name in EDITABLE:
        if name in changes:
            setattr(rule, name, changes[name])
    check_recovery(type=rule.type, threshold=rule.threshold, recovery_threshold=rule.recovery_threshold)
    _save(rule)
    if "channels" in changes:
        rule.channels.set(changes["channels"])
    if not rule.enabled:
        end_incidents([rule], now=now)
    return rule


@transaction.atomic
def switch_rules(*, rule_ids: Iterable[int], enabled: bool, now: datetime) -> int:
    """Turn rules on or off; those turned off resolve their incidents. Returns how many there were."""
    rules = list(AlertRule.objects.select_for_update().filter(pk__in=list(rule_ids)).order_by("pk"))
    AlertRule.objects.filter(pk__in=[rule.pk for rule in rules]).update(enabled=enabled)
    if not enabled:
        end_incidents(rules, now=now)
    return len(rules)


@transaction.atomic
def delete_rule(*, rule_id: int) -> None:
    """Delete a rule that never fired. Raises ``RuleHasHistory`` otherwise: disable such a rule instead."""
    rule = _lock_rule(rule_id)
    incidents = rule.events.exclude(status=EventStatus.PENDING).count()
    if incidents:
        raise RuleHasHistory(
            "Incidents of this rule are on record; disable it instead (PATCH enabled=false).", incidents=incidents
        )
    rule.events.all().delete()
    rule.delete()


@transaction.atomic
def silence_rule(*, rule_id: int, until: datetime, reason: str, actor: str, now: datetime) -> AlertRule:
    """Let a rule tell nobody until then, at most 7 days. Its incidents are recorded, and told if they outlast it.

    Silenced anew while it is silent, it goes on counting from the first silence. Raises ``InvalidInput``, ``NotFound``.
    """
    if not timedelta() < until - now <= LONGEST_SILENCE:
        detail = f"until lies in the future, at most {LONGEST_SILENCE.days} days ahead."
        raise InvalidInput(FieldProblem("#/until", "out_of_range", detail))
    rule = _lock_rule(rule_id)
    if rule.silenced_until is None or rule.silenced_until <= now:
        rule.silenced_at = now
    rule.silenced_until, rule.silenced_by, rule.silence_reason = until, actor, reason
    rule.silence_end_told_at = None
    rule.save()
    return rule


@transaction.atomic
def end_silence(*, rule_id: int, now: datetime) -> AlertRule:
    """Let a silenced rule tell again from now on; who silenced it, and why, stays on record. Raises ``NotFound``."""
    rule = _lock_rule(rule_id)
    if rule.silenced_until is not None and rule.silenced_until > now:
        rule.silenced_until = now
        rule.save(update_fields=["silenced_until"])
    return rule


def check_recovery(*, type: str, threshold: float, recovery_threshold: float | None) -> None:
    """Raise ``InvalidInput`` when a recovery lies on the bad side: such an incident would end before it begins."""
    if recovery_threshold is None:
        return
    below = TYPES[type].direction is Direction.BELOW
    wrong = recovery_threshold < threshold if below else recovery_threshold > threshold
    if wrong:
        detail = "recovery_threshold lies on the healthy side of threshold."
        raise InvalidInput(FieldProblem("#/recovery_threshold", "wrong_side", detail))


def check_scope(*, type: str, cluster: Cluster | None, tenant: Tenant | None, gpu_model: str) -> None:
    """Raise ``InvalidInput`` for a scope that the type's subjects don't have: such a rule would never fire."""
    given = {"cluster": cluster, "tenant": tenant, "gpu_model": gpu_model}
    wrong = sorted(name for name, value in given.items() if value and name not in TYPES[type].scopes)
    known = ", ".join(sorted(TYPES[type].scopes)) or "the fleet alone"
    if wrong:
        detail = f"{type} has no such scope. It has: {known}."
        pointers = {"cluster": "#/cluster_id", "tenant": "#/tenant_id", "gpu_model": "#/gpu_model"}
        raise InvalidInput(*(FieldProblem(pointers[name], "wrong_scope", detail) for name in wrong))


def _lock_rule(rule_id: int) -> AlertRule:
    rule = AlertRule.objects.select_for_update().filter(pk=rule_id).first()
    if rule is None:
        raise NotFound
    return rule


def _save(rule: AlertRule) -> None:
    try:
        with transaction.atomic():
            rule.save()
    except IntegrityError as error:
        raise RuleNameTaken(f"There is a rule named {rule.name!r}.") from error
