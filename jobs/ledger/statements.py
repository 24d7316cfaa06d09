"""The ledger's SQL. Every statement begins with ``PIECES``, so that all of them cut the same rows in the same way.

A slot is what is told apart: one segment and, where it matters, one UTC day of it (``segments`` and ``days``, by slot).
The parts of the window that are computed from the ledger's rows have their bounds in ``starts`` and ``ends``, and their
slots in ``slots``. Whole days may be read from the rollup instead, by the starts of their parts (``rolled_starts``,
``rolled_days``, ``rolled_segments``), and ten of them at once by their first (``block_days``, ``block_segments``).
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
UNSOLD = KINDS[2:]
# What a statement says of every kind: of which, how, and what stands between two.
PATTERNS = {
    "@durations": (
        KINDS,
        "(extract(epoch FROM coalesce(sum(duration) FILTER (WHERE kind = 'KIND'), '0')) * 1000000)::bigint AS KIND",
        ", ",
    ),
    "@totals": (KINDS, "sum(KIND)::bigint AS KIND", ", "),
    "@columns": (KINDS, "KIND", ", "),
    "@pairs": (KINDS, "('KIND', KIND)", ", "),
    "@worths": (UNSOLD, "sum(KIND)::bigint AS KIND, coalesce(sum(KIND * price), 0) AS KIND_worth", ", "),
    "@largest": (
        UNSOLD,
        "(SELECT 'KIND', NULL, NULL, gpu_id, KIND, KIND_worth, count(*) OVER () FROM by_gpu WHERE KIND > 0 "
        "ORDER BY KIND_worth DESC, KIND DESC, gpu_id LIMIT %(most)s)",
        " UNION ALL ",
    ),
}

# Every allocation that touches the window, cut at the bounds of the parts. ``width_bucket`` finds a range's parts by
# binary search, so that a range costs as many rows as the parts it touches.
PIECES = """
WITH bounds AS MATERIALIZED (
    SELECT %(starts)s::timestamptz[] AS starts, %(ends)s::timestamptz[] AS ends, %(slots)s::int[] AS slots
),
unit AS MATERIALIZED (
    SELECT gpu.id AS gpu_id, gpu.node_id, node.cluster_id, gpu.model
      FROM clusters_gpu AS gpu
      JOIN clusters_node AS node ON node.id = gpu.node_id
     WHERE (%(clusters)s::bigint[] IS NULL OR node.cluster_id = ANY(%(clusters)s::bigint[]))
       AND (%(models)s::text[] IS NULL OR gpu.model = ANY(%(models)s::text[]))
),
held AS MATERIALIZED (
    SELECT gpu_id, slots[part] AS slot, tenant_id, rate_id, price_per_gpu_hour, currency, span
      FROM jobs_allocation
      JOIN unit USING (gpu_id)
     CROSS JOIN bounds
     CROSS JOIN LATERAL generate_series(
           greatest(width_bucket(coalesce(lower(during), '-infinity'), starts), 1),
           width_bucket(coalesce(upper(during), 'infinity'), starts)) AS part
     CROSS JOIN LATERAL (SELECT during * tstzrange(starts[part], ends[part]) AS span) AS piece
     WHERE during && %(window)s::tstzmultirange
       AND NOT isempty(span)
)"""

# The pieces of one GPU and slot are merged into multiranges, and states and allocations are cut out of one another.
# ``OFFSET 0`` looks each job up, of the few that waited in two parts of a day: PostgreSQL would read the whole table.
# Jobs that wait as their kind does are taken together: while any of them waits, the kind's reasons of the time count,
# and where it has none, they wait for the scheduler.
# What an idle stretch met is read off a timeline: how long each kind of demand had lasted in all, at any time. From
# ``froms[i]`` on it lasted for ``lasts[i]`` more, after ``before[i]``; ``width_bucket`` finds i, and a stretch met the
# difference of its two ends. So a queue that changes its mind every second costs no more than a steady one.
# ``registered`` is the union of all, measured beside the parts; no demand is what is left of idle by any demand at all.
RAW = """,
sold AS MATERIALIZED (
    SELECT gpu_id, slot, range_agg(span) AS spans FROM held GROUP BY gpu_id, slot
),
stated AS MATERIALIZED (
    SELECT gpu_id, slots[part] AS slot, state, range_agg(span) AS spans
      FROM clusters_gpustateperiod
      JOIN unit USING (gpu_id)
     CROSS JOIN bounds
     CROSS JOIN LATERAL generate_series(
           greatest(width_bucket(coalesce(lower(during), '-infinity'), starts), 1),
           width_bucket(coalesce(upper(during), 'infinity'), starts)) AS part
     CROSS JOIN LATERAL (SELECT during * tstzrange(starts[part], ends[part]) AS span) AS piece
     WHERE during && %(window)s::tstzmultirange
       AND NOT isempty(span)
     GROUP BY gpu_id, slot, state
),
unsold AS MATERIALIZED (
    SELECT gpu_id, slot, state, stated.spans - coalesce(sold.spans, '{}') AS spans
      FROM stated LEFT JOIN sold USING (gpu_id, slot)
),
waiting AS MATERIALIZED (
    SELECT job_id, code, during FROM jobs_waitperiod WHERE during && %(window)s::tstzmultirange
),
waiters AS MATERIALIZED (
    SELECT job.cluster_id, job.tenant, job.gpu_type, job.gpu_count, wait.code, range_agg(wait.during) AS spans
      FROM waiting AS wait
     CROSS JOIN LATERAL (SELECT cluster_id, coalesce(tenant_id, 0) AS tenant, gpu_type, gpu_count
                           FROM jobs_job WHERE id = wait.job_id OFFSET 0) AS job
     GROUP BY job.cluster_id, job.tenant, job.gpu_type, job.gpu_count, wait.code
),
told AS MATERIALIZED (
    SELECT cluster_id, coalesce(tenant_id, 0) AS tenant, gpu_type, gpu_count, code, range_agg(during) AS spans
      FROM jobs_kindwait
     WHERE during && %(window)s::tstzmultirange
     GROUP BY cluster_id, tenant, gpu_type, gpu_count, code
),
reasons AS (
    SELECT cluster_id, gpu_type, code, spans FROM waiters WHERE code <> 'kind'
     UNION ALL
    SELECT cluster_id, gpu_type, told.code, waiters.spans * told.spans
      FROM waiters JOIN told USING (cluster_id, tenant, gpu_type, gpu_count)
     WHERE waiters.code = 'kind'
     UNION ALL
    SELECT cluster_id, gpu_type, 'scheduler', waiters.spans - coalesce(ever.spans, '{}')
      FROM waiters
      LEFT JOIN (SELECT cluster_id, tenant, gpu_type, gpu_count, range_agg(spans) AS spans
                   FROM told
                  GROUP BY cluster_id, tenant, gpu_type, gpu_count) AS ever
           USING (cluster_id, tenant, gpu_type, gpu_count)
     WHERE waiters.code = 'kind'
),
asked AS (
    SELECT cluster_id, gpu_type, demand.kind, range_agg(spans) AS spans
      FROM reasons
      JOIN unnest(%(codes)s::text[], %(kinds)s::text[]) AS demand (code, kind) USING (code)
     GROUP BY cluster_id, gpu_type, demand.kind
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
timeline AS MATERIALIZED (
    SELECT cluster_id, model, kind, array_agg(lower(span) ORDER BY span) AS froms,
           array_agg(upper(span) - lower(span) ORDER BY span) AS lasts, array_agg(before ORDER BY span) AS before
      FROM (SELECT cluster_id, model, reason.kind, span,
                   coalesce(sum(upper(span) - lower(span)) OVER earlier, '0') AS before
              FROM wanted
             CROSS JOIN LATERAL (
                   VALUES ('could_have_run', run), ('fragmented', apart - run), ('held_by_quota', quota - apart - run),
                          ('any', run + apart + quota)) AS reason (kind, spans)
             CROSS JOIN LATERAL unnest(reason.spans * tstzmultirange(tstzrange(%(start)s, %(end)s))) AS span
            WINDOW earlier AS (PARTITION BY cluster_id, model, reason.kind ORDER BY span
                               ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)) AS known
     GROUP BY cluster_id, model, kind
),
idle AS MATERIALIZED (
    SELECT gpu_id, slot, cluster_id, model, lower(span) AS began, upper(span) AS ended
      FROM unsold JOIN unit USING (gpu_id) CROSS JOIN LATERAL unnest(spans) AS span
     WHERE state = 'available'
),
met AS (
    SELECT gpu_id, slot, kind,
           CASE WHEN last > 0 THEN before[last] + least(ended - froms[last], lasts[last]) ELSE '0' END
         - CASE WHEN first > 0 THEN before[first] + least(began - froms[first], lasts[first]) ELSE '0' END AS duration
      FROM idle
      JOIN timeline USING (cluster_id, model)
     CROSS JOIN LATERAL (SELECT width_bucket(began, froms) AS first, width_bucket(ended, froms) AS last) AS place
),
spent AS (
    SELECT gpu_id, slot, 'sold' AS kind, upper(span) - lower(span) AS duration
      FROM sold CROSS JOIN LATERAL unnest(spans) AS span
    UNION ALL
    SELECT gpu_id, slot, state, upper(span) - lower(span)
      FROM unsold CROSS JOIN LATERAL unnest(spans) AS span
     WHERE state <> 'available'
    UNION ALL
    SELECT gpu_id, slot, kind, duration FROM met WHERE kind <> 'any'
    UNION ALL
    SELECT gpu_id, slot, 'no_demand', ended - began FROM idle
    UNION ALL
    SELECT gpu_id, slot, 'no_demand', -duration FROM met WHERE kind = 'any'
    UNION ALL
    SELECT gpu_id, slot, 'registered', upper(span) - lower(span)
      FROM (SELECT gpu_id, slot, range_agg(spans) AS spans
              FROM (SELECT gpu_id, slot, spans FROM sold UNION ALL SELECT gpu_id, slot, spans FROM stated) AS known
             GROUP BY gpu_id, slot) AS registered
     CROSS JOIN LATERAL unnest(spans) AS span
),
raw AS (
    SELECT gpu_id, slot,
           @durations
      FROM spent
     GROUP BY gpu_id, slot
)"""

# What the jobs that waited in the window asked for; see ``waiting``.
ASKED_TYPES = """
WITH waiting AS MATERIALIZED (
    SELECT DISTINCT job_id FROM jobs_waitperiod WHERE during && %(window)s::tstzmultirange
)
SELECT DISTINCT job.gpu_type
  FROM waiting CROSS JOIN LATERAL (SELECT gpu_type FROM jobs_job WHERE id = waiting.job_id OFFSET 0) AS job
"""

# Rolled days are summed up first, one block of days (those of one slot) after the other: it is the many rows that cost.
# Where nobody asks for nodes or GPUs, one GPU stands for all of its model in its cluster, and there are few rows left.
WHOLE = """,
standing AS MATERIALIZED (
    SELECT gpu_id, CASE WHEN %(each_gpu)s THEN gpu_id
                        ELSE first_value(gpu_id) OVER (PARTITION BY cluster_id, model) END AS stands_for
      FROM unit
),
rolled AS MATERIALIZED (
    SELECT gpu_id, day, segment,
           @columns
      FROM (SELECT CASE WHEN 'day' = ANY(%(by)s::text[]) THEN kept.day END AS day, segment,
                   array_agg(kept.start) AS kept_starts
              FROM unnest(%(rolled_starts)s::timestamptz[], %(rolled_days)s::date[], %(rolled_segments)s::int[])
                AS kept (start, day, segment)
             GROUP BY 1, 2) AS block
     CROSS JOIN LATERAL (
           SELECT stands_for AS gpu_id,
                  @totals
             FROM jobs_gpuday
             JOIN standing USING (gpu_id)
            WHERE jobs_gpuday.start = ANY(block.kept_starts)
            GROUP BY stands_for) AS summed
),
blocks AS MATERIALIZED (
    SELECT stands_for AS gpu_id, segment,
           @totals
      FROM jobs_gpublock
      JOIN standing USING (gpu_id)
      JOIN unnest(%(block_days)s::date[], %(block_segments)s::int[]) AS kept (first_day, segment) USING (first_day)
     GROUP BY stands_for, segment
),
whole AS (
    SELECT raw.gpu_id, days[slot] AS day, segments[slot] AS segment,
           @columns
      FROM raw CROSS JOIN (SELECT %(days)s::date[] AS days, %(segments)s::int[] AS segments) AS slots
     UNION ALL
    SELECT gpu_id, day, segment,
           @columns
      FROM rolled
     UNION ALL
    SELECT gpu_id, NULL, segment,
           @columns
      FROM blocks
)"""

BY_KIND = """
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

# The GPUs that a kind of unsold time cost most, each segment and model at its price, and what it came to in all.
LARGEST = """,
by_segment AS MATERIALIZED (
    SELECT gpu_id, model, segment,
           @totals
      FROM whole JOIN unit USING (gpu_id)
     GROUP BY gpu_id, model, segment
),
by_gpu AS MATERIALIZED (
    SELECT gpu_id,
           @worths
      FROM by_segment
      LEFT JOIN unnest(%(price_segments)s::int[], %(price_models)s::text[], %(prices)s::numeric[])
        AS price (segment, model, price) USING (segment, model)
     GROUP BY gpu_id
)
SELECT kind, model, segment, NULL::bigint AS gpu_id, microseconds, NULL::numeric AS worth, NULL::bigint AS gpus
  FROM (SELECT model, segment,
               @totals
          FROM by_segment
         GROUP BY model, segment) AS total
 CROSS JOIN LATERAL (VALUES @pairs) AS each (kind, microseconds)
 UNION ALL
@largest
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
      JOIN unnest(%(rolled_starts)s::timestamptz[], %(rolled_days)s::date[], %(rolled_segments)s::int[])
        AS kept (start, day, segment) USING (start)
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
 ORDER BY by_cluster, by_model, by_node, by_gpu, by_day, by_segment, by_tenant, by_rate, by_price, by_currency
"""

# One whole day into the rollup; the window is that day alone, and each of its parts is a slot.
INTO_GPU_DAYS = """
INSERT INTO jobs_gpuday (start, gpu_id, @columns)
SELECT (%(starts)s::timestamptz[])[slot], gpu_id, @columns
  FROM raw
"""
# Ten rolled days into one block.
INTO_BLOCKS = """
INSERT INTO jobs_gpublock (first_day, gpu_id, @columns)
SELECT %(first_day)s, gpu_id, @totals
  FROM jobs_gpuday
 WHERE start >= %(start)s AND start < %(end)s
 GROUP BY gpu_id
"""
INTO_SALES_DAYS = """
INSERT INTO jobs_salesday (start, cluster_id, model, tenant_id, rate_id, price_per_gpu_hour, currency, held)
SELECT (%(starts)s::timestamptz[])[slot], cluster_id, model, tenant_id, rate_id, price_per_gpu_hour, currency,
       (extract(epoch FROM sum(upper(span) - lower(span))) * 1000000)::bigint
  FROM held JOIN unit USING (gpu_id)
 GROUP BY slot, cluster_id, model, tenant_id, rate_id, price_per_gpu_hour, currency
"""


def _for_each_kind(statement: str) -> str:
    """Fill in what is the same for every kind: whole microseconds, exactly, since ``extract`` of an interval is."""
    for name, (kinds, pattern, separator) in PATTERNS.items():
        statement = statement.replace(name, separator.join(pattern.replace("KIND", kind) for kind in kinds))
    return statement


ACCOUNTS = _for_each_kind(PIECES + RAW + WHOLE + BY_KIND)
RANKED = _for_each_kind(PIECES + RAW + WHOLE + LARGEST)
SALES = PIECES + BY_TENANT
KEEP_GPUS = _for_each_kind(PIECES + RAW + INTO_GPU_DAYS)
KEEP_BLOCK = _for_each_kind(INTO_BLOCKS)
KEEP_SALES = PIECES + INTO_SALES_DAYS
