"""What explains an incident: it hangs under another, and nobody is told of both.

A silent node explains whatever else is wrong on it. It also explains an incident of its cluster or of the fleet, which
have no node, where that would not have fired but for silent nodes: a cluster that is ill besides still wakes somebody.
A late scheduler explains every job that waits for it. An incident without a node hangs only under one that wakes all
whom it would wake itself: not under one whose rule is silenced, nor under one that goes to other channels.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from django.db import connection

from alerts.models import AlertEvent, AlertRule, Channel, EventStatus, RuleType
from alerts.services.telling import audiences_of, in_route
from alerts.types import AlertType
from clusters.models import Node

# Whose explanation has ended stands for itself again.
EXPLAIN = """
    UPDATE alerts_alertevent AS child
       SET parent_id = silence.id
      FROM (SELECT node_id, min(event.id) AS id
              FROM alerts_alertevent AS event
              JOIN alerts_alertrule AS rule ON rule.id = event.rule_id
             WHERE event.status = 'firing' AND rule.type = 'node_silent'
             GROUP BY node_id) AS silence, alerts_alertrule AS rule
     WHERE child.status = 'firing' AND child.node_id = silence.node_id AND child.parent_id IS NULL
       AND rule.id = child.rule_id AND rule.type = %(type)s AND rule.type <> 'node_silent'
"""
RELEASE = """
    UPDATE alerts_alertevent AS child
       SET parent_id = NULL
      FROM alerts_alertevent AS parent, alerts_alertrule AS rule
     WHERE rule.id = child.rule_id AND rule.type = %(type)s
       AND parent.id = child.parent_id AND child.status = 'firing' AND parent.status <> 'firing'
"""
# A node that fell silent so lately is about to have an incident of its own: until then it counts as explained, or its
# cluster would wake somebody a moment before it does.
LATELY = timedelta(minutes=5)


def explain_incidents(kind: AlertType, *, now: datetime) -> int:
    """Hang a type's incidents under what explains them, and let go of those whose explanation has ended or is no
    longer all that is wrong. Returns how many moved. Under the type's lock, before it tells."""
    if kind.explained_by is not None:
        return _explain_without_node(kind, kind.explained_by, now)
    with connection.cursor() as cursor:
        cursor.execute(RELEASE, {"type": kind.code})
        released: int = cursor.rowcount
        cursor.execute(EXPLAIN, {"type": kind.code})
        explained: int = cursor.rowcount
    return released + explained


def _explain_without_node(kind: AlertType, by: RuleType, now: datetime) -> int:
    firing = AlertEvent.objects.filter(status=EventStatus.FIRING).select_related("rule").order_by("pk")
    # Read before the values are: a node whose incident has ended by now is back in them.
    causes = list(firing.filter(rule__type=by))
    known = firing.filter(rule__type=kind.code)
    incidents = list(known if causes else known.filter(parent__isnull=False))
    if not incidents:
        return 0
    search = _Search(kind, causes, _Hearing([*causes, *incidents]), now)
    moved: dict[int | None, list[int]] = defaultdict(list)
    for event in incidents:
        parent_id = search.parent_of(event)
        if parent_id != event.parent_id:
            moved[parent_id].append(event.pk)
    for parent_id, ids in moved.items():
        AlertEvent.objects.filter(pk__in=ids, status=EventStatus.FIRING).update(parent=parent_id)
    return sum(map(len, moved.values()))


class _Hearing:
    """Whom each incident would wake: the channels that take its rule and its place."""

    def __init__(self, events: Sequence[AlertEvent]) -> None:
        rules = {event.rule_id: event.rule for event in events}
        self._audiences = audiences_of(list(rules.values()), list(Channel.objects.filter(enabled=True)))
        self._known: dict[Any, frozenset[int]] = {}

    def of(self, event: AlertEvent) -> frozenset[int]:
        """The ids of the channels."""
        key = (event.rule_id, event.cluster_id, event.tenant_id, event.gpu_model)
        if key not in self._known:
            self._known[key] = frozenset(c.pk for c in self._audiences[event.rule_id] if in_route(c, event))
        return self._known[key]


class _Search:
    """Looks for what explains incidents of one type among the incidents of another. What it asks of the database it
    asks once for all that would wake the same people."""

    def __init__(self, kind: AlertType, causes: Sequence[AlertEvent], hearing: _Hearing, now: datetime) -> None:
        self._kind, self._hearing, self._now = kind, hearing, now
        self._causes = [cause for cause in causes if not _is_silenced(cause.rule, now)]
        self._able = cache(self._find_able)
        self._values_without = cache(self._ask_without)

    def parent_of(self, event: AlertEvent) -> int | None:
        """The id of the incident under which it belongs now."""
        able = self._able(self._hearing.of(event))
        near = [cause.pk for cause in able if cause.cluster_id is None or event.cluster_id in (None, cause.cluster_id)]
        if self._stands_alone(event, able, near):
            return None
        return event.parent_id if event.parent_id in near or not near else near[0]

    def _find_able(self, wakes: frozenset[int]) -> Sequence[AlertEvent]:
        return [cause for cause in self._causes if wakes <= self._hearing.of(cause)]

    def _stands_alone(self, event: AlertEvent, able: Sequence[AlertEvent], near: Sequence[int]) -> bool:
        if self._kind.explained_by != RuleType.NODE_SILENT:
            return not near
        if not near and (event.parent_id is None or event.told_at is not None):
            return True
        nodes = frozenset(cause.node_id for cause in able if cause.node_id is not None)
        rest = self._values_without(nodes).get(event.subject)
        return rest is not None and self._kind.condition_of(event.rule).is_met(rest)

    def _ask_without(self, nodes: frozenset[int]) -> Mapping[str, float]:
        fallen = Node.objects.filter(silent=True, last_heartbeat_at__gt=self._now - LATELY)
        return self._kind.without(nodes.union(fallen.values_list("pk", flat=True)), self._now)


def _is_silenced(rule: AlertRule, now: datetime) -> bool:
    return rule.silenced_until is not None and rule.silenced_until > now
