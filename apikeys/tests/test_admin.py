import re

import pytest
from django.contrib.auth.models import Permission as AuthPermission
from django.contrib.auth.models import User
from django.test import Client

from apikeys.models import ApiKey
from apikeys.tests.factories import make_key
from gpufleet.common.models import AuditEntry
from tenants.tests.factories import alice

pytestmark = pytest.mark.django_db

ADD = "/admin/apikeys/apikey/add/"
LIST = "/admin/apikeys/apikey/"


def test_a_key_made_in_the_console_is_shown_once(admin_client: Client) -> None:
    acme = alice()
    answer = admin_client.post(ADD, {"label": "ops", "tenant": acme.pk, "permissions": ["read", "write"]})
    assert answer.status_code == 200
    (raw,) = re.findall(r"gfk_[0-9A-Za-z]{49}", answer.content.decode())
    key = ApiKey.objects.get()
    assert raw.startswith(key.prefix)
    assert (key.label, key.tenant, key.created_by) == ("ops", acme, "user:admin")
    assert "no-store" in answer["Cache-Control"]
    assert raw not in admin_client.get(LIST).content.decode()
    assert raw not in admin_client.get(f"{LIST}{key.pk}/change/").content.decode()


def test_a_keys_digest_is_on_no_page(admin_client: Client) -> None:
    made = admin_client.post(ADD, {"label": "ops", "permissions": ["read"]}).content.decode()
    key = ApiKey.objects.get()
    admin_client.post(LIST, {"action": "revoke", "_selected_action": [key.pk], "agreed": "yes", "reason": "lost"})
    pages = [LIST, f"{LIST}{key.pk}/change/", f"{LIST}{key.pk}/history/", "/admin/common/auditentry/"]
    pages.append(f"/admin/common/auditentry/{AuditEntry.objects.latest('pk').pk}/change/")
    for shown in (made, *(admin_client.get(page, follow=True).content.decode() for page in pages)):
        assert "ops" in shown
        assert key.digest not in shown


def test_no_list_tells_whether_a_digest_begins_like_this(admin_client: Client) -> None:
    assert admin_client.get("/admin/apikeys/apikey/?label__startswith=x").status_code == 200
    assert admin_client.get("/admin/apikeys/apikey/?digest__startswith=a").status_code == 400


def test_a_refused_key_is_a_message_and_no_row(admin_client: Client) -> None:
    answer = admin_client.post(
        ADD,
        {"label": "ops", "permissions": ["read"], "expires_at_0": "2020-01-01", "expires_at_1": "00:00:00"},
        follow=True,
    )
    assert "in the past" in answer.content.decode()
    assert not ApiKey.objects.exists()


def test_admin_on_a_tenants_key_is_an_error_of_the_form(admin_client: Client) -> None:
    answer = admin_client.post(ADD, {"label": "ops", "tenant": alice().pk, "permissions": ["admin"]})
    assert "cannot hold admin" in answer.content.decode()
    assert not ApiKey.objects.exists()


def test_keys_are_revoked_by_the_action(admin_client: Client) -> None:
    key = make_key().key
    admin_client.post(LIST, {"action": "revoke", "_selected_action": [key.pk], "agreed": "yes", "reason": "lost"})
    key.refresh_from_db()
    assert key.revoked_at is not None


def test_who_may_only_look_is_offered_no_revoking(client: Client) -> None:
    user = User.objects.create_user("viewer", is_staff=True)
    user.user_permissions.add(AuthPermission.objects.get(codename="view_apikey"))
    client.force_login(user)
    key = make_key().key
    assert client.get(LIST).status_code == 200
    client.post(LIST, {"action": "revoke", "_selected_action": [key.pk], "agreed": "yes", "reason": "lost"})
    key.refresh_from_db()
    assert key.revoked_at is None
