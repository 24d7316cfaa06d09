"""Making, using and revoking keys."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from django.db import transaction
from django.db.models import Q

from apikeys.hashing import mint_key
from apikeys.models import ApiKey, KeyKind, Permission
from gpufleet.common.errors import FieldProblem, InvalidInput, NotFound
from gpufleet.common.locks import lock_rows
from tenants.models import Tenant

logger = structlog.stdlib.get_logger(__name__)

USE_IS_NOTED_EVERY = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A key's row and its raw text, which exists only in this object and in the one answer made of it."""

    key: ApiKey
    raw: str


@transaction.atomic
def issue_key(
    *,
    label: str,
    permissions: Collection[str],
    created_by: str,
    now: datetime,
    tenant_id: int | None = None,
    expires_at: datetime | None = None,
    kind: KeyKind = KeyKind.CLIENT,
) -> IssuedKey:
    """Make a key. Raises ``InvalidInput`` for an unknown tenant or permission, an expiry in the past, and for
    admin on a tenant's key.
    """
    _check_request(permissions, tenant_id, expires_at, now)
    minted = mint_key()
    key = ApiKey.objects.create(
        label=label,
        kind=kind,
        prefix=minted.prefix,
        digest=minted.digest,
        permissions=[choice for choice in Permission.values if choice in permissions],
        tenant_id=tenant_id,
        created_by=created_by,
        created_at=now,
        expires_at=expires_at,
    )
    logger.info("API key issued", key_id=key.pk, prefix=key.prefix, tenant_id=tenant_id, created_by=created_by)
    return IssuedKey(key=key, raw=minted.raw)


def _check_request(
    permissions: Collection[str], tenant_id: int | None, expires_at: datetime | None, now: datetime
) -> None:
    problems = []
    if not permissions or not set(permissions) <= set(Permission.values):
        detail = f"permissions is a list with at least one of {', '.join(Permission.values)}."
        problems.append(FieldProblem("#/permissions", "invalid_choice", detail))
    if tenant_id is not None and not lock_rows(Tenant.objects.all(), [tenant_id]):
        problems.append(FieldProblem("#/tenant_id", "does_not_exist", f"There is no tenant {tenant_id}."))
    if tenant_id is not None and Permission.ADMIN in permissions:
        detail = "A key that is bound to a tenant cannot hold admin."
        problems.append(FieldProblem("#/permissions", "tenant_admin", detail))
    if expires_at is not None and expires_at <= now:
        problems.append(FieldProblem("#/expires_at", "in_the_past", "expires_at is in the past."))
    if problems:
        raise InvalidInput(*problems)


@transaction.atomic
def revoke_key(*, key_id: int, now: datetime) -> ApiKey:
    """Revoke a key from the next request on; revoking it again changes nothing. Raises ``NotFound``.

    A cluster's key may be revoked like any other, since it may leak like any other. The cluster's agents then need a
    client key that may write.
    """
    key = ApiKey.objects.select_for_update().filter(pk=key_id).first()
    if key is None:
        raise NotFound
    if key.revoked_at is None:
        key.revoked_at = now
        key.save(update_fields=["revoked_at"])
        logger.info("API key revoked", key_id=key.pk, prefix=key.prefix)
    return key


@transaction.atomic
def revoke_keys(*, key_ids: Collection[int], now: datetime) -> int:
    """Revoke many keys from the next request on. Returns how many of them were not revoked before."""
    revoked = ApiKey.objects.filter(pk__in=key_ids, revoked_at=None).update(revoked_at=now)
    logger.info("API keys revoked", key_ids=sorted(key_ids), revoked=revoked)
    return revoked


def note_use(*, key: ApiKey, now: datetime) -> None:
    """Remember that the key was used, at most once a minute, so that a busy key costs no write a request."""
    stale = Q(last_used_at__isnull=True) | Q(last_used_at__lt=now - USE_IS_NOTED_EVERY)
    if key.last_used_at is None or key.last_used_at < now - USE_IS_NOTED_EVERY:
        ApiKey.objects.filter(stale, pk=key.pk).update(last_used_at=now)
