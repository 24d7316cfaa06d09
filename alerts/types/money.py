"""What goes wrong with money."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import product

from django.db import connection
from django.db.models import Count, Exists, OuterRef

from alerts.models import RuleType
from alerts.types.base import AlertType, Place, Reading, id_in
from alerts.types.past import Points, Window, stepped
from alerts.types.prices import CURRENCY, LIST_PRICES, list_prices
from billing.models import OutboxMessage, OutboxStatus
from clusters.models import GPU
from jobs.models import Allocation

# A dead letter will not go by itself: it counts as waiting for at least a day.
STUCK = """
    SELECT message.invoice_id, coalesce(invoice.particulars ->> 'number', invoice.number::text), tenant.name,
           extract(epoch FROM max(CASE WHEN message.status = 'dead'
                                       THEN greatest(%(now)s - message.created_at, interval '1 day')
                                       ELSE %(now)s - message.created_at END))::float8 / 60
      FROM billing_outboxmessage AS message
      JOIN billing_invoice AS invoice ON invoice.id = message.invoice_id
      JOIN tenants_tenant AS tenant ON tenant.id = invoice.tenant_id
     WHERE message.status <> 'done'
     GROUP BY message.invoice_id, invoice.id, tenant.name
"""


# What each GPU in service is worth an hour at the list price of the time, less those that are sold at a price.
LEAKED = """
    SELECT price.amount, period.during * price.during AS during
      FROM clusters_gpustateperiod AS period
      JOIN clusters_gpu AS gpu ON gpu.id = period.gpu_id
      JOIN clusters_node AS node ON node.id = gpu.node_id
      JOIN ({prices}) AS price ON price.gpu_model = gpu.model AND price.during && period.during
     WHERE period.during && %(touched)s AND {scope}
     UNION ALL
    SELECT -price.amount, held.during * price.during
      FROM jobs_allocation AS held
      JOIN clusters_gpu AS gpu ON gpu.id = held.gpu_id
      JOIN clusters_node AS node ON node.id = gpu.node_id
      JOIN ({prices}) AS price ON price.gpu_model = gpu.model AND price.during && held.during
     WHERE held.during && %(touched)s AND held.price_per_gpu_hour IS NOT NULL AND {scope}
"""
IN_SCOPE = (
    """(%(cluster)s::bigint IS NULL OR node.cluster_id = %(cluster)s) AND (%(model)s = '' OR gpu.model = %(model)s)"""
)


class LeakageRate(AlertType):
    """List price an hour of what is in service and not sold, or sold without a price: of the fleet, of each cluster,
    of each GPU model, and of each model in each cluster."""

    code = RuleType.LEAKAGE_RATE
    scopes = frozenset({"cluster", "gpu_model"})
    sums = True
    explained_by = RuleType.NODE_SILENT
    sentence = "{name} loses {value:.2f} " + CURRENCY + " an hour to unsold capacity (limit {threshold:g})."
    figure = ("Unsold capacity", f"{CURRENCY} an hour")
    remedy = "GET /api/dashboard/leakage ranks the causes, with the rows behind each and what to do."

    def read(self, now: datetime) -> list[Reading]:
        """A reading of each sum. Three queries."""
        return self._sums(now)

    def without(self, nodes: Collection[int], now: datetime) -> Mapping[str, float]:
        """Of all other nodes' GPUs. Three queries."""
        return {reading.subject: reading.value or 0.0 for reading in self._sums(now, apart_from=nodes)}

    def _sums(self, now: datetime, apart_from: Collection[int] = ()) -> list[Reading]:
        sold = Allocation.objects.filter(gpu=OuterRef("pk"), during__upper_inf=True, price_per_gpu_hour__isnull=False)
        rows = (
            GPU.objects.filter(retired_at__isnull=True)
            .exclude(node__in=apart_from)
            .annotate(sold=Exists(sold))
            .order_by()
            .values_list("sold", "node__cluster_id", "node__cluster__name", "model")
            .annotate(gpus=Count("pk"))
        )
        prices, names = list_prices(now), dict[int, str]()
        sums: dict[tuple[int | None, str], Decimal] = defaultdict(Decimal)
        for is_sold, cluster_id, cluster, model, gpus in rows:
            names[cluster_id] = cluster
            for key in set(product((None, cluster_id), ("", model))):  # A set, since a model may be unnamed.
                sums[key] += 0 if is_sold else prices.get(model, Decimal()) * gpus
        return [self._sum(key, amount, names) for key, amount in sums.items()]

    def past(self, subject: str, place: Place, window: Window) -> Points:
        """At the list prices of the time. One query."""
        spans = LEAKED.format(prices=LIST_PRICES, scope=IN_SCOPE)
        scope = {"cluster": place.cluster_id, "model": place.gpu_model, "currency": CURRENCY}
        return list(zip(window.instants, map(float, stepped(spans, scope, window)), strict=True))

    def _sum(self, key: tuple[int | None, str], amount: Decimal, names: dict[int, str]) -> Reading:
        cluster_id, model = key
        where = "the fleet" if cluster_id is None else f"cluster {names[cluster_id]}"
        subject = "fleet" if cluster_id is None else f"cluster:{cluster_id}"
        if model:
            where, subject = f"{model} of {where}", f"{subject}/gpu_model:{model}"
        return Reading(subject, where, float(amount), Place(cluster_id, gpu_model=model), amount, CURRENCY)


class InvoiceSyncFailed(AlertType):
    """Minutes that the oldest unfinished step of each invoice waits to reach Stripe; a dead letter counts as a day."""

    code = RuleType.INVOICE_SYNC_FAILED
    scopes = frozenset()
    sentence = "{name} has not reached Stripe within {threshold:g} min, or Stripe has refused it."
    figure = ("On its way to Stripe", "min")
    remedy = "The invoice's outbox says what Stripe answered; mend it and try the step again from the console."

    def read(self, now: datetime) -> list[Reading]:
        """The invoices that are on their way. One query."""
        with connection.cursor() as cursor:
            cursor.execute(STUCK, {"now": now})
            rows = cursor.fetchall()
        return [
            Reading(f"invoice:{pk}", f"invoice {number} of {tenant}", minutes) for pk, number, tenant, minutes in rows
        ]

    def past(self, subject: str, place: Place, window: Window) -> Points:
        """The oldest step that was not done at the time; a dead letter counts as a day all along. One query."""
        messages = OutboxMessage.objects.filter(invoice_id=id_in(subject))
        steps = list(messages.values_list("created_at", "done_at", "status"))
        return (
            [(at, max((_waited(step, at) for step in steps), default=0.0)) for at in window.instants] if steps else []
        )


def _waited(step: tuple[datetime, datetime | None, str], at: datetime) -> float:
    created_at, done_at, status = step
    if at < created_at or (done_at is not None and done_at <= at):
        return 0.0
    minutes = (at - created_at) / timedelta(minutes=1)
    return max(minutes, 1440.0) if status == OutboxStatus.DEAD else minutes
