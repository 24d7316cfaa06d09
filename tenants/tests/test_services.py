import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction

from apikeys.tests.factories import make_key
from gpufleet.common.errors import NotFound
from tenants.models import PlanTier, Tenant, TenantStatus
from tenants.services import TenantNameTaken, create_tenant, delete_tenant, update_tenant
from tenants.tests.conftest import Jobs
from tenants.tests.factories import NOW, alice, bob

pytestmark = pytest.mark.django_db


def test_a_new_tenant_is_an_active_starter_unless_told_otherwise() -> None:
    tenant = create_tenant(name="acme", gpu_quota=8, now=NOW)
    tenant.refresh_from_db()
    assert (tenant.plan_tier, tenant.status, tenant.contact_email) == (PlanTier.STARTER, TenantStatus.ACTIVE, "")
    assert tenant.created_at == NOW


def test_a_name_that_is_taken_is_a_conflict_and_changes_nothing() -> None:
    alice()
    tenant = bob()
    with pytest.raises(TenantNameTaken):
        create_tenant(name="acme", gpu_quota=8, now=NOW)
    with pytest.raises(TenantNameTaken):
        update_tenant(tenant_id=tenant.pk, changes={"name": "acme", "gpu_quota": 99})
    assert list(Tenant.objects.values_list("name", "gpu_quota")) == [("acme", 8), ("bluefin", 8)]


def test_keeping_its_own_name_is_no_conflict() -> None:
    assert update_tenant(tenant_id=alice().pk, changes={"name": "acme", "gpu_quota": 1}).gpu_quota == 1


@pytest.mark.parametrize("fields", [{"gpu_quota": 0}, {"plan_tier": "gold"}, {"status": "asleep"}])
def test_the_database_refuses_what_is_no_tenant(fields: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        create_tenant(**{"name": "acme", "gpu_quota": 8, "now": NOW, **fields})


def test_only_what_is_named_changes() -> None:
    tenant = alice(contact_email="alice@acme.test", plan_tier="pro")
    update_tenant(tenant_id=tenant.pk, changes={"gpu_quota": 2})
    tenant.refresh_from_db()
    assert (tenant.gpu_quota, tenant.contact_email, tenant.plan_tier) == (2, "alice@acme.test", "pro")


def test_a_tenant_that_nothing_speaks_of_is_deleted() -> None:
    tenant = alice()
    assert delete_tenant(tenant_id=tenant.pk) is None
    assert not Tenant.objects.exists()


def test_a_tenant_with_jobs_is_made_inactive(jobs: Jobs) -> None:
    tenant = alice()
    jobs.history.add(tenant.pk)
    kept = delete_tenant(tenant_id=tenant.pk)
    assert kept is not None
    assert Tenant.objects.get().status == TenantStatus.INACTIVE


def test_a_tenant_with_keys_is_made_inactive_and_its_keys_stay_for_the_audit() -> None:
    tenant = alice()
    key = make_key(tenant).key
    assert delete_tenant(tenant_id=tenant.pk) is not None
    key.refresh_from_db()
    assert Tenant.objects.get().status == TenantStatus.INACTIVE


def test_what_is_not_there_is_neither_changed_nor_deleted() -> None:
    with pytest.raises(NotFound):
        update_tenant(tenant_id=404, changes={"gpu_quota": 1})
    with pytest.raises(NotFound):
        delete_tenant(tenant_id=404)


@pytest.mark.django_db(transaction=True)
def test_of_many_who_take_one_name_at_once_one_gets_it() -> None:
    start = threading.Barrier(8)

    def create() -> str:
        start.wait()
        try:
            create_tenant(name="acme", gpu_quota=8, now=NOW)
        except TenantNameTaken:
            return "taken"
        finally:
            connection.close()
        return "created"

    with ThreadPoolExecutor(max_workers=8) as pool:
        outcomes = sorted(future.result() for future in [pool.submit(create) for _ in range(8)])
    assert outcomes == ["created"] + ["taken"] * 7
    assert Tenant.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_changes_of_different_fields_at_once_are_both_kept() -> None:
    tenant = alice()
    start = threading.Barrier(2)

    def change(changes: Any) -> None:
        try:
            for _ in range(20):
                start.wait()
                update_tenant(tenant_id=tenant.pk, changes=changes)
        finally:
            connection.close()

    with ThreadPoolExecutor(max_workers=2) as pool:
        for future in [pool.submit(change, {"gpu_quota": 3}), pool.submit(change, {"contact_email": "a@acme.test"})]:
            future.result()
    tenant.refresh_from_db()
    assert (tenant.gpu_quota, tenant.contact_email) == (3, "a@acme.test")
