"""Clusters, nodes, GPUs, the ledger of GPU states, and the GPUs' readings.

Ledger times are half-open ranges ``[from, to)`` in UTC; an open one has no upper bound.
"""

from django.contrib.postgres.constraints import ExclusionConstraint
from django.contrib.postgres.fields import DateTimeRangeField, RangeOperators
from django.db import models
from django.db.models import Case, Q, Value, When

from apikeys.models import ApiKey


class ClusterStatus(models.TextChoices):
    """A cluster in maintenance takes no new job."""

    ACTIVE = "active", "Active"
    MAINTENANCE = "maintenance", "Maintenance"


class OnNodeLoss(models.TextChoices):
    """What becomes of a job whose node falls silent or whose GPU is retired."""

    FAIL = "fail", "Fail"
    REQUEUE = "requeue", "Requeue"


class Cluster(models.Model):
    """GPUs that are scheduled together. A deleted cluster keeps its row, since the ledger speaks of it."""

    name = models.CharField(max_length=200)
    region = models.CharField(max_length=100, blank=True, default="")
    status = models.CharField(max_length=16, choices=ClusterStatus, default=ClusterStatus.ACTIVE)
    on_node_loss = models.CharField(
        max_length=16, choices=OnNodeLoss, default=OnNodeLoss.FAIL, help_text="What becomes of a job that loses a node."
    )
    enforce_time_limit = models.BooleanField(default=False, help_text="Fail a job that runs past its own estimate.")
    preemption = models.BooleanField(
        default=False, help_text="Jobs of lower priority, and those on borrowed quota, may be preempted."
    )
    preemption_grace_s = models.PositiveIntegerField(
        default=60, help_text="Seconds from the notice of a preemption to the end."
    )
    preemption_min_run_s = models.PositiveIntegerField(
        default=600, help_text="Seconds that a job runs before it may be preempted."
    )
    execution_enabled = models.BooleanField(
        default=False, help_text="Let agents that execute run the commands and images of jobs."
    )
    key = models.OneToOneField(
        ApiKey, on_delete=models.PROTECT, related_name="+", help_text="The key of the cluster's node agents."
    )
    created_at = models.DateTimeField()
    decommissioned_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(
                fields=["name"], condition=Q(decommissioned_at__isnull=True), name="cluster_name_unique"
            ),
            models.CheckConstraint(condition=Q(status__in=ClusterStatus.values), name="cluster_status_known"),
            models.CheckConstraint(condition=Q(on_node_loss__in=OnNodeLoss.values), name="cluster_on_node_loss_known"),
        ]

    def __str__(self) -> str:
        return self.name


class NodeIntent(models.TextChoices):
    """What the operator wants of a node, whatever the node itself reports."""

    ACTIVE = "active", "Active"
    DRAINING = "draining", "Draining"
    MAINTENANCE = "maintenance", "Maintenance"


class NodeStatus(models.TextChoices):
    """What comes of the operator's intent and the node's heartbeats together."""

    ONLINE = "online", "Online"
    OFFLINE = "offline", "Offline"
    DRAINING = "draining", "Draining"
    MAINTENANCE = "maintenance", "Maintenance"


class Node(models.Model):
    """A machine with GPUs. ``status`` is computed by the database, so that it can't disagree with its causes."""

    cluster = models.ForeignKey(Cluster, on_delete=models.PROTECT, related_name="nodes")
    hostname = models.CharField(max_length=253)
    ip_address = models.GenericIPAddressField(null=True, blank=True)
    total_gpus = models.PositiveSmallIntegerField(default=0, help_text="GPUs the agent says the node has.")
    cpu_cores = models.PositiveIntegerField(null=True, blank=True)
    ram_gb = models.PositiveIntegerField(null=True, blank=True)
    intent = models.CharField(max_length=16, choices=NodeIntent, default=NodeIntent.ACTIVE)
    intent_reason = models.CharField(max_length=500, blank=True, default="")
    silent = models.BooleanField(default=False, help_text="Whether its heartbeats have stopped.")
    last_heartbeat_at = models.DateTimeField()
    created_at = models.DateTimeField()
    decommissioned_at = models.DateTimeField(null=True, blank=True)
    status = models.GeneratedField(
        expression=Case(
            When(intent=NodeIntent.MAINTENANCE, then=Value("maintenance")),
            When(silent=True, then=Value("offline")),
            When(intent=NodeIntent.DRAINING, then=Value("draining")),
            default=Value("online"),
        ),
        output_field=models.CharField(max_length=16, choices=NodeStatus),
        db_persist=True,
    )

    class Meta:
        ordering = ["hostname"]
        constraints = [
            models.UniqueConstraint(
                fields=["hostname"], condition=Q(decommissioned_at__isnull=True), name="node_hostname_unique"
            ),
            models.CheckConstraint(condition=Q(intent__in=NodeIntent.values), name="node_intent_known"),
        ]
        indexes = [
            # Serves the sweep for silent nodes: last_heartbeat_at < now - limit, of those not yet silent.
            models.Index(
                fields=["last_heartbeat_at"],
                condition=Q(silent=False, decommissioned_at__isnull=True),
                name="node_heartbeat_due",
            ),
        ]

    def __str__(self) -> str:
        return self.hostname


