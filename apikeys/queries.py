"""Reads of API keys."""

from datetime import datetime

from django.db.models import Q, QuerySet

from apikeys.hashing import digest_of, is_well_formed
from apikeys.models import ApiKey
from tenants.models import TenantStatus


def find_live_key(raw: str, *, now: datetime) -> ApiKey | None:
    """The key with this raw text, unless it is malformed, unknown, revoked, expired, or its tenant is inactive.

    Read from the database at every request and cached nowhere, so that a revoked key is refused from the next
    request on, on every worker.
    """
    if not is_well_formed(raw):
        return None
    unexpired = Q(expires_at__isnull=True) | Q(expires_at__gt=now)
    tenant_active = Q(tenant__isnull=True) | Q(tenant__status=TenantStatus.ACTIVE)
    return ApiKey.objects.filter(unexpired, tenant_active, revoked_at=None, digest=digest_of(raw)).first()


def list_keys() -> QuerySet[ApiKey]:
    """All keys, revoked ones too: the list is also the audit."""
    return ApiKey.objects.all()
