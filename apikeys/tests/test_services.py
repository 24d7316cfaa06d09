from datetime import UTC, datetime, timedelta

import pytest
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext

from apikeys.models import ApiKey, KeyKind
from apikeys.queries import find_live_key, list_keys
from apikeys.services import IssuedKey, issue_key, note_use, revoke_key, revoke_keys
from gpufleet.common.errors import InvalidInput, NotFound
from tenants.models import TenantStatus
from tenants.tests.factories import alice

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)

pytestmark = pytest.mark.django_db


def issue(**fields: object) -> IssuedKey:
    given = {"label": "ci", "permissions": ["read"], "created_by": "key:1", "now": NOW, **fields}
    return issue_key(**given)  # type: ignore[arg-type]


def test_an_issued_key_is_found_by_its_raw_text_and_stored_without_it() -> None:
    issued = issue()
    assert find_live_key(issued.raw, now=NOW) == issued.key
    row = ApiKey.objects.filter(pk=issued.key.pk).values().get()
    assert not any(issued.raw in str(value) for value in row.values())


def test_permissions_are_kept_once_each_in_their_own_order() -> None:
    assert issue(permissions=["admin", "read", "read"]).key.permissions == ["read", "admin"]


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"permissions": []}, "#/permissions"),
        ({"permissions": ["root"]}, "#/permissions"),
        ({"tenant_id": 404}, "#/tenant_id"),
        ({"expires_at": NOW}, "#/expires_at"),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_is_made(fields: dict[str, object], pointer: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        issue(**fields)
    assert [problem.pointer for problem in caught.value.problems] == [pointer]
    assert not ApiKey.objects.exists()


def test_a_tenants_key_cannot_hold_admin() -> None:
    with pytest.raises(InvalidInput):
        issue(tenant_id=alice().pk, permissions=["read", "admin"])


@pytest.mark.parametrize(
    "fields",
    [
        {"tenant": True, "permissions": ["admin"]},
        {"kind": KeyKind.CLUSTER, "permissions": ["read", "write"]},
        {"kind": KeyKind.CLUSTER, "permissions": ["write"], "tenant": True},
        {"permissions": []},
        {"permissions": ["root"]},
    ],
)
def test_the_database_refuses_keys_with_too_much_whatever_code_makes_them(fields: dict[str, object]) -> None:
    tenant = alice() if fields.pop("tenant", False) else None
    with pytest.raises(IntegrityError), transaction.atomic():
        ApiKey.objects.create(
            label="x", prefix="gfk_", digest="d", tenant=tenant, created_by="x", created_at=NOW, **fields
        )


def test_a_revoked_key_is_not_found_any_more_and_its_row_stays() -> None:
    issued = issue()
    revoke_key(key_id=issued.key.pk, now=NOW)
    assert find_live_key(issued.raw, now=NOW) is None
    assert list_keys().get().revoked_at == NOW


def test_revoking_again_keeps_the_first_time() -> None:
    key_id = issue().key.pk
    revoke_key(key_id=key_id, now=NOW)
    assert revoke_key(key_id=key_id, now=NOW + timedelta(hours=1)).revoked_at == NOW


def test_revoking_what_is_not_there() -> None:
    with pytest.raises(NotFound):
        revoke_key(key_id=404, now=NOW)


def test_many_are_revoked_at_once_and_those_revoked_before_keep_their_time() -> None:
    first, second = issue().key.pk, issue().key.pk
    revoke_key(key_id=first, now=NOW)
    later = NOW + timedelta(hours=1)
    assert revoke_keys(key_ids=[first, second], now=later) == 1
    assert list(ApiKey.objects.order_by("pk").values_list("revoked_at", flat=True)) == [NOW, later]


def test_a_key_lives_until_the_instant_of_its_expiry() -> None:
    issued = issue(expires_at=NOW + timedelta(hours=1))
    assert find_live_key(issued.raw, now=NOW + timedelta(minutes=59)) == issued.key
    assert find_live_key(issued.raw, now=NOW + timedelta(hours=1)) is None


def test_a_key_of_an_inactive_tenant_sleeps_until_the_tenant_is_active_again() -> None:
    tenant = alice()
    issued = issue(tenant_id=tenant.pk)
    tenant.status = TenantStatus.INACTIVE
    tenant.save()
    assert find_live_key(issued.raw, now=NOW) is None
    tenant.status = TenantStatus.ACTIVE
    tenant.save()
    assert find_live_key(issued.raw, now=NOW) == issued.key


def test_a_malformed_key_costs_no_query() -> None:
    with CaptureQueriesContext(connection) as queries:
        assert find_live_key("gfk_nonsense", now=NOW) is None
    assert len(queries) == 0


def test_use_is_noted_once_a_minute() -> None:
    issued = issue()
    key = ApiKey.objects.get()
    note_use(key=key, now=NOW)
    key.refresh_from_db()
    note_use(key=key, now=NOW + timedelta(seconds=59))
    assert ApiKey.objects.get().last_used_at == NOW
    note_use(key=issued.key, now=NOW + timedelta(seconds=59))  # A worker that does not know of the first use.
    assert ApiKey.objects.get().last_used_at == NOW
    note_use(key=key, now=NOW + timedelta(seconds=61))
    assert ApiKey.objects.get().last_used_at == NOW + timedelta(seconds=61)
