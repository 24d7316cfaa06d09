"""Faults of GPUs that a service-level rule gives something back for: which billed seconds, on which invoice.

- A fault is one period of the GPU's states, of a state and with a reason that the rule names, that began at the rule's
  ``effective_from`` or later and has lasted longer than the rule allows. One that goes on still counts up to now.
- It concerns the allocations that held the GPU during it. Of each, the rule names the billed seconds: those of the
  fault, all of the allocation's, or those of the UTC days that the fault touched while the GPU was held.
- A tenant's own rule comes before its plan's, and that before everybody's; then the larger share; then the older rule.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from django.db import connection

FAULTS = """
    SELECT invoice.id, rule.id, period.id, period.gpu_id, period.state, period.reason,
           lower(period.during), upper(period.during),
           billed.id, lower(span), upper(span)
      FROM billing_servicelevel AS rule
      JOIN clusters_gpustateperiod AS period
        ON period.state = ANY (rule.states)
       AND starts_with(period.reason, rule.reason_starts_with)
       AND lower(period.during) >= rule.effective_from
       AND coalesce(upper(period.during), %(now)s) - lower(period.during)
           > rule.longer_than_seconds * interval '1 second'
      JOIN jobs_allocation AS allocation ON allocation.gpu_id = period.gpu_id AND allocation.during && period.during
      JOIN tenants_tenant AS tenant
        ON tenant.id = allocation.tenant_id
       AND (rule.tenant_id = tenant.id OR rule.tenant_id IS NULL AND rule.plan_tier IN ('', tenant.plan_tier))
      JOIN billing_billedrange AS billed ON billed.allocation_id = allocation.id AND billed.released_at IS NULL
      JOIN billing_invoiceline AS line ON line.id = billed.line_id
      JOIN billing_invoice AS invoice ON invoice.id = line.invoice_id
     CROSS JOIN LATERAL (
           SELECT period.during * allocation.during * tstzrange(NULL, %(now)s) AS held
           ) AS met
     CROSS JOIN LATERAL (
           SELECT billed.during * CASE rule.basis
                  WHEN 'overlap' THEN held
                  WHEN 'allocation' THEN allocation.during
                  ELSE tstzrange(date_trunc('day', lower(held), 'UTC'),
                                 date_trunc('day', upper(held) - interval '1 microsecond', 'UTC') + interval '24 hours')
                  END AS span
           ) AS given
     WHERE rule.enabled AND rule.credit_percent > 0
       AND invoice.status IN ('open', 'paid', 'uncollectible')
       AND invoice.finalised_at >= %(since)s
       AND (%(invoices)s::bigint[] IS NULL OR invoice.id = ANY (%(invoices)s))
       AND NOT isempty(held) AND NOT isempty(span)
       AND NOT EXISTS (SELECT FROM billing_creditnote AS note
                        WHERE note.invoice_id = invoice.id AND note.service_level_id = rule.id
                          AND note.fault_id = period.id AND note.status <> 'withdrawn')
     ORDER BY invoice.id, rule.tenant_id IS NULL, rule.plan_tier = '', rule.credit_percent DESC, rule.id, period.id,
              billed.id, lower(span)
"""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault under a rule on an invoice, none of which a note speaks of yet. ``spans``: (billed range, from, to)."""

    invoice_id: int
    rule_id: int
    period_id: int
    gpu_id: int
    state: str
    reason: str
    began: datetime
    ended: datetime | None
    spans: tuple[tuple[int, datetime, datetime], ...]


def unjudged_faults(*, since: datetime, now: datetime, invoice_ids: Collection[int] | None = None) -> list[Fault]:
    """The faults that touch invoices finalised since ``since``, in the order in which rules come; one query."""
    parameters = {"since": since, "now": now, "invoices": None if invoice_ids is None else list(invoice_ids)}
    with connection.cursor() as cursor:
        cursor.execute(FAULTS, parameters)
        rows = cursor.fetchall()
    return [_fault(key, group) for key, group in groupby(rows, key=lambda row: row[:8])]


def _fault(key: tuple[Any, ...], rows: Iterable[tuple[Any, ...]]) -> Fault:
    invoice_id, rule_id, period_id, gpu_id, state, reason, began, ended = key
    spans = tuple((billed_id, start, end) for *_, billed_id, start, end in rows)
    return Fault(invoice_id, rule_id, period_id, gpu_id, state, reason, began, ended, spans)
