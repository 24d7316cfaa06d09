"""The fleet's ledger, read: what every GPU-second of a window was spent on. All figures of the house come from here.

    registered = sold + idle (could have run | fragmented | held by quota | no demand)
               + draining + maintenance + unhealthy + offline

The identity is exact, in whole microseconds, for any window, cluster, model, node or GPU, since it is computed from
the ranges of the ledger themselves. The rules:

- A second is registered when a state period or an allocation of the GPU covers it. It is sold when an allocation does,
  whatever state the GPU was in; else its state period says what it was.
- An available second that nobody held is idle, and the queue of its cluster says why: the jobs that waited at that
  instant and would have taken the GPU's model. Of several reasons the first in ``DEMAND`` counts, so that a second is
  put down to what the operator can mend soonest. Nobody waited: there was no demand.
- Windows are half-open ``[start, end)``. Open periods count up to the window's end, so a caller who asks for the future
  gets it as if nothing changed; a report ends its window at ``now``.
- Seconds are also told apart by UTC day, and by segment: the stretch of the window between two ``cuts``, such as the
  instants at which a price changed. Segment 0 is the first.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from itertools import pairwise
from typing import Any, Final

from django.db import connection
from django.db.backends.postgresql.psycopg_any import DateTimeTZRange

from clusters.models import GPU
from jobs.models import Job
from jobs.placement import WaitCode, takes

# Which waiting makes an idle second what, in order of precedence. A hold, an inactive tenant and a closed cluster are
# no demand: no GPU, however free, would have been given to such a job.
DEMAND: Final = {
    WaitCode.SCHEDULER: "could_have_run",
    WaitCode.FRAGMENTED: "fragmented",
    WaitCode.CAPACITY: "fragmented",
    WaitCode.QUOTA: "held_by_quota",
}
DAY: Final = timedelta(days=1)


class By(StrEnum):
    """What seconds are told apart by. Tenant and rate are known of sold seconds only."""

    CLUSTER = "cluster"
    MODEL = "model"
    NODE = "node"
    GPU = "gpu"
    DAY = "day"
    SEGMENT = "segment"
    TENANT = "tenant"
    RATE = "rate"


@dataclass(frozen=True, slots=True)
class Scope:
    """A window ``[start, end)`` of the ledger and a part of the fleet; None is all of it."""

    start: datetime
    end: datetime
    clusters: Collection[int] | None = None
    models: Collection[str] | None = None
    cuts: Collection[datetime] = ()


@dataclass(frozen=True, slots=True)
class Group:
    """Whose seconds these are. What was not asked for is None."""

    cluster_id: int | None = None
    model: str | None = None
    node_id: int | None = None
    gpu_id: int | None = None
    day: date | None = None
    segment: int | None = None


@dataclass(frozen=True, slots=True)
class Account:
    """What GPU-time was spent on, in microseconds. ``registered`` is measured by itself, not summed."""

    group: Group
    registered: int = 0
    sold: int = 0
    could_have_run: int = 0
    fragmented: int = 0
    held_by_quota: int = 0
    no_demand: int = 0
    draining: int = 0
    maintenance: int = 0
    unhealthy: int = 0
    offline: int = 0

    @property
    def idle(self) -> int:
        """Available, and nobody's."""
        return self.could_have_run + self.fragmented + self.held_by_quota + self.no_demand


@dataclass(frozen=True, slots=True)
class Sold:
    """GPU-time that was held, in microseconds, and at what locked price; None: the model had none, or not asked."""

    group: Group
    tenant_id: int | None
    rate_id: int | None
    price_per_gpu_hour: Decimal | None
    currency: str
    held: int


@dataclass(frozen=True, slots=True)
class Slot:
    """A part of a window within one segment and, where days are told apart, within one UTC day."""

    start: datetime
    end: datetime
    segment: int

    @property
    def day(self) -> date:
        """The UTC day in which it begins."""
        return self.start.date()


