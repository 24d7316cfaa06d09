"""Alert rules and the channels they speak through, incidents, times of planned work, and the outbox of messages."""

import uuid

from django.db import models
from django.db.models import F, Q

from clusters.models import Cluster, Node
from tenants.models import Tenant


class RuleType(models.TextChoices):
    """What a rule watches; the unit of its threshold stands behind each."""

    UTILIZATION_LOW = "utilization_low", "Allocated GPUs under-used (percent, below)"
    QUOTA_BREACH = "quota_breach", "Tenant near or over quota (percent of quota, at or above)"
    HEALTH_DEGRADED = "health_degraded", "GPUs unhealthy or offline (percent of a cluster, at or above)"
    NODE_SILENT = "node_silent", "Node without heartbeats (seconds, at or above)"
    GPU_TEMPERATURE = "gpu_temperature", "GPU too hot (degrees Celsius, at or above)"
    QUEUE_STALLED = "queue_stalled", "Job that could run waits (minutes, at or above)"
    JOB_OVERRUN = "job_overrun", "Job runs past its estimate (percent of it, at or above)"
    LEAKAGE_RATE = "leakage_rate", "Unsold capacity at list price (USD an hour, at or above)"
    UNPRICED_GPU = "unpriced_gpu", "GPU model without a list price (GPUs, at or above)"
    INVOICE_SYNC_FAILED = "invoice_sync_failed", "Invoice stuck on its way to Stripe (minutes, at or above)"
    SCHEDULER_LATE = "scheduler_late", "Scheduler has finished no cycle (seconds, at or above)"


class Severity(models.TextChoices):
    """How soon a person must look."""

    INFO = "info", "Info"
    WARNING = "warning", "Warning"
    CRITICAL = "critical", "Critical"


class ChannelKind(models.TextChoices):
    """How a channel speaks."""

    EMAIL = "email", "E-mail"
    WEBHOOK = "webhook", "Webhook, signed as Standard Webhooks"
    SLACK = "slack", "Slack-compatible webhook"
    PAGERDUTY = "pagerduty", "PagerDuty Events v2"


class Channel(models.Model):
    """Somebody who is told. What a rule does not send to channels of its own choice goes by their routes."""

    name = models.CharField(max_length=200, unique=True)
    kind = models.CharField(max_length=16, choices=ChannelKind)
    target = models.CharField(max_length=1000, help_text="A URL; for e-mail the addresses, separated by commas.")
    secret = models.CharField(
        max_length=200, blank=True, default="", help_text="What a webhook is signed with; PagerDuty's routing key."
    )
    min_severity = models.CharField(
        max_length=16,
        choices=Severity,
        blank=True,
        default=Severity.WARNING,
        help_text="Route: incidents of this severity and above. Empty: only those of rules that name the channel.",
    )
    cluster = models.ForeignKey(
        Cluster, null=True, blank=True, on_delete=models.PROTECT, related_name="+", help_text="Route: of this alone."
    )
    tenant = models.ForeignKey(
        Tenant, null=True, blank=True, on_delete=models.PROTECT, related_name="+", help_text="Route: of this alone."
    )
    gpu_model = models.CharField(max_length=100, blank=True, default="", help_text="Route: of this alone.")
    enabled = models.BooleanField(default=True)
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(condition=Q(kind__in=ChannelKind.values), name="alert_channel_kind_known"),
            models.CheckConstraint(
                condition=Q(min_severity__in=["", *Severity.values]), name="alert_channel_severity_known"
            ),
        ]

    def __str__(self) -> str:
        return self.name


