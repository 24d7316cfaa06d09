"""API keys. The raw key is never stored: only its digest, which is enough to recognise it."""

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q

from tenants.models import Tenant


class KeyKind(models.TextChoices):
    """Who holds the key."""

    CLIENT = "client", "API client"
    CLUSTER = "cluster", "Cluster's node agents"


class Permission(models.TextChoices):
    """The scopes a key may hold; ``admin`` implies the other two."""

    READ = "read", "Read"
    WRITE = "write", "Write"
    ADMIN = "admin", "Admin"


def default_permissions() -> list[str]:
    """What a key may do when its maker does not say."""
    return [Permission.READ.value, Permission.WRITE.value]


class ApiKey(models.Model):
    """A credential of the API. Revoked keys stay for the audit."""

    label = models.CharField(max_length=200)
    kind = models.CharField(max_length=16, choices=KeyKind, default=KeyKind.CLIENT)
    prefix = models.CharField(max_length=16, help_text="The first characters, by which people recognise a key.")
    digest = models.CharField(max_length=64, unique=True, help_text="SHA-256 of the raw key, in hexadecimal.")
    permissions = ArrayField(models.CharField(max_length=8, choices=Permission), default=default_permissions)
    tenant = models.ForeignKey(Tenant, null=True, blank=True, on_delete=models.PROTECT, related_name="api_keys")
    created_by = models.CharField(max_length=200, help_text="The key or person that made it.")
    created_at = models.DateTimeField()
    last_used_at = models.DateTimeField(null=True, blank=True, help_text="To the minute.")
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = "API key"
        ordering = ["-pk"]
        constraints = [
            models.CheckConstraint(
                condition=Q(permissions__contained_by=Permission.values) & Q(permissions__len__gte=1),
                name="apikey_permissions_known",
            ),
            # A tenant's key never holds admin, whatever code made it.
            models.CheckConstraint(
                condition=Q(tenant__isnull=True) | ~Q(permissions__contains=["admin"]),
                name="apikey_tenant_not_admin",
                violation_error_message="A key that is bound to a tenant cannot hold admin.",
            ),
            models.CheckConstraint(
                condition=Q(kind=KeyKind.CLIENT) | Q(tenant__isnull=True, permissions=["write"]),
                name="apikey_cluster_key_writes_only",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.label} ({self.prefix}…)"