# Every ledger range that touches the window, cut at the bounds of the slots. ``width_bucket`` finds a range's slots by
# binary search, so that a range costs as many rows as the slots it touches.
PIECES = """
WITH bounds AS MATERIALIZED (
    SELECT %(starts)s::timestamptz[] AS starts, %(ends)s::timestamptz[] AS ends
),
unit AS MATERIALIZED (
    SELECT gpu.id AS gpu_id, gpu.node_id, node.cluster_id, gpu.model
      FROM clusters_gpu AS gpu
      JOIN clusters_node AS node ON node.id = gpu.node_id
     WHERE (%(clusters)s::bigint[] IS NULL OR node.cluster_id = ANY(%(clusters)s::bigint[]))
       AND (%(models)s::text[] IS NULL OR gpu.model = ANY(%(models)s::text[]))
),
held AS (
    SELECT gpu_id, slot, tenant_id, rate_id, price_per_gpu_hour, currency, span
      FROM jobs_allocation
      JOIN unit USING (gpu_id)
     CROSS JOIN bounds
     CROSS JOIN LATERAL generate_series(
           greatest(width_bucket(coalesce(lower(during), '-infinity'), starts), 1),
           width_bucket(coalesce(upper(during), 'infinity'), starts)) AS slot
     CROSS JOIN LATERAL (SELECT during * tstzrange(starts[slot], ends[slot]) AS span) AS piece
     WHERE during && tstzrange(%(start)s, %(end)s)
       AND NOT isempty(span)
)
"""

# The pieces of one GPU and slot are merged into multiranges, and states, allocations and the queue's reasons are cut
# out of one another, so that each microsecond lands in one part. ``registered`` is the union of all, measured beside.
RAW = """,
sold AS MATERIALIZED (
    SELECT gpu_id, slot, range_agg(span) AS spans FROM held GROUP BY gpu_id, slot
),
stated AS MATERIALIZED (
    SELECT gpu_id, slot, state, range_agg(span) AS spans
      FROM clusters_gpustateperiod
      JOIN unit USING (gpu_id)
     CROSS JOIN bounds
     CROSS JOIN LATERAL generate_series(
           greatest(width_bucket(coalesce(lower(during), '-infinity'), starts), 1),
           width_bucket(coalesce(upper(during), 'infinity'), starts)) AS slot
     CROSS JOIN LATERAL (SELECT during * tstzrange(starts[slot], ends[slot]) AS span) AS piece
     WHERE during && tstzrange(%(start)s, %(end)s)
       AND NOT isempty(span)
     GROUP BY gpu_id, slot, state
),
unsold AS MATERIALIZED (
    SELECT gpu_id, slot, state, stated.spans - coalesce(sold.spans, '{}') AS spans
      FROM stated LEFT JOIN sold USING (gpu_id, slot)
),
asked AS (
    SELECT job.cluster_id, job.gpu_type, demand.kind, range_agg(wait.during) AS spans
      FROM jobs_waitperiod AS wait
      JOIN jobs_job AS job ON job.id = wait.job_id
      JOIN unnest(%(codes)s::text[], %(kinds)s::text[]) AS demand (code, kind) ON demand.code = wait.code
     WHERE wait.during && tstzrange(%(start)s, %(end)s)
     GROUP BY job.cluster_id, job.gpu_type, demand.kind
),
wanted AS (
    SELECT asked.cluster_id, taken.model,
           coalesce(range_agg(spans) FILTER (WHERE kind = 'could_have_run'), '{}') AS run,
           coalesce(range_agg(spans) FILTER (WHERE kind = 'fragmented'), '{}') AS apart,
           coalesce(range_agg(spans) FILTER (WHERE kind = 'held_by_quota'), '{}') AS quota
      FROM asked
      JOIN unnest(%(types)s::text[], %(taken_models)s::text[]) AS taken (gpu_type, model) USING (gpu_type)
     GROUP BY asked.cluster_id, taken.model
),
demand AS MATERIALIZED (
    SELECT cluster_id, model, slot, reason.kind,
           reason.spans * tstzmultirange(tstzrange(starts[slot], ends[slot])) AS spans
      FROM wanted
     CROSS JOIN bounds
     CROSS JOIN generate_subscripts(starts, 1) AS slot
     CROSS JOIN LATERAL (
           VALUES ('could_have_run', run), ('fragmented', apart - run), ('held_by_quota', quota - apart - run),
                  ('any', run + apart + quota)) AS reason (kind, spans)
),
part AS (
    SELECT gpu_id, slot, 'sold' AS kind, spans FROM sold
    UNION ALL
    SELECT gpu_id, slot, state, spans FROM unsold WHERE state <> 'available'
    UNION ALL
    SELECT gpu_id, slot, demand.kind, unsold.spans * demand.spans
      FROM unsold JOIN unit USING (gpu_id) JOIN demand USING (cluster_id, model, slot)
     WHERE unsold.state = 'available' AND demand.kind <> 'any'
    UNION ALL
    SELECT unsold.gpu_id, unsold.slot, 'no_demand', unsold.spans - coalesce(demand.spans, '{}')
      FROM unsold
      JOIN unit USING (gpu_id)
      LEFT JOIN demand
        ON demand.cluster_id = unit.cluster_id AND demand.model = unit.model AND demand.slot = unsold.slot
       AND demand.kind = 'any'
     WHERE unsold.state = 'available'
    UNION ALL
    SELECT gpu_id, slot, 'registered', range_agg(spans)
      FROM (SELECT gpu_id, slot, spans FROM sold UNION ALL SELECT gpu_id, slot, spans FROM stated) AS known
     GROUP BY gpu_id, slot
),
spent AS (
    SELECT gpu_id, slot, kind, sum(upper(span) - lower(span)) AS duration
      FROM part CROSS JOIN LATERAL unnest(spans) AS span
     GROUP BY gpu_id, slot, kind
)
"""

