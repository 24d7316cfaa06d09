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
