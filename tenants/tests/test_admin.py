import pytest
from django.test import Client

from gpufleet.common.models import AuditEntry
from tenants.models import Tenant, TenantStatus
from tenants.tests.factories import alice, bob

pytestmark = pytest.mark.django_db

LIST = "/admin/tenants/tenant/"
FORM = {
    "name": "acme",
    "gpu_quota": 8,
    "contact_email": "",
    "plan_tier": "pro",
    "status": "active",
    "currency": "JPY",
    "borrow_limit": 3,
}


def test_a_tenant_is_made_in_the_console(admin_client: Client) -> None:
    answer = admin_client.post(f"{LIST}add/", FORM)
    assert answer.status_code == 302
    tenant = Tenant.objects.get()
    assert (tenant.plan_tier, tenant.currency) == ("pro", "JPY")
    assert "acme" in admin_client.get(LIST).content.decode()


def test_a_tenant_is_changed_in_the_console(admin_client: Client) -> None:
    tenant = alice()
    admin_client.post(f"{LIST}{tenant.pk}/change/", {**FORM, "gpu_quota": 2, "status": "inactive"})
    tenant.refresh_from_db()
    assert (tenant.gpu_quota, tenant.status) == (2, TenantStatus.INACTIVE)


def test_forms_are_in_the_audit_log_with_who_before_and_after(admin_client: Client) -> None:
    admin_client.post(f"{LIST}add/", FORM)
    tenant = Tenant.objects.get()
    admin_client.post(f"{LIST}{tenant.pk}/change/", {**FORM, "gpu_quota": 2})
    added, edited = AuditEntry.objects.order_by("pk")
    assert {(one.actor, one.model, one.object_id) for one in (added, edited)} == {
        ("user:admin", "tenants.tenant", tenant.pk)
    }
    assert added.after is not None
    assert (added.action, added.before, added.after["gpu_quota"]) == ("add", {}, 8)
    assert (edited.action, edited.before, edited.after) == ("edit", {"gpu_quota": 8}, {"gpu_quota": 2})


@pytest.mark.parametrize("fault", [{"gpu_quota": 0}, {"name": "bluefin"}, {"plan_tier": "gold"}, {"currency": "XXX"}])
def test_what_makes_no_sense_is_an_error_of_the_form(admin_client: Client, fault: dict[str, object]) -> None:
    bob()
    answer = admin_client.post(f"{LIST}add/", {**FORM, **fault})
    assert answer.status_code == 200
    assert Tenant.objects.count() == 1


def test_a_change_that_makes_no_sense_is_refused_in_words_beside_the_tenant_as_it_is(admin_client: Client) -> None:
    tenant = alice()
    answer = admin_client.post(f"{LIST}{tenant.pk}/change/", {**FORM, "gpu_quota": 0})
    assert answer.status_code == 200
    assert "The quota is 1 GPU at least. To stop a tenant, make it inactive." in answer.content.decode()
    assert f"of {tenant.gpu_quota}" in answer.content.decode()


def test_the_reason_for_a_change_is_in_the_audit_log_and_nowhere_else(admin_client: Client) -> None:
    tenant = alice()
    assert admin_client.get(f"{LIST}{tenant.pk}/change/").content.decode().count('name="why"') == 1
    assert "Reason for the change" not in admin_client.get(f"{LIST}add/").content.decode()
    admin_client.post(f"{LIST}{tenant.pk}/change/", {**FORM, "name": "acme", "gpu_quota": 2, "why": "their new order"})
    edited = AuditEntry.objects.get()
    assert edited.after is not None
    assert (edited.reason, "why" in edited.after, edited.after["gpu_quota"]) == ("their new order", False, 2)


def test_a_tenant_is_not_deleted_in_the_console(admin_client: Client) -> None:
    tenant = alice()
    assert admin_client.post(f"{LIST}{tenant.pk}/delete/", {"post": "yes"}).status_code == 403
    assert Tenant.objects.exists()