class AlertRule(models.Model):
    """A condition that must hold for a while before it is an incident."""

    name = models.CharField(max_length=200, unique=True)
    type = models.CharField(max_length=32, choices=RuleType)
    threshold = models.FloatField()
    recovery_threshold = models.FloatField(
        null=True, blank=True, help_text="An incident ends only beyond this (hysteresis); empty: the threshold."
    )
    for_seconds = models.PositiveIntegerField(default=0, help_text="How long the condition must hold.")
    cluster = models.ForeignKey(
        Cluster, null=True, blank=True, on_delete=models.PROTECT, related_name="+", help_text="Empty: the fleet."
    )
    tenant = models.ForeignKey(
        Tenant, null=True, blank=True, on_delete=models.PROTECT, related_name="+", help_text="Empty: all tenants."
    )
    gpu_model = models.CharField(max_length=100, blank=True, default="", help_text="Empty: all models.")
    severity = models.CharField(max_length=16, choices=Severity, default=Severity.WARNING)
    channels = models.ManyToManyField(
        Channel, blank=True, related_name="rules", help_text="Who is told; none: whom the channels' routes say."
    )
    enabled = models.BooleanField(default=True)
    silenced_at = models.DateTimeField(null=True, blank=True)
    silenced_until = models.DateTimeField(null=True, blank=True, help_text="Until then it tells nobody.")
    silenced_by = models.CharField(max_length=64, blank=True, default="")
    silence_reason = models.CharField(max_length=500, blank=True, default="")
    silence_end_told_at = models.DateTimeField(
        null=True, blank=True, help_text="When it was told that the silence is about to end."
    )
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(condition=Q(type__in=RuleType.values), name="alert_rule_type_known"),
            models.CheckConstraint(condition=Q(severity__in=Severity.values), name="alert_rule_severity_known"),
        ]

    def __str__(self) -> str:
        return self.name


class RuleEvaluation(models.Model):
    """What a rule saw when it was last evaluated. Subjects without fresh data are neither well nor in trouble."""

    rule = models.OneToOneField(AlertRule, primary_key=True, on_delete=models.CASCADE, related_name="evaluation")
    evaluated_at = models.DateTimeField()
    subjects = models.PositiveIntegerField()
    in_trouble = models.PositiveIntegerField()
    missing = models.PositiveIntegerField(help_text="Subjects without fresh data.")

    def __str__(self) -> str:
        return f"{self.rule_id}: {self.in_trouble} of {self.subjects}, {self.missing} unknown"


class EventStatus(models.TextChoices):
    """An incident's life."""

    PENDING = "pending", "Pending"
    FIRING = "firing", "Firing"
    RESOLVED = "resolved", "Resolved"


