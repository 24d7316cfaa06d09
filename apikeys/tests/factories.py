"""Keys for tests, and clients that send them. Made by the service, at the real time, since the API reads the clock."""

from typing import Any

from django.utils import timezone
from rest_framework.test import APIClient

from apikeys.hashing import mint_key
from apikeys.services import IssuedKey, issue_key
from tenants.models import Tenant


def make_key(tenant: Tenant | None = None, **fields: Any) -> IssuedKey:
    """A live key with read and write, of one tenant or of the whole fleet."""
    defaults: dict[str, Any] = {"label": "test", "permissions": ["read", "write"], "created_by": "test"}
    tenant_id = None if tenant is None else tenant.pk
    return issue_key(tenant_id=tenant_id, **{"now": timezone.now(), **defaults, **fields})


def make_admin_key() -> IssuedKey:
    """A key that may do everything."""
    return make_key(label="admin", permissions=["admin"])


def client_with(issued: IssuedKey) -> APIClient:
    """A client that sends this key with every request, and JSON unless told otherwise."""
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {issued.raw}")
    return client


def unissued_key() -> str:
    """The raw text of a well-formed key that nobody was given."""
    return mint_key().raw