class GPUHealth(models.TextChoices):
    """What the GPU's own readings say of it."""

    HEALTHY = "healthy", "Healthy"
    UNHEALTHY = "unhealthy", "Unhealthy"


class HealthCause(models.TextChoices):
    """What made a GPU unhealthy. Heat passes by itself and what vanished may come back; the others end by an operator's
    word.
    """

    NONE = "", "None"
    TEMPERATURE = "temperature", "Temperature"
    XID = "xid", "XID error"
    MEMORY = "memory", "Lost memory"
    VANISHED = "vanished", "Vanished"
    OPERATOR = "operator", "Operator"


class GPUState(models.TextChoices):
    """What an unsold second of a GPU is spent on. Sold is not among them: that is an open allocation."""

    AVAILABLE = "available", "Available"
    DRAINING = "draining", "Draining"
    MAINTENANCE = "maintenance", "Maintenance"
    UNHEALTHY = "unhealthy", "Unhealthy"
    OFFLINE = "offline", "Offline"


class GPU(models.Model):
    """One device in one slot of a node. Another device in the slot is another row; the old one is retired."""

    node = models.ForeignKey(Node, on_delete=models.PROTECT, related_name="gpus")
    gpu_index = models.PositiveSmallIntegerField()
    model = models.CharField(max_length=100, blank=True, default="", help_text="Empty: the agent did not say.")
    vram_mb = models.PositiveIntegerField(null=True, blank=True)
    uuid = models.CharField(max_length=64, blank=True, default="", help_text="As the driver gives it.")
    pci_bus_id = models.CharField(max_length=32, blank=True, default="")
    health = models.CharField(max_length=16, choices=GPUHealth, default=GPUHealth.HEALTHY)
    health_cause = models.CharField(max_length=16, choices=HealthCause, blank=True, default=HealthCause.NONE)
    health_reason = models.CharField(max_length=500, blank=True, default="")
    state = models.CharField(
        max_length=16, choices=GPUState, help_text="The open ledger period's state; written with it, never alone."
    )
    registered_at = models.DateTimeField()
    retired_at = models.DateTimeField(null=True, blank=True)
    retired_reason = models.CharField(
        max_length=500,
        blank=True,
        default="",
        db_default="",
        help_text="Why it was retired, and by whom if a person did.",
    )

    class Meta:
        verbose_name = "GPU"
        ordering = ["node_id", "gpu_index"]
        constraints = [
            models.UniqueConstraint(
                fields=["node", "gpu_index"], condition=Q(retired_at__isnull=True), name="gpu_slot_unique"
            ),
            models.CheckConstraint(condition=Q(state__in=GPUState.values), name="gpu_state_known"),
            models.CheckConstraint(
                condition=Q(health=GPUHealth.HEALTHY, health_cause=HealthCause.NONE)
                | Q(
                    health=GPUHealth.UNHEALTHY,
                    health_cause__in=["temperature", "xid", "memory", "vanished", "operator"],
                ),
                name="gpu_unhealthy_has_cause",
            ),
        ]
        indexes = [
            # Serves the scheduler's snapshot: every GPU in service that could take a job, by node.
            models.Index(
                fields=["node", "model"],
                condition=Q(retired_at__isnull=True, state="available"),
                name="gpu_available_by_node",
            ),
            # Serves group commit: the GPUs that were retired within the hour.
            models.Index(fields=["retired_at"], condition=Q(retired_at__isnull=False), name="gpu_retired"),
            # Serves registration: where else the devices that a node names are in service.
            models.Index(fields=["uuid"], condition=Q(retired_at__isnull=True), name="gpu_device"),
        ]

    def __str__(self) -> str:
        # By its node's name where that is at hand: it must not take a query for each row of a list.
        node = self._state.fields_cache.get("node")
        return f"GPU {self.gpu_index} of {node.hostname if node else f'node {self.node_id}'}"


