"""What a rule would have read of a subject at the instants of a window, from the ledger: the plot of an incident."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import accumulate
from typing import Any

from django.db import connection
from django.db.backends.postgresql.psycopg_any import DateTimeTZRange

# A point at the beginning, at the end, and this many steps between them.
STEPS = 96

# An instant and what was read at it, the oldest first.
Points = list[tuple[datetime, float]]

# Each range counts from the first instant in it to the last: its place is how many instants lie before its bound.
STEPPED = """
    WITH spans AS MATERIALIZED ({spans})
    SELECT place, sum(change)
      FROM (SELECT width_bucket(lower(during) - interval '1 microsecond', %(instants)s::timestamptz[]) AS place,
                   amount AS change
              FROM spans
             UNION ALL
            SELECT width_bucket(upper(during) - interval '1 microsecond', %(instants)s::timestamptz[]), -amount
              FROM spans
             WHERE NOT upper_inf(during)) AS edges
     GROUP BY place
"""


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time, with the instants that are looked at; ``marks`` are, whatever the others are."""

    start: datetime
    end: datetime
    marks: tuple[datetime, ...] = ()

    @property
    def step(self) -> timedelta:
        """From one instant to the next."""
        return (self.end - self.start) / STEPS

    @property
    def instants(self) -> list[datetime]:
        """From the first to the last, evenly apart, and the marks between them."""
        even = [self.start + self.step * number for number in range(STEPS)] + [self.end]
        return sorted({*even, *(mark for mark in self.marks if self.start < mark < self.end)}) if self.marks else even

    @property
    def touched(self) -> DateTimeTZRange:
        """For the query of all rows that reach into it."""
        return DateTimeTZRange(self.start, self.end, "[]")


def stepped(spans: str, parameters: Mapping[str, Any], window: Window) -> list[Decimal]:
    """The sum, at each instant, of the amounts whose ranges hold it, by one pass over the rows.

    ``spans`` is a query of ``(amount numeric, during tstzrange)``; it may use ``%(touched)s``.
    """
    instants = window.instants
    values = {**parameters, "instants": instants, "touched": window.touched}
    with connection.cursor() as cursor:
        cursor.execute(STEPPED.format(spans=spans), values)
        changes: dict[int, Decimal] = dict(cursor.fetchall())
    return list(accumulate(changes.get(place, Decimal()) for place in range(len(instants))))