DIMENSIONS = """
SELECT CASE WHEN 'cluster' = ANY(%(by)s::text[]) THEN cluster_id END AS by_cluster,
       CASE WHEN 'model' = ANY(%(by)s::text[]) THEN model END AS by_model,
       CASE WHEN 'node' = ANY(%(by)s::text[]) THEN node_id END AS by_node,
       CASE WHEN 'gpu' = ANY(%(by)s::text[]) THEN gpu_id END AS by_gpu,
       CASE WHEN 'day' = ANY(%(by)s::text[]) THEN (%(days)s::date[])[slot] END AS by_day,
       CASE WHEN 'segment' = ANY(%(by)s::text[]) THEN (%(segments)s::int[])[slot] END AS by_segment,
"""

ACCOUNTS = (
    PIECES
    + RAW
    + DIMENSIONS
    + """
       sum(duration) FILTER (WHERE kind = 'registered'), sum(duration) FILTER (WHERE kind = 'sold'),
       sum(duration) FILTER (WHERE kind = 'could_have_run'), sum(duration) FILTER (WHERE kind = 'fragmented'),
       sum(duration) FILTER (WHERE kind = 'held_by_quota'), sum(duration) FILTER (WHERE kind = 'no_demand'),
       sum(duration) FILTER (WHERE kind = 'draining'), sum(duration) FILTER (WHERE kind = 'maintenance'),
       sum(duration) FILTER (WHERE kind = 'unhealthy'), sum(duration) FILTER (WHERE kind = 'offline')
  FROM spent JOIN unit USING (gpu_id)
 GROUP BY by_cluster, by_model, by_node, by_gpu, by_day, by_segment
 ORDER BY by_cluster, by_model, by_node, by_gpu, by_day, by_segment
"""
)

SALES = (
    PIECES
    + DIMENSIONS
    + """
       CASE WHEN 'tenant' = ANY(%(by)s::text[]) THEN tenant_id END AS by_tenant,
       CASE WHEN 'rate' = ANY(%(by)s::text[]) THEN rate_id END AS by_rate,
       CASE WHEN 'rate' = ANY(%(by)s::text[]) THEN price_per_gpu_hour END AS by_price,
       CASE WHEN 'rate' = ANY(%(by)s::text[]) THEN currency ELSE '' END AS by_currency,
       sum(upper(span) - lower(span))
  FROM held JOIN unit USING (gpu_id)
 WHERE %(every_tenant)s OR tenant_id = ANY(%(tenants)s::bigint[])
 GROUP BY by_cluster, by_model, by_node, by_gpu, by_day, by_segment, by_tenant, by_rate, by_price, by_currency
 ORDER BY by_cluster, by_model, by_node, by_gpu, by_day, by_segment, by_tenant, by_rate
"""
)