class GPUStatePeriod(models.Model):
    """The ledger: a GPU was in this state during this range. The union of a GPU's ranges is its registered time."""

    gpu = models.ForeignKey(GPU, on_delete=models.PROTECT, related_name="state_periods")
    state = models.CharField(max_length=16, choices=GPUState)
    reason = models.CharField(max_length=500, blank=True, default="")
    during = DateTimeRangeField()

    class Meta:
        verbose_name = "GPU state period"
        ordering = ["-pk"]
        constraints = [
            # A GPU is in one state at a time; also serves every window query of one GPU.
            ExclusionConstraint(
                name="gpu_in_one_state_at_a_time",
                expressions=[("gpu", RangeOperators.EQUAL), ("during", RangeOperators.OVERLAPS)],
            ),
            models.CheckConstraint(condition=Q(during__isempty=False), name="gpu_state_period_not_empty"),
            models.CheckConstraint(condition=Q(state__in=GPUState.values), name="gpu_state_period_known"),
        ]
        indexes = [
            # Serves the change of state: the one open period of a GPU.
            models.Index(fields=["gpu"], condition=Q(during__upper_inf=True), name="gpu_state_period_open"),
        ]

    def __str__(self) -> str:
        return f"GPU {self.gpu_id} {self.state}"


class GPUFault(models.Model):
    """A session of ill health, from what began it to what ended it. An end names its session, so that a recovery of an
    old one can't end a new one. A session that is held back left the GPU in service: too many others were out.
    """

    gpu = models.ForeignKey(GPU, on_delete=models.PROTECT, related_name="faults")
    cause = models.CharField(max_length=16, choices=HealthCause)
    reason = models.CharField(max_length=500, blank=True, default="")
    began_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)
    held_back = models.BooleanField(default=False)

    class Meta:
        verbose_name = "GPU fault"
        ordering = ["-pk"]
        constraints = [
            # Also serves the look-up of a GPU's open session.
            models.UniqueConstraint(
                fields=["gpu"], condition=Q(ended_at__isnull=True, held_back=False), name="gpu_one_open_fault"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.cause} of GPU {self.gpu_id}"


class LatestReading(models.Model):
    """The newest sample of each GPU, so that a list of GPUs need not search the samples."""

    gpu = models.OneToOneField(GPU, primary_key=True, on_delete=models.CASCADE, related_name="latest_reading")
    recorded_at = models.DateTimeField()
    utilization_pct = models.FloatField(null=True)
    memory_used_mb = models.PositiveIntegerField(null=True)
    memory_total_mb = models.PositiveIntegerField(null=True)
    temperature_c = models.FloatField(null=True)
    power_draw_w = models.FloatField(null=True)
    xid = models.PositiveIntegerField(null=True)
    hot_since = models.DateTimeField(
        null=True, help_text="The first of the samples without a gap, up to now, at or above the temperature limit."
    )
    cool_since = models.DateTimeField(
        null=True, help_text="Of a GPU that heat took out: the first of them below the recovery limit."
    )
    streak_until = models.DateTimeField(null=True, help_text="The last of those samples.")

    def __str__(self) -> str:
        return f"reading of GPU {self.gpu_id}"


class MetricSample(models.Model):
    """One reading of one GPU. The table is partitioned by day and made by SQL in a migration.

    There is no unique index on the hot path, so a sample may be stored twice after a retry; reads count it once
    by (gpu, recorded_at).
    """

    of_samples = True  # For the router: see clusters/sampledb.py.

    pk = models.CompositePrimaryKey("gpu_id", "recorded_at")
    gpu_id = models.BigIntegerField()
    recorded_at = models.DateTimeField()
    utilization_pct = models.FloatField(null=True)
    memory_used_mb = models.IntegerField(null=True)
    memory_total_mb = models.IntegerField(null=True)
    temperature_c = models.FloatField(null=True)
    power_draw_w = models.FloatField(null=True)
    xid = models.IntegerField(null=True)

    class Meta:
        managed = False
        db_table = "clusters_metricsample"

    def __str__(self) -> str:
        return f"sample of GPU {self.gpu_id}"


class NodeWatch(models.Model):
    """One row, ever: how long somebody has been listening for heartbeats, without a pause long enough to miss them.

    After a stop of the control plane no node is called silent before it had its full time to speak again.
    """

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    listening_since = models.DateTimeField()
    last_sweep_at = models.DateTimeField()

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(id=1), name="node_watch_one_row")]

    def __str__(self) -> str:
        return f"listening since {self.listening_since:%Y-%m-%d %H:%M:%S}"