class AlertEvent(models.Model):
    """One incident of one rule on one subject: fires once, resolves once."""

    rule = models.ForeignKey(AlertRule, on_delete=models.PROTECT, related_name="events")
    subject = models.CharField(max_length=200, help_text="What it is about, such as cluster:3.")
    name = models.CharField(max_length=300, default="", help_text="The subject in words.")
    cluster = models.ForeignKey(Cluster, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    node = models.ForeignKey(Node, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    tenant = models.ForeignKey(
        Tenant,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        help_text="Whose it is, where it is one tenant's.",
    )
    gpu_model = models.CharField(max_length=100, blank=True, default="")
    status = models.CharField(max_length=16, choices=EventStatus)
    value = models.FloatField()
    message = models.CharField(max_length=500)
    cost_per_hour = models.DecimalField(max_digits=16, decimal_places=2, null=True, blank=True)
    currency = models.CharField(max_length=3, blank=True, default="")
    since = models.DateTimeField(help_text="When the condition began to hold.")
    fired_at = models.DateTimeField(null=True, blank=True)
    resolved_at = models.DateTimeField(null=True, blank=True)
    flapping = models.BooleanField(
        default=False, help_text="Whether it came and went; then it is held until it stays well."
    )
    calm_since = models.DateTimeField(null=True, blank=True, help_text="Flapping: since when it is well.")
    missing_since = models.DateTimeField(null=True, blank=True, help_text="Since when there is no fresh data.")
    parent = models.ForeignKey(
        "self", null=True, blank=True, on_delete=models.PROTECT, related_name="children", help_text="What explains it."
    )
    told_at = models.DateTimeField(null=True, blank=True, help_text="When its messages were put into the outbox.")
    end_told_at = models.DateTimeField(null=True, blank=True)
    acknowledged_at = models.DateTimeField(null=True, blank=True)
    acknowledged_by = models.CharField(max_length=64, blank=True, default="")

    class Meta:
        ordering = ["-pk"]
        constraints = [
            # Promise 7: one open incident a rule and subject, however many workers evaluate.
            models.UniqueConstraint(
                fields=["rule", "subject"], condition=~Q(status="resolved"), name="alert_event_one_open"
            ),
            models.CheckConstraint(condition=Q(status__in=EventStatus.values), name="alert_event_status_known"),
        ]
        indexes = [
            # Serves the hold on flapping: how often did this end within the last hour?
            models.Index(
                fields=["rule", "subject", "resolved_at"], condition=Q(status="resolved"), name="alert_event_ended"
            ),
            # Serves the telling: what fires and was not told, and what ended and whose end was not.
            models.Index(fields=["rule"], condition=Q(status="firing", told_at=None), name="alert_event_untold"),
            models.Index(
                fields=["rule"],
                condition=Q(status="resolved", told_at__isnull=False, end_told_at=None),
                name="alert_event_end_untold",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name or self.subject}: {self.status}"


class MaintenanceWindow(models.Model):
    """Planned work on a cluster or a node: incidents there are recorded, and nobody is told while it lasts."""

    cluster = models.ForeignKey(Cluster, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    node = models.ForeignKey(Node, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    reason = models.CharField(max_length=500)
    created_by = models.CharField(max_length=64)
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.CheckConstraint(
                condition=Q(cluster__isnull=True) ^ Q(node__isnull=True),
                name="maintenance_of_cluster_or_node",
                violation_error_message="Choose a cluster or a node, and not both.",
            ),
            models.CheckConstraint(
                condition=Q(ends_at__gte=F("starts_at")),
                name="maintenance_ends_after_its_start",
                violation_error_message="The end lies after the start.",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.reason}, until {self.ends_at:%Y-%m-%d %H:%M}"


class DeliveryKind(models.TextChoices):
    """What a message says of its incidents."""

    FIRING = "firing", "Firing"
    RESOLVED = "resolved", "Resolved"
    SILENCE_ENDING = "silence_ending", "A silence is about to end"


class DeliveryStatus(models.TextChoices):
    """A delivery's life in the outbox."""

    PENDING = "pending", "Pending"
    SENT = "sent", "Sent"
    DEAD = "dead", "Dead letter"


class Delivery(models.Model):
    """The outbox: a message to one channel about incidents of one rule. Receivers know a repetition by ``uid``."""

    uid = models.UUIDField(default=uuid.uuid4, unique=True, help_text="Sent along: the same in each try.")
    channel = models.ForeignKey(Channel, on_delete=models.PROTECT, related_name="deliveries")
    rule = models.ForeignKey(AlertRule, on_delete=models.PROTECT, related_name="deliveries")
    events = models.ManyToManyField(AlertEvent, related_name="deliveries")
    kind = models.CharField(max_length=16, choices=DeliveryKind)
    body = models.JSONField(help_text="What is said, as it was when it was written.")
    status = models.CharField(max_length=16, choices=DeliveryStatus, default=DeliveryStatus.PENDING)
    attempts = models.PositiveSmallIntegerField(default=0)
    next_attempt_at = models.DateTimeField()
    leased_until = models.DateTimeField(null=True, blank=True, help_text="A sender has it in hand until then.")
    last_error = models.CharField(max_length=500, blank=True, default="")
    created_at = models.DateTimeField()
    sent_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name_plural = "deliveries"
        ordering = ["-pk"]
        constraints = [
            models.CheckConstraint(condition=Q(status__in=DeliveryStatus.values), name="delivery_status_known"),
        ]
        indexes = [
            # Serves the sender: what is due, by channel, in order.
            models.Index(fields=["channel", "id"], condition=Q(status="pending"), name="delivery_due"),
            # Serves the telling of ends: who heard of what fired under a silence.
            models.Index(fields=["rule"], condition=Q(kind="silence_ending"), name="delivery_silence_ending"),
        ]

    def __str__(self) -> str:
        return f"delivery {self.pk} to {self.channel_id}: {self.status}"