def accounts(scope: Scope, by: Collection[By] = ()) -> list[Account]:
    """What the GPUs' time in the window was spent on, by group; a group without registered time is left out.

    Raises ``ValueError`` when asked to tell unsold time apart by tenant or rate.
    """
    if {By.TENANT, By.RATE} & set(by):
        raise ValueError("unsold time has no tenant and no rate; ask sales()")
    rows = _fetch(ACCOUNTS, {**_parameters(scope, by), **_demand(scope)})
    return [Account(Group(*row[:6]), *map(_microseconds, row[6:])) for row in rows]


def account(scope: Scope) -> Account:
    """What the GPUs' time in the window was spent on, in one sum; all zero where nothing was registered."""
    return next(iter(accounts(scope)), Account(Group()))


def sales(scope: Scope, by: Collection[By] = (), *, tenants: Collection[int] | None = None) -> list[Sold]:
    """The sold part of the same seconds by group, also by tenant and by locked price; of some tenants, or of all."""
    parameters = {"every_tenant": tenants is None, "tenants": list(tenants or ())}
    rows = _fetch(SALES, {**_parameters(scope, by), **parameters})
    return [Sold(Group(*row[:6]), *row[6:10], *map(_microseconds, row[10:])) for row in rows]


def slots(scope: Scope, *, by_day: bool) -> list[Slot]:
    """The window, cut at its ``cuts`` and, where asked, at every UTC midnight; in order, without a gap."""
    start, end = scope.start.astimezone(UTC), scope.end.astimezone(UTC)
    cuts = sorted({cut.astimezone(UTC) for cut in scope.cuts if start < cut < end})
    bounds = sorted({start, end, *cuts, *(_midnights(start, end) if by_day else ())}) if start < end else []
    return [Slot(low, high, sum(cut <= low for cut in cuts)) for low, high in pairwise(bounds)]


def _midnights(start: datetime, end: datetime) -> Iterable[datetime]:
    midnight = start.replace(hour=0, minute=0, second=0, microsecond=0) + DAY
    while midnight < end:
        yield midnight
        midnight += DAY


def _parameters(scope: Scope, by: Collection[By]) -> dict[str, Any]:
    parts = slots(scope, by_day=By.DAY in by)
    return {
        "by": [str(dimension) for dimension in by],
        "start": scope.start,
        "end": max(scope.start, scope.end),
        "clusters": None if scope.clusters is None else list(scope.clusters),
        "models": None if scope.models is None else list(scope.models),
        "starts": [part.start for part in parts],
        "ends": [part.end for part in parts],
        "days": [part.day for part in parts],
        "segments": [part.segment for part in parts],
    }


def _demand(scope: Scope) -> dict[str, Any]:
    """What each waiting job's ``gpu_type`` takes, by the scheduler's own rule, and what each code counts as."""
    window = DateTimeTZRange(scope.start, max(scope.start, scope.end))
    types = Job.objects.filter(wait_periods__during__overlap=window).order_by().values_list("gpu_type").distinct()
    models = list(GPU.objects.order_by().values_list("model", flat=True).distinct())
    taken = [(gpu_type, model) for (gpu_type,) in types for model in models if takes(gpu_type, model)]
    return {
        "types": [gpu_type for gpu_type, _ in taken],
        "taken_models": [model for _, model in taken],
        "codes": [str(code) for code in DEMAND],
        "kinds": list(DEMAND.values()),
    }


def _microseconds(duration: timedelta | None) -> int:
    return 0 if duration is None else duration // timedelta(microseconds=1)


def _fetch(statement: str, parameters: dict[str, Any]) -> Sequence[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    return rows
