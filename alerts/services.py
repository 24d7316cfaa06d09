"""Rules are made and changed, evaluated, silenced; incidents are opened, fired, resolved and acknowledged."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, transaction

from alerts.conditions import Condition, Decision, Direction, OpenIncident, decide
from alerts.models import AlertEvent, AlertRule, EventStatus, Severity
from alerts.queries import KINDS, Reading
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
) -> AlertRule:
    """Add a rule. Raises ``RuleNameTaken``, and ``InvalidInput`` for a recovery on the wrong side."""
    check_recovery(type=type, threshold=threshold, recovery_threshold=recovery_threshold)
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
        created_at=now,
    )
    return _save(rule)


@transaction.atomic
def update_rule(*, rule_id: int, changes: dict[str, Any], now: datetime) -> AlertRule:
    """Change a rule; one that is turned off resolves its incidents. Raises ``NotFound`` and as ``create_rule``."""
    rule = _lock_rule(rule_id)
    for name in EDITABLE:
        if name in changes:
            setattr(rule, name, changes[name])
    check_recovery(type=rule.type, threshold=rule.threshold, recovery_threshold=rule.recovery_threshold)
    if not rule.enabled:
        _end_incidents(rule, now=now)
    return _save(rule)


@transaction.atomic
def switch_rules(*, rule_ids: Iterable[int], enabled: bool, now: datetime) -> int:
    """Turn rules on or off; those turned off resolve their incidents. Returns how many there were."""
    rules = AlertRule.objects.select_for_update().filter(pk__in=list(rule_ids)).order_by("pk")
    for rule in rules:
        rule.enabled = enabled
        rule.save(update_fields=["enabled"])
        if not enabled:
            _end_incidents(rule, now=now)
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
    """Let a rule open no incident until then, at most 7 days. Raises ``InvalidInput``, ``NotFound``."""
    if not now < until <= now + LONGEST_SILENCE:
        detail = f"until lies in the future, at most {LONGEST_SILENCE.days} days ahead."
        raise InvalidInput(FieldProblem("#/until", "out_of_range", detail))
    rule = _lock_rule(rule_id)
    rule.silenced_until, rule.silenced_by, rule.silence_reason = until, actor, reason
    return _save(rule)


@transaction.atomic
def acknowledge_event(*, event_id: int, actor: str, tenant_id: int | None, now: datetime) -> AlertEvent:
    """Note who has seen an incident; the first one stays. Raises ``NotFound``, also for another tenant's."""
    events = AlertEvent.objects.select_for_update().exclude(status=EventStatus.PENDING)
    if tenant_id is not None:
        events = events.filter(tenant_id=tenant_id)
    event = events.filter(pk=event_id).first()
    if event is None:
        raise NotFound
    if event.acknowledged_at is None:
        event.acknowledged_at, event.acknowledged_by = now, actor
        event.save(update_fields=["acknowledged_at", "acknowledged_by"])
    return event


def acknowledge_events(*, event_ids: Iterable[int], actor: str, now: datetime) -> int:
    """Note who has seen these incidents, where nobody had. Returns how many were new."""
    unseen = AlertEvent.objects.exclude(status=EventStatus.PENDING).filter(acknowledged_at__isnull=True)
    return unseen.filter(pk__in=list(event_ids)).update(acknowledged_at=now, acknowledged_by=actor)


def evaluate_rules(*, now: datetime) -> int:
    """Evaluate every enabled rule: one query a type in use, whatever the number of rules. Returns changes made.

    Two workers at once do no harm: an incident is opened under a unique index, and each step is a
    compare-and-set that only one of them wins.
    """
    rules = list(AlertRule.objects.filter(enabled=True).order_by("pk"))
    readings = {kind: KINDS[kind].read(now) for kind in {rule.type for rule in rules}}
    return sum(_evaluate_rule(rule, readings[rule.type], now) for rule in rules)


@transaction.atomic
def _evaluate_rule(rule: AlertRule, readings: Iterable[Reading], now: datetime) -> int:
    by_subject = {reading.subject: reading for reading in readings if _in_scope(rule, reading)}
    incidents = {event.subject: event for event in rule.events.exclude(status=EventStatus.RESOLVED)}
    changes = sum(
        _evaluate_subject(rule, reading, incidents.get(subject), now) for subject, reading in by_subject.items()
    )
    gone = [event for subject, event in incidents.items() if subject not in by_subject]
    return changes + sum(_close(event, now) for event in gone)


