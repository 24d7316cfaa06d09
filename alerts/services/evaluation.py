"""The evaluation: what the rules see becomes incidents, which fire once and resolve once.

A rule costs a search among readings that are sorted once, and work only for subjects in trouble and open incidents.
Each type is a transaction of its own under a lock of its own: two evaluators share the types between them, a killed
one's work is done by the next, and a type whose query fails holds up no other.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog
from django.db import DatabaseError, transaction
from django.db.models import Count

from alerts.conditions import FLAP_HOLD, FLAP_WINDOW, FLAPS, Condition, Decision, OpenIncident, decide
from alerts.models import AlertEvent, AlertRule, EventStatus, RuleEvaluation
from alerts.services.explaining import explain_incidents
from alerts.services.telling import tell
from alerts.services.writing import write_changes
from alerts.types import TYPES, AlertType, Reading
from alerts.types.book import ReadingBook
from gpufleet.common.locks import try_lock_name

logger = structlog.stdlib.get_logger(__name__)

HELD = f" It comes and goes, so it is held until it has been well for {FLAP_HOLD // timedelta(minutes=1)} min."


def evaluate_rules(*, now: datetime) -> int:
    """Evaluate every enabled rule, relate the incidents to what explains them, and put the news into the outbox.

    Returns how many rows changed. Several may run at once: each type is evaluated by one.
    """
    return sum(_guarded(kind, now) for kind in TYPES.values())


def _guarded(kind: AlertType, now: datetime) -> int:
    """The other types go on when one fails; that it did shows in its rules' ``evaluated_at``, and in /metrics."""
    try:
        return _evaluate_type(kind, now)
    except DatabaseError:
        logger.exception("a type of rules could not be evaluated", type=kind.code)
        return 0


@transaction.atomic
def _evaluate_type(kind: AlertType, now: datetime) -> int:
    """What fires is told in the same transaction, so that nothing ends before it was told of."""
    if not try_lock_name(f"alerts.evaluate.{kind.code}"):
        return 0
    # Locked, so that a rule is not disabled while incidents open under it.
    rules = list(AlertRule.objects.filter(enabled=True, type=kind.code).order_by("pk").select_for_update(no_key=True))
    changes = _move_incidents(kind, rules, now) if rules else 0
    return changes + explain_incidents(kind, now=now) + tell(kind.code, now=now)


def _move_incidents(kind: AlertType, rules: Sequence[AlertRule], now: datetime) -> int:
    turn = _Turn(kind, ReadingBook(kind.read(now), sums=kind.sums), now, _open_incidents(rules))
    seen = [turn.evaluate(rule) for rule in rules]
    turn.mark_flapping(rules)
    RuleEvaluation.objects.bulk_create(
        seen,
        update_conflicts=True,
        unique_fields=["rule"],
        update_fields=["evaluated_at", "subjects", "in_trouble", "missing"],
    )
    return write_changes(opened=turn.opened, changed=turn.changed, dropped=turn.dropped)


def _open_incidents(rules: Collection[AlertRule]) -> dict[int, dict[str, AlertEvent]]:
    incidents: dict[int, dict[str, AlertEvent]] = defaultdict(dict)
    for event in AlertEvent.objects.filter(rule__in=rules).exclude(status=EventStatus.RESOLVED).order_by("pk"):
        incidents[event.rule_id][event.subject] = event
    return incidents


