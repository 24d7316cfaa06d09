"""Reads of API keys."""

import functools
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import QuerySet

from apikeys.hashing import digest_of, is_well_formed
from apikeys.models import ApiKey
from gpufleet.common.wire import Rows, Wire

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


# Written out, since group commit asks it hundreds of times a second. A key whose use is to be noted again is left to
# ``find_live_key``.
FLEET_KEYS = """
SELECT digest, id, kind, array_to_string(permissions, ',') FROM apikeys_apikey
WHERE digest = ANY(%s::text[]) AND revoked_at IS NULL AND tenant_id IS NULL AND (expires_at IS NULL OR expires_at > %s)
  AND last_used_at >= %s
"""


@functools.lru_cache(maxsize=1024)
def _digest_of(raw: str) -> str | None:
    """None for what can't be a key. Kept, since each group asks it of the same few, and it is long to find."""
    return digest_of(raw) if is_well_formed(raw) else None


class FleetKeysQuery:
    """Asks for those of some raw texts whose keys are live, bound to no tenant, and were noted as used this minute."""

    def __init__(self, raws: Collection[str], *, now: datetime) -> None:
        self._raw_of = {digest: raw for raw in raws if (digest := _digest_of(raw)) is not None}
        self._now = now

    def statement(self, wire: Wire) -> str:
        """The query."""
        digests = "{" + ",".join(self._raw_of) + "}"
        return wire.text(FLEET_KEYS, [digests, self._now, self._now - timedelta(minutes=1)])

    def keys(self, rows: Rows) -> dict[str, FleetKey]:
        """What its rows say, by raw text."""
        found = {}
        for row in rows:
            digest, key_id, kind, permissions = (str(value or b"", "ascii") for value in row)
            found[self._raw_of[digest]] = FleetKey(int(key_id), kind, permissions.split(","))
        return found


def list_keys() -> QuerySet[ApiKey]:
    """All keys, revoked ones too: the list is also the audit."""
    return ApiKey.objects.all()
