"""Rows that belong to the floor of the house and to no domain."""

from django.db import models


class IdempotentResponse(models.Model):
    """The first answer to a POST that carried an ``Idempotency-Key``, kept for 24 hours."""

    actor = models.CharField(max_length=64, help_text="Who sent it, as audit rows name them; keys are not shared.")
    key = models.CharField(max_length=255)
    fingerprint = models.CharField(max_length=64, help_text="SHA-256 of method, path, query and body.")
    status = models.PositiveSmallIntegerField()
    body = models.JSONField(null=True)
    created_at = models.DateTimeField()

    class Meta:
        constraints = [
            # Serves the look-up of every request with a key, and refuses a second first answer.
            models.UniqueConstraint(fields=["actor", "key"], name="idempotent_response_once"),
        ]
        indexes = [
            # Serves the hourly expiry: created_at < now - 24 h.
            models.Index(fields=["created_at"], name="idempotent_response_created"),
        ]

    def __str__(self) -> str:
        return f"{self.actor} {self.key}"


class AuditEntry(models.Model):
    """Something that a person did in the console to one row: who, why, and what was different afterwards.

    It is written before the deed, and ``after`` once it is done; where ``after`` is null nobody saw the outcome.
    """

    at = models.DateTimeField()
    actor = models.CharField(max_length=200)
    action = models.CharField(max_length=64)
    model = models.CharField(max_length=64, help_text="Such as jobs.job.")
    object_id = models.BigIntegerField()
    name = models.CharField(max_length=300, help_text="The row in words, as it was.")
    reason = models.CharField(max_length=500, blank=True, default="")
    before = models.JSONField(default=dict)
    after = models.JSONField(null=True, help_text="Null: the outcome was not seen.")

    class Meta:
        verbose_name_plural = "audit log"
        ordering = ["-pk"]
        indexes = [
            # Serves a row's own history.
            models.Index(fields=["model", "object_id", "-id"], name="audit_entry_by_object"),
            # Serves what one person did.
            models.Index(fields=["actor", "-id"], name="audit_entry_by_actor"),
        ]

    def __str__(self) -> str:
        return f"{self.actor}: {self.action} {self.name}"


class BulkRun(models.Model):
    """Work on many rows that somebody agreed to once: done in steps, and carried on by whoever opens its page."""

    token = models.UUIDField(unique=True, help_text="Of the page that asked, so that a second click starts nothing.")
    work = models.CharField(max_length=64, help_text="Such as billing.finalise.")
    actor = models.CharField(max_length=200)
    reason = models.CharField(max_length=500, blank=True, default="")
    terms = models.JSONField(default=dict, help_text="What was agreed to beside the rows.")
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)

    class Meta:
        verbose_name = "work in bulk"
        verbose_name_plural = "work in bulk"
        ordering = ["-pk"]
        indexes = [
            # Serves what needs a person now: work that somebody left in the middle.
            models.Index(fields=["started_at"], name="bulk_run_unfinished", condition=models.Q(finished_at=None)),
        ]

    def __str__(self) -> str:
        return f"{self.work.split('.')[-1].replace('_', ' ')}, {self.started_at:%Y-%m-%d %H:%M} UTC, {self.actor}"


class StepStatus(models.TextChoices):
    """What has come of a step."""

    WAITING = "waiting"
    DONE = "done"
    REFUSED = "refused"
    STOPPED = "stopped"


class BulkStep(models.Model):
    """One row of such work. What it did and that it was done are one transaction."""

    run = models.ForeignKey(BulkRun, models.CASCADE, related_name="steps")
    object_id = models.BigIntegerField()
    name = models.CharField(max_length=300, help_text="The row in words, as it was.")
    terms = models.JSONField(null=True, help_text="What was agreed to of this row.")
    status = models.CharField(max_length=16, choices=StepStatus.choices, default=StepStatus.WAITING)
    told = models.CharField(max_length=500, blank=True, default="", help_text="What came of it, or why it was refused.")
    result_model = models.CharField(max_length=64, blank=True, default="")
    result_id = models.BigIntegerField(null=True)

    class Meta:
        constraints = [
            # Serves a run's page, and keeps a row from standing twice in a run.
            models.UniqueConstraint(fields=["run", "object_id"], name="bulk_step_once"),
        ]
        indexes = [
            # Serves the next step to take, and the count of what is left.
            models.Index(fields=["run", "id"], name="bulk_step_waiting", condition=models.Q(status="waiting")),
        ]

    def __str__(self) -> str:
        return self.name