@dataclass(slots=True)
class _Turn:
    """One evaluation of one type: decides on incidents in memory, and gathers what is to be written."""

    kind: AlertType
    book: ReadingBook
    now: datetime
    incidents: dict[int, dict[str, AlertEvent]]
    opened: list[AlertEvent] = field(default_factory=list)
    # With the status that each incident had when it was read.
    changed: list[tuple[AlertEvent, str]] = field(default_factory=list)
    dropped: list[AlertEvent] = field(default_factory=list)
    fired: list[AlertEvent] = field(default_factory=list)

    def evaluate(self, rule: AlertRule) -> RuleEvaluation:
        """Decide on every subject that is in trouble or has an open incident; the others need no look."""
        condition, known = self.kind.condition_of(rule), self.incidents.get(rule.pk, {})
        watched = self.book.watched_by(rule)
        troubled = watched.in_trouble(condition)
        for event in known.values():
            self._advance(event, rule, condition)
        for reading in troubled:
            if reading.subject not in known:
                self._open(rule, reading, condition)
        subjects = len(watched.readings) + watched.missing
        return RuleEvaluation(
            rule=rule, evaluated_at=self.now, subjects=subjects, in_trouble=len(troubled), missing=watched.missing
        )

    def mark_flapping(self, rules: Collection[AlertRule]) -> None:
        """Hold those that fire now and came and went too often before. One query."""
        ended = AlertEvent.objects.filter(
            rule__in=rules,
            subject__in={event.subject for event in self.fired},
            status=EventStatus.RESOLVED,
            resolved_at__gt=self.now - FLAP_WINDOW,
        )
        counts = {
            (rule_id, subject): count
            for rule_id, subject, count in ended.order_by().values_list("rule_id", "subject").annotate(n=Count("pk"))
        }
        for event in self.fired:
            event.flapping = counts.get((event.rule_id, event.subject), 0) >= FLAPS
            if event.flapping:
                event.message = (event.message[: 500 - len(HELD)]) + HELD

    def _open(self, rule: AlertRule, reading: Reading, condition: Condition) -> None:
        decision = decide(condition, None, reading.value, now=self.now)
        event = AlertEvent(rule=rule, subject=reading.subject, status=EventStatus.PENDING, since=self.now)
        event.cluster_id, event.node_id = reading.place.cluster_id, reading.place.node_id
        event.tenant_id, event.gpu_model = reading.place.tenant_id, reading.place.gpu_model
        self._take(event, rule, reading)
        if decision is Decision.FIRE:
            self._fire(event)
        self.opened.append(event)

    def _advance(self, event: AlertEvent, rule: AlertRule, condition: Condition) -> None:
        reading, was = self.book.by_subject.get(event.subject), _as_written(event)
        status = event.status
        if reading is None or not self.book.covers(rule, reading):
            decision = Decision.RESOLVE if status == EventStatus.FIRING else Decision.DROP
        else:
            incident = OpenIncident(
                status == EventStatus.FIRING,
                event.since,
                event.flapping,
                event.calm_since,
                unheard=event.parent_id is not None and event.told_at is None,
            )
            decision = decide(condition, incident, reading.value, now=self.now)
        if decision is Decision.DROP:
            self.dropped.append(event)
            return
        self._apply(decision, event, rule, reading)
        if _as_written(event) != was:
            self.changed.append((event, status))

    def _apply(self, decision: Decision, event: AlertEvent, rule: AlertRule, reading: Reading | None) -> None:
        if decision is Decision.MISS:
            event.missing_since = event.missing_since or self.now
            return
        event.missing_since = None
        if decision is Decision.RESOLVE:
            event.status, event.resolved_at = EventStatus.RESOLVED, self.now
            return
        if reading is not None:
            self._take(event, rule, reading)
        event.calm_since = (event.calm_since or self.now) if decision is Decision.CALM else None
        if decision is Decision.FIRE:
            self._fire(event)

    def _take(self, event: AlertEvent, rule: AlertRule, reading: Reading) -> None:
        event.value = reading.value if reading.value is not None else event.value
        event.name = reading.name[:300]
        event.message = self.kind.say(reading.name, event.value, rule.threshold)[:500]
        if event.flapping:
            event.message = event.message[: 500 - len(HELD)] + HELD
        event.cost_per_hour = None if reading.hourly is None else round(reading.hourly, 2)
        event.currency = "" if reading.hourly is None else reading.currency

    def _fire(self, event: AlertEvent) -> None:
        event.status, event.fired_at = EventStatus.FIRING, self.now
        self.fired.append(event)


def _as_written(event: AlertEvent) -> Sequence[object]:
    """What an evaluation may change of an incident; the same before and after: there is nothing to write."""
    return (
        event.status,
        event.name,
        event.value,
        event.message,
        event.cost_per_hour,
        event.calm_since,
        event.missing_since,
        event.flapping,
    )


def end_incidents(rules: Iterable[AlertRule], *, now: datetime) -> None:
    """What was pending under these rules leaves no trace; what fired is resolved."""
    events = AlertEvent.objects.filter(rule__in=list(rules))
    events.filter(status=EventStatus.PENDING).delete()
    events.filter(status=EventStatus.FIRING).update(status=EventStatus.RESOLVED, resolved_at=now)