def _in_scope(rule: AlertRule, reading: Reading) -> bool:
    return (rule.cluster_id is None or rule.cluster_id == reading.cluster_id) and (
        rule.tenant_id is None or rule.tenant_id == reading.tenant_id
    )


def _evaluate_subject(rule: AlertRule, reading: Reading, event: AlertEvent | None, now: datetime) -> int:
    condition = Condition(
        direction=KINDS[rule.type].direction,
        threshold=rule.threshold,
        recovery_threshold=rule.recovery_threshold,
        for_duration=timedelta(seconds=rule.for_seconds),
    )
    incident = None if event is None else OpenIncident(event.status == EventStatus.FIRING, event.since)
    decision = decide(condition, incident, reading.value, now=now)
    if event is None:
        return _open(rule, reading, decision, now)
    return _advance(event, rule, reading, decision, now)


def _open(rule: AlertRule, reading: Reading, decision: Decision, now: datetime) -> int:
    silenced = rule.silenced_until is not None and rule.silenced_until > now
    if silenced or decision not in (Decision.OPEN, Decision.FIRE) or reading.value is None:
        return 0
    firing = decision is Decision.FIRE
    event = AlertEvent(
        rule=rule,
        subject=reading.subject,
        tenant_id=reading.tenant_id,
        status=EventStatus.FIRING if firing else EventStatus.PENDING,
        value=reading.value,
        message=_message(rule, reading, reading.value),
        since=now,
        fired_at=now if firing else None,
    )
    # Another worker may have opened it meanwhile; then the unique index keeps his and drops ours.
    AlertEvent.objects.bulk_create([event], ignore_conflicts=True)
    return 1


def _advance(event: AlertEvent, rule: AlertRule, reading: Reading, decision: Decision, now: datetime) -> int:
    if decision in (Decision.DROP, Decision.RESOLVE):
        return _close(event, now)
    if decision not in (Decision.FIRE, Decision.UPDATE) or reading.value is None:
        return 0
    changes: dict[str, Any] = {"value": reading.value, "message": _message(rule, reading, reading.value)}
    if decision is Decision.FIRE:
        changes |= {"status": EventStatus.FIRING, "fired_at": now}
    return AlertEvent.objects.filter(pk=event.pk, status=event.status).update(**changes)


def _close(event: AlertEvent, now: datetime) -> int:
    """A fired incident is resolved and stays; one that never fired leaves no trace."""
    same = AlertEvent.objects.filter(pk=event.pk, status=event.status)
    if event.status == EventStatus.PENDING:
        return same.delete()[0]
    return same.update(status=EventStatus.RESOLVED, resolved_at=now)


def _message(rule: AlertRule, reading: Reading, value: float) -> str:
    return KINDS[rule.type].sentence.format(name=reading.name, value=value, threshold=rule.threshold)[:500]


def check_recovery(*, type: str, threshold: float, recovery_threshold: float | None) -> None:
    """Raise ``InvalidInput`` when a recovery lies on the bad side: such an incident would end before it begins."""
    if recovery_threshold is None:
        return
    below = KINDS[type].direction is Direction.BELOW
    wrong = recovery_threshold < threshold if below else recovery_threshold > threshold
    if wrong:
        detail = "recovery_threshold lies on the healthy side of threshold."
        raise InvalidInput(FieldProblem("#/recovery_threshold", "wrong_side", detail))


def _lock_rule(rule_id: int) -> AlertRule:
    rule = AlertRule.objects.select_for_update().filter(pk=rule_id).first()
    if rule is None:
        raise NotFound
    return rule


def _end_incidents(rule: AlertRule, *, now: datetime) -> None:
    for event in rule.events.exclude(status=EventStatus.RESOLVED):
        _close(event, now)


def _save(rule: AlertRule) -> AlertRule:
    try:
        with transaction.atomic():
            rule.save()
    except IntegrityError as error:
        raise RuleNameTaken(f"There is a rule named {rule.name!r}.") from error
    return rule
