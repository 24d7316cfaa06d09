"""Clients of the API beyond those with a plain key."""

from typing import Any

from rest_framework.test import APIClient

from clusters.models import Cluster
from clusters.tests.factories import make_cluster_and_key

MISSING = 10**12


def client_of_new_cluster(name: str | None = None) -> tuple[Cluster, APIClient]:
    """A cluster and its own agents' client."""
    cluster, raw = make_cluster_and_key(name)
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {raw}")
    return cluster, client


def problems(answer: Any) -> list[tuple[str, str]]:
    """Where and what is wrong, by a 400."""
    assert answer.status_code == 400, answer.content
    assert answer["Content-Type"] == "application/problem+json"
    return [(error["pointer"], error["code"]) for error in answer.json()["errors"]]


def same_refusal(one: Any, other: Any, status: int = 404) -> bool:
    """Whether two answers differ in nothing but the path that was asked."""
    bodies = [{**answer.json(), "instance": ""} for answer in (one, other)]
    return one.status_code == other.status_code == status and bodies[0] == bodies[1]
