from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone
from pytest_django import Settings
from rest_framework.test import APIClient

from apikeys.models import ApiKey, KeyKind
from apikeys.services import revoke_key
from apikeys.tests.factories import client_with, make_admin_key, make_key
from tenants.models import TenantStatus
from tenants.tests.factories import alice

HARMLESS = "/api/keys?limit=1"


def status_of(authorization: str) -> int:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=authorization)
    return int(client.get(HARMLESS).status_code)


@pytest.mark.django_db
@pytest.mark.parametrize("form", ["Bearer {}", "bearer {}", "BEARER {}", "Bearer   {}", "Bearer {} "])
def test_the_scheme_is_taken_in_any_case(form: str) -> None:
    assert status_of(form.format(make_admin_key().raw)) == 200


@pytest.mark.django_db
@pytest.mark.parametrize(
    "spoil",
    [
        lambda raw: "",
        lambda raw: "Bearer",
        lambda raw: raw,
        lambda raw: f"Token {raw}",
        lambda raw: f"Basic {raw}",
        lambda raw: f"Bearer {raw[:-1]}",
        lambda raw: f"Bearer {raw}0",
        lambda raw: f"Bearer {raw[:-1]}{'0' if raw[-1] != '0' else '1'}",
        lambda raw: f"Bearer {raw.swapcase()}",
        lambda raw: f"Bearer {raw}, Bearer {raw}",
        lambda raw: "Bearer gfk_" + "é" * 49,
        lambda raw: "Bearer \x00",
    ],
)
def test_anything_but_a_whole_key_is_a_401(spoil: Callable[[str], str]) -> None:
    assert status_of(spoil(make_admin_key().raw)) == 401


@pytest.mark.django_db
def test_a_401_says_how_to_authenticate_and_not_what_was_wrong() -> None:
    revoked = make_admin_key()
    revoke_key(key_id=revoked.key.pk, now=timezone.now())
    expired = make_key(permissions=["admin"], expires_at=timezone.now() + timedelta(hours=1))
    ApiKey.objects.filter(pk=expired.key.pk).update(expires_at=timezone.now())
    tenant = alice()
    asleep = make_key(tenant)
    tenant.status = TenantStatus.INACTIVE
    tenant.save()
    answers = [client_with(issued).get(HARMLESS) for issued in (revoked, expired, asleep)]
    assert {answer.status_code for answer in answers} == {401}
    assert {answer["WWW-Authenticate"] for answer in answers} == {"Bearer"}
    assert len({answer.content for answer in answers}) == 1
    assert answers[0]["Content-Type"] == "application/problem+json"


@pytest.mark.django_db
def test_no_header_is_a_401_of_its_own() -> None:
    answer = APIClient().get(HARMLESS)
    assert answer.status_code == 401
    assert answer["WWW-Authenticate"] == "Bearer"
    assert answer.json()["type"] == "urn:gpufleet:problem:not_authenticated"


@pytest.mark.django_db
def test_a_console_session_is_no_key(client: APIClient, admin_user: object) -> None:
    client.force_login(admin_user)  # type: ignore[arg-type]
    assert client.get(HARMLESS).status_code == 401


@pytest.mark.django_db
def test_use_is_noted() -> None:
    issued = make_admin_key()
    client_with(issued).get(HARMLESS)
    assert ApiKey.objects.get().last_used_at is not None


@pytest.mark.django_db
def test_a_visitor_without_a_header_reads_in_demo_mode_alone(settings: Settings) -> None:
    settings.GPUFLEET_DEMO = True
    assert APIClient().get(HARMLESS).status_code == 403
    assert APIClient().options("/api/keys").status_code == 204
    assert APIClient().post("/api/keys", {"label": "mine"}).status_code == 401
    assert status_of("Bearer gfk_nonsense") == 401


@pytest.mark.django_db
def test_a_cluster_key_is_told_from_a_client_key_that_may_write() -> None:
    assert client_with(make_key(kind=KeyKind.CLUSTER, permissions=["write"])).get(HARMLESS).status_code == 403


@pytest.mark.django_db(transaction=True)
def test_a_key_revoked_on_one_connection_is_refused_on_another_from_the_next_request_on() -> None:
    issued = make_admin_key()
    client = client_with(issued)

    def ask() -> int:
        try:
            return int(client.get(HARMLESS).status_code)
        finally:
            connection.close()

    with ThreadPoolExecutor(max_workers=1) as other_worker:
        assert other_worker.submit(ask).result() == 200
        revoke_key(key_id=issued.key.pk, now=timezone.now())
        assert other_worker.submit(ask).result() == 401
