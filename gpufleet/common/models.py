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
