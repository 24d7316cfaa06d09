"""What goes wrong with jobs, tenants and the scheduler."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal

from django.db import connection
from django.db.models import Avg, Count, Max, Min, Q, Sum

from alerts.conditions import Direction
from alerts.models import RuleType
from alerts.types.base import AlertType, Place, Reading, id_in
from alerts.types.hardware import READINGS_ARE_FRESH_FOR
from alerts.types.past import Points, Window, stepped
from alerts.types.prices import CURRENCY, list_prices
from clusters.queries import mean_readings
from jobs.models import Allocation, Job, JobStatus, WaitPeriod
from jobs.queries import last_cycle_finished_at, waits_of
from tenants.models import Tenant

MINUTE_S = 60.0
MINUTE, NOTHING = timedelta(minutes=1), timedelta()


HELD = """
    SELECT 1::numeric AS amount, during FROM jobs_allocation WHERE tenant_id = %(tenant)s AND during && %(touched)s
"""
# Jobs whose kind had no reason at that time, and those that the release before this one wrote.
UNSEEN = """
    SELECT 1::numeric AS amount, unseen AS during
      FROM jobs_waitperiod AS wait
      JOIN jobs_job AS job ON job.id = wait.job_id
     CROSS JOIN LATERAL (
           SELECT range_agg(told.during) AS spans
             FROM jobs_kindwait AS told
            WHERE told.cluster_id = job.cluster_id AND coalesce(told.tenant_id, 0) = coalesce(job.tenant_id, 0)
              AND told.gpu_type = job.gpu_type AND told.gpu_count = job.gpu_count
              AND told.during && wait.during) AS known
     CROSS JOIN LATERAL unnest(tstzmultirange(wait.during) - coalesce(known.spans, '{}')) AS unseen
     WHERE wait.code = 'kind' AND wait.during && %(touched)s
     UNION ALL
    SELECT 1, during FROM jobs_waitperiod WHERE code = 'scheduler' AND during && %(touched)s
