import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from apikeys.tests.factories import client_with, make_admin_key, make_key
from tenants.models import Tenant
from tenants.queries import TenantWorkload
from tenants.tests.conftest import Jobs
from tenants.tests.factories import alice, bob, make_tenant

pytestmark = pytest.mark.django_db


@pytest.fixture
def admin() -> APIClient:
    return client_with(make_admin_key())


def test_a_tenant_is_made_with_its_defaults(admin: APIClient) -> None:
    answer = admin.post("/api/tenants", {"name": "acme", "gpu_quota": 8})
    assert answer.status_code == 201
    tenant = Tenant.objects.get()
    assert answer.json() == {
        "id": tenant.pk,
        "name": "acme",
        "gpu_quota": 8,
        "contact_email": "",
        "plan_tier": "starter",
        "status": "active",
        "currency": "USD",
        "billing_address": "",
        "tax_id": "",
        "lends_idle_quota": False,
        "borrow_limit": 0,
        "gpus_in_use": 0,
        "queued_jobs": 0,
        "quota_used_pct": 0.0,
        "created_at": tenant.created_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
    }


def test_a_tenant_is_made_with_all_its_fields(admin: APIClient) -> None:
    body = {
        "name": "acme",
        "gpu_quota": 8,
        "contact_email": "alice@acme.test",
        "plan_tier": "enterprise",
        "status": "inactive",
        "currency": "JPY",
        "billing_address": "1-1 Marunouchi\nTokyo 100-0005",
        "tax_id": "T1234567890123",
    }
    shown = admin.post("/api/tenants", body).json()
    assert {name: shown[name] for name in body} == body


@pytest.mark.parametrize(
    ("body", "pointer", "code"),
    [
        ({"gpu_quota": 8}, "#/name", "required"),
        ({"name": "x"}, "#/gpu_quota", "required"),
        ({"name": " ", "gpu_quota": 8}, "#/name", "blank"),
        ({"name": "x" * 201, "gpu_quota": 8}, "#/name", "max_length"),
        ({"name": ["x"], "gpu_quota": 8}, "#/name", "invalid"),
        ({"name": "x", "gpu_quota": 0}, "#/gpu_quota", "min_value"),
        ({"name": "x", "gpu_quota": -1}, "#/gpu_quota", "min_value"),
        ({"name": "x", "gpu_quota": 2**31}, "#/gpu_quota", "max_value"),
        ({"name": "x", "gpu_quota": 10**300}, "#/gpu_quota", "max_value"),
        ({"name": "x", "gpu_quota": 1.5}, "#/gpu_quota", "invalid"),
        ({"name": "x", "gpu_quota": True}, "#/gpu_quota", "invalid"),
        ({"name": "x", "gpu_quota": None}, "#/gpu_quota", "null"),
        ({"name": "x", "gpu_quota": 8, "contact_email": "acme"}, "#/contact_email", "invalid"),
        ({"name": "x", "gpu_quota": 8, "plan_tier": "gold"}, "#/plan_tier", "invalid_choice"),
        ({"name": "x", "gpu_quota": 8, "plan_tier": {}}, "#/plan_tier", "invalid_choice"),
        ({"name": "x", "gpu_quota": 8, "status": ""}, "#/status", "invalid_choice"),
        ({"name": "x", "gpu_quota": 8, "currency": "US"}, "#/currency", "min_length"),
        ({"name": "x", "gpu_quota": 8, "currency": "usd"}, "#/currency", "unknown_currency"),
        ({"name": "x", "gpu_quota": 8, "currency": "XXX"}, "#/currency", "unknown_currency"),
        ({"name": "x", "gpu_quota": 8, "billing_address": "x" * 501}, "#/billing_address", "max_length"),
        ({"name": "x", "gpu_quota": 8, "id": 7}, "#/id", "unknown_field"),
        ({"name": "x", "gpu_quota": 8, "qouta": 9}, "#/qouta", "unknown_field"),
    ],
)
def test_bad_input_is_named_and_makes_nothing(
    admin: APIClient, body: dict[str, object], pointer: str, code: str
) -> None:
    answer = admin.post("/api/tenants", body)
    assert answer.status_code == 400
    assert [(error["pointer"], error["code"]) for error in answer.json()["errors"]] == [(pointer, code)]
    assert not Tenant.objects.exists()


def test_several_faults_are_named_at_once(admin: APIClient) -> None:
    answer = admin.post("/api/tenants", {"gpu_quota": 0, "plan_tier": "gold"})
    assert {error["pointer"] for error in answer.json()["errors"]} == {"#/name", "#/gpu_quota", "#/plan_tier"}


def test_a_name_that_is_taken_is_a_409(admin: APIClient) -> None:
    alice()
    answer = admin.post("/api/tenants", {"name": "acme", "gpu_quota": 8})
    assert answer.status_code == 409
    assert answer.json()["type"] == "urn:gpufleet:problem:tenant_name_taken"


@pytest.mark.django_db(transaction=True)
def test_of_two_requests_for_one_name_at_once_one_is_a_409() -> None:
    admin = make_admin_key()
    start = threading.Barrier(2)

    def create() -> int:
        try:
            start.wait()
            return int(client_with(admin).post("/api/tenants", {"name": "acme", "gpu_quota": 8}).status_code)
        finally:
            connection.close()

    with ThreadPoolExecutor(max_workers=2) as pool:
        assert sorted(future.result() for future in [pool.submit(create), pool.submit(create)]) == [201, 409]


