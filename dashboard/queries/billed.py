"""What of the sold time stands on invoices, valued as the ledger's time is: held time at the locked price."""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final

from django.db import connection

from dashboard.queries.prices import in_millionths

# A range is cut at midnights only where days are asked for: ``day`` is then one row a day that it touches.
BILLED: Final = """
    SELECT CASE WHEN %(by_day)s THEN day END AS on_day, invoice.tenant_id, line.gpu_model, line.price_per_gpu_hour,
           invoice.status <> 'draft' AS finalised, invoice.status = 'paid' AS paid,
           (extract(epoch FROM sum(upper(span) - lower(span))) * 1000000)::bigint
      FROM billing_billedrange AS billed
      JOIN billing_invoiceline AS line ON line.id = billed.line_id
      JOIN billing_invoice AS invoice ON invoice.id = line.invoice_id
     CROSS JOIN LATERAL (SELECT billed.during * tstzrange(%(start)s, %(end)s) AS part) AS clipped
     CROSS JOIN LATERAL (
           SELECT (midnight AT TIME ZONE 'UTC')::date AS day,
                  part * tstzrange(midnight, midnight + interval '24 hours') AS span
             FROM generate_series(date_trunc('day', lower(part), 'UTC'), upper(part), interval '24 hours') AS midnight
            WHERE %(by_day)s
            UNION ALL
           SELECT NULL, part WHERE NOT %(by_day)s
           ) AS piece
     WHERE billed.during && tstzrange(%(start)s, %(end)s)
       AND billed.released_at IS NULL
       AND invoice.currency = %(currency)s
       AND NOT isempty(span)
     GROUP BY on_day, invoice.tenant_id, line.gpu_model, line.price_per_gpu_hour, finalised, paid
"""


@dataclass(frozen=True, slots=True)
class Billed:
    """Time on invoices. ``finalised``: not on a draft; ``paid``: its invoice is. ``day`` is None unless asked for."""

    day: date | None
    tenant_id: int
    model: str
    finalised: bool
    paid: bool
    microseconds: int
    worth: int


def billed_time(currency: str, *, start: datetime, end: datetime, by_day: bool) -> list[Billed]:
    """The time in ``[start, end)`` that invoices of one currency hold, void ones apart. One query."""
    parameters: dict[str, Any] = {"currency": currency, "start": start, "end": end, "by_day": by_day}
    with connection.cursor() as cursor:
        cursor.execute(BILLED, parameters)
        rows = cursor.fetchall()
    return [
        Billed(day, tenant_id, model, finalised, paid, held, held * in_millionths(price))
        for day, tenant_id, model, price, finalised, paid, held in rows
    ]
