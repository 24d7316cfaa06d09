"""What a world asks the database: everything, or what has changed ``since`` it last looked."""

HORIZON = """
SELECT pg_snapshot_xmin(pg_current_snapshot())::text, (SELECT told FROM jobs_schedulercycle),
       pg_postmaster_start_time(), pg_relation_filenode('jobs_job')::bigint
"""
CHANGED_JOBS = "SELECT DISTINCT job_id FROM jobs_jobevent WHERE xact >= %(since)s::xid8"
_JOB = """
       job.id, job.cluster_id, job.tenant_id, job.gpu_count, job.gpu_type, job.priority, job.submitted_at,
       job.estimated_duration_min, job.claimed_at, job.status, job.preempt_at, job.preempt_for, wait.code,
       wait.figures::text
  FROM jobs_job AS job
  LEFT JOIN jobs_waitperiod AS wait ON wait.job_id = job.id AND upper_inf(wait.during)
"""
JOBS = f"SELECT {_JOB} WHERE job.status IN ('queued', 'running')"
TOLD_KINDS = """
SELECT cluster_id, gpu_type, gpu_count, tenant_id, code, figures::text FROM jobs_kindwait WHERE upper_inf(during)
"""
TOLD_JOBS = """
SELECT job.id, wait.code, wait.figures::text
  FROM jobs_waitperiod AS wait
  JOIN jobs_job AS job ON job.id = wait.job_id
 WHERE upper_inf(wait.during) AND wait.code <> 'kind' AND job.status = 'queued'
"""
HELD = """
SELECT job_id, gpu_id, lower(during) FROM jobs_allocation WHERE upper_inf(during)
"""
# GPUs that were given back later than the clock was read; their new allocation would begin before the old one ended.
HELD_UNTIL = """
SELECT gpu_id, max(upper(during)) FROM jobs_allocation
 WHERE upper(during) > %(now)s AND during && tstzrange(%(now)s, NULL)
 GROUP BY gpu_id
"""
# How jobs ended lately, and on which nodes: at once, or otherwise. Those that were cancelled say nothing of a node.
_AT_ONCE = "job.status = 'failed' AND job.ended_at - job.started_at <= %(within)s"
ENDED = f"""
SELECT {_AT_ONCE}, job.ended_at, job.tenant_id,
       array_agg(DISTINCT gpu.node_id)
  FROM jobs_job AS job
  JOIN jobs_allocation AS held ON held.job_id = job.id AND lower(held.during) >= job.started_at
  JOIN clusters_gpu AS gpu ON gpu.id = held.gpu_id
 WHERE job.status IN ('failed', 'completed')
   AND held.during && tstzrange(%(now)s - interval '1 hour', %(now)s) AND job.ended_at > %(now)s - interval '1 hour'
 GROUP BY job.id
 ORDER BY job.ended_at, job.id
"""  # noqa: S608
# The same of these jobs alone: what they are and how they ended, and all that they hold or have held.
SOME_JOBS = f"SELECT {_AT_ONCE}, job.ended_at, job.started_at, {_JOB} WHERE job.id = ANY(%(ids)s)"
SOME_HELD = "SELECT job_id, gpu_id, lower(during), upper(during) FROM jobs_allocation WHERE job_id = ANY(%(ids)s)"
GPUS = """
SELECT gpu.id, gpu.node_id, node.cluster_id, node.hostname, gpu.model, gpu.state = 'available', gpu.retired_at IS NULL,
       CASE WHEN gpu.registered_at > %(now)s THEN gpu.registered_at END
  FROM clusters_gpu AS gpu JOIN clusters_node AS node ON node.id = gpu.node_id
 WHERE {which}
"""
# Compared as ages, since the numbers of transactions begin anew every four thousand million.
GPU_CHANGED = "age(gpu.xmin) <= age((%(since)s::xid8)::xid)"
GPU_MATTERS = """
    (gpu.retired_at IS NULL
     OR gpu.id IN (SELECT gpu_id FROM jobs_allocation WHERE upper_inf(during)))
"""
CLUSTERS = """
SELECT id, status = 'active' AND decommissioned_at IS NULL, decommissioned_at IS NOT NULL, enforce_time_limit,
       preemption, preemption_grace_s, preemption_min_run_s
  FROM clusters_cluster
"""
TENANTS = "SELECT id, gpu_quota, status = 'active', lends_idle_quota, borrow_limit FROM tenants_tenant"
SILENT_NODES = "SELECT id FROM clusters_node WHERE silent AND decommissioned_at IS NULL"
