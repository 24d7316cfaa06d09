"""The ledger's SQL. Every statement begins with ``PIECES``, so that all of them cut the same rows in the same way.

Slots are the parts of a window, each within one segment and, where it matters, one UTC day. Some are computed from the
ledger's rows (``starts``, ``ends``, ``days``, ``segments``); whole days may be read from the rollup instead
(``rolled_days``, ``rolled_segments``).
"""

# What a second may be, beside registered; in the order of ``Account``'s fields.
KINDS = (
    "registered",
    "sold",
    "could_have_run",
    "fragmented",
    "held_by_quota",
    "no_demand",
    "draining",
    "maintenance",
    "unhealthy",
    "offline",
)
# Every allocation that touches the window, cut at the bounds of the slots. ``width_bucket`` finds a range's slots by
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
     WHERE during && %(window)s::tstzmultirange
       AND NOT isempty(span)
)"""

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
     WHERE during && %(window)s::tstzmultirange
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
     WHERE wait.during && %(window)s::tstzmultirange
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
     WHERE NOT isempty(reason.spans * tstzmultirange(tstzrange(starts[slot], ends[slot])))
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
    SELECT gpu_id, slot, kind, upper(span) - lower(span) AS duration
      FROM part CROSS JOIN LATERAL unnest(spans) AS span
),
raw AS (
    SELECT gpu_id, slot,
           @durations
      FROM spent
     GROUP BY gpu_id, slot
)"""

# Whole days that are rolled up are summed over the days before they meet the GPUs: it is the many rows that cost.
BY_KIND = """,
rolled AS (
    SELECT gpu_id, CASE WHEN 'day' = ANY(%(by)s::text[]) THEN day END AS day, segment,
           @totals
      FROM jobs_gpuday
      JOIN unnest(%(rolled_days)s::date[], %(rolled_segments)s::int[]) AS kept (day, segment) USING (day)
     GROUP BY 1, 2, 3
),
whole AS (
    SELECT raw.gpu_id, days[slot] AS day, segments[slot] AS segment,
           @columns
      FROM raw CROSS JOIN (SELECT %(days)s::date[] AS days, %(segments)s::int[] AS segments) AS slots
     UNION ALL
    SELECT gpu_id, day, segment,
           @columns
      FROM rolled
)
SELECT CASE WHEN 'cluster' = ANY(%(by)s::text[]) THEN cluster_id END AS by_cluster,
       CASE WHEN 'model' = ANY(%(by)s::text[]) THEN model END AS by_model,
       CASE WHEN 'node' = ANY(%(by)s::text[]) THEN node_id END AS by_node,
       CASE WHEN 'gpu' = ANY(%(by)s::text[]) THEN gpu_id END AS by_gpu,
       CASE WHEN 'day' = ANY(%(by)s::text[]) THEN day END AS by_day,
       CASE WHEN 'segment' = ANY(%(by)s::text[]) THEN segment END AS by_segment,
       @totals
  FROM whole JOIN unit USING (gpu_id)
 GROUP BY by_cluster, by_model, by_node, by_gpu, by_day, by_segment
 ORDER BY by_cluster, by_model, by_node, by_gpu, by_day, by_segment
"""

BY_TENANT = """,
whole AS (
    SELECT cluster_id, model, node_id, gpu_id, (%(days)s::date[])[slot] AS day,
           (%(segments)s::int[])[slot] AS segment, tenant_id, rate_id, price_per_gpu_hour, currency,
           (extract(epoch FROM sum(upper(span) - lower(span))) * 1000000)::bigint AS held
      FROM held JOIN unit USING (gpu_id)
     GROUP BY cluster_id, model, node_id, gpu_id, slot, tenant_id, rate_id, price_per_gpu_hour, currency
     UNION ALL
    SELECT cluster_id, model, NULL, NULL, day, segment, tenant_id, rate_id, price_per_gpu_hour, currency, held
      FROM jobs_salesday
      JOIN unnest(%(rolled_days)s::date[], %(rolled_segments)s::int[]) AS kept (day, segment) USING (day)
     WHERE (%(clusters)s::bigint[] IS NULL OR cluster_id = ANY(%(clusters)s::bigint[]))
       AND (%(models)s::text[] IS NULL OR model = ANY(%(models)s::text[]))
)
SELECT CASE WHEN 'cluster' = ANY(%(by)s::text[]) THEN cluster_id END AS by_cluster,
       CASE WHEN 'model' = ANY(%(by)s::text[]) THEN model END AS by_model,
       CASE WHEN 'node' = ANY(%(by)s::text[]) THEN node_id END AS by_node,
       CASE WHEN 'gpu' = ANY(%(by)s::text[]) THEN gpu_id END AS by_gpu,
       CASE WHEN 'day' = ANY(%(by)s::text[]) THEN day END AS by_day,
       CASE WHEN 'segment' = ANY(%(by)s::text[]) THEN segment END AS by_segment,
       CASE WHEN 'tenant' = ANY(%(by)s::text[]) THEN tenant_id END AS by_tenant,
       CASE WHEN 'rate' = ANY(%(by)s::text[]) THEN rate_id END AS by_rate,
       CASE WHEN 'rate' = ANY(%(by)s::text[]) THEN price_per_gpu_hour END AS by_price,
       CASE WHEN 'rate' = ANY(%(by)s::text[]) THEN currency ELSE '' END AS by_currency,
       sum(held)::bigint
  FROM whole
 WHERE %(every_tenant)s OR tenant_id = ANY(%(tenants)s::bigint[])
 GROUP BY by_cluster, by_model, by_node, by_gpu, by_day, by_segment, by_tenant, by_rate, by_price, by_currency
 ORDER BY by_cluster, by_model, by_node, by_gpu, by_day, by_segment, by_tenant, by_rate
"""

# One whole day into the rollup; the window is that day alone.
INTO_GPU_DAYS = """
INSERT INTO jobs_gpuday (day, gpu_id, @columns)
SELECT (%(days)s::date[])[slot], gpu_id, @columns
  FROM raw
"""
INTO_SALES_DAYS = """
INSERT INTO jobs_salesday (day, cluster_id, model, tenant_id, rate_id, price_per_gpu_hour, currency, held)
SELECT (%(days)s::date[])[slot], cluster_id, model, tenant_id, rate_id, price_per_gpu_hour, currency,
       (extract(epoch FROM sum(upper(span) - lower(span))) * 1000000)::bigint
  FROM held JOIN unit USING (gpu_id)
 GROUP BY slot, cluster_id, model, tenant_id, rate_id, price_per_gpu_hour, currency
"""


def _for_each_kind(statement: str) -> str:
    """Fill in what is the same for every kind: whole microseconds, exactly, since ``extract`` of an interval is."""
    duration = "(extract(epoch FROM coalesce(sum(duration) FILTER (WHERE kind = '{0}'), '0')) * 1000000)::bigint AS {0}"
    patterns = {"@durations": duration, "@totals": "sum({0})::bigint AS {0}", "@columns": "{0}"}
    for name, pattern in patterns.items():
        statement = statement.replace(name, ", ".join(map(pattern.format, KINDS)))
    return statement


ACCOUNTS = _for_each_kind(PIECES + RAW + BY_KIND)
SALES = PIECES + BY_TENANT
KEEP_GPUS = _for_each_kind(PIECES + RAW + INTO_GPU_DAYS)
KEEP_SALES = PIECES + INTO_SALES_DAYS
