"""Jobs, the GPUs they hold, the time they wait and why, and every change of their state.

Ledger times are half-open ranges ``[from, to)`` in UTC; an open one has no upper bound.
"""

from django.contrib.postgres.constraints import ExclusionConstraint
from django.contrib.postgres.fields import DateTimeRangeField, RangeOperators
from django.contrib.postgres.indexes import GistIndex
from django.db import models
from django.db.models import Q
from django.db.models.functions import Coalesce

from clusters.models import GPU, Cluster, Node
from tenants.models import Tenant


class JobStatus(models.TextChoices):
    """``blocked`` is a hold by a person or a client; the scheduler leaves it alone until it is queued again."""

    QUEUED = "queued", "Queued"
    BLOCKED = "blocked", "Blocked"
    RUNNING = "running", "Running"
    COMPLETED = "completed", "Completed"
    FAILED = "failed", "Failed"
    CANCELLED = "cancelled", "Cancelled"


class Job(models.Model):
    """A wish for GPUs, all at once, on one cluster."""

    cluster = models.ForeignKey(Cluster, on_delete=models.PROTECT, related_name="jobs")
    tenant = models.ForeignKey(Tenant, null=True, blank=True, on_delete=models.PROTECT, related_name="jobs")
    name = models.CharField(max_length=200)
    gpu_count = models.PositiveIntegerField(default=1)
    gpu_type = models.CharField(max_length=300, blank=True, default="", help_text="A model or models, A|B; empty: any.")
    priority = models.PositiveSmallIntegerField(default=5, help_text="1 is the highest, 10 the lowest.")
    status = models.CharField(max_length=16, choices=JobStatus, default=JobStatus.QUEUED)
    block_reason = models.CharField(
        max_length=500,
        blank=True,
        default="",
        help_text="Why it is held, or waits apart from its kind; empty: what its kind waits for.",
    )
    submitted_by = models.CharField(max_length=200, blank=True, default="")
    estimated_duration_min = models.PositiveIntegerField(null=True, blank=True)
    command = models.JSONField(null=True, blank=True, help_text="The argument list for agents that execute.")
    image = models.CharField(max_length=500, blank=True, default="")
    env = models.JSONField(default=dict, blank=True)
    claimed_at = models.DateTimeField(
        null=True, blank=True, help_text="It waits, and since then others are preempted for it."
    )
    preempt_at = models.DateTimeField(null=True, blank=True, help_text="It runs, and must give its GPUs back then.")
    preempt_for = models.BigIntegerField(null=True, blank=True, help_text="The job that it is preempted for.")
    submitted_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.CheckConstraint(condition=Q(gpu_count__gte=1), name="job_gpu_count_at_least_one"),
            models.CheckConstraint(condition=Q(priority__gte=1, priority__lte=10), name="job_priority_1_to_10"),
            models.CheckConstraint(condition=Q(status__in=JobStatus.values), name="job_status_known"),
            models.CheckConstraint(
                condition=Q(status__in=["completed", "failed", "cancelled"], ended_at__isnull=False)
                | Q(status__in=["queued", "blocked", "running"], ended_at__isnull=True),
                name="job_ended_when_terminal",
            ),
            models.CheckConstraint(
                condition=~Q(status="running") | Q(started_at__isnull=False), name="job_running_has_started"
            ),
            models.CheckConstraint(
                condition=Q(claimed_at__isnull=True) | Q(status="queued"), name="job_claims_while_queued"
            ),
            models.CheckConstraint(
                condition=Q(preempt_at__isnull=True, preempt_for__isnull=True)
                | Q(status="running", preempt_at__isnull=False, preempt_for__isnull=False),
                name="job_preempted_while_running",
            ),
        ]
        indexes = [
            # Serves the scheduler's snapshot: the queue in its order.
            models.Index(
                fields=["priority", "submitted_at", "id"], condition=Q(status="queued"), name="job_queue_order"
            ),
            # Serves lists and counts of what is alive, by cluster and by tenant.
            models.Index(
                fields=["cluster", "status"],
                condition=Q(status__in=["queued", "blocked", "running"]),
                name="job_alive_by_cluster",
            ),
            models.Index(
                fields=["tenant", "status"],
                condition=Q(status__in=["queued", "blocked", "running"]),
                name="job_alive_by_tenant",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} (job {self.pk})"


class Allocation(models.Model):
    """The ledger: this job held this GPU during this range, at this price. The tenant is copied, so that history
    stays as it was. ``rate_id`` names the rate that was locked in at the start; null: the model had no price."""

    # Their indexes are the class's own: a second one would be kept up with each row that is written, for nobody.
    job = models.ForeignKey(Job, on_delete=models.PROTECT, related_name="allocations", db_index=False)
    gpu = models.ForeignKey(GPU, on_delete=models.PROTECT, related_name="allocations", db_index=False)
    tenant = models.ForeignKey(Tenant, null=True, blank=True, on_delete=models.PROTECT, related_name="allocations")
    during = DateTimeRangeField()
    rate_id = models.BigIntegerField(null=True, blank=True)
    price_per_gpu_hour = models.DecimalField(max_digits=14, decimal_places=6, null=True, blank=True)
    currency = models.CharField(max_length=3, blank=True, default="")

    class Meta:
        ordering = ["-pk"]
        constraints = [
            # Promise 1: no GPU is ever held by two jobs at once. Also serves every window query of one GPU.
            ExclusionConstraint(
                name="gpu_held_by_one_job_at_a_time",
                expressions=[("gpu", RangeOperators.EQUAL), ("during", RangeOperators.OVERLAPS)],
            ),
            models.CheckConstraint(condition=Q(during__isempty=False), name="allocation_not_empty"),
            models.CheckConstraint(
                condition=Q(price_per_gpu_hour__isnull=True, rate_id__isnull=True, currency="")
                | Q(price_per_gpu_hour__gte=0, rate_id__isnull=False) & ~Q(currency=""),
                name="allocation_price_whole",
            ),
        ]
        indexes = [
            # Serves quota (GPUs held now by tenant) and the snapshot (GPUs held now).
            models.Index(fields=["tenant", "gpu"], condition=Q(during__upper_inf=True), name="allocation_open"),
            models.Index(fields=["job"], name="allocation_by_job"),
            # Serves the ledger's reports: whatever touches a window, of all GPUs.
            GistIndex(fields=["during"], name="allocation_by_time"),
        ]

    def __str__(self) -> str:
        return f"GPU {self.gpu_id} held by job {self.job_id}"


# The code of a period in which a job waited for whatever its kind did.
AS_ITS_KIND = "kind"


class KindWait(models.Model):
    """The ledger: the jobs of one kind, alike in all that decides why they wait, waited for this reason during this
    range, those of them that did ``AS_ITS_KIND``. A new row only when the reason changes, so that what tells a queue of
    100,000 jobs why it waits writes a row for each kind of them. While a kind has no row, its jobs wait for the
    scheduler. A job belongs to its kind by its columns of the same names, none of which ever changes."""

    cluster = models.ForeignKey(Cluster, on_delete=models.PROTECT, related_name="+", db_index=False)
    tenant = models.ForeignKey(Tenant, null=True, on_delete=models.PROTECT, related_name="+", db_index=False)
    gpu_type = models.CharField(max_length=300, blank=True)
    gpu_count = models.PositiveIntegerField()
    code = models.CharField(max_length=32)
    figures = models.JSONField(default=dict)
    sentence = models.CharField(max_length=500, help_text="The reason in words.")
    during = DateTimeRangeField()

    class Meta:
        ordering = ["-pk"]
        constraints = [
            ExclusionConstraint(
                name="kind_waits_for_one_reason_at_a_time",
                expressions=[
                    ("cluster", RangeOperators.EQUAL),
                    (Coalesce("tenant", 0), RangeOperators.EQUAL),
                    ("gpu_type", RangeOperators.EQUAL),
                    ("gpu_count", RangeOperators.EQUAL),
                    ("during", RangeOperators.OVERLAPS),
                ],
            ),
            # Also serves whoever asks why a job waits now.
            models.UniqueConstraint(
                "cluster",
                Coalesce("tenant", 0),
                "gpu_type",
                "gpu_count",
                condition=Q(during__upper_inf=True),
                name="kind_wait_open",
            ),
            models.CheckConstraint(condition=Q(during__isempty=False), name="kind_wait_not_empty"),
        ]
        indexes = [
            # Serves the ledger's reports: what the queue said in a window.
            GistIndex(fields=["during"], name="kind_wait_by_time"),
        ]

    def __str__(self) -> str:
        return f"{self.gpu_count} × {self.gpu_type or 'any model'}: {self.code}"


class WaitPeriod(models.Model):
    """The ledger: this job waited during this range, ``AS_ITS_KIND`` or for this reason of its own. The database's view
    ``jobs_wait`` has the reasons of all of them, put together with those of their kinds."""

    job = models.ForeignKey(Job, on_delete=models.PROTECT, related_name="wait_periods", db_index=False)
    code = models.CharField(max_length=32)
    figures = models.JSONField(default=dict)
    during = DateTimeRangeField()

    class Meta:
        ordering = ["-pk"]
        constraints = [
            # Also serves the periods of one job.
            ExclusionConstraint(
                name="job_waits_for_one_reason_at_a_time",
                expressions=[("job", RangeOperators.EQUAL), ("during", RangeOperators.OVERLAPS)],
            ),
            models.CheckConstraint(condition=Q(during__isempty=False), name="wait_period_not_empty"),
        ]
        indexes = [
            # Serves the tick, which reads of each job that is new to it whether it waits for a reason of its own.
            models.Index(fields=["job"], condition=Q(during__upper_inf=True), name="wait_period_open"),
            # Serves the ledger's reports: what the queue said in a window.
            GistIndex(fields=["during"], name="wait_period_by_time"),
        ]

    def __str__(self) -> str:
        return f"job {self.job_id} waits: {self.code}"


class JobEvent(models.Model):
    """Every change of a job's state: when, by whom, why. Rows are only ever added."""

    job = models.ForeignKey(Job, on_delete=models.PROTECT, related_name="events", db_index=False)
    at = models.DateTimeField()
    from_status = models.CharField(max_length=16, blank=True, default="")
    to_status = models.CharField(max_length=16, choices=JobStatus)
    actor = models.CharField(max_length=64, help_text="key:<id>, user:<name>, scheduler or demo.")
    reason = models.CharField(max_length=500, blank=True, default="")

    class Meta:
        ordering = ["-pk"]
        indexes = [models.Index(fields=["job", "id"], name="job_event_by_job")]

    def __str__(self) -> str:
        return f"job {self.job_id}: {self.from_status or 'new'} → {self.to_status}"


class EstimateSource(models.TextChoices):
    """Who said when a job would start."""

    SCHEDULER = "scheduler", "The scheduler's reservations"
    EXPLANATION = "explanation", "Explanations"
    WHAT_IF = "what_if", "What-if answers"


class StartEstimate(models.Model):
    """When a waiting job was expected to start, as it was said at ``made_at``; kept to be held against what happened.

    A new row only when the expectation of its source changes."""

    job = models.ForeignKey(Job, on_delete=models.PROTECT, related_name="start_estimates")
    made_at = models.DateTimeField()
    starts_at = models.DateTimeField()
    # A process of the release before, which knows no source, may still write while the new one starts.
    source = models.CharField(max_length=16, choices=EstimateSource, db_default=EstimateSource.SCHEDULER)

    class Meta:
        ordering = ["-pk"]
        indexes = [
            # Serves the newest estimate of a job.
            models.Index(fields=["job", "-made_at"], name="start_estimate_by_job"),
            # Serves the score of a window.
            models.Index(fields=["made_at"], name="start_estimate_by_time"),
        ]

    def __str__(self) -> str:
        return f"job {self.job_id} starts {self.starts_at:%Y-%m-%d %H:%M:%S}"


class RunState(models.TextChoices):
    """What a node's agent last said of a run. ``refused``: the node gave the job back unstarted."""

    STARTED = "started", "Started"
    EXITED = "exited", "Exited"
    REFUSED = "refused", "Refused"


class Run(models.Model):
    """What one node's agent reports of one start of a job. ``run_id`` is the lowest id of the allocations that were
    opened at that start, so that a job that is requeued and starts again has another one."""

    job = models.ForeignKey(Job, on_delete=models.PROTECT, related_name="runs")
    run_id = models.BigIntegerField()
    node = models.ForeignKey(Node, on_delete=models.PROTECT, related_name="runs")
    rank = models.PositiveIntegerField(help_text="The node's place among the job's nodes.")
    state = models.CharField(max_length=16, choices=RunState)
    exit_code = models.IntegerField(null=True, blank=True, help_text="Negative: the signal that ended it.")
    message = models.CharField(max_length=500, blank=True, default="")
    log_tail = models.TextField(blank=True, default="", help_text="The last lines of what it said.")
    started_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-pk"]
        constraints = [
            # Also serves a node's reports, which find their run by it.
            models.UniqueConstraint(fields=["run_id", "node"], name="run_once_a_node"),
            models.CheckConstraint(condition=Q(state__in=RunState.values), name="run_state_known"),
            models.CheckConstraint(
                condition=Q(state="started", ended_at__isnull=True) | ~Q(state="started") & Q(ended_at__isnull=False),
                name="run_ended_when_over",
            ),
        ]
        indexes = [models.Index(fields=["job", "id"], name="run_by_job")]

    def __str__(self) -> str:
        return f"run {self.run_id} of job {self.job_id}"


class SchedulerCycle(models.Model):
    """One row, ever: when the scheduler last finished a cycle, and what it did. /readyz reads its age."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    finished_at = models.DateTimeField()
    duration_ms = models.FloatField()
    jobs_started = models.PositiveIntegerField(default=0)
    jobs_waiting = models.PositiveIntegerField(default=0)
    # Counted up by whoever writes reasons, in the same transaction: a process whose number is another one reads again
    # what all have been told.
    told = models.BigIntegerField(default=0, db_default=0, editable=False)

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(id=1), name="scheduler_cycle_one_row")]

    def __str__(self) -> str:
        return f"last cycle {self.finished_at:%Y-%m-%d %H:%M:%S}"
