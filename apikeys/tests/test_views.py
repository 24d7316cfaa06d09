from datetime import timedelta

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from apikeys.models import ApiKey, KeyKind
from apikeys.tests.factories import client_with, make_admin_key, make_key
from gpufleet.common.models import IdempotentResponse
from tenants.tests.factories import alice, bob

pytestmark = pytest.mark.django_db


@pytest.fixture
def admin() -> APIClient:
    return client_with(make_admin_key())


def test_a_new_key_is_shown_once_and_works(admin: APIClient) -> None:
    answer = admin.post("/api/keys", {"label": "ci"})
    assert answer.status_code == 201
    body = answer.json()
    key = ApiKey.objects.get(pk=body["id"])
    assert body == {
        "id": key.pk,
        "label": "ci",
        "kind": "client",
        "prefix": key.prefix,
        "permissions": ["read", "write"],
        "tenant_id": None,
        "created_by": key.created_by,
        "created_at": key.created_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "last_used_at": None,
        "expires_at": None,
        "revoked_at": None,
        "key": body["key"],
    }
    assert body["key"].startswith(key.prefix)
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {body['key']}")
    assert client.get("/api/keys").status_code == 403  # Known, without the scope.


def test_who_made_a_key_is_on_its_row(admin: APIClient) -> None:
    maker = ApiKey.objects.get()
    assert admin.post("/api/keys", {"label": "ci"}).json()["created_by"] == f"key:{maker.pk}"


def test_the_list_never_shows_a_key_and_is_newest_first(admin: APIClient) -> None:
    raw = admin.post("/api/keys", {"label": "ci"}).json()["key"]
    answer = admin.get("/api/keys")
    assert [row["label"] for row in answer.json()] == ["ci", "admin"]
    assert raw not in answer.content.decode()
    assert not any({"key", "digest"} & set(row) for row in answer.json())


def test_the_list_takes_filters(admin: APIClient) -> None:
    acme = alice()
    make_key(acme, label="of acme")
    make_key(bob(), label="of bluefin")
    make_key(label="of a cluster", kind=KeyKind.CLUSTER, permissions=["write"])
    assert [row["label"] for row in admin.get(f"/api/keys?tenant_id={acme.pk}").json()] == ["of acme"]
    assert [row["label"] for row in admin.get("/api/keys?kind=cluster").json()] == ["of a cluster"]
    assert [row["label"] for row in admin.get("/api/keys?label=of%20bluefin").json()] == ["of bluefin"]


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "x", "9223372036854775808", "1e3", "NaN", ""])
def test_a_tenant_filter_that_is_no_id_is_refused(admin: APIClient, value: str) -> None:
    answer = admin.get("/api/keys", {"tenant_id": value})
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["pointer"] == "?tenant_id"


def test_a_key_of_a_tenant_that_expires(admin: APIClient) -> None:
    acme = alice()
    body = {"label": "ci", "tenant_id": acme.pk, "permissions": ["read"], "expires_at": "2099-01-01T02:00:00+02:00"}
    shown = admin.post("/api/keys", body).json()
    assert (shown["tenant_id"], shown["permissions"]) == (acme.pk, ["read"])
    assert shown["expires_at"] == "2099-01-01T00:00:00.000000Z"


@pytest.mark.parametrize(
    ("body", "pointer", "code"),
    [
        ({}, "#/label", "required"),
        ({"label": ""}, "#/label", "blank"),
        ({"label": "x" * 201}, "#/label", "max_length"),
        ({"label": None}, "#/label", "null"),
        ({"label": "x", "permissions": []}, "#/permissions", "empty"),
        ({"label": "x", "permissions": "read"}, "#/permissions", "not_a_list"),
        ({"label": "x", "permissions": ["root"]}, "#/permissions/0", "invalid_choice"),
        ({"label": "x", "permissions": ["read", {}]}, "#/permissions/1", "invalid_choice"),
        ({"label": "x", "tenant_id": 404}, "#/tenant_id", "does_not_exist"),
        ({"label": "x", "tenant_id": 2**63}, "#/tenant_id", "max_value"),
        ({"label": "x", "tenant_id": "acme"}, "#/tenant_id", "invalid"),
        ({"label": "x", "expires_at": "2020-01-01T00:00:00Z"}, "#/expires_at", "in_the_past"),
        ({"label": "x", "expires_at": "2099-01-01T00:00:00"}, "#/expires_at", "invalid"),
        ({"label": "x", "expires_at": 4070908800}, "#/expires_at", "invalid"),
        ({"label": "x", "kind": "cluster"}, "#/kind", "unknown_field"),
        ({"label": "x", "digest": "0" * 64}, "#/digest", "unknown_field"),
    ],
)
def test_bad_input_is_named_and_makes_nothing(
    admin: APIClient, body: dict[str, object], pointer: str, code: str
) -> None:
    answer = admin.post("/api/keys", body)
    assert answer.status_code == 400
    assert [(error["pointer"], error["code"]) for error in answer.json()["errors"]] == [(pointer, code)]
    assert ApiKey.objects.count() == 1


def test_admin_on_a_tenants_key_is_refused(admin: APIClient) -> None:
    answer = admin.post("/api/keys", {"label": "x", "tenant_id": alice().pk, "permissions": ["admin"]})
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["code"] == "tenant_admin"


def test_a_replay_makes_no_second_key_and_does_not_show_the_first_again(admin: APIClient) -> None:
    first = admin.post("/api/keys", {"label": "ci"}, headers={"Idempotency-Key": "once"})
    again = admin.post("/api/keys", {"label": "ci"}, headers={"Idempotency-Key": "once"})
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.json() == {**first.json(), "key": None}
    assert ApiKey.objects.filter(label="ci").count() == 1
    assert first.json()["key"] not in str(IdempotentResponse.objects.values())


def test_a_revoked_key_stays_in_the_list(admin: APIClient) -> None:
    issued = make_key(label="leaked")
    answer = admin.delete(f"/api/keys/{issued.key.pk}")
    assert answer.status_code == 200
    assert answer.json()["revoked_at"] is not None
    assert admin.get("/api/keys?label=leaked").json() == [answer.json()]
    assert client_with(issued).get("/api/tenants").status_code == 401


def test_a_clusters_key_can_be_revoked_here_since_it_may_leak_too(admin: APIClient) -> None:
    issued = make_key(kind=KeyKind.CLUSTER, permissions=["write"])
    assert admin.delete(f"/api/keys/{issued.key.pk}").status_code == 200
    issued.key.refresh_from_db()
    assert issued.key.revoked_at is not None


@pytest.mark.parametrize("key_id", ["404", "9223372036854775807", "99999999999999999999", "x", "-1", "0"])
def test_revoking_what_is_not_there(admin: APIClient, key_id: str) -> None:
    assert admin.delete(f"/api/keys/{key_id}").status_code == 404


def test_a_key_with_every_scope_but_admin_comes_to_none_of_this() -> None:
    client = client_with(make_key())
    assert client.get("/api/keys").status_code == 403
    assert client.post("/api/keys", {"label": "mine", "permissions": ["admin"]}).status_code == 403
    assert client.delete(f"/api/keys/{ApiKey.objects.get().pk}").status_code == 403


def test_an_expired_admin_key_makes_no_other(admin: APIClient) -> None:
    ApiKey.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert admin.post("/api/keys", {"label": "ci"}).status_code == 401