def test_what_a_tenant_holds_is_shown_against_its_quota(admin: APIClient, jobs: Jobs) -> None:
    tenant = alice(gpu_quota=3)
    jobs.workload[tenant.pk] = TenantWorkload(gpus_in_use=1, queued_jobs=4)
    shown = admin.get(f"/api/tenants/{tenant.pk}").json()
    assert (shown["gpus_in_use"], shown["queued_jobs"], shown["quota_used_pct"]) == (1, 4, 33.3)
    assert admin.get("/api/tenants").json() == [shown]


def test_a_quota_below_what_is_held_evicts_nobody_and_shows_as_more_than_full(admin: APIClient, jobs: Jobs) -> None:
    tenant = alice(gpu_quota=8)
    jobs.workload[tenant.pk] = TenantWorkload(gpus_in_use=6)
    answer = admin.patch(f"/api/tenants/{tenant.pk}", {"gpu_quota": 4})
    assert answer.status_code == 200
    assert (answer.json()["gpus_in_use"], answer.json()["quota_used_pct"]) == (6, 150.0)


def test_a_list_asks_the_jobs_once_and_the_database_as_often_for_many_as_for_one(admin: APIClient, jobs: Jobs) -> None:
    make_tenant("first")
    admin.get("/api/tenants")
    with CaptureQueriesContext(connection) as few:
        admin.get("/api/tenants")
    for number in range(20):
        make_tenant(f"tenant-{number}")
    jobs.asked.clear()
    with CaptureQueriesContext(connection) as many:
        assert len(admin.get("/api/tenants").json()) == 21
    assert len(many) == len(few)
    assert len(jobs.asked) == 1


def test_the_list_takes_filters(admin: APIClient) -> None:
    alice(plan_tier="pro")
    bob(status="inactive")
    assert [row["name"] for row in admin.get("/api/tenants?plan_tier=pro").json()] == ["acme"]
    assert [row["name"] for row in admin.get("/api/tenants?status=inactive").json()] == ["bluefin"]
    assert [row["name"] for row in admin.get("/api/tenants?name=acme&status=active").json()] == ["acme"]
    assert admin.get("/api/tenants?name=ACME").json() == []


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("plan=pro", "?plan"),
        ("plan_tier=gold", "?plan_tier"),
        ("plan_tier=", "?plan_tier"),
        ("name=%00", "?name"),
        ("status=active&status=inactive", "?status"),
    ],
)
def test_a_filter_that_makes_no_sense_is_refused(admin: APIClient, query: str, pointer: str) -> None:
    answer = admin.get(f"/api/tenants?{query}")
    assert answer.status_code == 400
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


def test_a_change_of_nothing_changes_nothing(admin: APIClient) -> None:
    tenant = alice()
    before = admin.get(f"/api/tenants/{tenant.pk}").json()
    assert admin.patch(f"/api/tenants/{tenant.pk}", {}).json() == before


def test_renaming_to_a_name_that_is_taken_is_a_409(admin: APIClient) -> None:
    alice()
    assert admin.patch(f"/api/tenants/{bob().pk}", {"name": "acme"}).status_code == 409


def test_a_tenant_without_history_is_deleted(admin: APIClient) -> None:
    tenant = alice()
    answer = admin.delete(f"/api/tenants/{tenant.pk}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert admin.get(f"/api/tenants/{tenant.pk}").status_code == 404


def test_a_tenant_with_history_is_made_inactive_and_the_answer_says_so(admin: APIClient, jobs: Jobs) -> None:
    tenant = alice()
    jobs.history.add(tenant.pk)
    answer = admin.delete(f"/api/tenants/{tenant.pk}")
    assert answer.status_code == 200
    assert answer.json()["status"] == "inactive"
    assert admin.get(f"/api/tenants/{tenant.pk}").json() == answer.json()


def test_an_inactive_tenants_key_is_refused_from_the_next_request_on(admin: APIClient) -> None:
    tenant = alice()
    client = client_with(make_key(tenant))
    assert client.get("/api/tenants").status_code == 200
    admin.patch(f"/api/tenants/{tenant.pk}", {"status": "inactive"})
    assert client.get("/api/tenants").status_code == 401


def test_alice_sees_acme_alone(admin: APIClient) -> None:
    acme, bluefin = alice(), bob()
    client = client_with(make_key(acme))
    assert [row["name"] for row in client.get("/api/tenants").json()] == ["acme"]
    assert client.get(f"/api/tenants/{acme.pk}").status_code == 200
    assert client.get("/api/tenants?name=bluefin").json() == []
    theirs, nobodys = client.get(f"/api/tenants/{bluefin.pk}"), client.get("/api/tenants/404404")
    assert theirs.status_code == nobodys.status_code == 404
    assert theirs.content.replace(str(bluefin.pk).encode(), b"404404") == nobodys.content


def test_alice_raises_no_quota_not_even_her_own() -> None:
    acme = alice()
    client = client_with(make_key(acme))
    assert client.patch(f"/api/tenants/{acme.pk}", {"gpu_quota": 99}).status_code == 403
    assert client.delete(f"/api/tenants/{acme.pk}").status_code == 403
    assert client.post("/api/tenants", {"name": "more", "gpu_quota": 1}).status_code == 403
    assert list(Tenant.objects.values_list("name", "gpu_quota")) == [("acme", 8)]