"""


class UtilizationLow(AlertType):
    """Mean utilization of the GPUs that each running job holds, of readings not older than 2 minutes."""

    code = RuleType.UTILIZATION_LOW
    direction = Direction.BELOW
    scopes = frozenset({"cluster", "tenant", "gpu_model"})
    sentence = "{name} uses {value:.0f} % of the GPUs it holds (below {threshold:g} %)."
    figure = ("Mean utilization", "%")
    remedy = "Ask the owner whether the job hangs, loads data, or could do with fewer GPUs; end it if nobody needs it."

    def read(self, now: datetime) -> list[Reading]:
        """All jobs that hold GPUs. One query. The cost is the idle part of what they pay."""
        fresh = Q(gpu__latest_reading__recorded_at__gt=now - READINGS_ARE_FRESH_FOR)
        rows = (
            Allocation.objects.filter(during__upper_inf=True)
            .order_by()
            .values_list("job_id", "job__name", "job__cluster_id", "tenant_id")
            .annotate(
                value=Avg("gpu__latest_reading__utilization_pct", filter=fresh),
                price=Sum("price_per_gpu_hour"),
                currency=Max("currency"),
                model=Min("gpu__model"),
            )
        )
        return [
            Reading(
                f"job:{pk}",
                f"job {name}",
                value,
                Place(cluster_id, None, tenant_id, model),
                price * Decimal(1 - value / 100) if price is not None and value is not None else None,
                currency,
            )
            for pk, name, cluster_id, tenant_id, value, price, currency, model in rows
        ]

    def past(self, subject: str, place: Place, window: Window) -> Points:
        """Of the GPUs that it held at the time, in means of a step, or of hours. Two or three queries."""
        held = Allocation.objects.filter(job_id=id_in(subject), during__overlap=window.touched).order_by()
        asked = [
            (gpu_id, node_id, max(during.lower, window.start), min(during.upper or window.end, window.end))
            for gpu_id, node_id, during in held.values_list("gpu_id", "gpu__node_id", "during")
        ]
        return mean_readings("utilization", asked, width=window.step)


class QuotaBreach(AlertType):
    """GPUs held by each tenant in percent of its quota."""

    code = RuleType.QUOTA_BREACH
    scopes = frozenset({"tenant"})
    sentence = "{name} holds {value:.0f} % of its GPU quota (limit {threshold:g} %)."
    figure = ("Held", "% of today's quota")
    remedy = "Offer the tenant a larger quota, or tell it that its further jobs wait."

    def read(self, now: datetime) -> list[Reading]:
        """All tenants. One query."""
        held = Count("allocations", filter=Q(allocations__during__upper_inf=True))
        rows = Tenant.objects.order_by().annotate(held=held).values_list("pk", "name", "gpu_quota", "held")
        return [
            Reading(f"tenant:{pk}", f"tenant {name}", 100 * held / quota, Place(tenant_id=pk))
            for pk, name, quota, held in rows
        ]

    def past(self, subject: str, place: Place, window: Window) -> Points:
        """In percent of the quota of today, since past quotas are not kept. Two queries."""
        tenant_id = id_in(subject)
        quotas = list(Tenant.objects.filter(pk=tenant_id).values_list("gpu_quota", flat=True))
        held = stepped(HELD, {"tenant": tenant_id}, window)
        return [
            (at, float(100 * gpus / quota)) for quota in quotas for at, gpus in zip(window.instants, held, strict=True)
        ]


# A job could run when its cluster has as many free GPUs of one model that it may mean, and it waits for hardware or
# for the scheduler; quotas, holds and maintenance are meant to make it wait.
COULD_RUN = """
    WITH free AS (
         SELECT node.cluster_id, gpu.model, count(*) AS gpus
           FROM clusters_gpu AS gpu
           JOIN clusters_node AS node ON node.id = gpu.node_id
          WHERE gpu.retired_at IS NULL AND gpu.state = 'available'
            AND NOT EXISTS (SELECT FROM jobs_allocation AS held WHERE held.gpu_id = gpu.id AND upper_inf(held.during))
          GROUP BY node.cluster_id, gpu.model)
    SELECT job.id, job.name, job.cluster_id, job.tenant_id, best.model, job.gpu_count,
           extract(epoch FROM %(now)s - lower(wait.during))::float8
      FROM jobs_job AS job
      JOIN jobs_waitperiod AS wait ON wait.job_id = job.id AND upper_inf(wait.during)
      LEFT JOIN jobs_kindwait AS told
             ON told.cluster_id = job.cluster_id AND coalesce(told.tenant_id, 0) = coalesce(job.tenant_id, 0)
            AND told.gpu_type = job.gpu_type AND told.gpu_count = job.gpu_count AND upper_inf(told.during)
     CROSS JOIN LATERAL (
           SELECT free.model FROM free
            WHERE free.cluster_id = job.cluster_id AND free.gpus >= job.gpu_count
              AND (trim(job.gpu_type) = ''
                   OR EXISTS (SELECT FROM unnest(string_to_array(job.gpu_type, '|')) AS entry
                               WHERE trim(entry) <> '' AND position(lower(trim(entry)) IN lower(free.model)) > 0))
            ORDER BY free.gpus DESC, free.model LIMIT 1) AS best
     WHERE job.status = 'queued'
       AND CASE WHEN wait.code = 'kind' THEN coalesce(told.code, 'scheduler') ELSE wait.code END
           IN ('scheduler', 'capacity')
