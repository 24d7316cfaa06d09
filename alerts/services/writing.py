"""How an evaluation's decisions are written down: set-based, each a compare-and-set on the incident's status."""

from collections.abc import Sequence
from typing import Any

from django.db import connection

from alerts.models import AlertEvent, EventStatus

COLUMNS = {
    "id": "bigint",
    "status": "text",
    "value": "float8",
    "message": "text",
    "cost_per_hour": "numeric",
    "currency": "text",
    "fired_at": "timestamptz",
    "resolved_at": "timestamptz",
    "flapping": "boolean",
    "calm_since": "timestamptz",
    "missing_since": "timestamptz",
}
CHANGE = f"""
    UPDATE alerts_alertevent AS event
       SET {", ".join(f"{name} = decided.{name}" for name in COLUMNS if name != "id")}
      FROM unnest({", ".join(f"%({name})s::{kind}[]" for name, kind in COLUMNS.items())}, %(was)s::text[])
           AS decided ({", ".join(COLUMNS)}, was)
     WHERE event.id = decided.id AND event.status = decided.was
"""  # noqa: S608  (names of this module alone)

# A silent node explains whatever else is wrong on it. Whose explanation has ended stands for itself again.
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


def write_changes(
    *, opened: Sequence[AlertEvent], changed: Sequence[tuple[AlertEvent, str]], dropped: Sequence[AlertEvent]
) -> int:
    """Write what was decided. Returns how many incidents are new, different or gone."""
    # Where another evaluator has opened the same incident, the unique index keeps his and drops ours.
    AlertEvent.objects.bulk_create(opened, ignore_conflicts=True, batch_size=1000)
    gone = AlertEvent.objects.filter(pk__in=[event.pk for event in dropped], status=EventStatus.PENDING)
    return len(opened) + _change(changed) + gone.delete()[0]


def explain_incidents(kind: str) -> int:
    """Hang a type's incidents on silent nodes under the nodes' own, and let go of those whose node is back."""
    with connection.cursor() as cursor:
        cursor.execute(RELEASE, {"type": kind})
        released: int = cursor.rowcount
        cursor.execute(EXPLAIN, {"type": kind})
        explained: int = cursor.rowcount
    return released + explained


def _change(changed: Sequence[tuple[AlertEvent, str]]) -> int:
    if not changed:
        return 0
    parameters: dict[str, Any] = {name: [getattr(event, name) for event, _ in changed] for name in COLUMNS}
    parameters["status"] = [str(event.status) for event, _ in changed]
    parameters["was"] = [str(was) for _, was in changed]
    with connection.cursor() as cursor:
        cursor.execute(CHANGE, parameters)
        written: int = cursor.rowcount
    return written
