"""Reads of API keys."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import connection
from django.db.models import QuerySet

from apikeys.hashing import digest_of, is_well_formed
from apikeys.models import ApiKey

# Written out, since every request asks it, and the ORM would take longer to write it than PostgreSQL to answer.
LIVE_KEY = """
SELECT key.* FROM apikeys_apikey AS key LEFT JOIN tenants_tenant AS tenant ON tenant.id = key.tenant_id
 WHERE key.digest = %s AND key.revoked_at IS NULL AND (key.expires_at IS NULL OR key.expires_at > %s)
   AND (key.tenant_id IS NULL OR tenant.status = 'active')
"""


def find_live_key(raw: str, *, now: datetime) -> ApiKey | None:
    """The key with this raw text, unless it is malformed, unknown, revoked, expired, or its tenant is inactive.

    Read from the database at every request and cached nowhere, so that a revoked key is refused from the next
    request on, on every worker.
    """
    if not is_well_formed(raw):
        return None
    return next(iter(ApiKey.objects.raw(LIVE_KEY, [digest_of(raw), now])), None)


@dataclass(frozen=True, slots=True)
class FleetKey:
    """A live key that is bound to no tenant."""

    id: int
    kind: str
    permissions: list[str]


# Written out, since group commit asks it hundreds of times a second and the ORM would take most of that time. A key
# whose use is to be noted again is left to ``find_live_key``.
FLEET_KEYS = """
SELECT digest, id, kind, permissions FROM apikeys_apikey
WHERE digest = ANY(%s) AND revoked_at IS NULL AND tenant_id IS NULL AND (expires_at IS NULL OR expires_at > %s)
  AND last_used_at >= %s
"""


def find_live_fleet_keys(raws: Collection[str], *, now: datetime) -> dict[str, FleetKey]:
    """Those of these raw texts whose keys are live, bound to no tenant, and were noted as used this minute."""
    raw_of = {digest_of(raw): raw for raw in raws if is_well_formed(raw)}
    with connection.cursor() as cursor:
        cursor.execute(FLEET_KEYS, [list(raw_of), now, now - timedelta(minutes=1)])
        return {raw_of[digest]: FleetKey(*fields) for digest, *fields in cursor.fetchall()}


def list_keys() -> QuerySet[ApiKey]:
    """All keys, revoked ones too: the list is also the audit."""
    return ApiKey.objects.all()