"""


class QueueStalled(AlertType):
    """Minutes that a job waits though its cluster has the GPUs free: since it was submitted, queued again or released,
    whichever was last, since nobody waits while it runs or is held."""

    code = RuleType.QUEUE_STALLED
    scopes = frozenset({"cluster", "tenant", "gpu_model"})
    explained_by = RuleType.SCHEDULER_LATE
    sentence = "{name} has waited {value:.0f} min although it could run (limit {threshold:g} min)."
    figure = ("Waiting to run", "min")
    remedy = "Look at the age of the last scheduler cycle in /readyz and at the worker's log."

    def read(self, now: datetime) -> list[Reading]:
        """The waiting jobs that could run. Three queries. The cost is the list price of what they would hold."""
        with connection.cursor() as cursor:
            cursor.execute(COULD_RUN, {"now": now})
            rows = cursor.fetchall()
        prices = list_prices(now) if rows else {}
        return [
            Reading(
                f"job:{pk}",
                f"job {name}",
                seconds / MINUTE_S,
                Place(cluster_id, None, tenant_id, model),
                prices[model] * gpus if model in prices else None,
                CURRENCY,
            )
            for pk, name, cluster_id, tenant_id, model, gpus, seconds in rows
        ]

    def past(self, subject: str, place: Place, window: Window) -> Points:
        """Since its wait began, while it waited for hardware or for the scheduler. Three queries."""
        job = Job.objects.filter(pk=id_in(subject)).first()
        waits = waits_of(job) if job is not None else []
        could_run = [(one.start, one.end or window.end) for one in waits if one.code in ("scheduler", "capacity")]
        if not could_run:
            return []
        periods = WaitPeriod.objects.filter(job=job).values_list("during", flat=True)
        began = sorted(during.lower for during in periods)
        return [(at, _waited(at, began, could_run) / MINUTE) for at in window.instants]


class JobOverrun(AlertType):
    """How long each running job with an estimate has run, in percent of the estimate."""

    code = RuleType.JOB_OVERRUN
    scopes = frozenset({"cluster", "tenant"})
    sentence = "{name} has run {value:.0f} % of its estimated time (limit {threshold:g} %)."
    figure = ("Run time", "% of the estimate")
    remedy = "Ask the owner whether it still makes progress; jobs behind it were promised these GPUs."

    def read(self, now: datetime) -> list[Reading]:
        """All such jobs. One query. The cost is what they pay."""
        price = Sum("allocations__price_per_gpu_hour", filter=Q(allocations__during__upper_inf=True))
        rows = (
            Job.objects.filter(status=JobStatus.RUNNING, estimated_duration_min__gt=0)
            .order_by()
            .values_list("pk", "name", "cluster_id", "tenant_id", "started_at", "estimated_duration_min")
            .annotate(price=price, currency=Max("allocations__currency"))
        )
        return [
            Reading(
                f"job:{pk}",
                f"job {name}",
                100 * (now - started_at).total_seconds() / (estimate * MINUTE_S) if started_at else None,
                Place(cluster_id, None, tenant_id),
                price,
                currency or "",
            )
            for pk, name, cluster_id, tenant_id, started_at, estimate, price, currency in rows
        ]

    def past(self, subject: str, place: Place, window: Window) -> Points:
        """Of its last run, by the estimate of today. One query."""
        job = Job.objects.filter(pk=id_in(subject), started_at__isnull=False, estimated_duration_min__gt=0).first()
        if job is None:
            return []
        began, minutes = job.started_at or window.end, job.estimated_duration_min or 1
        last = job.ended_at or window.end
        return [(at, 100 * ((at - began) / MINUTE) / minutes) for at in window.instants if began <= at <= last]


class SchedulerLate(AlertType):
    """Seconds since the scheduler finished a cycle. The evaluation is a task of its own, so that it notices a tick
    that hangs; that nothing runs at all is seen from outside, by /readyz and /metrics."""

    code = RuleType.SCHEDULER_LATE
    scopes = frozenset()
    sentence = "{name} has finished no cycle for {value:.0f} s (limit {threshold:g} s)."
    figure = ("Not looked at yet", "jobs")
    plots_value = False  # Of its cycles the last one alone is on record.
    remedy = "Look at the worker's log for jobs.tick, and for a session that holds the scheduler's lock."

    def read(self, now: datetime) -> list[Reading]:
        """The one scheduler; no data before its first cycle. One query."""
        finished_at = last_cycle_finished_at()
        age = None if finished_at is None else max((now - finished_at).total_seconds(), 0.0)
        return [Reading("scheduler", "the scheduler", age)]

    def past(self, subject: str, place: Place, window: Window) -> Points:
        """How many jobs waited for it. One query."""
        return list(zip(window.instants, map(float, stepped(UNSEEN, {}, window)), strict=True))


def _waited(at: datetime, began: Sequence[datetime], could_run: Iterable[tuple[datetime, datetime]]) -> timedelta:
    """For how long at an instant: since the last wait that had begun by then, in a stretch in which it could run."""
    if not any(begin <= at <= end for begin, end in could_run):
        return NOTHING
    return at - max((begin for begin in began if begin <= at), default=at)
