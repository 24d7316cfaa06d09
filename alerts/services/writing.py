"""How an evaluation's decisions are written down: set-based, each a compare-and-set on the incident's status."""

from collections.abc import Sequence
from typing import Any

from django.db import connection

from alerts.models import AlertEvent, EventStatus

COLUMNS = {
    "id": "bigint",
    "status": "text",
    "name": "text",
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


def write_changes(
    *, opened: Sequence[AlertEvent], changed: Sequence[tuple[AlertEvent, str]], dropped: Sequence[AlertEvent]
) -> int:
    """Write what was decided. Returns how many incidents are new, different or gone."""
    # Where another evaluator has opened the same incident, the unique index keeps his and drops ours.
    AlertEvent.objects.bulk_create(opened, ignore_conflicts=True, batch_size=1000)
    gone = AlertEvent.objects.filter(pk__in=[event.pk for event in dropped], status=EventStatus.PENDING)
    return len(opened) + _change(changed) + gone.delete()[0]


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
