"""The named cast: Alice rents as acme, Bob as bluefin; Charlie is whoever sees the whole fleet."""

from datetime import UTC, datetime
from typing import Any

from tenants.models import Tenant

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def make_tenant(name: str = "acme", **fields: Any) -> Tenant:
    """A tenant with a quota of 8 GPUs on the starter plan, unless told otherwise."""
    defaults: dict[str, Any] = {"gpu_quota": 8, "created_at": NOW}
    return Tenant.objects.create(name=name, **{**defaults, **fields})


def alice(**fields: Any) -> Tenant:
    """Alice's company."""
    return make_tenant("acme", **fields)


def bob(**fields: Any) -> Tenant:
    """Bob's company."""
    return make_tenant("bluefin", **fields)
