import pytest

from tenants.callers import Caller, CallerKind, Scope, visible_to
from tenants.models import Tenant
from tenants.permissions import ADMIN, READ, READ_FLEET, REPORT, WRITE, WRITE_FLEET, Access, _allows
from tenants.tests.factories import alice, bob

EVERY_RULE = [READ, READ_FLEET, WRITE, WRITE_FLEET, REPORT, ADMIN]


def caller(*scopes: Scope, kind: CallerKind = CallerKind.KEY, tenant_id: int | None = None) -> Caller:
    return Caller(kind=kind, scopes=frozenset(scopes), actor="test", tenant_id=tenant_id)


@pytest.mark.parametrize(
    ("sender", "allowed"),
    [
        (caller(Scope.READ), [READ, READ_FLEET]),
        (caller(Scope.WRITE), [WRITE, WRITE_FLEET, REPORT]),
        (caller(Scope.READ, Scope.WRITE), [READ, READ_FLEET, WRITE, WRITE_FLEET, REPORT]),
        (caller(Scope.ADMIN), EVERY_RULE),
        (caller(Scope.READ, Scope.WRITE, tenant_id=1), [READ, WRITE]),
        # No code makes such a key and the database refuses it; the rule refuses it once more.
        (caller(Scope.ADMIN, tenant_id=1), [READ, WRITE]),
        (caller(Scope.WRITE, kind=CallerKind.CLUSTER_KEY), [REPORT]),
        (caller(Scope.ADMIN, kind=CallerKind.CLUSTER_KEY), [REPORT]),
        (caller(Scope.READ, kind=CallerKind.DEMO), [READ, READ_FLEET]),
        (caller(), []),
    ],
)
def test_who_may_what(sender: Caller, allowed: list[Access]) -> None:
    assert [rule for rule in EVERY_RULE if _allows(rule, sender)] == allowed


@pytest.mark.django_db
def test_a_tenants_caller_sees_its_own_rows_alone() -> None:
    acme, bluefin = alice(), bob()
    rows = Tenant.objects.all()
    assert list(visible_to(rows, caller(tenant_id=acme.pk), field="pk")) == [acme]
    assert list(visible_to(rows, caller(), field="pk")) == [acme, bluefin]
