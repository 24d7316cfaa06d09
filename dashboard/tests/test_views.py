"""The routes of the dashboard, called as clients call them. They read the real clock."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from apikeys.tests.factories import client_with, make_admin_key, make_key
from billing.tests.factories import make_rate, sell
from clusters.tests.factories import make_cluster_and_key, make_gpu
from jobs.ledger import Account
from tenants.tests.factories import alice, bob

pytestmark = pytest.mark.django_db

ROUTES = ["kpis", "fleet", "revenue", "leakage", "estimates"]
OVER_TIME = ["kpis", "revenue", "leakage"]


@pytest.fixture
def charlie() -> APIClient:
    """Whoever sees the whole fleet."""
    return client_with(make_key(permissions=["read"]))


def furnish() -> None:
    now = timezone.now()
    rate = make_rate(price="2.00")
    make_gpu(registered_at=now - timedelta(days=40), state="offline")
    gpu = make_gpu(registered_at=now - timedelta(days=40))
    sell(alice(), now - timedelta(hours=30), None, rate=rate, gpu=gpu)


def get(client: APIClient, route: str, **params: Any) -> dict[str, Any]:
    response = client.get(f"/api/dashboard/{route}", params)
    assert response.status_code == 200, response.content
    body: dict[str, Any] = response.json()
    return body


@pytest.mark.parametrize("route", ROUTES)
def test_figures_of_the_fleet_are_not_for_tenants_nor_clusters(route: str) -> None:
    url = f"/api/dashboard/{route}"
    _, cluster_key = make_cluster_and_key()
    agent = APIClient()
    agent.credentials(HTTP_AUTHORIZATION=f"Bearer {cluster_key}")
    refused = [client_with(make_key(bob())), client_with(make_key(permissions=["write"])), agent]
    assert [client.get(url).status_code for client in refused] == [403, 403, 403]
    assert APIClient().get(url).status_code == 401
    assert client_with(make_admin_key()).get(url).status_code == 200


@pytest.mark.parametrize("route", OVER_TIME)
@pytest.mark.parametrize("query", ["days=0", "days=91", "days=x", "days=1&days=2", "day=1", "currency=usd", "limit=1"])
def test_a_wrong_parameter_is_named(charlie: APIClient, route: str, query: str) -> None:
    response = charlie.get(f"/api/dashboard/{route}?{query}")
    assert (response.status_code, response["Content-Type"]) == (400, "application/problem+json")
    assert response.json()["errors"][0]["pointer"] == f"?{query.split('=', maxsplit=1)[0]}"


@pytest.mark.parametrize("text", ["0", "101", "x", "1.5", "-3"])
def test_the_share_below_which_a_gpu_is_underused_is_a_percentage(charlie: APIClient, text: str) -> None:
    response = charlie.get(f"/api/dashboard/leakage?underused_below_pct={text}")
    assert response.status_code == 400
    assert response.json()["errors"][0]["pointer"] == "?underused_below_pct"
    assert charlie.get("/api/dashboard/leakage?underused_below_pct=100").status_code == 200
    assert charlie.get("/api/dashboard/kpis?underused_below_pct=10").status_code == 400


def test_the_fleet_now_takes_no_parameters(charlie: APIClient) -> None:
    assert charlie.get("/api/dashboard/fleet?days=1").status_code == 400


@pytest.mark.parametrize("route", ROUTES)
def test_an_empty_fleet_has_figures_too(charlie: APIClient, route: str) -> None:
    assert get(charlie, route)


@pytest.mark.parametrize("route", ROUTES)
def test_nothing_can_be_written(charlie: APIClient, route: str) -> None:
    assert charlie.post(f"/api/dashboard/{route}").status_code == 405


def test_the_reports_agree_with_each_other(charlie: APIClient) -> None:
    furnish()
    figures = get(charlie, "kpis", days=1)
    assert figures["shares"]["sold"] == figures["shares"]["offline"] == 0.5
    assert (figures["currency"], figures["revenue"], figures["leakage"]) == ("USD", "48.00", "48.00")
    assert (figures["revenue_per_gpu_hour"], figures["revenue_per_sold_gpu_hour"]) == ("1.000000", "2.000000")
    assert figures["previous"]["window_to"] == figures["window_from"]
    assert (figures["previous"]["revenue"], figures["previous"]["leakage"]) == ("12.00", "84.00")
    assert (figures["change"]["revenue"], figures["change"]["leakage"]) == (3.0, -0.428571)
    lost = get(charlie, "leakage", days=1)
    assert (lost["lost"], lost["causes"][0]["cause"], lost["causes"][0]["amount"]) == ("48.00", "offline", "48.00")
    assert lost["causes"][0]["rows"][0]["name"].endswith("GPU 0")
    assert lost["causes"][0]["other_rows"] == {"rows": 0, "gpu_seconds": "0.000000", "amount": "0.00"}
    assert lost["causes"][0]["link"] == "/admin/clusters/node/?status=offline"
    earned = get(charlie, "revenue", days=1)
    assert (earned["total"]["metered"], earned["total"]["unbilled"]) == ("48.00", "48.00")
    assert earned["previous"]["metered"] == "12.00"
    assert [part["tenant"] for part in earned["by_tenant"]] == ["acme"]
    assert len(earned["by_day"]) in (1, 2)
    assert sum(Decimal(part["sold_gpu_seconds"]) for part in earned["by_day"]) == 86_400


def test_the_identity_is_in_every_answer(charlie: APIClient) -> None:
    furnish()
    for route in ("kpis", "leakage"):
        seconds = {name: Decimal(text) for name, text in get(charlie, route, days=90)["gpu_seconds"].items()}
        assert set(seconds) == set(Account.__dataclass_fields__) - {"group"}
        assert 2 * seconds["registered"] == sum(seconds.values()) > 0


def test_thirty_days_when_nobody_says(charlie: APIClient) -> None:
    figures = get(charlie, "kpis")
    start, end = (datetime.fromisoformat(figures[name]) for name in ("window_from", "window_to"))
    assert end - start == timedelta(days=30)


def test_the_fleet_now(charlie: APIClient) -> None:
    furnish()
    now = get(charlie, "fleet")
    assert (now["gpus"], now["states"]["sold"], now["states"]["offline"], now["utilization_pct"]) == (2, 1, 1, None)
    assert [part["gpu_model"] for part in now["models"]] == ["H100"]
    assert len(now["nodes"]) == len(now["clusters"]) == 2
    assert set(now["nodes"][0]) == {"node_id", "cluster_id", "hostname", "gpus", "states", "utilization_pct"}
