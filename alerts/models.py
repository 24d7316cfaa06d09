"""Alert rules, their events (incidents), and the deliveries that tell people."""

from django.db import models
from django.db.models import Q

from clusters.models import Cluster
from tenants.models import Tenant


class RuleType(models.TextChoices):
    """What a rule watches; the unit of its threshold stands behind each."""

    UTILIZATION_LOW = "utilization_low", "Allocated GPUs under-used (percent, below)"
    QUOTA_BREACH = "quota_breach", "Tenant near or over quota (percent of quota, at or above)"
    HEALTH_DEGRADED = "health_degraded", "GPUs unhealthy or offline (percent of a cluster, at or above)"


class Severity(models.TextChoices):
    """How soon a person must look."""

    INFO = "info", "Info"
    WARNING = "warning", "Warning"
    CRITICAL = "critical", "Critical"


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
    severity = models.CharField(max_length=16, choices=Severity, default=Severity.WARNING)
    enabled = models.BooleanField(default=True)
    silenced_until = models.DateTimeField(null=True, blank=True, help_text="Until then it opens no incident.")
    silenced_by = models.CharField(max_length=64, blank=True, default="")
    silence_reason = models.CharField(max_length=500, blank=True, default="")
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(condition=Q(type__in=RuleType.values), name="alert_rule_type_known"),
            models.CheckConstraint(condition=Q(severity__in=Severity.values), name="alert_rule_severity_known"),
        ]

    def __str__(self) -> str:
        return self.name


class EventStatus(models.TextChoices):
    """An incident's life."""

    PENDING = "pending", "Pending"
    FIRING = "firing", "Firing"
    RESOLVED = "resolved", "Resolved"


class AlertEvent(models.Model):
    """One incident of one rule on one subject: fires once, resolves once."""

    rule = models.ForeignKey(AlertRule, on_delete=models.PROTECT, related_name="events")
    subject = models.CharField(max_length=200, help_text="What it is about, such as cluster:3.")
    tenant = models.ForeignKey(
        Tenant,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        help_text="Whose it is, where it is one tenant's.",
    )
    status = models.CharField(max_length=16, choices=EventStatus)
    value = models.FloatField()
    message = models.CharField(max_length=500)
    since = models.DateTimeField(help_text="When the condition began to hold.")
    fired_at = models.DateTimeField(null=True, blank=True)
    resolved_at = models.DateTimeField(null=True, blank=True)
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

    def __str__(self) -> str:
        return f"{self.rule_id} on {self.subject}: {self.status}"


class DeliveryStatus(models.TextChoices):
    """A delivery's life in the outbox."""

    PENDING = "pending", "Pending"
    SENT = "sent", "Sent"
    DEAD = "dead", "Dead letter"


class Delivery(models.Model):
    """The outbox: one message to one channel about one change of one incident."""

    event = models.ForeignKey(AlertEvent, on_delete=models.PROTECT, related_name="deliveries")
    channel = models.JSONField()
    transition = models.CharField(max_length=16, choices=EventStatus)
    status = models.CharField(max_length=16, choices=DeliveryStatus, default=DeliveryStatus.PENDING)
    attempts = models.PositiveSmallIntegerField(default=0)
    next_attempt_at = models.DateTimeField()
    last_error = models.CharField(max_length=500, blank=True, default="")

    class Meta:
        verbose_name_plural = "deliveries"
        ordering = ["-pk"]
        indexes = [
            # Serves the sender: what is due.
            models.Index(fields=["next_attempt_at"], condition=Q(status="pending"), name="delivery_due"),
        ]

    def __str__(self) -> str:
        return f"delivery {self.pk} of event {self.event_id}"
